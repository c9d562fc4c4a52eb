"""Files of certificates to trust that a configuration names: whether there are any in them. Nothing is connected to."""

from __future__ import annotations

import ssl
from pathlib import Path

#: What would be right where `no_certificates` says what is wrong.
VALID = "a PEM file with the certificates to trust"


def no_certificates(file: Path) -> str:
    """What is wrong with a file that certificates to trust are to be read from, or nothing."""
    if not file.is_file():
        return f"no file {file}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        return f"there is no certificate in {file}, or it cannot be read"
    return ""
