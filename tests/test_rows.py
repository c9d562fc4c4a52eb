"""Every row of the routing table in policies/README.md: it names what makes it so and what proves it, and the proof is
one, for the named tests fail once the thing is taken away.

What a policy's rule, constraint or entry does is taken away in `test_policies`; here, line by line, what code does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.core.policy import PolicyDoc
from gateway.policyfile import load_policy, policy_files

ROOT = Path(__file__).parent.parent
README = ROOT / "policies" / "README.md"
ROWS = [f"R-{number:02}" for number in range(1, 38)]
CONTRADICTIONS = [f"X-{number:02}" for number in range(1, 19)]
_LINE = re.compile(r"^\| ([RX]-\d\d) \| (.*) \|$", re.M)
#: `default#long-context`: an entry of policies/default.yaml.
_ENTRY = re.compile(r"`([a-z-]+)#([a-z0-9-]+)`")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


class Row(NamedTuple):
    """A line of the table: what the documents ask for, what makes it so, what proves it."""

    asks: str
    made_by: str
    proof: str


@cache
def table() -> dict[str, Row]:
    found = {}
    for name, rest in _LINE.findall(README.read_text(encoding="utf-8")):
        if name.startswith("R"):
            found[name] = Row(*rest.split(" | "))
    return found


@cache
def entries() -> dict[tuple[str, str], str]:
    """(policy, id) -> its `because`."""
    found = {}
    for path in policy_files(ROOT / "policies"):
        doc: PolicyDoc = load_policy(path).doc
        for one in (*doc.rules, *doc.constraints, *doc.thinking, *doc.latency, *doc.shadow):
            found[path.stem, one.id] = f"{found.get((path.stem, one.id), '')} {one.because}"
    return found


def test_the_table_has_every_row_and_every_contradiction() -> None:
    found = [name for name, _ in _LINE.findall(README.read_text(encoding="utf-8"))]
    assert found == ROWS + CONTRADICTIONS


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_what_makes_it_so_and_a_test_that_exists(name: str) -> None:
    row = table()[name]
    named = _ENTRY.findall(row.made_by)
    for policy, entry in named:
        assert name in entries().get((policy, entry), ""), f"{policy}#{entry} does not say that it is for {name}"
    tests = _TEST.findall(row.proof)
    assert tests or "own tests" in row.proof, row.proof
    assert "own tests" not in row.proof or named, "whose own tests?"
    for file, test in tests:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


class Removal(NamedTuple):
    """What makes a row so, as a piece of code; what stands there once it is gone; and the test that must fail then."""

    row: str
    file: str
    code: str
    without: str
    test: str


DECIDE = "tests/core/test_decide.py::"
LOSES = f"{DECIDE}test_a_request_loses_exactly_these_targets"
FILTERS = "gateway/core/targets/filters.py"
REMOVALS = (
    Removal("R-01", "gateway/catalog/facts.py", "if source not in self.known.sources:", "if False:",
            "tests/test_catalog.py::test_what_has_no_source_or_no_meaning_does_not_load"),
    Removal("R-02", "gateway/site.py", "(self.routes if own is None else self.routes_of[own])", "self.routes",
            "tests/test_site.py::test_a_key_can_have_a_default_policy_of_its_own_that_it_does_not_get_out_of"),
    Removal("R-03", "gateway/core/decide.py", "fitting = fits(policy, signals, left & snapshot.available)",
            "fitting = left & snapshot.available", LOSES),
    Removal("R-07", FILTERS, "lost |= able.blind.get(modality, -1)", "pass", LOSES),
    Removal("R-08", FILTERS, "lost |= above(able.images, images)", "pass", LOSES),
    Removal("R-09", FILTERS, 'return without if left & without and signals.get("tools") else 0', "return 0", LOSES),
    Removal("R-11", "gateway/core/servers/rows.py",
            'thinking=Spelling(switch="enable_thinking", budget="thinking_budget"),', "thinking=Spelling(),",
            "tests/core/servers/test_dialects.py::test_thinking_is_said_explicitly_both_ways"),
    Removal("R-16", FILTERS, "lost |= outside(policy.capabilities.residencies, residency)", "pass", LOSES),
    Removal("R-18", "gateway/fleet.py", "elif needed > there:", "elif False:",
            "tests/test_fleet.py::test_what_needs_more_memory_than_there_is_does_not_load"),
    Removal("R-20", FILTERS, "if affordable < 0 or signals.exceeds(", "if False and signals.exceeds(", LOSES),
    Removal("R-21", FILTERS, 'return without if left & without and signals.get("structured_output") else 0',
            "return 0", LOSES),
    Removal("R-24", "gateway/core/resilience/failover.py", "Outcome.OVERLOADED: _Row(_NEXT,",
            "Outcome.OVERLOADED: _Row(_STOP,",
            "tests/core/resilience/test_failover.py::test_what_failed_before_anything_was_sent_goes_to_the_next_candidate"),
    Removal("R-26", FILTERS, "return policy.capabilities.closed", "return 0", LOSES),
    Removal("R-27", "gateway/control.py", 'if request.scope["path"].startswith(_UNROUTED):', "if False:",
            "tests/faults/test_client.py::test_names_and_keys_that_are_wrong_get_their_status"),
    Removal("R-28", "gateway/core/reading/signals.py",
            "self._sizes.more_than(target.model.tokenizer, target.window - output",
            "self._sizes.more_than(None, target.window - output",
            "tests/core/reading/test_signals.py::test_a_prompt_fits_by_each_target_s_own_tokenizer"),
    Removal("R-29", "gateway/core/decide.py", "slow = slowness(policy, signals, snapshot, mask) if snapshot.slow",
            "slow: list = [] if snapshot.slow",
            "tests/core/clauses/test_latency.py::test_slow_targets_go_behind_the_others_and_none_is_removed"),
    Removal("R-30", "gateway/catalog/facts.py", "return under | own |", "return own |",
            "tests/test_catalog.py::test_a_fine_tune_has_what_its_base_has_unless_it_says_otherwise"),
    Removal("R-31", "gateway/core/facts.py", "dict(t.model.evals).get(score)", "None",
            "tests/core/test_facts.py::test_scores_are_facts_by_whatever_name_an_operator_gives_them"),
    Removal("R-32", FILTERS, "return retired(retirements, snapshot.now) if retirements else 0", "return 0",
            f"{DECIDE}test_a_target_is_gone_from_midnight_utc_of_the_day_it_retires"),
    Removal("R-33", "gateway/core/decide.py", "if policy.shadows else None", "if False else None",
            "tests/core/clauses/test_shadow.py::test_a_share_of_the_draws_is_copied"),
    Removal("R-34", "gateway/core/decisions/trace.py", "if entry.lineage else {}", "if () else {}",
            "tests/core/decisions/test_trace.py::test_lineage_is_told_for_audits"),
    Removal("R-36", "gateway/secretref.py", 'if value.startswith("sk-sp-"):', "if False:",
            "tests/test_config.py::test_a_secret_that_is_none_or_may_not_be_used_is_refused"),
    Removal("R-37", "gateway/proxy/routing.py", '"rule": decision.rule,', "",
            "tests/proxy/test_requests.py::test_an_answer_comes_back_byte_for_byte_with_its_decision_in_the_head"),
)  # fmt: skip


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Every removal made in a copy of the source, one at a time, and what its test said to it."""
    root = tmp_path_factory.mktemp("removed")
    workers = 2
    trees = [root / str(number) for number in range(workers)]
    for tree in trees:
        tree.mkdir()
        for name in ("gateway", "tests", "policies", "schemas"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "bench"))
        shutil.copy(ROOT / "pyproject.toml", tree)
    with ThreadPoolExecutor(workers) as pool:
        parts = [pool.submit(_run, tree, REMOVALS[number::workers]) for number, tree in enumerate(trees)]
        yield {row: said for part in parts for row, said in part.result().items()}


def _run(tree: Path, removals: tuple[Removal, ...]) -> dict[str, str]:
    said = {}
    for number, one in enumerate(removals):
        path = tree / one.file
        whole = path.read_text(encoding="utf-8")
        assert whole.count(one.code) == 1, f"{one.row}: {one.file} has {one.code!r} {whole.count(one.code)} times"
        path.write_text(whole.replace(one.code, one.without), encoding="utf-8")
        # A file that is changed twice within a second and keeps its size would be run as it was compiled before.
        os.utime(path, (number * 10, number * 10))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", one.test],
            cwd=tree, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said[one.row] = f"{run.returncode} {run.stdout[-2000:]}{run.stderr[-2000:]}"
        path.write_text(whole, encoding="utf-8")
        os.utime(path, (number * 10 + 5, number * 10 + 5))
    return said


@pytest.mark.parametrize("one", REMOVALS, ids=lambda one: str(one.row))
def test_a_row_s_test_fails_once_what_makes_it_so_is_taken_away(copies: dict[str, str], one: Removal) -> None:
    code, _, said = copies[one.row].partition(" ")
    assert code == "1", said  # 1: tests failed; anything else: none was run
    assert one.test.partition("::")[2] in table()[one.row].proof, "the table names another test"


def test_every_row_can_be_taken_away() -> None:
    """A row rests on an entry of a policy, which `test_policies` takes away, or on code, which is taken away here."""
    by_policy = {name for name in ROWS if _ENTRY.search(table()[name].made_by)}
    assert sorted(by_policy | {one.row for one in REMOVALS}) == ROWS
