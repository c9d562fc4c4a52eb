"""What opens an upstream's door, where that is more than a key in a fixed header: a head made for each attempt.

Also the fixed parts of a head. With a plain key all of it is fixed, and rendered when the configuration is loaded, see
`route.Route`.
"""

from __future__ import annotations

import time
from typing import Protocol

from gateway.core.servers import dialects
from gateway.core.servers.credentials import AwsKeys
from gateway.core.servers.sigv4 import sign
from gateway.core.types import Endpoint
from gateway.proxy.tokens import TokenSource


class Door(Protocol):
    """A credential in use."""

    def lines(self, host: str, target: str, body: bytes, now: float) -> bytes | None:
        """Header lines for `POST target` at `host`, each ended by CRLF; None while the door cannot be opened.

        `now` is Unix seconds.
        """

    def secrets(self) -> tuple[str, ...]:
        """What must not be repeated should an upstream say it."""

    def refused(self) -> None:
        """The upstream did not accept what was shown."""


class Signed:
    """AWS keys, which sign every request."""

    __slots__ = ("_keys",)

    def __init__(self, keys: AwsKeys) -> None:
        self._keys = keys

    def lines(self, host: str, target: str, body: bytes, now: float) -> bytes | None:
        """A signature over the request as it will be sent."""
        fields = sign(self._keys, host, target, body, now, {"content-type": "application/json"})
        return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")

    def secrets(self) -> tuple[str, ...]:
        """The secret key and the session token."""
        return self._keys.secrets()

    def refused(self) -> None:
        """Nothing can be done: the keys are as configured."""


class Bearer:
    """An access token that somebody keeps fresh."""

    __slots__ = ("_source",)

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def lines(self, host: str, target: str, body: bytes, now: float) -> bytes | None:
        """The token that is there now."""
        return self._source.line(time.monotonic())

    def secrets(self) -> tuple[str, ...]:
        """The token."""
        return self._source.secrets()

    def refused(self) -> None:
        """Another token may be accepted."""
        self._source.renew()


class Opening:
    """How one endpoint is reached through a door: the fixed parts of a request's head and what goes between them."""

    __slots__ = ("_after", "_before", "_host", "_target", "door")

    def __init__(self, door: Door, host: str, target: str, before: bytes, after: bytes) -> None:
        self.door = door
        self._host = host
        self._target = target
        self._before = before
        self._after = after

    def head(self, body: bytes, now: float) -> bytes | None:
        """The head of a request with this body, up to and including "Content-Length: "; None: not at the moment."""
        lines = self.door.lines(self._host, self._target, body, now)
        return None if lines is None else b"".join((self._before, lines, self._after))


def host(endpoint: Endpoint) -> str:
    """The header of that name."""
    default = 443 if endpoint.scheme == "https" else 80
    named = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return named if endpoint.port == default else f"{named}:{endpoint.port}"


def halves(plan: dialects.Plan, endpoint: Endpoint, key: str | None) -> tuple[bytes, bytes]:
    """The fixed parts of a request's head: all before the length, and what may come between them is a credential."""
    before = f"POST {endpoint.path}{plan.path} HTTP/1.1\r\nHost: {host(endpoint)}\r\n"
    before += "".join(f"{name}: {value}\r\n" for name, value in plan.headers(key).items())
    after = (
        "User-Agent: pointsman\r\n"
        "Accept: application/json, text/event-stream\r\n"
        "Accept-Encoding: identity\r\n"
        "Content-Type: application/json\r\n"
        "Content-Length: "
    )
    return before.encode("latin-1"), after.encode("latin-1")
