"""How short memory is: what is measured, when each step is taken, and what follows from it."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.proxy import pressure
from gateway.proxy.pressure import CALM, FULL, LOW, TIGHT, Measured, Memory, Pressure, step

PAGE = resource.getpagesize()


def machine(root: Path, *, own: str = "/", pages: int = 1_000, **groups: tuple[str, int, int]) -> Memory:
    """A machine with control groups: by path (`_` for the root) their limit, what is used, and how much is of files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/statm").write_text(f"{2 * pages} {pages} 10 1 0 50 0\n")
    (root / "proc/self/cgroup").write_text(f"4:memory:/old\n0::{own}\n")
    for name, (limit, current, files) in groups.items():
        place = root / "sys/fs/cgroup" / name.replace("_", "/").lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{current}\n")
        (place / "memory.stat").write_text(f"anon 5\nactive_file {files // 2}\ninactive_file {files - files // 2}\n")
    return Memory(root)


def test_a_container_is_measured_without_what_the_kernel_keeps_of_files(tmp_path: Path) -> None:
    assert machine(tmp_path, _=("1000", 900, 300)).look(None) == Measured(600, 1000)


def test_the_group_nearest_to_its_end_counts_whichever_of_its_parents_it_is(tmp_path: Path) -> None:
    memory = machine(tmp_path, own="/pod/gateway", _=("max", 0, 0), pod=("1000", 800, 0), pod_gateway=("2000", 800, 0))
    assert memory.look(None) == Measured(800, 1000)
    (tmp_path / "sys/fs/cgroup/pod/memory.max").write_text("max\n")  # lifted while it runs
    assert memory.look(None) == Measured(800, 2000)


def test_a_stated_limit_is_of_what_is_resident_and_the_nearest_counts(tmp_path: Path) -> None:
    memory = machine(tmp_path, _=("max", 0, 0))
    assert memory.look(None) is None
    assert memory.look(10_000 * PAGE) == Measured(1_000 * PAGE, 10_000 * PAGE)


def test_a_limit_of_the_address_space_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = machine(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4_000 * PAGE, -1))
    assert memory.look(None) == Measured(2_000 * PAGE, 4_000 * PAGE)
    assert memory.look(1_100 * PAGE) == Measured(1_000 * PAGE, 1_100 * PAGE)


def test_where_the_kernel_tells_nothing_there_is_no_pressure(tmp_path: Path) -> None:
    assert Memory(tmp_path).look(1_000) is None


@pytest.mark.parametrize(
    ("share", "before", "after"),
    [
        (0.74, CALM, CALM), (0.75, CALM, TIGHT), (0.80, CALM, LOW), (0.85, CALM, FULL), (1.2, TIGHT, FULL),
        (0.83, FULL, FULL), (0.81, FULL, LOW), (0.73, TIGHT, TIGHT), (0.71, TIGHT, CALM), (0.1, FULL, CALM),
    ],
)  # fmt: skip
def test_a_step_is_entered_at_its_share_and_left_a_little_below(share: float, before: int, after: int) -> None:
    assert step(share, before) == after


def world(**changes: Any) -> Any:
    limits = SimpleNamespace(max_memory=None, max_buffered=500 << 20)
    told = {"pressure": 0, "closing": False, "draining": False, "buffered": 0, "may_buffer": 0, "exchanges": {1}}
    return SimpleNamespace(serving=SimpleNamespace(site=SimpleNamespace(limits=limits)), **told | changes)


class Fake(Memory):
    def __init__(self) -> None:
        self.used: int | None = 0

    def look(self, most: int | None) -> Measured | None:
        return None if self.used is None else Measured(self.used << 20, 1_000 << 20)


def test_pressure_comes_and_goes_with_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, runtime = Fake(), world()
    looking = Pressure(memory)
    seen = []
    for used in (500, 760, 810, 860, 840, 700):
        memory.used = used
        looking.look(runtime)
        seen.append((runtime.pressure, runtime.closing))
    assert seen == [(0, False), (1, True), (2, True), (3, True), (3, True), (0, False)]
    memory.used = None
    looking.look(runtime)
    assert (runtime.pressure, runtime.closing, runtime.may_buffer) == (0, False, 500 << 20)


def test_what_bodies_may_take_shrinks_with_the_room_that_is_left_and_is_never_nothing() -> None:
    memory, runtime = Fake(), world(buffered=10 << 20)
    looking = Pressure(memory)
    told = []
    for used in (0, 700, 990):
        memory.used = used
        looking.look(runtime)
        told.append(runtime.may_buffer >> 20)
    assert told == [10 + 850 // 3, 10 + 150 // 3, 11]


def test_one_request_may_begin_where_nothing_is_under_way_that_could_end() -> None:
    memory, runtime = Fake(), world(exchanges=set())
    memory.used = 990
    Pressure(memory).look(runtime)
    assert runtime.pressure == LOW


def test_while_the_process_drains_connections_keep_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = world(draining=True, closing=True)
    Pressure(Fake()).look(runtime)
    assert runtime.closing


def test_memory_is_handed_back_while_it_is_short_and_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure.time, "monotonic", lambda: 100.0)
    memory = Fake()
    memory.used = 900
    looking = Pressure(memory)
    trimmed = []
    monkeypatch.setattr(looking, "_trim", trimmed.append)
    for _ in range(3):
        looking.look(world())
    assert trimmed == [0]
