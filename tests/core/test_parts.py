"""Parts put into policies: they only add, and nothing around them changes what they mean."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import FLEET, document, given, snapshot
from pydantic import ValidationError

from gateway.core.decide import decide
from gateway.core.parts import Joined, PartDoc, join
from gateway.core.policy import PolicyDoc, compile_policy

LLAMA = {"id": "no-llama", "forbid": {"family": "llama"}}
HOME = {"id": "home", "require": {"target.self_hosted": True}}


def part(**parts: Any) -> PartDoc:
    return PartDoc.model_validate({"part": "p", **parts})


def joined(*parts: PartDoc, **own: Any) -> Joined:
    return join(PolicyDoc.model_validate(document(**own)), parts)


def names(made: Joined, pinned: int | None = None) -> list[str]:
    compiled = compile_policy(made.doc, FLEET, digest="0")
    return [one.name for one in decide(compiled, given(), snapshot(), pinned=pinned).candidates]


def test_constraints_of_all_parts_hold_beside_the_policys_own() -> None:
    made = joined(
        part(constraints=[LLAMA]), part(constraints=[HOME]), constraints=[{"id": "c", "forbid": {"family": "gpt"}}]
    )
    assert [entry.id for entry in made.doc.constraints] == ["c", "no-llama", "home"]
    assert names(made) == ["qwen122", "qwen35", "coder", "oss"]
    assert names(made, pinned=1) == []


def test_what_came_from_a_part_is_known_to_stand_there() -> None:
    own = {"constraints": [HOME], "tests": [{"name": "t", "expect": {"rule": "all"}}]}
    said = [{"name": "u", "expect": {"never_family": "llama"}}]
    made = joined(part(), part(constraints=[LLAMA], sets={"s": ["gpt-5"]}, tests=said, tokens_by="qwen3.5"), **own)
    assert made.places == {
        "constraints[1]": (1, "constraints[0]"), "sets.s": (1, "sets.s"), "tests[1]": (1, "tests[0]"),
        "tokens_by": (1, "tokens_by"),
    }  # fmt: skip
    assert [test.name for test in made.doc.tests] == ["t", "u"]


@pytest.mark.parametrize(
    ("said", "own", "path", "what"),
    [
        ({"constraints": [LLAMA]}, {"constraints": [{**LLAMA, "forbid": {"family": "gpt"}}]},
         "constraints[0].id", "none takes another's place"),
        ({"sets": {"s": ["gpt-5"]}}, {"sets": {"s": ["llama-4-scout"]}}, "sets.s", "holds other models elsewhere"),
        ({"constraints": [{"id": "c", "forbid": {"family": "llama", "model": {"not": ["@s"]}}}]},
         {"sets": {"s": ["gpt-5"]}}, "constraints[0].forbid.model.not[0]", "@s is not declared in this file"),
        ({"tokens_by": "qwen3.5"}, {"tokens_by": "llama4"}, "tokens_by", "are tokens of qwen3.5"),
    ],
)  # fmt: skip
def test_a_policy_can_change_nothing_of_a_part(said: Any, own: Any, path: str, what: str) -> None:
    (clash,) = joined(part(**said), **own).clashes
    assert (clash.part, clash.path) == (0, path)
    assert what in clash.what


def test_a_set_may_be_declared_twice_alike() -> None:
    said = part(sets={"s": ["gpt-5"]}, constraints=[{"id": "c", "forbid": {"model": "@s"}}])
    made = joined(said, part(sets={"s": ["gpt-5"]}), sets={"s": ["gpt-5"]})
    assert made.clashes == ()
    assert "gpt" not in names(made)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"rules": []}, ("rules",)),
        ({"rank": "listed"}, ("rank",)),
        ({"thinking": []}, ("thinking",)),
        ({"allow_closed": ["gpt"]}, ("allow_closed",)),
        ({"constraints": [{"id": "c"}]}, ("constraints", 0)),
        ({"constraints": [LLAMA, LLAMA]}, ("constraints",)),
        ({"tests": [{"name": "t", "request": "a.json", "expect": {"refused": "policy_denied"}}]}, ()),
        ({"include": ["/etc/passwd.yaml"]}, ("include", 0)),
        ({"include": ["a\\b.yaml"]}, ("include", 0)),
        ({"include": ["a.txt"]}, ("include", 0)),
        ({"include": ["a.yaml"] * 17}, ("include",)),
    ],
)  # fmt: skip
def test_a_part_routes_nothing_and_promises_only_what_it_can_keep(said: Any, where: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        part(**said)
    assert all(error["loc"][: len(where)] == where for error in caught.value.errors())


def test_a_part_alone_lets_everything_go_everywhere_else() -> None:
    made = join(part(constraints=[LLAMA], as_of="2026-11-21").alone(), [part(constraints=[LLAMA])])
    assert names(made) == ["qwen122", "qwen35", "coder", "plus", "oss"]


def test_what_a_part_accepts_is_accepted_in_the_policy_around_it_and_known_to_stand_there() -> None:
    reason = {"finding": "constraint-strands", "id": "c", "because": "sold so"}
    own = PolicyDoc.model_validate(
        {"policy": "p", "rules": [{"id": "all", "use": ["*"]}], "accept": [{**reason, "id": "own"}]}
    )
    joined = join(
        own, [PartDoc.model_validate({"part": "a"}), PartDoc.model_validate({"part": "b", "accept": [reason]})]
    )
    assert [(one.finding, one.id) for one in joined.doc.accept] == [
        ("constraint-strands", "own"),
        ("constraint-strands", "c"),
    ]
    assert joined.places["accept[1]"] == (1, "accept[0]")
