"""How long a prompt is, in a model's own tokens: bounds, samples and exact counts.

Here belong the arithmetic of counting and what a chat template adds, for prompts whose parts `media` has found. The
vocabularies are opened by `gateway.vocab`, which hands each in as a function; what a length is compared with is the
business of `signals`.

A length is settled as cheaply as it can be: tokens never outnumber UTF-8 bytes; where that leaves a question, 128
slices of 512 characters are counted, which gives an interval; where a limit lies inside it, 512 slices; only where it
lies inside theirs as well is everything counted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import sqrt
from zlib import crc32

from gateway.core.text import longtext
from gateway.core.text.longtext import LongText, size_of, sizes, window

Text = str | LongText
#: Texts laid end to end, and where each ends.
_Laid = tuple[Sequence[Text], Sequence[int]]
#: Slices of such texts with their lengths, None for one that cannot be read; and how long all are together.
_Cuts = tuple[Sequence[tuple[str | None, int]], int]

#: Up to this many characters a text is counted at once: about 1 ms, a few for hostile text. Beyond, it is
#: sampled first.
SMALL_CHARS = 100_000
#: Exact counts go piece by piece: one piece of 10 million spaces takes 8 s, in pieces it takes 0.03 s. Over-counts by
#: at most 0.003 %, since a token that spans a cut becomes two.
PIECE_CHARS = 65_536
SLICES = 128
SLICE_CHARS = 512
#: Where that many slices leave a question, so many more are counted before everything is.
MORE_SLICES = 512
#: Half the width of an interval: so many standard errors, at least this share. `tests/bench/quality_tokens.py` prints
#: how often the true count lies inside.
ERRORS = 5
LEAST_SPREAD = 0.015

#: A vocabulary as a function: how many tokens each text is. Raises `Uncountable`, and nothing else.
Count = Callable[[Sequence[str]], list[int]]


_SAMPLED = "sampled at {} places"


class Uncountable(Exception):
    """A tokenizer failed on a text. The bytes bound stays, which holds for every text."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number of tokens that is at least `lo` and at most `hi`; `exact` says that no more will be known."""

    lo: int
    hi: int
    exact: bool = False

    def plus(self, lo: int, hi: int) -> Bounds:
        """These bounds with something added whose own bounds are `lo` and `hi`."""
        return Bounds(self.lo + lo, self.hi + hi, self.exact)


class Tokenizers:
    """The vocabularies that can be counted with, each loaded when a count first needs it.

    `inline` says that loading may happen wherever it is needed; otherwise only where blocking is allowed.

    >>> words = Tokenizers({"words": lambda texts: [len(text.split()) for text in texts]})
    >>> words.count("words", "two words"), words.usable("llama4"), words.lacking("llama4")
    (2, False, 'is not known here')
    """

    def __init__(
        self,
        counts: Mapping[str, Count] | None = None,
        *,
        loaders: Mapping[str, Callable[[], Count]] | None = None,
        lacking: Mapping[str, str] | None = None,
        inline: bool = False,
    ) -> None:
        self._counts = dict(counts or {})
        self._loaders = dict(loaders or {})
        self._lacking = dict(lacking or {})
        self.inline = inline
        self._wanted: set[str] = set()

    def ready(self, name: str | None) -> bool:
        """Whether texts can be counted with this vocabulary now."""
        return name in self._counts

    def usable(self, name: str | None) -> bool:
        """Whether this vocabulary is ready or can be loaded."""
        return name in self._counts or name in self._loaders

    def lacking(self, name: str | None) -> str:
        """Why a vocabulary is not usable, as the end of a sentence that begins with its name."""
        return self._lacking.get(name or "", "is not known here")

    def load(self, name: str) -> None:
        """Make a usable vocabulary ready, or not usable where that fails. Takes seconds; safe in any thread."""
        loader = self._loaders.get(name)
        if loader is None:
            return
        try:
            self._counts[name] = loader()
        except Uncountable as error:
            self._lacking[name] = str(error)
        self._loaders.pop(name, None)

    def want(self, name: str) -> None:
        """Note that a vocabulary will soon be needed, if it is one that could be loaded. HOT."""
        if name in self._loaders:
            self._wanted.add(name)

    def take_wanted(self) -> list[str]:
        """The vocabularies noted since the last call, for whoever has a thread to load them in."""
        names, self._wanted = [name for name in self._wanted if name in self._loaders], set()
        return names

    def learn(self, other: Tokenizers) -> None:
        """Take over what another knows of vocabularies that are strange here; what is loaded here stays so."""
        for name, loader in other._loaders.items():
            if not self.usable(name) and name not in self._lacking:
                self._loaders[name] = loader
        self._lacking = {**other._lacking, **self._lacking}

    def counts(self, name: str, texts: Sequence[str]) -> list[int]:
        """How many tokens each text is. Raises `Uncountable`; KeyError where the vocabulary is not ready."""
        return self._counts[name](texts)

    def count(self, name: str, text: Text) -> int:
        """How many tokens a text is, counted in pieces. Raises `Uncountable`."""
        return sum(sum(self._counts[name]([piece])) for piece in pieces(text))


def pieces(text: Text) -> Iterator[str]:
    """A text in pieces of at most `PIECE_CHARS`."""
    if isinstance(text, LongText):
        yield from longtext.pieces(text, PIECE_CHARS)
    else:
        for at in range(0, len(text), PIECE_CHARS):
            yield text[at : at + PIECE_CHARS]


def utf8_size(text: Text) -> int:
    """At least as many as the UTF-8 bytes of a text; at most twice as many for a long one full of escapes."""
    if isinstance(text, LongText):
        return size_of(text)
    return len(text) if text.isascii() else len(text.encode())


class Prompt:
    """The texts of one request, counted no further than asked, by each tokenizer once.

    `counted_now` may be called on the event loop: it takes about 1 ms for small texts, a few for hostile ones or any
    size. `count_all` takes as long as the text is: seconds for the longest, so it belongs in a thread.
    """

    __slots__ = ("_cuts", "_known", "_laid", "chars", "size", "texts", "tokenizers")

    def __init__(self, texts: Sequence[Text], tokenizers: Tokenizers) -> None:
        self.texts = texts
        self.tokenizers = tokenizers
        short, long = _sorted(texts)
        bytes_long = sizes(long)
        self._laid: tuple[_Laid, ...] = (short, list(accumulate(map(len, short)))), (long, list(accumulate(bytes_long)))
        self.chars = sum(ends[-1] for _, ends in self._laid if ends)
        plain = all(map(str.isascii, short))
        self.size = self.chars if plain else sum(map(utf8_size, short)) + sum(bytes_long)
        self._cuts: dict[int, Sequence[_Cuts]] = {}
        self._known: dict[str, tuple[Bounds, str]] = {}

    @property
    def counted(self) -> tuple[str, ...]:
        """The tokenizers by which anything was counted."""
        return tuple(self._known)

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """The best bounds so far and what they rest on."""
        found = self._known.get(tokenizer or "")
        if found is not None:
            return found
        if tokenizer is None:
            why = "the tokenizer is not known"
        elif self.tokenizers.usable(tokenizer):
            why = "no count was needed"
        else:
            why = f"tokenizer {tokenizer} {self.tokenizers.lacking(tokenizer)}"
        return Bounds(0, self.size), f"by its bytes: {why}"

    def surely(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """As `known`, but that no text breaks these bounds: an interval from samples holds almost always."""
        found, basis = self.known(tokenizer)
        if found.exact or (tokenizer or "") not in self._known:
            return found, basis
        return Bounds(0, self.size), "by its bytes: too long to be counted at once"

    def sharper(self, tokenizer: str) -> Callable[[], Bounds] | None:
        """The next step towards the exact count that takes long, or None where there is none.

        What does not take long has been done by `counted_now`.
        """
        if self.known(tokenizer)[0].exact or not self.tokenizers.usable(tokenizer):
            return None
        if not self.tokenizers.ready(tokenizer):
            return lambda: self._loaded(tokenizer)
        many = MORE_SLICES * SLICE_CHARS * 2  # of less text, so many slices would be half
        if self.chars > many and self.known(tokenizer)[1] == _SAMPLED.format(SLICES):
            return lambda: self._sample(tokenizer, MORE_SLICES)
        return lambda: self.count_all(tokenizer)

    def _loaded(self, tokenizer: str) -> Bounds:
        self.tokenizers.load(tokenizer)
        return self.counted_now(tokenizer)

    def counted_now(self, tokenizer: str) -> Bounds:
        """Bounds as good as can be had at once: exact for small texts, else an interval from samples."""
        if self.tokenizers.inline:
            self.tokenizers.load(tokenizer)
        bounds, _ = self.known(tokenizer)
        if tokenizer in self._known or not self.tokenizers.ready(tokenizer):
            return bounds
        if self.chars <= SMALL_CHARS:
            return self.count_all(tokenizer)
        return self._sample(tokenizer, SLICES)

    def _sample(self, tokenizer: str, slices: int) -> Bounds:
        bounds, _ = self.known(tokenizer)
        if slices not in self._cuts:  # kept, for every tokenizer that is asked counts the same
            self._cuts[slices] = [(list(_slices(*laid, slices)), laid[1][-1]) for laid in self._laid if any(laid[1])]
        try:
            found = _sampled(self._cuts[slices], self.tokenizers, tokenizer)
        except Uncountable:
            return self._keep(tokenizer, Bounds(bounds.lo, bounds.hi, True), "by its bytes: the tokenizer failed")
        hi = min(found.hi, self.size)
        return self._keep(tokenizer, Bounds(min(found.lo, hi), hi), _SAMPLED.format(slices))

    def count_all(self, tokenizer: str) -> Bounds:
        """The exact bounds. Takes as long as the text is."""
        try:
            if self.chars <= SMALL_CHARS:
                texts = [piece for text in self.texts for piece in pieces(text)]
                total = sum(self.tokenizers.counts(tokenizer, texts)) if texts else 0
            else:
                total = sum(self.tokenizers.count(tokenizer, text) for text in self.texts)
        except Uncountable:
            bounds, _ = self.known(tokenizer)
            return self._keep(tokenizer, Bounds(bounds.lo, bounds.hi, True), "by its bytes: the tokenizer failed")
        return self._keep(tokenizer, Bounds(total, total, True), "counted")

    def _keep(self, tokenizer: str, bounds: Bounds, basis: str) -> Bounds:
        self._known[tokenizer] = (bounds, basis)
        return bounds


def _sorted(texts: Sequence[Text]) -> tuple[Sequence[str], Sequence[LongText]]:
    """Texts that are decoded, and long ones."""
    if set(map(type, texts)) == {LongText}:
        return [], texts  # type: ignore[return-value]  # that is what was asked
    short = [text for text in texts if type(text) is str]
    return short, [text for text in texts if type(text) is LongText] if len(short) < len(texts) else []


def _sampled(cuts: Sequence[_Cuts], tokenizers: Tokenizers, tokenizer: str) -> Bounds:
    """An interval for texts of more than `SMALL_CHARS`.

    Texts that are decoded are sampled by character, long ones by byte of their JSON, each by its own ratio.
    """
    lo = hi = 0.0
    for slices, length in cuts:
        least, most = _ratios(slices, tokenizers, tokenizer)
        lo += least * length
        hi += most * length
    return Bounds(int(max(lo, 0)), int(hi) + 1)


def _slices(texts: Sequence[Text], ends: Sequence[int], slices: int) -> Iterator[tuple[str | None, int]]:
    """Equally spaced slices of texts laid end to end, with their lengths; None for one that cannot be read."""
    length = ends[-1]
    if length <= slices * SLICE_CHARS:
        step, count = SLICE_CHARS, -(-length // SLICE_CHARS)
        phase = 0
    else:
        step, count = length // slices, slices
        # Not always the same places: a document whose structure repeats in step with them would fool every sample.
        phase = crc32(b"%d" % length) % max(step - SLICE_CHARS, 1)
    for number in range(count):
        at = number * step + phase
        index = bisect_right(ends, at)
        text, start = texts[index], at - (ends[index - 1] if index else 0)
        if isinstance(text, LongText):
            yield window(text, start, SLICE_CHARS), min(SLICE_CHARS, size_of(text) - start)
        else:
            piece = text[start : start + SLICE_CHARS]
            yield piece, len(piece)


def _ratios(slices: Sequence[tuple[str | None, int]], tokenizers: Tokenizers, tokenizer: str) -> tuple[float, float]:
    """The least and the most tokens per unit of length.

    The standard error comes from successive differences, which a slow drift through the document does not inflate.
    """
    counts = iter(tokenizers.counts(tokenizer, [text for text, _ in slices if text is not None]))
    tokens = [length if text is None else next(counts) for text, length in slices]
    lengths = [length for _, length in slices]
    total, k = max(sum(lengths), 1), len(slices)
    ratio = sum(tokens) / total
    if k < 2:
        return 0.0, 2 * ratio
    rest = [count - ratio * length for count, length in zip(tokens, lengths, strict=True)]
    squares = sum((b - a) ** 2 for a, b in pairwise(rest))
    error = sqrt(squares / (2 * k * (k - 1))) * k / total
    spread = max(ERRORS * error, LEAST_SPREAD * ratio)
    # Each of a slice's two cuts can split one token in two, half of the time: a slice has up to one token too many.
    return ratio - spread - k / total, ratio + spread


@dataclass(frozen=True, slots=True)
class Template:
    """What a model's chat template adds to the texts, in tokens, as upper bounds.

    Measured by rendering the templates: Qwen 3 needs 3 + 5 per message, 4 more with thinking off, 45 for a round of
    tool calls, and about 90 + 1.02 x the JSON of the tools; Llama 4 needs 5 + 5 per message and prints tools indented,
    1.25 to 1.30 x their compact JSON. Llama 3 adds two dates in a system message. The rest is a guess on the safe side.
    """

    base: int = 64
    per_message: int = 8
    per_call: int = 64  # tool calls: each
    tools_base: int = 256  # once, where tools are offered
    tools_factor: float = 1.35  # of the tokens of their compact JSON

    def added(self, messages: int, calls: int, tools: bool) -> int:
        """Tokens added to a request of so many messages and tool calls, without the tools themselves."""
        return self.base + messages * self.per_message + calls * self.per_call + (self.tools_base if tools else 0)


_QWEN = Template(base=12, per_message=6, per_call=48, tools_base=192, tools_factor=1.05)
TEMPLATES: Mapping[str, Template] = {
    "qwen3.5": _QWEN,
    "qwen3": _QWEN,
    "llama4": Template(base=8, per_message=6, per_call=48, tools_base=192, tools_factor=1.30),
    "o200k": Template(base=128),  # GPT-OSS: a system message of its own, with date, effort and channels
    "llama3": Template(base=40, per_message=6, per_call=48, tools_base=192, tools_factor=1.30),
}
UNKNOWN_TEMPLATE = Template()
