"""YAML as we read it: strict, bounded, with the line of everything, and a cache that nobody else can feed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import yamlfile
from gateway.core.errors import ConfigError
from gateway.yamlfile import loads

BIG = "".join(f"key{number}: {{value: {number}, text: some words}}\n" for number in range(200))


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-17", -17),
        ("+3", 3),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('"1"', "1"),
        ("'true'", "true"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("NO", "NO"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-21", "2026-11-21"),
        ("0.0.0.0:8080", "0.0.0.0:8080"),
        ("200k", "200k"),
        ("1e", "1e"),
        ("[a, 1, {b: c}]", ["a", 1, {"b": "c"}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(written: str, value: object) -> None:
    got = loads(f"a: {written}", "f.yaml").data["a"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands here a second time (first on line 1)"),
        ("a: {x: 1,\n x: 2}\n", 2, "the key 'x' stands here a second time"),
        ("a: &here [1]\nb: *here\n", 1, "anchors and aliases are refused"),
        ("a: 1\nb: *nowhere\n", 2, "anchors and aliases are refused"),
        ("a:\n  <<: {b: 1}\n", 2, "merge keys are refused"),
        ("a: !!str 1\n", 1, "the tag"),
        ("a: !python/object:os.system {}\n", 1, "the tag"),
        ("%YAML 1.1\n---\na: 1\n", 2, "% directive"),
        ("%TAG ! !x\n---\na: 1\n", 2, "% directive"),
        ("a: 1\n---\nb: 1\n", 2, "a second document"),
        ("a: 1\n...\nb: 1\n", 3, "a second document"),
        ("a: 1\n1: 2\n", 2, "the key 1 is not text"),
        ("a: 1\ntrue: 2\n", 2, "the key true is not text"),
        ("null: 2\n", 1, "the key null is not text"),
        ("? [a, b]\n: 1\n", 1, "is not text"),
        ("a: .inf\n", 1, ".inf is not a number"),
        ("a: .nan\n", 1, ".nan is not a number"),
        ("a: 1e999\n", 1, "1e999 is too large"),
        ("a: 1234567890123456789\n", 1, "more than 18 digits"),
        ("- a\n", 1, "holds no keys"),
        ("just text\n", 1, "holds no keys"),
        ("# nothing\n", 2, "is empty"),
        ("a:\n\tb: 1\n", 2, "is not YAML"),
        ("a: [1, 2\nb: 3\n", 2, "is not YAML"),
        ("a: 1\nb: c: d\n", 2, "is not YAML"),
        ("a: 1\n  b: 2\n", 2, "is not YAML"),
        ('a: "open\n', 2, "is not YAML"),
        ("a: {" * 60, 1, "nested deeper than 50 levels"),
        ("a: " + "x" * 70_000, 1, "is longer than 64 KiB"),
    ],
)
def test_what_is_refused_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    told = refusal(text)
    assert told.startswith(f"f.yaml:{line}: "), told
    assert says in told


def test_text_that_is_not_utf_8_is_refused_with_its_line() -> None:
    assert refusal(b"a: 1\nb: \xff\n").startswith("f.yaml:2: is not UTF-8")


def test_control_characters_are_refused() -> None:
    assert "is not YAML" in refusal(b"a: \x00\n")
    assert "is not YAML" in refusal("a: \x07\n")


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert loads(b"\xef\xbb\xbfa: 1", "f").data == {"a": 1}


def test_every_path_knows_its_line() -> None:
    document = loads(
        "rules:\n  - id: a\n    use:\n      - model: x\n  - id: b\n    use:\n\n      - {model: y,\n"
        "         rank: listed}\n"
        "targets:\n  qwen3.5-plus:\n    window: 1M\n  qwen3: {window: 2M}\n",
        "f",
    )
    assert document.line("rules") == 1
    assert document.line("rules[0].use[0].model") == 4
    assert document.line("rules[1].use[0].rank") == 9
    assert document.line("targets.qwen3.5-plus.window") == 12
    assert document.line("targets.qwen3.window") == 13
    assert document.line(("targets", "qwen3.5-plus")) == 11


def test_a_path_that_does_not_exist_has_the_line_of_its_nearest_parent() -> None:
    document = loads("a:\n  b:\n    c: 1\n", "f")
    assert document.line("a.b.d") == 2
    assert document.line("a.x.y[3]") == 1
    assert document.line("nothing") == 1
    assert str(document.problem("a.b.d", "is missing", "d: 1")) == "f:2: a.b.d: is missing: d: 1"


@pytest.mark.parametrize(
    "text",
    [
        "[" * (1 << 20),
        "{" * (1 << 20),
        "\n".join("[" * 1000 for _ in range(1000)),
        "- " * (1 << 19),
        "? " * (1 << 19),
        "a: " + "!" * 60_000,
        "a: " + "&" * 60_000,
        "".join(" " * depth + "a:\n" for depth in range(1400)),
        "a: &a [x,x,x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a,*a,*a]\n" for n in range(9)),
        "a: [" + "{},\n" * 200_000 + "]",
        "".join(f"k{n}: 1\n" for n in range(95_000)),
    ],
    ids=[
        "brackets",
        "braces",
        "bracket lines",
        "dashes",
        "question marks",
        "bangs",
        "ands",
        "stairs",
        "bomb",
        "many",
        "keys",
    ],
)
def test_a_hostile_file_is_refused_in_bounded_time(text: str) -> None:
    began = time.process_time()
    refusal(text)
    assert time.process_time() - began < 20


def test_more_than_a_mebibyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a: 1\n" + b"#" * (1 << 20))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        yamlfile.load(path)
    with pytest.raises(ConfigError, match="is not a regular file"):
        yamlfile.load(Path("/dev/zero"))


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a regular file"):
        yamlfile.load(tmp_path / "pipe")


def test_a_missing_file_and_a_directory_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        yamlfile.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        yamlfile.load(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:-?[]{},&*!|>'\"%@`#\n\t \\0~.<=é\u2028\x85")), max_size=60))
def test_any_text_is_either_a_mapping_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert type(loads(text, "f").data) is dict


def test_mutations_of_a_real_file_never_raise_anything_else() -> None:
    base = bytearray((Path(__file__).parent.parent / "policies/catalog/reference-fleet.yaml").read_bytes()[:3000])
    rng = random.Random(7)
    for _ in range(150):
        text = bytearray(base)
        for _ in range(rng.randint(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        with contextlib.suppress(ConfigError):
            assert type(loads(bytes(text), "f").data) is dict


# -- the cache --


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "big.yaml"
    path.write_text(BIG)
    return path


def entries(cache: Path) -> list[Path]:
    return list(cache.glob("*.msgpack"))


def test_a_cached_file_is_the_same_document(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "c" / "pointsman"
    first = yamlfile.load(file, cache_dir=cache)
    assert len(entries(cache)) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(yamlfile, "_Builder", None)  # so that parsing again would fail
    again = yamlfile.load(file, cache_dir=cache)
    assert again == first
    assert again.line("key17.value") == 18


def test_a_changed_file_is_not_answered_from_the_cache(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    yamlfile.load(file, cache_dir=cache)
    file.write_text(BIG.replace("value: 17,", "value: 99,"))
    assert yamlfile.load(file, cache_dir=cache).data["key17"]["value"] == 99


def poison(file: Path, cache: Path) -> None:
    yamlfile.load(file, cache_dir=cache)
    (entry,) = entries(cache)
    payload = entry.read_bytes()[32:].replace(b"some words", b"evil words")
    entry.write_bytes(hashlib.sha256(payload).digest() + payload)  # as a forger would: whole, only not ours
    assert yamlfile.load(file, cache_dir=cache).data["key3"]["text"] == "evil words"  # it would be believed


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_cache_directory_open_to_others_is_not_read_or_written(file: Path, tmp_path: Path, mode: int) -> None:
    cache = tmp_path / "cache"
    poison(file, cache)
    cache.chmod(mode)
    assert yamlfile.load(file, cache_dir=cache).data["key3"]["text"] == "some words"
    file.write_text(BIG + "more: 1\n")
    yamlfile.load(file, cache_dir=cache)
    assert len(entries(cache)) == 1


def test_a_cache_directory_that_is_a_link_is_not_used(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "real"
    poison(file, cache)
    (tmp_path / "link").symlink_to(cache)
    assert yamlfile.load(file, cache_dir=tmp_path / "link").data["key3"]["text"] == "some words"


def test_an_entry_that_others_may_write_or_that_is_a_link_is_not_used(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    poison(file, cache)
    (entry,) = entries(cache)
    entry.chmod(0o666)
    assert yamlfile.load(file, cache_dir=cache).data["key3"]["text"] == "some words"
    poison(file, cache)
    (entry,) = entries(cache)
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert yamlfile.load(file, cache_dir=cache).data["key3"]["text"] == "some words"


def test_a_cache_directory_of_another_user_is_not_used(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    poison(file, cache)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert yamlfile.load(file, cache_dir=cache).data["key3"]["text"] == "some words"


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x92\x80", b"\x93\x80\x90\x90", b"\x92\x80\xa1x"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_entry_costs_time_and_nothing_else(file: Path, tmp_path: Path, garbage: bytes, whole: bool) -> None:
    cache = tmp_path / "cache"
    first = yamlfile.load(file, cache_dir=cache)
    entries(cache)[0].write_bytes((hashlib.sha256(garbage).digest() if whole else b"") + garbage)
    assert yamlfile.load(file, cache_dir=cache) == first
    assert yamlfile.load(file, cache_dir=cache) == first


def test_a_cache_that_cannot_be_written_is_no_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file, not a directory")
    assert yamlfile.load(file, cache_dir=tmp_path / "blocked" / "cache").data["key3"]["value"] == 3


def test_the_cache_keeps_a_bounded_number_of_files(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    for number in range(250):
        (cache / f"{number}.msgpack").write_bytes(b"")
    yamlfile.load(file, cache_dir=cache)
    assert len(entries(cache)) == 192


def test_a_character_written_as_two_escapes_is_one_and_half_of_one_is_refused() -> None:
    assert loads('a: "\\ud83d\\ude82"', "x").data == {"a": "🚂"}
    with pytest.raises(ConfigError, match="x:1: holds half of a character"):
        loads('a: "\\ud83d"', "x")
