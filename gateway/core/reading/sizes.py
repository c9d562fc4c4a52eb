"""How long a request is, by each tokenizer, found out step by step and no further than the question needs.

Here belongs putting together what texts, template, tools and media take. Counting texts stands in `tokens`, what media
take in `media`; what a length is compared with is the business of `signals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.core.reading.walk import Request
from gateway.core.request.wire import Envelope
from gateway.core.text.tokens import TEMPLATES, UNKNOWN_TEMPLATE, Bounds, Prompt, Tokenizers, utf8_size

_MOST_TOOLS = 1 << 20  # bytes of tools that are read for counting; more count by their bytes
_MUCH = 1 << 60  # tokens; more than any limit


class NeedsCount(Exception):
    """Only an exact count of much text can settle a question, and this is no place to block.

    Run `run` in a thread, then ask again: its result is kept.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        super().__init__("an exact count is needed")
        self.run = run


def far_within(quick: int, limit: int) -> bool:
    """Whether the bound from a body's size is so far below a limit that nothing else need be known. HOT."""
    return quick * 4 <= limit * 3


class Sizes:
    """How long the input is, by each tokenizer."""

    __slots__ = ()

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """The best bounds of the input so far, and what they rest on in words."""
        raise NotImplementedError

    def surely(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """The same where samples do not count, for what must never turn out longer."""
        return self.known(tokenizer)

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        """Whether the input is longer than a limit. Raises `NeedsCount` where that takes long and may not block."""
        raise NotImplementedError

    def surely_within(self, limit: int) -> bool:
        """Whether what is known at no cost shows that the input is at most this long for every tokenizer. HOT.

        False means nothing: `more_than` may find out that it is.
        """
        raise NotImplementedError

    def expected(self, tokenizer: str | None) -> int:
        """About how long the input is. Bounds that nobody has narrowed are bytes, of which four make a token."""
        bounds = self.known(tokenizer)[0]
        return bounds.hi if bounds.exact else bounds.lo + (bounds.hi - bounds.lo) // 4

    def computed(self) -> dict[str, Any]:
        """What `GivenSizes` takes back."""
        raise NotImplementedError


def expected_of(envelope: Envelope) -> int:
    """About how many tokens a request without parts has, by the size of its body."""
    return expected_tokens(envelope.size)


def expected_tokens(body_bytes: int) -> int:
    """About how many tokens a body without parts has."""
    return body_bytes // 4


class GivenSizes(Sizes):
    """Lengths that are known: one for all tokenizers, or what was computed by each."""

    __slots__ = ("_all", "_by", "_total")

    def __init__(self, values: Mapping[str, Any], asked: int | None) -> None:
        self._total = total = values.get("context_tokens")
        size = 0 if total is None else max(int(total) - (asked or 0), 0)
        self._all = (Bounds(size, size, True), "as given")
        self._by = {
            name: (Bounds(int(lo), int(hi), bool(exact)), str(basis))
            for name, (lo, hi, exact, basis) in values.get("tokens", {}).items()
        }

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """As in `Sizes`."""
        return self._by.get(tokenizer or "") or self._by.get("") or self._all

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        """As in `Sizes`. HOT."""
        return self.known(tokenizer)[0].hi > limit

    def surely_within(self, limit: int) -> bool:
        """As in `Sizes`."""
        return self._all[0].hi <= limit and all(bounds.hi <= limit for bounds, _ in self._by.values())

    def computed(self) -> dict[str, Any]:
        """As in `Sizes`."""
        by = {name: [bounds.lo, bounds.hi, bounds.exact, basis] for name, (bounds, basis) in self._by.items()}
        return {"tokens": by} if self._total is None else {"context_tokens": self._total, "tokens": by}


class RequestSizes(Sizes):
    """Lengths found out step by step, no further than the question needs."""

    __slots__ = ("_added", "_prompt", "_quick", "_request", "_tokenizers", "least")

    def __init__(self, request: Request, tokenizers: Tokenizers) -> None:
        self._request = request
        self._tokenizers = tokenizers
        self._quick: int | None = None
        self._prompt: Prompt | None = None
        self.least = _MUCH  # the smallest limit that was asked about and not reached
        self._added: dict[str | None, tuple[int, int]] = {}

    def quick(self) -> int:
        """An upper bound for any tokenizer from the size of the body alone, or a huge one where there are parts."""
        if self._quick is None:
            plain = all(type(m.get("content")) is str for m in self._request.messages)
            self._quick = self._request.envelope.quick_tokens if plain else _MUCH
        return self._quick

    def surely_within(self, limit: int) -> bool:
        """As in `Sizes`. By the size of the body, and only far below the limit: near it, `more_than` has more to do."""
        quick = self.quick()
        if not far_within(quick, limit):
            return False
        if limit < self.least:
            self.least = limit
        return True

    @property
    def quick_sufficed(self) -> bool:
        """Nothing but the size of the body was looked at so far."""
        return self._prompt is None

    def expected(self, tokenizer: str | None) -> int:
        """By the size of the body, where nothing more was looked at."""
        if self._prompt is None and self.quick() < _MUCH:
            return expected_of(self._request.envelope)
        return super().expected(tokenizer)

    @property
    def prompt(self) -> Prompt:
        """The texts, those that servers put in beside the messages included."""
        if self._prompt is None:
            request = self._request
            self._prompt = Prompt([*request.content.texts, *request.extra_texts], self._tokenizers)
        return self._prompt

    def added(self, tokenizer: str | None) -> tuple[int, int]:
        """What template, tools and media add: at least and at most."""
        found = self._added.get(tokenizer)
        if found is None:
            content, tools = self._request.content, self._request.tools_size
            template = TEMPLATES.get(tokenizer or "", UNKNOWN_TEMPLATE)
            fixed = template.added(content.messages, content.calls, bool(tools))
            lo, hi = content.media_tokens(tokenizer)
            if tools:
                more = int(self._tools_tokens(tokenizer, tools) * template.tools_factor) + 1
                lo, hi = lo, hi + more
                fixed_lo = more // 2
            else:
                fixed_lo = 0
            found = self._added[tokenizer] = (lo + fixed_lo + content.messages, fixed + hi)
        return found

    def _tools_tokens(self, tokenizer: str | None, size: int) -> int:
        if size > _MOST_TOOLS:
            return size
        tools = self._request.tools_json
        if tokenizer is not None and self._tokenizers.ready(tokenizer):
            return Prompt([tools], self._tokenizers).count_all(tokenizer).hi
        return utf8_size(tools)

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """As in `Sizes`."""
        bounds, basis = self.prompt.known(tokenizer)
        return bounds.plus(*self.added(tokenizer)), basis

    def surely(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """As in `Sizes`."""
        bounds, basis = self.prompt.surely(tokenizer)
        return bounds.plus(*self.added(tokenizer)), basis

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        """As in `Sizes`. HOT."""
        if limit < 0:
            return True  # whatever the length is
        quick = self.quick()
        if quick <= limit:
            if limit < self.least:
                self.least = limit
            if (
                quick * 4 > limit * 3 and tokenizer is not None
            ):  # its bytes are half of it: the next turn may need a count
                self._tokenizers.want(tokenizer)
            return False
        prompt = self.prompt
        lo, hi = self.added(tokenizer)
        bounds, _ = prompt.known(tokenizer)
        if tokenizer is not None and _between(bounds, limit, lo, hi):
            bounds = prompt.counted_now(tokenizer)
            while _between(bounds, limit, lo, hi) and (step := prompt.sharper(tokenizer)) is not None:
                if not blocking:
                    raise NeedsCount(step)
                bounds = step()
        return bounds.hi + hi > limit

    def computed(self) -> dict[str, Any]:
        """As in `Sizes`."""
        names: set[str | None] = {None, *self.prompt.counted, *self._added}  # every one that was asked about
        by = {
            name or "": [bounds.lo, bounds.hi, bounds.exact, basis]
            for name in names
            for bounds, basis in [self.known(name)]
        }
        return {"tokens": by}


def _between(bounds: Bounds, limit: int, lo: int, hi: int) -> bool:
    """Whether a limit lies where it is not known on which side the length is."""
    return bounds.lo + lo <= limit < bounds.hi + hi and not bounds.exact
