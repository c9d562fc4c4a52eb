"""The policies that come with Pointsman: they load, pass their own tests, and keep what README.md beside them says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from gateway import includes, yamlfile
from gateway.catalog.ways import ways_of
from gateway.core import facts
from gateway.core.analyse import analyse, analyse_everywhere
from gateway.core.clauses import matchers
from gateway.core.parts import PartDoc
from gateway.core.policy import RANKS, Policy, PolicyDoc, clock
from gateway.core.proving import expectations, policytest
from gateway.core.types import Fleet
from gateway.policyfile import PolicyFile, load_catalogue, load_policy, policy_files, reference_fleet
from gateway.problems import validated
from gateway.testing.mutation import survey

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "policies"
FILES = policy_files(FOLDER)
PARTS_OF_FILES = sorted((FOLDER / "parts").glob("*.yaml"))
README = FOLDER / "README.md"
#: S0:48, S1:22, R-05, X-12: a line of a source document, a row of the routing table, a contradiction.
CLAIM = re.compile(r"\bS[01]:\d+\b|\b[RX]-\d\d\b")


@cache
def fleet() -> Fleet:
    return reference_fleet()


@cache
def policy(name: str) -> Policy:
    return load_policy(FOLDER / f"{name}.yaml").bind(fleet())


def test_the_policies_are_found() -> None:
    assert {"default", "demo"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_policy_passes_its_own_tests(path: Path) -> None:
    results = load_policy(path).run_tests(fleet())
    assert results
    assert [str(result) for result in results if not result.passed] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_policy_has_nothing_to_be_warned_of(path: Path) -> None:
    found = analyse(load_policy(path).bind(fleet()))
    # What has no path is about a target: the reference fleet has one that is withdrawn, to show what becomes of it.
    assert [str(finding) for finding in found if finding.severity in ("error", "warning") and finding.path] == []
    assert {"every request is covered by a rule", "the fallbacks of every rule cross families"} <= {
        finding.message for finding in found if finding.severity == "holds"
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_installation_has_anything_to_be_warned_of(path: Path) -> None:
    known = load_catalogue()
    made = load_policy(path).imagine(ways_of(known), known.models)
    found = analyse_everywhere(made, now=clock(made.policy), providers=frozenset(known.providers))
    assert [str(finding) for finding in found if finding.severity in ("error", "warning")] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_policy_is_named_like_its_file_and_names_its_schema(path: Path) -> None:
    assert policy(path.stem).name == path.stem
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first == "# yaml-language-server: $schema=../schemas/policy.json"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_rule_and_constraint_names_the_claim_it_comes_from(path: Path) -> None:
    doc = policy(path.stem).doc
    assert [entry.id for entry in (*doc.rules, *doc.constraints) if not CLAIM.search(entry.because)] == []


@pytest.mark.parametrize("path", [*FILES, *PARTS_OF_FILES], ids=lambda path: path.stem)
def test_nothing_can_be_taken_away_or_weakened_without_a_test_that_notices(path: Path) -> None:
    """Expecting a rule by its name does not count: what is expected must say where requests go."""
    assert [str(one) for one in survey(load_policy(path, part=True), fleet()).survivors] == []


@pytest.mark.parametrize("path", [*FILES, *PARTS_OF_FILES], ids=lambda path: path.stem)
def test_whatever_is_in_a_policy_can_matter_on_the_reference_fleet(path: Path) -> None:
    idle = [str(one) for one in survey(load_policy(path, part=True), fleet()).idle]
    # A closed Llama is not on the fleet, since there is none in the catalogue that anybody rents out.
    assert [one for one in idle if one != "allow_closed: without llama"] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "demo"], ids=lambda path: path.stem)
def test_what_a_key_says_of_its_tenant_binds_under_every_policy(path: Path) -> None:
    assert "parts/tenants.yaml" in load_policy(path).doc.include


# README.md: every example in it is a real one

FENCE = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)
EXAMPLES = FENCE.findall(README.read_text(encoding="utf-8"))
PARTS = ("include", "sets", "constraints", "rules", "thinking", "tests", "rank", "allow_closed", "tokens_by")


def example(text: str) -> PolicyFile:
    """A policy of an example: what it leaves out is what makes it whole. A part is one that lets all else go."""
    document = yamlfile.loads(text, str(README))
    if includes.is_part(document):
        part = validated(document, PartDoc)
        return PolicyFile(*includes.put_in(document, part.alone(), [includes.Part(document, part)]))
    base = {"policy": "example", "as_of": "2026-11-21", "rules": [{"id": "default", "use": ["*"]}]}
    document.data.update({key: value for key, value in base.items() if key not in document.data})
    return PolicyFile(document, validated(document, PolicyDoc))


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: str(text).partition("\n")[0][:40])
def test_an_example_of_the_readme_loads_and_its_tests_pass(text: str) -> None:
    file = example(text)
    assert [str(result) for result in file.run_tests(fleet()) if not result.passed] == []


def test_the_readme_explains_every_key_signal_operator_and_expectation() -> None:
    text = README.read_text(encoding="utf-8")
    words = set(re.findall(r"`([^`\n]+)`", text))
    operators = {name for names in matchers.OPERATORS.values() for name in names}
    known = {
        *PARTS,
        *facts.SIGNALS,
        *facts.FACTS,
        f"{facts.EVALS}<name>",
        *RANKS,
        *operators,
        *expectations.EXPECTATIONS,
        *policytest.WORLD,
    }
    assert sorted(known - words) == []
