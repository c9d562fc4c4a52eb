"""What kind of work a text asks for, and whether it needs thinking, by the readable rules of `policies/lexicon.yaml`.

Here belong reading that file and weighing its rules. Where a request's own facts (tools, a schema, `reasoning_effort`)
say more than words can, `signals` asks them first.

Rules look for words, openings and literal strings in the first and last characters of a text; nothing backtracks, so
no text can take long. Each hit gives points; too few points, or too close a call, is "undecided".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from gateway.core.clauses.matchers import Problems, suggest
from gateway.core.text.longtext import ends
from gateway.core.text.tokens import Text

Difficulty = Literal["easy", "hard"]

_TOP = ("look", "decide", "rules")
_RULE = ("id", "task", "difficulty", "points", "words", "starts", "contains", "shape")
_SHAPES = ("fence", "code_lines", "formula", "numbers", "options", "one_line", "tiny", "short", "long", "question")
_KINDS = ("words", "starts", "contains", "shape")


class Excerpt:
    """The ends of a text, and their words in lower case without punctuation: read once, for all who look at words."""

    __slots__ = ("raw", "words")

    def __init__(self, text: Text, head: int = 600, tail: int = 300) -> None:
        self.raw = ends(text, head, tail)
        self.words = _words(self.raw)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a text; None is undecided. `hits` are the ids of the rules that counted."""

    task: str | None
    difficulty: Difficulty | None
    hits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it counts once, however often it hits."""

    id: str
    task: str | None
    difficulty: Difficulty | None
    points: int
    phrases: tuple[str, ...]  # padded with spaces
    starts: tuple[str, ...]  # padded behind
    contains: tuple[str, ...]
    shape: frozenset[str]  # all of them must hold


UNDECIDED = Verdict(None, None)


class Lexicon:
    """The compiled rules. An empty one decides nothing."""

    __slots__ = (
        "_always", "_by_char", "_by_start", "_by_word", "_fitting", "_head", "_idle", "_known", "_limits", "_tail",
        "rules", "tasks",
    )  # fmt: skip

    def __init__(self, rules: Sequence[Rule], *, head: int, tail: int, limits: Mapping[str, int]) -> None:
        self.rules = tuple(rules)
        self.tasks = frozenset(rule.task for rule in rules if rule.task)
        self._head, self._tail, self._limits = head, tail, dict(limits)
        # What rules look for, by what is quickly seen to be missing: the longest word of a phrase, the rarest
        # character of a literal text.
        self._by_word: dict[str, list[tuple[str, int]]] = {}
        self._by_start: dict[str, list[tuple[str, int]]] = {}
        self._by_char: dict[str, list[tuple[str, int]]] = {}
        self._always = frozenset(
            number for number, rule in enumerate(rules) if not (rule.phrases or rule.starts or rule.contains)
        )
        for number, rule in enumerate(rules):
            for phrase in rule.phrases:
                self._by_word.setdefault(max(phrase.split(), key=len), []).append((phrase, number))
            for phrase in rule.starts:
                self._by_start.setdefault(phrase.split()[0], []).append((phrase, number))
            for literal in rule.contains:
                self._by_char.setdefault(min(literal, key=_RARE_FIRST.find), []).append((literal, number))
        self._fitting: dict[frozenset[str], frozenset[int]] = {}
        self._known = frozenset(self._by_word)
        told_by = _TOLD_BY.union(self._by_char)
        self._idle = bytes(code for code in range(128) if chr(code) not in told_by)

    @classmethod
    def empty(cls) -> Lexicon:
        """The lexicon that decides nothing."""
        return cls([], head=600, tail=300, limits={"task": 1, "margin": 0, "easy": 1, "hard": 1})

    @classmethod
    def compile(cls, data: Mapping[str, Any]) -> Lexicon:
        """The lexicon of a document. Raises `ConfigError` with every mistake in it."""
        problems = Problems()
        _known(data, _TOP, "", problems)
        look = _integers(data, "look", ("head", "tail"), problems)
        limits = _integers(data, "decide", ("task", "margin", "easy", "hard"), problems)
        raw = data.get("rules")
        rules = []
        if not isinstance(raw, list) or not raw:
            problems.add("rules", "there are no rules", "a list of rules")
        else:
            rules = [_rule(item, f"rules[{number}]", problems) for number, item in enumerate(raw)]
            ids = [rule.id for rule in rules]
            for number, rule_id in enumerate(ids):
                if rule_id in ids[:number]:
                    problems.add(f"rules[{number}].id", f"{rule_id!r} is taken", "an id of its own")
        problems.raise_any()
        return cls(rules, head=look["head"], tail=look["tail"], limits=limits)

    def excerpt(self, text: Text) -> Excerpt:
        """The part of a text that is looked at."""
        return Excerpt(text, self._head, self._tail)

    def judge(self, excerpt: Excerpt) -> Verdict:
        """The task and the difficulty of a text."""
        if not self.rules:
            return UNDECIDED
        raw, words = excerpt.raw, excerpt.words
        # Most texts consist of letters by which nothing is told.
        chars = set(raw.encode().translate(None, self._idle).decode() if raw.isascii() else raw)
        hits, fitting = self._fit(_shape(raw, words, chars))
        known = self._known.intersection(words)
        starts = self._by_start.get(words[0], ()) if words else ()
        if known or starts:
            plain = f" {' '.join(words)} "
            for word in known:
                for phrase, number in self._by_word[word]:
                    if number in fitting and number not in hits and phrase in plain:
                        hits.add(number)
            for phrase, number in starts:
                if number in fitting and plain.startswith(phrase):
                    hits.add(number)
        for char in chars & self._by_char.keys():
            for literal, number in self._by_char[char]:
                if literal in raw and number in fitting:
                    hits.add(number)
        return self._weigh(hits) if hits else UNDECIDED

    def _fit(self, shape: frozenset[str]) -> tuple[set[int], frozenset[int]]:
        """The rules that need no more than this shape, and all for which it is the right one."""
        fitting = self._fitting.get(shape)
        if fitting is None:  # there are few shapes
            fitting = frozenset(number for number, rule in enumerate(self.rules) if rule.shape <= shape)
            self._fitting[shape] = fitting
        return set(self._always & fitting), fitting

    def _weigh(self, hits: Iterable[int]) -> Verdict:
        tasks: dict[str, int] = {}
        easy = hard = 0
        found = [self.rules[number] for number in sorted(hits)]
        for rule in found:
            if rule.task is not None:
                tasks[rule.task] = tasks.get(rule.task, 0) + rule.points
            if rule.difficulty == "easy":
                easy += rule.points
            elif rule.difficulty == "hard":
                hard += rule.points
        ranked = sorted(((points, task) for task, points in tasks.items()), reverse=True)
        task = None
        if ranked and ranked[0][0] >= self._limits["task"]:
            second = ranked[1][0] if len(ranked) > 1 else 0
            task = ranked[0][1] if ranked[0][0] - second >= self._limits["margin"] else None
        difficulty: Difficulty | None = None
        if easy - hard >= self._limits["easy"]:
            difficulty = "easy"
        elif hard - easy >= self._limits["hard"]:
            difficulty = "hard"
        return Verdict(task, difficulty, tuple(rule.id for rule in found))


#: Letters and the space, the rarest first; what is not among them is rarer still.
_RARE_FIRST = "zxjqkvbpygfwmculdrhsnioate "
_STRIP = "\"'`.,;:!?()[]{}<>*_~«»“”‘’„…¿¡、。，；：！？（）「」-–—#&|/\\"
_STRIP_RIGHT = _STRIP.replace("#", "")  # C# is a word


def _words(text: str) -> list[str]:
    lower = text.lower()
    if lower.isascii():
        return [bare for word in lower.split() if (bare := word if word.isalnum() else _bare(word))]
    found = []
    for word in lower.split():
        for part in _parts(word) if max(word) >= _CJK else (word,):
            if bare := _bare(part):
                found.append(bare)
    return found


def _bare(word: str) -> str:
    return word.lstrip(_STRIP).rstrip(_STRIP_RIGHT)


_CJK = "\u3040"  # kana, and after it Han and Hangul: written around foreign words without a space


def _parts(word: str) -> list[str]:
    """What is written without spaces, cut where Latin letters begin or end: "pythonで" is two words."""
    return "".join(
        f" {char}" if before and (char < _CJK) != (before < _CJK) else char
        for before, char in zip(" " + word, word, strict=False)
    ).split()


_CODE_ENDS = (";", "{", "}", "):", "):", "};", ");", "->", "=>")
_CODE_MARKS = (" = ", "()", "==", "!=", "+=", "->", "=>", "::", "</", "/>", "&&", "||", "self.", "this.")
_FORMULA = ("$$", "\\frac", "\\sum", "\\int", "\\sqrt", "\\(", "\\[", "\\begin{", "^2", "^{", "\\le", "\\mathbb")
_FORMULA_CHARS = frozenset("$\\^")
_DIGITS = frozenset("0123456789")
#: The characters in ASCII that `_shape` asks for.
_TOLD_BY = _FORMULA_CHARS | _DIGITS | {"`", "~"}
_CODE = frozenset({"fence", "code_lines"})

#: How answers to choose from begin.
_OPTIONS = frozenset(f"{letter}{end}" for letter in "ABCDabcd" for end in ".)")
_BRACKETED = frozenset(f"({letter})" for letter in "ABCDabcd")


def _shape(text: str, words: Sequence[str], chars: Set[str]) -> frozenset[str]:
    """What is seen of a text without reading it. `chars`: those in it, of ASCII only what is in `_TOLD_BY`, perhaps."""
    found = set()
    if ("`" in chars and "```" in text) or ("~" in chars and "~~~" in text):
        found.add("fence")
    lines = text.splitlines()
    if len(lines) > 1:
        lines = [line for line in lines if line and not line.isspace()]
    clauses = False
    if len(lines) <= 1:
        found.add("one_line")
    else:
        code = sum(1 for line in lines if _looks_like_code(line)) if len(lines) >= 3 else 0
        if code >= 3 and code * 4 >= len(lines):
            found.add("code_lines")
        clauses = len(lines) >= 4 and sum(1 for line in lines if _is_clause(line)) >= 3
        if not clauses and sum(1 for line in lines if _is_option(line.lstrip())) >= 2:
            found.add("options")
    if not _FORMULA_CHARS.isdisjoint(chars) and found.isdisjoint(_CODE) and any(mark in text for mark in _FORMULA):
        found.add("formula")  # in code the same marks are patterns
    plain = text.isascii()
    digits = not _DIGITS.isdisjoint(chars) if plain else any(map(str.isdecimal, chars))
    if digits and not clauses and sum(1 for word in words if word.isdecimal()) >= 2:
        found.add("numbers")
    # Where words are not set apart, two characters or so make one.
    count = len(words) if plain else len(words) + sum(1 for char in text if char >= _CJK) // 2
    if count <= 25 and len(text) <= 200 and all(len(word) <= 40 for word in words):  # no spaces, no words
        found.add("short")
        if count <= 12:
            found.add("tiny")
    if count > 100:
        found.add("long")
    if text.rstrip().endswith(("?", "？", "؟")):
        found.add("question")
    return frozenset(found)


def _is_option(line: str) -> bool:
    return line[:2] in _OPTIONS or line[:3] in _BRACKETED


def _is_clause(line: str) -> bool:
    """Whether a line begins with a number and a dot or bracket: "3. Fees", "1.2 Term"."""
    number = line.lstrip()[:8].partition(" ")[0]
    bare = number.strip(".)")
    return bare.replace(".", "").isdecimal() and (bare != number or "." in bare)


def _looks_like_code(line: str) -> bool:
    bare = line.rstrip()
    return bare.endswith(_CODE_ENDS) or (line[:1] in " \t" and any(mark in bare for mark in _CODE_MARKS))


# --- reading the file -------------------------------------------------------------------------------------------------


def _known(data: Any, names: Sequence[str], path: str, problems: Problems) -> None:
    if not isinstance(data, Mapping):
        problems.add(path, "is not a map", "a map of " + ", ".join(names))
        return
    for name in data:
        if name not in names:
            problems.add(f"{path}.{name}" if path else str(name), f"there is no {name!r} here", suggest(name, names))


def _integers(data: Mapping[str, Any], name: str, keys: Sequence[str], problems: Problems) -> dict[str, int]:
    raw = data.get(name)
    _known(raw, keys, name, problems)
    found = {}
    for key in keys:
        value = raw.get(key) if isinstance(raw, Mapping) else None
        if type(value) is not int or not 0 <= value <= 10_000:
            problems.add(f"{name}.{key}", f"{value!r} is no number", "a whole number up to 10000")
            value = 1
        found[key] = value
    return found


def _rule(raw: Any, path: str, problems: Problems) -> Rule:
    _known(raw, _RULE, path, problems)
    if not isinstance(raw, Mapping):
        return Rule("", None, None, 0, (), (), (), frozenset())
    difficulty = raw.get("difficulty")
    if difficulty not in (None, "easy", "hard"):
        problems.add(f"{path}.difficulty", f"{difficulty!r} is no difficulty", "easy or hard")
    points = raw.get("points", 1)
    if type(points) is not int or not 1 <= points <= 10:
        problems.add(f"{path}.points", f"{points!r} is no number of points", "1 to 10")
        points = 1
    for name in ("id", "task"):
        value = raw.get(name)
        if not isinstance(value, str | (type(None) if name == "task" else str)) or value == "":
            problems.add(f"{path}.{name}", f"{value!r} is no name", "a text")
    if raw.get("task") is None and difficulty is None:
        problems.add(path, "says nothing", "a task, a difficulty, or both")
    if not any(name in raw for name in _KINDS):
        problems.add(path, "looks for nothing", "one of " + ", ".join(_KINDS))
    lists = {name: _texts(raw.get(name, ()), f"{path}.{name}", problems) for name in _KINDS}
    for number, shape in enumerate(lists["shape"]):
        if shape not in _SHAPES:
            problems.add(f"{path}.shape[{number}]", f"there is no shape {shape!r}", suggest(shape, _SHAPES))
    phrases = {name: [" ".join(_words(text)) for text in lists[name]] for name in ("words", "starts")}
    for name, found in phrases.items():
        if "" in found:
            problems.add(f"{path}.{name}[{found.index('')}]", "has no word in it", "words")
    return Rule(
        id=str(raw.get("id")),
        task=raw.get("task"),
        difficulty=difficulty,
        points=points,
        phrases=tuple(f" {phrase} " for phrase in phrases["words"] if phrase),
        starts=tuple(f" {phrase} " for phrase in phrases["starts"] if phrase),
        contains=tuple(lists["contains"]),
        shape=frozenset(lists["shape"]),
    )


def _texts(raw: Any, path: str, problems: Problems) -> list[str]:
    if isinstance(raw, list | tuple) and all(isinstance(item, str) and item for item in raw):
        return list(raw)
    problems.add(path, f"{raw!r:.60} is no list of texts", "a list of texts")
    return []
