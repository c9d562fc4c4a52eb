"""Access tokens, fetched and kept fresh: one task for each grant, none for a request.

A request only ever looks at the token that is there. Where there is none yet, or none any more, its target is passed
over. What a token endpoint is sent and what its answer means is `core.servers.credentials`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.core.servers.credentials import (
    MARGIN_S,
    AccessToken,
    Grant,
    MetadataServer,
    NoToken,
    ServiceAccount,
    read_token,
    token_request,
)
from gateway.rsa import signer

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("pointsman")

#: One try may take this long; between tries that failed, the pause doubles.
TIMEOUT_S = 10.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
#: How often at most an upstream's refusal makes us ask for another token than the one that looks valid.
RENEW_S = 30.0
_MOST_BYTES = 65_536


class TokenSource:
    """The access token of one grant. Lives on the event loop."""

    def __init__(self, grant: Grant, proxy: str | None = None, ca_file: str | None = None) -> None:
        self.grant = grant
        self._proxy = None if isinstance(grant, MetadataServer) else proxy
        self._ca_file = ca_file
        self._token: AccessToken | None = None
        self._ends = float("-inf")
        self._line = b""
        self._fetched = float("-inf")
        self._signer: Callable[[bytes], bytes] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to fetch. Once."""
        if self._task is None:
            self._task = loop.create_task(self._run())

    def stop(self) -> None:
        """Fetch no more; the token that is there stays good for the requests that use it."""
        if self._task is not None:
            self._task.cancel()

    def succeed(self, other: TokenSource) -> None:
        """Begin with another's token: the same identity proves itself anew, after its key was changed."""
        self._token, self._line, self._ends = other._token, other._line, other._ends

    def line(self, now: float) -> bytes | None:
        """The Authorization header line at monotonic second `now`; None while there is no token."""
        return self._line if now < self._ends else None

    def secrets(self) -> tuple[str, ...]:
        """The token, for blotting it out of what an upstream says."""
        return () if self._token is None else (self._token.value.reveal(),)

    def renew(self) -> None:
        """The upstream refused the token: ask for another one soon, though this one should still be good."""
        if time.monotonic() - self._fetched >= RENEW_S:
            self._wake.set()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            now = time.monotonic()  # how long a token lasts is told, not until when: no clock that is set can end it
            try:
                token = await self._fetch(now)
            except NoToken as error:
                left = max(0.0, self._ends - time.monotonic())
                logger.warning(
                    "no access token from %s: %s; the present one lasts %.0f s", _host(self.grant), error, left
                )
                await asyncio.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            self._fetched = now
            self._token = token
            self._line = b"Authorization: Bearer %b\r\n" % token.value.reveal().encode("ascii")
            self._ends = token.expires_at - min(MARGIN_S, (token.expires_at - now) / 2)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                # At least a second: an endpoint may hand out the same token until its last moment.
                await asyncio.wait_for(self._wake.wait(), max(1.0, token.refresh_at(now) - time.monotonic()))

    async def _fetch(self, now: float) -> AccessToken:
        """Ask once. Raises `NoToken`, whatever goes wrong."""
        try:
            httpx = await asyncio.to_thread(importlib.import_module, "httpx")  # only who has tokens pays for it
            if isinstance(self.grant, ServiceAccount) and self._signer is None:
                self._signer = await asyncio.to_thread(signer, self.grant.private_key.reveal())
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(httpx, now)
        except TimeoutError:
            raise NoToken(f"no answer within {TIMEOUT_S:.0f} s") from None
        except NoToken:
            raise
        except Exception as error:  # an edge that must hold: whatever happened, tokens must go on being fetched
            raise NoToken(type(error).__name__) from None

    async def _ask(self, library: object, now: float) -> AccessToken:
        client: httpx.AsyncClient = library.AsyncClient(  # type: ignore[attr-defined]
            verify=self._trust(), proxy=self._proxy, trust_env=False, follow_redirects=False, timeout=TIMEOUT_S
        )
        asked = token_request(self.grant, time.time(), self._signer)
        async with client:
            method = "GET" if asked.form is None else "POST"
            body = b""
            async with client.stream(method, asked.url, data=asked.form, headers=dict(asked.headers)) as answer:
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise NoToken("the token endpoint's answer does not end")
            return read_token(answer.status_code, body, now)

    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        return context


def _host(grant: Grant) -> str:
    return urlsplit(grant.url).hostname or "?"
