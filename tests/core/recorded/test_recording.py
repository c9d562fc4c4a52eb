"""Lines of shadows, and what the documentation says of lines. How a request's line decides again: `test_replay`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.core.recorded import records
from gateway.core.recorded.recording import copied
from gateway.core.recorded.records import Copied, Recorded, Unreadable
from gateway.core.types import Price, PriceTier, Record, Routing, Shadowed, Usage
from tests.core.decisions.test_memo import Asked
from tests.core.fleets import policy
from tests.core.recorded.test_replay import LINES, Serving

PRICE = Price((PriceTier(0, 1_000_000, 2_000_000),), "list 2026-11")
DOCS = Path(__file__).parents[3] / "docs" / "records.md"


def shadowed(price: Price | None = PRICE, key: str = "checkout", **told: Any) -> bytes:
    routing = Routing(key, "shop", "auto", True, "test@0123456789ab", "code", "scout", "scout", "llama-4-scout")
    record = Record("0199a7b1c2d3" + "0" * 20, 1_795_262_400.25, 5.0, routing)
    return copied(Shadowed("copy", "next", "qwen3.5-plus", **told), record, price, 0.5)


def test_a_shadow_s_line_says_whose_copy_it_was_and_what_came_of_it() -> None:
    line = shadowed(
        outcome="ok",
        status=200,
        first_event_s=0.2500004,
        duration_s=1.5,
        usage=Usage(9, 8, 7, 6),
        cost_nano=25,
        priced=True,
    )
    assert json.loads(line) == {
        "kind": "shadow", "v": 1, "id": "0199a7b1c2d3" + "0" * 20, "at": 1_795_262_400.25,
        "policy": "test@0123456789ab", "rule": "code", "shadow": "copy", "target": "next", "model": "qwen3.5-plus",
        "key": "checkout", "team": "shop", "outcome": "ok", "status": 200,
        "usage": {"input": 9, "output": 8, "cached": 7, "reasoning": 6, "estimated": False, "written": 0},
        "cost_nano": 25, "prices": "list 2026-11", "first_s": 0.25, "duration_s": 1.5, "sample": 0.5,
    }  # fmt: skip
    copy = records.read_copy(line)
    assert copy is not None
    assert records.write(copy) == line


def test_what_a_shadow_never_had_is_left_out() -> None:
    assert not json.loads(shadowed(None, outcome="refused")).keys() & {
        "status",
        "usage",
        "cost_nano",
        "prices",
        "first_s",
    }
    assert json.loads(shadowed(None, outcome="ok"))["priced"] is False


def test_a_shadow_s_line_is_never_taken_for_that_of_a_request() -> None:
    line = shadowed(outcome="ok")
    with pytest.raises(Unreadable):
        records.read(line)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b'{"kind":"shadow"}', b'{"kind":"shadow","v":1}', b"[" * 5_000 + b'"kind"', b'\xff"kind"',
        shadowed(outcome="ok").replace(b'"v":1', b'"v":2'),
        shadowed(outcome="ok").replace(b'"shadow"', b'"other"', 1),
        shadowed(outcome="ok")[:-9],
        shadowed(outcome="ok", cost_nano=1).replace(b'"cost_nano":1', b'"cost_nano":-1'),
        shadowed(outcome="ok", usage=Usage(1)).replace(b'"input":1', b'"input":1e99'),
    ],
)  # fmt: skip
def test_what_is_no_shadow_s_line_is_none(line: bytes) -> None:
    assert records.read_copy(line) is None


def test_hostile_names_stay_inside_the_line_of_a_shadow() -> None:
    line = shadowed(key='x"}\n{"v":1}\r\u2028\x00', outcome="ok")
    assert line.count(b"\n") == 1
    assert json.loads(line)["key"] == 'x"}\n{"v":1}\r\u2028\x00'


def test_what_a_client_asked_for_is_bounded_and_no_key() -> None:
    settled = Serving()(policy(), Asked("hi"))[1]
    for asked, told in (("m" * 100_000, "m" * 512), ("sk-proj-0123456789", "***"), ("qwen3.5-plus", "qwen3.5-plus")):
        settled.record.routing.model_asked = asked
        assert json.loads(LINES(settled, False))["model_asked"] == told
    light = settled._replace(
        envelope=None, values={"headers.x-a": "sk-proj-0123456789", "headers.x-b": "b", "task": None}
    )
    assert json.loads(LINES(light, False))["signals"] == {"headers.x-b": "b", "task": None}


@pytest.mark.parametrize("form", [Recorded, Copied])
def test_every_field_of_a_line_is_documented(form: type[Recorded | Copied]) -> None:
    requests, _, shadows = DOCS.read_text().partition("leaves a line of its own")
    table = requests if form is Recorded else shadows
    told = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert set(form.__struct_fields__) <= told
