"""A `Secret` shows its text to nobody who does not ask for it by name (S14)."""

from __future__ import annotations

import copy
import dataclasses
import faulthandler
import json
import logging
import pickle
import pprint
import tempfile
import traceback
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML

from gateway.core.recorded.redaction import secrets_in
from gateway.core.types import Endpoint, Secret
from gateway.site import load_site
from gateway.telemetry import logs
from tests.harness import config

TEXT = "canary-owl-0123456789"
SECRET = Secret(TEXT)


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    key: Secret
    endpoint: Endpoint


HOLDER = Holder(SECRET, Endpoint("https://h/v1", "https", "h", 443, "/v1"))


@pytest.mark.parametrize(
    "shown",
    [
        lambda: repr(HOLDER),
        lambda: str([SECRET]),
        lambda: f"{SECRET} {SECRET!r} {SECRET!s} {SECRET:}",
        lambda: "%s %r" % (SECRET, SECRET),  # noqa: UP031
        lambda: pprint.pformat(HOLDER),
        lambda: json.dumps(str(SECRET)),
    ],
)
def test_no_way_of_printing_shows_it(shown: object) -> None:
    told = shown()  # type: ignore[operator]
    assert "***" in told
    assert TEXT not in told


def test_no_format_cuts_it_into_pieces() -> None:
    with pytest.raises(TypeError):
        format(SECRET, ">40")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled(protocol: int) -> None:
    for value in (SECRET, HOLDER, [SECRET]):
        with pytest.raises(TypeError, match="not pickled") as refused:
            pickle.dumps(value, protocol)
        assert TEXT not in str(refused.value)


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins])
def test_it_is_not_encoded(encode: object) -> None:
    with pytest.raises(TypeError) as refused:
        encode({"key": SECRET})  # type: ignore[operator]
    assert TEXT not in str(refused.value)


def test_it_is_not_copied() -> None:
    for way in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(SECRET)
    assert dataclasses.replace(HOLDER, endpoint=HOLDER.endpoint).key is SECRET, "what holds it may be another"


def broken(key: Secret) -> None:
    text = key.reveal()  # noqa: F841 - what a traceback with values of variables would show
    raise ValueError(key)


def test_a_traceback_shows_neither_it_nor_any_variable() -> None:
    try:
        broken(SECRET)
    except ValueError as error:
        told = "".join(traceback.format_exception(error)) + "\n".join(logs.frames(error))
        record = logging.LogRecord("pointsman", logging.ERROR, __file__, 1, "it failed: %s", (SECRET,), None)
        record.exc_info = (type(error), error, error.__traceback__)
        told += logs.Lines("json").format(record) + logs.Lines("text").format(record)
    assert "broken" in told
    assert TEXT not in told


def test_a_dump_of_a_crashed_interpreter_does_not_show_it() -> None:
    with tempfile.TemporaryFile("w+") as file:

        def deep(key: str) -> None:
            faulthandler.dump_traceback(file, all_threads=True)

        deep(SECRET.reveal())
        file.seek(0)
        told = file.read()
    assert "deep" in told
    assert TEXT not in told


def test_every_secret_of_a_configuration_is_known_to_what_blots_them_out(tmp_path: Path) -> None:
    settings = config({"a": "https://a/v1"})
    settings["backends"]["a"]["headers"] = {"x-plan": {"env": "HEADER"}}
    settings["backends"]["aws"] = {
        "dialect": "bedrock",
        "base_url": "https://bedrock-runtime.eu-west-1.amazonaws.com/v1",
        "auth": {
            "aws": {"access_key": {"env": "ID"}, "secret_key": {"env": "AWS"}, "session_token": {"env": "SESSION"}}
        },
    }
    settings["backends"]["entra"] = {
        "dialect": "openai",
        "base_url": "https://e/v1",
        "auth": {"entra": {"tenant": "t", "client_id": "c", "client_secret": {"env": "ENTRA"}}},
    }
    for name in ("aws", "entra"):
        settings["targets"][name] = copy.deepcopy(settings["targets"]["a"]) | {"backend": name}
    settings |= {
        "otlp": {"endpoint": "https://o", "headers": {"authorization": {"env": "OTLP"}}},
        "ledger": {"dir": "ledger", "postgres": {"host": "p", "password": {"env": "POSTGRES"}}},
        "store": {"url": "redis://s", "password": {"env": "STORE"}},
    }
    names = ("HEADER", "AWS", "SESSION", "ENTRA", "OTLP", "POSTGRES", "STORE", "UPSTREAM_KEY")
    environ = {name: f"canary-{name.lower()}-0123456789" for name in names} | {"ID": "AKIDEXAMPLE0123"}
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(settings, file)
    site = load_site(path, environ)
    assert site.secrets() == secrets_in(site) == {environ[name] for name in names}
    assert not [secret for secret in site.secrets() if secret in repr(site)]
