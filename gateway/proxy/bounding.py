"""How long a prompt can be at most, where that decides whether a hard budget refuses a request or shortens its answer.

The size of the body bounds it for nothing, for a short prompt many times over. So where that bound does not fit into
what is left, and a closer one could, a prompt of up to 100,000 characters is counted, which takes about 1 ms, a few for
hostile text. Longer ones are bounded by their bytes: what samples say may be wrong, and a hard budget is not to be
exceeded. Requests that fit never come here. What follows for money is `core.money.quotes`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gateway.core.money import quotes
from gateway.core.money.pricing import dollars
from gateway.core.money.quotes import LEAST_OUTPUT, Share
from gateway.core.reading.sizes import RequestSizes
from gateway.core.reading.walk import Request
from gateway.core.text.tokens import SMALL_CHARS
from gateway.core.types import Decision

if TYPE_CHECKING:
    from gateway.proxy.admitting import Admitting

#: Bodies of more bytes are not looked through for this: a bound that was found for the decision is used.
_MOST_BYTES = 1 << 20
BY_SIZE = "by the size of the request"


class Bound(NamedTuple):
    """So many tokens a prompt has at most, whoever counts, and what that rests on in words."""

    tokens: int
    basis: str = BY_SIZE
    loading: bool = False  # a vocabulary by which the next one like it can be counted


def closer(asks: Admitting, entered: int, left: int, least: int) -> Bound:
    """A closer bound than `entered`, if one may help. `least` is the shortest answer worth having.

    It cannot where even no prompt at all would not fit; and where the answer would only be shortened, it helps little
    unless the prompt takes much of what is left.
    """
    decision, choices = asks.decision, asks.envelope.choices
    whole = _dearest(decision, entered, least, choices)
    without = _dearest(decision, 0, least, choices)
    if without > left or (whole <= left and (whole - without) * 4 < left):
        return Bound(entered)
    if asks.envelope.size > _MOST_BYTES:
        if asks.signals is None:
            return Bound(entered)
        told = [asks.signals.at_most(name) for name in _tokenizers(decision)]
    else:
        envelope, runtime = asks.envelope, asks.runtime
        asked = asks.asked
        request = Request(envelope, asked.tenant, asked.hints, {}, runtime.lexicon, asks.record.wall)
        sizes = RequestSizes(request, runtime.tokenizers)
        told = [counted(sizes, name) for name in _tokenizers(decision)]
    tokens, basis = max(told)
    vocabularies = asks.runtime.tokenizers
    loading = any(vocabularies.usable(name) and not vocabularies.ready(name) for name in _tokenizers(decision))
    return Bound(min(tokens, entered), basis if tokens < entered else BY_SIZE, loading)


def counted(sizes: RequestSizes, tokenizer: str | None) -> tuple[int, str]:
    """The most tokens of a prompt, counted where that can be done at once and never sampled, and what that rests on."""
    prompt = sizes.prompt
    if tokenizer is not None:
        prompt.tokenizers.want(tokenizer)  # for the next one, where it is not loaded yet
        if prompt.chars <= SMALL_CHARS:
            prompt.counted_now(tokenizer)
    bounds, basis = sizes.surely(tokenizer)
    return bounds.hi, basis.partition(":")[0]


def _tokenizers(decision: Decision) -> set[str | None]:
    return {one.model.tokenizer for one in decision.candidates}


def _dearest(decision: Decision, entered: int, least: int, choices: int) -> int:
    return quotes.dearest(quotes.reaches(decision, entered, least, choices))


def least_of(asked: int) -> int:
    """The shortest answer worth having, of a request that asks for so many tokens at most (0: it does not say)."""
    return min(asked, LEAST_OUTPUT) if asked else LEAST_OUTPUT


def told(bound: Bound, decision: Decision, asked: int, choices: int, left: int) -> str:
    """What a request may cost at the least that would do, for who is refused with so much of a budget to be spent."""
    share = quotes.share(quotes.reaches(decision, bound.tokens, least_of(asked), choices))
    if share is None:
        return ""
    may_fit = _dearest(decision, bound.tokens, 1, choices) <= left < share.prompt_nano + share.answer_nano
    shorter = ": ask for a shorter one" if may_fit else ""
    return f" It may cost {in_words(share, bound.basis)}{shorter}."


def in_words(share: Share, basis: str) -> str:
    """So much for the prompt, so much for the answer, and why for one so long."""
    why = f" ({share.why})" if share.why else ""
    return (
        f"up to {dollars(share.prompt_nano)} for the prompt (at most {share.input:,} tokens, {basis}) and "
        f"{dollars(share.answer_nano)} for an answer of {share.output:,} tokens{why}"
    )
