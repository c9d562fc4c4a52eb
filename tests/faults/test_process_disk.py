"""The disk under the books: full, read-only, gone, or its files cut.

Real file systems, where some may be mounted, and a limit of the process, which takes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import resource
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.directory import DATABASE, journal_path, journals
from tests.harness import Gateway, Upstream, chat, config, eventually, plain, running

HARD = "sk-hard-0123456789"
SMALL = ("-m", "tests.faults.smalljournal")
_EXT4_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN

WithoutRoom = Callable[[Gateway, Path], contextlib.AbstractContextManager[None]]


def mounted(options: list[str], place: Path) -> None:
    """Mount there, or skip the test with the reason."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def books(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where books are kept: on a disk of 1 MiB of their own, or, where none can be mounted, too, on the machine's."""
    place = tmp_path / "books"
    if request.param == "disk":
        mounted(["-t", "tmpfs", "-o", "size=1m", "tmpfs"], place)
    yield place
    if request.param == "disk":
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def full_disk(gateway: Gateway, place: Path) -> Iterator[None]:
    """Somebody else takes what room there is."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
    yield
    ballast.unlink()


@contextlib.contextmanager
def no_room_in_files(gateway: Gateway, place: Path) -> Iterator[None]:
    """No file of the process may grow: what it may have of the machine runs out, which takes no mount."""
    before = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (1, before[1]))
    yield
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A disk with a journaling file system, that can become read-only under what is open."""
    make = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, place = tmp_path / "disk.img", tmp_path / "books"
    with image.open("wb") as file:
        file.truncate(48 << 20)
    subprocess.run([make, "-q", "-F", "-O", "^has_journal", str(image)], check=True, capture_output=True)
    mounted(["-o", "loop", str(image)], place)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def settings(up: Upstream, **more: Any) -> dict[str, Any]:
    """Two keys: one without limits, one with a hard budget."""
    made = config({"a": up}, ledger={"dir": "books"}, **more)
    digest = hashlib.sha256(HARD.encode()).hexdigest()
    made["keys"].append(
        {"name": "hard", "sha256": digest, "allow": ["*"], "budget": {"usd": 50, "per": "day", "mode": "hard"}}
    )
    return made


def asked(gateway: Gateway) -> tuple[int, int]:
    """What both keys get."""
    hard = gateway.post(chat("a"), key=HARD)
    if hard.status_code == 503:
        assert hard.json()["error"]["code"] == "store_unavailable"
        assert hard.headers["retry-after"] == "1"
    return gateway.post(chat("a")).status_code, hard.status_code


def is_up(gateway: Gateway) -> bool:
    return gateway.metric("pointsman_ledger_up") == 1


def booked(place: Path) -> int:
    with contextlib.closing(sqlite3.connect(place / DATABASE)) as db:
        return int(db.execute("SELECT count(*) FROM entries WHERE cause = 'ok'").fetchone()[0])


@pytest.mark.parametrize(
    ("books", "without_room", "why"),
    [("disk", full_disk, "No space left on device"), ("files", no_room_in_files, "File too large")],
    indirect=["books"],
    ids=["disk", "files"],
)
def test_on_a_full_disk_hard_budgets_are_refused_and_the_rest_is_booked_as_soon_as_there_is_room(
    tmp_path: Path, books: Path, without_room: WithoutRoom, why: str
) -> None:
    up = Upstream([plain()])
    with running(tmp_path, settings(up), command=SMALL) as gateway:
        assert asked(gateway) == (200, 200)
        with without_room(gateway, books):
            for _ in range(200):
                got = asked(gateway)
                assert got[0] == 200
                if got[1] != 200:
                    break
            assert asked(gateway) == (200, 503)
            assert not is_up(gateway)
            assert gateway.get("/readyz", admin=True).json()["ledger"]["reason"] == "the journal cannot be written"
            assert gateway.get("/readyz").json()["ledger"].keys() == {"state", "pending"}
            assert gateway.get("/readyz").status_code == 200
            assert gateway.metric("pointsman_ledger_pending_entries") > 0
            assert any(f"cannot be written: {why}" in line for line in gateway.lines)
        assert eventually(lambda: asked(gateway) == (200, 200), 20)
        assert eventually(lambda: is_up(gateway), 20)
        gateway.process.terminate()
        assert gateway.process.wait(10) == 0
    up.close()
    assert booked(books) == len(up.requests)


def test_a_disk_that_becomes_read_only_or_dies_ends_nothing_but_hard_budgets(tmp_path: Path, ext4: Path) -> None:
    up = Upstream([plain()])
    with running(tmp_path, settings(up), command=SMALL) as gateway:
        assert asked(gateway) == (200, 200)
        descriptor = os.open(ext4, os.O_RDONLY)
        subprocess.run(["mount", "-o", "remount,abort", str(ext4)], check=True)
        assert eventually(lambda: asked(gateway) == (200, 503), 20)
        assert not is_up(gateway)
        told = [line for line in gateway.lines if "the journal in" in line or "no other can be begun" in line]
        assert any("Read-only file system" in line for line in told)
        fcntl.ioctl(descriptor, _EXT4_SHUTDOWN, struct.pack("I", 2))
        os.close(descriptor)
        for _ in range(20):
            assert asked(gateway) == (200, 503)
        gateway.process.terminate()
        assert gateway.process.wait(10) == 0
        assert any("entries could not be written and are lost" in line for line in gateway.lines), "never silently"
    up.close()


def test_a_journal_that_is_cut_under_the_gateway_is_left_for_the_next_one(tmp_path: Path) -> None:
    up = Upstream([plain()])
    books = tmp_path / "books"
    with running(tmp_path, settings(up)) as gateway:
        assert asked(gateway) == (200, 200)
        assert eventually(lambda: gateway.get("/readyz").json()["ledger"]["pending"] == 0)
        (number,) = journals(books)
        os.truncate(journal_path(books, number), 0)  # as a rotation of logs does that copies and truncates
        for _ in range(3):
            assert asked(gateway) == (200, 200)
        assert eventually(lambda: is_up(gateway) and len(journals(books)) > 1, 20)
        assert any("takes nothing more" in line for line in gateway.lines)
        gateway.process.terminate()
        assert gateway.process.wait(10) == 0
    up.close()
    assert booked(books) == len(up.requests) == 8
