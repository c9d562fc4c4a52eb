"""Results that are kept between starts: believed only while nobody else can have written them, and only whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import bundled, compiled, precompile, yamlfile
from gateway.catalog import catalogue
from gateway.catalog.catalogue import load_catalogue
from gateway.compiled import cache_dir
from gateway.policyfile import reference_fleet

ROOT = Path(__file__).parent.parent


def test_a_key_holds_everything_a_result_is_made_from() -> None:
    keys = {
        compiled.key_of("a", "b"),
        compiled.key_of("ab"),
        compiled.key_of("a", b"b", code=("catalog/doc.py",)),
        compiled.key_of("a", b"b", code=("fields.py",)),
        compiled.key_of("", "a", "b"),
    }
    assert len(keys) == 5
    assert compiled.key_of("a", "b") == compiled.key_of(b"a", b"b")


def test_what_is_kept_comes_back_as_what_it_was(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    compiled.write(cache, "k", {"a": [1, None]})
    assert compiled.read(cache, "k", dict) == {"a": [1, None]}
    assert compiled.read(cache, "k", list) is None  # another type than asked for
    assert compiled.read(cache, "other", dict) is None
    assert compiled.read(None, "k", dict) is None


@pytest.mark.parametrize("damage", [b"", b"x" * 31, b"x" * 40])
def test_a_file_that_is_not_whole_is_not_there(tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache"
    compiled.write(cache, "k", [1, 2, 3])
    (entry,) = cache.iterdir()
    entry.write_bytes(damage)
    assert compiled.read(cache, "k", list) is None
    compiled.write(cache, "k", [1, 2, 3])
    assert compiled.read(cache, "k", list) == [1, 2, 3]
    whole = entry.read_bytes()
    for torn in (whole[:-1], whole[:-1] + b"\x04"):  # cut off; one bit over, and still a list of three
        entry.write_bytes(torn)
        assert compiled.read(cache, "k", list) is None


def test_the_kept_catalogue_is_the_one_that_was_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [bundled.catalogue()]
    first = load_catalogue(layers, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("gateway.catalog.catalogue._keep", None)  # so that merging again would fail
    again = load_catalogue(layers, cache_dir=tmp_path / "cache")
    assert again == first
    assert dict(again.offers) == dict(first.offers)
    assert again.models["llama-4-scout"] == first.models["llama-4-scout"]


def test_a_change_of_any_file_makes_another_catalogue(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    head = "catalogue: 1\nas_of: 2026-11-21\nsources:\n  own: {as_of: 2026-11, kind: operator, ref: us}\nmodels:\n"
    seen = []
    for number in (8, 9):
        own.write_text(f"{head}  llama-4-scout: {{source: own, images_max: {number}}}\n")
        known = load_catalogue([bundled.catalogue(), [own]], cache_dir=tmp_path / "cache")
        seen.append(known.models["llama-4-scout"].images_max)
    assert seen == [8, 9]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache beside the code, filled as an image's build fills it."""
    directory = tmp_path / "compiled"
    monkeypatch.setattr(compiled, "SHIPPED", directory)
    assert precompile.main() == 0
    return directory


def test_a_cache_beside_the_code_serves_who_has_none_of_their_own(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = reference_fleet()
    monkeypatch.setattr(yamlfile, "_Builder", None)  # so that parsing would fail
    monkeypatch.setattr("gateway.catalog.catalogue._keep", None)
    assert reference_fleet() == before


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o757])
def test_a_cache_beside_the_code_that_others_may_write_is_not_believed(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    shipped.chmod(mode)
    monkeypatch.setattr(yamlfile, "_Builder", None)
    with pytest.raises(TypeError):  # it is parsed
        yamlfile.load(bundled.policies() / "default.yaml")


def test_a_warm_start_imports_no_parser_no_framework_and_no_exporter(tmp_path: Path) -> None:
    config = tmp_path / "pointsman.yaml"
    config.write_text(
        "backends:\n  b: {dialect: vllm, self_hosted: true, base_url: http://127.0.0.1:9/v1}\n"
        "targets:\n  t: {model: llama-4-scout, backend: b, window: 1M, price: none}\n"
        + "# a short file is not worth keeping, so this one is made longer by what it says here: " + "x" * 200 + "\n"
    )  # fmt: skip
    script = (
        "import os, sys\nfrom pathlib import Path\nimport gateway.app\nfrom gateway.site import load_lexicon\n"
        "from gateway.site import load_site\n"
        "from gateway.compiled import cache_dir\n"
        f"load_site(Path({str(config)!r}), os.environ)\nload_lexicon(cache=cache_dir(os.environ))\n"
        "heavy = {'fastapi', 'starlette', 'ruamel', 'prometheus_client', 'httpx', 'litellm', 'gateway.catalog.facts'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin"}
    told = ""
    for _ in range(2):  # the first one fills the cache
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        told = done.stdout.strip()
    assert told == "[]"


def test_the_modules_that_make_a_kept_result_are_all_there() -> None:
    """A name that leads nowhere would be passed over in silence, and results of older code be taken for new ones."""
    package = Path(compiled.__file__).parent
    assert [name for name in catalogue._CODE if not (package / name).is_file()] == []


def test_the_cache_is_under_the_users_own_cache_directory() -> None:
    assert cache_dir({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/pointsman")
    assert cache_dir({"HOME": "/h"}) == Path("/h/.cache/pointsman")
    assert cache_dir({}) is None
    assert cache_dir({"XDG_CACHE_HOME": "relative"}) is None
