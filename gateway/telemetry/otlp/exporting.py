"""From finished requests to batches: a queue that requests are dropped into, and the thread that works it off.

Handing over is an append. The thread counts every request into the measures, keeps those that are to be traced, and
makes batches of both for the senders; it lets go of the interpreter after every fraction of a millisecond. Where it
cannot keep up, requests are lost and counted.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable

from gateway.core.request.tracecontext import Copied, Tracing, threshold
from gateway.core.types import Record
from gateway.telemetry.otlp import spans
from gateway.telemetry.otlp.measures import Measures
from gateway.telemetry.otlp.sending import Batch, Sender
from gateway.telemetry.otlp.settings import OtlpSettings, Tally

logger = logging.getLogger("pointsman")

#: Requests that may wait for the thread; beyond, they are lost.
MOST_WAITING = 8_192
#: Seconds between two looks at the queue, and the longest that the span of a finished request waits to be sent.
EVERY_S = 0.25
LINGER_S = 1.0
_SLICE_S = 0.0002  # of work, after which the thread lets go of the interpreter, lest a request wait for it
_PAUSE_S = 0.00005
#: Ends of requests that are nobody's error.
_FINE = frozenset({"ok", "client_gone"})


class Otlp:
    """The exporter of one process. `add` and `add_copy` belong to the event loop, the rest to who owns the process."""

    def __init__(self, settings: OtlpSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.tally = Tally()
        self.tracing = Tracing(
            traces="traces" in settings.signals, follow=settings.follow, least=threshold(settings.sample)
        )
        self._waiting: deque[Record | Copied] = deque()
        self._clock = clock
        self._closing = threading.Event()
        self._resource = spans.resource_of(settings.service, str(uuid.uuid4()), settings.resource)
        self._spans: Sender | None = None
        self._metrics: Sender | None = None
        if "traces" in settings.signals:
            self._spans = Sender("traces", settings, self.tally)
        if "metrics" in settings.signals:
            self._metrics = Sender("metrics", settings, self.tally)
        self._measures = Measures(delta=settings.delta, now_ns=time.time_ns())
        self._kept: list[Record | Copied] = []
        self._kept_at = 0.0  # since when the oldest of them waits
        self._measured_at = clock()
        self._worked_until = 0.0
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        """Begin exporting."""
        for sender in self._senders():
            sender.start()
        self._thread.start()

    def add(self, records: list[Record]) -> None:
        """Take requests that have ended; they change no more. HOT."""
        waiting = self._waiting
        if len(waiting) + len(records) > MOST_WAITING:
            self.tally.records_dropped += len(records)
        else:
            waiting += records

    def add_copy(self, copied: Copied) -> None:
        """Take a shadow that has ended."""
        if len(self._waiting) >= MOST_WAITING:
            self.tally.records_dropped += 1
        else:
            self._waiting.append(copied)

    def close(self, within_s: float = 5.0) -> None:
        """Send what there is, as far as the collector takes it in time."""
        ends_at = time.monotonic() + within_s
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)
        for sender in self._senders():
            sender.close(ends_at)
        for sender in self._senders():
            sender.join(ends_at)

    def _senders(self) -> Iterable[Sender]:
        return [one for one in (self._spans, self._metrics) if one is not None]

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._turn(last=False)
        self._turn(last=True)

    def _turn(self, *, last: bool) -> None:
        """Work off what waits, and send what is due."""
        try:
            self._worked_until = time.perf_counter() + _SLICE_S
            for _ in range(len(self._waiting)):
                self._take(self._waiting.popleft())
                self._breathe()
            now = self._clock()
            if self._kept and (last or now - self._kept_at >= LINGER_S):
                self._send_spans()
            metrics = self._metrics
            if metrics is not None and (last or (metrics.idle and now - self._measured_at >= self.settings.every_s)):
                self._measured_at = now
                payload, count = self._measures.encode(self._resource, time.time_ns(), self._breathe)
                if count:
                    metrics.put(Batch(payload, count))
        except Exception:  # the edge that must hold: a defect costs what was being worked on, not the thread
            logger.exception("otlp: requests are lost")

    def _breathe(self) -> None:
        if time.perf_counter() >= self._worked_until:
            time.sleep(_PAUSE_S)
            self._worked_until = time.perf_counter() + _SLICE_S

    def _take(self, one: Record | Copied) -> None:
        record, errors = (one.record, False) if isinstance(one, Copied) else (one, self.settings.errors)
        traced = record.trace
        if traced is None:
            return
        if self._metrics is not None:
            self._measures.add(one)
        if self._spans is not None and (traced.sampled or (errors and record.code not in _FINE)):
            self._keep(one)

    def _keep(self, one: Record | Copied) -> None:
        if not self._kept:
            self._kept_at = self._clock()
        self._kept.append(one)
        if len(self._kept) >= spans.BATCH:
            self._send_spans()

    def _send_spans(self) -> None:
        sender = self._spans
        kept, self._kept = self._kept, []
        if sender is None:
            return
        if sender.full:  # making them would be in vain
            self.tally.lost("traces", "queue_full", sum(map(spans.count, kept)))
            return
        made = []
        for one in kept:
            made += spans.spans_of(one)
            self._breathe()
        sender.put(Batch(spans.encode(made, self._resource), len(made)))
