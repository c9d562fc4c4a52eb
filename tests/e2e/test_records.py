"""Decision records of a real gateway: written for what was served, readable after a kill, and deciding as it did."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import bundled
from gateway.cli import main
from gateway.core.recorded import records
from gateway.core.recorded.records import Copied, Recorded
from gateway.core.recorded.replay import Replay
from gateway.site import load_site
from tests.harness import KEY, Gateway, Upstream, chat, config, eventually, hang, plain, running, slam, stream


def settings(upstreams: dict[str, Upstream], **over: Any) -> dict[str, Any]:
    return config(upstreams, records={"dir": "records"}) | over


def recorded(directory: Path) -> list[Recorded]:
    found = [
        records.read(line) for path in sorted(directory.glob("records/*")) for line in path.read_bytes().splitlines()
    ]
    return sorted(found, key=lambda one: one.at)


def test_every_decided_request_of_a_real_gateway_is_decided_alike_from_its_record(tmp_path: Path) -> None:
    good, bad = Upstream([plain()]), Upstream([slam])
    over = {"policies": {"dir": "policies", "default": "mine"}}
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.yaml").write_text(
        "policy: mine\nrules:\n"
        "  - {id: code, when: {task: code}, use: [{target.name: bad}, {target.name: good}]}\n"
        "  - {id: long, when: {context_tokens: {gt: 2k}}, use: [{target.name: good}]}\n"
        "  - {id: team, when: {headers.x-team: red}, use: [{target.name: good}]}\n"
        '  - {id: all, when: {max_output_tokens: {known: false}}, use: ["*"]}\n'
    )
    with running(tmp_path, settings({"good": good, "bad": bad}, **over)) as gateway:
        for text in ("hi", "これは日本語の文です。", "Fix this python function: def f(): return 1", "word " * 3_000):
            for _ in range(3):
                gateway.post(chat(text=text))
        gateway.post(chat(text="hi"), x_team="red")
        gateway.post(chat("bad"))
        assert gateway.post(chat(max_tokens=5)).status_code == 403
        assert gateway.post(chat("no-such-model")).status_code == 404
        gateway.post(chat(stream=True))
        assert eventually(lambda: gateway.metric('pointsman_decision_records_total{result="written"}') == 16)
    good.close()
    bad.close()
    found = recorded(tmp_path)
    assert len(found) == 16, "what was refused before any decision has none"
    policy = load_site(tmp_path / "pointsman.yaml", os.environ, secrets=False, tests=False).policies["mine"]
    assert {one.fleet for one in found} == {records.fleet_digest(policy.fleet)}
    for one in found:
        assert one.policy == policy.label
        assert records.decided(Replay(policy).decide(one)) == one.decided  # type: ignore[arg-type]
    assert {one.decided.rule for one in found} == {"code", "long", "team", "all", "pin", None}
    failed_over = next(one for one in found if one.decided.rule == "code")
    assert (failed_over.result.failed, failed_over.result.target) == ((("bad", "reset"),), "good")
    assert (failed_over.tenant, failed_over.key, failed_over.team) == ({"team": "qa"}, "test", "qa")
    whole = "\n".join(path.read_text() for path in tmp_path.glob("records/*"))
    assert "日本語" not in whole
    assert "python function" not in whole
    assert KEY not in whole
    assert "sk-upstream" not in whole


@pytest.mark.parametrize("last", ["stop", "kill"])
def test_records_survive_the_end_of_the_process_however_it_ends(tmp_path: Path, last: str) -> None:
    upstream = Upstream([plain(), stream(), hang])
    with running(tmp_path, settings({"a": upstream})) as gateway:
        gateway.post(chat())
        gateway.post(chat(stream=True))
        if last == "kill":
            assert eventually(lambda: gateway.metric('pointsman_decision_records_total{result="written"}') == 2)
            os.kill(gateway.process.pid, signal.SIGKILL)
        else:
            os.kill(gateway.process.pid, signal.SIGTERM)
        gateway.process.wait(10)
    upstream.close()
    assert [one.result.status for one in recorded(tmp_path)] == [200, 200]


def test_a_directory_that_cannot_be_written_to_stops_the_start_and_says_why(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    broken = settings({"a": upstream}) | {"records": {"dir": "no/such/place"}}
    with (
        pytest.raises(AssertionError, match=r"records.dir: cannot write to .*no/such/place"),
        running(tmp_path, broken),
    ):
        pass
    upstream.close()


def test_prompts_on_disk_are_said_loudly_at_the_start(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    loud = settings({"a": upstream}) | {"records": {"dir": "records", "prompts": 4}}
    with running(tmp_path, loud) as gateway:
        gateway.post(chat(text="Say hello."))
        assert any("decision records hold up to 4 characters" in line for line in gateway.lines)
    upstream.close()
    assert [one.prompt for one in recorded(tmp_path)] == ["llo."]


def test_what_repeats_on_a_connection_and_what_a_policy_watches_is_decided_alike_from_its_record(
    tmp_path: Path,
) -> None:
    good, other = Upstream([plain()]), Upstream([plain()])
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "plain.yaml").write_text('policy: plain\nrules:\n  - {id: all, use: ["*"]}\n')
    (tmp_path / "policies" / "watchful.yaml").write_text(
        "policy: watchful\nsticky: {for: 30m}\nrules:\n"
        '  - {id: all, use: [{family: "*", rank: weighted, weights: {good: 1, other: 1}}]}\n'
    )
    over = {"policies": {"dir": "policies", "default": "plain"}}
    with running(tmp_path, settings({"good": good, "other": other}, **over)) as gateway:
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=gateway.public, headers=headers) as client:
            for number in range(12):
                client.post("/v1/chat/completions", json=chat(text=f"Tell me of {number}."))
            for number in range(12):
                talk = {"x-pointsman-conversation": f"c{number % 3}"}
                client.post("/v1/chat/completions", json=chat("auto/watchful", text="And?"), headers=talk)
        assert eventually(lambda: gateway.metric('pointsman_decision_records_total{result="written"}') == 24)
    good.close()
    other.close()
    site = load_site(tmp_path / "pointsman.yaml", os.environ, secrets=False, tests=False)
    replays = {name: Replay(policy) for name, policy in site.policies.items()}
    found = recorded(tmp_path)
    for one in found:
        assert records.decided(replays[one.policy_name].decide(one)) == one.decided  # type: ignore[arg-type]
    watched = [one for one in found if one.policy_name == "watchful"]
    assert sum(one.world.previous is not None for one in watched) == 9
    assert all(one.text_bytes and one.signals["task"] != "?" for one in found)


def test_a_line_that_a_kill_tore_is_counted_and_the_others_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = Upstream([plain()])
    with running(tmp_path, settings({"a": upstream})) as gateway:
        for _ in range(3):
            gateway.post(chat())
        assert eventually(lambda: gateway.metric('pointsman_decision_records_total{result="written"}') == 3)
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(10)
    upstream.close()
    [file] = (tmp_path / "records").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    monkeypatch.chdir(tmp_path)
    policy = Path(bundled.__file__).parent.parent / "policies" / "default.yaml"
    assert main(["replay", "--policy", str(policy), "records"]) == 0
    told = capsys.readouterr().out
    assert "2 recorded requests decided by default@" in told
    assert "          2  decided alike\n" in told
    assert f"records/{file.name}:3: is cut off" in told


# -- shadows --

COPIES = """\
policy: copies
rules: [{id: all, use: [{target.name: a}]}]
shadow: [{id: copy, use: [{target.name: b}], share: 100%}]
"""


def copying(directory: Path, b: Upstream, **over: Any) -> dict[str, Any]:
    """Settings by which `b` gets a copy of every request that a healthy target answers."""
    (directory / "policies").mkdir()
    (directory / "policies" / "copies.yaml").write_text(COPIES)
    return settings({"a": Upstream([plain()]), "b": b}, policies={"dir": "policies", "default": "copies"}, **over)


def both(directory: Path) -> tuple[list[Recorded], list[Copied]]:
    """The lines of requests and those of shadows."""
    lines = [line for path in sorted(directory.glob("records/*")) for line in path.read_bytes().splitlines()]
    copies = [copy for line in lines if (copy := records.read_copy(line)) is not None]
    return [records.read(line) for line in lines if records.read_copy(line) is None], copies


def written(gateway: Gateway, count: int) -> bool:
    return eventually(lambda: gateway.metric('pointsman_decision_records_total{result="written"}') == count)


def test_a_shadow_leaves_a_line_of_its_own_that_savings_tell_apart_and_replays_pass_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = Upstream([plain(), plain(500, b"{}")])
    with running(tmp_path, copying(tmp_path, upstream)) as gateway:
        ids = [gateway.post(chat()).headers["x-request-id"] for _ in range(2)]
        assert written(gateway, 4)
    requests, copies = both(tmp_path)
    assert sorted(one.id for one in requests) == sorted(one.id for one in copies) == sorted(ids)
    assert {one.decided.shadow for one in requests} == {("copy", "b")}
    assert all(one.result.cost_nano == 10 * 1_000 + 2 * 2_000 for one in requests), "their own cost and no other"
    good = next(one for one in copies if one.outcome == "ok")
    bad = next(one for one in copies if one is not good)
    assert (good.shadow, good.target, good.rule, good.key, good.team, good.status) == (
        "copy", "b", "all", "test", "qa", 200,
    )  # fmt: skip
    assert good.usage is not None
    assert (good.usage.input, good.usage.output, good.cost_nano) == (10, 2, 14_000)
    assert (good.policy, good.at) == next((one.policy, one.at) for one in requests if one.id == good.id)
    assert good.first_s is not None
    assert 0 < good.first_s <= good.duration_s
    assert (bad.outcome, bad.status, bad.usage, bad.cost_nano) == ("server_error", 500, None, 0)

    monkeypatch.chdir(tmp_path)
    assert main(["savings", "--baseline", "b", "records"]) == 0
    told = capsys.readouterr().out
    assert "against b: 2 requests compared\n  spent $0.000028;" in told
    assert "shadows, which are in no sum above: 2 cost $0.000014\n  1 of them failed\n" in told
    assert "    all: b                                2      $0.000014\n" in told
    assert main(["replay", "--policy", "policies/copies.yaml", "records"]) == 0
    told = capsys.readouterr().out
    assert "2 recorded requests decided by copies@" in told
    assert "          2  decided alike\n" in told
    assert "damaged" not in told


@pytest.mark.parametrize("last", ["stop", "kill"])
def test_the_end_of_the_process_books_a_shadow_that_is_under_way_or_leaves_the_request_s_line_alone(
    tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = Upstream([hang])
    late = {"timeouts": {"headers": "60s", "first_event": "60s", "total": "60s"}}
    with running(tmp_path, copying(tmp_path, upstream, **late)) as gateway:
        gateway.post(chat())
        assert written(gateway, 1)
        os.kill(gateway.process.pid, signal.SIGKILL if last == "kill" else signal.SIGTERM)
        gateway.process.wait(10)
    upstream.close()
    [request], copies = both(tmp_path)
    assert request.decided.shadow == ("copy", "b")
    assert [one.outcome for one in copies] == ([] if last == "kill" else ["draining"])
    monkeypatch.chdir(tmp_path)
    assert main(["savings", "--baseline", "b", "records"]) == 0
    assert ("shadows" in capsys.readouterr().out) is (last == "stop")
    assert main(["replay", "--policy", "policies/copies.yaml", "records"]) == 0
    assert "          1  decided alike\n" in capsys.readouterr().out


def test_a_shadow_s_line_that_a_kill_tore_is_damage_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = Upstream([plain()])
    with running(tmp_path, copying(tmp_path, upstream)) as gateway:
        gateway.post(chat())
        assert written(gateway, 2)
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(10)
    upstream.close()
    [file] = (tmp_path / "records").iterdir()
    lines = sorted(file.read_bytes().splitlines(keepends=True), key=lambda line: b'"kind"' in line)
    file.write_bytes(lines[0] + lines[1][:-30])
    monkeypatch.chdir(tmp_path)
    assert main(["savings", "--baseline", "b", "records"]) == 0
    told = capsys.readouterr().out
    assert "1 requests compared" in told
    assert "1 lines are damaged" in told
    assert "shadows" not in told
