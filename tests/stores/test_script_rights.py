"""What the store's user may do, as docs/shared-store.md tells it to operators (S24)."""

from __future__ import annotations

import re

from gateway.stores.script import SOURCE
from tests.harness import ROOT
from tests.valkey import Valkey

#: Sent outside the script, see `stores.breaker` and `stores.link`. AUTH needs no right.
SENT = {"eval", "evalsha", "info", "select", "ping"}


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
