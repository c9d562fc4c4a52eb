"""What a request's head says beyond its framing: who asks, with what hints, and how much body may follow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from gateway.core.errors import Denied, GatewayError, RateLimited, Unauthenticated, Unavailable, UnsupportedEncoding
from gateway.core.request.hints import NO_HINTS, Hints
from gateway.core.request.peers import client_of
from gateway.core.resilience.overload import rank_of
from gateway.core.types import Tenant
from gateway.proxy.clocks import NEVER
from gateway.proxy.heads import Headers, RequestHead, parse_request

if TYPE_CHECKING:
    from gateway.core.money.admission import Gate
    from gateway.proxy.runtime import Runtime, Serving

HOT_PATHS = frozenset({b"/v1/chat/completions"})
#: Of the paths that are not hot, those that take a body as large as a model request's, from who may send those.
LARGE_PATHS = frozenset({b"/v1/explain"})
#: What all others may send: nothing that the control plane reads is larger.
SMALL_BODY = 65_536
#: Credentials that were found valid, kept as they are sent: hashing one costs more than all else about a head. Only
#: valid ones are kept, and no longer than the configuration that says so.
MAX_KNOWN_KEYS = 4096
_KEY = re.compile(rb"[A-Za-z0-9_.\-]{8,256}")
#: A name by which this machine alone is meant, or an address: what no page of a web site can be served under.
_HERE = re.compile(rb"(?:localhost|[0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.IGNORECASE)
_TOO_OFTEN = "Too many requests from this address had no valid API key, and this one has none either."
_ANONYMOUS = Tenant(key="anonymous", explain=True)


#: What who is refused for that is told.
ELSEWHERE = "Without keys only this machine is served: ask under an address or as localhost, and from no web page."


class Asked(msgspec.Struct, frozen=True):
    """What a request's head says. Kept while a connection repeats its head."""

    serving: Serving
    hot: bool
    keep_alive: bool
    http_1_0: bool
    expect_continue: bool
    limit: int  # bytes of body
    keep_alive_s: float  # how long the connection may be idle after it
    tenant: Tenant = _ANONYMOUS
    expires_at: float = NEVER  # Unix time at which its key does
    hints: Hints = NO_HINTS
    gate: Gate | None = None  # limits of its key
    rank: int = 1  # of its priority, see `core.resilience.overload`
    error: GatewayError | None = None  # answered once the message has been read


def authenticate(serving: Serving, headers: dict[bytes, bytes], now: float) -> Tenant:
    """Whose key a request carries. Raises Unauthenticated; says the same for a wrong, malformed or revoked key.

    Only who has the whole of a key that did work is told that it has expired. Raises Denied where no key is asked for
    and the request is from elsewhere.
    """
    return authenticated(serving, headers, now)[0]


def local(headers: Mapping[bytes, bytes]) -> bool:
    """Whether who sent these headers meant this machine, and is no page of a web site.

    Where no key is asked for, that is all that keeps a browser's pages out: they reach the loopback interface, be it by
    a name of their own that was made to mean it.
    """
    host = headers.get(b"host")
    if host is not None and not _HERE.fullmatch(host):
        return False
    origin = headers.get(b"origin")
    return origin is None or origin.lower() == b"http://" + (host or b"").lower()


def authenticated(serving: Serving, headers: dict[bytes, bytes], now: float) -> tuple[Tenant, float]:
    """As `authenticate`, with the first second (Unix) at which this very key is refused."""
    site = serving.site
    if site.open:
        if not local(headers):
            raise Denied("policy_denied", ELSEWHERE)
        return site.anonymous, NEVER
    sent = headers.get(b"authorization", b"")
    known = serving.known_keys.get(sent)
    if known is not None and now < known[1]:
        return known
    scheme, _, key = sent.partition(b" ")
    if not key:
        raise Unauthenticated("invalid_api_key", "No API key was given: send 'Authorization: Bearer <key>'.")
    if scheme.lower() == b"bearer" and _KEY.fullmatch(key):
        # The table is keyed by the hash, so what a comparison could leak by its timing is a hash, not a key.
        entry = site.keys.get(hashlib.sha256(key).digest())
        if entry is not None:
            if entry.expired(now):
                raise Unauthenticated("invalid_api_key", "The API key has expired.")
            if len(serving.known_keys) >= MAX_KNOWN_KEYS:
                serving.known_keys.clear()
            found = serving.known_keys[sent] = (entry.tenant, NEVER if entry.expires_at is None else entry.expires_at)
            return found
    raise Unauthenticated("invalid_api_key", "The API key is not valid.")


#: What anybody may ask for.
_OPEN = (b"/healthz", b"/readyz")


def uninvited(raw: bytes, runtime: Runtime, peer: str) -> RateLimited | None:
    """Why nothing more is answered to a request without a valid key, given its whole head; None where it may go on.

    Who has a valid key is not concerned, whatever else comes from its address.
    """
    head = parse_request(raw)
    serving = runtime.serving
    if _path(head.url) in _OPEN:
        return None
    try:
        authenticated(serving, head.headers, runtime.wall())
    except Unauthenticated:
        limits = serving.site.limits
        address = client_of(peer, head.headers.get(b"x-forwarded-for", b"").decode("latin-1"), limits.trusted_proxies)
        wait_s = runtime.strangers.wait_s(address, limits.invalid_keys, runtime.wheel.now)
        if wait_s:
            return RateLimited("rate_limit_exceeded", _TOO_OFTEN, retry_after_s=wait_s)
    except GatewayError:
        pass  # will be told so
    return None


def read(head: RequestHead, serving: Serving, now: float, *, refusing: bool) -> Asked:
    """Judge a head. Never raises: a request to be refused carries its error. `now` is Unix time."""
    path = _path(head.url)
    keep = head.keep_alive
    limits = serving.site.limits
    if head.method != b"POST" or path not in HOT_PATHS:
        limit = SMALL_BODY
        if path in LARGE_PATHS:
            try:
                authenticated(serving, head.headers, now)
            except GatewayError:
                pass  # the app answers it; a small body may come along
            else:
                limit = limits.max_body
        return Asked(
            serving,
            False,
            keep,
            head.http_1_0,
            head.expect_continue,
            min(limit, limits.max_body),
            limits.keep_alive_s,
        )
    raw = head.headers
    tenant, expires_at, gate, hints, error = _ANONYMOUS, NEVER, None, NO_HINTS, None
    try:
        tenant, expires_at = authenticated(serving, raw, now)
        if tenant.limited:
            gate = serving.gates[tenant.key]
        if b"\n".join(raw).find(b"x-pointsman-") >= 0:
            hints = Hints.parse(Headers(raw))
        if raw.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedEncoding("unsupported_encoding", "Send the request body without Content-Encoding.")
        if refusing:
            raise Unavailable("draining", "The gateway is shutting down.", retry_after_s=1)
    except GatewayError as exc:
        error = exc
    return Asked(
        serving,
        True,
        keep,
        head.http_1_0,
        head.expect_continue,
        limits.max_body,
        limits.keep_alive_s,
        tenant,
        expires_at,
        hints,
        gate,
        rank_of(tenant.priority, hints.priority),
        error,
    )


def _path(url: bytes) -> bytes:
    """The path of a request target, which may also be a whole URL (RFC 9112 3.2.2)."""
    if url[:7].lower() == b"http://" or url[:8].lower() == b"https://":
        slash = url.find(b"/", 8)
        url = url[slash:] if slash >= 0 else b"/"
    return url.partition(b"?")[0]
