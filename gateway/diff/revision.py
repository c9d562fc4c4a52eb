"""Files of a git revision, written out beside the work tree's: what policies were before a change.

Only regular files that a policy may be made of are written, never links, and nothing in a repository is run. Needs the
`git` command; a revision that a shallow clone does not hold is told as such.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gateway.core.errors import ConfigError, Problem
from gateway.fixtures import MAX_BYTES

_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_FILES = 5_000
_REGULAR = ("100644", "100755")


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit of the repository whose work tree is at `top`."""

    asked: str
    commit: str
    top: Path

    @property
    def short(self) -> str:
        """Its name in a sentence."""
        return self.commit[:10]

    def write(self, folder: Path, into: Path) -> Path:
        """Write what a folder of the work tree held then, below `into`; the folder there, which may be empty.

        Raises `ConfigError` where there is too much of it.
        """
        inside = folder.resolve().relative_to(self.top)
        made = into / inside
        made.mkdir(parents=True, exist_ok=True)
        where = [] if inside == Path() else ["--", f"{inside.as_posix()}/"]
        listing = _git(self.top, "ls-tree", "-r", "-z", "-l", "--full-tree", self.commit, *where)
        files = [line.partition("\t") for line in listing.decode("utf-8", "surrogateescape").split("\0") if line]
        wanted = [(facts.split(), PurePosixPath(name)) for facts, _, name in files if name.lower().endswith(_SUFFIXES)]
        if len(wanted) > _MOST_FILES:
            what = f"held more than {_MOST_FILES:,} YAML and JSON files at {self.short}"
            raise ConfigError([Problem(str(folder), 0, "", what, "the folder of the policies alone")])
        for (mode, _kind, blob, size), name in wanted:
            if mode in _REGULAR and size.isdecimal() and int(size) <= MAX_BYTES and ".." not in name.parts:
                path = into / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_git(self.top, "cat-file", "blob", blob))
        return made

    def read(self, file: Path, into: Path) -> Path | None:
        """Write what one file of the work tree held then, below `into`; None where it was not there, or is outside."""
        there = file.resolve()
        if not there.is_relative_to(self.top):
            return None
        name = there.relative_to(self.top)
        try:
            held = _git(self.top, "cat-file", "blob", f"{self.commit}:{name.as_posix()}")
        except _Failed:
            return None
        made = into / name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(held)
        return made


def find(folder: Path, asked: str) -> Revision:
    """The revision of that name in the repository of a folder. Raises `ConfigError`."""
    there = folder.resolve()
    while not there.is_dir():  # all of it may have been removed
        there = there.parent
    try:
        top = Path(_git(there, "rev-parse", "--show-toplevel").decode("utf-8", "surrogateescape").rstrip("\n"))
    except _Failed as error:
        raise _problem(str(folder), "is in no git work tree that can be read", str(error)) from None
    if not asked or asked.startswith("-"):
        raise _problem(
            "--diff", f"{asked!r:.80} is no revision", "a commit, branch or tag such as origin/main or HEAD~1"
        )
    try:
        commit = (
            _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{asked}^{{commit}}").decode().strip()
        )
    except _Failed:
        valid = "a commit, branch or tag such as origin/main or HEAD~1"
        if _git(top, "rev-parse", "--is-shallow-repository").strip() == b"true":
            valid = (
                f"this is a shallow clone: fetch more of it (`git fetch --deepen=1`, `git fetch origin {asked:.80}`, "
                "or fetch-depth: 0 in a checkout step)"
            )
        raise _problem("--diff", f"there is no revision {asked!r:.80} here", valid) from None
    return Revision(asked, commit, top.resolve())


class _Failed(Exception):
    """git did not do it, and said why."""


def _problem(place: str, what: str, valid: str) -> ConfigError:
    return ConfigError([Problem(place, 0, "", what, valid)])


def _git(folder: Path, *arguments: str) -> bytes:
    """What git prints. Raises `_Failed` where it fails, `ConfigError` where there is no git."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - a fixed command, no shell
    except FileNotFoundError:
        raise _problem("--diff", "needs the command git, which is not here", "an installation of git") from None
    if done.returncode:
        raise _Failed(done.stderr.decode("utf-8", "replace").strip().partition("\n")[0])
    return done.stdout
