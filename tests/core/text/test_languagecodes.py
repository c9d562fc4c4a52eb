"""Codes of languages: every one that a text can be told to be in is valid, and what is none says what was meant."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import policy

from gateway.core.errors import ConfigError
from gateway.core.proving.policytest import run_tests
from gateway.core.text import identify, language
from gateway.core.text.languagecodes import CODES, meant
from gateway.core.text.languagenames import OTHERS, UNSPACED

ANYTHING = {"id": "z", "use": ["*"]}


def test_whatever_a_text_can_be_told_to_be_is_a_code() -> None:
    scripts = {script for _, script in language._RANGES} - {*language.SHARED, "", "kana", "han"}
    cld2 = identify.pycld2
    read = set() if cld2 is None else {code for name, code in cld2.LANGUAGES if name in cld2.DETECTED_LANGUAGES}
    told = {identify._CODES.get(code, code) for code in read - identify._JOKES}
    told |= scripts | set(OTHERS.values()) | set(UNSPACED.values()) | {language.UNNAMED}
    assert len(told) > 100
    assert told <= CODES


@pytest.mark.parametrize(
    ("word", "code"),
    [("german", "de"), ("English", "en"), ("deutsch", "de"), ("中文", "zh"), ("pt-BR", "pt"), ("DE", "de"),
     ("zh_Hant", "zh"), ("iw", "he"), ("fil", "tl"), ("haitian creole", "ht"), ("jp", "ja")],
)  # fmt: skip
def test_a_name_says_which_code_was_meant(word: str, code: str) -> None:
    assert word not in CODES
    assert meant(word) == f"did you mean {code}?"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("rules[0].when.language", {"rules": [{**ANYTHING, "when": {"language": "german"}}]}),
        ("rules[0].when.language.in[1]", {"rules": [{**ANYTHING, "when": {"language": {"in": ["en", "german"]}}}]}),
        ("rules[0].when.not.language", {"rules": [{**ANYTHING, "when": {"not": {"language": "german"}}}]}),
        ("rules[0].when.language.not", {"rules": [{**ANYTHING, "when": {"language": {"not": "german"}}}]}),
        ("rules[0].when.target_language", {"rules": [{**ANYTHING, "when": {"target_language": "german"}}]}),
        ("rules[0].use[0].model.languages", {"rules": [{"id": "z", "use": [{"model.languages": "german"}]}]}),
        (
            "constraints[0].require.model.languages[0]",
            {"constraints": [{"id": "c", "require": {"model.languages": ["german", "$language"]}}]},
        ),
    ],
)
def test_a_language_that_is_no_code_is_refused(path: str, parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        policy(**{"rules": [ANYTHING], **parts})
    told = {(one.path, one.what, one.valid) for one in refused.value.problems}
    assert (path, "'german' is no code of a language", "did you mean de?") in told


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"language": "german"}, "tests[0].given.language"),
        ({"language": {"shares": {"german": 1.0}}}, "tests[0].given.language.shares.german"),
        ({"target_language": ["german"]}, "tests[0].given.target_language"),
    ],
)
def test_a_test_is_given_no_language_that_is_no_code(given: dict[str, Any], path: str) -> None:
    made = policy(as_of="2026-11-21", rules=[ANYTHING], tests=[{"name": "n", "given": given, "expect": {"rule": "z"}}])
    with pytest.raises(ConfigError) as refused:
        run_tests(made)
    assert [(one.path, one.valid) for one in refused.value.problems] == [(path, "did you mean de?")]


def test_codes_languages_without_a_name_and_those_of_a_catalogue_are_taken() -> None:
    use = [{"model.languages": ["gsw", "de"]}, "*"]
    when = {"language": ["de", "mis", "yue", "haw"], "target_language": {"lacks": "ckb"}}
    made = policy(
        rules=[{"id": "a", "when": when, "use": use}, ANYTHING],
        constraints=[{"id": "c", "when": {"language": {"known": True}}, "require": {"model.languages": "$language"}}],
    )
    assert [rule.id for rule in made.rules] == ["a", "z"]
