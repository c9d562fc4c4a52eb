"""Recorded requests, decided and priced again: `pointsman replay` and `pointsman savings`."""
