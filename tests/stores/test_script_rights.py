"""What the store's user may do, as docs/shared-store.md tells it to operators (S24)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway.core.money.admission import Gate
from gateway.core.money.limits import Allowance, Budget, Cap, Rate, Slots
from gateway.core.types import Secret
from gateway.stores.script import SOURCE
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared
from tests.harness import ROOT
from tests.valkey import Valkey, valkey

#: Sent outside the script, see `stores.breaker`, `stores.reaching` and `stores.link`. AUTH needs no right.
SENT = {"eval", "evalsha", "info", "select", "ping", "asking", "cluster|nodes"}


def rights() -> str:
    text = (ROOT / "docs" / "shared-store.md").read_text("utf-8")
    found = re.search(r"`(\+eval \+evalsha[^`]*)`", text)
    assert found is not None
    return " ".join(found[1].split())


def test_the_documented_user_may_do_what_the_gateway_does_and_nothing_else(server: Valkey) -> None:
    told = rights()
    called = {name.decode().lower() for name in re.findall(rb"redis\.call\('([A-Z]+)'", SOURCE)}
    assert {word.removeprefix("+") for word in told.split() if word.startswith("+")} == called | SENT
    server.ask("ACL", "SETUSER", "documented", "on", ">right-one", *told.split())
    for command in (
        ["CONFIG", "GET", "*"],
        ["KEYS", "*"],
        ["FLUSHALL"],
        ["SCRIPT", "LOAD", "return 1"],
        ["ACL", "LIST"],
    ):
        assert "no permissions" in str(server.ask("ACL", "DRYRUN", "documented", *command)), command
    assert str(server.ask("ACL", "DRYRUN", "documented", "EVAL", "return 1", "0")).strip() in ("OK", "b'OK'")


def gate() -> Gate:
    budget = Budget("key", "k", Allowance(1_000_000, "day"))
    budget.begin(0, 1 << 52)
    rates = (Rate("key", "k", "rpm", Cap(60)),), (Rate("key", "k", "tpm", Cap(6_000)),)
    return Gate(*rates, (Slots("key", "k", Cap(5)),), (budget,))


async def used(settings: StoreSettings) -> tuple[bool, dict[str, int], int]:
    """A store that is used as by a gateway: is it up, what failed, and what is then left of a budget?"""
    store, one = Shared(asyncio.get_running_loop(), settings, "me"), gate()
    store.adopt([one])
    await store.start()
    up = store.up
    for _ in range(200 if up else 0):
        told = asyncio.get_running_loop().create_future()
        got = store.admit(one, 10, 1_000, 0, 0, told.set_result)
        hold = await told if got is None else got
        if hasattr(hold, "end"):
            hold.charge(1_000, 1_500)
            hold.end(0, 10, 1_000, 1_500)
            break
        await asyncio.sleep(0.05)  # the first 3 s of a key
    await store.refresh()
    await store.close()
    return up, {op: count for op, count in store.errors.items() if count}, one.budgets[0].left


def test_with_these_rights_and_no_other_limits_are_kept(server: Valkey) -> None:
    server.ask("ACL", "SETUSER", "served", "on", ">right-one", "~{pointsman}:*", *rights().split())
    settings = StoreSettings(
        "127.0.0.1", server.port, database=1, username="served", password=Secret("right-one"), timeout_s=5
    )
    assert asyncio.run(used(settings)) == (True, {}, 999_000)
    assert server.ask("ACL", "LOG") == [], "nothing was refused"


@pytest.mark.parametrize("password", ["right-one", "wrong-one", None])
def test_a_server_with_one_password_for_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str | None
) -> None:
    with valkey(tmp_path / "locked", "--requirepass", "right-one") as locked:
        secret = None if password is None else Secret(password)
        up, failed, _ = asyncio.run(used(StoreSettings("127.0.0.1", locked.port, password=secret, timeout_s=5)))
    assert up == (password == "right-one")
    if not up:
        assert failed == {"connect": 1}
        assert ("WRONGPASS" if password else "NOAUTH") in caplog.text
        assert "wrong-one" not in caplog.text
