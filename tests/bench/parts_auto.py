"""Where the time of an `auto` request goes before it is sent, without sockets.

    python tests/bench/parts_auto.py [--rounds 60]

Takes the configuration and the 256 bodies of the `auto` line of `run.py`, every one another text of some 50 English
words, and runs each part of deciding on all of them in turn. Prints CPU microseconds per request of the quickest
round, for a shared processor disturbs most of them. In a server every part is dearer, since sockets, clocks and
records take the caches in between: compare parts with each other, and take the sum from `run.py auto`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchlines import write_config, write_inputs

from gateway.core.decide import decide
from gateway.core.decisions.memo import Memo
from gateway.core.reading import translation
from gateway.core.reading.lexicon import Excerpt
from gateway.core.reading.signals import Signals
from gateway.core.request.hints import NO_HINTS
from gateway.core.request.wire import Envelope, parse
from gateway.core.text import language
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Snapshot, Tenant
from gateway.proxy.routing import asking_of, routing_of
from gateway.proxy.runtime import Serving
from gateway.site import load_lexicon, load_site

TENANT = Tenant("bench", {"team": "bench"})
ASKING = asking_of(TENANT, "auto", stream=False)


def measured(work: Callable[[Any], object], inputs: Sequence[Any], rounds: int) -> float:
    """CPU microseconds of `work` on one input, in the quickest round."""
    costs = []
    for _ in range(rounds):
        start = time.thread_time_ns()
        for one in inputs:
            work(one)
        costs.append((time.thread_time_ns() - start) / 1000 / len(inputs))
    return min(costs)


class Parts:
    """The parts of deciding, each on what the parts before it made."""

    def __init__(self, directory: Path) -> None:
        write_inputs(directory)
        config = write_config(directory, public=1, admin=2, sim_port=3, tls_port=None, ca=None)
        self.site = load_site(config, os.environ)
        self.policy = self.site.default_policy
        self.lexicon = load_lexicon()
        self.tokenizers = Tokenizers()
        self.snapshot = Snapshot(now=time.time(), draw=0.5, available=self.site.fleet.mask())
        self.serving = Serving(self.site, (), False)
        self.bodies = (directory / "words-auto.bodies").read_bytes().splitlines()
        self.envelopes = [parse(body) for body in self.bodies]
        self.texts = [envelope.get("messages")[0]["content"] for envelope in self.envelopes]

    def key(self, envelope: Envelope) -> object:
        return Memo.key(envelope, self.policy, None, TENANT, NO_HINTS, self.snapshot.available, self.snapshot.now)

    def signals(self, envelope: Envelope) -> Signals:
        return Signals.of(
            envelope,
            tenant=TENANT,
            hints=NO_HINTS,
            headers={},
            tokenizers=self.tokenizers,
            lexicon=self.lexicon,
            now=self.snapshot.now,
            blocking=False,
        )

    def decide(self, envelope: Envelope) -> Signals:
        signals = self.signals(envelope)
        decide(self.policy, signals, self.snapshot)
        return signals

    def whole(self, memo: Memo) -> Callable[[Envelope], None]:
        """All that an exchange does between the parsed body and the headers of its answer."""

        def run(envelope: Envelope) -> None:
            key = Memo.key(envelope, self.policy, None, TENANT, NO_HINTS, self.snapshot.available, self.snapshot.now)
            if key is not None and (kept := memo.get(key, envelope)) is not None:
                decision, routings = kept.decision, kept.routings
            else:
                signals = self.signals(envelope)
                kept = None if key is None else memo.follow(key, envelope, signals)
                if kept is not None:
                    decision, routings = kept.decision, kept.routings
                    kept.told(signals)
                else:
                    decision, routings = decide(self.policy, signals, self.snapshot), {}
                    if key is None or memo.put(key, self.policy, decision, envelope, signals) is None:
                        signals.computed()
            name = decision.candidates[0].name
            if name not in routings:
                routings[name] = routing_of(ASKING, decision, decision.candidates[0])

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        parts = Parts(Path(directory))
    done = [parts.decide(envelope) for envelope in parts.envelopes]
    excerpts = [Excerpt(text) for text in parts.texts]
    decided = decide(parts.policy, done[0], parts.snapshot)
    rows: list[tuple[str, Callable[[Any], object], Sequence[Any]]] = [
        ("parse the body (any request)", parse, parts.bodies),
        ("the memory's key (any request)", parts.key, parts.envelopes),
        ("make Signals", parts.signals, parts.envelopes),
        ("language", lambda text: language.of([text]), parts.texts),
        ("words of the text", Excerpt, parts.texts),
        ("lexicon: task and difficulty", parts.lexicon.judge, excerpts),
        ("target_language", translation.wanted, excerpts),
        ("Signals and decide", parts.decide, parts.envelopes),
        ("decide again, signals known", lambda known: decide(parts.policy, known, parts.snapshot), done),
        ("what the trace needs (computed)", lambda known: known.computed(), done),
        (
            "headers of the answer",
            lambda _: routing_of(ASKING, decided, decided.candidates[0]),
            parts.envelopes,
        ),
        ("all from the parsed body to the headers", parts.whole(Memo()), parts.envelopes),
    ]
    print(f"policy {parts.policy.label}: {decided.because}")
    for name, work, inputs in rows:
        print(f"{name:42} {measured(work, inputs, options.rounds):7.1f} us")


if __name__ == "__main__":
    main()
