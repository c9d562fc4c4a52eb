"""A Valkey for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.valkey import Valkey, valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as made:
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries are made soon, and nobody waits long for what others know."""
    monkeypatch.setattr("gateway.stores.breaker.OPEN_S", 0.05)
    monkeypatch.setattr("gateway.stores.shared.WINDOW_US", 100_000)
