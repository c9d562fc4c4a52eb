"""When a copy is not sent though a decision asks for it, and that nothing of it can fail a request."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.servers.dialects import CannotSay
from gateway.core.types import Decision, Shadow, Thinking
from gateway.proxy import shadow as shadows
from gateway.proxy.shadow import LARGEST_REQUEST, MOST, Shadows
from tests.core.fleets import FLEET


class Route:
    """A way to a target with one endpoint."""

    def __init__(self, outstanding: int = 0, chosen: int = 0, token: bytes | None = b"") -> None:
        backend = SimpleNamespace(max_inflight=10)
        self.pools = [SimpleNamespace(outstanding=outstanding, backend=backend)]
        self.chosen = chosen
        self.openings = [] if token == b"" else [SimpleNamespace(head=lambda body, now: token)]
        self.heads = [b"POST / HTTP/1.1\r\nContent-Length: "]
        self.plan = None

    def pick(self, *_: Any) -> int:
        return self.chosen


def asked(route: Route | None = None, size: int = 100, late_s: float = 0.0, **runtime: Any) -> Shadows:
    board = SimpleNamespace(available=lambda fleet, now: runtime.pop("available", FLEET.mask()))
    world = SimpleNamespace(
        metrics=SimpleNamespace(sources=[]),
        wheel=SimpleNamespace(now=time.monotonic() - late_s),
        board=board,
        **{
            "draining": False,
            "buffered": 0,
            "may_buffer": 1_000,
            "pressure": 0,
            **{k: v for k, v in runtime.items() if k != "available"},
        },
    )
    made = Shadows(world)  # type: ignore[arg-type]
    site = SimpleNamespace(fleet=FLEET)
    serving = SimpleNamespace(site=site, routes=dict.fromkeys(range(len(FLEET.targets)), route or Route()))
    decision = Decision("p", "r", FLEET.targets[:1], Thinking(), "", None, Shadow("copy", FLEET.targets[1]))
    record = SimpleNamespace(request_id="id", shadow=None, trace=None)
    made.send(decision, SimpleNamespace(size=size, stream=False), serving, record)  # type: ignore[arg-type]
    assert record.shadow is None
    assert made.under_way == set()
    return made


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        ({"draining": True}, "draining"),
        ({"late_s": 5.0}, "busy"),
        ({"buffered": 501}, "busy"),
        ({"pressure": 1}, "busy"),
        ({"size": LARGEST_REQUEST + 1}, "too_large"),
        ({"available": FLEET.mask() & ~2}, "held_back"),
        ({"route": Route(outstanding=5)}, "target_busy"),
        ({"route": Route(chosen=-1)}, "target_busy"),
    ],
)
def test_a_copy_waits_for_better_times(world: dict[str, Any], reason: str) -> None:
    assert asked(**world).counts.skipped.numbers() == {("copy", reason): 1}


def test_what_a_target_cannot_be_told_or_has_no_token_for_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any) -> bytes:
        raise CannotSay("no words for it")

    monkeypatch.setattr(shadows.dialects, "request_body", silent)
    assert asked().counts.skipped.numbers() == {("copy", "inexpressible"): 1}
    monkeypatch.setattr(shadows.dialects, "request_body", lambda *_: b"{}")
    assert asked(Route(token=None)).counts.skipped.numbers() == {("copy", "no_token"): 1}


def test_a_defect_of_ours_costs_the_copy_and_not_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(shadows.dialects, "request_body", broken)
    assert asked().counts.skipped.numbers() == {("copy", "defect"): 1}
    assert MOST == 16, "as policies/README.md says"
