"""Asking gateways what they do: the admin listener's `/metrics` and `/v1/targets`, again and again.

Here belongs what goes over the network and what is remembered between two answers. A gateway that is gone is asked
again each time; its figures leave the sums meanwhile. What the answers mean is `gateway.top.series` and `view`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.admin import KEY_VARIABLE
from gateway.top.series import Scrape, Window, added, named, parse
from gateway.top.view import GatewayRow, Seen, View, view

#: Seconds in which an answer must come, those in which all must have come, and the most of one that is read.
ANSWER_S = 3.0
WAITED_S = 9.0
MOST_BYTES = 64 << 20
#: Why a gateway is silent where nobody listens.
REFUSED = "connection refused"


class Silent(Exception):
    """A gateway did not answer as one: the text says why."""


@dataclass(slots=True)
class Watched:
    """One gateway, and what is known of it since it was first asked."""

    url: str
    key: str | None
    window: Window
    error: str | None = "not asked yet"
    listed: Sequence[Mapping[str, Any]] = ()
    silent_since: float = field(default_factory=time.monotonic)
    asking: threading.Thread | None = None

    def ask(self) -> None:
        """Ask once and remember what came, or why nothing did. Never raises for what a network or a server does."""
        try:
            scrape, listed = self._asked()
        except Silent as error:
            self.silent(str(error))
        else:
            self.window.add(scrape)
            self.listed = listed
            self.error = None

    def silent(self, why: str) -> None:
        """It did not answer."""
        if self.error is None:
            self.silent_since = time.monotonic()
        self.error = why
        self.window = Window(self.window.length_s)  # an average over the time it was gone would say nothing of now

    def _asked(self) -> tuple[Scrape, Sequence[Mapping[str, Any]]]:
        headers = {"accept": "text/plain, application/json"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        try:
            with httpx.Client(base_url=self.url, headers=headers, timeout=ANSWER_S, trust_env=False) as client:
                metrics = self._get(client, "/metrics")
                at = time.monotonic()
                targets = json.loads(self._get(client, "/v1/targets"))["data"]
            scrape = parse(metrics.decode("utf-8", "replace"), at)
            view((), Seen(scrape.counters, scrape.gauges, [targets]))  # what cannot be shown is refused here
            return scrape, targets
        except httpx.HTTPError as error:
            raise Silent(_why(error)) from None
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
            raise Silent("what answers there is not a gateway's admin listener") from None

    def _get(self, client: httpx.Client, path: str) -> bytes:
        body = bytearray()
        ends = time.monotonic() + ANSWER_S
        with client.stream("GET", path) as answer:
            if answer.status_code in (401, 403):
                wrong = "wants its admin key" if self.key is None else "does not take this admin key"
                raise Silent(f"it {wrong}: {KEY_VARIABLE}")
            if answer.status_code != 200:
                raise Silent(f"{path} is answered with status {answer.status_code}: is it the admin listener?")
            for part in answer.iter_bytes():
                body += part
                if len(body) > MOST_BYTES:
                    raise Silent(f"{path} is longer than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > ends:
                    raise Silent(f"{path} takes longer than {ANSWER_S:g} s")
        return bytes(body)

    def row(self) -> GatewayRow:
        """What is to be said of the gateway itself."""
        last = self.window.last
        builds = [labels for labels, _ in named(last.gauges, "build_info")] if last is not None else []
        return GatewayRow(
            url=self.url,
            up=self.error is None,
            error=self.error,
            silent_s=0.0 if self.error is None else time.monotonic() - self.silent_since,
            version=builds[0].get("version") if builds else None,
            started_at=(last.started or None) if last is not None else None,
            window_s=self.window.seconds,
        )


class Watch:
    """All gateways that are watched together."""

    def __init__(self, urls: Sequence[str], key: str | None, window_s: float) -> None:
        self.gateways = [Watched(url, key, Window(window_s)) for url in dict.fromkeys(urls)]

    def ask(self) -> None:
        """Ask every gateway once, side by side; one that answers byte by byte holds up the others for `WAITED_S`."""
        ends_at = time.monotonic() + WAITED_S
        for one in self.gateways:
            if one.asking is None or not one.asking.is_alive():
                one.asking = threading.Thread(target=one.ask, daemon=True)
                one.asking.start()
        for one in self.gateways:
            if one.asking is not None:
                one.asking.join(max(0.0, ends_at - time.monotonic()))
                if one.asking.is_alive():
                    one.silent(f"no whole answer within {WAITED_S:g} s")

    def view(self) -> View:
        """What is known now, of those that answered when last asked."""
        there = [one for one in self.gateways if one.error is None]
        lasts = [one.window.last for one in there if one.window.last is not None]
        seen = Seen(
            rates=added(one.window.rates() for one in there),
            gauges=added(last.gauges for last in lasts),
            listed=[one.listed for one in there],
        )
        return view((one.row() for one in self.gateways), seen)


def _why(error: httpx.HTTPError) -> str:
    """In words; httpx's own are the operating system's, which come with numbers."""
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {ANSWER_S:g} s"
    if isinstance(error, httpx.ConnectError):
        return REFUSED if "refused" in str(error) else f"cannot be reached: {error}"
    return f"the connection broke: {type(error).__name__}"
