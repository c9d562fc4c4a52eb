"""The deciding half of the gateway: values in, values out.

The law of this folder, enforced by `tests/test_law.py`: no sockets, no files, no clock, no randomness, no environment,
no logging, no metrics, no `async`, and no import of anything else in `gateway`. Time is an argument (`now`), chance is
an argument (`draw`), and what another thread must compute is raised to the caller as a value it can hand to one.
Directly here stands what every folder shares, and `decide`; CONTRIBUTING.md says what is in the folders.
"""
