"""The keys file: where it lies, reading it, and changing it so that nobody ever sees half of a change.

It is JSON with one key on a line, and may be edited by hand as any YAML file. One command at a time changes it, under a
lock on a file beside it; what was written replaces it whole and only its owner may read it. What its entries mean is
in `ring`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from gateway import yamlfile
from gateway.config import ConfigDoc, KeyDoc
from gateway.core.errors import ConfigError, Problem
from gateway.fields import Moment, Name, Strict
from gateway.keys.secret import SHORT
from gateway.problems import validated
from gateway.yamlfile import Document, Lines, LineTree

#: Some 50,000 keys. One line for each keeps what an editor or a comparison shows small.
MAX_BYTES = 16 << 20
#: Seconds to wait for another command that changes the file.
LOCK_S = 10.0
#: Keys that one name may have at one time: the present one, and replaced ones that are still taken.
MOST_REPLACED = 8


class ReplacedDoc(Strict):
    """A key that was replaced, and until when it is still taken."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    until: Moment


class MadeKeyDoc(KeyDoc):
    """A key that `pointsman keys` made. `by` is the key whose holder made it; without, it was an operator."""

    created: Moment
    rotated: Moment | None = None
    updated: Moment | None = None
    by: Name | None = None
    revoked: Moment | None = None
    replaced: list[ReplacedDoc] = Field(default_factory=list, max_length=MOST_REPLACED)


class KeysDoc(Strict):
    """All of a keys file."""

    keys: list[MadeKeyDoc]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a configuration's keys file is. `stated`: it says so, so keys are asked for even if there are none yet."""

    path: Path
    stated: bool

    @staticmethod
    def of(doc: ConfigDoc, config: Path) -> Place:
        """The place that a configuration leads to."""
        if doc.keys_file is None:
            return Place(config.with_name(f"{config.stem}.keys.json"), stated=False)
        return Place(config.parent / doc.keys_file, stated=True)


@dataclass(frozen=True, slots=True)
class Made:
    """What a keys file holds."""

    document: Document
    keys: Sequence[MadeKeyDoc]
    exposed: bool = False  # others than its owner may write to it

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries as they are written."""
        found: list[dict[str, Any]] = self.document.data["keys"]
        return found


def read(path: Path) -> Made | None:
    """The file's entries; None where there is no such file. Raises `ConfigError`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        raise ConfigError([Problem(str(path), 0, "", "is a link that leads nowhere")]) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError([Problem(str(path), 0, "", "is not a regular file", "a keys file")])
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError([Problem(str(path), 0, "", f"is larger than {MAX_BYTES >> 20} MiB", "fewer keys")])
    made = parse(raw, str(path))
    return Made(made.document, made.keys, exposed=bool(found.st_mode & 0o022))


def parse(raw: bytes, name: str) -> Made:
    """The entries of what a file holds. Raises `ConfigError`."""
    try:
        data = json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        document = Document(name, data, hashlib.sha256(raw).hexdigest(), _Lines(raw, name))
    else:
        document = yamlfile.parse(raw, name)
    return Made(document, validated(document, KeysDoc).keys)


def _unreadable(path: Path, error: OSError) -> ConfigError:
    valid = "a file that the user who runs this may read" if isinstance(error, PermissionError) else ""
    return ConfigError([Problem(str(path), 0, "", f"cannot be read: {error.strerror or error}", valid)])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


class _Lines(LineTree):
    """The lines of a file that was read as JSON: looked up only where something is wrong."""

    __slots__ = ("_name", "_raw")

    def __init__(self, raw: bytes, name: str) -> None:
        super().__init__(None)
        self._raw, self._name = raw, name

    @property
    def root(self) -> Lines:
        """The top node."""
        try:
            return yamlfile.parse(self._raw, self._name).lines.root
        except ConfigError:  # too large for it
            return [1]


# --- changing it ---


class FileBusy(Exception):
    """Somebody else has been changing the file for longer than one waits."""


@dataclass(slots=True)
class Editing:
    """The file while this process alone may change it."""

    path: Path
    made: Made | None
    entries: list[dict[str, Any]] = field(default_factory=list)

    def judged(self, entries: list[dict[str, Any]]) -> Made:
        """What the file would hold with these entries. Raises `ConfigError`."""
        raw = text_of(entries)
        if len(raw) > MAX_BYTES:
            what = f"would be larger than {MAX_BYTES >> 20} MiB"
            raise ConfigError([Problem(str(self.path), 0, "", what, "fewer keys")])
        return parse(raw, str(self.path))

    def write(self, made: Made, noted: Mapping[str, Any]) -> None:
        """Note what is done, see `audit`, and replace the file. Raises OSError, and then it is as it was."""
        text = text_of(made.entries)
        # The digest tells which lines came true, where the machine stopped between the two.
        self._note({**noted, "file": hashlib.sha256(text).hexdigest()[:SHORT]})
        try:
            _replace(self.path, text)
        except BaseException:
            with contextlib.suppress(OSError):
                self._note({"at": noted["at"], "what": "failed", "key": noted["key"]})
            raise

    def _note(self, noted: Mapping[str, Any]) -> None:
        text = json.dumps(noted, ensure_ascii=True).encode() + b"\n"
        beside = audit_of(self.path)
        descriptor = os.open(beside, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            _give(descriptor, self.path)
            size = os.fstat(descriptor).st_size
            try:
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise


def text_of(entries: list[dict[str, Any]]) -> bytes:
    """The file's text: a line for each key."""
    lines = ",\n".join("  " + json.dumps(one, ensure_ascii=True) for one in entries)
    return f'{{"keys": [\n{lines}\n]}}\n'.encode() if entries else b'{"keys": []}\n'


@contextlib.contextmanager
def editing(path: Path) -> Iterator[Editing]:
    """The file, with nobody else changing it. Raises `ConfigError`, OSError, FileBusy."""
    real = Path(os.path.realpath(path))
    real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(real.with_name(f".{real.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _give(lock, real)
        _take(lock, real)
        made = read(real)
        yield Editing(real, made, [] if made is None else list(made.entries))
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    ends_at = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if time.monotonic() > ends_at:
                raise FileBusy(f"{path} is being changed by another process") from None
            time.sleep(0.02)
        else:
            return


def _give(descriptor: int, path: Path) -> None:
    """Root must not take what it makes beside a keys file away from the user that the gateway runs as."""
    if os.geteuid() == 0:
        owner = path.stat() if path.exists() else path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def audit_of(path: Path) -> Path:
    """Where changes of a keys file are noted."""
    return path.with_name(f"{path.stem}.audit.jsonl")


def _replace(path: Path, text: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            _give(file.fileno(), path)
        os.replace(temporary, path)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # a key that was shown, or revoked, is so after a loss of power too
    finally:
        os.close(folder)
