"""What the script makes of the time: periods, buckets and leases go by the clock of the server, however that is set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.money.admission import Gate, Hold
from gateway.core.money.limits import Allowance, Budget, Cap, Rate, Slots
from gateway.stores.forms import Form, Session
from gateway.stores.script import ADMITTED, ANOTHER, REBUILDING, REFUSED
from tests.stores.clocked import CLOCKED, turn
from tests.stores.test_script import Server
from tests.valkey import Valkey

HOUR_US = 3_600_000_000
T0 = 500_000 * HOUR_US  # an hour begins
LEASE_US, LONG_US, WINDOW_US = 6_000_000, 2 * HOUR_US, 3_000_000
names = itertools.count()


class Asking:
    """Replicas at one key of its own, at a server whose clock is set."""

    def __init__(self, server: Valkey) -> None:
        self.server = server
        self.name = f"c{next(names)}"
        self.wire = Server(server.port, CLOCKED)
        self.at(0)

    def at(self, seconds: float) -> int:
        self.now_us = T0 + int(seconds * 1_000_000)
        turn(self.server, self.now_us)
        return self.now_us

    def replica(self, who: str, hour: float, spent: int = 0) -> Form:
        """The form of a call by who takes the hour that begins so many hours after the first to be the present one."""
        budget = Budget("key", self.name, Allowance(1_000, "hour"))
        begins_ms = (T0 + int(hour * HOUR_US)) // 1_000
        budget.begin(begins_ms, begins_ms + HOUR_US // 1_000, spent)
        return self.form(who, Gate(budgets=(budget,)))

    def form(self, who: str, gate: Gate, lease_us: int = LONG_US) -> Form:
        return Form(gate, Session("m", who, 1, lease_us, WINDOW_US, 0.0))

    def sync(self, form: Form) -> list[int]:
        return self.wire.run(form.sync(1))

    def admit(self, form: Form, need: int, tokens: int = 0) -> list[int]:
        return self.wire.run(form.call(b"admit", tokens, need, 0))

    def kept(self, name: str) -> int:
        return int(float(self.server.hash(f"{{m}}:key:{self.name}").get(name, "0")))


@pytest.fixture
def asking(server: Valkey) -> Iterator[Asking]:
    made = Asking(server)
    yield made
    made.wire.close()


def hour(begins: float) -> list[int]:
    return [T0 // 1_000 + int(begins * 3_600_000), T0 // 1_000 + int((begins + 1) * 3_600_000)]


def test_a_period_that_begins_forgets_what_was_spent_and_keeps_what_is_set_aside(asking: Asking) -> None:
    asking.at(3_000)
    asking.sync(asking.replica("a", 0, spent=700))
    assert asking.admit(asking.replica("a", 0), 200)[0] == ADMITTED
    asking.at(3_600)
    assert asking.admit(asking.replica("a", 0), 1)[0] == ANOTHER, "one that is over is not spent of"
    assert asking.admit(asking.replica("a", 1), 801)[0] == REFUSED
    assert asking.admit(asking.replica("a", 1), 800)[0] == ADMITTED


@pytest.mark.parametrize("off", [1, -1, 700])
def test_who_takes_another_period_to_be_the_present_one_is_told_which_it_is_and_changes_nothing(
    asking: Asking, off: int
) -> None:
    asking.at(600)
    wrong = asking.replica("b", off, spent=900)
    assert asking.sync(wrong) == [ANOTHER, 0, 0, 0, asking.now_us, 0, 0], "nobody knows one: it looks at its calendar"
    assert asking.kept("hour/UTC:p") == asking.kept("e") == 0
    asking.sync(asking.replica("a", 0, spent=100))
    asking.sync(asking.replica("b", 0))
    before = asking.server.hash(f"{{m}}:key:{asking.name}")
    told = [ANOTHER, 0, 0, 0, asking.now_us, *hour(0)]
    assert asking.sync(wrong) == told
    assert asking.admit(wrong, 10) == told
    assert asking.wire.run(wrong.call(b"beat", 0)) == told
    assert asking.wire.run(wrong.settle(1, 0, 0, 0))[0] == ADMITTED
    assert asking.server.hash(f"{{m}}:key:{asking.name}") == before


def test_what_is_told_of_a_period_that_has_just_begun_begins_it(asking: Asking) -> None:
    asking.sync(asking.replica("a", 0, spent=800))
    asking.admit(asking.replica("a", 0), 100)
    asking.at(3_600)
    asking.wire.run(asking.replica("a", 1, spent=70).settle(1, 0, 0, 100))
    assert [asking.kept(f"hour/UTC:{name}") for name in ("p", "x", "x|a", "r")] == [hour(1)[0], 70, 70, 0]
    asking.wire.run(asking.replica("a", 0, spent=880).settle(1, 0, 0, 0))
    assert asking.kept("hour/UTC:x") == 70, "what is told of one that is over is not of this one"


def test_of_two_calendars_the_first_counts_until_its_period_ends(asking: Asking) -> None:
    """As where the rules of a time zone are older at one replica than at another."""
    asking.at(1_900)
    asking.sync(asking.replica("a", 0, spent=900))
    for _ in range(2):
        assert asking.admit(asking.replica("a", 0), 101)[0] == REFUSED
        assert asking.sync(asking.replica("b", 0.5)) == [ANOTHER, 0, 0, 0, asking.now_us, *hour(0)]
    asking.at(3_600)
    assert asking.sync(asking.replica("b", 0.5))[0] == ADMITTED
    assert asking.admit(asking.replica("b", 0.5), 1_000)[0] == ADMITTED
    assert asking.admit(asking.replica("a", 1), 1)[-2:] == hour(0.5)


def test_a_period_that_is_longer_than_was_known_goes_on(asking: Asking) -> None:
    asking.sync(asking.replica("a", 0, spent=900))
    asking.at(3_600)
    form = asking.replica("a", 0, spent=900)
    form.budgets[0].ends_ms += 3_600_000
    form = asking.form("a", form.gate)
    assert asking.admit(form, 101)[0] == REFUSED
    assert asking.admit(form, 100)[0] == ADMITTED


def test_a_clock_that_goes_back_a_little_leaves_the_period_as_it_is(asking: Asking) -> None:
    asking.at(3_601)
    asking.sync(asking.replica("a", 1, spent=900))
    asking.at(3_571)
    assert asking.admit(asking.replica("a", 1), 101)[0] == REFUSED
    assert asking.admit(asking.replica("a", 1), 100)[0] == ADMITTED
    assert asking.admit(asking.replica("a", 0), 100)[-2:] == hour(1)


def test_a_clock_that_goes_back_further_has_replicas_tell_what_they_had_spent(asking: Asking) -> None:
    asking.at(3_000)
    for who in "ab":
        asking.sync(asking.replica(who, 0, spent=400))
    asking.at(3_601)
    asking.sync(asking.replica("a", 1))
    asking.at(3_100)
    assert asking.admit(asking.replica("a", 1), 1)[-2:] == [0, 0]
    assert asking.sync(asking.replica("a", 0, spent=400))[0] == REBUILDING
    assert asking.admit(asking.replica("a", 0), 201)[0] == REBUILDING, "until the others have told"
    asking.sync(asking.replica("b", 0, spent=400))
    asking.at(3_103)
    assert asking.admit(asking.replica("a", 0), 201)[0] == REFUSED
    assert asking.admit(asking.replica("a", 0), 200)[0] == ADMITTED


def test_a_bucket_fills_on_after_the_clock_was_set_back(asking: Asking) -> None:
    form = asking.form("a", Gate((Rate("key", asking.name, "rpm", Cap(60)),)))
    asking.at(3_600)
    asking.sync(form)
    assert [asking.admit(form, 0)[0] for _ in range(61)] == [ADMITTED] * 60 + [REFUSED]
    asking.at(0)
    assert asking.admit(form, 0)[:3] == [REFUSED, 1, 1_000_000], "not an hour later"
    asking.at(1)
    assert [asking.admit(form, 0)[0] for _ in range(2)] == [ADMITTED, REFUSED]


def test_places_of_who_is_gone_come_back_after_the_clock_was_set_back(asking: Asking) -> None:
    gate = Gate(slots=(Slots("key", asking.name, Cap(1)),))
    forms = [asking.form(who, gate, LEASE_US) for who in "ab"]
    asking.at(3_600)
    for form in forms:
        asking.sync(form)
    assert asking.admit(forms[0], 0)[0] == ADMITTED
    asking.at(0)
    assert asking.admit(forms[1], 0)[0] == REFUSED
    asking.at(7)
    assert asking.admit(forms[1], 0)[0] == ADMITTED


steps = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 900), st.booleans()),
    st.tuples(st.just("pass"), st.sampled_from([1, 999_999, 6_000_000, 6_000_001, 31_000_000, 60_000_000]), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 1_500), st.booleans()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=10, max_size=60))
@example([("take", 900, 1), ("pass", 6_000_000, 0), ("end", 0, 1)])
@example([("take", 900, 1), ("pass", 6_000_001, 0), ("end", 0, 1)])
def test_tokens_come_back_late_as_they_do_where_limits_are_local(
    server: Valkey, script: list[tuple[str, int, int]]
) -> None:
    """The same sequence at a bucket of this process and at one of the store."""
    asking = Asking(server)
    try:
        _same(asking, script)
    finally:
        asking.wire.close()


def _same(asking: Asking, script: list[tuple[str, int, int]]) -> None:
    mine, theirs = (Gate(tokens=(Rate("key", asking.name, "tpm", Cap(600)),)) for _ in range(2))
    form = asking.form("a", theirs)
    asking.sync(form)
    holds: list[tuple[Hold, int]] = []
    for what, amount, sent in script:
        now_s = (asking.now_us - T0) / 1e6
        if what == "pass":
            asking.at(now_s + amount / 1e6)
        elif what == "take":
            answer, got = asking.admit(form, 0, amount), mine.admit(amount, 0, now_s, 0)
            assert (answer[0] == ADMITTED) == isinstance(got, Hold)
            if isinstance(got, Hold):
                holds.append((got, answer[4]))
        elif holds:
            hold, since_us = holds.pop(0)
            used = amount if sent else 0
            if sent:
                hold.end(now_s, used)
            else:
                hold.cancel()
            asking.wire.run(form.settle(0, 0, used - hold.tokens, 0, since_us if sent else 0))
        kept = max(0.0, mine.tokens[0].full_at - (asking.now_us - T0) / 1e6) / mine.tokens[0].each
        told = asking.wire.run(form.call(b"beat", 0))[5] / 1e6
        assert told == pytest.approx(kept, abs=2e-6)
