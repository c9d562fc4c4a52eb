"""`store:` as it is written: what loads, and what does not and says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.errors import ConfigError
from gateway.core.types import Secret
from gateway.site import Site, load_site
from gateway.stores.settings import StoreSettings
from tests.tls import certificate

FILE = """\
backends:
  up: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}
targets:
  t: {model: llama-3.3-70b, backend: up, window: 8k, price: {input: 1, output: 2}}
ledger: none
"""


def load(tmp_path: Path, store: str, **environ: str) -> Site:
    path = tmp_path / "p.yaml"
    path.write_text(f"{FILE}store: {store}\n")
    return load_site(path, {"HOME": str(tmp_path), **environ}, tests=False)


def test_left_out_limits_are_the_process_s_own(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FILE)
    assert load_site(path, {"HOME": str(tmp_path)}, tests=False).store is None


def test_a_url_says_where_it_is(tmp_path: Path) -> None:
    assert load(tmp_path, "{url: 'redis://127.0.0.1'}").store == StoreSettings("127.0.0.1")
    assert load(tmp_path, "{url: 'redis://[::1]:7000/3'}").store == StoreSettings("::1", 7000, 3)


def test_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate(tmp_path / "tls").authority.read_bytes())
    site = load(
        tmp_path,
        "{url: 'rediss://valkey.internal:6380', username: me, password: {env: VALKEY}, ca_file: ca.pem,"
        " prefix: two, slice: 0.5%, timeout: 50ms}",
        VALKEY="very-secret",
    )
    assert site.store == StoreSettings(
        "valkey.internal", 6380, tls=True, ca_file=str(tmp_path / "ca.pem"), username="me",
        password=Secret("very-secret"), prefix="two", slice=0.005, timeout_s=0.05,
    )  # fmt: skip
    assert tmp_path / "ca.pem" in site.watched()
    assert "very-secret" not in repr(site.store)
    assert str(site.store) == "rediss://valkey.internal:6380/0"


def test_a_password_that_travels_unencrypted_is_told(tmp_path: Path) -> None:
    beside = ", password: {env: VALKEY}}"
    site = load(tmp_path, "{url: 'redis://valkey.internal'" + beside, VALKEY="very-secret")
    assert any("store.url: its password travels unencrypted" in one for one in site.warnings)
    assert not load(tmp_path, "{url: 'redis://127.0.0.1'" + beside, VALKEY="very-secret").warnings


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("{url: 'http://127.0.0.1:6379'}", "store.url: is not a URL of a Valkey or Redis"),
        ("{url: 'redis://me:hunter2-secret@host'}", "store.url: has credentials in it: username: NAME and password:"),
        ("{url: 'redis://host:70000'}", "store.url: is not a URL of a Valkey or Redis"),
        ("{url: 'redis://host/zero'}", "store.url: is not a URL"),
        ("{url: 'redis://host?db=1'}", "store.url: is not a URL"),
        ("{url: 'redis://'}", "store.url: is not a URL"),
        ("{}", "store.url: "),
        ("redis://host", "store: "),
        ("{url: 'redis://host', password: hunter2-secret}", "store.password: "),
        ("{url: 'redis://host', password: {env: NOT_SET}}", "store.password: environment variable NOT_SET is not set"),
        ("{url: 'redis://host', username: me}", "store: has username without password"),
        ("{url: 'redis://host', ca_file: ca.pem}", "store: has ca_file, and no TLS"),
        ("{url: 'rediss://host', ca_file: ca.pem}", "store.ca_file: no file"),
        ("{url: 'rediss://host', ca_file: p.yaml}", "store.ca_file: there is no certificate in"),
        ("{url: 'redis://host', prefix: '{b}'}", "store.prefix: "),
        ("{url: 'redis://host', slice: 90%}", "store.slice: would leave other replicas little"),
        ("{url: 'redis://host', slice: 5}", "store.slice: "),
        ("{url: 'redis://host', timeout: 1m}", "store.timeout: is how long a request may wait for the store"),
        ("{url: 'redis://host', sentinel: true}", "store.sentinel: "),
    ],
)
def test_what_cannot_be_is_told_with_its_line_and_without_secrets(tmp_path: Path, store: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, store)
    assert f"p.yaml:6: {told}" in str(raised.value)
    assert "hunter2" not in str(raised.value)
