from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import gateway
from gateway.core.errors import ConfigError
from gateway.core.reading.lexicon import Excerpt, Lexicon

FILE = Path(gateway.__file__).parent.parent / "policies" / "lexicon.yaml"


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.compile(YAML(typ="safe", pure=True).load(FILE.read_text(encoding="utf-8")))


def document(**members: Any) -> dict[str, Any]:
    rules = [{"id": "a", "task": "code", "points": 3, "words": ["python"]}]
    return {
        "look": {"head": 600, "tail": 300},
        "decide": {"task": 3, "margin": 1, "easy": 3, "hard": 3},
        "rules": rules,
        **members,
    }


@pytest.mark.parametrize(
    ("text", "task", "difficulty"),
    [
        ("Write a Python function that reverses a linked list in place, and explain its complexity.", "code", None),
        ("Write a function to find the median of a list. Use Python.", "code", "easy"),
        ("Why does this fail?\n```python\ndef f(x):\n    return x +\n```", "code", None),
        ("Traceback (most recent call last):\n  File \"x.py\", line 1\nTypeError: 'int' object", "code", None),
        ("diff --git a/x.py b/x.py\n@@ -1,3 +1,3 @@\n-a = 1\n+a = 2", "code", None),
        ("Schreibe eine Funktion, die Primzahlen findet", "code", None),
        ("Translate to French: The train leaves at noon.", "translation", "easy"),
        ("Summarize the following article in three bullet points.", "summarise", "easy"),
        ("who wrote the first dictionary of english", "qa", "easy"),
        ("What does HTTP stand for?", "qa", "easy"),
        ("Hello, how are you today?", "chitchat", "easy"),
        ("Write a poem about the sea in autumn", "creative", "easy"),
        ("Prove that $\\sqrt{2}$ is irrational.", "math", "hard"),
        ("If 12 men take 9 days, how many days do 18 men take?", "math", None),
        ("Which is a mammal?\nA. trout\nB. bat\nC. newt", "reasoning", "hard"),
        ("The harbour was quiet that evening, and nobody spoke of what had happened at the mill.", None, None),
        ("", None, None),
    ],
)
def test_words_tell_the_task_and_the_difficulty(
    lexicon: Lexicon, text: str, task: str | None, difficulty: str | None
) -> None:
    verdict = lexicon.judge(Excerpt(text))
    assert verdict.task == task, verdict.hits
    if difficulty is not None:
        assert verdict.difficulty == difficulty, verdict.hits


@pytest.mark.parametrize(
    "text",
    [
        "Is 1000003 prime?",
        "What if the Roman Empire had never fallen?",
        "¿Qué pasaría si desapareciera la Luna?",
        "Was wäre, wenn der Mond verschwände?",
        "如果所有的猫都怕水，而汤姆不怕水，汤姆是猫吗？",
        "Should I rent or buy in Berlin?",
        "Beweise, dass es unendlich viele Primzahlen gibt.",
        "Entwirf ein Datenbankschema für einen Marktplatz.",
        "设计一个高并发秒杀系统",
    ],
)
def test_what_is_short_but_must_be_thought_out_is_not_called_easy(lexicon: Lexicon, text: str) -> None:
    verdict = lexicon.judge(Excerpt(text))
    assert verdict.difficulty != "easy", verdict.hits


CONTRACT = """1. Definitions. In this agreement the following terms have the meanings set out below.
1.1 "Services" means the services described in Schedule 1.
2. Term. This agreement begins on 1 January 2026 and continues for 24 months unless terminated under clause 9.
3. Fees. The client shall pay 4,500 EUR per month within 30 days of the invoice.
(a) Late payment bears interest at 5 percent per year.
(b) Disputed amounts may be withheld.
4. Law. This contract is governed by the laws of Ireland.

"""


@pytest.mark.parametrize(
    ("text", "difficulty"),
    [
        (CONTRACT, None),
        (CONTRACT + "Summarise this contract in five points.", "easy"),
        ("How much is it in all?\n1. 12 apples at 3\n(a) 30\n(b) 36", "hard"),
    ],
)
def test_the_numbers_of_clauses_are_no_arithmetic(lexicon: Lexicon, text: str, difficulty: str | None) -> None:
    verdict = lexicon.judge(Excerpt(text))
    assert verdict.difficulty == difficulty, verdict.hits


@pytest.mark.parametrize(
    "text",
    [
        "PythonでFizzBuzz",
        "JavaScriptで配列をソートする関数を書いて",
        "用Python写一个快速排序",
        "파이썬으로 피보나치 함수를 작성해줘",
    ],
)
def test_code_is_asked_for_in_scripts_without_spaces_too(lexicon: Lexicon, text: str) -> None:
    assert lexicon.judge(Excerpt(text)).task == "code"


def test_a_long_text_without_spaces_is_not_short(lexicon: Lexicon) -> None:
    text = "你有四个装药丸的罐子，每个药丸都有一定的重量，被污染的药丸是没被污染的药丸的重量加一。" * 2 + "如何判断？"
    assert lexicon.judge(Excerpt(text)).difficulty is None
    assert "short-line" not in lexicon.judge(Excerpt(text)).hits


def test_a_letter_is_not_a_programming_language() -> None:
    lexicon = Lexicon.compile(document(rules=[{"id": "a", "task": "t", "points": 3, "words": ["c#", "c++"]}]))
    assert lexicon.judge(Excerpt("the points A, B and C")).task is None
    assert lexicon.judge(Excerpt("is it written in C#?")).task == lexicon.judge(Excerpt("C++, please")).task == "t"


def test_only_the_ends_of_a_text_are_read(lexicon: Lexicon) -> None:
    filler = "The harbour was quiet that evening. " * 200
    assert lexicon.judge(Excerpt(filler + "Translate the above into French, please translate.")).task == "translation"
    assert lexicon.judge(Excerpt(filler + "Translate to French." + filler)).task is None


def test_a_close_call_is_undecided() -> None:
    rules = [
        {"id": "a", "task": "code", "points": 3, "words": ["python"]},
        {"id": "b", "task": "creative", "points": 3, "words": ["poem"]},
        {"id": "easy", "difficulty": "easy", "points": 3, "words": ["poem"]},
        {"id": "hard", "difficulty": "hard", "points": 2, "words": ["python"]},
    ]
    lexicon = Lexicon.compile(document(rules=rules))
    assert lexicon.judge(Excerpt("a python poem")).task is None
    assert lexicon.judge(Excerpt("a python poem")).difficulty is None
    assert lexicon.judge(Excerpt("a poem")).difficulty == "easy"


def test_words_match_whole_words_without_case_and_punctuation() -> None:
    lexicon = Lexicon.compile(document(rules=[{"id": "a", "task": "t", "points": 3, "words": ["key points"]}]))
    assert lexicon.judge(Excerpt("The KEY  points!")).task == "t"
    assert lexicon.judge(Excerpt("monkey points")).task is None


def test_a_rule_counts_once_and_its_shape_must_hold() -> None:
    rule = {"id": "a", "task": "t", "points": 2, "words": ["one", "two"], "shape": ["short"]}
    lexicon = Lexicon.compile(document(rules=[rule]))
    assert lexicon.judge(Excerpt("one two one")).task is None
    assert lexicon.judge(Excerpt("one two one")).hits == ("a",)
    assert lexicon.judge(Excerpt("one " + "word " * 60)).hits == ()


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"rules": []}, "rules"),
        ({"rules": "x"}, "rules"),
        ({"rules": ["x"]}, "rules[0]"),
        ({"rules": [{"id": "a", "task": "t", "points": 0, "words": ["x"]}]}, "rules[0].points"),
        ({"rules": [{"id": "a", "task": "t", "points": True, "words": ["x"]}]}, "rules[0].points"),
        ({"rules": [{"id": "a", "points": 3, "words": ["x"]}]}, "rules[0]"),
        ({"rules": [{"id": "a", "task": "t", "points": 3}]}, "rules[0]"),
        ({"rules": [{"task": "t", "points": 3, "words": ["x"]}]}, "rules[0].id"),
        ({"rules": [{"id": "a", "task": "t", "words": ["..."]}]}, "rules[0].words[0]"),
        ({"rules": [{"id": "a", "task": "t", "words": [1]}]}, "rules[0].words"),
        ({"rules": [{"id": "a", "task": "t", "shape": ["round"]}]}, "rules[0].shape[0]"),
        ({"rules": [{"id": "a", "difficulty": "medium", "words": ["x"]}]}, "rules[0].difficulty"),
        ({"rules": [{"id": "a", "task": "t", "regex": "x"}]}, "rules[0].regex"),
        ({"rules": [{"id": "a", "task": "t", "words": ["x"]}] * 2}, "rules[1].id"),
        ({"look": {"head": 600}}, "look.tail"),
        ({"decide": []}, "decide"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_path(members: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Lexicon.compile(document(**members))
    assert path in {problem.path for problem in caught.value.problems}


def test_the_empty_lexicon_decides_nothing() -> None:
    assert Lexicon.empty().judge(Excerpt("Translate this")).task is None
