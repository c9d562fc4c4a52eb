"""Whose address a request comes from, and how often one may come without a valid key."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.request.peers import Strangers, client_of

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "6.6.6.6", "203.0.113.9"),  # from a peer whom nobody trusts
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what is left of it a client wrote
        ("10.0.0.1", "6.6.6.6,203.0.113.9 ,\t10.2.3.4", "203.0.113.9"),
        ("10.0.0.1", "10.9.9.9, 10.2.3.4", "10.9.9.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, secret, 10.2.3.4", "10.2.3.4"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8:9::1]:4711", "2001:db8:9::/64"),
        ("2001:db8:1::5", "2001:db8:9:0:1:2:3:4", "2001:db8:9::/64"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", ""),
    ],
)
def test_hops_are_counted_from_the_right_as_far_as_somebody_is_trusted(peer: str, forwarded: str, client: str) -> None:
    assert client_of(peer, forwarded, TRUSTED) == client


@given(st.text(max_size=60))
def test_without_trusted_proxies_nothing_that_a_client_writes_matters(forwarded: str) -> None:
    assert client_of("192.0.2.1", forwarded, []) == "192.0.2.1"


@given(st.text(max_size=60))
def test_no_text_is_too_odd(forwarded: str) -> None:
    assert client_of("10.0.0.1", forwarded, TRUSTED)


def test_a_minute_s_worth_passes_at_once_and_then_one_by_one() -> None:
    strangers = Strangers()
    waits = [strangers.wait_s("a", 60, 100.0) for _ in range(100)]
    assert [wait == 0 for wait in waits] == [True] * 60 + [False] * 40
    assert waits[-1] == pytest.approx(1.0), "who is refused is not made to wait for longer"
    assert strangers.wait_s("b", 60, 100.0) == 0
    assert strangers.wait_s("a", 60, 100.5) == pytest.approx(0.5)
    assert strangers.wait_s("a", 60, 101.0) == 0
    assert strangers.wait_s("a", 60, 101.0) > 0


def test_a_thousand_addresses_take_no_more_room_than_a_few() -> None:
    strangers = Strangers(most=10)
    for number in range(1_000):
        assert strangers.wait_s(str(number), 1, 0.0) == 0
    assert len(strangers._free_at) <= 10
