"""What is found out about a large body before it is read."""

from __future__ import annotations

import json
import mmap
import sys
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.core.request.largebody import MAX_LONG_DIGITS, MAX_VALUES, check_count, check_members, check_numbers
from gateway.core.request.largetree import Grower, finish
from gateway.core.request.wire import emit, emit_pieces, parse, parse_steps
from gateway.core.text.longtext import LongText, pieces

PROSE = 'Some words, {and} more of them [1], with a \\"quote\\", and \\\\ too. '


def array(unit: str, count: int) -> bytes:
    return ("[" + unit + ("," + unit) * (count - 1) + "]").encode()


@pytest.mark.parametrize("unit", ["1", '"a"', '{"a":1}', '"\\\\"', '"\\""', '"[,{"', '"' + "x" * 300 + '"'])
def test_values_are_counted_and_what_strings_hold_is_not(unit: str) -> None:
    values = 2 if unit[0] == "{" else 1
    for pad in ("", '"' + PROSE * 1_000 + '",', '"' + "\\\\" * 70_000 + '",', '"' + "x" * 99_999 + '\\\\",'):
        few = b"[" + pad.encode() + array(unit, (MAX_VALUES - 10) // values) + b"]"
        many = b"[" + pad.encode() + array(unit, MAX_VALUES * 13 // 10 // values) + b"]"
        finish(check_count(few))
        with pytest.raises(BadRequest, match="more than 100,000 values"):
            finish(check_count(many))


def test_a_long_text_is_no_crowd_of_values() -> None:
    for text in (PROSE * 50_000, "," * 3_000_000, '\\",' * 500_000):
        finish(check_count(b'["' + text.encode() + b'"]'))
        finish(check_count(b'["' + text.encode()))


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
def test_an_object_is_walked_however_it_is_written_and_no_member_hides_in_it(
    members: dict[str, Any], plain: bool, data: st.DataObject
) -> None:
    def space() -> str:
        return data.draw(SPACES)

    text = "{" + space()
    for number, (name, value) in enumerate(members.items()):
        text += ("," + space() if number else "") + json.dumps(name, ensure_ascii=plain) + space() + ":" + space()
        text += json.dumps(value) + space()
    body = memoryview((text + "}").encode())
    found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    finish(check_members(body, found))
    if members:
        name, value = data.draw(st.sampled_from(list(members.items())))
        doubled = data.draw(st.sampled_from(["", text[1:] + ","])) + json.dumps(name) + ":" + json.dumps(value)
        body = memoryview((text + "," + doubled + "}").encode())
        with pytest.raises(BadRequest, match="duplicate key"):
            finish(check_members(body, msgspec.json.decode(body, type=dict[str, msgspec.Raw])))


def test_a_key_that_looks_like_more_of_the_object_hides_no_member() -> None:
    """The walk went on inside the second key: behind its first character stood a value of the next member."""
    hiding = f'"xnull}}{"z" * 100}":1,'
    read_by_others = '"content":[{"type":"image_url","image_url":{"url":"http://a/b"}}],"content":null'
    text = f'{{"role":"user","pad":"{"p" * 131_072}",{hiding * 2}{read_by_others}}}'
    with pytest.raises(BadRequest, match="duplicate key"):
        finish(check_members(memoryview(text.encode()), msgspec.json.decode(text, type=dict[str, msgspec.Raw])))
    with pytest.raises(BadRequest, match="duplicate key"):
        parse(f'{{"model":"a","messages":[{text}]}}'.encode())


def test_a_key_that_stands_where_another_should_is_a_second_one() -> None:
    text = b'{"ab":1,"ac":1,"ab":1,"ad":1}'
    with pytest.raises(BadRequest, match="duplicate key"):
        finish(check_members(memoryview(text), msgspec.json.decode(text, type=dict[str, msgspec.Raw])))


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
        (b'"z":1' + b" " * 3_000_000, True),
        (b'"z":' + b" " * 3_000_000 + b"[1 ]", True),
        (b'"z":[' + b",".join([b"9" * 4_000] * 500) + b"]", True),
        (b'"' + b"k" * 3_000_000 + b'": 1', True),
        (b'"' + b"\\/" * 1_500_000 + b'\\"": 1', True),
        (b'"z":' + b'{"a": ' * 60 + b'"' + b"x" * 12_000_000 + b'"' + b"}" * 60, True),
        (b'"z":[' + b"{}," * 3_000_000 + b"1]", True),
        (b'"z":"' + b'\\",' * 3_000_000 + b'"', False),
    ],
    ids=["space", "space inside", "digits", "long key", "escaped key", "wrapped", "crowd", "quotes"],
)
def test_what_could_hold_the_server_for_seconds_takes_few_steps(hostile: bytes, refused: bool) -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":"hi"}],' + hostile + b"}"
    assert refused_after(body, 100_000) is refused


# -- messages whose texts are left where they are --


def messages(count: int = 400, size: int = 500) -> list[dict[str, Any]]:
    texts = ('Some "words"\n', "émigré ", "漢字😀", "\\u0041\\", "a" * 50, "")
    return [{"role": ("user", "assistant")[n % 2], "content": texts[n % 6] * (size // 10)} for n in range(count)]


def plainly(tree: Any) -> Any:
    """A tree with its long texts decoded."""
    if isinstance(tree, dict):
        return {name: plainly(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [plainly(value) for value in tree]
    return "".join(pieces(tree, 65_536)) if isinstance(tree, LongText) else tree


def body_of(messages: list[Any], **style: Any) -> bytes:
    return json.dumps({"model": "a", "messages": messages, "n": 1}, **style).encode()


def mapped(body: bytes) -> mmap.mmap:
    """A body in memory of its own."""
    pages = mmap.mmap(-1, len(body))
    pages[:] = body
    return pages


COMPACT: dict[str, Any] = {"separators": (",", ":")}


@pytest.mark.parametrize("style", [COMPACT, {}, {"indent": 1}, COMPACT | {"ensure_ascii": False}])
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"role": "tool", "content": "x", "tool_call_id": "c"},
        {"content": "x", "role": "user"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": None},
        {"role": 'a"\\', "content": "x"},
    ],
    ids=["all alike", "another member", "another order", "parts", "null", "odd role"],
)
def test_messages_of_any_shape_read_as_any_parser_reads_them(style: dict[str, Any], odd: dict[str, Any]) -> None:
    for at in (0, 200, 400):
        some = messages()
        if odd:
            some.insert(at, odd)
        body = body_of(some, **style)
        assert plainly(parse(body).tree) == json.loads(body)
        for kind in (bytearray, mapped):
            envelope = finish(parse_steps(kind(body)))
            assert plainly(envelope.tree) == json.loads(body)
            assert emit(envelope, {}) == emit(parse(body), {})


@pytest.mark.parametrize("style", [COMPACT, {}])
def test_texts_of_usual_messages_are_not_copied(style: dict[str, Any]) -> None:
    kinds: dict[bool, set[type]] = {False: set(), True: set()}
    for one, read in zip(messages(), parse(body_of(messages(), **style)).tree["messages"], strict=True):
        kinds[len(one["content"]) > 150].add(type(read["content"]))
    assert kinds[True] == {LongText}


@pytest.mark.parametrize("style", [COMPACT, {}, COMPACT | {"ensure_ascii": False}])
def test_a_usual_body_is_looked_at_once(style: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of([*messages(), {"role": "user", "content": "A long document. " * 10_000}], **style)
    monkeypatch.delattr(Grower, "tree")
    assert plainly(parse(body).tree) == json.loads(body)


def course() -> list[dict[str, Any]]:
    """What is sent around calls of tools, and in parts."""
    call = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "/a"}'}}
    text, image = {"type": "text", "text": "A page. " * 500}, {"type": "image_url", "image_url": {"url": "http://x"}}
    return [
        {"role": "user", "content": [text, text]},
        {"role": "user", "content": [text, image], "name": "émile"},
        {"role": "user", "content": [{"type": "text", "text": "short"}]},
        {"role": "user", "content": [{**text, "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call, call], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": 'He said "yes". ' * 500},
        {"role": "assistant", "reasoning_content": "Well. " * 50, "tool_calls": [call]},
    ] * 30


def test_calls_of_tools_and_parts_are_looked_at_once_and_their_long_texts_not_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = body_of(course(), **COMPACT)
    monkeypatch.delattr(Grower, "tree")
    for kind in (bytes, bytearray, mapped):
        tree = finish(parse_steps(kind(body))).tree
        assert plainly(tree) == json.loads(body)
        assert type(tree["messages"][0]["content"][1]["text"]) is type(tree["messages"][5]["content"]) is LongText


@pytest.mark.parametrize(
    ("plain", "other", "refusal"),
    [
        (b'"tool_call_id":"call_1"', b'"tool_call_id":"call_1","tool_call_id":"call_1"', "duplicate key"),
        (b'{"role":"tool"', b'{"content":"x","role":"tool"', "duplicate key"),
        (b'"function":{"name":"read"', b'"function":{"name":"read","name":"rm"', "duplicate key"),
        (b'{"type":"text","text":"A', b'{"type":"text","text":"B","text":"A', "duplicate key"),
        (b'{"type":"text","text":"A', b'{"type":"text","type":"text","text":"A', "duplicate key"),
        (b'"tool_calls":[', b'"tool_calls":[%b,' % (b"[" * 62 + b"]" * 62), "nested deeper"),
        (b'"content":null', b'"content":7', r"messages\[4\]"),
        (b'"role":"user"', b'"role":""', r"messages\[0\]"),
        (b'"tool_calls":[', b'"tool_calls":[%b,' % (b"9" * 60_000), "out of range"),
    ],
)
def test_calls_of_tools_and_parts_are_read_as_strictly(plain: bytes, other: bytes, refusal: str) -> None:
    body = body_of(course(), **COMPACT)
    assert plain in body
    for kind in (bytes, mapped):
        with pytest.raises(BadRequest, match=refusal):
            finish(parse_steps(kind(body.replace(plain, other, 1))))


def test_what_is_long_beside_the_texts_is_read_as_well() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "write", "arguments": "x" * 200_000}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}
    for odd in ({"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": [image]}, {"role": "user"}):
        body = body_of([*course(), odd], **COMPACT)
        assert plainly(finish(parse_steps(mapped(body))).tree) == json.loads(body)


TURN = b'{"role":"user","content":"%b"}'
LONG = b",".join([TURN % (b"x" * 5_000)] * 40)


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":{"messages":[%b]},"messages":[%b],"model":"a"}' % (LONG, TURN % b"y"),
        b'{"x":{"messages":[%b]},"model":"a","messages":[%b]}' % (TURN % b"y", LONG),
        b'{"x":{"messages":[%b]},"model":"a","messages":[%b]}' % (TURN % b"yy", TURN % b"xx"),
        b'{"x\\"messages":[%b],"messages":[%b],"model":"a"}' % (LONG, TURN % b"y"),
        b'{"\\u006dessages":[%b],"x":{"messages":[%b]},"model":"a"}' % (TURN % b"y", LONG),
        b'{"model":"a","messages":[%b],"x":[{"role":"user"}]}' % LONG,
        b'{"model":"a","messages":[%b]  }  ' % LONG,
        b'{"model":"a","messages":[%b ],"n":1}' % LONG,
        b'{"model":"a","messages":[%b],"x":"%b"}' % (LONG, b"z" * 70_000),
        b'{"x":"%b","model":"a","messages":[%b]}' % (b"z" * 70_000, LONG),
        b'{"model":"a","messages":[%b,%b]}' % (LONG, TURN.replace(b'"user"', b'"us\\u0065r"') % b'],\\"n\\":1'),
        b'{"model":"a","messages":[%b,%b],"n":1}' % (LONG, TURN.replace(b'"user"', b'"us\\u0065r"') % b"abcd]"),
    ],
)
def test_messages_are_found_where_any_parser_finds_them(body: bytes) -> None:
    body = body.replace(b"\\\\", b"\\")
    for kind in (bytes, bytearray, mapped):
        envelope = finish(parse_steps(kind(body)))
        assert plainly(envelope.tree) == json.loads(body)
        assert json.loads(bytes(envelope.members["messages"])) == json.loads(body)["messages"]


@pytest.mark.parametrize(
    ("behind", "refusal"),
    [
        (b'"n":1,"n":2}', "duplicate key"),
        (b'"model":"b"}', "duplicate key"),
        (b'"messages":[{"role":"user","content":"hi"}]}', "duplicate key"),
        (b'"messages":0}', "duplicate key"),
        (b'"x":{"a":1,"a":1}}', "duplicate key"),
        (b'"x":%b}' % (b"[" * 64 + b"]" * 64), "nested deeper"),
        (b'"x":"\xff"}', "UTF-8"),
        (b'"n":1', "not valid JSON"),
        (b'"n":1}}', "not valid JSON"),
        (b'"x":[%b]}' % (b"9" * 60_000), "out of range"),
    ],
)
def test_what_stands_around_usual_messages_is_read_as_strictly(behind: bytes, refusal: str) -> None:
    for content in (LONG, LONG.replace(b"xx", b"\xc3\xa9")):
        body = b'{"model":"a","messages":[%b],%b' % (content, behind)
        for kind in (bytes, bytearray, mapped):
            with pytest.raises(BadRequest, match=refusal):
                finish(parse_steps(kind(body)))


def test_a_character_that_is_none_is_found_wherever_a_large_body_is_cut() -> None:
    for at in (65_530, 65_534, 65_535, 65_536, 131_071, 199_990):
        text = bytearray("é".encode() * 100_000)
        text[at] = 0xFF
        with pytest.raises(BadRequest, match="UTF-8"):
            finish(parse_steps(mapped(b'{"model":"a","messages":[%b]}' % (TURN % bytes(text)))))


@pytest.mark.parametrize("style", [COMPACT, {}])
@pytest.mark.parametrize(
    ("plain", "doubled"),
    [
        ('"content":"x"}', '"content":"y","content":"x"}'),
        ('"content":"x"}', '"content":"x","content":"x"}'),
        ('"content":"x"}', '"c\\u006fntent":"y","content":"x"}'),
        ('"content":"x"}', '"content":"x","role":"user"}'),
        ('{"role":"user","content":"x"}', '{"role":"tool","role":"user","content":"x"}'),
    ],
)
def test_no_member_hides_in_a_message(style: dict[str, Any], plain: str, doubled: str) -> None:
    for at in (0, 200, 400):
        some = messages()
        some.insert(at, {"role": "user", "content": "x"})
        text = body_of(some, **style).decode()
        if style is not COMPACT:
            plain, doubled = (each.replace('":"', '": "').replace('","', '", "') for each in (plain, doubled))
        assert plain in text
        with pytest.raises(BadRequest, match="duplicate key"):
            parse(text.replace(plain, doubled, 1).encode())


@pytest.mark.parametrize(
    "odd",
    [
        '{"role": "user", "content": "x", "content": "%s"}',
        '{"role": "user", "content": [{"a": 1}, {"role": "user", "content": "%s"}], "content": "x"}',
        '{"role": "user", "content": [{"a": 1}, {"role": "user", "content": "x"}], "content": "%s"}',
        '{"role": "user", "content": "}, {\\"role\\": \\"user\\", \\"content\\": ", "content": "%s"}',
        '{"role": "user", "content": "%s", "content": "}, {"}',
    ],
)
def test_spaces_hide_no_member_of_a_message_whatever_its_length(odd: str) -> None:
    whole = [f'{{"role": "user", "content": "{"x" * 5_000}"}}'] * 40
    for length in (0, 1, 3, 5, 17, 43, 44, 45, 46, 60, 5_000):
        for at in (0, 20, 40):
            text = ", ".join([*whole[:at], odd % ("x" * length), *whole[at:]])
            with pytest.raises(BadRequest, match="duplicate key"):
                parse(f'{{"model": "a", "messages": [{text}], "n": 1}}'.encode())


def test_a_body_is_read_in_steps_none_of_which_looks_at_many_values() -> None:
    many = [{"role": "user", "content": "x", "name": "y"} for _ in range(MAX_VALUES // 5)]
    for body in (body_of(many), body_of(messages(20_000, 30)), body_of(messages(20_000, 30), **COMPACT)):
        lines = taken = longest = 0

        def count(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal lines
            lines += 1
            return count

        steps = parse_steps(body)
        before = sys.gettrace()
        while True:
            lines = 0
            sys.settrace(count)
            try:
                next(steps)
            except StopIteration:
                break
            finally:
                sys.settrace(before)
            longest, taken = max(longest, lines), taken + 1
        assert taken > 10
        assert 0 < longest < 6 * len(many), "a step takes more than a glance at each message"


def test_pieces_to_send_are_the_body_and_its_long_members_are_not_copied() -> None:
    body = body_of(messages(), **COMPACT)
    envelope = parse(body)
    for overrides in ({}, {"model": b'"m"', "n": None, "stream": b"true"}, {"messages": None}):
        pieces = emit_pieces(envelope, overrides)
        assert b"".join(pieces) == emit(envelope, overrides)
        assert any(isinstance(piece, memoryview) for piece in pieces) is ("messages" not in overrides)
        assert len(pieces) <= 3


@pytest.mark.parametrize("unit", ["One, two, three. ", '"Quoted", she said, ', "1, 2, [3], {4} ", "\\", 'a\\"b,'])
def test_a_text_full_of_commas_is_not_counted_byte_by_byte(unit: str) -> None:
    text = json.dumps(unit * (6_000_000 // len(unit)))
    assert len(list(check_count(b'{"a":' + text.encode() + b"}"))) <= 2


def test_values_are_counted_where_texts_stand_between() -> None:
    text = json.dumps("One, two. " * 10)
    for unit in (f"[1,2,{text}]", f'{{"a":1,"b":2,"c":{text}}}', f"[[],[],[],{text}]"):
        with pytest.raises(BadRequest, match="more than 100,000 values"):
            finish(check_count(b"[" + b",".join([unit.encode()] * 30_000) + b"]"))


@pytest.mark.parametrize("written", ['[%s, {"x":1}]', '[ %s,{"x":1}]', "[%s,7]", "[[%s],[ %s]]"])
def test_texts_stay_where_they_are_in_arrays_that_are_written_in_their_own_way(written: str) -> None:
    """Decoded, a text with one emoji takes four times its bytes."""
    inner = '{"type":"function" ,"arguments":"\U0001f600' + "x" * 4_000 + '"}'
    call = written.replace("%s", inner)
    message = '{"role":"assistant","content":null,"tool_calls":' + call + "}"
    text = ('{"model":"a","messages":[' + ",".join([message] * 40) + "]}").encode()
    for read in finish(parse_steps(text)).get("messages"):
        found = read["tool_calls"][0]
        assert type((found[0] if type(found) is list else found)["arguments"]) is LongText


def test_long_names_are_compared_a_little_at_a_time() -> None:
    members = {f"{number}" + "a" * 60_000: 1 for number in range(50)}
    text = ("{" + ",".join('"' + name.replace("a", "\\u0061") + '":1' for name in members) + "}").encode()
    steps = list(check_members(memoryview(text), msgspec.json.decode(text, type=dict[str, msgspec.Raw])))
    assert len(steps) > len(text) >> 21
