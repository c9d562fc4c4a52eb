"""Which languages a text is written in: shares of its letters, never a bare guess.

Here belongs everything between a text and a `Language`. Which text of a request is judged, and what a policy does with
the answer, stands elsewhere.

The script comes first, since most scripts name a language; CLD2 is asked only about the Latin, Cyrillic, Arabic and
Devanagari parts, and only after code, JSON, traces and URLs are gone, which every identifier takes for languages. No
regular expressions and at most `BUDGET` characters, so that no text can take long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from html import unescape
from itertools import pairwise
from typing import Any

import msgspec

from gateway.core.text.identify import DEFAULT_IDENTIFY, SELDOM, Identify, corrected
from gateway.core.text.longtext import LongText, size_of, window
from gateway.core.text.tokens import Text

#: Characters that are looked at: 3/8 head, 1/8 at each third, 3/8 tail. Larger budgets measured no better.
BUDGET = 1_024
#: With fewer letters than this in the last user message, the one before is read too.
FEW_LETTERS = 12


class Language(msgspec.Struct, frozen=True, gc=False):  # made for most requests, and part of no cycle
    """The languages of a text by share of its letters; the shares and `undetermined` add up to 1.

    `scripted`: languages told by a script other than Latin with at least 6 letters. `edges`: languages that the first
    or the last line is reliably written in, where a short question stands beside a long quotation. `prose`: how much of
    what was looked at is sentences; the rest is code, data and the like.
    """

    shares: Mapping[str, float]  # ISO 639-1 code, 639-3 where there is none; `UNNAMED` for a language we cannot name
    letters: int
    undetermined: float
    scripted: frozenset[str] = frozenset()
    edges: frozenset[str] = frozenset()
    prose: float = 1.0

    @property
    def main(self) -> str | None:
        """The language of most of the text; None where that is not known."""
        best = max(self.shares, key=lambda code: self.shares[code], default=None)
        return best if best is not None and self.shares[best] > self.undetermined else None

    def outside(self, official: frozenset[str]) -> bool | None:
        """Whether a real part of the text is in a language that is not on a list; None where that cannot be told.

        >>> Language({"ja": 0.2, "en": 0.8}, 500, 0.0).outside(frozenset({"en"}))
        True
        """
        if not self.letters:
            return None
        out = {code: share for code, share in self.shares.items() if code not in official}
        if not out and self.undetermined == 0:
            return False
        if any(code in self.scripted for code in out) or sum(out.values()) >= 0.15:
            return True
        if not self.edges <= official:
            return True
        return None if self.undetermined >= 0.6 else False

    @property
    def verdict(self) -> tuple[Hashable, ...] | None:
        """All that `main` and `outside` can tell of this value; None where that takes the value itself.

        Texts in one language are alike but for the last percent: their shares differ, what follows from them does not.
        """
        if len(self.shares) > 1:
            return None
        (code, share), *_ = *self.shares.items(), (None, 0.0)
        rest = self.undetermined
        return code, share >= 0.15, share > rest, rest == 0, rest >= 0.6, self.letters > 0, self.scripted, self.edges

    def to_dict(self) -> dict[str, Any]:
        """This value as JSON."""
        return {
            "shares": {code: round(share, 4) for code, share in self.shares.items()},
            "letters": self.letters,
            "undetermined": round(self.undetermined, 4),
            "scripted": sorted(self.scripted),
            "edges": sorted(self.edges),
            "prose": round(self.prose, 4),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Language:
        """The value that `to_dict` was made from, or one that somebody wrote with `shares` alone."""
        shares = {str(code): float(share) for code, share in value["shares"].items()}
        return cls(
            shares,
            int(value.get("letters", 1_000)),
            float(value.get("undetermined", max(0.0, 1 - sum(shares.values())))),
            frozenset(value.get("scripted", ())),
            frozenset(value.get("edges", ())),
            float(value.get("prose", 1.0)),
        )


#: ISO 639's code for a language that has none: sentences that are in no language we know.
UNNAMED = "mis"


NOTHING = Language({}, 0, 1.0)


def of(texts: Sequence[Text], identify: Identify | None = None) -> Language:
    """The language of the last text, and of those before it while there are fewer than `FEW_LETTERS` letters.

    `identify` tells the language of a text in one of the scripts that many share: `cld2` where it is installed.
    """
    found: Cleaned | None = None
    for text in reversed(texts):
        cleaned = clean(windows(text))
        found = cleaned if found is None else cleaned.followed_by(found)
        if found.kept >= FEW_LETTERS:
            break
    return judge(found, identify or DEFAULT_IDENTIFY) if found is not None and found.lines else NOTHING


def windows(text: Text) -> list[str]:
    """The parts of a text that are looked at."""
    if isinstance(text, LongText):
        size = size_of(text)
        found = (window(text, start * size // 24, BUDGET * share // 8) for start, share in ((0, 3), (8, 1), (16, 1)))
        tail = window(text, size - BUDGET * 3 // 8, BUDGET * 3 // 8)
        return [part for part in (*found, tail) if part]
    size = len(text)
    if size <= BUDGET:
        return [text]
    most, least = BUDGET * 3 // 8, BUDGET // 8
    thirds = (text[at : at + least] for at in (size // 3, size * 2 // 3))
    return [text[:most], *thirds, text[-most:]]


# --- cleaning ---------------------------------------------------------------------------------------------------------

_EDGE = "\"'`.,;:!?()[]{}<>*_~«»“”‘’„…¿¡、。，；：！？（）「」『』【】《》|-–—#@&"
_SYMBOLS = frozenset("0123456789_/\\=<>{}[]()|#$%^*+~@&`")
#: Most lines of English are nothing but words and these: seen to be prose at once, without looking at each word.
_MARKS = b".,!?"
_SPACES = bytes.maketrans(b"\t", b" ")
_PROSE_MARKS = b" \t.,!?'"
_KEYWORDS = """
    import from def class return if for while else elif try except public private protected static void const let
    var function func fn struct enum package using namespace include define select insert update delete create
    export async await switch case break print echo end at raise throw new int float double char string bool
"""
_CODE_STARTS = frozenset(_KEYWORDS.split())


class Cleaned(msgspec.Struct, frozen=True, gc=False):
    """The lines of prose in a text, each reduced to its plain words; how long they are, and how long all lines were."""

    lines: tuple[str, ...] = ()
    kept: int = 0
    total: int = 0

    def followed_by(self, other: Cleaned) -> Cleaned:
        """Both, one after the other."""
        return Cleaned(self.lines + other.lines, self.kept + other.kept, self.total + other.total)


def clean(parts: Sequence[str]) -> Cleaned:
    """The prose of some parts of a text. What stands between code fences counts as nothing at all."""
    lines = []
    kept = total = 0
    for part in parts:
        fenced = False
        if "&#" in part:
            part = unescape(part)
        for line in part.splitlines():
            start = line.lstrip()[:3]
            if start in ("```", "~~~"):
                fenced = not fenced
            elif not fenced:
                words, size = _prose(line)
                total += size
                if words:
                    kept += len(words)
                    lines.append(words)
    return Cleaned(tuple(lines), kept, total)


def _prose(line: str) -> tuple[str, int]:
    """The plain words of a line, nothing for a line of code, data or a URL; and how long it was without its numbers."""
    total = len(line)
    if line.isascii():
        raw = line.encode()
        if raw.translate(None, _PROSE_MARKS).isalpha():
            dots = line.count(".")
            if dots == 0 or dots == line.count(". ") + line.endswith("."):  # else it may be a name such as example.com
                return raw.translate(_SPACES, _MARKS).decode().strip(), total
    if '":' in line or '","' in line or ("':" in line and "{" in line):
        return "", total
    words, plain, numbers = line.split(), [], 0
    for word in words:
        bare = word.strip(_EDGE)
        if not bare:
            continue
        if bare[0].isdigit() and bare[-1].isdigit() and len(bare) < 16:
            numbers += 1
            total -= len(word) + 1
        elif _plain(bare):
            plain.append(bare)
    if not plain or len(plain) * 10 < (len(words) - numbers) * 6:
        return "", total
    if len(words) <= 4 and plain[0].lower() in _CODE_STARTS and line.rstrip()[-1:] in ";:{}()":
        return "", total
    if words[0][0] == "(" and len(words) <= 8 and line.count("(") > 1:
        return "", total  # Lisp
    if len(words) <= 8 and " -" in line and any(word[0] == "-" and word[1:2].isalpha() for word in words):
        return "", total  # a command with its options
    return " ".join(plain), total


def _plain(word: str) -> bool:
    if word.isalpha():
        return True
    # Scripts from Thai on are mostly written without spaces: a "word" there is a sentence, with its numbers.
    return max(word) >= "\u0e00" or (_SYMBOLS.isdisjoint(word) and "." not in word and ":" not in word)


# --- scripts ----------------------------------------------------------------------------------------------------------

#: First code point of each script's ranges (16-aligned), in order; "" for what belongs to no script.
_RANGES: tuple[tuple[int, str], ...] = (
    (0x0000, "Latin"), (0x0250, "Latin"), (0x02B0, ""), (0x0370, "el"), (0x0400, "Cyrillic"), (0x0530, "hy"),
    (0x0590, "he"), (0x0600, "Arabic"), (0x0700, "syr"), (0x0750, "Arabic"), (0x0780, "dv"), (0x07C0, "nqo"),
    (0x0800, ""), (0x08A0, "Arabic"), (0x0900, "Devanagari"), (0x0980, "bn"), (0x0A00, "pa"), (0x0A80, "gu"),
    (0x0B00, "or"), (0x0B80, "ta"), (0x0C00, "te"), (0x0C80, "kn"), (0x0D00, "ml"), (0x0D80, "si"), (0x0E00, "th"),
    (0x0E80, "lo"), (0x0F00, "bo"), (0x1000, "my"), (0x10A0, "ka"), (0x1100, "ko"), (0x1200, "am"), (0x13A0, "chr"),
    (0x1400, "iu"), (0x1680, ""), (0x1780, "km"), (0x1800, "mn"), (0x18B0, ""), (0x1C50, "sat"), (0x1C80, ""),
    (0x1E00, "Latin"), (0x1F00, "el"), (0x2000, ""), (0x2C60, "Latin"), (0x2C80, ""), (0x2D00, "ka"), (0x2D30, "zgh"),
    (0x2D80, "am"), (0x2DE0, ""), (0x3040, "kana"), (0x3100, ""), (0x3130, "ko"), (0x3190, ""), (0x3400, "han"),
    (0x4DC0, ""), (0x4E00, "han"), (0xA000, "ii"), (0xA4D0, ""), (0xAB00, "am"), (0xAB30, "Latin"), (0xAB70, "chr"),
    (0xABC0, "mni"), (0xAC00, "ko"), (0xD7B0, ""), (0xF900, "han"), (0xFB00, ""), (0xFB50, "Arabic"), (0xFE00, ""),
    (0xFE70, "Arabic"), (0xFF00, ""), (0xFF60, "kana"), (0xFFA0, "ko"), (0xFFE0, ""), (0x20000, "han"),
    (0x32000, ""),
)  # fmt: skip


def _blocks() -> dict[int, str]:
    found = {}
    for (start, script), (end, _) in pairwise(_RANGES):
        if script and start < 0x20000:
            found.update(dict.fromkeys(range(start >> 4, end >> 4), script))
    return found


_SCRIPT_OF_BLOCK = _blocks()
#: Scripts that many languages share, so that their words must be read.
SHARED = ("Latin", "Cyrillic", "Arabic", "Devanagari")


def _script(char: str) -> str:
    code = ord(char)
    if code < 0x20000:
        script = _SCRIPT_OF_BLOCK.get(code >> 4, "")
        if script == "Latin" or script in SHARED:
            return script if char.isalpha() or script != "Latin" else ""
        return script
    return "han" if code < 0x32000 else ""


def scripts(text: str) -> dict[str, int]:
    """How many letters of a text are of each script; scripts that name a language go by its code."""
    if text.isascii():
        letters = len(text) - text.count(" ") - text.count("\n")
        return {"Latin": letters} if letters else {}
    found: dict[str, int] = {}
    for char, count in Counter(text).items():
        script = _script(char)
        if script:
            found[script] = found.get(script, 0) + count
    han, kana = found.pop("han", 0), found.pop("kana", 0)
    if kana:  # Japanese writes both, Chinese none
        found["ja"] = kana + han
    elif han:
        found["zh"] = han
    return found


def judge(cleaned: Cleaned, identify: Identify) -> Language:
    """The languages of a cleaned text."""
    lines = cleaned.lines
    text = lines[0] if len(lines) == 1 else "\n".join(lines)
    found = scripts(text)
    letters = sum(found.values())
    if not letters:
        return NOTHING
    prose = cleaned.kept / max(cleaned.total, 1)
    plain = text.isascii()
    # Words that stand in code or data, or a few letters of ASCII, are no language yet.
    poor = letters < 2 or (plain and (letters < 8 or (letters < 24 and prose < 0.8) or (letters < 48 and prose < 0.3)))
    counts: dict[str, float] = {}
    scripted = set()
    unread = 0.0
    parts = _by_script(text) if len(found) > 1 else {}
    for script, size in found.items():
        if script not in SHARED:
            told: Sequence[tuple[str, float]] = [(script, 1.0)]
        else:
            part = parts.get(script, "") if parts else text
            told = [
                (corrected(code, part, size, sure=share >= 0.8 and prose >= 0.6), share)
                for code, share in identify(part)
            ]
        if not told:
            unread += size
        for code, share in told:
            if (poor and code != "en") or (plain and size < SELDOM.get(code, 0)):
                code = ""
            counts[code] = counts.get(code, 0) + size * share
            if code and script != "Latin" and size * share >= max(6, letters / 100):
                scripted.add(code)
    unknown = counts.pop("", 0.0)
    if unknown >= 0.6 * letters and prose >= 0.5 and unknown >= (40 if plain or len(found) > 1 else 16):
        counts[UNNAMED], unknown = unknown, 0.0
    shares = {code: count / letters for code, count in counts.items()}
    return Language(
        shares,
        letters,
        (unknown + unread) / letters,
        frozenset(scripted),
        frozenset(_edges(lines, identify, letters, prose)) if len(lines) > 1 else frozenset(),
        prose,
    )


def _by_script(text: str) -> dict[str, str]:
    """The words of a text by the script they begin in."""
    words: dict[str, list[str]] = {}
    begins: dict[str, str] = {}
    for word in text.split():
        first = word[0]
        script = begins.get(first)
        if script is None:
            script = begins[first] = _script(first)
        words.setdefault(script, []).append(word)
    return {script: " ".join(some) for script, some in words.items()}


def _edges(lines: Sequence[str], identify: Identify, letters: int, prose: float) -> Iterator[str]:
    least = 20 if prose >= 0.5 else 32
    for line in (lines[0], lines[-1]):
        if least + 4 * line.isascii() <= len(line) < letters * 0.85 and not line.istitle():  # which names are
            found = identify(line)
            if found and found[0][0] and found[0][1] >= 0.6:
                code = corrected(found[0][0], line, len(line), sure=found[0][1] >= 0.8)
                if len(line) >= 2 * SELDOM.get(code, 0):
                    yield code
