"""What a running gateway tells of itself: what its data plane alone knows, and that no client can make it say more."""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.core.errors import CODES
from gateway.core.types import Outcome
from tests.harness import (
    KEY,
    ROLE,
    SSE_HEAD,
    STREAM,
    USAGE,
    Gateway,
    Upstream,
    chat,
    eventually,
    framed,
    hang,
    plain,
    slam,
    stream,
)
from tests.telemetry import page

Start = Callable[..., tuple[Gateway, dict[str, Upstream]]]
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"}


def scrape(gateway: Gateway, accept: str = "text/plain") -> tuple[str, str]:
    """An exposition and its content type, as they come over the socket."""
    connection = http.client.HTTPConnection("127.0.0.1", int(gateway.admin.rsplit(":", 1)[1]), timeout=30)
    connection.request("GET", "/metrics", headers={"accept": accept})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200
    return text, answer.headers["content-type"]


def samples(gateway: Gateway, name: str) -> dict[tuple[str, ...], float]:
    """Label values, in the order of the labels' names, and value of every sample of that name."""
    found = {}
    for family in parse_text(scrape(gateway)[0]):
        for sample in family.samples:
            if sample.name == f"pointsman_{name}":
                found[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def test_why_an_attempt_was_made_again_and_who_answered_instead_is_counted(start: Start) -> None:
    gateway, _ = start({"a": [plain(500, b"{}"), slam, plain(), plain(503, b"{}")], "b": [plain()]})
    for _ in range(3):
        assert gateway.post(chat()).status_code == 200
    assert sum(samples(gateway, "decisions_total").values()) == 3
    told = {"overloaded": 1, "server_error": 1}
    # The second found its kept connection closed: made again at the same target, which is no fallback.
    retries = {(reason, "a"): 1.0 for reason in (*told, "stale")}
    assert samples(gateway, "retries_total") == retries
    fallbacks = {
        (chosen, reason, target): n for (chosen, reason, _, target), n in samples(gateway, "fallbacks_total").items()
    }
    assert fallbacks == {("a", reason, "b"): 1.0 for reason in told}


def test_an_answer_that_was_none_is_no_first_event_of_a_request_that_failed(start: Start) -> None:
    gateway, _ = start({"a": [plain(200, b"{}")], "b": [plain(503, b"{}")]})
    assert gateway.post(chat()).status_code == 503
    assert samples(gateway, "time_to_first_event_seconds_count") == {}
    assert "first_event_ms" not in gateway.lines[-1]


def test_what_an_attempt_cost_is_told_of_the_target_that_billed_it_as_in_the_books(
    start: Start, tmp_path: Path
) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["targets"]["a"]["price"] = {"input": 0.5, "output": 1.0}  # the cheapest goes first
        settings["ledger"] = {"dir": str(tmp_path / "ledger")}

    # The first states what it has used and breaks off before it has said anything.
    gateway, _ = start({"a": [stream([ROLE, USAGE], end="eof")], "b": [stream()]}, change)
    assert gateway.post(chat(stream=True)).headers["x-pointsman-target"] == "b"
    tokens = {(kind, target): n for (kind, _, target, _), n in samples(gateway, "tokens_total").items() if n}
    assert tokens == {("input", "a"): 10, ("output", "a"): 3, ("input", "b"): 10, ("output", "b"): 3}
    costs = {target: n for (_, _, _, target, _), n in samples(gateway, "cost_usd_total").items()}
    assert costs == {"a": 8e-6, "b": 16e-6}
    assert eventually(lambda: json.loads(gateway.get("/v1/usage?by=target", admin=True).text)["total"]["attempts"] == 2)
    rows = gateway.get("/v1/usage?by=target", admin=True).json()["rows"]
    assert {row["target"]: row["cost_usd"] for row in rows} == costs


def test_an_ejection_is_counted_and_its_endpoint_told(start: Start) -> None:
    gateway, ups = start({"a": [plain(500, b"{}")]})
    for _ in range(5):
        assert gateway.post(chat("a")).status_code == 502
    url = ups["a"].url
    assert samples(gateway, "ejections_total") == {(url, "server_error", "a"): 1}
    assert samples(gateway, "endpoint_state") == {(url, "ejected", "a"): 1}
    assert samples(gateway, "target_state") == {("ejected", "a"): 1}


def test_requests_under_way_are_told_by_target_also_where_targets_share_an_endpoint(start: Start) -> None:
    def share(settings: dict[str, Any]) -> None:
        settings["targets"]["twin"] = {**settings["targets"]["a"], "price": {"input": 1.0, "output": 2.0}}

    def held(conn: Any, request: Any) -> bool:
        conn.sendall(SSE_HEAD + framed(STREAM[0]) + framed(STREAM[1]))
        return hang(conn, request)

    gateway, ups = start({"a": [held]}, share)
    conn = begun(gateway, chat("twin", stream=True))
    url = ups["a"].url
    assert eventually(lambda: samples(gateway, "endpoint_inflight") == {(url, "a"): 0, (url, "twin"): 1})
    told = gateway.get("/v1/targets", admin=True).json()["data"]
    assert {one["target"]: one["inflight"] for one in told} == {"a": 0, "twin": 1}
    assert samples(gateway, "inflight_requests") == {(): 1}
    assert samples(gateway, "queue_requests") == {(): 0}
    conn.close()
    assert eventually(lambda: samples(gateway, "endpoint_inflight") == {(url, "a"): 0, (url, "twin"): 0})


def begun(gateway: Gateway, body: dict[str, Any]) -> socket.socket:
    """A request that was sent and whose answer nobody has read."""
    conn = gateway.connect()
    content = json.dumps(body).encode()
    conn.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(content), content)
    )
    return conn


def test_requests_that_wait_for_a_connection_are_told(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, and never says a word of TLS

        def behind(settings: dict[str, Any]) -> None:
            settings["backends"]["a"]["endpoints"] = [f"https://127.0.0.1:{mute.getsockname()[1]}/v1"]
            settings["timeouts"]["connect"] = "20s"

        gateway, _ = start({"a": [plain()]}, behind)
        conns = [begun(gateway, chat("a")) for _ in range(2)]
        assert eventually(lambda: samples(gateway, "queue_requests") == {(): 2})
        for conn in conns:
            conn.close()
        assert eventually(lambda: samples(gateway, "queue_requests") == {(): 0})


def test_who_accepts_openmetrics_gets_it_with_the_id_of_a_request_in_every_bucket(start: Start) -> None:
    gateway, _ = start({"a": [stream()]})
    ids = {gateway.post(chat(stream=True)).headers["x-request-id"] for _ in range(3)}
    text, kind = scrape(gateway, OPENMETRICS["accept"])
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    named: dict[str, set[str]] = {}
    for family in parse_openmetrics(text):
        for sample in family.samples:
            if sample.exemplar is not None:
                named.setdefault(family.name, set()).add(sample.exemplar.labels["request_id"])
    assert named.keys() == {
        "pointsman_request_duration_seconds", "pointsman_time_to_first_event_seconds",
        "pointsman_time_per_output_token_seconds", "pointsman_gateway_overhead_seconds",
    }  # fmt: skip
    assert set().union(*named.values()) <= ids
    for accept in ("", "*/*", "text/html", "text/plain;version=0.0.4"):
        text, kind = scrape(gateway, accept)
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        assert "request_id" not in text


def test_who_speaks_http_1_0_gets_a_scrape_without_chunks(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    with socket.create_connection(("127.0.0.1", int(gateway.admin.rsplit(":", 1)[1])), timeout=30) as conn:
        conn.sendall(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")
        head, _, body = b"".join(iter(lambda: conn.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"content-length: %d" % len(body) in head.lower()
    assert "pointsman_requests" in {family.name for family in parse_text(body.decode())}


#: What somebody may try to make a label, a line or a series of: text of every kind, and bytes that are no text.
ODD = (
    b'quo"te', b"back\\slash", b"tab\there", b"esc\x1b[31m", b"\xff\xfe", b"\xc3\x28", "日本".encode(), b"a,b}",
    b"{le=", b"# HELP x y", b"\xe2\x80\xa8", b"%0a", b"\\n", b"pointsman_requests_total 1", b"auto/../x", b"other",
    b"none",
)  # fmt: skip


def test_nothing_that_clients_send_makes_a_series_or_breaks_the_exposition(
    start: Start, request: pytest.FixtureRequest
) -> None:
    gateway, _ = start({"a": [plain()], "b": [plain()]})
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    request.addfinalizer(connection.close)

    def send(model: str, key: bytes = KEY.encode(), **more: Any) -> int:
        headers = {"authorization": b"Bearer " + key, **{f"x-{name}": value for name, value in more.items()}}
        user = more.get("user", b"u")
        body = {**chat(model), "user": user.decode("utf-8", "replace"), "metadata": {"k": user.decode("latin-1")}}
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    seen = Counter[int]()

    def attack(first: int, last: int) -> set[str]:
        for n in range(first, last):
            odd = ODD[n % len(ODD)]
            number = b"%d" % n
            seen[send((odd + number).decode("utf-8", "replace"))] += 1
            seen[send(f"line\nbreak\r\n{n}\u0000\u2028")] += 1
            seen[send("a", user=odd + number, **{"request-id": odd, "pointsman-conversation": odd + number})] += 1
            seen[send("a", key=odd.replace(b"\t", b"") + number)] += 1
            seen[send("a", **{"pointsman-policy": odd + number, "pointsman-workload": odd + number})] += 1
        told = {line.rpartition(" ")[0] for line in scrape(gateway)[0].splitlines() if not line.startswith("#")}
        return {one for one in told if not one.startswith("pointsman_ledger")}  # those come when the books are made

    known = attack(0, len(ODD))  # each kind once: a request that is refused in a new way is a series of its own
    assert attack(len(ODD), len(ODD) + 150) == known
    assert seen.keys() == {200, 400, 401, 404}, seen
    assert seen[404] >= 300
    after = scrape(gateway)[0]
    exposed = {family.name: family for family in parse_text(after)}
    openmetrics = list(parse_openmetrics(scrape(gateway, OPENMETRICS["accept"])[0]))
    assert {one.name for one in openmetrics} == exposed.keys()
    letters = {
        "A": len(gateway.get("/v1/models").json()["data"]) + 2, "T": 2 + 2, "M": 1 + 2, "Q": 1 + 2, "H": 1, "L": 1,
        "C": len(CODES) + 3, "O": len(Outcome), "E": 2, "B": 0, "S": 0,
        "P": len({s.labels["policy"] for s in exposed["pointsman_policy_info"].samples}) + 2, "R": 100,
    }  # fmt: skip
    for name, family in exposed.items():
        if name.startswith("pointsman_"):
            declared = next(one for one in page.FAMILIES if one.name.removesuffix("_total") == name)
            assert len(family.samples) <= page.value_of(page.most(declared), letters), name
