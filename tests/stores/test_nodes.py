"""Which node is asked next: rounds over those that are known, and what others say of them."""

from __future__ import annotations

import pytest

from gateway.stores.nodes import MOST, Node, Nodes, named
from gateway.stores.resp import Said

A, B, C, D = (Node("10.0.0.1", port) for port in range(7000, 7004))
TOLD = b"""\
aaa 10.0.0.1:7000@17000,valkey-a.example,tls-port=0,shard-id=x myself,master - 0 0 1 connected 0-5460
ccc 10.0.0.1:7002@17002,valkey-c.example master - 0 1700000000000 2 connected 5461-16383
bbb 10.0.0.1:7001@17001,valkey-b.example slave aaa 0 1700000000000 1 connected
ddd 10.0.0.1:7003@17003 master,fail - 0 1700000000000 3 disconnected
eee :0@0 master,noaddr - 0 0 0 disconnected
fff 10.0.0.9:7009@17009 handshake - 0 0 0 connected
ggg 2001:db8::7:7007@17007, slave ccc 0 1700000000000 2 connected
vars currentEpoch 6 lastVoteEpoch 0
"""


@pytest.mark.parametrize(
    ("said", "node"),
    [
        ("MOVED 3999 10.0.0.2:6381", Node("10.0.0.2", 6381)),
        ("ASK 3999 valkey-b.example:6381", Node("valkey-b.example", 6381)),
        ("MOVED 3999 :6381", Node("10.0.0.1", 6381)),
        ("MOVED 3999 2001:db8::7:6381", Node("2001:db8::7", 6381)),
        ("MOVED 3999 ?:6381", None),
        ("MOVED 3999", None),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None),
    ],
)
def test_a_node_is_taken_as_it_is_named(said: str, node: Node | None) -> None:
    assert named(Said(said), A) == node
    assert named(OSError(said), A) is None
    assert node is None or str(node).endswith(":6381")


@pytest.mark.parametrize(
    ("names", "second", "third"),
    [(False, B.host, C.host), (True, "valkey-b.example", "valkey-c.example")],
)
def test_a_round_begins_with_who_is_configured_and_goes_on_with_who_would_take_over(
    names: bool, second: str, third: str
) -> None:
    nodes = Nodes(A)
    nodes.hear(TOLD, names=names)
    nodes.found()
    found = [nodes.at]
    while nodes.failed():
        found.append(nodes.at)
    assert found == [A, Node(second, 7001), Node(third, 7002), Node("2001:db8::7", 7007)]
    assert nodes.at == A, "the next one, which is a while off"


def test_who_tells_is_among_those_that_are_known() -> None:
    """Else the last one that lives would be forgotten as soon as it is asked."""
    nodes = Nodes(B)
    nodes.hear(TOLD, names=False)
    nodes.found()
    assert nodes.failed()
    assert nodes.lead(A)
    nodes.hear(TOLD, names=False)
    nodes.again()
    found = {nodes.at}
    while nodes.failed():
        found.add(nodes.at)
    assert {A, B, C} <= found


def test_nodes_that_name_each_other_are_followed_once_each() -> None:
    nodes = Nodes(A)
    assert nodes.lead(B)
    assert nodes.lead(A)
    assert not nodes.lead(B)
    assert not nodes.failed(), "nobody else is known"
    assert nodes.lead(B), "in the next round"


def test_of_a_large_cluster_only_some_are_asked() -> None:
    nodes = Nodes(A)
    rows = [b"n%d 10.0.1.%d:6379@16379 master - 0 0 1 connected %d" % (at, at, at) for at in range(200)]
    nodes.hear(b"\n".join(rows), names=False)
    nodes.again()
    assert sum(nodes.failed() for _ in range(MOST + 1)) == MOST


def test_what_is_no_answer_of_a_cluster_changes_nothing_that_matters() -> None:
    nodes = Nodes(A)
    for told in (b"", b"a b c", b"\xff\xfe x y z 1 2 3 4 5", b"x host:notaport@1 master - 0 0 1 connected"):
        nodes.hear(told, names=True)
        nodes.again()
        assert not nodes.failed()
