"""Addresses as people write them: where listeners bind, where upstreams are, through which proxy they are reached."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from gateway.core.quantities import Invalid
from gateway.core.types import Endpoint


class Address(NamedTuple):
    """Where a listener binds. Port 0 asks the system for a free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Can only this machine reach it?"""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(value: object) -> Address:
    """An address as people write it. Raises `Invalid`."""
    match = (
        re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", value)
        if isinstance(value, str)
        else None
    )
    if match is None or int(match[3]) > 65535:
        raise Invalid(f"{value!r:.80} is not an address", "host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return Address(match[1] or match[2], int(match[3]))


AddressField = Annotated[
    Address, BeforeValidator(parse_address), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]})
]


def endpoint(url: str) -> Endpoint:
    """The `Endpoint` of a URL as configured. Raises `Invalid`.

    >>> endpoint("http://10.0.0.7:8000/v1/").path
    '/v1'
    """
    valid = "http://host:port/path or https://host/path, without user, query or fragment"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Invalid(f"{_shown(url)!r:.200} is not a URL", valid) from None
    scheme, host = parts.scheme, parts.hostname
    clean = re.fullmatch(r"[A-Za-z0-9._-]+|[0-9a-fA-F:.]+", host or "") and re.fullmatch(r"[!-~]*", parts.path)
    if scheme not in ("http", "https") or not host or not clean or "@" in parts.netloc or parts.query or parts.fragment:
        raise Invalid(f"{_shown(url)!r:.200} is not a URL of a server", valid)
    path = parts.path.rstrip("/")
    https = scheme == "https"
    return Endpoint(
        url=url.rstrip("/"),
        scheme="https" if https else "http",
        host=host,
        port=port or (443 if https else 80),
        path=path,
    )


def _shown(url: str) -> str:
    """What may be shown of an address that is none: where people write credentials is blotted out, well formed or not.

    >>> _shown("https://me:pa/ss@host/v1?key=1")
    'https://***@host/v1?***'
    """
    url = re.sub(r"^([^/]*//)?.*@", lambda found: f"{found[1] or ''}***@", url, flags=re.DOTALL)
    return re.sub(r"([?#]).*", r"\1***", url, flags=re.DOTALL)


def _url(value: str) -> str:
    endpoint(value)
    return value


Url = Annotated[str, AfterValidator(_url)]


def egress_proxy(written: str | None, endpoints: tuple[Endpoint, ...], environ: Mapping[str, str]) -> str | None:
    """The proxy URL a backend's connections go through; None is direct. Raises `Invalid`.

    `env` follows HTTPS_PROXY (HTTP_PROXY for plain http) and NO_PROXY, in either case of letters.
    """
    if written is None or written == "none":
        return None
    if written != "env":
        return _proxy_url(written)

    def look(name: str) -> str:
        return environ.get(name.lower()) or environ.get(name) or ""

    skip = [part.strip().lower() for part in look("NO_PROXY").split(",") if part.strip()]
    found = {
        None if _skipped(one.host, one.port, skip) else look(f"{one.scheme.upper()}_PROXY") or None for one in endpoints
    }
    if len(found) > 1:
        raise Invalid("NO_PROXY treats this backend's endpoints differently", "two backends, or a proxy URL")
    url = found.pop()
    return _proxy_url(url) if url else None


def _proxy_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme == "http" and parts.hostname and (parts.port or True) and parts.path in ("", "/")
    except ValueError:
        fine = False
    if not fine:
        raise Invalid(f"{_shown(url)!r:.120} is not a proxy", "env, none or http://host:port")
    return url


def _skipped(host: str, port: int, skip: list[str]) -> bool:
    host = host.lower()
    for one in skip:
        if one == "*":
            return True
        name, _, only_port = one.rpartition(":") if re.fullmatch(r"[^:]+:[0-9]+", one) else (one, "", "")
        if only_port and int(only_port) != port:
            continue
        name = name.strip("[]")
        if "/" in name:
            try:
                if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        name = name.removeprefix("*").lstrip(".")
        if host == name or host.endswith("." + name):
            return True
    return False
