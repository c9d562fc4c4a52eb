"""What must hold of every parser that reads bytes from outside, whatever the bytes: one function for each kind.

A function is given bytes and returns, or fails with what does not hold. `test_corpus.py` gives them the corpus, as CI
does; `grow.py`, by hand, what atheris makes of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from gateway.core.answer.sse import Relay
from gateway.core.answer.whole import parse_answer, parse_tagged
from gateway.core.errors import BadRequest, ConfigError
from gateway.core.recorded.redaction import redacted
from gateway.core.request import wire
from gateway.core.request.largetree import finish
from gateway.core.request.tracecontext import parent_of
from gateway.core.servers import ollamaanswers
from gateway.core.servers.refusals import MESSAGE_MAX, classify, relayed_error
from gateway.core.servers.respell import Respelling, respell_history
from gateway.core.types import Outcome
from gateway.proxy import heads
from gateway.proxy.framing import Chunked, FramingError
from gateway.proxy.heads import Familiar, HeadError
from gateway.yamlfile import loads

SECRET = "canary-owl-0123456789"


def reads(data: bytes) -> Iterator[list[bytes]]:
    """Ways in which the same bytes may come: whole, byte by byte, and in pieces of sizes that hang on the bytes."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    chance = random.Random(hashlib.sha256(data).digest())
    for most in (3, 40, 700):
        made, at = [], 0
        while at < len(data):
            size = chance.randint(1, most)
            made.append(data[at : at + size])
            at += size
        yield made


def sse(data: bytes) -> None:
    """An upstream's stream: the same bytes and facts in any cut, and an end or a failure, never both."""
    made: list[Callable[[], Any]] = [
        lambda: Relay(False), lambda: Relay(True, choices=2), lambda: Relay(True, 300),
        lambda: Respelling("reasoning", False), lambda: ollamaanswers.Relay(True),
    ]  # fmt: skip
    for make in made:
        first = None
        for cut in reads(data):
            relay = make()
            out = b"".join([relay.feed(read) for read in cut]) + relay.end()
            told = (
                out, relay.committed, relay.done, relay.failure, relay.usage, relay.error_status, relay.error_body,
                relay.output_chars,
            )  # fmt: skip
            first = first or told
            assert told == first, "another cut came to something else"
            assert not (relay.done and relay.failure)
            assert relay.done or relay.failure is not None, "neither ended nor failed"
            assert relay.committed or out == b"", "something was sent before the commit point"
            assert type(relay) is not Relay or set(_data_lines(out)) <= set(_data_lines(data)) | {b"data: [DONE]"}
    parse_answer(data)
    parse_tagged(data)
    ollamaanswers.parse(data)


def _data_lines(stream: bytes) -> list[bytes]:
    lines = stream.replace(b"\xef\xbb\xbf", b"").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return [line for line in lines if line.startswith(b"data")]


def body(data: bytes) -> None:
    """A request's body: refused, or read as every strict reader reads it; small and large bodies alike."""
    whole = _read(data)
    try:
        stepped: Any = finish(wire.parse_steps(data)).tree
    except BadRequest as error:
        stepped = error.code
    assert (stepped if type(stepped) is str else "read") == (whole if type(whole) is str else "read")
    respell_history(data, "reasoning")


def _read(data: bytes) -> Any:
    refused: BadRequest | None = None
    try:
        envelope = wire.parse(data)
    except BadRequest as error:
        refused = error
    if refused is not None:
        assert refused.code in ("invalid_json", "bad_request")
        assert len(refused.message) < 400
        return refused.code
    seen: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a key twice"
        return dict(pairs)

    def never(word: str) -> None:
        seen.append(word)

    tree = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=never)
    assert not seen, "NaN or Infinity"
    sent = wire.emit(envelope, {"model": b'"sent"', "max_tokens": b"7"})
    again = json.loads(sent.decode("utf-8"), object_pairs_hook=unique)
    assert again == {**tree, "model": "sent", "max_tokens": 7}, "what is sent is not what was read"
    json.dumps(tree, ensure_ascii=False).encode("utf-8")  # no lone surrogate
    return tree


def refusal(data: bytes) -> None:
    """An upstream's error: bounded, without what opened its door, and always of a known meaning."""
    for status in (400, 401, 404, 413, 422, 429, 500, 503):
        assert isinstance(classify(status, data), Outcome)
        told = relayed_error(status, data, (SECRET,))
        if told is not None:
            assert 400 <= told[0] < 500
            assert len(told[2]) < 14 * MESSAGE_MAX
            error = json.loads(told[2])["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert SECRET not in json.dumps(error, ensure_ascii=False)
    text = data.decode("utf-8", "replace")
    assert SECRET not in redacted(text, (SECRET,))


def http(data: bytes) -> None:
    """A client's head, and the chunked body behind it: both readers of a head agree, and so do all cuts of a body."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if found:
        raw = head + b"\r\n\r\n"
        plain = heads._parse_plain(raw)
        try:
            strict = _slowly(raw)
        except HeadError:
            strict = None
        if plain is not None:
            assert strict is not None, "the quick reader took what the strict one refuses"
            assert plain == strict, "two readers, two meanings"
            if b"content-length" in plain.headers:
                _familiar(raw, plain.length)
            parent_of(raw)
        if strict is not None:
            assert not (b"content-length" in strict.headers and b"transfer-encoding" in strict.headers)
            assert b"\n" not in strict.url
            assert all(b"\n" not in value and b"\0" not in value for value in strict.headers.values())
    chunked(rest if found else data)


JUDGED = (b"host", b"authorization", b"content-encoding", b"origin", b"connection", b"transfer-encoding", b"expect")


def _familiar(raw: bytes, length: int | None) -> None:
    """A head that is taken for one known before says the same in all that is judged, and is as strictly read."""
    known = Familiar(raw)
    assert known.length_of(raw) == length
    assert known.same(raw + b"body") == (length, len(raw))
    before = _slowly(raw)
    lines = raw.split(b"\r\n")
    for number, line in enumerate(lines[1:-2], 1):
        for changed in (
            line + b"7",
            line + b"\x01",
            line + b" ",
            line[:-1],
            line[1:],
            b"X" + line,
            line + b"\nY: z",
            line[:-1] + b":",
        ):
            other = b"\r\n".join([*lines[:number], changed, *lines[number + 1 :]])
            for _ in range(2):  # what is learnt from the first is used for the second
                found, end = known.alike(other)
                if not end:
                    again = known.length_of(other) if other.count(b"\r\n\r\n") == 1 else None
                    found, end = (0, 0) if again is None else (again, len(other))
                if end:
                    assert end == len(other)
                    strict = _slowly(other)
                    assert strict.length == found
                    assert all(strict.headers.get(name) == before.headers.get(name) for name in JUDGED)
                    assert strict.headers.keys() == before.headers.keys()


def _slowly(raw: bytes) -> heads.RequestHead:
    quick = heads._parse_plain
    heads._parse_plain = lambda _: None  # type: ignore[assignment]
    try:
        return heads.parse_request(raw)
    finally:
        heads._parse_plain = quick


def chunked(data: bytes) -> None:
    """A chunked body: the same payload and rest, or refused, in every cut."""
    first = None
    for cut in reads(data):
        decoder = Chunked()
        payload, rest = bytearray(), b""
        told: Any
        try:
            for at, read in enumerate(cut):
                payload += decoder.feed(read)
                if decoder.done:
                    rest = decoder.rest + b"".join(cut[at + 1 :])
                    break
            told = (bytes(payload), decoder.done, rest)
        except FramingError:
            told = "refused"
        first = told if first is None else first
        assert told == first, "another cut came to something else"


def answer(data: bytes) -> None:
    """An upstream's head: one framing or none."""
    head, found, rest = data.partition(b"\r\n\r\n")
    with contextlib.suppress(HeadError):
        read = heads.parse_answer(head + b"\r\n\r\n")
        assert not (read.chunked and read.length is not None)
        assert read.length is None or 0 <= read.length < 10**15
        assert 100 <= read.status <= 999
    chunked(rest if found else data)


def yaml(data: bytes) -> None:
    """A file that people write: read, or refused in printable words that name the line."""
    try:
        loads(data, "file.yaml")
    except ConfigError as error:
        told = str(error)
        assert told.startswith("file.yaml")
        assert len(told) < 64_000
        assert all(char.isprintable() or char in "\n" for char in told), told


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sse": sse,
    "json": body,
    "refusal": refusal,
    "http": http,
    "answer": answer,
    "yaml": yaml,
}
