"""The keys file: broken, shared, full or somebody else's."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from gateway.core.errors import ConfigError
from gateway.keys import file
from tests.keys.conftest import create, site


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"keys": [}', "pointsman.keys.json:1"),
        ("", "is empty"),
        ('{"keys": [{"name": "a"}]}', "pointsman.keys.json:1: keys[0].sha256"),
        ('{"keys": [], "keys": []}', "stands here a second time"),
        ('{"keys": [NaN]}', "pointsman.keys.json:1: keys[0]"),
        ('{"kyes": []}', "kyes"),
        (
            '{\n"keys": [\n{"name": "a", "sha256": "%s", "created": "2026-11-22", "rpm": -1}\n]}' % ("a" * 64),
            ":3: keys[0].rpm",
        ),
        ('{"keys": [%s, %s]}', "is the hash of another key"),
    ],
)
def test_a_broken_file_does_not_load_and_says_where(place: Path, text: str, says: str) -> None:
    entry = '{"name": "%s", "sha256": "%s", "created": "2026-11-22"}'
    text = text % (entry % ("a", "a" * 64), entry % ("b", "a" * 64)) if "%s" in text else text
    (place / "pointsman.keys.json").write_text(text)
    with pytest.raises(ConfigError) as told:
        site(place)
    assert says in str(told.value)
    assert str(place / "pointsman.keys.json") in str(told.value)


def test_a_file_that_others_may_write_to_is_warned_of(place: Path) -> None:
    create(place, name="shop")
    (place / "pointsman.keys.json").chmod(0o664)
    assert any("can be written to by others" in one for one in site(place).warnings)


def test_a_folder_or_a_dead_link_in_its_place_does_not_open_the_gateway(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    kept.symlink_to(place / "nowhere")
    with pytest.raises(ConfigError, match="is a link that leads nowhere"):
        site(place)
    kept.unlink()
    kept.mkdir()
    with pytest.raises(ConfigError, match=r"is not a regular file|cannot be read"):
        site(place)


def test_a_full_disk_leaves_the_file_as_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(place, name="shop")
    kept = place / "pointsman.keys.json"
    before = kept.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        create(place, name="two")
    assert kept.read_bytes() == before
    assert sorted(one.name for one in place.glob(".pointsman.keys*")) == [".pointsman.keys.json.lock"]


def _make(place: str, number: int) -> None:
    create(Path(place), name=f"k{number}")


def test_of_keys_made_at_once_none_is_lost(place: Path) -> None:
    create(place, name="first")
    children = [multiprocessing.get_context("fork").Process(target=_make, args=(str(place), at)) for at in range(8)]
    for one in children:
        one.start()
    for one in children:
        one.join(60)
    assert {one["name"] for one in json.loads((place / "pointsman.keys.json").read_text())["keys"]} == {
        "first",
        *(f"k{at}" for at in range(8)),
    }


def test_who_holds_the_lock_too_long_is_told_of(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LOCK_S", 0.0)
    kept = place / "pointsman.keys.json"
    with (
        file.editing(kept),
        pytest.raises(file.FileBusy, match="is being changed by another process"),
        file.editing(kept),
    ):
        pass
