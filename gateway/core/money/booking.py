"""What the journal says of an attempt, line by line, and what follows from it: pure, and the same for every reader.

Here belong the kinds of entries, how they are written with a checksum and read back, and the rules by which they turn
into books: an attempt is reserved, perhaps checkpointed, and ends exactly once, as settled, void or expired. Expired is
settled by what was known last, marked as estimated. Files and databases are `gateway.ledger`'s; what tokens are and
cost is in `usage` and `pricing`. No entry ever holds a word of a prompt or an answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Annotated, NamedTuple, Union

import msgspec

from gateway.core.money import pricing, usage
from gateway.core.types import Outcome, Price, Usage

VERSION = 1
#: The number of the attempt that is a request's shadow; those that may answer it count from 1.
SHADOW = 0
#: Why an attempt was settled by an estimate, beside the outcomes: its process died, nobody settled it in time, or the
#: gateway forgot to.
CRASH, EXPIRED, UNSETTLED = "crash", "expired", "unsettled"

#: No attempt costs more, whatever prices were written: the sum of thousands still fits into 64 bits.
MOST_NANO = 1 << 50

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Began(msgspec.Struct, frozen=True, array_like=True, tag="j", gc=False):
    """The first entry of a file: the version of its form, and when it was begun."""

    version: int
    at_ms: _Count


class Account(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """Who pays for attempts, for what, and by which prices: said once per file, and then only by its number."""

    number: _Count
    key: str
    team: str
    model: str
    target: str
    rule: str
    policy: str  # name@digest
    thinks: bool  # where the price list has a price for thinking, output is billed at it
    price: Price | None = None
    shadow: str = ""  # the policy's entry, of copies that were sent to a second target


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """An attempt is about to leave. On disk before its request is."""

    request_id: _Id
    attempt: _Count
    account: _Count
    at_ms: _Count  # Unix time; the day and the prices that it is booked under
    input: _Count  # tokens of the prompt, estimated
    reserved_nano: _Count = 0  # set aside for it of its budgets


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """How far the answer to an attempt has come."""

    request_id: _Id
    attempt: _Count
    output_bytes: _Count
    stated: Usage | None = None  # by the upstream, so far


class Settle(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """What an attempt used and cost. On disk before the client sees the end of its answer."""

    request_id: _Id
    attempt: _Count
    at_ms: _Count
    input: _Count
    output: _Count
    cached: _Count
    reasoning: _Count
    written: _Count
    cost_nano: _Count
    estimated: bool
    cause: str  # how the attempt ended, a value of Outcome

    @classmethod
    def of(cls, key: tuple[str, int], at_ms: int, used: Usage, cost_nano: int, cause: str) -> Settle:
        """The settlement of a usage."""
        tokens = (used.input, used.output, used.cached, used.reasoning, used.written)
        return cls(*key, at_ms, *tokens, cost_nano, used.estimated, cause)


class Void(msgspec.Struct, frozen=True, array_like=True, tag="v", gc=False):
    """An attempt cost nothing."""

    request_id: _Id
    attempt: _Count
    at_ms: _Count
    cause: str


class Expire(msgspec.Struct, frozen=True, array_like=True, tag="e", gc=False):
    """Nobody will settle this attempt any more: it is settled by what was known of it last, as an estimate."""

    request_id: _Id
    attempt: _Count
    at_ms: _Count
    cause: str


Entry = Union[Began, Account, Reserve, Checkpoint, Settle, Void, Expire]  # noqa: UP007 - msgspec reads it at run time
#: An entry as the hot path makes it: the same members with the tag before them, because a tuple costs less.
Plain = Entry | tuple[object, ...]

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Entry])
_LINES = msgspec.json.Decoder(list[list[Entry]])


# --- lines -----------------------------------------------------------------------------------------------------------


def seal(entries: Iterable[Plain], before: int) -> tuple[bytes, int]:
    """One line that holds these entries, and its checksum, which goes on from that of the line `before` (0: none). HOT.

    Lines are written whole and each continues the checksum of the one before, so that a reader sees what is torn, what
    was changed, and what is missing in between.

    >>> seal([("v", "0f", 1, 7, "refused")], 0)
    (b'3ec70ad5 [["v","0f",1,7,"refused"]]\\n', 1053231829)
    """
    payload = _ENCODER.encode(entries)
    checksum = zlib.crc32(payload, before)
    return b"%08x %b\n" % (checksum, payload), checksum


class Line(NamedTuple):
    """One line of a journal as it was read."""

    entries: list[Entry] | None  # None: damaged
    size: int  # bytes, its end included
    checksum: int  # what the next line continues


class Read(NamedTuple):
    """The good lines at the start of a piece of a journal."""

    entries: list[Entry]
    size: int  # bytes; 0: there is none
    checksum: int  # what the next line continues


def read(data: bytes, before: int) -> Read:
    """As `lines` up to the first that is damaged, at a third of the cost: all are decoded at once. HOT, in a thread."""
    payloads: list[bytes] = []
    size, checksum = 0, before
    for raw in data.split(b"\n")[:-1]:
        payload = raw[9:]
        following = zlib.crc32(payload, checksum)
        if raw[:9] != b"%08x " % following:
            break
        checksum = following
        size += len(raw) + 1
        payloads.append(payload)
    try:
        return Read(list(chain.from_iterable(_LINES.decode(b"[%b]" % b",".join(payloads)))), size, checksum)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # find out which
        return _read_singly(data, before)


def _read_singly(data: bytes, before: int) -> Read:
    entries: list[Entry] = []
    size = 0
    for line in lines(data, before):
        if line.entries is None:
            break
        entries += line.entries
        size += line.size
        before = line.checksum
    return Read(entries, size, before)


def lines(data: bytes, before: int) -> Iterator[Line]:
    """The whole lines at the start of `data`, the first of which continues the checksum `before`.

    What stands behind the last line end is not looked at: it is torn, or still being written. After a damaged line the
    next one is judged by the checksum that stands in it, so one damage costs one line.
    """
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = _line(data[start:end], before, end + 1 - start)
        yield line
        before = line.checksum
        start = end + 1


def _line(raw: bytes, before: int, size: int) -> Line:
    payload = raw[9:]
    try:
        stands = int(raw[:8], 16) if raw[8:9] == b" " else -1
    except ValueError:
        stands = -1
    if zlib.crc32(payload, before) != stands:
        return Line(None, size, max(stands, 0))
    try:
        return Line(_DECODER.decode(payload), size, stands)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Line(None, size, stands)


# --- books -----------------------------------------------------------------------------------------------------------


class Open(msgspec.Struct, gc=False):
    """An attempt that has not ended, as far as its entries have been read."""

    account: Account  # with its number in the books
    reserve: Reserve
    output_bytes: int = 0
    stated: Usage | None = None

    def estimate(self) -> tuple[Usage, int]:
        """What it used and cost as far as is known, marked as estimated; never nothing. Prices are the reserve's."""
        used = usage.settle(self.stated, self.reserve.input, self.output_bytes)
        used = msgspec.structs.replace(used, estimated=True)
        price = self.account.price
        return used, 0 if price is None else min(pricing.cost(price, used, self.account.thinks), MOST_NANO)


class Booked(NamedTuple):
    """An attempt that has ended: what the books keep of it, in this order."""

    request_id: str
    attempt: int
    account: int  # its number in the books
    at_ms: int  # of its reserve
    ended_ms: int
    kind: int  # BY_SETTLE, BY_VOID or BY_EXPIRE
    input: int
    cached: int
    written: int
    output: int
    reasoning: int
    cost_nano: int
    estimated: bool
    cause: str


BY_SETTLE, BY_VOID, BY_EXPIRE = range(3)
#: The same as the hot path makes it: a plain tuple costs a third.
Ended = tuple[str, int, int, int, int, int, int, int, int, int, int, int, bool, str]


class Books:
    """The state machine: reserve -> checkpoint* -> settle | void | expire, over any number of attempts.

    Fed entries in the order of the journal; gives back what ended. An end of what is not open is a repetition, or lost
    its reserve: it changes nothing here and is given to `strange`, for whoever knows what was booked before.
    """

    def __init__(self, number: Callable[[Account], int] = lambda account: account.number) -> None:
        """`number` gives an account, whose own number is that in its file, the one that it has in the books."""
        self.accounts: dict[int, Account] = {}  # of the file being read, by their number there
        self.open: dict[tuple[str, int], Open] = {}
        self.progressed: set[tuple[str, int]] = set()  # had a checkpoint; for the reader to clear
        self.strange: list[tuple[str, int]] = []
        self._number = number

    def take(self, entries: Iterable[Entry]) -> list[Ended]:
        """Read some entries on; what ended with them. HOT, in a thread that the event loop may have to wait for."""
        ended: list[Ended] = []
        opened, accounts = self.open, self.accounts
        for entry in entries:
            if type(entry) is Reserve:
                key = (entry.request_id, entry.attempt)
                account = accounts.get(entry.account)
                if account is None:
                    self.strange.append(key)
                elif key not in opened:
                    opened[key] = Open(account, entry)
            elif type(entry) is Settle:
                key = (entry.request_id, entry.attempt)
                held = opened.pop(key, None)
                if held is None:
                    self.strange.append(key)
                    continue
                one = (
                    entry.request_id, entry.attempt, held.account.number, held.reserve.at_ms, entry.at_ms, BY_SETTLE,
                    entry.input, entry.cached, entry.written, entry.output, entry.reasoning, entry.cost_nano,
                    entry.estimated, entry.cause,
                )  # fmt: skip
                ended.append(one)
            else:
                self._rare(entry, ended)
        return ended

    def _rare(self, entry: Entry, ended: list[Ended]) -> None:
        """Read an entry on that most attempts do without."""
        if type(entry) is Account:
            self.accounts[entry.number] = msgspec.structs.replace(entry, number=self._number(entry))
        elif type(entry) is Began:
            self.accounts.clear()
        elif type(entry) is Checkpoint:
            key = (entry.request_id, entry.attempt)
            held = self.open.get(key)
            if held is not None:
                held.output_bytes = max(held.output_bytes, entry.output_bytes)
                held.stated = entry.stated or held.stated
                self.progressed.add(key)
        elif type(entry) is Void or type(entry) is Expire:
            key = (entry.request_id, entry.attempt)
            held = self.open.pop(key, None)
            if held is None:
                self.strange.append(key)
                return
            kind, used, cost_nano = BY_VOID, _NOTHING, 0
            if type(entry) is Expire:
                kind, (used, cost_nano) = BY_EXPIRE, held.estimate()
            one = Booked(
                *key, held.account.number, held.reserve.at_ms, entry.at_ms, kind, used.input, used.cached,
                used.written, used.output, used.reasoning, cost_nano, used.estimated, entry.cause,
            )  # fmt: skip
            ended.append(one)


_NOTHING = Usage()

# --- what attempts cost that brought no answer -----------------------------------------------------------------------

#: Outcomes whose upstream was at work on the answer when it ended: by its own fault, or because it was told to stop.
_AT_WORK = frozenset(
    {
        Outcome.FIRST_EVENT_TIMEOUT,
        Outcome.RESET,
        Outcome.INVALID,
        Outcome.TOO_LARGE,
        Outcome.PROTOCOL,
        Outcome.INTERRUPTED,
        Outcome.IDLE_TIMEOUT,
        Outcome.EVENT_TOO_LARGE,
    }
)
#: Ends that are ours or the client's: the upstream may have been at work even where it had said nothing yet.
_STOPPED = frozenset({Outcome.CLIENT_GONE, Outcome.OUTRUN, Outcome.TOTAL_TIMEOUT, Outcome.DRAINING})


def costs(outcome: Outcome, status: int, *, sent: bool = True) -> bool:
    """Whether an attempt that brought nothing, and whose upstream stated no usage, is booked for its prompt at least.

    `status` is that of the upstream's answer, 0 where none came; `sent` whether the request left at all. An upstream
    that refuses, fails or stays silent bills nothing. One that had begun to answer, or that we told to stop, may.

    >>> costs(Outcome.SERVER_ERROR, 500), costs(Outcome.RESET, 0), costs(Outcome.RESET, 200)
    (False, False, True)
    """
    if not sent:
        return False
    return outcome in _STOPPED or (status == 200 and outcome in _AT_WORK)
