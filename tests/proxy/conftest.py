"""A gateway and scripted upstreams for the tests of the data plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Gateway, Script, Upstream, config, running

Start = Callable[..., tuple[Gateway, dict[str, Upstream]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start({"a": [script, ...], "b": [...]}, **settings)` gives a gateway whose targets are a, b, ...

    `change` is handed all settings before they are written.
    """
    numbers = count()
    with ExitStack() as stack:

        def begin(
            scripts: dict[str, list[Script]],
            change: Callable[[dict[str, Any]], object] = lambda made: None,
            **over: Any,
        ) -> tuple[Gateway, dict[str, Upstream]]:
            upstreams = {name: Upstream(list(each)) for name, each in scripts.items()}
            for upstream in upstreams.values():
                stack.callback(upstream.close)
            settings = config(upstreams, **over)
            change(settings)
            state = tmp_path / f"state-{next(numbers)}"  # books are one process's: a test may start two
            gateway = stack.enter_context(running(tmp_path, settings, XDG_STATE_HOME=str(state)))
            return gateway, upstreams

        yield begin
