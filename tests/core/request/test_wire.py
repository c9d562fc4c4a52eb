import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.core.request import wire
from gateway.core.request.largebody import MAX_VALUES
from gateway.core.request.wire import MAX_DEPTH, WHOLE_BYTES, emit, parse
from gateway.core.text.longtext import pieces, size_of

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


def chat(**members: Any) -> bytes:
    return json.dumps({**CHAT, **members}).encode()


def refusal(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(body)
    return caught.value


def raw_chat(extra: bytes) -> bytes:
    return b'{"model":"auto","messages":[{"role":"user","content":"hi"}],' + extra + b"}"


# --- one meaning per body ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"[]",
        b"null",
        b'"auto"',
        b'{"model":"auto"',
        raw_chat(b'"a":NaN'),
        raw_chat(b'"a":Infinity'),
        raw_chat(b'"a":-Infinity'),
        raw_chat(b'"a":01'),
        raw_chat(b'"a":1.'),
        raw_chat(b'"a":+1'),
        raw_chat(b'"a":1e999'),
        raw_chat(b'"a":' + b"9" * 5000),
        raw_chat(b"'a':1"),
        raw_chat(b'"a":1,'),
        raw_chat(b'"a":"\\x"'),
        raw_chat(b'"a":"\\ud800"'),
        raw_chat(b'"a":"\\udc00"'),
        raw_chat(b'"a":"\\ud800\\u0041"'),
        raw_chat(b'"\\ud800":1'),
        raw_chat(b'"a":"\xff"'),
        raw_chat(b'"a":"\xed\xa0\x80"'),  # a surrogate in UTF-8's clothes
        raw_chat(b'"a":"\xc0\xaf"'),  # overlong
        raw_chat(b'"\xff":1'),
        raw_chat(b'"a":"\x01"'),
        raw_chat(b'"a":1') + b" x",
        raw_chat(b'"a":1') + b"{}",
        raw_chat(b'"a":1') + b"\x00",
        b"\xef\xbb\xbf" + chat(),
        chat().decode().encode("utf-16"),
        raw_chat(b"/* c */" + b'"a":1'),
    ],
)
def test_what_is_not_one_plain_json_object_is_invalid_json(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"a","mod\\u0065l":"b","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"a","messages":[{"role":"user","role":"user","content":"hi"}]}',
        raw_chat(b'"a":{"b":[1,{"c":1,"c":1}]}'),
        raw_chat(b'"a":{"b":1, "b" : 2}'),
        raw_chat(b'"a":{"":1,"":2}'),
        raw_chat(b'"a":{"\xc3\xa9":1,"\\u00e9":2}'),
        raw_chat(b'"x":1,"x":1'),
    ],
)
def test_a_key_that_appears_twice_is_refused_at_any_depth(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"
    assert "duplicate key" in refusal(body).message


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("large", [False, True])
def test_nesting_is_bounded_at_exactly_max_depth(opening: str, large: bool) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]
    padding = {"pad": "x" * WHOLE_BYTES} if large else {}

    def nested(levels: int) -> bytes:  # the body is the first level
        inner = opening * (levels - 1) + "1" + closing * (levels - 1)
        return chat(**padding)[:-1] + f',"a":{inner}}}'.encode()

    assert parse(nested(MAX_DEPTH)).get("a")
    for levels in (MAX_DEPTH + 1, 500, 50_000):
        error = refusal(nested(levels))
        assert (error.code, "nested deeper" in error.message) == ("invalid_json", True)


def test_nesting_is_bounded_inside_large_containers_too() -> None:
    body = chat(a=[[["x" * WHOLE_BYTES, "REPLACE"]]])
    inner = "[" * (MAX_DEPTH - 4), "]" * (MAX_DEPTH - 4)
    parse(body.replace(b'"REPLACE"', (inner[0] + inner[1]).encode()))
    assert "nested" in refusal(body.replace(b'"REPLACE"', ("[" + inner[0] + inner[1] + "]").encode())).message


def test_bodies_are_judged_alike_below_and_above_the_size_where_reading_changes() -> None:
    big = b'"pad":"' + b"x" * WHOLE_BYTES + b'",'
    for bad in (
        b'"a":{"b":1,"b":1}',
        b'"pad":1',
        b'"a":"\xff"',
        b'"\xff":1',
        b'"a":"\\ud800"',
        b'"a":NaN',
        b'"a":"\xed\xa0\x80"',
    ):
        for body in (raw_chat(big + bad), raw_chat(big + bad).replace(b",", b" ,\n").replace(b":", b" : ")):
            assert refusal(body).code == "invalid_json", bad


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n\t", "\r\n : ")])
def test_a_duplicate_beside_a_long_string_is_found_however_it_is_spaced(separators: tuple[str, str]) -> None:
    comma, colon = separators
    long = '"' + 'x\\"é' * WHOLE_BYTES + '"'
    for first, second in ((long, "1"), ("1", long), (long, long), ("12", "1")):
        members = [f'"k"{colon}{first}', f'"o"{colon}{long}', f'"k"{colon}{second}']
        inner = "{" + comma.join(members) + "}"
        body = (
            f'{{"model"{colon}"a"{comma}"messages"{colon}[{{"role":"user","content":"hi"}}]{comma}"m"{colon}{inner}}}'
        )
        assert "duplicate" in refusal(body.encode()).message
        assert parse(body.replace('"k"', '"l"', 1).encode()).model_asked == "a"


@pytest.mark.parametrize("space", [b"", b"\n", b" ", b"\r\n\t ", b"\r" * 15])
@pytest.mark.parametrize("pad", [0, WHOLE_BYTES])
def test_white_space_around_a_body_means_nothing(space: bytes, pad: int) -> None:
    body = chat(pad="x" * pad, seed=7)
    around = space + body + space
    assert json.loads(emit(parse(around), {})) == json.loads(body)
    assert "duplicate" in refusal(space + body[:-1] + b',"seed":8}' + space).message


def test_a_doubled_key_cannot_hide_behind_a_value_that_ends_like_an_object() -> None:
    long = "x" * WHOLE_BYTES
    assert "duplicate" in refusal(raw_chat(f'"m": {{"k": "aaaa}}{long}", "k": 12345}}'.encode())).message


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xe8\xaa"])
@pytest.mark.parametrize("before", [0, 1, 65_530, 65_535, WHOLE_BYTES])
def test_bytes_that_are_no_utf8_are_found_in_long_strings(bad: bytes, before: int) -> None:
    text = b"x" * before + bad + "é語😀".encode() * WHOLE_BYTES
    assert "UTF-8" in refusal(raw_chat(b'"a":"' + text + b'"')).message
    good = text.replace(bad, "😀".encode(), 1)
    assert size_of(parse(raw_chat(b'"a":"' + good + b'"')).get("a")) == len(good)


def test_a_number_as_long_as_a_document_is_refused() -> None:
    assert refusal(raw_chat(b'"a":1' + b"0" * WHOLE_BYTES)).code == "invalid_json"


@pytest.mark.parametrize("unit", [b"{},", b"1,", b'"a",', b"[1] , ", b'{"a":"\\\\"},', b'"\\",\\"",'])
def test_a_body_that_would_become_millions_of_values_is_refused(unit: bytes) -> None:
    def padded(count: int) -> bytes:
        return raw_chat(b'"a":[' + unit * count + b'0],"b":"' + b"x" * 2 * MAX_VALUES + b'"')

    assert "more than 100,000 values" in refusal(padded(MAX_VALUES * 6 // 5)).message
    assert parse(padded(1_000)).model_asked == "auto"


def test_separators_inside_strings_are_no_values() -> None:
    text = '{[,"' * (MAX_VALUES // 2)
    assert size_of(parse(chat(text=text)).get("text")) >= len(text)
    assert parse(chat(text=text, b=["," * WHOLE_BYTES] * 3)).model_asked == "auto"


def test_long_and_short_members_keep_their_places() -> None:
    long = "x" * (WHOLE_BYTES + 1)
    items = [1, long, {"a": [long, 2, {"b": long}], "c": 3}, "é", long, []]
    for text in (json.dumps(items), json.dumps(items, indent=2), json.dumps(items, separators=(",", ":"))):
        found = parse(raw_chat(b'"items":' + text.encode())).get("items")
        shown = json.dumps(found, default=lambda value: "".join(pieces(value, 65_536)))
        assert json.loads(shown) == items


def test_no_error_text_repeats_what_the_client_wrote() -> None:
    secret = "s3cret"
    for body in (
        chat(model=[secret]),
        chat(tools={secret: 1}),
        chat(stream=secret),
        chat(messages=[{secret: 1}]),
        b'{"' + secret.encode(),
        raw_chat(b'"s3cret":1,"s3cret":2'),
    ):
        error = refusal(body)
        assert secret not in error.message
        assert secret not in str(error.param)


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}, {"text": "x"}]}]}, "messages[0].content[1]"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 129}, "n"),
        ({"best_of": 129}, "best_of"),
        ({"best_of": "many"}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "100"}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": []}, "top_p"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": 1}}, "response_format.type"),
        ({"reasoning_effort": 1}, "reasoning_effort"),
        ({"service_tier": {}}, "service_tier"),
        ({"metadata": "a=b"}, "metadata"),
    ],
)
def test_a_member_of_the_wrong_type_is_named(members: dict[str, Any], param: str) -> None:
    for size in (0, WHOLE_BYTES):  # both ways of reading
        error = refusal(chat(**members, pad="x" * size))
        assert (error.code, error.param) == ("bad_request", param)


def test_null_members_count_as_missing() -> None:
    envelope = parse(chat(stream=None, stream_options=None, tools=None, max_tokens=None, n=None, metadata=None))
    assert (envelope.stream, envelope.include_usage, envelope.get("tools")) == (False, False, None)


def test_the_envelope_says_what_routing_needs() -> None:
    body = chat(model="gpt-4o", stream=True, stream_options={"include_usage": True}, max_tokens=5)
    envelope = parse(body)
    assert envelope.model_asked == "gpt-4o"
    assert envelope.stream
    assert envelope.include_usage
    assert envelope.size == len(body)
    assert envelope.get("max_tokens") == 5
    assert envelope.get("nothing") is None
    assert list(envelope.members)[:2] == ["model", "messages"]
    assert "hi" not in repr(envelope)


# --- what is authorised is what is sent -------------------------------------------------------------------------------


def test_unknown_members_pass_through_and_no_digit_is_lost() -> None:
    body = raw_chat(b'"seed": 123456789012345678901234567890, "x": 1.10000000000000000000001, "y": {"z" : [ 1E5 ]}')
    sent = emit(parse(body), {"model": b'"qwen"'})
    assert b'"seed": 123456789012345678901234567890,' in sent
    assert b'"x": 1.10000000000000000000001,' in sent
    assert b"1E5" in sent
    assert sent.startswith(b'{"model":"qwen","messages":[')


@pytest.mark.parametrize("pad", [0, WHOLE_BYTES])
def test_overrides_replace_add_and_drop_and_leave_the_envelope_alone(pad: int) -> None:
    envelope = parse(chat(seed=7, user="u", pad="x" * pad))
    sent = json.loads(emit(envelope, {"model": b'"m"', "seed": None, "stream": b"true", "never": None}))
    assert sent == {**CHAT, "model": "m", "user": "u", "pad": "x" * pad, "stream": True}
    assert json.loads(emit(envelope, {})) == {**CHAT, "seed": 7, "user": "u", "pad": "x" * pad}


# --- properties -------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
OTHER_MEMBERS = st.dictionaries(st.text(min_size=1, max_size=6).map(lambda name: f"x_{name}"), VALUES, max_size=4)
STYLES = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"separators": (" , ", " : ")},
        {"indent": 1},
        {"separators": (",", ":"), "ensure_ascii": False},
    ]
)


@settings(max_examples=150)
@given(members=OTHER_MEMBERS, style=STYLES)
def test_what_is_emitted_means_what_was_parsed(members: dict[str, Any], style: dict[str, Any]) -> None:
    value = {**CHAT, **members}
    body = json.dumps(value, **style).encode()
    sent = emit(parse(body), {})
    assert json.loads(sent) == json.loads(body)
    assert json.loads(sent, parse_float=str, parse_int=str) == json.loads(body, parse_float=str, parse_int=str)


def doubled(value: Any, style: dict[str, Any]) -> Any:
    """Every JSON text in which one object of `value` repeats one of its keys."""
    text = json.dumps(value, **style)
    if isinstance(value, dict):
        for key, member in value.items():
            pair = json.dumps({key: member}, **style)
            yield text[: text.rindex("}")].rstrip() + "," + pair[pair.index("{") + 1 :]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in children:
        for inner in doubled(member, style):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = "\x00HOLE"
            yield json.dumps(copy, **style).replace(json.dumps("\x00HOLE"), inner)


@settings(max_examples=60)
@given(members=OTHER_MEMBERS, style=STYLES)
def test_every_body_with_a_doubled_key_is_refused(members: dict[str, Any], style: dict[str, Any]) -> None:
    for body in doubled({**CHAT, **members}, style):
        assert "duplicate" in refusal(body.encode()).message


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_parse_raises_nothing_but_bad_request_on_any_bytes(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(body)


WITNESS = chat(x={"a": ["é", 1.5]}, stream=True)


@settings(max_examples=300)
@given(at=st.integers(0, len(WITNESS) - 1), by=st.binary(max_size=3), large=st.booleans())
@example(at=len(WITNESS) - 1, by=b"}\n", large=False)
def test_a_damaged_body_is_refused_or_read_as_every_strict_parser_reads_it(at: int, by: bytes, large: bool) -> None:
    body = WITNESS[:at] + by + WITNESS[at + 1 :]
    if large:
        body = b'{"pad":"' + b"x" * WHOLE_BYTES + b'",' + body[1:]
    try:
        envelope = parse(body)
    except BadRequest:
        return
    assert msgspec.json.decode(emit(envelope, {})) == msgspec.json.decode(body) == json.loads(body)


def read(body: bytes) -> Any:
    """What parsing comes to: the emitted value, or the code and text of the refusal."""
    try:
        return json.loads(emit(parse(body), {}))
    except BadRequest as error:
        return error.code, error.message.partition(" (")[0], error.param


@settings(max_examples=250)
@given(members=OTHER_MEMBERS, style=STYLES, at=st.integers(0, 400), by=st.binary(max_size=2), damaged=st.booleans())
def test_both_ways_of_reading_come_to_the_same(
    members: dict[str, Any], style: dict[str, Any], at: int, by: bytes, damaged: bool
) -> None:
    bodies = [json.dumps({**CHAT, **members}, **style).encode()]
    if damaged:
        bodies = [bodies[0][: at % len(bodies[0])] + by + bodies[0][at % len(bodies[0]) + 1 :]]
    else:
        bodies += [text.encode() for text in doubled({**CHAT, **members}, style)][:6]
    for body in bodies:
        whole = read(body)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire, "WHOLE_BYTES", 30)  # longer than any number made here
            assert read(body) == whole


@pytest.mark.parametrize(
    ("body", "overrides", "sent"),
    [
        (b'{"model":"auto","messages":[],"n":1}', {"model": b'"q"'}, b'{"model":"q","messages":[],"n":1}'),
        (b'{"model":"auto","messages":[]}', {"model": b'"q"', 'a"': b"1"}, b'{"model":"q","messages":[],"a\\"":1}'),
        (b'{"model":"auto","messages":[],"n":1}', {"model": b'"q"', "n": None}, b'{"model":"q","messages":[]}'),
        (b'{"model":"auto","messages":[],"n":1}', {"model": b'"q"', "n": b"2"}, b'{"model":"q","messages":[],"n":2}'),
        (b'{"messages":[],"model":"auto"}', {"model": b'"q"'}, b'{"messages":[],"model":"q"}'),
        (b'{"model":"auto","messages":[]} ', {"model": b'"q"', "n": b"2"}, b'{"model":"q","messages":[],"n":2}'),
        (b'{"model":"\\u0061uto","messages":[]}', {"model": b'"q"'}, b'{"model":"q","messages":[]}'),
        (b'{"model":"auto","messages":[]}', {"seed": b"1"}, b'{"model":"auto","messages":[],"seed":1}'),
    ],
)
def test_a_body_is_emitted_alike_whether_edited_or_put_together(
    body: bytes, overrides: dict[str, bytes | None], sent: bytes
) -> None:
    turn = b'[{"role":"user","content":"hi"}]'
    assert emit(parse(body.replace(b"[]", turn)), overrides) == sent.replace(b"[]", turn)
