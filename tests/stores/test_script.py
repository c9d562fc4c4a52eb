"""The script in a real Valkey against a model in Python: whatever replicas do, in any order, both say the same."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.money.admission import Gate
from gateway.core.money.limits import Allowance, Budget, Cap, Limit, Rate, Slots
from gateway.stores.forms import Form, Session
from gateway.stores.resp import Reader, argument
from gateway.stores.script import REBUILDING, SOURCE
from tests.stores.clocked import CLOCKED, turn
from tests.stores.model import Answer, Limits, Model
from tests.valkey import Valkey

LEASE_US, LONG_US, WINDOW_S = 20_000, 600_000_000, 0.4
STEP_US = 700  # from one call to the next
names = itertools.count()


class Server:
    """One connection, asked and waited for."""

    def __init__(self, port: int, script: bytes = SOURCE) -> None:
        self._script = script
        self._conn = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._reader = Reader()

    def run(self, called: tuple[int, bytes]) -> Answer:
        count, tail = called
        self._conn.sendall(b"*%d\r\n" % (count + 2) + argument(b"EVAL") + argument(self._script) + tail)
        while True:
            for reply in self._reader.feed(self._conn.recv(65536)):
                assert isinstance(reply, list), reply
                return reply  # type: ignore[return-value]

    def close(self) -> None:
        self._conn.close()


@pytest.fixture(scope="module")
def conn(server: Valkey) -> Iterator[Server]:
    made = Server(server.port)
    yield made
    made.close()


@pytest.fixture(scope="module")
def clocked(server: Valkey) -> Iterator[Server]:
    made = Server(server.port, CLOCKED)
    yield made
    made.close()


def gate(name: str, limits: Limits) -> Gate:
    def cap(limit: int) -> Cap:
        return Cap(limit, limits.shadow)

    budget = Budget("key", name, Allowance(limits.budget, "day"))
    budget.begin(0, 1 << 52)
    return Gate(
        (Rate("key", name, "rpm", cap(limits.requests)),),
        (Rate("key", name, "tpm", cap(limits.tokens)),),
        (Slots("key", name, cap(limits.places)),),
        (budget,),
    )


@dataclass
class Replica:
    """What a replica knows of itself."""

    name: str
    key: str
    limits: Limits
    generation: int = 0
    holds: list[tuple[int, int, int]] = field(default_factory=list)  # tokens, money, limits that it did not draw on
    spent: int = 0
    lease_us: int = LEASE_US
    heard: int = 0  # when the last answer was given that it has heard
    leased: int = 0  # what that said it has leased ahead

    def form(self, share: float = 0.1) -> Form:
        made = gate(self.key, self.limits)
        made.slots[0].used = sum(not over & 1 for _, _, over in self.holds)
        made.budgets[0].spent = self.spent
        made.budgets[0].left -= self.spent + sum(need for _, need, _ in self.holds)
        made.budgets[0].leased = self.leased
        return Form(made, Session("m", self.name, self.generation, self.lease_us, 0, share))

    @property
    def held(self) -> tuple[int, int, int, int]:
        aside = sum(need for _, need, _ in self.holds)
        return sum(not over & 1 for _, _, over in self.holds), self.spent, aside, self.leased

    def hear(self, answer: Answer) -> None:
        """What an answer says, where it arrives."""
        self.heard = answer[4]
        if len(answer) > 5:
            self.leased = answer[10]


who = st.integers(0, 2)
actions = st.one_of(
    st.tuples(st.just("admit"), who, st.integers(0, 150), st.sampled_from([0, 1, 60, 300])),
    st.tuples(st.just("admit"), who, st.integers(0, 150), st.sampled_from([0, 1, 60, 300])),
    st.tuples(st.just("settle"), who, st.integers(0, 200), st.integers(0, 100)),
    st.tuples(st.just("beat"), who, st.just(0), st.just(0)),
    st.tuples(st.just("beat"), who, st.just(0), st.just(1)),  # its answer is lost
    st.tuples(st.just("sync"), who, st.booleans(), st.integers(0, 1)),  # the same
    st.tuples(st.just("restart"), who, st.just(0), st.just(0)),
    st.tuples(st.just("late"), who, st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(actions, min_size=15, max_size=50), st.booleans())
def test_the_script_does_what_the_model_says(clocked: Server, server: Valkey, script: list, shadow: bool) -> None:
    key, conn, now_us = f"k{next(names)}", clocked, itertools.count(1_800_000_000_000_000, STEP_US)
    limits = Limits(places=3, requests=8, tokens=400, budget=1_000, shadow=shadow)
    model = Model(limits, LEASE_US, 0.1)
    replicas = [Replica(f"r{at}", key, limits) for at in range(3)]
    turn(server, next(now_us))
    for one in replicas:
        _step(conn, model, one, "restart", 0, 0)
    for action, at, first, second in script:
        one = replicas[at]
        if action == "wait":
            now_us = itertools.count(next(now_us) + LEASE_US, STEP_US)
            continue
        turn(server, next(now_us))
        _step(conn, model, one, action, int(first), second)
        found = server.hash(f"{{m}}:key:{key}")
        for total, part in (("s", "s|"), ("day/UTC:r", "day/UTC:r|"), ("day/UTC:x", "day/UTC:x|")):
            parts = [int(value) for field_, value in found.items() if field_.startswith(part)]
            assert int(found.get(total, 0)) == sum(parts)
            assert min(parts, default=0) >= 0, "never below nothing"
        for each in replicas:  # who goes on alone spends no more than what is set aside for it, or counts as spent
            aside = int(found.get(f"day/UTC:r|{each.name}", 0)) + int(found.get(f"day/UTC:x|{each.name}", 0))
            assert aside >= each.leased + each.held[1] + each.held[2]


def _step(conn: Server, model: Model, one: Replica, action: str, first: int, second: int) -> None:
    form = one.form()
    if action == "late":  # what an older connection had on its way
        one.generation -= 1
        answer = conn.run(one.form().call(b"admit", 10, 10, one.heard))
        assert answer == model.admit(one.name, one.generation, answer[4], (10, 10, one.heard))
        one.generation += 1
    elif action == "admit":
        answer = conn.run(form.call(b"admit", first, second, one.heard))
        assert answer == model.admit(one.name, one.generation, answer[4], (first, second, one.heard))
        one.hear(answer)
        if answer[0] == 1:
            one.holds.append((first, second, answer[3]))
    elif action == "settle" and one.holds:
        tokens, need, over = one.holds.pop()
        one.spent += min(second, need)
        changes = (int(not over & 1), 0, 0 if over & 4 else first - tokens, need)
        answer = conn.run(one.form().settle(*changes))
        assert answer == model.settle(one.name, one.generation, answer[4], changes, one.spent)
    elif action == "beat":
        answer = conn.run(form.call(b"beat", one.heard))
        assert answer == model.beat(one.name, one.generation, answer[4], one.heard)
        if not second:
            one.hear(answer)
    elif action in ("sync", "restart"):
        if action == "restart":  # the books know what was under way by its estimate
            one.spent += sum(need for _, need, _ in one.holds)
            one.holds.clear()
            one.leased = one.heard = 0
        one.generation += action == "restart" or first
        answer = conn.run(one.form().sync(3))
        assert answer == model.sync(one.name, one.generation, answer[4], one.held)
        if not second:
            one.hear(answer)


@pytest.fixture
def pair(conn: Server) -> tuple[Replica, Replica]:
    key = f"k{next(names)}"
    limits = Limits(places=9, requests=90, tokens=9_000, budget=1_000)
    return Replica("a", key, limits, 1, lease_us=LONG_US), Replica("b", key, limits, 1, lease_us=LONG_US)


def waiting(one: Replica, window_s: float = WINDOW_S) -> Form:
    form = one.form()
    return Form(form.gate, Session("m", one.name, one.generation, LONG_US, int(window_s * 1_000_000), 0.01))


def test_a_key_that_nobody_knows_waits_for_what_others_know(conn: Server, pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    assert conn.run(waiting(a).sync(0))[0] == REBUILDING
    assert conn.run(waiting(a).call(b"admit", 1, 10, 0))[0] == REBUILDING
    assert conn.run(waiting(a).call(b"admit", 1, 0, 0))[0] == 1, "what costs nothing passes"
    assert conn.run(waiting(b).sync(0))[0] == REBUILDING, "nobody knows how many there are"
    time.sleep(WINDOW_S)
    assert conn.run(waiting(b).call(b"admit", 1, 10, 0))[0] == 1


def test_it_waits_no_longer_than_until_all_have_told(conn: Server, pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    a.spent, b.spent = 300, 500
    assert conn.run(waiting(a, 600).sync(2))[0] == REBUILDING
    answer = conn.run(waiting(b, 600).sync(0))
    assert answer[0] == 1
    assert answer[8] == 300, "what others have spent"
    assert conn.run(waiting(b).call(b"admit", 1, 201, 0))[0] == 0
    assert conn.run(waiting(b).call(b"admit", 1, 200, 0))[0] == 1


def test_what_was_seen_of_a_replica_that_is_gone_is_not_forgotten(conn: Server, pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    a.spent = 300
    form = waiting(a)
    form.budgets[0].others = 600  # by a third one, which never comes back
    conn.run(form.sync(0))
    b.spent = 50  # is among what a has seen
    conn.run(waiting(b).sync(0))
    time.sleep(WINDOW_S)
    assert conn.run(waiting(b).call(b"admit", 1, 101, 0))[0] == 0
    assert conn.run(waiting(b).call(b"admit", 1, 100, 0))[0] == 1


def test_two_keys_are_asked_at_once_and_neither_is_drawn_on_where_one_refuses(conn: Server, server: Valkey) -> None:
    name = f"k{next(names)}"
    team: tuple[Limit, ...] = (Rate("team", name, "rpm", Cap(1)),)
    both = Gate((Rate("key", name, "rpm", Cap(5)), *team))  # type: ignore[arg-type]
    session = Session("m", "a", 1, LONG_US, 0, 0.01)
    for one in both.requests:
        conn.run(Form(Gate((one,)), session).sync(1))
    form = Form(both, session)
    assert conn.run(form.call(b"admit", 0, 0, 0))[:2] == [1, 0]
    assert conn.run(form.call(b"admit", 0, 0, 0))[:2] == [0, 2]
    assert server.hash(f"{{m}}:key:{name}")["q:u"] == "1"


def test_what_is_leased_stays_set_aside_until_its_replica_has_heard_that_it_is_less(
    conn: Server, server: Valkey, pair: tuple[Replica, Replica]
) -> None:
    """An answer may be lost: the replica goes on alone then, and spends what it last heard of."""
    a, b = pair
    conn.run(a.form().sync(2))
    conn.run(b.form().sync(2))

    def aside() -> int:
        return int(server.hash(f"{{m}}:key:{a.key}")["day/UTC:r|a"])

    a.hear(conn.run(a.form().call(b"beat", 0)))
    assert (a.leased, aside()) == (100, 100)
    assert conn.run(b.form(0.0).call(b"admit", 1, 700, 0))[0] == 1
    for _ in range(2):
        lost = conn.run(a.form().call(b"beat", a.heard))
        assert (lost[10], aside()) == (30, 100), "it is told, and not yet done"
    assert conn.run(b.form(0.0).call(b"admit", 1, 250, 0))[0] == 0
    a.hear(lost)
    conn.run(a.form().call(b"beat", a.heard))
    assert aside() <= 30, "somebody asked for it meanwhile"
    assert conn.run(b.form(0.0).call(b"admit", 1, 200, 0))[0] == 1
