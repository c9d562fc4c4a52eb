"""Prints what one event of a flooded stream costs in process: the simulator's stream, in reads as large as uvloop's.

    python tests/bench/flood.py

Many at a time is what judges runs of chunks that are sent on as they came; framing takes the other ones apart, relaying
judges what was in them. No sockets: the kernel's copies come on top. The quickest fifth of many streams counts.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time

from benchparts import REPOSITORY, interpreter

sys.path.insert(0, str(REPOSITORY))

from gateway.core.answer.sse import Relay
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
    """Nanoseconds of what is taken many chunks at a time, and of framing and relaying the rest."""
    chunked, relay, clock = Chunked(), Relay(keep_usage=False), time.perf_counter_ns
    flooding = framing = relaying = 0
    for data in come:
        begun = clock()
        lacking = chunked.lacking  # as `UpstreamConnection` does
        if relay.committed and 0 <= lacking < len(data):
            relay.feed(chunked.feed(data[:lacking]))
            data = data[lacking:]
            taken = relay.flood(data)
            memoryview(data)[:taken]
            data = data[taken:]
        flooded = clock()
        payload = chunked.feed(data)
        framed = clock()
        relay.feed(payload)
        flooding, framing, relaying = (
            flooding + flooded - begun,
            framing + framed - flooded,
            relaying + clock() - framed,
        )
    if not relay.done:
        raise SystemExit("the stream did not end as it should")
    return flooding, framing, relaying


def main() -> int:
    """Measure and print."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # as `app` sets it
        libc.mallopt(-3, 4 << 20)
        libc.mallopt(-1, 64 << 20)
    come = reads()
    seen = sorted((stream(come) for _ in range(STREAMS)), key=sum)[: STREAMS // 5]
    per_event = [statistics.mean(column) / EVENTS for column in zip(*seen, strict=True)]
    print("| ns per event | many at a time | framing | relaying | all |\n|---|---|---|---|---|")
    print("| |" + "".join(f" {ns:.0f} |" for ns in [*per_event, sum(per_event)]))
    print(f"\nThe quickest fifth of {STREAMS} streams of {EVENTS} events; {interpreter(sys.executable)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
