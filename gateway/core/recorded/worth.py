"""What a recorded request would have cost elsewhere: an interval, and what it assumes.

Here belongs the arithmetic for one request. Adding up, and telling it, is the business of `gateway.replay`. Nothing
here is ever booked: what a request really cost stands in its record.

The likely value takes the same numbers of tokens at the other target's prices. The bounds allow for what is not known:
another tokenizer (`TONGUE`), another model's wordiness (`WORDS`), thinking switched on (`THOUGHT`) and a cache that is
cold. Where the model is the same, only the cache is in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.money.pricing import cost
from gateway.core.recorded.records import Recorded, Spoken
from gateway.core.types import Model, Target, Usage

#: Tokens of one tokenizer for a token of another: English, and all else. Qwen 3.5 takes 116 tokens for a Hindi text of
#: which Qwen 3 takes 216; English texts differ by less than a quarter.
TONGUE = {True: (0.8, 1.25), False: (0.5, 2.0)}
#: How much shorter or longer another model's answer may be. An assumption: no record tells it.
WORDS = (0.5, 2.0)
#: How much longer an answer may be with thinking than it was without, where no budget bounds it. An assumption.
THOUGHT = 4.0
ASSUMPTIONS = (
    "output: as many tokens as were answered; half to twice as many from another model",
    "input: as many tokens as were counted; by another tokenizer 0.8 to 1.25 times as many in English, 0.5 to 2 times "
    "in other languages or where the language is not recorded",
    "cache: as much of the prompt cached as it was; at most dear, none of it",
    "thinking: switched off it saves the reasoning that was counted, at least nothing; switched on it adds nothing, at "
    "most its budget or three times the answer",
    "price tiers: that of the input thought likely, and those of its bounds",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Nano-USD: at least, likely, at most."""

    low: int = 0
    likely: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """One target as the place where recorded requests might have been answered."""

    target: Target
    models: Mapping[str, Model]  # of the fleet: whose tokenizer counted what a record says

    def cost(self, recorded: Recorded, thinking: str) -> Cost | None:
        """What the answer of a record would have cost here; None where there is no price or nothing was answered.

        `thinking` is what this target would have been told, as `str(Thinking)`. HOT in replays.
        """
        used, price = recorded.result.usage, self.target.price
        if used is None or price is None:
            return None
        result = recorded.result
        asked = _thinks(thinking)
        if result.target == self.target.name and thinking == recorded.decided.thinking:
            likely = cost(price, used, asked)
            return Cost(likely, likely, likely)
        same = result.model == self.target.model.id
        shortest, longest = (1.0, 1.0) if same else self._tongue(recorded)
        low, likely, high = self._output(recorded, used, thinking, same)
        reasoning = 0 if thinking == "never" else used.reasoning
        least = cost(price, _usage(used, shortest, low, min(reasoning, low)), asked)
        usual = cost(price, _usage(used, 1.0, likely, min(reasoning, likely)), asked)
        most = cost(price, Usage(int(used.input * longest + 0.5), high, 0, reasoning, written=used.written), asked)
        return Cost(min(least, usual), usual, max(most, usual))  # a longer prompt can fall in a cheaper tier

    def guess(self, recorded: Recorded) -> Cost | None:
        """What a request that was never answered may cost here; None where there is no price.

        The input by its bounds, a quarter of the range being likely; the output from a tenth of what the target
        typically gives to the most that was asked for.
        """
        price, target = self.target.price, self.target
        if price is None:
            return None
        tokenizer = target.model.tokenizer or ""
        lo, hi, _ = recorded.tokens.get(tokenizer) or recorded.tokens.get("") or (0, recorded.text_bytes, False)
        usual, asked = target.typical_output_tokens, recorded.signals.get("max_output_tokens")
        most = int(asked) if isinstance(asked, int | float) and asked else usual * 4
        usual = min(usual, most)
        return Cost(
            cost(price, Usage(lo, usual // 10), thinking=False),
            cost(price, Usage(lo + (hi - lo) // 4, usual), thinking=False),
            cost(price, Usage(hi, most), thinking=True),
        )

    def _tongue(self, recorded: Recorded) -> tuple[float, float]:
        """How many tokens a token that was counted may be here."""
        answered = self.models.get(recorded.result.model)
        if answered is not None and answered.tokenizer and answered.tokenizer == self.target.model.tokenizer:
            return 1.0, 1.0
        spoken = recorded.signals.get("language")
        return TONGUE[isinstance(spoken, Spoken) and spoken.language().main == "en"]

    def _output(self, recorded: Recorded, used: Usage, thinking: str, same: bool) -> tuple[int, int, int]:
        """Tokens of output: at least, likely, at most."""
        before, most = recorded.decided.thinking, used.output
        low = likely = used.output
        if thinking == "never" and before != "never":
            low = likely = used.output - min(used.reasoning, used.output)
        elif _thinks(thinking) and not used.reasoning:
            budget = thinking.partition(":")[2]
            most = used.output + int(budget) if budget.isdecimal() else int(used.output * THOUGHT)
        if not same:
            low, most = int(low * WORDS[0]), int(most * WORDS[1])
            asked = recorded.signals.get("max_output_tokens")
            caps = [cap for cap in (asked, self.target.max_output) if isinstance(cap, int) and cap]
            most = max(min([most, *caps]), likely)
        return low, likely, most


def _thinks(thinking: str) -> bool:
    return thinking == "always" or thinking.startswith("budget")


def _usage(used: Usage, times: float, output: int, reasoning: int) -> Usage:
    if times == 1.0:
        return Usage(used.input, output, used.cached, reasoning)
    return Usage(int(used.input * times + 0.5), output, int(used.cached * times), reasoning)
