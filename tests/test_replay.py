"""`pointsman replay` and `pointsman savings`, run on files as they are found: whole, compressed, torn and hostile."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.core.policy import Policy
from gateway.core.recorded import records
from gateway.core.recorded.records import Copied, Decided, Recorded, Result, Spoken, World
from gateway.core.recorded.replay import Replay
from gateway.core.types import Usage
from gateway.replay.command import count
from gateway.replay.reading import Read, Wanted, read
from gateway.site import load_site
from tests.harness import config

START = 1_795_262_400.0  # 2026-11-21, 12:00 UTC
OLD = """
policy: default
rules:
  - {id: code, when: {task: code}, use: [{target.name: dear}]}
  - {id: all, use: [{target.name: cheap}, {target.name: dear}]}
"""
NEW = """
policy: default
constraints:
  - {id: team-red, because: told to, when: {tenant.team: red}, forbid: {target.name: cheap}}
  - {id: no-streams, when: {stream: true}, forbid: {target.name: {in: [cheap, dear]}}}
rules:
  - {id: code, when: {task: code}, use: [{target.name: cheap}]}
  - {id: all, use: [{target.name: cheap}, {target.name: dear}]}
"""


@dataclass
class Place:
    """A directory with a configuration, policies and records."""

    path: Path
    run: Callable[..., tuple[int, str, str]]
    policy: Policy

    def write(self, made: Sequence[Recorded], name: str = "records/a.jsonl") -> Path:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(map(records.write, made)))
        return path

    def record(self, number: int = 0, *, task: str | None = None, team: str = "blue", **more: Any) -> Recorded:
        """As the old policy decided it on this fleet."""
        signals = more.pop("signals", {})
        made = Recorded(
            1, f"{number:032x}", START + number, "", "", "checkout", "auto", World(), Decided(), Result(),
            tenant={"team": team},
            signals={
                "task": task, "language": Spoken({"en": 1.0}, 99, 0.0), "max_output_tokens": None, "tools": False,
                "stream": False, "effort": None, "thinking_hint": None, "modality": ("text",), "images": 0,
                "structured_output": None, "region": None, "residency": None, "parameters": ("messages", "model"),
                "max_cost_usd": None, **signals,
            },
            **{"tokens": {"": (1, 200, True)}, "text_bytes": 200, **more},
        )  # fmt: skip
        policy = self.policy
        made.policy, made.fleet = policy.label, records.fleet_digest(policy.fleet)
        decision = Replay(policy).decide(made)
        made.decided = records.decided(decision)  # type: ignore[arg-type]
        if made.decided.candidates:
            target = made.decided.candidates[0]
            cost = 2_000_000_000 if target == "dear" else 1_000_000_000
            used = Usage(500_000, 250_000)
            made.result = Result(200, attempts=1, target=target, model="llama-3.3-70b", usage=used, cost_nano=cost)
        return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    settings = config({"cheap": "http://127.0.0.1:9/v1", "dear": "http://127.0.0.1:9/v1"})
    settings["targets"]["dear"]["price"] = {"input": 2.0, "output": 4.0}
    settings["targets"]["scout"] = settings["targets"]["dear"] | {
        "model": "llama-4-scout", "window": "64k", "price": {"input": 2.0, "output": 4.0}
    }  # fmt: skip
    settings["policies"] = {"dir": "policies", "default": "default"}
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    with (tmp_path / "pointsman.yaml").open("w") as file:
        YAML().dump(settings, file)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    site = load_site(tmp_path / "pointsman.yaml", {}, secrets=False, tests=False)
    return Place(tmp_path, run, site.default_policy)


def some(place: Place) -> list[Recorded]:
    return [
        *(place.record(number) for number in range(5)),
        *(place.record(number, task="code") for number in range(5, 8)),
        place.record(8, team="red"),
        place.record(9, stream=True, signals={"stream": True}),
    ]


def test_a_replay_says_what_changes_by_rule_target_team_and_cost(place: Place) -> None:
    place.write(some(place))
    code, out, _ = place.run("replay", "--policy", "new.yaml", "records", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["requests"], told["unchanged"], told["rerouted"]) == (10, 5, 4)
    assert told["newly_refused"] == {"policy_denied": 1}
    assert told["newly_refused_spent_nano_usd"] == 1_000_000_000
    assert told["undecided"] == {}
    assert told["changed_cost"] == {
        "spent_nano_usd": 7_000_000_000, "low_nano_usd": 5_000_000_000, "likely_nano_usd": 5_000_000_000,
        "high_nano_usd": 5_000_000_000,
    }  # fmt: skip
    rows = {row["target"]: (row["before"], row["after"], row["changed"]) for row in told["by"]["target"]}
    assert rows == {"cheap": (7, 8, 2), "dear": (3, 1, 3), "(refused)": (0, 1, 0)}
    assert {row["team"]: row["changed"] for row in told["by"]["team"]} == {"blue": 4, "red": 1}
    assert told["why_not_chosen_any_more"]["forbidden by team-red"] == 1
    assert told["why_not_chosen_any_more"]["forbidden by no-streams"] == 1


def test_a_replay_decides_under_what_the_configuration_lays_over_the_policy(place: Place) -> None:
    place.write(some(place))
    house = "part: house\nconstraints:\n  - {id: house, forbid: {target.name: cheap}}\n"
    (place.path / "house.part.yaml").write_text(house)
    settings = (place.path / "pointsman.yaml").read_text()
    (place.path / "pointsman.yaml").write_text(
        settings.replace("policies:\n", "policies:\n  overlays: [house.part.yaml]\n")
    )
    code, out, _ = place.run("replay", "--policy", "policies/default.yaml", "records")
    assert code == 0
    assert out.startswith("under what the configuration lays over it: house\n")
    assert "forbidden by house" in out
    _, out, _ = place.run("replay", "--policy", "policies/default.yaml", "records", "--json")
    told = json.loads(out)
    assert (told["overlays"], told["unchanged"]) == (["house"], 3)


def test_a_replay_reads_as_a_person_reads(place: Place) -> None:
    place.write(some(place))
    code, out, _ = place.run("replay", "--policy", "new.yaml", "records")
    assert code == 0
    assert "          5  decided alike\n" in out
    assert "          1  newly refused (1 policy_denied)\n" in out
    assert "they would have cost $5.000000 ($5.000000 to $5.000000): -$2.000000 (-$2.000000 to -$2.000000)" in out
    assert "          3  code: dear -> code: cheap\n" in out
    assert "             cheap forbidden by team-red\n" in out


def test_the_same_policy_changes_nothing_and_a_record_that_it_cannot_have_decided_is_a_defect(place: Place) -> None:
    made = some(place)
    place.write(made)
    code, out, _ = place.run("replay", "--policy", "policies/default.yaml", "records", "--json")
    told = json.loads(out)
    assert (code, told["unchanged"], told["reproducible"], told["not_reproduced"]) == (0, 10, 10, [])
    made[3].decided.rule = "made-up"
    place.write(made)
    code, out, _ = place.run("replay", "--policy", "policies/default.yaml", "records")
    assert code == 1
    assert f"NOT REPRODUCED under their own policy and fleet, a defect: {made[3].id}" in out


def test_a_key_under_a_hard_budget_is_served_in_a_replay_too_by_what_has_a_price(place: Place) -> None:
    settings = YAML(typ="safe").load((place.path / "pointsman.yaml").read_text())
    settings["targets"]["cheap"]["price"] = "none"
    settings["keys"] = [{"name": "checkout", "sha256": "a" * 64, "budget": {"usd": 1, "per": "day"}}]
    with (place.path / "pointsman.yaml").open("w") as file:
        YAML().dump(settings, file)
    made = place.record()
    assert made.decided.candidates == ("cheap", "dear")
    made.decided = msgspec.structs.replace(made.decided, candidates=("dear",))  # as it was served
    place.write([made])
    code, out, err = place.run("replay", "--policy", "policies/default.yaml", "records", "--json")
    assert (code, json.loads(out)["unchanged"]) == (0, 1), err


def test_files_are_read_whole_compressed_or_torn_and_damage_is_told_with_its_place(place: Place) -> None:
    made = some(place)
    whole = place.write(made[:2], "records/b.jsonl")
    (place.path / "records" / "c.jsonl.gz").write_bytes(gzip.compress(b"".join(map(records.write, made[2:4]))))
    torn = place.write(made[4:6], "records/d.jsonl")
    torn.write_bytes(torn.read_bytes()[:-40])
    cut = gzip.compress(b"".join(map(records.write, made)))
    (place.path / "records" / "e.jsonl.gz").write_bytes(cut[:-20])
    (place.path / "records" / "f.jsonl").write_bytes(
        b'null\n{"v":1}\n\xff\xfe\n' + b"[" * 5000 + b"\n" + records.write(made[6]) + b'{"v":2}\n' + b"x" * 2_100_000
    )
    plain = (place.path / "records" / "g.jsonl", place.path / "records" / "g.jsonl.gz")
    plain[0].write_bytes(records.write(made[7]))
    plain[1].write_bytes(gzip.compress(records.write(made[7])))
    (place.path / "records" / "notes.txt").write_text("not records")
    code, out, _ = place.run("replay", "--policy", "policies/default.yaml", "records", "--json")
    told = json.loads(out)
    assert code == 0
    places = [one.removeprefix("records/") for one in told["damaged"]["places"]]
    assert [one.partition(" ")[0] for one in places] == [
        "d.jsonl:2:", "e.jsonl.gz:10:", *(f"f.jsonl:{n}:" for n in (1, 2, 3, 4, 6, 7))
    ]  # fmt: skip
    assert "is cut off" in places[0]
    assert "is longer than any record" in places[-1]
    assert told["requests"] == 2 + 2 + 1 + 9 + 1 + 1
    assert whole.exists()


def test_a_record_that_cannot_be_true_is_damage_and_no_traceback(place: Place) -> None:
    place.write([place.record(), place.record(1)])
    text = (place.path / "records" / "a.jsonl").read_bytes().replace(b'"tools":false', b'"tools":"yes"', 1)
    (place.path / "records" / "a.jsonl").write_bytes(text)
    code, out, _ = place.run("replay", "--policy", "new.yaml", "records", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["requests"] + told["damaged"]["lines"] == 2 or told["requests"] == 2


HUGE = "1" + "0" * 400
UNTRUE = [
    ('"at":1795262400.0', '"at":1e15'),
    ('"at":1795262400.0', '"at":1e308'),
    ('"at":1795262400.0', '"at":-1.0'),
    ('"input":500000', f'"input":{HUGE}'),
    ('"input":500000', '"input":-500000'),
    ('"cost_nano":1000000000', f'"cost_nano":{HUGE}'),
    ('"cost_nano":1000000000', '"cost_nano":-1'),
    ('"candidates":["cheap","dear"]', '"candidates":[]'),
    ('"candidates":["cheap","dear"]', '"candidates":["cheap"],"refusal":"policy_denied"'),
    ('"max_cost_usd":null', '"max_cost_usd":1e308'),
    ('"max_cost_usd":null', f'"max_cost_usd":{HUGE}'),
    ('"rule":"all"', f'"rule":"all","thinking":"budget:{"9" * 5000}"'),
    ('"thinking_hint":null', '"thinking_hint":1.5'),
    ('"thinking_hint":null', '"thinking_hint":["x"]'),
    ('"thinking_hint":null', '"thinking_hint":"sometimes"'),
    ('"images":0', f'"images":{HUGE}'),
    ('"letters":99', f'"letters":{HUGE}'),
    ('"":[1,200,true]', f'"":[1,{HUGE},true]'),
    ('"text_bytes":200', f'"text_bytes":{HUGE}'),
]


@pytest.mark.parametrize(("said", "forged"), UNTRUE, ids=[forged[:40] for _, forged in UNTRUE])
def test_one_line_that_cannot_be_true_is_counted_with_its_place_and_the_others_are_told(
    place: Place, said: str, forged: str
) -> None:
    path = place.write([place.record(), place.record(1)])
    text = path.read_text()
    assert said in text
    path.write_text(text.replace(said, forged, 1))
    thinks = NEW + "thinking:\n  - {id: dear-code, when: {task: code}, set: never}\n"
    limits = NEW.replace(
        "when: {task: code}", "when: {max_cost_usd: {lt: 5}, images: {lt: 3}, context_tokens: {gt: 1k}}"
    )
    for name, policy in (("thinks", thinks), ("limits", limits)):
        (place.path / f"{name}.yaml").write_text(policy)
        code, out, _ = place.run("replay", "--policy", f"{name}.yaml", "records", "--json")
        told = json.loads(out)
        assert (code, told["requests"]) == (0, 1)
        assert told["damaged"]["lines"] == 1
        assert told["damaged"]["places"][0].startswith("records/a.jsonl:1: ")
    for baseline in ("dear", "thinks.yaml", "limits.yaml"):
        for form in ((), ("--csv",), ("--json",)):
            code, out, _ = place.run("savings", "--baseline", baseline, "records", *form)
            assert code == 0
        [told] = json.loads(out)["baselines"]
        assert (told["compared"], told["not_compared"]["damaged"]) == (1, 1)


@pytest.mark.parametrize("error", [OverflowError("x"), TypeError("x"), KeyError("x"), ZeroDivisionError("x")])
def test_whatever_a_record_breaks_on_costs_that_record_alone(place: Place, error: Exception) -> None:
    place.write([place.record(number) for number in range(3)])
    told, seen = Read(), []

    def add(recorded: Recorded) -> None:
        if recorded.at == START + 1:
            raise error
        seen.append(recorded.at)

    count(add, read([place.path / "records" / "a.jsonl"], Wanted(), told), told)
    assert seen == [START, START + 2]
    assert told.places == [f"{place.path}/records/a.jsonl:2: cannot be true: {type(error).__name__}"]


def test_hostile_names_do_not_move_the_terminal(place: Place) -> None:
    made = place.record()
    made.tenant = {"team": "\x1b[31mred\u202e"}
    made.decided.rule = "\x9b2J"
    place.write([made])
    _, out, _ = place.run("replay", "--policy", "new.yaml", "records")
    assert not {"\x1b", "\x9b", "\u202e"} & set(out)
    assert "\\x1b[31mred" in out


def test_what_is_not_recorded_leaves_records_undecided_and_says_what(place: Place) -> None:
    made = [place.record(), place.record(1)]
    del made[0].signals["task"]
    place.write(made)
    _, out, _ = place.run("replay", "--policy", "new.yaml", "records", "--json")
    assert json.loads(out)["undecided"] == {"signal task": 1}
    _, out, _ = place.run("replay", "--policy", "new.yaml", "records")
    assert "          1  undecided: not recorded (1 signal task)\n" in out


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--limit", "3"], 3),
        (["--team", "red"], 1),
        (["--key", "checkout"], 10),
        (["--since", "2026-11-21"], 10),
        (["--since", "2026-11-22"], 0),
        (["--until", "2026-11-21"], 0),
        (["--key", "nobody"], 0),
    ],
)
def test_records_are_chosen_by_time_key_team_and_number(place: Place, arguments: list[str], count: int) -> None:
    place.write(some(place))
    code, out, err = place.run("replay", "--policy", "new.yaml", "records", "--json", *arguments)
    assert code == (0 if count else 1)
    told = json.loads(out)
    assert told["ok"] is bool(count)
    assert told["requests"] == count if count else "no record is meant" in told["problems"][0]["what"]
    assert err == ""


def test_since_takes_how_long_ago(place: Place) -> None:
    made = place.record()
    made.at = time.time() - 3_600
    place.write([made])
    assert place.run("replay", "--policy", "new.yaml", "records", "--since", "2h")[0] == 0
    assert place.run("replay", "--policy", "new.yaml", "records", "--since", "30m")[0] == 1


def test_requests_of_other_policies_are_decided_only_where_that_is_asked_for(place: Place) -> None:
    made = place.record()
    made.policy = "other@123"
    place.write([made])
    code, _, err = place.run("replay", "--policy", "new.yaml", "records")
    assert code == 1
    assert err == "pointsman replay: no record is of policy default, 1 of other policies: try --in-place-of all\n"
    assert place.run("replay", "--policy", "new.yaml", "records", "--in-place-of", "other")[0] == 0
    assert place.run("replay", "--policy", "new.yaml", "records", "--in-place-of", "all")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "--policy", "new.yaml", "nowhere"], "nowhere: there is no such file"),
        (["replay", "--policy", "new.yaml", "policies"], "policies: holds no records"),
        (["replay", "--policy", "gone.yaml", "records"], "gone.yaml"),
        (["replay", "--policy", "new.yaml", "records", "--since", "soon"], "--since: 'soon' is no moment"),
        (["savings", "--baseline", "chaep", "records"], "'chaep' is no target and no model that is served here"),
    ],
)
def test_broken_arguments_exit_with_2_and_say_what_would_be_valid(
    place: Place, arguments: list[str], says: str
) -> None:
    place.write([place.record()])
    code, _, err = place.run(*arguments)
    assert code == 2
    assert says in err


# -- savings --


def test_savings_compare_what_was_spent_with_everything_to_one_target(place: Place) -> None:
    place.write(some(place))
    code, out, _ = place.run("savings", "--baseline", "dear", "records", "--json")
    [told] = json.loads(out)["baselines"]
    assert code == 0
    assert (told["compared"], told["spent_nano_usd"]) == (10, 13_000_000_000)
    assert {told[f"{bound}_nano_usd"] for bound in ("low", "likely", "high")} == {20_000_000_000}
    by_rule = {row["rule"]: (row["requests"], row["spent_nano_usd"]) for row in told["by"]["rule"]}
    assert by_rule == {"all": (7, 7_000_000_000), "code": (3, 6_000_000_000)}
    assert [row["day"] for row in told["by"]["day"]] == ["2026-11-21"]


def test_another_model_is_an_interval_and_what_it_could_not_serve_is_apart(place: Place) -> None:
    long = place.record(10, tokens={"": (90_000, 100_000, True)}, text_bytes=0)
    failed = place.record(11)
    failed.result = Result(502, "upstream_error")
    place.write([place.record(), long, failed])
    _, out, _ = place.run("savings", "--baseline", "llama-4-scout", "records", "--json")
    [told] = json.loads(out)["baselines"]
    assert told["compared"] == 1
    assert told["low_nano_usd"] < told["likely_nano_usd"] == 2_000_000_000 < told["high_nano_usd"]
    assert told["not_compared"]["unable"] == {"context_length_exceeded": 1}
    assert told["not_compared"]["unable_spent_nano_usd"] == 1_000_000_000
    assert told["not_compared"]["unanswered"] == 1
    assert told["assumes"]


def test_several_baselines_and_a_policy_can_be_compared_and_read_as_a_table(place: Place) -> None:
    place.write(some(place))
    code, out, _ = place.run("savings", "--baseline", "dear", "--baseline", "new.yaml", "records", "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    everything = {row["baseline"]: (row["requests"], row["likely_usd"]) for row in rows if row["by"] == "all"}
    assert list(everything.values()) == [("10", "20.000000000"), ("9", "10.000000000")]
    assert {row["value"] for row in rows if row["by"] == "team"} == {"blue", "red"}


def test_a_table_holds_no_formula(place: Place) -> None:
    place.write([place.record(team="=1+1")])
    _, out, _ = place.run("savings", "--baseline", "dear", "records", "--csv")
    assert [row["value"] for row in csv.DictReader(io.StringIO(out)) if row["by"] == "team"] == ["'=1+1"]


def test_savings_say_what_they_assume(place: Place) -> None:
    place.write(some(place))
    _, out, _ = place.run("savings", "--baseline", "dear", "records")
    assert "  spent $13.000000; dear would have cost $20.000000 ($20.000000 to $20.000000)\n" in out
    assert "  saved $7.000000 ($7.000000 to $7.000000, 35%)\n" in out
    assert "assumes\n  output: as many tokens as were answered" in out


def test_a_target_that_is_down_in_the_records_is_up_for_a_baseline(place: Place) -> None:
    made = place.record()
    made.world.held = ("dear",)
    place.write([made])
    _, out, _ = place.run("savings", "--baseline", "dear", "records", "--json")
    assert json.loads(out)["baselines"][0]["compared"] == 1


def copies(place: Place, *, team: str = "blue", at: float = START, number: int = 1, **more: Any) -> bytes:
    """The line of a shadow."""
    values = {
        "v": 1, "id": f"{number:032x}", "at": at, "policy": place.policy.label, "rule": "code", "shadow": "copy",
        "target": "dear", "model": "llama-3.3-70b", "key": "checkout", "team": team, "outcome": "ok",
        "usage": Usage(10, 2), "cost_nano": 14_000,
    }  # fmt: skip
    return records.write(Copied(**(values | more)))


def test_what_shadows_cost_is_told_apart_from_what_is_compared(place: Place) -> None:
    file = place.write([place.record(1)])
    before = json.loads(place.run("savings", "records", "--baseline", "dear", "--json")[1])
    with file.open("ab") as lines:
        lines.write(copies(place) + copies(place, number=2, outcome="reset", usage=None, cost_nano=0))
        lines.write(copies(place, number=3, target="cheap", priced=False, cost_nano=0))
    told = json.loads(place.run("savings", "records", "--baseline", "dear", "--json")[1])
    assert told["baselines"] == before["baselines"]
    assert before["shadows"] == {"shadows": 0, "failed": 0, "unpriced": 0, "spent_nano_usd": 0, "by": []}
    assert told["shadows"] == {
        "shadows": 3, "failed": 1, "unpriced": 1, "spent_nano_usd": 14_000,
        "by": [
            {"rule": "code", "target": "cheap", "shadows": 1, "failed": 0, "unpriced": 1, "spent_nano_usd": 0},
            {"rule": "code", "target": "dear", "shadows": 2, "failed": 1, "unpriced": 0, "spent_nano_usd": 14_000},
        ],
    }  # fmt: skip
    table = list(csv.reader(io.StringIO(place.run("savings", "records", "--baseline", "dear", "--csv")[1])))
    assert table[-1] == ["", "shadow", "code: dear", "2", "0.000014000", "", "", ""]
    text = place.run("savings", "records", "--baseline", "dear", "--rows", "1")[1]
    assert "  1 of them failed\n  1 of them were answered by a target without a price\n" in text
    assert "    code: dear                            2      $0.000014\n    ... 1 more\n" in text


@pytest.mark.parametrize(
    ("arguments", "count"),
    [((), 3), (("--team", "red"), 1), (("--key", "other"), 0), (("--since", "2026-11-21"), 2), (("--limit", "9"), 3)],
)
def test_shadows_are_chosen_as_their_requests_are(place: Place, arguments: tuple[str, ...], count: int) -> None:
    with place.write([place.record(1)]).open("ab") as lines:
        lines.write(copies(place) + copies(place, team="red") + copies(place, at=START - 200_000))
    told = json.loads(place.run("savings", "records", "--baseline", "dear", "--json", *arguments)[1])
    assert told["shadows"]["shadows"] == count


def test_a_hostile_line_of_a_shadow_does_not_move_the_terminal(place: Place) -> None:
    with place.write([place.record(1)]).open("ab") as lines:
        lines.write(copies(place, rule="\x1b[2J=1+1\n\u202e"))
    for form in ((), ("--csv",)):
        told = place.run("savings", "records", "--baseline", "dear", *form)[1]
        assert told.replace("\n", "").isprintable()
        assert "\\x1b[2J=1+1\\n\\u202e: dear" in told
