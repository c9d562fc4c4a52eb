"""Regular expressions take time in proportion to what they read, whatever that is (S21).

Every expression in the package is found in its source, together with how it is used, and is given texts made to hold
it up: each repeat in it drawn out, whole matches in a row, with ends that match and ends that do not. The bound is CPU
seconds with a wide margin: an expression that reads 200,000 characters once needs milliseconds.
"""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import pytest

from tests.harness import ROOT

#: CPU seconds for 200,000 characters.
MOST_S = 0.5
SIZES = (15_000, 200_000)
ENDS = ("", "\x01", "\n", " ")
VERBS = ("search", "match", "fullmatch", "findall", "finditer", "sub", "split")
CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
}
#: Read by us from files of our own, or from what a person types on a command line.
OWN = {"gateway.completion", "gateway.diff.markdown"}


class Use(NamedTuple):
    module: str
    name: str  # of the variable, or of the line
    pattern: re.Pattern[Any]
    verb: str


def _patterns(value: object) -> Iterator[re.Pattern[Any]]:
    """Compiled expressions in a module's value, however deep."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | set | frozenset):
        for one in value:
            yield from _patterns(one)
    elif hasattr(value, "words") and hasattr(value, "codes"):  # a row of dialects
        yield from _patterns(value.words)


def _verbs(tree: ast.AST) -> dict[str, set[str]]:
    """Name -> the methods called on it, or handed on."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in VERBS and isinstance(node.value, ast.Name):
            found.setdefault(node.value.id, set()).add(node.attr)
    return found


def _uses() -> list[Use]:
    found: dict[tuple[str, str, str], Use] = {}
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "gateway").rglob("*.py"))}
    everywhere: dict[str, set[str]] = {}
    for tree in trees.values():
        for name, verbs in _verbs(tree).items():
            everywhere.setdefault(name, set()).update(verbs)
    for path, tree in trees.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module in OWN or not any(isinstance(node, ast.Name) and node.id == "re" for node in ast.walk(tree)):
            continue
        for name, value in vars(importlib.import_module(module)).items():
            for pattern in _patterns(value):
                # One in a table is used by whatever name the loop over it gives; then it is searched for.
                for verb in everywhere.get(name, {"search"}) if isinstance(value, re.Pattern) else {"search"}:
                    found[module, pattern.pattern, verb] = Use(module, name, pattern, verb)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS
                and isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
                and isinstance(node.args[0], ast.Constant)
            ):  # fmt: skip
                flags = re.DOTALL if any(word.arg == "flags" for word in node.keywords) else 0
                pattern = re.compile(node.args[0].value, flags)
                found[module, pattern.pattern, node.func.attr] = Use(
                    module, f"line {node.lineno}", pattern, node.func.attr
                )
    return [found[key] for key in sorted(found, key=repr)]  # the same on every worker, whatever its hashes


USES = _uses()


class _Writer:
    """Writes texts that an expression matches, one of its repeats drawn out."""

    def __init__(self, drawn: int, size: int, taste: int) -> None:
        self.drawn = drawn  # the number of the repeat
        self.size = size
        self.taste = taste  # which of the characters that fit
        self.repeats = 0

    def text(self, parsed: Any) -> str:
        return "".join(self._node(kind, value) for kind, value in parsed)

    def _node(self, kind: Any, value: Any) -> str:
        match str(kind):
            case "LITERAL":
                return chr(value)
            case "NOT_LITERAL":
                return "x" if value != ord("x") else "y"
            case "ANY":
                return ("x", " ", "-", "0")[self.taste % 4]
            case "IN":
                return self._of(value)
            case "BRANCH":
                return self.text(value[1][self.taste % len(value[1])])
            case "SUBPATTERN":
                return self.text(value[3])
            case "ATOMIC_GROUP":
                return self.text(value)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = value
                self.repeats += 1
                if self.repeats - 1 == self.drawn and most is _constants.MAXREPEAT:
                    one = self.text(inner) or "x"
                    return one * (self.size // len(one))
                return self.text(inner) * max(least, min(most, 1))
        return ""  # what stands between characters

    def _of(self, items: Any) -> str:
        fits = re.compile("".join(["[", _class(items), "]"]), re.DOTALL)
        found = [char for char in " -a0_A.:/=\t\"'{x\u00e9" + "".join(map(chr, range(256))) if fits.fullmatch(char)]
        return found[self.taste % min(len(found), 4)] if found else "x"


def _class(items: Any) -> str:
    written = ""
    for kind, value in items:
        match str(kind):
            case "NEGATE":
                written = "^" + written
            case "LITERAL":
                written += f"\\U{value:08x}"
            case "RANGE":
                written += f"\\U{value[0]:08x}-\\U{value[1]:08x}"
            case "CATEGORY":
                written += CATEGORIES[str(value)]
    return written


def _texts(pattern: re.Pattern[Any], size: int) -> Iterator[str]:
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    parsed = _parser.parse(source, pattern.flags & ~re.UNICODE)
    for taste in range(4):
        counting = _Writer(-1, size, taste)
        whole = counting.text(parsed) or "x"
        yield whole * (size // len(whole))
        yield whole[:-1] * (size // max(len(whole) - 1, 1))
        for drawn in range(counting.repeats):
            text = _Writer(drawn, size, taste).text(parsed)
            if len(text) >= size // 2:
                yield text
                yield text[: size - 1]
                cut = len(text.rstrip(text[size // 2]))
                yield text[:cut] if cut > size // 2 else text.rstrip()


def _took(use: Use, text: str) -> float:
    given: Any = text if isinstance(use.pattern.pattern, str) else text.encode("latin-1", "replace")
    does = getattr(use.pattern, use.verb)
    begun = time.process_time()
    if use.verb == "sub":
        does(lambda found: found[0], given)
    elif use.verb == "finditer":
        list(does(given))
    else:
        does(given)
    return time.process_time() - begun


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.module}-{use.name}-{use.verb}")
def test_an_expression_reads_what_it_is_given_in_proportion(use: Use) -> None:
    for size in SIZES:
        for text in _texts(use.pattern, size):
            for end in ENDS:
                took = _took(use, text + end)
                assert took < MOST_S, f"{took:.1f} s for {size} characters like {text[:40]!r}...{text[-20:] + end!r}"


def test_all_expressions_that_clients_and_upstreams_reach_are_among_them() -> None:
    names = {f"{use.module}.{use.name}" for use in USES}
    assert names >= {
        "gateway.proxy.heads._FIELD", "gateway.proxy.heads._VALUE", "gateway.proxy.heads._POST",
        "gateway.proxy.asked._KEY", "gateway.core.answer.sse.EVENT_END", "gateway.core.answer.chunk._LINE_END",
        "gateway.core.answer.alike._TEXT", "gateway.core.answer.whole._TAGGED", "gateway.core.servers.respell._LINE",
        "gateway.core.servers.refusals._ADDRESS", "gateway.core.recorded.redaction._SHAPES",
        "gateway.core.request.tracecontext._PARENT", "gateway.core.request.tracecontext._MEMBER",
        "gateway.core.request.largebody._DIGITS",
    }  # fmt: skip


def test_an_expression_that_reads_the_same_over_and_over_would_be_noticed() -> None:
    bad = re.compile(r"(?m)^([!-9;-~]+):[ \t]*((?:[ -~]*[!-~])?)\r\n")  # what a line of a head was once read by
    with pytest.raises(AssertionError, match="characters like"):
        test_an_expression_reads_what_it_is_given_in_proportion(Use("here", "bad", bad, "findall"))
