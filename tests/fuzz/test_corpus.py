"""Bytes that once broke something, or were made to: replayed through every parser, and through a gateway over sockets.

A file in `corpus/<kind>/` is named by what it shows. `python tests/fuzz/grow.py` looks for more, see there.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.fuzz.targets import TARGETS
from tests.harness import KEY, SSE_HEAD, Gateway, Received, Upstream, chat, config, framed, plain, running

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(CORPUS.glob("*/*"))
FEWEST = {"sse": 80, "json": 80, "http": 90, "answer": 35, "refusal": 20, "yaml": 50}
#: What a client may be told of bytes that are no proper request. 200: they were one.
STATUSES = {200, 400, 401, 404, 405, 408, 413, 415, 417}


def files(kind: str) -> list[Path]:
    return [path for path in FILES if path.parent.name == kind]


def test_the_corpus_is_small_and_of_every_kind() -> None:
    assert {path.parent.name for path in FILES} == TARGETS.keys() == FEWEST.keys()
    for kind, fewest in FEWEST.items():
        assert len(files(kind)) >= fewest, kind
    assert max(path.stat().st_size for path in FILES) <= 16_384
    assert sum(path.stat().st_size for path in FILES) <= 1_000_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_parser_holds_what_it_promises(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("kind", TARGETS)
def test_and_does_so_for_what_a_few_wrong_bytes_make_of_it(kind: str) -> None:
    chance = random.Random(kind)
    for path in files(kind):
        seed = path.read_bytes()
        for _ in range(3):
            data = bytearray(seed[:2_000])
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(data) + 1)
                match chance.randrange(4):
                    case 0:
                        data[at : at + 1] = bytes([chance.randrange(256)])
                    case 1:
                        del data[at : at + chance.randint(1, 9)]
                    case 2:
                        data[at:at] = chance.choice(
                            [b"\r", b"\n", b"\r\n", b'"', b"\\", b"{", b"]", b"\0", b"\xff", b": "]
                        )
                    case _:
                        data[at:at] = data[at // 2 : at // 2 + chance.randint(1, 30)]
            try:
                TARGETS[kind](bytes(data))
            except BaseException:
                print(kind, path.name, bytes(data))  # put these into the corpus
                raise


# -- through a gateway --


class Parts(NamedTuple):
    gateway: Gateway
    upstream: Upstream


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    upstream = Upstream([plain()])
    settings = config({"a": upstream}, unknown_model="default", limits={"request_head": "2s"})
    with running(tmp_path_factory.mktemp("corpus"), settings) as gateway:
        yield Parts(gateway, upstream)
        assert httpx.get(gateway.public + "/readyz").status_code == 200
        assert gateway.get("/metrics", admin=True).status_code == 200
        assert [line for line in gateway.lines if "Traceback" in line or "failed in the gateway" in line] == []
    upstream.close()


def answer_of(parts: Parts, data: bytes) -> bytes:
    """All that comes back on a connection for these bytes, until it ends."""
    with socket.create_connection(("127.0.0.1", parts.gateway.port), timeout=20) as conn:
        conn.sendall(data)
        conn.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while more := conn.recv(65_536):
                answer += more
        except ConnectionResetError:
            pass
    return answer


def test_no_request_s_bytes_confuse_the_gateway(parts: Parts) -> None:
    parts.upstream.scripts[:] = [plain()]
    parts.upstream.requests.clear()
    every = files("http")
    with ThreadPoolExecutor(8) as pool:
        for path, answer in zip(every, pool.map(lambda path: answer_of(parts, path.read_bytes()), every), strict=True):
            if answer:
                assert answer.startswith(b"HTTP/1.1 "), path.name
                assert int(answer[9:12]) in STATUSES | {100}, (path.name, answer[:300])
    for asked in parts.upstream.requests:
        assert asked.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert asked.json["messages"] == [{"role": "user", "content": "hi"}]
        assert asked.json["model"] == "m"


def test_no_body_is_more_than_refused(parts: Parts) -> None:
    parts.upstream.scripts[:] = [plain()]
    parts.upstream.requests.clear()
    with httpx.Client(timeout=30, headers={"authorization": f"Bearer {KEY}"}) as client:
        for path in files("json"):
            for where in ("/v1/chat/completions", "/v1/explain"):
                answer = client.post(parts.gateway.public + where, content=path.read_bytes())
                assert answer.status_code in (200, 400, 403, 404), (path.name, answer.text)
                if answer.status_code != 200:
                    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    for asked in parts.upstream.requests:
        json.loads(asked.body.decode("utf-8"))


def say(conn: socket.socket, asked: Received) -> bool:
    """An upstream that answers with the file that the prompt names."""
    kind, _, name = asked.json["messages"][0]["content"].partition("/")
    said = (CORPUS / kind / name).read_bytes()
    if kind == "sse":
        said = SSE_HEAD + (framed(said) if said else b"") + b"0\r\n\r\n"
    elif kind == "refusal":
        said = b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said)
    conn.sendall(said)
    return False


def told(parts: Parts, kind: str, *, stream: bool) -> Iterator[tuple[str, httpx.Response]]:
    """What a client gets of each file that an upstream sends."""
    parts.upstream.scripts[:] = [say]
    every = files(kind)
    with httpx.Client(timeout=30, headers={"authorization": f"Bearer {KEY}"}) as client, ThreadPoolExecutor(16) as pool:

        def ask(path: Path) -> httpx.Response:
            body = chat("a", f"{kind}/{path.name}", stream=stream)
            return client.post(parts.gateway.public + "/v1/chat/completions", json=body)

        yield from zip([path.name for path in every], pool.map(ask, every), strict=True)


def test_no_stream_of_an_upstream_is_more_than_an_error(parts: Parts) -> None:
    served = 0
    for name, answer in told(parts, "sse", stream=True):
        assert answer.status_code in (200, 400, 429, 502, 503), (name, answer.text)
        if answer.status_code == 200:
            served += 1
            broken = b'"code":"upstream_stream_interrupted"' in answer.content
            assert broken != (b"[DONE]" in answer.content.splitlines()[-2] + answer.content[-20:]), (
                name,
                answer.content,
            )
    assert served > 30


@pytest.mark.parametrize("kind", ["answer", "refusal"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_of_an_upstream_is_more_than_an_error(parts: Parts, kind: str, stream: bool) -> None:
    for name, answer in told(parts, kind, stream=stream):
        assert answer.status_code in (200, 400, 404, 429, 502, 503, 504), (name, answer.text)
        assert len(answer.content) < 200_000, name
