"""What an attempt consumed: the provider's own figures, checked, or an estimate that says it is one.

Here are the spellings of `usage` objects and the rules by which a figure is believed. What tokens cost is in
`pricing`; counting the tokens of a prompt exactly is in `tokens`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gateway.core.types import Record, Target, Usage

#: Above this a count is a provider's bug, not a request: the largest served windows are 10M tokens.
ABSURD_TOKENS = 100_000_000
#: Windows that a count may come to. The configured one may be less than what the server takes.
MOST_WINDOWS = 2
#: Tokens for each byte of an answer, and beside all of it, that a model may have written that has no hidden thoughts:
#: no tokenizer has tokens of less than a byte, but for those that mark turns and calls and are never shown.
TOKENS_PER_BYTE, UNSEEN_TOKENS = 4, 65_536
#: Of an answer that is not even so long nobody asks whether it can be: that would cost more than it may.
PLAIN_TOKENS = 4_096

#: UTF-8 bytes of generated text that one token is taken to stand for where nothing better is known: English runs at
#: 4 to 5, CJK at 3 to 4, code at 3. The figure only ever serves estimates, which are marked as such.
BYTES_PER_TOKEN = 4

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")


class _Absurd(Exception):
    """A count that cannot be one."""


def _count(found: Any, names: tuple[str, ...]) -> int | None:
    """The first of `names` that is there, as a token count; None where none is.

    Raises `_Absurd` for what is there but is no sane count: a wrong type, negative, above `ABSURD_TOKENS`.
    """
    for name in names:
        value = found.get(name)
        if value is None:
            continue
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value <= ABSURD_TOKENS:
            raise _Absurd
        return value
    return None


def _detail(found: dict[str, Any], groups: tuple[str, ...], name: str) -> int | None:
    for group in groups:
        details = found.get(group)
        if isinstance(details, dict):
            return _count(details, (name,))
    return None


_Count = Annotated[int, msgspec.Meta(ge=0, le=ABSURD_TOKENS)]


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_creation_input_tokens: Literal[0] | None = None  # more than that is for `read`


class _Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None


class Stated(msgspec.Struct, gc=False):
    """A usage object as nearly every server writes it: a type that JSON is decoded into with all counts checked.

    What does not fit (other spellings, floats, absurd counts) is for `read`; what fits means the same to both.
    """

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None
    cached_tokens: _Count | None = None
    prompt_cache_hit_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    # `read` looks into these where the members above are null.
    input_tokens_details: None = None
    output_tokens_details: None = None

    def usage(self) -> Usage:
        """What `read` makes of the same object. HOT."""
        entered = self.prompt_tokens
        produced = self.completion_tokens
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        if cached is None:
            cached = self.cached_tokens
            if cached is None:
                cached = self.prompt_cache_hit_tokens or 0
        thought = self.completion_tokens_details
        reasoning = thought.reasoning_tokens if thought is not None else None
        if reasoning is None:
            reasoning = self.reasoning_tokens
        if not reasoning:
            return Usage(entered, produced, cached if cached < entered else entered)
        return _together(entered, produced, cached, reasoning, self.total_tokens)


def _together(entered: int, produced: int, cached: int, reasoning: int, total: int | None) -> Usage:
    if reasoning and total == entered + produced + reasoning:
        produced += reasoning  # some providers leave reasoning out of completion_tokens and bill it all the same
    return Usage(entered, produced, min(cached, entered), min(reasoning, produced))


def read(found: Any, before: Usage | None = None) -> Usage | None:
    """The usage that a provider's object states, laid over what an earlier object of the same answer stated.

    Reads the spellings of OpenAI, vLLM, llama.cpp, DashScope (also its native `input_tokens`) and DeepSeek
    (`prompt_cache_hit_tokens`). Members that are absent or null keep their value from `before`; an object with one
    absurd count is refused whole, and `before` stands.

    >>> read({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}})
    Usage(input=10, output=4, cached=8, reasoning=0, estimated=False, written=0)
    """
    if not isinstance(found, dict):
        return before
    try:
        entered = _count(found, _INPUT)
        produced = _count(found, _OUTPUT)
        if entered is None and produced is None:
            return before
        cached = _detail(found, _INPUT_DETAILS, "cached_tokens")
        if cached is None:
            cached = _count(found, ("cached_tokens", "prompt_cache_hit_tokens"))
        reasoning = _detail(found, _OUTPUT_DETAILS, "reasoning_tokens")
        if reasoning is None:
            reasoning = _count(found, ("reasoning_tokens",))
        total = _count(found, ("total_tokens",)) if reasoning else None
        written = _detail(found, _INPUT_DETAILS, "cache_creation_input_tokens")
    except _Absurd:
        return before
    old = before or Usage()
    entered = old.input if entered is None else entered
    produced = old.output if produced is None else produced
    cached = old.cached if cached is None else cached
    reasoning = old.reasoning if reasoning is None else reasoning
    written = old.written if written is None else written
    together = _together(entered, produced, cached, reasoning, total)
    return msgspec.structs.replace(together, written=min(written, entered - together.cached)) if written else together


def estimate(input_tokens: int, output_bytes: int) -> Usage:
    """A usage for an attempt whose provider stated none: `output_bytes` of text are priced at 4 bytes a token.

    `input_tokens` is what the signals knew of the prompt. The result is marked `estimated`.
    """
    return Usage(input=input_tokens, output=-(-output_bytes // BYTES_PER_TOKEN), estimated=True)


def possible(stated: Usage, target: Target, output_bytes: int, choices: int) -> bool:
    """Whether a target can have used this much: what its window holds, and what of its answer was seen.

    A number that is too high by a factor of a thousand would otherwise spend a budget with one answer.
    """
    most = MOST_WINDOWS * target.window
    if stated.input > most or stated.output > most * choices:
        return False
    if target.thinking != "never" or stated.output <= UNSEEN_TOKENS:
        return True
    return stated.output <= UNSEEN_TOKENS * choices + TOKENS_PER_BYTE * output_bytes


def settle(
    stated: Usage | None, input_tokens: int, output_bytes: int, target: Target | None = None, choices: int = 1
) -> Usage:
    """The usage to book: what the provider stated, or an estimate where it stated nothing or plain nonsense.

    Zero output tokens beside text that arrived is nonsense: servers without a tokenizer at hand send such zeros. So is
    more than `target` can have used, where that is given.
    """
    if stated is None:
        return estimate(input_tokens, output_bytes)
    large = target is not None and (stated.input > target.window or stated.output > PLAIN_TOKENS)
    if large and not possible(stated, target, output_bytes, choices):  # type: ignore[arg-type]
        return estimate(input_tokens, output_bytes)
    if stated.input and stated.output:
        return stated
    if (stated.output == 0 and output_bytes > 0) or (stated.input == 0 and input_tokens > 0):
        guess = estimate(stated.input or input_tokens, output_bytes)
        return msgspec.structs.replace(stated, input=guess.input, output=stated.output or guess.output, estimated=True)
    return stated


class Spent(msgspec.Struct, frozen=True, gc=False):
    """What one attempt of a request used and cost, by the attempt's number and the names of its target and model."""

    number: int
    target: str
    model: str
    usage: Usage
    cost_nano: int = 0
    priced: bool = True


def answering(record: Record) -> int:
    """Number of the attempt that answered, or was the last to be tried."""
    return record.answered or record.attempts


def used_by(record: Record, number: int) -> Usage | None:
    """What the attempt of this number of a finished request used; None for nothing that is known."""
    if not record.spent:
        return record.usage if number == answering(record) else None
    return next((one.usage for one in record.spent if one.number == number), None)


def add(one: Usage, other: Usage) -> Usage:
    """Both together, for a request's total over its attempts; estimated when either is."""
    return Usage(
        one.input + other.input,
        one.output + other.output,
        one.cached + other.cached,
        one.reasoning + other.reasoning,
        one.estimated or other.estimated,
        one.written + other.written,
    )
