"""What an attempt can cost at most, before it is made, and how long an answer a sum of money can pay for.

Never less than what the same tokens are then billed: every price a tier may be read at counts at its dearest. What
tokens did cost is in `pricing`, balances are in `admission`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from gateway.core.request import wire
from gateway.core.request.wire import Envelope
from gateway.core.types import Decision, Price, Target

_MILLION = 1_000_000
_PARTS = 2 * _MILLION
#: The members that limit an answer, OpenAI's newer one first.
OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")
#: Without an answer of at least so many tokens, or what was asked for if that is less, a request is not worth making.
LEAST_OUTPUT = 256


class Reach(NamedTuple):
    """How far an attempt at a target can go: tokens of input and of output, all choices together."""

    target: Target
    input: int
    output: int
    why: str = ""  # the output is longer than was asked for


def _rates(price: Price, input_hi: int) -> Iterator[tuple[int, int]]:
    """The dearest readings of the tiers that an input of up to so many tokens can fall in: input and output."""
    for i, tier in enumerate(price.tiers):
        if i and tier.above_input_tokens >= input_hi:
            break
        yield (
            max(tier.input, tier.cached_input or 0, tier.cache_write or 0),
            max(tier.output, tier.thinking_output or 0),
        )


def most(price: Price, input_hi: int, output_hi: int) -> int:
    """The most that a request can cost with up to so many tokens, in nano-USD, rounded up.

    >>> from gateway.core.types import PriceTier
    >>> most(Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "list"), 1_000, 100)
    1200000
    """
    dearest = max(entered * input_hi + produced * output_hi for entered, produced in _rates(price, input_hi))
    return -(-dearest // _MILLION)


def affordable_output(price: Price, input_hi: int, nano: int) -> int | None:
    """The longest output, in tokens, with which a request of up to `input_hi` tokens costs at most this much.

    Below 0 where the input alone may cost more; None where output costs nothing and the input can be paid for.
    """
    found: int | None = None
    for entered, produced in _rates(price, input_hi):
        left = nano * _MILLION - entered * input_hi
        if left < 0:
            return -1
        if produced:
            fits = left // produced
            found = fits if found is None else min(found, fits)
    return found


def reaches(decision: Decision, input_hi: int | None, asked: int, choices: int) -> Iterator[Reach]:
    """How far an attempt at each candidate can go.

    `input_hi` is a bound of the prompt for any tokenizer, None where none is known; `asked` the output limit of the
    request, 0 where it has none.
    """
    for target in decision.candidates:
        room = target.max_input or target.window
        entered = room if input_hi is None else min(input_hi, room)
        longest, why = longest_output(target, asked, decision.thinking.mode)
        yield Reach(target, entered, longest * choices, why)


def longest_output(target: Target, asked: int, thinking: str) -> tuple[int, str]:
    """The most tokens that a target can write in one choice, and why that is more than was asked for, if it is.

    `asked` is the output limit of the request, 0 where it has none. What does not heed the limit is bounded by what its
    provider says that it gives at most, else by its window; what thinks beside the limit, by its window alone.
    """
    whole = min(target.max_output or target.window, target.window)
    why = unheeded(target, thinking)
    if not why:
        return (min(whole, asked) if asked else whole), ""
    if target.backend.limit_counts == "answer":
        whole = target.window
    if asked and asked >= whole:
        return whole, ""
    return whole, f"its whole {'window' if whole == target.window else 'max_output'} counts, for {why}"


def priced(decision: Decision) -> Decision:
    """The same without what has no price, for who may spend no more than a budget; refused where nothing is left."""
    shadow = decision.shadow
    if shadow is not None and shadow.target.price is None:
        decision = replace(decision, shadow=None)
    kept = tuple(one for one in decision.candidates if one.price is not None)
    if kept == decision.candidates:
        return decision
    if kept:
        return replace(decision, candidates=kept)
    refusal = ("model_not_priced", "A hard budget binds this key, and what may serve the request has no price.")
    return replace(decision, candidates=(), refusal=refusal, shadow=None)


def obeys(target: Target, thinking: str) -> bool:
    """Whether an output limit bounds all that a target writes."""
    return not unheeded(target, thinking)


def unheeded(target: Target, thinking: str) -> str:
    """Why an output limit does not bound all that a target writes, in words; empty where it does."""
    backend = target.backend
    for name in OUTPUT_LIMITS:
        if name in target.unsupported:
            return f"{target.name} does not support {name}"
    if backend.limit_lost:
        return backend.limit_lost
    if backend.limit_counts == "nothing":
        return f"the dialect {backend.dialect} is not known to heed max_tokens"
    if backend.limit_counts == "answer" and not (thinking == "never" and target.thinking in ("never", "switchable")):
        return f"the dialect {backend.dialect} does not count what a model thinks against max_tokens"
    return ""


def textual(envelope: Envelope) -> bool:
    """Whether all content is text, so that the size of the body bounds the prompt."""
    if envelope.messages is not None:
        return True
    return all(type(message.get("content")) is str for message in envelope.tree["messages"])


def asked_output(envelope: Envelope) -> int:
    """The output limit that a request states, the higher one where it states two; 0 where it states none."""
    return max(envelope.get(name) or 0 for name in OUTPUT_LIMITS)


@dataclass(frozen=True, slots=True)
class Quote:
    """What follows for tokens and cost of requests that were decided alike, but for the length of their prompts."""

    asked: int  # the output limit that they state, 0: none
    expected: int  # tokens of an answer, as the first candidate gives them and as far as they are asked for
    #: Of each candidate the price of a token of input, the most tokens of those, and what the longest output costs, in
    #: parts of a nano-USD; None where the price of a token depends on how many there are.
    lines: tuple[tuple[int, int, int], ...] | None
    #: `need` holds for bodies of up to so many bytes, where all content is text; -1: for none.
    upto: int = -1
    by_byte: int = 0  # parts
    fixed: int = 0

    def need(self, body_bytes: int) -> int:
        """What `most` says of the bound of a prompt that comes with so many bytes, at once. HOT."""
        return (self.by_byte * body_bytes + self.fixed) // _PARTS

    def most(self, input_hi: int) -> int | None:
        """What the dearest candidate can cost at most, in nano-USD, for one choice. None: look it up."""
        if self.lines is None:
            return None
        most = 0
        for rate, room, longest in self.lines:
            parts = rate * (input_hi if input_hi < room else room) + longest
            if parts > most:
                most = parts
        return -(-most // _MILLION)


def quote(decision: Decision, asked: int) -> Quote:
    """The part of what a request can use and cost that does not depend on its prompt."""
    usual = decision.candidates[0].typical_output_tokens
    expected = min(usual, asked or usual)
    lines: list[tuple[int, int, int]] = []
    for one in reaches(decision, None, asked, 1):
        price = one.target.price
        if price is None:
            continue
        if len(price.tiers) > 1:
            return Quote(asked, expected, None)
        entered, produced = next(_rates(price, 0))
        line = entered, one.input, produced * one.output
        if not any(_covers(other, line) for other in lines):
            lines = [line, *(other for other in lines if not _covers(line, other))]
    if len(lines) != 1:
        return Quote(asked, expected, tuple(lines))
    # `wire.quick_tokens` in halves: a byte is three halves of a token.
    [(rate, room, longest)] = lines
    upto = wire.largest_body(room)
    fixed = 2 * (rate * wire.quick_tokens(0) + longest) + _PARTS - 1
    return Quote(asked, expected, tuple(lines), upto, 3 * rate, fixed)


def _covers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the first costs at least as much, whatever the prompt."""
    return all(mine >= its for mine, its in zip(one, other, strict=True))


def dearest(found: Iterable[Reach]) -> int:
    """The most that any of these attempts can cost, in nano-USD. Only for targets that have a price."""
    return max((most(one.target.price, one.input, one.output) for one in found if one.target.price), default=0)


def clamped(decision: Decision, found: Iterable[Reach], nano: int, choices: int) -> int | None:
    """The output limit, in tokens, with which no candidate can cost more than this; None where there is none."""
    least: int | None = None
    for one in found:
        price = one.target.price
        if price is None:
            continue
        fits = affordable_output(price, one.input, nano)
        if fits is None or one.output <= fits:
            continue
        if not obeys(one.target, decision.thinking.mode):
            return None
        fits //= choices
        least = fits if least is None else min(least, fits)
    return least


class Share(NamedTuple):
    """What the dearest attempt can cost at most, in nano-USD: of that its prompt, and its answer, by so many tokens."""

    target: Target
    input: int
    output: int
    prompt_nano: int
    answer_nano: int
    why: str = ""  # the answer is longer than was asked for


def share(found: Iterable[Reach]) -> Share | None:
    """The dearest of these attempts, taken apart; None where none has a price."""
    most_parts, dear = -1, None
    for one in found:
        if one.target.price is not None:
            for entered, produced in _rates(one.target.price, one.input):
                parts = entered * one.input, produced * one.output
                if sum(parts) > most_parts:
                    prompt, answer = (-(-part // _MILLION) for part in parts)
                    most_parts, dear = sum(parts), Share(one.target, one.input, one.output, prompt, answer, one.why)
    return dear
