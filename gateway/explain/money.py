"""What a request under a hard budget may cost, for an explanation: what is set aside for it, and by which bounds.

The bounds are those that serving uses: of the prompt first by the size of the request, and where that does not fit by
counting it; of the answer all that may come, and where that does not fit the shortest that is worth having.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.money import quotes
from gateway.core.money.quotes import Share
from gateway.core.reading.sizes import RequestSizes
from gateway.core.request.wire import Envelope
from gateway.core.types import NANO_PER_USD, Decision
from gateway.proxy import bounding


def bounds(envelope: Envelope, sizes: RequestSizes, decision: Decision, left: int | None) -> dict[str, Any] | None:
    """Both bounds as plain values; `left` is what the poorest hard budget has, None where that is not known here."""
    names = {one.model.tokenizer for one in decision.candidates}
    if not names:
        return None
    rough = envelope.quick_tokens if quotes.textual(envelope) else max(sizes.surely(name)[0].hi for name in names)
    basis = bounding.BY_SIZE if quotes.textual(envelope) else "with what it shows"
    close, counted = max(bounding.counted(sizes, name) for name in names)
    asked, choices = quotes.asked_output(envelope), envelope.choices
    most = quotes.share(quotes.reaches(decision, rough, asked, choices))
    least = quotes.share(quotes.reaches(decision, min(close, rough), bounding.least_of(asked), choices))
    if most is None or least is None:
        return None
    told: dict[str, Any] = {"set_aside": _told(most, basis), "at_least": _told(least, counted)}
    if left is not None:
        whole = most.prompt_nano + most.answer_nano <= left
        short = least.prompt_nano + least.answer_nano <= left
        told["fits"] = "whole" if whole else "counted or shortened" if short else "not now"
    return told


def _told(share: Share, basis: str) -> dict[str, Any]:
    return {
        "target": share.target.name,
        "usd": (share.prompt_nano + share.answer_nano) / NANO_PER_USD,
        "prompt_usd": share.prompt_nano / NANO_PER_USD,
        "prompt_tokens": share.input,
        "prompt_rests_on": basis,
        "answer_usd": share.answer_nano / NANO_PER_USD,
        "answer_tokens": share.output,
        "text": bounding.in_words(share, basis),
    }


def text(told: Mapping[str, Any]) -> str:
    """The same for people."""
    most, least = told["set_aside"], told["at_least"]
    lines = [
        "under a hard budget",
        f"  set aside  {most['text']}, at {most['target']}",
        f"  at least   {least['text']}, at {least['target']}: where less is left, it is refused",
    ]
    return "\n".join([*lines, *([f"  it fits    {told['fits']}"] if "fits" in told else [])])
