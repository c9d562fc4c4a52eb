"""Prints what one event of a flooded stream costs in process: the simulator's stream, in reads as large as uvloop's.

    python tests/bench/flood.py

Framing is what takes the chunks apart, relaying what judges the events and gives what the client gets, writing what
frames that again. No sockets: the kernel's copies come on top. The quickest fifth of many streams counts.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time

from benchparts import REPOSITORY, interpreter

sys.path.insert(0, str(REPOSITORY))

from gateway.core.sse import Relay
from gateway.proxy.framing import Chunked

EVENTS, STREAMS = 2_000, 400
FIRST, READ = 1_339, 256_000  # bytes: what comes with the answer's head, and what uvloop reads at once
WORDS = (" The", " capital", " of", " France", " is", " Paris", ",", " on", " the", " Seine")


def chunk(text: str) -> bytes:
    """An event in a chunk of its own."""
    event = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def delta(said: dict[str, str], finish: str | None = None) -> bytes:
    """As the simulator words it."""
    choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}
    value = {
        "id": "chatcmpl-B7xQ2mPzK4vN8sLtR1yWdJ6h", "object": "chat.completion.chunk", "created": 1795309748,
        "model": "sim-1", "system_fingerprint": "fp_sim", "choices": [choice],
    }  # fmt: skip
    return chunk(json.dumps(value, separators=(",", ":")))


def reads() -> list[bytes]:
    """A whole stream, as it is read."""
    content = b"".join(delta({"content": WORDS[n % len(WORDS)]}) for n in range(EVENTS))
    whole = delta({"role": "assistant", "content": ""}) + content + delta({}, "stop") + chunk("[DONE]") + b"0\r\n\r\n"
    return [whole[:FIRST], *[whole[at : at + READ] for at in range(FIRST, len(whole), READ)]]


def stream(come: list[bytes]) -> tuple[int, int, int]:
    """Nanoseconds of framing, relaying and writing."""
    chunked, relay, clock = Chunked(), Relay(keep_usage=False), time.perf_counter_ns
    framing = relaying = writing = 0
    for data in come:
        begun = clock()
        payload = chunked.feed(data)
        framed = clock()
        flood, chunked.flood = chunked.flood, None
        out = relay.feed(payload, flood)
        relayed = clock()
        out = b"%x\r\n%b\r\n" % (len(out), out)
        framing, relaying, writing = framing + framed - begun, relaying + relayed - framed, writing + clock() - relayed
    if not relay.done:
        raise SystemExit("the stream did not end as it should")
    return framing, relaying, writing


def main() -> int:
    """Measure and print."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # as `app` sets it
        libc.mallopt(-3, 4 << 20)
        libc.mallopt(-1, 64 << 20)
    come = reads()
    seen = sorted((stream(come) for _ in range(STREAMS)), key=sum)[: STREAMS // 5]
    per_event = [statistics.mean(column) / EVENTS for column in zip(*seen, strict=True)]
    print("| ns per event | framing | relaying | writing | all |\n|---|---|---|---|---|")
    print("| |" + "".join(f" {ns:.0f} |" for ns in [*per_event, sum(per_event)]))
    print(f"\nThe quickest fifth of {STREAMS} streams of {EVENTS} events; {interpreter(sys.executable)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
