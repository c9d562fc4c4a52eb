"""Text compared with what was read of it, written the way its encoder wrote it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.core.request.glue import glue_of, stands, table
from gateway.core.request.wire import parse

STYLES: list[dict[str, Any]] = [{"separators": (",", ":")}, {}, {"indent": 2}, {"indent": "\t"}, {"indent": 0}]
NAMES = st.text(max_size=5) | st.sampled_from(["role", "content", ",", ": ", '"', "é"])
OBJECTS = st.lists(st.dictionaries(NAMES, st.text(max_size=6) | st.lists(st.integers(0, 9), max_size=2), max_size=4))


@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None, max_examples=60)
@given(OBJECTS)
def test_what_encoders_write_is_known_byte_for_byte(style: dict[str, Any], objects: list[dict[str, Any]]) -> None:
    body = json.dumps({"x": [{"a": 1}, *objects]}, ensure_ascii=False, **style).encode()
    glue = glue_of(body)
    at = body.index(b"[")
    array = body[at : body.rindex(b"]") + 1]
    read = msgspec.json.decode(array, type=list[dict[str, msgspec.Raw]])
    if all(type(value) is str for one in objects for value in one.values()):  # what they hold is written as it was
        assert glue.array_size(table(read), 1, 1) == len(array)
    pieces = list(glue.array_pieces(read, 1))
    assert sum(map(len, pieces)) == glue.array_size(table(read), 1, 1)
    if glue.array_size(table(read), 1, 1) == len(array):
        assert all(stands(iter(pieces), memoryview(body)[at:]))
        assert not all(stands(iter(pieces), memoryview(body)[at + 1 :]))


@pytest.mark.parametrize("begin", ['{"model"' + " " * 60_000 + ":", "{\n" + " " * 60_000 + '"model":'])
def test_no_white_space_of_a_body_is_written_again_for_each_of_its_members(begin: str) -> None:
    """A body of 200 KB took gigabytes and seconds: it was compared with a text of its own making."""
    crowd = ",".join(f'"{number:x}":1' for number in range(8_000))
    messages = ",".join([f'{{"role":"user","content":"x",{crowd}}}'] * 2)
    body = f'{begin}"auto","pad":"{"p" * 140_000}","messages":[{messages}]}}'.encode()
    tracemalloc.start()
    try:
        assert parse(body).get("messages")[1]["content"] == "x"
        assert tracemalloc.get_traced_memory()[1] < 40 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["id", "name", "type", "content"])
def test_no_style_hides_a_member(style: dict[str, Any], name: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "x" * 300}}
    some = [
        {"role": "assistant", "content": [{"type": "text", "text": "y" * 900}], "tool_calls": [call], "n": number}
        for number in range(200)
    ]
    text = json.dumps({"model": "a", "messages": some}, **style)
    assert parse(text.encode()).get("messages")[7]["n"] == 7
    for at in (0, len(text) // 2):
        place = text.index(f'"{name}"', at)
        doubled = f'{text[:place]}"{name}":"z",{text[place:]}'
        with pytest.raises(BadRequest, match="duplicate key"):
            parse(doubled.encode())
