"""Policy files that are made to hold up whoever loads them: refused, or judged in bounded time.

The bound is counted in steps where there are steps to count, else in CPU seconds with a wide margin: none of these took
more than four on a busy machine, of which reading the YAML is half, and without the limits half a minute and more.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway import yamlfile
from gateway.core.analyse import leaks
from gateway.core.clauses.matchers import MOST_PROBLEMS
from gateway.core.errors import ConfigError
from gateway.core.policy import PolicyDoc
from gateway.core.types import Fleet
from gateway.policyfile import PolicyFile, reference_fleet
from gateway.problems import validated

#: CPU seconds: several times of what is needed, and a fraction of what an unbounded reading takes.
MOST_S = 20.0
HEAD = "policy: p\n"
LAST = 'rules: [{id: a, use: ["*"]}]\n'
MODEL = "llama-4-scout"


def rules(count: int, one: str) -> str:
    return HEAD + "rules:\n" + "".join(f"- {one}\n".replace("#", str(number)) for number in range(count))


def nested(word: str, depth: int) -> str:
    """Every level names what is inside it twice over: read literally, it doubles with each."""
    inner = "{tools: true}"
    for _ in range(depth):
        inner = f"{{{word}: [{inner}, {{not: {{stream: true}}}}]}}"
    return inner


JUDGED = {
    "15,000 rules": rules(15_000, '{id: r#, use: ["*"]}'),
    "a set that repeats a model 20,000 times in 8,000 rungs": (
        f"{HEAD}sets:\n  s:\n" + f"  - {MODEL}\n" * 20_000 + rules(8_000, '{id: r#, use: [{model: "@s"}]}')[len(HEAD) :]
    ),
    "7,000 sets in 7,000 rungs": (
        f"{HEAD}sets:\n" + "".join(f"  s{n}: [{MODEL}]\n" for n in range(7_000))
        + rules(7_000, '{id: r#, use: [{model: "@s#"}]}')[len(HEAD) :]
    ),
    "a rung that names a model 30,000 times": (
        f"{HEAD}rules:\n- id: r\n  use:\n  - model:\n" + f"    - {MODEL}\n" * 30_000
    ),
    "50,000 texts in a condition": (
        f"{HEAD}rules:\n- id: r\n  use: ['*']\n  when:\n    tenant.team:\n"
        + "".join(f"    - t{n}\n" for n in range(50_000))
    ),
    "5,000 constraints with variables of their own": (
        f"{HEAD}constraints:\n"
        + "".join(f"- {{id: c{n}, require: {{target.region: $tenant.x{n}}}}}\n" for n in range(5_000)) + LAST
    ),
    "150 nests of 20 levels": rules(150, f'{{id: r#, when: {nested("any", 20)}, use: ["*"]}}'),
    "as many of all": rules(150, f'{{id: r#, when: {nested("all", 20)}, use: ["*"]}}'),
}  # fmt: skip
REFUSED = {
    "an alias": f"{HEAD}sets: &a {{}}\nthinking: *a\n{LAST}",
    "a billion laughs": HEAD + "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "a merge key": f"{HEAD}<<: {{a: b}}\n{LAST}",
    "a key twice": HEAD + HEAD + LAST,
    "a rule's key twice": HEAD + 'rules: [{id: a, id: b, use: ["*"]}]\n',
    "more than 1 MiB": HEAD + LAST + "# \n" * 400_000,
    "10,000 levels of lists": HEAD + "sets: {a: " + "[" * 10_000 + "]" * 10_000 + "}\n" + LAST,
    "10,000 levels of not": HEAD + "rules: [{id: a, use: ['*'], when: " + "{not: " * 10_000 + "}" * 10_000 + "}]\n",
    "levels that a parser counts by lines": HEAD + "".join(" " * n + "a:\n" for n in range(1_000)) + LAST,
    "100,000 rules": rules(40_000, "{id: r#, use: ['*']}"),
    "11,000 models that nobody knows": rules(11_000, "{id: r#, use: [{model: lama-#}]}"),
    "9,000 signals that there are not": rules(9_000, "{id: r#, when: {tsak#: x}, use: ['*']}"),
    "14,000 keys that there are not": rules(14_000, "{id: r#, uze: ['*']}"),
    "15,000 rules of one name": rules(15_000, "{id: r, use: ['*']}"),
    "NUL": HEAD + LAST + "# \x00\n",
    "NUL in a text": HEAD + 'because: "\\0"\nrules: [{id: "a\\0", use: ["*"]}]\n',
    "a text that turns around": HEAD + 'rules: [{id: "\u202eelur", use: ["*"]}]\n',
    "a number of 5,000 digits": HEAD
    + f"rules: [{{id: a, when: {{context_tokens: {{gt: {'9' * 5_000}}}}}, use: ['*']}}]\n",
    "a number with an exponent": HEAD + "rules: [{id: a, when: {context_tokens: {gt: 1e400}}, use: ['*']}]\n",
    "no number": HEAD + "rules: [{id: a, when: {context_tokens: {gt: .nan}}, use: ['*']}]\n",
    "a date that is none": HEAD + "as_of: 2026-02-30\n" + LAST,
    "a year beyond all": HEAD + "as_of: 99999-01-01\n" + LAST,
    "a tag": HEAD + "because: !!python/object/apply:os.system [id]\n" + LAST,
    "a name of 60,000 letters": HEAD + f"rules: [{{id: a, use: [{{model: {'l' * 60_000}}}]}}]\n",
    "a line of 100,000": HEAD + f"because: {'x' * 100_000}\n" + LAST,
    "not UTF-8, and then some": HEAD + LAST + "\udcff",
}


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return reference_fleet()


def load(text: str, fleet: Fleet) -> float:
    """CPU seconds for everything that is done to a policy before it is served."""
    begun = time.process_time()
    try:
        document = yamlfile.loads(text, "policy.yaml")
        file = PolicyFile(document, validated(document, PolicyDoc))
        leaks(file.bind(fleet))
        assert file.failures(fleet) == []
    finally:
        took = time.process_time() - begun
        assert took < MOST_S
    return took


@pytest.mark.parametrize("name", JUDGED)
def test_a_huge_policy_is_judged_in_bounded_time(name: str, fleet: Fleet) -> None:
    assert load(JUDGED[name], fleet) > 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_policy_is_refused_in_bounded_time_and_words(name: str, fleet: Fleet) -> None:
    with pytest.raises(ConfigError) as refused:
        load(REFUSED[name], fleet)
    problems = refused.value.problems
    assert 0 < len(problems) <= MOST_PROBLEMS + 1
    said = str(refused.value)
    assert said.startswith("policy.yaml")
    assert len(said) < 64_000
    assert "\x00" not in said
    assert "\u202e" not in said


def test_a_file_of_mistakes_tells_the_first_hundred_and_that_there_are_more(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(rules(500, "{id: r#, use: [{model: lama-#}]}"), fleet)
    *told, last = refused.value.problems
    assert [problem.line for problem in told] == list(range(3, 3 + MOST_PROBLEMS))
    assert last.what == "has at least 100 mistakes; what follows was not read"
