"""RS256 signatures, which Google's service accounts sign their requests for tokens with.

The only place that imports `cryptography`, and only when it is used: nobody else needs it installed.
"""

from __future__ import annotations

from collections.abc import Callable


def signer(pem: str) -> Callable[[bytes], bytes]:
    """What signs with a private RSA key in PEM. Raises ValueError for no such key, ImportError without the library."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("no RSA private key")
    return lambda data: key.sign(data, PKCS1v15(), SHA256())
