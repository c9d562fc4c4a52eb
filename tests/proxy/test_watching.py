"""Who is held back and who is back again: one line for each, and nothing while nothing changes."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.proxy.watching import Watching


def state(name: str, told: str, reason: str | None = None, held_for_s: float | None = None) -> dict[str, Any]:
    return {"target": name, "state": told, "reason": reason, "held_for_s": held_for_s}


def test_a_target_s_way_down_and_back_is_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    steps: list[list[dict[str, Any]]] = [
        [state("a", "healthy"), state("b", "healthy")],
        [state("a", "ejected", "reset", 30.0), state("b", "auth", "auth")],
        [state("a", "ejected", "reset", 29.0), state("b", "auth", "auth")],
        [state("a", "half_open", "reset", 0.0), state("b", "auth", "auth")],
        [state("a", "rate_limited", "rate_limited", 2.5), state("b", "auth", "auth")],
        [state("a", "healthy")],
        [state("a", "healthy"), state("b", "healthy")],
    ]
    watching = Watching()
    for states in steps:
        watching.look(SimpleNamespace(board=SimpleNamespace(entries=True), states=lambda states=states: states))  # type: ignore[arg-type, misc]
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "target a is held back: ejected (reset), for 30 s"),
        ("WARNING", "target b is held back: auth (auth)"),
        ("WARNING", "target a is held back: rate_limited (rate_limited), for 2.5 s"),
        ("INFO", "target a is healthy again"),
    ]


def test_nobody_is_asked_while_nothing_is_held_against_anybody() -> None:
    Watching().look(SimpleNamespace(board=SimpleNamespace(entries={})))  # type: ignore[arg-type]
