"""What is found out about a large body before it is read."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.core.largebody import MAX_LONG_DIGITS, MAX_VALUES, check_count, check_numbers, item_places, places
from gateway.core.wire import parse

PROSE = 'Some words, {and} more of them [1], with a \\"quote\\", and \\\\ too. '


def array(unit: str, count: int) -> bytes:
    return ("[" + unit + ("," + unit) * (count - 1) + "]").encode()


@pytest.mark.parametrize("unit", ["1", '"a"', '{"a":1}', '"\\\\"', '"\\""', '"[,{"', '"' + "x" * 300 + '"'])
def test_values_are_counted_and_what_strings_hold_is_not(unit: str) -> None:
    values = 2 if unit[0] == "{" else 1
    for pad in ("", '"' + PROSE * 1_000 + '",', '"' + "\\\\" * 70_000 + '",', '"' + "x" * 99_999 + '\\\\",'):
        few = b"[" + pad.encode() + array(unit, (MAX_VALUES - 10) // values) + b"]"
        many = b"[" + pad.encode() + array(unit, MAX_VALUES * 13 // 10 // values) + b"]"
        check_count(few)
        with pytest.raises(BadRequest, match="more than 100,000 values"):
            check_count(many)


def test_a_long_text_is_no_crowd_of_values() -> None:
    for text in (PROSE * 50_000, "," * 3_000_000, '\\",' * 500_000):
        check_count(b'["' + text.encode() + b'"]')
        check_count(b'["' + text.encode())


def test_long_numbers_are_refused_unless_they_are_text() -> None:
    number, few = b"9" * 1_000, MAX_LONG_DIGITS // 1_000 - 1
    check_numbers(b"[" + b", ".join([number] * few) + b"," * MAX_LONG_DIGITS + b"]")
    check_numbers(b'["' + number * 1_000 + b'"]')
    check_numbers(b"[" + b",".join([b"1234567890" * 20] * 1_000) + b"]")
    with pytest.raises(BadRequest, match="out of range"):
        check_numbers(b'["a", ' + b", ".join([number] * 100) + b"]")


SPACES = st.sampled_from(["", "", " ", "\n", "\r\n\t ", " " * 70, " " * 5_000])
NAMES = st.text(max_size=6) | st.sampled_from(['"', "\\", '\\"', "/", "é", "\U0001f600", '"' * 40])


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.integers(0, 99) | st.text(max_size=5), max_size=6), st.booleans(), st.data())
def test_every_value_is_found_where_it_stands(members: dict[str, Any], plain: bool, data: st.DataObject) -> None:
    def space() -> str:
        return data.draw(SPACES)

    text, starts = "{" + space(), []
    for number, (name, value) in enumerate(members.items()):
        text += ("," + space() if number else "") + json.dumps(name, ensure_ascii=plain) + space() + ":" + space()
        starts.append(len(text.encode()))
        text += json.dumps(value) + space()
    body = b"[" + (text + "}").encode() + b"]"
    found = msgspec.json.decode(body[1:-1], type=dict[str, msgspec.Raw])
    assert places(body, 1, len(body) - 2, found) == [start + 1 for start in starts]

    text, starts = "[" + space(), []
    for number, value in enumerate(members.values()):
        text += "," + space() if number else ""
        starts.append(len(text.encode()))
        text += json.dumps(value) + space()
    body = (text + "]").encode() + b"\n"
    assert item_places(body, 0, msgspec.json.decode(body, type=list[msgspec.Raw])) == starts


def refused_after(body: bytes, most_lines: int) -> bool:
    """Parse with every executed line of ours counted: work per byte shows there, on a machine of any speed."""
    left = most_lines

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        left -= 1
        assert left > 0, "the body was looked at in small steps"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        parse(body)
    except BadRequest:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(
    ("hostile", "refused"),
    [
        (b'"z":1' + b" " * 3_000_000, False),
        (b'"z":' + b" " * 3_000_000 + b"[1 ]", False),
        (b'"z":[' + b",".join([b"9" * 4_000] * 500) + b"]", True),
        (b'"' + b"k" * 3_000_000 + b'": 1', False),
        (b'"' + b"\\/" * 1_500_000 + b'\\"": 1', False),
        (b'"z":' + b'{"a": ' * 60 + b'"' + b"x" * 12_000_000 + b'"' + b"}" * 60, True),
        (b'"z":[' + b"{}," * 3_000_000 + b"1]", True),
        (b'"z":"' + b'\\",' * 3_000_000 + b'"', False),
    ],
    ids=["space", "space inside", "digits", "long key", "escaped key", "wrapped", "crowd", "quotes"],
)
def test_what_could_hold_the_server_for_seconds_takes_few_steps(hostile: bytes, refused: bool) -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":"hi"}],' + hostile + b"}"
    assert refused_after(body, 12_000) is refused
