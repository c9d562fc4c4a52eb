"""Results of slow loading, kept in files so that the next start need not do it again.

Here belong only reading and writing such files safely; what is kept, and under which key, is the caller's business. A
key must hold everything the result was made from, the code that made it included. What is kept is plain data that
msgspec decodes into the type asked for, never code, and a file may only ever save time: whatever is wrong with one
(cut off, foreign, writable by others, of another version), it is as if it were not there.

Results are looked for in the user's own cache first, then in `gateway/compiled/`, which an image or an installer may
fill with `python -m gateway.precompile` while it can still write there; so a read-only machine starts fast too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway import __version__

T = TypeVar("T")

MAX_BYTES = 64 << 20
_FORMAT = 2
_KEPT = 192
_DIGEST = 32
_PACKAGE = Path(__file__).parent
#: Beside the code and as trustworthy as the code: who can write there can change the program itself.
SHIPPED = _PACKAGE / "compiled"


def cache_dir(environ: Mapping[str, str]) -> Path | None:
    """Where parsed files are kept between starts: `$XDG_CACHE_HOME/pointsman`, else `~/.cache/pointsman`."""
    base = environ.get("XDG_CACHE_HOME") or (f"{environ['HOME']}/.cache" if environ.get("HOME") else "")
    return Path(base) / "pointsman" if base.startswith("/") else None


def key_of(*parts: bytes | str, code: Sequence[str] = ()) -> str:
    """The key of a result: what it is made from, and the modules (`"catalog/doc.py"`) whose code makes it."""
    digest = hashlib.sha256(f"{_FORMAT} {__version__}".encode())
    for name in code:
        digest.update(_code(name))
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


@functools.cache
def _code(module: str) -> bytes:
    try:
        return hashlib.sha256((_PACKAGE / module).read_bytes()).digest()
    except OSError:  # installed without sources: the version has to do
        return b""


def read(cache: Path | None, key: str, kind: type[T]) -> T | None:
    """What is kept under a key, or None for any reason whatever."""
    for directory, owners in ((cache, (os.geteuid(),)), (SHIPPED, (os.geteuid(), _owner(_PACKAGE)))):
        if directory is None:
            continue
        try:
            payload = _read(directory, key, owners)
            if payload is not None:
                return msgspec.msgpack.decode(payload, type=kind)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return None


def write(cache: Path | None, key: str, result: object) -> None:
    """Keep a result. Nothing happens where it cannot be kept."""
    if cache is None:
        return
    payload = msgspec.msgpack.encode(result)
    private = cache != SHIPPED
    with contextlib.suppress(OSError):
        cache.mkdir(mode=0o700 if private else 0o755, parents=True, exist_ok=True)
        if private and not _is_private(cache):
            return
        partial = cache / f"{key}.{os.getpid()}.tmp"
        mode = 0o600 if private else 0o644
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(partial, cache / _name(key))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if private:
            _forget_oldest(cache)


def _name(key: str) -> str:
    return f"{key}.msgpack"


def _read(directory: Path, key: str, owners: Sequence[int]) -> bytes | None:
    """The payload of a file that only its owner, one of `owners`, can have written, and that is whole."""
    if directory != SHIPPED and not _is_private(directory):
        return None
    if directory == SHIPPED and not _unwritable(os.lstat(directory), owners):
        return None
    fd = os.open(directory / _name(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or not _unwritable(info, owners) or info.st_size > MAX_BYTES:
            return None
        digest, payload = file.read(_DIGEST), file.read()
    return payload if hashlib.sha256(payload).digest() == digest else None


def _is_private(path: Path) -> bool:
    """Is this a directory that is ours and that nobody else may write to or read?"""
    info = os.lstat(path)
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077


def _unwritable(info: os.stat_result, owners: Sequence[int]) -> bool:
    return info.st_uid in owners and not info.st_mode & 0o022


def _owner(path: Path) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return os.geteuid()


def _forget_oldest(cache: Path) -> None:
    entries = sorted(cache.glob("*.msgpack"), key=lambda path: path.stat().st_mtime)
    for old in entries[:-_KEPT]:
        old.unlink(missing_ok=True)
