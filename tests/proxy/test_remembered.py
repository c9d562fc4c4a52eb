"""What `/v1/decisions` can tell about: the last requests, fewer of them while they come too fast to be asked for."""

import asyncio
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.core.reading.lexicon import Lexicon
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Record, Routing
from gateway.proxy.runtime import FEW_REMEMBERED, REMEMBERED, Remembered, Runtime


def _recalled(*pauses_s: float) -> list[int]:
    """Which requests are there in the end, of one after each of these pauses."""

    async def play() -> list[int]:
        metrics = cast(Any, SimpleNamespace(sources=[]))
        runtime = Runtime(asyncio.get_running_loop(), metrics, None, Tokenizers(loaders={}), Lexicon.empty())
        try:
            for n, at in enumerate(accumulate(pauses_s, initial=1_000.0)):
                record = Record(str(n), at, at, Routing("", "", "", stream=False), ended_at=at)
                runtime.remember(Remembered(record, {}, 0, None, None, cast(Any, None)))
            return [n for n in range(len(pauses_s) + 1) if runtime.recall(str(n)) is not None]
        finally:
            runtime.close()

    return asyncio.run(play())


@pytest.mark.parametrize("count", [1, REMEMBERED, REMEMBERED + 1, 2 * REMEMBERED + 7])
def test_the_last_requests_are_remembered(count: int) -> None:
    assert _recalled(*[0.01] * (count - 1)) == list(range(max(0, count - REMEMBERED), count))


def test_a_thousand_a_second_are_not_too_fast_to_be_asked_for() -> None:
    count = 2 * REMEMBERED + 7
    assert _recalled(*[0.001] * (count - 1)) == list(range(count - REMEMBERED, count))


@pytest.mark.parametrize("count", [REMEMBERED + 1, REMEMBERED + FEW_REMEMBERED, 2 * REMEMBERED + 7])
def test_the_last_few_are_remembered_however_fast_they_come(count: int) -> None:
    recalled = _recalled(*[0.0001] * (count - 1))
    assert recalled[-FEW_REMEMBERED:] == list(range(count - FEW_REMEMBERED, count))
    assert len(recalled) <= REMEMBERED


def test_as_many_as_ever_are_remembered_when_a_rush_is_over() -> None:
    fast, slow = [0.0001] * (2 * REMEMBERED), [0.01] * (REMEMBERED + 2 * FEW_REMEMBERED)
    count = len(fast) + len(slow) + 1
    assert _recalled(*fast, *slow)[-REMEMBERED:] == list(range(count - REMEMBERED, count))
