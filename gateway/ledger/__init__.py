"""The books of one node: a journal that the data plane writes, and the SQLite file that is fed from it."""
