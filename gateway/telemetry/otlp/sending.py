"""Sending to a collector: a bounded queue of encoded batches, and the thread that posts them.

One such thread per signal, so that a collector which is slow with traces does not hold back metrics. What a batch
says is made in `spans` and `measures`. A collector that is down, slow or full costs what was to be sent and nothing
else: a batch is tried for half a minute, what finds the queue full is lost, and both are counted.
"""

from __future__ import annotations

import gzip
import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway import __version__
from gateway.core.types import Secret
from gateway.telemetry.otlp.settings import OtlpSettings, Signal, Tally

logger = logging.getLogger("pointsman")

#: Batches that may wait. Of traces one holds up to `spans.BATCH` requests: together some tens of thousands of spans.
MOST_WAITING = 32
#: Seconds that one batch is tried for, and between the tries, twice as long after each; a collector may ask for more.
TRIED_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
LONGEST_ASKED_S = 60.0
_LONGEST_ANSWER = 65_536
#: What OTLP says may be tried again.
_AGAIN = frozenset({429, 502, 503, 504})
_ANSWERS: Mapping[str, Any] = {"traces": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse}


class Batch(NamedTuple):
    """An encoded request to the collector, and how many spans or data points it holds."""

    payload: bytes
    holds: int


class _Said(NamedTuple):
    """What came of one try."""

    outcome: str  # ok, failed or rejected
    why: str = ""
    pause_s: float = 0.0  # that the collector asks for
    rejected: int = 0  # of what was sent


class Sender:
    """The way to one of a collector's paths. `put` never waits; all else happens in the thread."""

    def __init__(self, signal: Signal, settings: OtlpSettings, tally: Tally) -> None:
        self.signal = signal
        self.tally = tally
        self._settings = settings
        self._url = f"{settings.endpoint}/v1/{signal}"
        self._waiting: deque[Batch] = deque()
        self.idle = True  # nothing waits or is on its way
        self._more = threading.Event()
        self._closing = threading.Event()
        self._ends_at = float("inf")
        self._failing = False
        self._pause_s = FIRST_PAUSE_S
        self._rests_until = 0.0
        self._client = _client(settings)
        self._thread = threading.Thread(target=self._run, name=f"otlp-{signal}", daemon=True)

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    @property
    def full(self) -> bool:
        """Would another batch be lost?"""
        return len(self._waiting) >= MOST_WAITING

    def put(self, batch: Batch) -> None:
        """Send this when its turn comes."""
        if self.full:
            self.tally.lost(self.signal, "queue_full", batch.holds)
            return
        self.idle = False
        self._waiting.append(batch)
        self._more.set()

    def close(self, ends_at: float) -> None:
        """Send what waits, until this moment on the monotonic clock or the first failure; what is left is lost."""
        self._ends_at = ends_at
        self._closing.set()
        self._more.set()

    def join(self, ends_at: float) -> None:
        """Wait for the end of `close`, until this moment."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, ends_at - time.monotonic()))

    def _run(self) -> None:
        with self._client:
            while True:
                while self._waiting:
                    batch = self._waiting.popleft()
                    try:
                        self._deliver(batch)
                    except Exception:  # the edge that must hold: a defect costs a batch, not the thread
                        logger.exception("otlp: a batch of %s is lost", self.signal)
                        self.tally.lost(self.signal, "failed", batch.holds)
                self.idle = True
                if self._closing.is_set():
                    return
                self._more.wait()
                self._more.clear()

    def _deliver(self, batch: Batch) -> None:
        """One batch to its end: taken, refused, or given up."""
        payload = gzip.compress(batch.payload, 1) if self._settings.gzip else batch.payload
        until = time.monotonic() + TRIED_S
        while True:
            self._rest()
            if (left_s := self._ends_at - time.monotonic()) <= 0:
                self.tally.lost(self.signal, "closing", batch.holds)
                return
            said = self._post(payload, min(self._settings.timeout_s, left_s))
            self.tally.asked(self.signal, said.outcome)
            self._tell(said)
            if said.outcome == "ok":
                self._pause_s = FIRST_PAUSE_S
                self.tally.took(self.signal, batch.holds - said.rejected)
                self.tally.lost(self.signal, "rejected", said.rejected)
                return
            if said.outcome == "failed":
                pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that replicas spread
                self._rests_until = time.monotonic() + max(said.pause_s, pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                if self._closing.is_set():
                    self._ends_at = 0.0  # a collector that is down must not hold up the end
                elif self._rests_until < until:
                    continue
            self.tally.lost(self.signal, said.outcome, batch.holds)
            return

    def _rest(self) -> None:
        """Leave the collector alone for as long as it, or its last failure, asks; but not where all is to end."""
        wait_s = self._rests_until - time.monotonic()
        if wait_s > 0:
            self._closing.wait(wait_s)

    def _post(self, payload: bytes, timeout_s: float) -> _Said:
        try:
            with self._client.stream("POST", self._url, content=payload, timeout=timeout_s) as answer:
                if answer.status_code in _AGAIN:
                    return _Said("failed", f"it answered {answer.status_code}", _retry_after(answer))
                if not answer.is_success:
                    return _Said("rejected", f"it answered {answer.status_code}")
                return self._partial(_read(answer, time.monotonic() + timeout_s))
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            return _Said("failed", type(error).__name__)

    def _partial(self, body: bytes) -> _Said:
        """What a good answer says was not taken all the same."""
        try:
            told = _ANSWERS[self.signal].FromString(body).partial_success
        except DecodeError:
            return _Said("ok")  # the status says so; some collectors answer in JSON
        rejected = told.rejected_spans if self.signal == "traces" else told.rejected_data_points
        return _Said("ok", rejected=max(0, rejected))

    def _tell(self, said: _Said) -> None:
        """Log a change for the worse or the better, once. Never what was sent, nor by which key."""
        bad = said.outcome != "ok"
        if bad and not self._failing:
            logger.warning("otlp: the collector does not take %s: %s", self.signal, said.why)
        elif self._failing and not bad:
            logger.info("otlp: the collector takes %s again", self.signal)
        self._failing = bad


def _client(settings: OtlpSettings) -> httpx.Client:
    """Raises OSError or ssl.SSLError for a CA file that does not load."""
    headers = {name: value.reveal() if isinstance(value, Secret) else value for name, value in settings.headers.items()}
    headers |= {"content-type": "application/x-protobuf", "user-agent": f"pointsman/{__version__}"}
    headers["accept-encoding"] = "identity"
    if settings.gzip:
        headers["content-encoding"] = "gzip"
    # Neither proxies nor passwords from the environment: where measures go is what the file says.
    return httpx.Client(
        headers=headers,
        verify=ssl.create_default_context(cafile=settings.ca_file),
        trust_env=False,
        follow_redirects=False,
    )


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("retry-after", "")
    return min(float(value), LONGEST_ASKED_S) if value.isascii() and value.isdigit() and len(value) < 9 else 0.0


def _read(answer: httpx.Response, ends_at: float) -> bytes:
    """The answer's body, as far as it is short and comes in time."""
    body = b""
    for part in answer.iter_raw():  # decompressing it could make anything of it
        body += part
        if len(body) > _LONGEST_ANSWER or time.monotonic() > ends_at:
            return b""
    return body
