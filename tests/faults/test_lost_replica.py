"""A replica that is gone with its disk, a Valkey that is empty, a real PostgreSQL: what was spent is not forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults.replicas import ANSWER, NANO, key, secret
from tests.harness import Gateway, Upstream, chat, config, eventually, running
from tests.postgres import PASSWORD, postgres
from tests.valkey import valkey


def ask(gateway: Gateway) -> int:
    return gateway.post(chat(max_tokens=50), key=secret("shared")).status_code


def test_an_empty_store_learns_from_postgresql_what_replicas_have_spent_that_are_gone(tmp_path: Path) -> None:
    upstream = Upstream([ANSWER])
    with valkey(tmp_path / "valkey") as server, postgres() as database:

        def settings(prefix: str) -> dict[str, Any]:
            made = config({"a": upstream}, keys=[key("shared", budget={"usd": 1, "per": "month"})])
            made["targets"]["a"]["price"] = {"input": 0, "output": 2.0}
            where = {"port": database.port, "password": {"env": "PGPASSWORD"}}
            return made | {
                "store": {"url": server.url, "timeout": "5s", "prefix": prefix},
                "ledger": {"dir": prefix, "postgres": where},
            }

        with running(tmp_path, settings("first"), PGPASSWORD=PASSWORD) as gateway:
            assert eventually(lambda: ask(gateway) == 200, 15)
            assert [ask(gateway) for _ in range(4)] == [200] * 4
            assert eventually(lambda: gateway.metric("pointsman_ledger_shipped_entries_total") >= 5, 15)
        with running(tmp_path, settings("second"), PGPASSWORD=PASSWORD) as gateway:
            assert ask(gateway) in (200, 503)
            assert eventually(lambda: ask(gateway) == 200, 15)
            spent = len(upstream.requests) * NANO
            assert eventually(lambda: round((1 - gateway.metric("pointsman_budget_left_usd")) * 1e9) == spent, 5), (
                "of both of them"
            )
            assert int(server.hash("{second}:key:shared")["month/UTC:x|"]) == 5 * NANO
    upstream.close()
