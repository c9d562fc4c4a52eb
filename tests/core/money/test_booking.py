"""The journal's lines and the state machine of an attempt."""

from __future__ import annotations

import zlib

import msgspec
import pytest

from gateway.core.money import booking
from gateway.core.money.booking import (
    BY_SETTLE,
    BY_VOID,
    Account,
    Began,
    Booked,
    Books,
    Checkpoint,
    Entry,
    Expire,
    Reserve,
    Settle,
    Void,
    costs,
)
from gateway.core.types import Outcome, Price, PriceTier, Usage

PRICE = Price((PriceTier(0, 1_000_000_000, 2_000_000_000, thinking_output=8_000_000_000),), "list@2026-11")
ACCOUNT = Account(1, "shop", "blue", "qwen3.5-35b-a3b", "q", "cheap", "mine@1", False, PRICE)
OPENING: list[Entry] = [Began(1, 0), ACCOUNT, Reserve("0a", 1, 1, 1_000, 500)]


def booked(*entries: Entry, account: Account = ACCOUNT) -> list[Booked]:
    books = Books()
    opening = [Began(1, 0), account, OPENING[2]]
    return [Booked(*one) for one in books.take([*opening, *entries])]


def test_a_settled_attempt_is_booked_as_its_settlement_says_at_the_time_of_its_reserve() -> None:
    used = Usage(400, 20, 100, 5, written=7)
    (one,) = booked(Settle.of(("0a", 1), 2_000, used, 1_234, "ok"))
    assert one == Booked("0a", 1, 1, 1_000, 2_000, BY_SETTLE, 400, 100, 7, 20, 5, 1_234, False, "ok")


def test_a_void_attempt_costs_nothing() -> None:
    (one,) = booked(Void("0a", 1, 2_000, "refused"))
    assert one == Booked("0a", 1, 1, 1_000, 2_000, BY_VOID, 0, 0, 0, 0, 0, 0, False, "refused")


@pytest.mark.parametrize(
    ("before", "tokens", "cost_nano"),
    [
        ([], (500, 0), 500_000),
        ([Checkpoint("0a", 1, 40)], (500, 10), 520_000),
        ([Checkpoint("0a", 1, 40), Checkpoint("0a", 1, 400)], (500, 100), 700_000),
        ([Checkpoint("0a", 1, 40, Usage(300, 12)), Checkpoint("0a", 1, 80)], (300, 12), 324_000),
    ],
)
def test_what_expires_is_settled_by_what_was_known_last_and_never_as_nothing(
    before: list[Entry], tokens: tuple[int, int], cost_nano: int
) -> None:
    (one,) = booked(*before, Expire("0a", 1, 2_000, "crash"))
    assert ((one.input, one.output), one.cost_nano) == (tokens, cost_nano)
    assert one.estimated
    assert one.cause == "crash"


def test_what_expires_is_priced_by_its_reserve_thinking_included() -> None:
    thinks = Account(1, *[getattr(ACCOUNT, name) for name in Account.__struct_fields__[1:7]], True, PRICE)
    assert booked(Checkpoint("0a", 1, 400), Expire("0a", 1, 2, "crash"), account=thinks)[0].cost_nano == 1_300_000
    unpriced = Account(1, *[getattr(ACCOUNT, name) for name in Account.__struct_fields__[1:7]], False)
    assert booked(Expire("0a", 1, 2, "crash"), account=unpriced)[0].cost_nano == 0


def test_an_attempt_ends_once_whatever_follows() -> None:
    books = Books()
    assert books.take([*OPENING, Void("0a", 1, 2, "refused")])
    for late in (Settle.of(("0a", 1), 3, Usage(1, 1), 5, "ok"), Expire("0a", 1, 3, "crash"), Checkpoint("0a", 1, 40)):
        assert not books.take([late])
    assert books.strange == [("0a", 1), ("0a", 1)]
    assert not books.open


def test_accounts_go_by_their_number_in_the_books_whatever_it_is_in_the_file() -> None:
    numbers = {"mine@1": 70, "mine@2": 80}
    books = Books(lambda account: numbers[account.policy])
    books.take([Began(1, 0), ACCOUNT, Reserve("0a", 1, 1, 1_000, 500)])
    books.take([Began(1, 0), msgspec.structs.replace(ACCOUNT, policy="mine@2"), Reserve("0b", 1, 1, 1_000, 500)])
    ended = books.take([Void("0a", 1, 2, "refused"), Void("0b", 1, 2, "refused")])
    assert [one[2] for one in ended] == [70, 80]


def test_a_reserve_that_is_read_twice_is_one() -> None:
    books = Books()
    books.take([*OPENING, Checkpoint("0a", 1, 400), OPENING[2]])
    assert books.open["0a", 1].output_bytes == 400


def test_every_entry_is_read_as_it_was_written_in_either_of_its_forms() -> None:
    entries: list[Entry] = [
        *OPENING,
        Checkpoint("0a", 1, 40, Usage(1, 2)),
        Settle.of(("0a", 1), 2_000, Usage(400, 20), 1_234, "ok"),
        Void("0b", 0, 5, "refused"),
        Expire("0c", 2, 6, "crash"),
    ]
    first, checksum = booking.seal(entries[:3], 0)
    plain = [("r", "0a", 1, 1, 1_000, 500)]
    second, _ = booking.seal(plain, checksum)
    read = list(booking.lines(first + second, 0))
    assert [line.entries for line in read] == [entries[:3], [Reserve("0a", 1, 1, 1_000, 500)]]
    assert [line.size for line in read] == [len(first), len(second)]
    line, _ = booking.seal(entries, 7)
    assert next(booking.lines(line, 7)).entries == entries


def test_what_was_torn_changed_or_left_out_is_seen_and_costs_one_line() -> None:
    data, checksum, starts = b"", 0, []
    for number in range(4):
        line, checksum = booking.seal([Void("0a", number, 5, "refused")], checksum)
        starts.append(len(data))
        data += line

    def good(found: bytes) -> list[bool]:
        lines = list(booking.lines(found, 0))
        told = [line.entries is not None for line in lines]
        first = lines[: told.index(False) if False in told else len(lines)]
        size, checksum = sum(line.size for line in first), first[-1].checksum if first else 0
        expected = booking.Read([one for line in first for one in line.entries or ()], size, checksum)
        assert booking.read(found, 0) == expected, "all at once, the same"
        return told

    assert good(data) == [True] * 4
    assert good(data[:-1]) == [True] * 3, "a line without its end is not there yet"
    for at in range(starts[1], starts[2] - 1):
        found = good(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert not all(found), at
        assert found[0], at
        assert found[-1], at
    assert good(data[: starts[1]] + data[starts[2] :]) == [True, False, True]
    assert good(b"\0" * 40 + b"\n" + data) == [False, True, True, True, True]


def test_a_line_that_is_whole_and_means_nothing_is_damaged_and_those_before_it_are_not() -> None:
    first, checksum = booking.seal([Void("0a", 1, 5, "refused")], 0)
    for nothing in (b"[", b"", b"[7]", b'[["v","0a",-1,5,"x"]]', b'[["?"]]', b"[]],[[]", b'["\xff"]'):
        following = zlib.crc32(nothing, checksum)
        data = first + b"%08x %b\n" % (following, nothing) + booking.seal([Void("0b", 1, 5, "x")], following)[0]
        assert booking.read(data, 0) == ([Void("0a", 1, 5, "refused")], len(first), checksum), nothing


def test_what_brought_no_answer_costs_its_prompt_only_where_an_upstream_was_at_work() -> None:
    free = {outcome for outcome in Outcome if not costs(outcome, 200)}
    assert free == {
        Outcome.OK, Outcome.REFUSED, Outcome.CONNECT_TIMEOUT, Outcome.TLS, Outcome.STALE, Outcome.SATURATED,
        Outcome.LIMITED, Outcome.INEXPRESSIBLE, Outcome.NO_TOKEN, Outcome.RATE_LIMITED, Outcome.OVERLOADED,
        Outcome.SERVER_ERROR,
        Outcome.AUTH, Outcome.FORBIDDEN, Outcome.MODEL_GONE, Outcome.CLIENT_ERROR, Outcome.CONTEXT_LENGTH,
        Outcome.MISWRITTEN, Outcome.REDIRECT, Outcome.HEADERS_TIMEOUT, Outcome.IN_BAND_ERROR,
    }  # fmt: skip
    assert {outcome for outcome in Outcome if costs(outcome, 0)} == {
        Outcome.CLIENT_GONE, Outcome.OUTRUN, Outcome.TOTAL_TIMEOUT, Outcome.DRAINING
    }  # fmt: skip
    assert not any(costs(outcome, 0, sent=False) for outcome in Outcome)
