"""`ledger:` of pointsman.yaml, as written and as settings."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.core.errors import ConfigError
from gateway.core.types import Secret
from gateway.ledger import postgres as pg
from gateway.ledger.directory import LedgerSettings, PostgresSettings
from gateway.site import load_site
from tests.harness import config
from tests.tls import certificate

ENVIRON = {"PGPW": "pw-canary-1", "UPSTREAM_KEY": "sk-1"}


def read(directory: Path, ledger: Any, *, secrets: bool = True) -> LedgerSettings:
    path = directory / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(config({"a": "http://127.0.0.1:1/v1"}, ledger=ledger), file)
    found = load_site(path, ENVIRON, secrets=secrets).ledger
    assert found is not None
    return found


def test_what_is_written_becomes_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate(tmp_path / "tls").authority.read_bytes())
    written = {"host": "db.example.org", "password": {"env": "PGPW"}, "ca_file": "ca.pem", "user": "books"}
    found = read(tmp_path, {"dir": "books", "postgres": written, "replica": "eu-1"})
    expected = PostgresSettings(
        "db.example.org", 5432, "pointsman", "books", Secret("pw-canary-1"), True, tmp_path / "ca.pem"
    )
    assert (found.directory, found.postgres, found.replica) == (tmp_path / "books", expected, "eu-1")
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("written", "tls"),
    [
        ({}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "/run/postgresql"}, False),
        ({"host": "db"}, True),
        ({"host": "db", "tls": "off"}, False),
        ({"host": "127.0.0.1", "tls": "verify"}, True),
    ],
)
def test_books_travel_encrypted_unless_they_stay_on_the_machine_or_it_is_said(
    tmp_path: Path, written: dict[str, str], tls: bool
) -> None:
    found = read(tmp_path, {"postgres": written})
    assert found.postgres is not None
    assert found.postgres.tls is tls
    assert found.replica == socket.gethostname()


def test_no_secret_is_needed_to_judge_a_file(tmp_path: Path) -> None:
    found = read(tmp_path, {"postgres": {"password": {"env": "NOT_SET"}}}, secrets=False)
    assert found.postgres is not None
    assert found.postgres.password is None


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ({"postgres": {"password": {"env": "NOT_SET"}}}, "ledger.postgres.password: environment variable NOT_SET"),
        ({"postgres": {"password": "pw-canary-2"}}, "ledger.postgres.password"),
        ({"postgres": {"password": {"file": "nowhere"}}}, "nowhere cannot be read"),
        ({"postgres": {"ca_file": "nowhere.pem"}}, "ledger.postgres.ca_file: no file"),
        ({"postgres": {"ca_file": "pointsman.yaml"}}, "ledger.postgres.ca_file: there is no certificate in"),
        ({"postgres": {"host": "postgres://u:pw-canary-3@h/db"}}, "ledger.postgres.host"),
        ({"postgres": {"port": 0}}, "ledger.postgres.port"),
        ({"postgres": {"user": "a\nb"}}, "ledger.postgres.user"),
        ({"postgres": {"tls": "prefer"}}, "ledger.postgres.tls"),
        ({"postgres": {"host": "/run", "tls": "verify"}}, "ledger.postgres.tls: means nothing for a Unix socket"),
        ({"postgres": {"tls": "off", "ca_file": "pointsman.yaml"}}, "ledger.postgres.ca_file: is for nothing"),
        ({"postgres": {"sslmode": "require"}}, "sslmode"),
        ({"postgres": {"host": "a b"}}, "'a b' is no host"),
        ({"replica": "a"}, "ledger.replica: names this replica for nobody"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(tmp_path: Path, ledger: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, ledger)
    text = str(caught.value)
    assert said in text
    assert "canary" not in text
    assert ":0:" not in text, "the line is told"


def test_a_driver_that_is_not_installed_is_told_when_the_configuration_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pg, "find_spec", lambda name: None)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(config({"a": "http://127.0.0.1:1/v1"}, ledger={"dir": "books", "postgres": {}}), file)
    said = "ledger.postgres: needs a package that is not installed: pip install 'pointsman[postgres]'"
    assert main(["check", "--config", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert read(tmp_path, {"postgres": {}}, secrets=False).postgres is not None, "which another machine may have"
