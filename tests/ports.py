"""Ports for servers that must be told theirs before they start, or must find it again after they died.

They lie below those that the kernel gives to clients and for port 0 (from 32768 on Linux, 49152 elsewhere), so nothing
that runs beside a test takes one in between.
"""

from __future__ import annotations

import random
import socket

_LOWEST, _BEYOND = 10_000, 32_768


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, drawn at random: two who ask at once get two."""
    while True:
        port = random.randrange(_LOWEST, _BEYOND)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
