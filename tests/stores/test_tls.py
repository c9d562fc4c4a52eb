"""A real Valkey behind TLS (its wheel is built without): who is trusted, who is not, and what the log says then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.types import Secret
from gateway.stores.breaker import Breaker
from gateway.stores.resp import command
from gateway.stores.settings import StoreSettings
from tests.stores.test_link import User
from tests.tls import Certificate, Front, certificate
from tests.valkey import Valkey


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls") / "good")


@pytest.fixture
def front(server: Valkey, shown: Certificate) -> Iterator[Front]:
    one = Front(server.port, shown)
    yield one
    one.close()


def told(port: int, **more: object) -> tuple[list[str], object]:
    """What a user hears who starts, and the reply to a command where there is one."""

    async def run() -> tuple[list[str], object]:
        user = User()
        where = StoreSettings("127.0.0.1", port, **{"tls": True, "timeout_s": 5, **more})  # type: ignore[arg-type]
        breaker = Breaker(asyncio.get_running_loop(), where, user)
        await breaker.start()
        reply = None if breaker.link is None else await breaker.link.ask(0, command(b"ECHO", b"x" * 100_000))
        await breaker.close()
        return user.told, reply

    return asyncio.run(run())


def test_a_private_authority_is_trusted_where_it_is_named(front: Front, shown: Certificate) -> None:
    heard, reply = told(front.port, ca_file=str(shown.authority))
    assert heard[0] == "back"
    assert reply == b"x" * 100_000


def test_one_that_nobody_named_is_not(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    assert told(front.port) == (["failed: connect"], None)
    assert "certificate verify failed: unable to get local issuer certificate" in caplog.text


def test_a_certificate_for_somebody_else_is_not_taken(
    server: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = certificate(tmp_path / "other", "DNS:valkey.example")
    front = Front(server.port, other)
    assert told(front.port, ca_file=str(other.authority)) == (["failed: connect"], None)
    front.close()
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in caplog.text


def test_a_server_without_tls_is_told_apart(server: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    assert told(server.port) == (["failed: connect"], None)
    assert "timeout: is it there, and does it speak TLS?" in caplog.text


def test_and_so_is_one_that_speaks_nothing_else(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    assert told(front.port, tls=False) == (["failed: connect"], None)
    assert "is it rediss:// that it speaks?" in caplog.text


def test_a_password_is_given_behind_tls(server: Valkey, front: Front, shown: Certificate) -> None:
    server.ask("ACL", "SETUSER", "secured", "on", ">right-one", "~{pointsman}:*", "+@all")
    more = {"ca_file": str(shown.authority), "username": "secured"}
    assert told(front.port, password=Secret("right-one"), **more)[0][0] == "back"
    assert told(front.port, password=Secret("wrong-one"), **more)[0] == ["failed: connect"]
