"""A small configuration beside which keys are made, and how tests make and try them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import making
from gateway.keys.audit import Asker
from gateway.keys.making import Issued
from gateway.site import Site, load_site

NOW = 1_795_000_000.0
DAY = 86_400.0
CONFIG = """\
backends:
  up: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}
targets:
  a: {model: llama-3.3-70b, backend: up, window: 8k, price: {input: 1, output: 2}}
  b: {model: llama-4-scout, backend: up, window: 8k, price: {input: 1, output: 2}}
policies: {dir: policies, default: default}
ledger: {dir: books}
"""
POLICIES = ("default", "other")
LEAD = {"name": "lead", "may_create": True, "allow": ["auto", "a"], "rpm": 60, "tenant": {"team": "shop"}}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    for name in POLICIES:
        rule = "rules:\n  - {id: all, use: [{family: '*'}]}\n"
        (tmp_path / "policies" / f"{name}.yaml").write_text(f"policy: {name}\n{rule}")
    (tmp_path / "pointsman.yaml").write_text(CONFIG)
    return tmp_path


def site(place: Path, more: str = "") -> Site:
    if more:
        (place / "pointsman.yaml").write_text(CONFIG + more)
    return load_site(place / "pointsman.yaml", {"HOME": str(place)}, secrets=False, tests=False)


def create(place: Path, now: float = NOW, by: str | None = None, **wish: Any) -> Issued:
    return making.create(site(place).ring, wish, now, Asker(key=by))


def opens(found: Site, key: str, now: float = NOW) -> str | None:
    """Whose key it is, if it is taken."""
    entry = found.keys.get(hashlib.sha256(key.encode()).digest())
    return None if entry is None or entry.expired(now) else entry.tenant.key


def names(found: Site, key: str) -> set[str]:
    """What a key may send as `model`, short names only."""
    entry = found.keys[hashlib.sha256(key.encode()).digest()]
    return {name for name, _ in found.granted(entry.tenant)} & {"auto", "auto/default", "auto/other", "a", "b"}


def update(place: Path, name: str, now: float = NOW, by: str | None = None, **wish: Any) -> making.Updated:
    return making.update(site(place).ring, name, wish, now, Asker(key=by))
