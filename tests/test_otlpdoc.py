"""`otlp:` of pointsman.yaml: what is taken, what is refused and where, and that no secret is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.core.errors import ConfigError
from gateway.otlpdoc import MetricsDoc, OtlpDoc, TracesDoc
from gateway.site import Site, load_site
from gateway.telemetry.otlp.settings import OtlpSettings
from tests.harness import ROOT, config
from tests.tls import certificate

HERE = "http://127.0.0.1:4318"
ENVIRON = {"UPSTREAM_KEY": "sk-1", "OTLP_AUTH": "Basic dXNlcjpwYXNz"}


def load(directory: Path, otlp: Any, environ: dict[str, str] = ENVIRON, **over: Any) -> Site:
    path = directory / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(config({"a": "http://127.0.0.1:9/v1"}, otlp=otlp, **over), file)
    return load_site(path, environ, tests=False)


def test_left_out_there_is_none_and_an_address_is_enough(tmp_path: Path) -> None:
    assert load(tmp_path, {"endpoint": HERE + "/"}).otlp == OtlpSettings(HERE)
    path = tmp_path / "pointsman.yaml"
    path.write_text(
        "".join(line for line in path.read_text().splitlines(True) if "otlp" not in line and HERE not in line)
    )
    assert load_site(path, ENVIRON, tests=False).otlp is None


def test_everything_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate(tmp_path / "tls").authority.read_bytes())
    (tmp_path / "token").write_text("abc\n")
    site = load(
        tmp_path,
        {
            "endpoint": "https://otlp.example.com/otlp",
            "protocol": "http/protobuf",
            "headers": {"Authorization": {"env": "OTLP_AUTH"}, "X-Key": {"file": "token"}, "X-Scope-OrgID": "1"},
            "ca_file": "ca.pem",
            "timeout": "5s",
            "compression": "none",
            "service": "edge",
            "resource": {"deployment.environment.name": "prod"},
            "signals": ["traces"],
            "traces": {"sample": "0.5%", "errors": False, "callers": "link"},
            "metrics": {"every": "15s", "temporality": "delta"},
        },
    )
    found = site.otlp
    assert found is not None
    headers = {name: value if isinstance(value, str) else value.reveal() for name, value in found.headers.items()}
    assert headers == {"Authorization": "Basic dXNlcjpwYXNz", "X-Key": "abc", "X-Scope-OrgID": "1"}
    assert "dXNl" not in repr(found)
    assert (found.sample, found.errors, found.follow) == (0.005, False, False)
    assert (found.every_s, found.delta, found.gzip, found.timeout_s) == (15.0, True, False, 5.0)
    assert (found.service, found.signals) == ("edge", {"traces"})
    assert found.ca_file == str(tmp_path / "ca.pem")
    assert {tmp_path / "ca.pem", tmp_path / "token"} <= set(site.watched())


@pytest.mark.parametrize(
    ("otlp", "place"),
    [
        ({}, "otlp.endpoint"),
        ({"endpoint": "127.0.0.1:4318"}, "otlp.endpoint"),
        ({"endpoint": "http://me:secret@127.0.0.1:4318"}, "otlp.endpoint"),
        ({"endpoint": HERE + "/v1/traces"}, "otlp.endpoint"),
        ({"endpoint": HERE, "protocol": "grpc"}, "otlp.protocol"),
        ({"endpoint": HERE, "headers": {"Authorization": "Bearer secret"}}, "otlp.headers"),
        ({"endpoint": HERE, "headers": {"Content-Length": "1"}}, "otlp.headers"),
        ({"endpoint": HERE, "headers": {"X-A": "1", "x-a": "2"}}, "otlp.headers"),
        ({"endpoint": HERE, "headers": {"X-A": "secret\r\nX-B: 1"}}, "otlp.headers"),
        ({"endpoint": HERE, "headers": {"X-A": {"env": "NOWHERE"}}}, "otlp.headers.X-A"),
        ({"endpoint": HERE, "headers": {"X-A": {"env": "BROKEN"}}}, "otlp.headers.X-A"),
        ({"endpoint": HERE, "ca_file": "nowhere.pem"}, "otlp.ca_file"),
        ({"endpoint": HERE, "resource": {"service.name": "x"}}, "otlp.resource"),
        ({"endpoint": HERE, "resource": {"Env Name": "x"}}, "otlp.resource"),
        ({"endpoint": HERE, "resource": {"a.b": "x\n"}}, "otlp.resource"),
        ({"endpoint": HERE, "signals": []}, "otlp.signals"),
        ({"endpoint": HERE, "signals": ["logs"]}, "otlp.signals"),
        ({"endpoint": HERE, "traces": {"sample": 0.05}}, "otlp.traces.sample"),
        ({"endpoint": HERE, "traces": {"sample": "101%"}}, "otlp.traces.sample"),
        ({"endpoint": HERE, "traces": {"sample": "1e1%"}}, "otlp.traces.sample"),
        ({"endpoint": HERE, "traces": {"callers": "trust"}}, "otlp.traces.callers"),
        ({"endpoint": HERE, "metrics": {"every": "0s"}}, "otlp.metrics.every"),
        ({"endpoint": HERE, "metrics": {"every": 60}}, "otlp.metrics.every"),
        ({"endpoint": HERE, "compression": "zstd"}, "otlp.compression"),
        ({"endpoint": HERE, "service": "my gateway"}, "otlp.service"),
        ({"endpoint": HERE, "endpiont": HERE}, "otlp.endpiont"),
    ],
)
def test_what_means_nothing_is_refused_at_its_place_and_shows_no_secret(tmp_path: Path, otlp: Any, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, otlp, ENVIRON | {"BROKEN": "sec\x00ret"})
    assert {problem.path for problem in caught.value.problems} in ({place}, {f"{place}[0]"}), caught.value
    assert "secret" not in str(caught.value).replace("is a secret", "")
    assert "sec\x00ret" not in str(caught.value)


def test_a_secret_that_would_travel_unencrypted_is_warned_of(tmp_path: Path) -> None:
    headers = {"Authorization": {"env": "OTLP_AUTH"}}
    for address, warned in (("http://otel.example.com:4318", True), ("https://otel.example.com", False), (HERE, False)):
        warnings = load(tmp_path, {"endpoint": address, "headers": headers}).warnings
        assert any("unencrypted" in one and "otlp.endpoint" in one for one in warnings) is warned


def test_who_is_told_of_traces_is_who_is_self_hosted_unless_said_otherwise(tmp_path: Path) -> None:
    made = config({"a": "http://127.0.0.1:9/v1", "b": "http://127.0.0.1:9/v1", "c": "http://127.0.0.1:9/v1"})
    made["backends"]["b"]["self_hosted"] = True
    made["backends"]["c"] |= {"self_hosted": True, "trace_context": False}
    site = load(tmp_path, {"endpoint": HERE}, backends=made["backends"], targets=made["targets"])
    assert [one.backend.trace_context for one in site.fleet.targets] == [False, True, False]


def test_trace_context_is_no_header_of_a_backend(tmp_path: Path) -> None:
    made = config({"a": "http://127.0.0.1:9/v1"})
    made["backends"]["a"]["headers"] = {"Traceparent": "x"}
    with pytest.raises(ConfigError, match="written by the gateway"):
        load(tmp_path, {"endpoint": HERE}, backends=made["backends"])


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "opentelemetry.md").read_text("utf-8")
    listed = set(re.findall(r"^\| ([a-z_.]+) \|", text, re.M))
    nested = {"traces": TracesDoc, "metrics": MetricsDoc}
    names = {name for name in OtlpDoc.model_fields if name not in nested}
    names |= {f"{outer}.{name}" for outer, doc in nested.items() for name in doc.model_fields}
    assert listed == names


def test_a_package_that_is_not_installed_is_told_when_the_configuration_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def nowhere(name: str) -> None:
        asked.append(name)
        raise ModuleNotFoundError(name)

    assert load(tmp_path, {"endpoint": HERE}).otlp is not None
    monkeypatch.setattr("gateway.otlpdoc.find_spec", nowhere)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"endpoint": HERE})
    (problem,) = caught.value.problems
    assert asked
    assert str(problem).endswith(": otlp: needs a package that is not installed: pip install 'pointsman[otlp]'")
    there = load_site(tmp_path / "pointsman.yaml", {}, secrets=False)
    assert there.otlp is not None, "which another machine may have"
