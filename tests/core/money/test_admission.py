"""Limits and budgets: all or nothing, debts that carry over, balances that equal what was settled."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gateway.core.money.admission import Gate, Hold, Refused
from gateway.core.money.limits import Allowance, Budget, Cap, Quota, Rate, Slots

S = 1_000_000
MINUTE_US = 60 * S
DAY_MS = 86_400_000


def rate(limit: int, of: str = "rpm", *, shadow: bool = False) -> Rate:
    return Rate("key", "k", of, Cap(limit, shadow))


def budget(nano: int, mode: Any = "hard") -> Budget:
    made = Budget("key", "k", Allowance(nano, "day", "UTC", mode))
    made.begin(0, DAY_MS)
    return made


def passes(gate: Gate, now_us: int, *, tokens: int = 0, need: int = 0) -> Hold:
    got = gate.admit(tokens, need, now_us / S, 0)
    assert isinstance(got, Hold), got
    return got


def refuses(gate: Gate, now_us: int, *, tokens: int = 0, need: int = 0, now_ms: int = 0) -> Refused:
    got = gate.admit(tokens, need, now_us / S, now_ms)
    assert isinstance(got, Refused)
    return got


def told(gate: Gate, now_s: float) -> list[int]:
    """Limit, how many are left and in how many milliseconds all are there, of requests and of tokens."""
    lines = gate.told(now_s).decode().split("\r\n")[:-1]
    kinds = [f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")]
    assert [line.split(": ")[0] for line in lines] in (kinds, kinds[:3], kinds[3:])
    return [int(line.split(": ")[1].removesuffix("ms")) for line in lines]


def test_as_many_requests_pass_at_once_as_a_minute_may_have_and_then_one_at_a_time() -> None:
    gate = Gate(requests=(rate(60),))
    for _ in range(60):
        passes(gate, 5 * S)
    assert refuses(gate, 5 * S).retry_after_s == 1
    assert refuses(gate, 6 * S - 1).wait_us == 1
    passes(gate, 6 * S)
    refuses(gate, 6 * S)


@pytest.mark.parametrize("limit", [1, 7, 60, 1_000_003])
def test_who_waits_as_long_as_told_passes_and_not_a_microsecond_before(limit: int) -> None:
    gate = Gate(tokens=(rate(limit, "tpm"),))
    passes(gate, 0, tokens=limit)
    wait = refuses(gate, 0, tokens=1).wait_us
    refuses(gate, wait - 1, tokens=1)
    passes(gate, wait, tokens=1)


def test_tokens_used_beyond_what_was_expected_are_a_debt_that_later_requests_wait_for() -> None:
    gate = Gate(tokens=(rate(600, "tpm"),))
    hold = passes(gate, 0, tokens=10)
    hold.end(0, used=1_800)
    refused = refuses(gate, 0, tokens=10)
    assert refused.wait_us == (1_200 + 10) * MINUTE_US // 600
    refuses(gate, refused.wait_us - 1, tokens=10)
    passes(gate, refused.wait_us, tokens=10)


def test_tokens_that_were_not_used_come_back() -> None:
    gate = Gate(tokens=(rate(600, "tpm"),))
    hold = passes(gate, 0, tokens=600)
    refuses(gate, 0, tokens=1)
    hold.end(0, used=100)
    passes(gate, 0, tokens=500)
    refuses(gate, 0, tokens=1)


def test_what_time_has_brought_back_is_not_given_back_once_more() -> None:
    """Or reservations that end long after would each pay for as much again, all at one moment."""
    gate = Gate(tokens=(rate(1_000, "tpm"),))
    holds = [passes(gate, minute * MINUTE_US, tokens=1_000) for minute in range(6)]
    now_us = 6 * MINUTE_US
    passed = 0
    for hold in holds:
        hold.end(now_us / S)
        passed += isinstance(gate.admit(1_000, 0, now_us / S, 0), Hold)
    assert passed == 1


def test_half_a_minute_brings_back_half_a_bucket() -> None:
    gate = Gate(tokens=(rate(600, "tpm"),))
    hold = passes(gate, 0, tokens=600)
    passes(gate, 30 * S, tokens=300)
    hold.end(30.0)
    passes(gate, 30 * S, tokens=300)
    refuses(gate, 30 * S, tokens=1)


def test_a_request_larger_than_a_minute_passes_when_nothing_was_used_and_not_before() -> None:
    gate = Gate(tokens=(rate(600, "tpm"),))
    passes(gate, 0, tokens=5_000)
    assert refuses(gate, 0, tokens=5_000).wait_us == 5_000 * MINUTE_US // 600


def test_what_was_given_back_leaves_a_bucket_as_full_as_it_was() -> None:
    """Sums of fractions of a second do not come out even: 61 of 88 a minute, after 23 seconds."""
    gate = Gate(tokens=(rate(88, "tpm"),), budgets=(budget(0),))
    assert refuses(gate, 23 * S, tokens=61, need=1).limit.of == "budget"
    passes(gate, 23 * S, tokens=89)


def test_of_a_very_wide_rate_no_more_is_left_than_it_has() -> None:
    gate = Gate(tokens=(rate(10**10, "tpm"),))
    passes(gate, 0, tokens=1)
    assert told(gate, 0)[1] == gate.tokens[0].left(0) == 10**10 - 1


def test_slots_come_back_when_a_request_ends_however_often_that_is_said() -> None:
    gate = Gate(slots=(Slots("key", "k", Cap(2)),))
    one, _ = passes(gate, 0), passes(gate, 0)
    refuses(gate, 0)
    one.end(0)
    one.end(0)
    passes(gate, 0)
    refuses(gate, 0)


def test_a_request_that_one_limit_refuses_takes_nothing_of_the_others() -> None:
    requests, tokens, money, slots = rate(10), rate(1_000, "tpm"), budget(100), Slots("team", "t", Cap(5))
    gate = Gate((requests,), (tokens,), (slots,), (money,))
    assert refuses(gate, 0, tokens=10, need=101).limit is money
    passes(Gate(tokens=(tokens,)), 0, tokens=1_000)
    assert refuses(gate, 0, tokens=10, need=5).limit is tokens
    assert (requests.left(0), slots.used, money.reserved) == (10, 0, 0)


def test_one_that_never_left_has_used_nothing() -> None:
    gate = Gate((rate(1),), (rate(100, "tpm"),), (Slots("key", "k", Cap(1)),), (budget(50),))
    for _ in range(3):
        passes(gate, 0, tokens=100, need=50).cancel()
    passes(gate, 0, tokens=100, need=50).end(0)
    assert refuses(gate, 0).limit.of == "rpm"


def test_a_hard_budget_admits_as_many_as_it_can_pay_for_at_once() -> None:
    gate = Gate(budgets=(budget(1_000),))
    holds = [gate.admit(0, 100, 0, 0) for _ in range(40)]
    assert [isinstance(one, Hold) for one in holds] == [True] * 10 + [False] * 30


def test_what_is_only_set_aside_is_worth_waiting_for_and_what_is_spent_is_not() -> None:
    gate = Gate(budgets=(budget(100),))
    hold = passes(gate, 0, need=100)
    soon = refuses(gate, 0, need=100)
    assert (soon.spent, soon.retry_after_s) == (False, 2)
    hold.end(0, spent=60)
    late = refuses(gate, 0, need=100, now_ms=DAY_MS - 1_500)
    assert (late.spent, late.retry_after_s) == (True, 2)
    assert refuses(gate, 0, need=100, now_ms=0).retry_after_s == 86_400


def test_a_soft_budget_lets_pass_and_is_overspent() -> None:
    soft = budget(100, "soft")
    hold = passes(Gate(budgets=(soft,)), 0)
    hold.end(0, spent=250)
    assert (soft.spent, soft.left) == (250, -150)
    passes(Gate(budgets=(soft,)), 0)


def test_what_attempts_have_cost_is_given_back_and_asked_for_anew_before_another_one() -> None:
    money = budget(100)
    gate = Gate(budgets=(money,))
    hold = passes(gate, 0, need=60)
    hold.charge(40, 0)
    assert (money.spent, money.reserved, money.left) == (40, 60, 0)
    assert hold.release(40) == 40
    hold.take_over(passes(gate, 0, need=40))
    assert (money.spent, money.reserved, hold.need) == (40, 60, 60)
    hold.charge(41, 0)
    assert hold.release(1) == 1
    assert refuses(gate, 0, need=2).limit is money
    hold.end(0, spent=41)
    assert (money.spent, money.reserved) == (41, 0)
    assert hold.release(5) == 0


def test_no_more_is_given_back_than_is_set_aside() -> None:
    money = budget(100)
    hold = passes(Gate(budgets=(money,)), 0, need=10)
    hold.charge(70, 0)
    assert hold.release(70) == 10
    assert hold.release(1) == 0
    hold.end(0, spent=70)
    assert (money.spent, money.reserved) == (70, 0)


def test_a_cost_belongs_to_the_period_in_which_its_attempt_began() -> None:
    money = budget(100)
    hold = passes(Gate(budgets=(money,)), 0, need=50)
    money.begin(DAY_MS, 2 * DAY_MS)
    hold.charge(50, DAY_MS - 1)
    assert (money.spent, money.reserved) == (0, 50)
    hold.end(0, spent=70, at_ms=DAY_MS)
    assert (money.spent, money.reserved) == (20, 0)


def test_alone_what_is_leased_can_be_spent_and_what_comes_back_only_where_that_is_set_aside_elsewhere() -> None:
    for leased, then in ((50, 350), (0, 0)):  # nothing is leased in a period of which nothing was heard
        made = Budget("key", "k", Allowance(1_000, "day"))
        made.begin(0, 1_000)
        gate = Gate(budgets=(made,))
        hold = gate.admit(0, 300, 0, 0)
        assert isinstance(hold, Hold)
        made.hear(200, 250, leased)
        made.alone()
        assert (made.ahead, made.reserved, made.gone) == (leased, 300, 200)
        hold.end(0)
        assert (made.ahead, made.reserved) == (then, 0)
        made.hear(200, 250, 10)
        assert (made.left, made.reserved) == (750, 0)


def test_limits_in_shadow_mode_let_pass_count_and_take_nothing_for_it() -> None:
    requests, slots, money = rate(2, shadow=True), Slots("key", "k", Cap(1, shadow=True)), budget(10, "shadow")
    gate = Gate((requests,), (), (slots,), (money,))
    holds = [passes(gate, 0, need=10) for _ in range(5)]
    assert (requests.shadowed, slots.shadowed, money.shadowed) == (3, 4, 4)
    for hold in holds:
        hold.end(0, spent=10)
    assert (slots.used, requests.left(0), money.spent, money.reserved) == (0, 0, 50, 0)


def test_limits_go_on_with_other_numbers_where_they_were() -> None:
    requests = rate(100)
    gate = Gate((requests,))
    for _ in range(40):
        passes(gate, 0)
    requests.adopt(Cap(50), 0)
    assert requests.left(0) == 10
    requests.adopt(Cap(30), 0)
    assert refuses(gate, 0).wait_us == MINUTE_US // 30


def test_a_lower_limit_holds_nobody_off_for_longer_than_it_takes_to_fill_its_bucket() -> None:
    requests = rate(600)
    for _ in range(300):
        passes(Gate((requests,)), 0)
    requests.adopt(Cap(6), 0)
    assert requests.wait(1, 0) == 10 * S
    requests.adopt(Cap(600), 1.0)
    assert requests.left(1.0) == 310, "lowering and raising it is no way to a minute's worth more"


def test_a_debt_takes_as_long_under_a_lower_limit_as_it_did() -> None:
    tokens = rate(600, "tpm")
    passes(Gate(tokens=(tokens,)), 0).end(0, used=1_800)
    tokens.adopt(Cap(60), 0)
    assert tokens.wait(0, 0) == 120 * S


def test_the_tightest_enforced_limit_is_told() -> None:
    wide, narrow, dark = rate(100), rate(10), rate(1, shadow=True)
    gate = Gate((wide, narrow, dark), (rate(7, "tpm"),))
    assert told(gate, 0) == [10, 10, 0, 7, 7, 0]
    for _ in range(95):
        passes(Gate((wide,)), 0)
    assert told(gate, 0)[:2] == [100, 5]
    assert Gate((dark,)).told(0) == b""


def test_what_is_told_of_a_rate_is_what_it_lets_through() -> None:
    one = rate(60)
    gate = Gate((one,))
    for _ in range(60):
        passes(gate, 0)
    assert told(gate, 0) == [60, 0, 60_001]
    assert told(gate, 30.0) == [60, 30, 30_001]
    assert told(gate, 61.0) == [60, 60, 0]
    for _ in range(30):
        passes(gate, 30 * S)
    refuses(gate, 30 * S)


def test_no_limits_are_none() -> None:
    assert not Quota()
    assert Quota(rpm=Cap(1))


class Bucket:
    """What a rate is meant to be: so many items, exactly, of which each is either there or not yet."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = Fraction(limit)

    def wait(self, seconds: int) -> None:
        self.left = min(Fraction(self.limit), self.left + Fraction(self.limit * seconds, 60))

    def has(self, amount: int) -> bool:
        return self.left >= min(amount, self.limit)

    def draw(self, amount: int | Fraction) -> None:
        self.left = min(Fraction(self.limit), self.left - amount)


class Admissions(RuleBasedStateMachine):
    """Any order of admitting, settling, repeating and ending, over two periods."""

    @initialize(
        limit=st.integers(0, 500),
        rpm=st.integers(1, 20),
        tpm=st.integers(1, 500),
        slots=st.integers(1, 5),
        up=st.sampled_from((0, 86_400, 30_000_000)),
    )
    def start(self, limit: int, rpm: int, tpm: int, slots: int, up: int) -> None:
        """`up` is for how many seconds the machine has run: the more, the coarser are a clock's fractions."""
        self.now_us, self.now_ms = up * S, 0
        self.money, self.soft = budget(limit), budget(limit, "soft")
        self.slots = Slots("key", "k", Cap(slots))
        self.rates = (rate(rpm), rate(tpm, "tpm"))
        self.buckets = (Bucket(rpm), Bucket(tpm))
        self.gate = Gate((self.rates[0],), (self.rates[1],), (self.slots,), (self.money, self.soft))
        self.settled: list[tuple[int, int]] = []  # when its attempt began, and what it cost
        self.under_way: dict[int, tuple[int, int]] = {}  # hold -> what it asked for, and was told that it cost in all
        self.used: dict[int, int] = {}  # hold -> tokens of its attempts
        self.owed: dict[int, int] = {}  # hold -> what its last attempt cost
        self.kept: dict[int, Hold] = {}

    holds = Bundle("holds")

    @rule(target=holds, tokens=st.integers(0, 200), need=st.integers(0, 200))
    def admit(self, tokens: int, need: int) -> Any:
        before = self.money.left
        room = self.slots.used < self.slots.limit
        fits = room and (not need or need <= before) and self.buckets[0].has(1) and self.buckets[1].has(tokens)
        got = self.gate.admit(tokens, need, self.now_us / S, self.now_ms)
        if isinstance(got, Refused):
            assert got.wait_us >= 0
            assert not fits
            return None
        assert fits
        for bucket, amount in zip(self.buckets, (1, tokens), strict=True):
            bucket.draw(amount)
        self.under_way[id(got)] = (need, 0)
        self.used[id(got)] = 0
        self.kept[id(got)] = got
        return (got, self.now_ms)

    @rule(one=holds, tokens=st.integers(0, 400), share=st.floats(0, 1))
    def charge(self, one: Any, tokens: int, share: float) -> None:
        """An attempt that costs no more than is set aside; some are told twice."""
        if one is None or id(one[0]) not in self.under_way:
            return
        hold, at_ms = one
        need, spent = self.under_way[id(hold)]
        if self.renewed(hold, need):
            nano = int(need * share)
            self.settled.append((at_ms, nano))
            self.under_way[id(hold)] = (need, spent + nano)
            self.used[id(hold)] += tokens
            self.owed[id(hold)] = nano
            hold.charge(spent + nano, at_ms)
        else:
            hold.charge(spent, at_ms)  # a repetition changes nothing

    def renewed(self, hold: Hold, need: int) -> bool:
        """Is as much set aside for another attempt as for the first one? What that cost is asked for anew."""
        hold.release(self.owed.pop(id(hold), 0))
        money = Gate(budgets=self.gate.budgets)
        got = money.admit(0, need - hold.need, self.now_us / S, self.now_ms)
        if isinstance(got, Hold):
            hold.take_over(got)
        return hold.need == need

    @rule(one=consumes(holds), last=st.none() | st.tuples(st.integers(0, 400), st.floats(0, 1)), again=st.booleans())
    def end(self, one: Any, last: tuple[int, float] | None, again: bool) -> None:
        """With an answer, be it that what it cost is told only now, or without; then perhaps nothing ever left."""
        if one is None:
            return
        hold, at_ms = one
        (need, spent), used = self.under_way[id(hold)], self.used.pop(id(hold))
        if last is not None and self.renewed(hold, need):
            nano = int(need * last[1])
            self.settled.append((at_ms, nano))
            used, spent = used + last[0], spent + nano
        sent = last is not None or bool(used or spent)
        if sent:
            hold.end(self.now_us / S, used, spent, at_ms)
        else:
            hold.cancel()
        self.buckets[0].draw(0 if sent else -1)
        unused, age_us = hold.tokens - used, self.now_us - round(hold.at_s * S)
        if sent and unused > 0 and age_us > 6 * S:  # time has brought back some of it, or all
            unused = min(Fraction(unused), max(Fraction(0), self.buckets[1].limit * (1 - Fraction(age_us, MINUTE_US))))
        self.buckets[1].draw(-unused)
        if again:
            hold.end(self.now_us / S, 50, 50, at_ms)
            hold.charge(spent + 50, self.now_ms)
        del self.under_way[id(hold)], self.kept[id(hold)]
        self.owed.pop(id(hold), None)

    @rule(seconds=st.integers(0, 120))
    def wait(self, seconds: int) -> None:
        for bucket in self.buckets:
            bucket.wait(seconds)
        self.now_us += seconds * S
        self.now_ms += seconds * 1000

    @rule()
    def next_period(self) -> None:
        self.now_ms = self.money.ends_ms
        for one in (self.money, self.soft):
            one.begin(self.now_ms, self.now_ms + DAY_MS)

    @invariant()
    def balances_are_the_sums(self) -> None:
        if not hasattr(self, "money"):
            return
        for one in (self.money, self.soft):
            assert one.spent == sum(nano for at_ms, nano in self.settled if at_ms >= one.begins_ms)
            assert one.reserved == sum(hold.need for hold in self.kept.values()) >= 0
        assert self.slots.used == len(self.under_way) <= self.slots.limit
        for rate, bucket in zip(self.rates, self.buckets, strict=True):
            assert rate.left(self.now_us / S) == max(0, bucket.left // 1)
        requests, tokens = told(self.gate, self.now_us / S)[1::3]
        assert (requests, tokens) == tuple(rate.left(self.now_us / S) for rate in self.rates)

    @invariant()
    def a_hard_budget_is_never_exceeded(self) -> None:
        if hasattr(self, "money"):
            assert self.money.spent <= self.money.limit


TestAdmissions = Admissions.TestCase
TestAdmissions.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
