"""That every family is documented, read by something, written so that others can read it, and bounded."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.core.errors import CODES
from gateway.core.money.limits import Allowance, Cap, Quota
from gateway.core.types import Outcome, Record, Routing, Shadowed, Usage
from gateway.limits import Limits, LimitsDoc
from gateway.proxy.clocks import Wheel
from gateway.proxy.gates import Gates
from gateway.proxy.pressure import Measured, Memory, Pressure
from gateway.proxy.shedding import Shedding
from gateway.proxy.watchdog import Watchdog
from gateway.quotas import Quotas
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared
from gateway.telemetry import families
from gateway.telemetry.families import FAMILIES
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.names import Baseline, EndpointNow, Names, TargetFacts, Vitals
from gateway.telemetry.series import SERIES_AT_ONCE, Family, Totals
from gateway.telemetry.shadows import ShadowCounts
from tests.telemetry import page
from tests.telemetry.test_metrics import BASELINE, record

AFTER = "run `python tests/telemetry/page.py`, and look at what it changed"
DOCUMENTED = {
    cells[0].strip("`"): cells
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.PAGE.read_text("utf-8").splitlines()
        if line.startswith("| `pointsman_")
    )
}
READERS = page.readers()


# -- the page, and who reads what --


def test_every_declared_family_is_in_the_list() -> None:
    declared = {value.name for value in vars(families).values() if isinstance(value, Family)}
    assert [one.name for one in FAMILIES] == list(dict.fromkeys(one.name for one in FAMILIES))
    assert declared == {one.name for one in FAMILIES}


def test_the_page_has_every_family_and_no_other() -> None:
    assert list(DOCUMENTED) == [one.name for one in FAMILIES], AFTER


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_family_is_documented_as_it_is_and_read_by_who_is_said_to(family: Family) -> None:
    told = [cell.strip() for cell in page.row(family, READERS).strip("|").split("|")]
    *facts, said = DOCUMENTED[family.name]
    assert facts == told[:-1], AFTER
    if said.startswith("ad hoc: "):
        assert said.removeprefix("ad hoc: ") == page.AD_HOC[family], AFTER
    else:
        users = page.used_by(family, READERS)
        assert users, f"nothing reads {family.name}: give it a reader, say in page.AD_HOC what it is for, or remove it"
        assert set(said.split(", ")) <= set(users), AFTER


def test_what_is_read_is_exported() -> None:
    """So that renaming a family fails here, whoever reads it."""
    known = {one.name for one in FAMILIES}
    for reader, text in READERS.items():
        for name in set(re.findall(r"\bpointsman_[a-z_]+[a-z]\b(?!:)", text)):
            if reader == "rules" and re.search(rf"(\w:{name}|{name}:)", text):
                continue  # a part of a recorded series' own name
            bare = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in known or bare in known, f"{reader} reads {name}: who exports it?"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_names_follow_the_conventions_of_prometheus(family: Family) -> None:
    assert re.fullmatch(r"pointsman_[a-z]+(_[a-z]+)*", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|percent|ratio|kb|mb|cents|count|sum|bucket)(_|$)", family.name)
    assert family.kind != "histogram" or family.unit == "seconds"
    assert all(
        re.fullmatch(r"[a-z]+(_[a-z]+)*", label) and label not in ("le", "job", "instance") for label in family.labels
    )
    assert family.help.endswith(".")


# -- everything that can be exported, at once --


class Log:
    """One that counts."""

    written, left_out, lost = 3, 2, 1


class Told:
    """What was exported over OTLP."""

    def __init__(self) -> None:
        self.exports = {("traces", "ok"): 2}
        self.exported = {"traces": 7}
        self.dropped = {("traces", "queue_full"): 1}
        self.records_dropped = 0


class Books:
    """A ledger that is behind."""

    up, lag_s, pending, database_errors = True, 2.5, 7, 1

    def __init__(self) -> None:
        self.journal = SimpleNamespace(errors=0)
        self.keeping = SimpleNamespace(counts={"intent": 4, "settle": 3, "expire": 1}, estimated=1, lost=0)
        self.shipping = SimpleNamespace(shipped=5, unshipped=2, lag_s=1.5, errors={"timeout": 1})


LIMITED = Quota(rpm=Cap(5, shadow=True), budgets=(Allowance(10**9, "day"),))


def everything(names: Names, *, process: bool = False) -> Metrics:
    """Metrics of which every family has a series."""
    first, second = sorted(names.targets)[:2]
    rule, model, team = min(names.rules), min(names.models), min(names.teams)
    metrics = Metrics(names, build={"version": "1.2", "python": "3.11"}, process=process)
    fits: dict[str, Any] = {
        "rule": rule, "chosen": first, "target": first, "model": model, "team": team, "policy": "default@abc123",
        "model_asked": min(names.asked),
    }  # fmt: skip
    metrics.finished(
        record(**fits, stream=True),
        record(**fits, priced=False, thought_unasked=True, usage=Usage(3, 4, estimated=True)),
        record(**(fits | {"target": second}), attempts=2, fallback_reason="reset"),
        record(**fits, code="client_gone", status=499),
        record(**fits, stream=True, code="upstream_stream_interrupted"),
        record(**fits, code="policy_denied", status=403, sent_at=0.0, first_event_at=0.0, attempts=0, usage=None),
    )
    metrics.attempt(first, Outcome.RESET)
    metrics.retry(first, Outcome.RESET)
    metrics.anomalies(first, 2)
    metrics.hedge(first, "won")
    metrics.logs = {"requests": Log()}
    metrics.otlp = Told()  # type: ignore[assignment]
    metrics.records = Log()  # type: ignore[assignment]
    metrics.ledger = Books()  # type: ignore[assignment]
    shadows = ShadowCounts()
    metrics.sources.append(shadows)
    shadows.skip("copy", "busy")
    shadows.finished(Shadowed("copy", first, model, "ok", 200, 0.2, 0.4, Usage(10, 5), 1234, True))
    shadows.finished(Shadowed("copy", first, model, "reset", 0, 0.0, 0.1, Usage(10, 5), 0, False))
    gates = Gates()
    gates.adopt(Quotas({team: LIMITED}, {team: LIMITED}, {}, {team: team}), {}, 1e9)
    metrics.sources.append(gates)
    store = Shared(SimpleNamespace(), StoreSettings("127.0.0.1"), "r")  # type: ignore[arg-type]
    metrics.sources.append(store)
    pressure = Pressure(Memory())
    pressure._measured = Measured(1, 2)
    metrics.sources.append(pressure)
    shedding = Shedding(SimpleNamespace(exchanges=(), pressure=0, closing=False))  # type: ignore[arg-type]
    shedding.adopt(Limits.of(LimitsDoc()))
    metrics.sources.append(shedding)
    metrics.sources.append(Watchdog(Wheel(None)))  # type: ignore[arg-type]
    metrics.vitals = Vitals(
        inflight=3,
        queued=1,
        targets=({"target": first, "state": "ejected", "thinking_doubted": True, "slow": ["quick"]},),
        endpoints=(EndpointNow(first, "http://10.0.0.7/v1", "ejected", 1, 256),),
        ejections={(first, "http://10.0.0.7/v1", "reset"): 1},
    )
    return metrics


PLAIN = Names(
    asked=frozenset({"auto"}),
    rules=frozenset({"code"}),
    targets=frozenset({"a", "b"}),
    models=frozenset({"m"}),
    teams=frozenset({"shop"}),
    policies={"default": "abc123"},
    facts=(TargetFacts("a", "m", "llama", "up", "eu", 1.8e9, BASELINE.price), TargetFacts("b", "m", "llama", "up", "")),
    baseline=BASELINE,
)


def test_every_family_can_be_exported_with_just_the_labels_that_it_declares() -> None:
    found: dict[str, set[tuple[str, ...]]] = {}
    for family in parse_text(everything(PLAIN).exposition().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {tuple(sorted(sample.labels.keys() - {"le"})) for sample in family.samples}
    assert found == {one.name: {tuple(sorted(one.labels))} for one in FAMILIES}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_both_formats_say_the_same(openmetrics: bool) -> None:
    metrics = everything(PLAIN, process=True)
    text = metrics.exposition(openmetrics=openmetrics).decode()
    assert text.endswith("# EOF\n") == openmetrics
    parsed = list((parse_openmetrics if openmetrics else parse_text)(text))
    kinds = {one.name: one.type for one in parsed if one.name.startswith("pointsman_")}
    assert kinds == {one.name.removesuffix("_total"): one.kind for one in FAMILIES}
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for one in parsed for s in one.samples}
    assert samples[
        "pointsman_cost_usd_total",
        tuple(sorted({"target": "a", "model": "m", "rule": "code", "team": "shop", "policy": "default"}.items())),
    ] == pytest.approx(0.01)
    assert samples["pointsman_inflight_requests", ()] == 3


def test_units_are_told_where_openmetrics_knows_them() -> None:
    text = everything(PLAIN).exposition(openmetrics=True).decode()
    units = {one.name: one.unit for one in parse_openmetrics(text)}
    assert units["pointsman_cost_usd"] == "usd"
    assert units["pointsman_request_duration_seconds"] == "seconds"
    assert units["pointsman_requests"] == ""


def test_promtool_has_nothing_to_say() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    text = everything(PLAIN, process=True).exposition()
    done = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


# -- exemplars --


def examples(metrics: Metrics, family: str) -> Iterator[tuple[str, Any]]:
    for one in parse_openmetrics(metrics.exposition(openmetrics=True).decode()):
        if one.name == family:
            yield from ((sample.labels["le"], sample.exemplar) for sample in one.samples if sample.exemplar is not None)


@pytest.mark.parametrize("number", [1, 7, 40, 600])
def test_every_bucket_that_was_hit_names_a_request_that_hit_it(number: int) -> None:
    metrics = Metrics(PLAIN, process=False)
    took = {f"{n:032x}": 0.004 * 1.02**n for n in range(number)}
    for request_id, seconds in took.items():
        metrics.finished(record(request_id=request_id, target="a", ended_at=100.0 + seconds))
    family = "pointsman_request_duration_seconds"
    found = dict(examples(metrics, family))
    bounds = [*families.DURATION_BUCKETS_S, float("inf")]
    below = 0.0
    hit = Counter(next(str(bound) for bound in bounds if seconds <= bound) for seconds in took.values())
    assert {le.removeprefix("+").lower() for le in found} == set(hit)
    for bound in bounds:
        example = found.get("+Inf" if bound == float("inf") else str(bound))
        if example is not None:
            assert below < example.value <= bound
            assert example.value == pytest.approx(took[example.labels["request_id"]])
            assert float(example.timestamp) == pytest.approx(1e9 + example.value, abs=0.002)
        below = bound


def test_every_histogram_of_requests_has_examples_and_plain_text_has_none() -> None:
    metrics = everything(PLAIN)
    for family in (families.DURATION, families.FIRST_EVENT, families.PER_TOKEN, families.OVERHEAD):
        assert next(examples(metrics, family.name), None), family.name
    assert " # {" not in metrics.exposition().decode()


# -- what nobody may do to it --

#: Names of configuration are text that people write, so they may hold anything.
ODD = (
    'quo"te',
    "back\\slash",
    "new\nline",
    "carriage\rreturn",
    "nul\x00",
    "esc\x1b[31m",
    "\u2028",
    "\u202e",
    "日本",
    "a,b}",
    "{le=",
)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("openmetrics", [False, True])
def test_odd_names_of_configuration_are_told_as_they_are(odd: str, openmetrics: bool) -> None:
    names = replace(
        PLAIN,
        asked=frozenset({odd}), rules=frozenset({odd}), targets=frozenset({odd, odd + "2"}), models=frozenset({odd}),
        teams=frozenset({odd}), facts=(TargetFacts(odd, odd, odd, odd, odd),), baseline=Baseline(odd, BASELINE.price),
    )  # fmt: skip
    text = everything(names).exposition(openmetrics=openmetrics).decode()
    assert "\n\n" not in text
    parsed = list((parse_openmetrics if openmetrics else parse_text)(text))
    (requests,) = [one for one in parsed if one.name == "pointsman_requests"]
    assert {sample.labels["team"] for sample in requests.samples} == {odd}
    assert {one.name.removesuffix("_total") for one in FAMILIES} == {one.name for one in parsed}


def test_half_a_character_costs_no_scrape() -> None:
    names = replace(PLAIN, teams=frozenset({"half \ud800"}))
    (requests,) = [
        one for one in parse_text(everything(names).exposition().decode()) if one.name == "pointsman_requests"
    ]
    assert {sample.labels["team"] for sample in requests.samples} == {"half ?"}


def test_no_family_has_more_series_than_the_page_allows() -> None:
    """Records of every kind, with names that are configured and names that are not."""
    names = replace(
        PLAIN, rules=frozenset({"r1", "r2"}), asked=frozenset({"auto", "a", "b"}), policies={"p": "1", "q": "2"}
    )
    metrics = everything(names)
    values = {
        "policy": ("p@1", "q@2", "x@3", ""), "rule": ("r1", "r2", "pin", "evil", ""),
        "model_asked": ("auto", "a", "evil", ""), "target": ("a", "b", "evil", ""),
        "team": ("shop", "evil", ""), "code": ("ok", "client_gone", *CODES, "evil"),
    }  # fmt: skip
    dice = random.Random(1)
    for n in range(20_000):
        chosen = {name: dice.choice(some) for name, some in values.items()}
        model = {"a": "m", "b": "m"}.get(chosen["target"], "evil" if chosen["target"] else "")
        routing = Routing(
            "key", chosen["team"], chosen["model_asked"], n % 2 == 0, chosen["policy"], chosen["rule"],
            "a" if chosen["target"] else "", chosen["target"], model,
        )  # fmt: skip
        metrics.finished(
            Record(f"{n:032x}", 1e9, 1.0, routing, 200, chosen["code"], 1 + n % 2, 1.1, 1.2, 1.3, Usage(1, 2), 3, True)
        )
    letters = {
        "A": 3 + 2, "P": 2 + 2, "R": 2 + 3, "T": 2 + 2, "M": 1 + 2, "Q": 1 + 2, "C": len(CODES) + 3, "O": len(Outcome),
        "E": 2, "H": 1, "L": 1, "B": 2, "S": 2,
    }  # fmt: skip
    for family in parse_text(metrics.exposition().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        allowed = page.value_of(DOCUMENTED[name][5], letters)
        assert len(family.samples) <= allowed, (
            f"{name}: {len(family.samples)} series, {DOCUMENTED[name][5]} is {allowed}"
        )


# -- pieces --


def test_a_scrape_of_many_series_comes_in_pieces_and_loses_nothing() -> None:
    metrics = Metrics(PLAIN, process=False)
    for n in range(20 * SERIES_AT_ONCE):
        metrics.at(families.REFUSALS, f"code{n}").value += 1
    pieces = list(metrics.pieces())
    assert len(pieces) > 2
    assert b"".join(pieces).count(b"pointsman_refusals_total{") == 20 * SERIES_AT_ONCE


def test_a_scrape_that_is_broken_off_loses_no_count() -> None:
    metrics = Metrics(PLAIN, process=False)
    fits = {"rule": "code", "chosen": "a", "target": "a", "model": "m", "model_asked": "auto"}
    metrics.finished(
        *[record(**fits, team=team, code=code) for team in ("shop", "", "evil") for code in ("ok", *CODES)]
    )
    pieces = metrics.pieces()
    next(pieces)
    del pieces
    metrics.finished(record(**fits))
    (found,) = [one for one in parse_text(metrics.exposition().decode()) if one.name == "pointsman_requests"]
    assert sum(sample.value for sample in found.samples) == 3 * (len(CODES) + 1) + 1


def test_counts_are_told_by_their_label_values() -> None:
    totals = Totals(families.REFUSALS)
    totals.at("ok").value += 2
    assert totals.numbers() == {("ok",): 2}
