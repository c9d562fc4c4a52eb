"""Vocabularies that will be needed are loaded beside the event loop, and none at the start."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

from gateway.core.reading.lexicon import Lexicon
from gateway.core.text.tokens import Count, Tokenizers
from gateway.proxy.runtime import Runtime


def test_a_wanted_vocabulary_is_loaded_in_the_thread_that_counts() -> None:
    loaded_in: list[str] = []

    def load() -> Count:
        loaded_in.append(threading.current_thread().name)
        return lambda texts: [len(text) for text in texts]

    async def play() -> None:
        tokenizers = Tokenizers(loaders={"words": load})
        runtime = Runtime(
            asyncio.get_running_loop(), cast(Any, SimpleNamespace(sources=[])), None, tokenizers, Lexicon.empty()
        )
        try:
            runtime.warm()
            runtime.executor.submit(int).result(5)
            assert not loaded_in
            tokenizers.want("words")
            runtime.warm()
            runtime.warm()
            runtime.executor.submit(int).result(5)
            assert tokenizers.ready("words")
            assert len(loaded_in) == 1
            assert loaded_in[0].startswith("count")
        finally:
            runtime.close()

    asyncio.run(play())
