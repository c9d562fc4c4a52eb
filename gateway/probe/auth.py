"""What opens a backend for the command line's own requests: its key's header, AWS signatures, or an access token.

The nouns and what is sent stand in `core.servers.credentials` and `core.servers.sigv4`; serving does the same on its
event loop, in `proxy.doors` and `proxy.tokens`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator

import httpx

from gateway.core.servers import dialects
from gateway.core.servers.credentials import (
    AwsKeys,
    Grant,
    MetadataServer,
    NoToken,
    ServiceAccount,
    read_token,
    token_request,
)
from gateway.core.servers.sigv4 import sign
from gateway.core.types import Backend, Secret
from gateway.rsa import signer

_TOKEN_S = 10.0


class Opened(httpx.Auth):
    """Signs each request, or fetches one access token and shows it with each. Raises httpx.RequestError without one."""

    requires_request_body = True

    def __init__(self, credential: AwsKeys | Grant, backend: Backend) -> None:
        self._credential = credential
        self._proxy = None if isinstance(credential, MetadataServer) else backend.proxy
        self._trust = _trust(backend)
        self._token: Secret | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx."""
        credential = self._credential
        if not isinstance(credential, AwsKeys):
            if self._token is None:
                self._token = self._fetched(credential)
            request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        elif request.method == "POST":
            target = request.url.raw_path.decode("ascii")
            signed = {"content-type": request.headers["content-type"]}
            fields = sign(credential, request.headers["host"], target, request.content, time.time(), signed)
            request.headers.update(fields)
        yield request

    def secrets(self) -> tuple[str, ...]:
        """Texts that must not be shown should a server repeat them."""
        held = self._credential.secrets() if isinstance(self._credential, AwsKeys) else ()
        return (*held, *(() if self._token is None else (self._token.reveal(),)))

    def _fetched(self, grant: Grant) -> Secret:
        now = time.time()
        try:
            key = signer(grant.private_key.reveal()) if isinstance(grant, ServiceAccount) else None
            asked = token_request(grant, now, key)
            method = "GET" if asked.form is None else "POST"
            with httpx.Client(timeout=_TOKEN_S, proxy=self._proxy, verify=self._trust, trust_env=False) as client:
                answer = client.request(method, asked.url, data=dict(asked.form or {}), headers=dict(asked.headers))
            return read_token(answer.status_code, answer.content, now).value
        except (NoToken, ValueError, ImportError) as error:
            raise httpx.RequestError(str(error)) from None


def opened(backend: Backend) -> Opened | None:
    """What opens a backend that has `auth:`; None for one with a plain key or none. Raises OSError, ssl.SSLError."""
    return None if backend.auth is None else Opened(backend.auth, backend)


def client(backend: Backend, plan: dialects.Plan, timeout_s: float, auth: Opened | None) -> httpx.Client:
    """A client that reaches a backend as the gateway does. Raises OSError, ssl.SSLError for its CA file."""
    key = backend.key.reveal() if backend.key is not None else None
    headers = {"User-Agent": "pointsman", "Content-Type": "application/json", "Accept-Encoding": "identity"}
    return httpx.Client(
        headers=headers | dict(plan.headers(key)),
        auth=auth,
        timeout=httpx.Timeout(timeout_s, connect=backend.timeouts.connect_s),
        verify=_trust(backend),
        proxy=backend.proxy,
        trust_env=False,
        follow_redirects=False,
        # A server may close a kept connection just as it is used again: that must not look like a failing target.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def revealed(backend: Backend, auth: Opened | None) -> list[str]:
    """Every secret a backend is sent, so that none can come back in its words."""
    held = [one.reveal() for one in (backend.key, *backend.headers.values()) if isinstance(one, Secret)]
    return [*held, *(auth.secrets() if auth is not None else ())]


def _trust(backend: Backend) -> ssl.SSLContext | bool:
    """The certificates to trust; making a context takes time that plain HTTP need not."""
    secure = backend.auth is not None or any(one.scheme == "https" for one in backend.endpoints)
    return ssl.create_default_context(cafile=backend.ca_file) if secure else False
