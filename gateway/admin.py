"""How a command reaches a gateway that runs: where its admin listener is, and the key that opens it.

Here belong the address and the key, as the configuration has them. What is asked there is each command's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.addresses import Address, endpoint
from gateway.config import ConfigDoc
from gateway.core.errors import ConfigError, Problem
from gateway.core.quantities import Invalid
from gateway.secretref import read_secret

#: Holds the admin key where the configuration has only its hash, or none is at hand.
KEY_VARIABLE = "POINTSMAN_ADMIN_KEY"


def url_of(listener: Address) -> str:
    """The base URL at which a listener of this machine is reached."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104 - where to connect, not to bind
    return f"http://[{host}]:{listener.port}" if ":" in host else f"http://{host}:{listener.port}"


def url_in(doc: ConfigDoc, config: Path) -> str:
    """The base URL of a configuration's admin listener. Raises `ConfigError` where nobody can know it."""
    if doc.listen.admin.port == 0:
        what = "listen.admin has port 0, so nobody knows where the gateway is"
        raise ConfigError([Problem(str(config), 0, "", what, "--url with the address it says at its start")])
    return url_of(doc.listen.admin)


def url_said(text: str) -> str:
    """The base URL that `--url` names. Raises `ConfigError`."""
    try:
        return endpoint(text).url
    except Invalid as error:
        raise ConfigError([Problem("--url", 0, "", error.what, error.valid)]) from None


def key_of(doc: ConfigDoc, environ: Mapping[str, str], directory: Path) -> str | None:
    """The admin key from where the configuration says it is, else from POINTSMAN_ADMIN_KEY; None where none is needed.

    `directory` is the configuration's.
    """
    ref = doc.admin_key
    if ref is None:
        return None
    if ref.env is None and ref.file is None:
        return environ.get(KEY_VARIABLE)
    try:
        return read_secret(ref, environ, directory).reveal()
    except Invalid:
        return environ.get(KEY_VARIABLE)
