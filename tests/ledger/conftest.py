"""A real PostgreSQL for the tests of a module, empty for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ledger.shipped import hurry
from tests.postgres import Postgres, postgres


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    with postgres() as one:
        yield one


@pytest.fixture
def database(cluster: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """Empty, and shipped to ten times as often as usual."""
    hurry(monkeypatch)
    if not cluster.running:
        cluster.start()
    cluster.clear()
    return cluster
