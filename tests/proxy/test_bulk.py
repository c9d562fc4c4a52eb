"""The memory that a large body is put together in."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from gateway.core.request.largetree import finish
from gateway.core.request.wire import emit, parse_steps
from gateway.proxy.bulk import Pages

CHAT = b'{"model":"a","messages":[{"role":"user","content":"%b"}]}' % (b"words, " * 1_000_000)


def gathered(body: bytes, at: int, whole: int) -> Pages | bytearray:
    """A body whose first bytes came before it got memory of its own."""
    pages = Pages.begun(bytearray(body[:at]), whole)
    for start in range(at, len(body), 99_991):
        data = body[start : start + 99_991]
        if isinstance(pages, Pages):
            pages.add(data)
        else:
            pages += data
    if isinstance(pages, Pages):
        pages.end()
    return pages


@pytest.mark.parametrize("whole", [len(CHAT), 64_000_000])
def test_a_body_is_there_as_it_came_however_much_was_expected(whole: int) -> None:
    pages = gathered(CHAT, 4_500_000, whole)
    assert isinstance(pages, Pages)
    assert len(pages) == len(CHAT)
    assert pages[:] == CHAT
    assert emit(finish(parse_steps(pages)), {}) == CHAT


def test_where_there_is_no_such_memory_a_body_grows_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = bytearray(CHAT[:99])
    assert Pages.begun(begin, 1 << 62) is begin, "no machine has so much"
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    assert Pages.begun(begin, len(CHAT)) is begin
    assert bytes(gathered(CHAT, 99, len(CHAT))) == CHAT


def test_memory_that_nothing_was_written_to_is_not_taken() -> None:
    def resident() -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) * 1024

    before = resident()
    pages = Pages.begun(bytearray(b"x" * 1_000), 1 << 30)
    assert isinstance(pages, Pages)
    assert resident() - before < 64 << 20
    pages.close()
