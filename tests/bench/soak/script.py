"""What the soak sends, what may go wrong, and what a client must then have got.

Known to both ends, so nothing is told twice. A request's prompt names everything: the fault, how many events, how long
between them. From it the upstream makes its answer and the client what it expects, byte by byte.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass

#: The target that never fails, and its name in every policy as the second choice.
GOOD = "good"
#: Seconds that an upstream which hangs holds out for: longer than any of the gateway's clocks.
HANGS_S = 60.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One fault. `breaks`: the client does not get the whole answer, if it comes from the target that fails."""

    name: str
    side: str  # upstream or client
    breaks: bool = False


KINDS = (
    # Before the first event: another target answers, and nobody notices.
    Kind("refuse", "upstream"),
    Kind("reset", "upstream"),
    Kind("status500", "upstream"),
    Kind("status429", "upstream"),
    Kind("html", "upstream"),
    Kind("role_then_error", "upstream"),
    Kind("hang", "upstream"),
    # Harmless.
    Kind("no_done", "upstream"),
    Kind("after_done", "upstream"),
    Kind("close_after", "upstream"),
    Kind("shredded", "upstream"),
    # After it: what came, one error event, and a clean end.
    Kind("reset_mid", "upstream", breaks=True),
    Kind("truncated", "upstream", breaks=True),
    Kind("stall", "upstream", breaks=True),
    Kind("drip", "upstream", breaks=True),
    Kind("error_mid", "upstream", breaks=True),
    Kind("bad_chunk", "upstream", breaks=True),
    # The client's own doing.
    Kind("leave_upload", "client", breaks=True),
    Kind("leave_early", "client", breaks=True),
    Kind("leave_mid", "client", breaks=True),
    Kind("half_close", "client", breaks=True),
    Kind("slow_reader", "client"),
)
BY_NAME = {kind.name: kind for kind in KINDS}
#: One target for each fault, so that one's ejection or cooling does not hide the others'.
TARGETS = tuple(kind.name for kind in KINDS if kind.side == "upstream")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `target` is tried first, and does as `fault` says; "" does nothing wrong."""

    seed: int
    target: str
    fault: str
    events: int
    pause_s: float
    size: int  # characters of an event's text
    stream: bool
    usage: bool  # it asks for usage in the stream

    def body(self) -> bytes:
        """The request as it is sent."""
        told: dict[str, object] = {
            "model": f"auto/{self.target}",
            "messages": [{"role": "user", "content": json.dumps(asdict(self))}],
            "stream": self.stream,
        }
        if self.stream and self.usage:
            told["stream_options"] = {"include_usage": True}
        return json.dumps(told).encode()

    @classmethod
    def of(cls, body: bytes) -> Ask:
        """The same, from what an upstream received."""
        return cls(**json.loads(json.loads(body)["messages"][-1]["content"]))

    @property
    def tokens(self) -> tuple[int, int]:
        """What the upstream says it used: of the prompt, of the answer."""
        return 10 + self.seed % 90, self.events

    @property
    def broken_at(self) -> int:
        """Before which event a fault in the midst of a stream comes: never before the second of content."""
        return 3 + self.seed % max(1, self.events - 3)


_TEXTS = ("word ", "Füße ", "日本語", "\u2028", "\U0001f600", '"quoted" ', "back\\slash ", "a\n", "data: [DONE] ")


def events(ask: Ask) -> list[bytes]:
    """The events of a whole stream, usage and [DONE] among them. Content is 1 to `events`."""
    dice = random.Random(ask.seed)
    made = [_chunk({"role": "assistant"})]
    for _ in range(ask.events):
        text = dice.choice(_TEXTS) * (1 + ask.size // 6)
        made.append(_chunk({"content": text}, ascii_only=dice.random() < 0.5))
    entered, left = ask.tokens
    usage = {"prompt_tokens": entered, "completion_tokens": left, "total_tokens": entered + left}
    return [*made, _chunk({}, finish="stop"), _event({**_HEAD, "choices": [], "usage": usage}), b"data: [DONE]\n\n"]


_HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _chunk(delta: dict[str, str], *, finish: str | None = None, ascii_only: bool = True) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _event({**_HEAD, "choices": [choice]}, ascii_only=ascii_only)


def _event(told: dict[str, object], *, ascii_only: bool = True) -> bytes:
    return b"data: " + json.dumps(told, ensure_ascii=ascii_only).encode() + b"\n\n"


def answer(ask: Ask) -> bytes:
    """The whole answer to a request that does not stream."""
    entered, left = ask.tokens
    text = random.Random(ask.seed).choice(_TEXTS) * ask.events
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": entered, "completion_tokens": left, "total_tokens": entered + left}
    return json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}, indent=1).encode()


def expected(ask: Ask) -> list[bytes]:
    """What the client must get of it, event by event."""
    if not ask.stream:
        return [answer(ask)]
    made = events(ask)
    return made if ask.usage else [*made[:-2], made[-1]]


def wrong(ask: Ask, served_by: str, got: bytes) -> str:
    """What is wrong with a complete, cleanly ended 200; "" if nothing."""
    whole = expected(ask)
    breaks = bool(ask.fault) and served_by == ask.target and BY_NAME[ask.fault].breaks and ask.stream
    if not breaks:
        return "" if got == b"".join(whole) else f"got {len(got)} bytes, not the {len(b''.join(whole))} that were sent"
    head, _, last = got.removesuffix(b"\n\n").rpartition(b"\n\n")
    if not last.startswith(b'data: {"error":{'):
        return f"a broken stream ends with {last[-200:]!r} and not with an error event"
    before = head + b"\n\n" if head else b""
    if before not in {b"".join(whole[:number]) for number in range(len(whole))}:
        return "what came before the error event is not what was sent"
    return ""


def pick(dice: random.Random, faults: float, quick: bool, kind: Kind | None = None) -> Ask:
    """A request at random: so many of 1 with a fault, all kinds alike, or with this one. `quick`: shorter streams."""
    if kind is None and dice.random() < faults:
        kind = dice.choice(KINDS)
    upstream = kind is not None and kind.side == "upstream"
    target = kind.name if kind is not None and upstream else dice.choice(TARGETS)
    if target == "refuse" and not upstream:
        target = GOOD  # nobody listens there
    slow = kind is not None and kind.name == "slow_reader"
    plain = kind is None and dice.random() < 0.05
    count = dice.randint(60, 80) if slow else dice.randint(6, 12 if quick else 30)
    return Ask(
        seed=dice.getrandbits(30),
        target=target,
        fault="" if kind is None else kind.name,
        events=count,
        pause_s=0.0 if slow else dice.choice((0.02, 0.1, 0.2) if quick else (0.1, 0.25, 0.4)),
        size=20_000 if slow else dice.choice((4, 4, 4, 60, 400)),
        stream=not plain,
        usage=dice.random() < 0.5,
    )
