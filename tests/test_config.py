"""pointsman.yaml: what may be written, and what a person is told where it may not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.addresses import egress_proxy, endpoint
from gateway.config import (
    AdminKeyDoc,
    BackendDoc,
    ConfigDoc,
    RecordsDoc,
    TimeoutsDoc,
    admin_digest,
)
from gateway.core.errors import ConfigError
from gateway.core.quantities import Invalid
from gateway.core.types import Timeouts
from gateway.problems import problems
from gateway.secretref import SecretRef, read_secret
from gateway.site import load_site
from gateway.yamlfile import loads

LEAST = """\
backends:
  a: {dialect: vllm, base_url: "http://10.0.0.7:8000/v1"}
targets:
  t: {model: llama-4-scout, backend: a, window: 1M}
"""


def read(text: str) -> ConfigDoc:
    return ConfigDoc.model_validate(loads(text, "p.yaml").data)


def told(text: str) -> str:
    document = loads(text, "p.yaml")
    with pytest.raises(ValidationError) as caught:
        ConfigDoc.model_validate(document.data)
    return "\n".join(map(str, problems(document, caught.value, ConfigDoc)))


def test_the_least_file_says_only_what_there_is() -> None:
    doc = read(LEAST)
    assert str(doc.listen.public.host) == "127.0.0.1"
    assert doc.listen.admin.port == 8081
    assert doc.unknown_model == "reject"
    assert doc.limits.max_body == 64_000_000

    assert doc.targets["t"].window == 1_000_000


def test_durations_sizes_and_money_are_read_with_their_units() -> None:
    doc = read(
        LEAST + "timeouts: {connect: 200ms, headers: 30s, first_event: 2m, idle: 1.5s, total: 1h}\n"
        "limits: {max_body: 64MiB, max_head: 64kB, min_upload_rate: 2kB, request_head: 5s}\n"
        "drain: 45s\n"
        "keys: [{name: k, sha256: " + "ab" * 32 + ", tpm: 2M, rpm: 600, expires: 2027-01-31,"
        " budget: {usd: 0.1, per: day, mode: hard}}]\n"
    )
    assert doc.timeouts.over(Timeouts()) == Timeouts(0.2, 30.0, 120.0, 1.5, 3600.0)
    assert doc.limits.max_body == 64 * 1024 * 1024
    assert doc.limits.min_upload_rate == 2000
    assert doc.drain == 45.0

    (key,) = doc.keys
    assert key.tpm == 2_000_000
    assert str(key.expires) == "2027-01-31 00:00:00+00:00"
    assert key.budget is not None
    assert key.budget.usd == 100_000_000


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("timeout: {connect: 2s}", "p.yaml:5: timeout: there is no key 'timeout' here: did you mean timeouts?"),
        ("timeouts: {conect: 2s}", "p.yaml:5: timeouts.conect: there is no key 'conect' here: did you mean connect?"),
        ("timeouts: {connect: 2}", "timeouts.connect: 2 is not a duration: a duration with its unit"),
        ("timeouts: {connect: 0s}", "timeouts.connect: '0s' is out of range: more than 0"),
        ("timeouts: 2s", "timeouts: '2s' is not a mapping"),
        ("drain: soon", "drain: 'soon' is not a duration"),
        ("limits: {max_body: 64 megs}", "limits.max_body: '64 megs' is not a size: a size such as 65536"),
        (
            "limits: {max_inflight: 0}",
            "limits.max_inflight: 0 is out of range: at least 1",
        ),
        ("limits: {invalid_keys: 0}", "limits.invalid_keys: 0 is out of range: at least 1"),
        ("limits: {trusted_proxies: [10.0.0.300]}", "limits.trusted_proxies[0]: '10.0.0.300' is no network"),
        ("limits: {trusted_proxies: [10.0.0.1/8]}", "'10.0.0.1/8' is no network: an address or a network, such as"),
        ("limits: {shed: {low: 80}}", "limits.shed.low: 80 is no share: a share such as 85%, above 0%"),
        ("limits: {shed: {low: 0%}}", "limits.shed.low: '0%' is no share: a share such as 85%, above 0%"),
        ("limits: {shed: {critical: 99%}}", "limits.shed.critical: there is no key 'critical' here"),
        ("limits: {shed: {low: 90%}}", "shed.normal: 85 % comes before low (90 %), which is to be given up first"),
        (
            "keys: [{name: k, sha256: " + "ab" * 32 + ", priority: urgent}]",
            "keys[0].priority: 'urgent' is not known",
        ),
        ("listen: {public: 8080}", "listen.public: 8080 is not an address: host:port"),
        ('listen: {public: "0.0.0.0:99999"}', "'0.0.0.0:99999' is not an address"),
        ("log: {format: off}", "log.format: 'off' is not known here: one of auto, json, text"),
        ("log: {format: jsn}", "log.format: 'jsn' is not known here: did you mean json?"),
        ("log: {level: warn}", "log.level: 'warn' is not known here: did you mean warning?"),
        ("log: {requests: off}", "log.requests: 'off' is not known here: one of all, none"),
        ("log: {slow: 30}", "log.slow: 30 is not a duration: a duration with its unit"),
        ("log: {sample_above: 1k}", "log.sample_above: '1k' is not a whole number"),
        ("log: {sample_above: -1}", "log.sample_above: -1 is out of range: at least 0"),
        ("log: {access: json}", "log.access: there is no key 'access' here"),
        ("models: {gpt-4o: 4}", "models.gpt-4o: 4 is not text: quotes around it"),
        ("models: {gpt-4o: yes, a: true}", "models.a: true is not text: quotes around it"),
        ("max_attempts: 0", "max_attempts: 0 is out of range: at least 1"),
        ("max_attempts: many", "max_attempts: 'many' is not a whole number"),
        ("keys: {name: k}", "keys: a mapping is not a list"),
        ("keys: [{name: k}]", "p.yaml:5: keys[0].sha256: is missing"),
        ("keys: [{name: k, sha256: abc}]", "keys[0].sha256: is not valid here, and is not shown"),
        ("keys: [{name: k, sha256: " + "ab" * 32 + ", explain: yes}]", "yes is text in YAML 1.2, not a truth value"),
        ("keys: [{name: k, sha256: " + "ab" * 32 + ", tenant: {mau: 5}}]", "keys[0].tenant.mau: 5 is not text"),
        ("keys: [{name: k, sha256: " + "ab" * 32 + ", allow: []}]", "keys[0].allow: a list is not valid"),
        ("keys: [{name: k, sha256: " + "ab" * 32 + ", expires: soon}]", "'soon' is not a date: a day such as"),
        ("keys: [{name: a b, sha256: " + "ab" * 32 + "}]", "'a b' cannot be a name: letters, digits"),
        ("admin_key: {}", "admin_key: needs exactly one place: {sha256: ...}, {env: NAME} or {file: path}"),
    ],
)
def test_a_mistake_is_told_with_line_path_and_what_would_be_valid(line: str, says: str) -> None:
    assert says in told(LEAST + line + "\n")


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("{dialect: vllm}", "backends.a: needs exactly one of base_url and endpoints: base_url: URL"),
        ('{dialect: vllm, base_url: "http://a/v1", endpoints: ["http://b/v1"]}', "needs exactly one of"),
        ('{dialect: vllm, endpoints: ["http://b/v1", "http://b/v1"]}', "names the same endpoint twice"),
        ("{dialect: vllm, base_url: ftp://x}", "'ftp://x' is not a URL of a server"),
        ("{dialect: vllm, base_url: 'http://user:pw@x/v1'}", "'http://***@x/v1' is not a URL of a server"),
        ("{dialect: vllm, base_url: 'http://x/v1?key=1'}", "'http://x/v1?***' is not a URL of a server"),
        ("{dialect: vllm, base_url: 'http://x/v1#key'}", "'http://x/v1#***' is not a URL of a server"),
        ("{dialect: vllm, base_url: 'http://u:pw@x:99999/v1'}", "'http://***@x:99999/v1' is not a URL"),
        ("{dialect: vllm, base_url: 'http://u:p/w@x/v1'}", "'http://***@x/v1' is not a URL"),
        ("{dialect: vllm, base_url: 'u:pw@x'}", "'***@x' is not a URL of a server"),
        ("{dialect: vllm, base_url: 'http://x:port/v1'}", "is not a URL"),
        ("{dialect: vllm, base_url: 'http://x/v1', key: sk-secret}", "backends.a.key: is not valid here, and"),
        ("{dialect: vllm, base_url: 'http://x/v1', key: {env: A, file: b}}", "exactly one place: {env: NAME} or {file"),
        (
            "{dialect: vllm, base_url: 'http://x/v1', affinity: hash}",
            "a.affinity: 'hash' is not known here: one of none, prefix",
        ),
        (
            "{dialect: vllm, base_url: 'http://x/v1', hedge: 5ms}",
            "a.hedge: '5ms' would ask twice for",
        ),
        ("{dialect: vllm, base_url: 'http://x/v1', hedge: p42}", "a.hedge: 'p42'"),
        (
            "{dialect: vllm, base_url: 'http://x/v1', max_inflight: 0}",
            "backends.a.max_inflight: 0 is out of range: at least 1",
        ),
        ("{dialect: vllm, base_url: 'http://x/v1', selfhosted: true}", "did you mean self_hosted?"),
    ],
)
def test_a_backend_is_judged_as_strictly(backend: str, says: str) -> None:
    assert says in told(LEAST.replace('{dialect: vllm, base_url: "http://10.0.0.7:8000/v1"}', backend))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("{model: m, backend: a, window: big}", "targets.t.window: 'big' is not a number of tokens: a whole number"),
        ("{model: m, backend: a, price: cheap}", "targets.t.price: 'cheap' is not a price: catalog, none, {input"),
        ("{model: m, backend: a, price: {input: 1}}", "targets.t.price.output: is missing: output: 0.6, in USD"),
        (
            "{model: m, backend: a, price: {input: 1, ouput: 2}}",
            "there is no key 'ouput' here: did you mean output or input?",
        ),
        ("{model: m, backend: a, price: {input: -1, output: 2}}", "targets.t.price.input: -1 is not an amount"),
        ("{model: m, backend: a, price: {gpu_hour_usd: 3}}", "targets.t.price.tokens_per_hour: is missing"),
        (
            "{model: m, backend: a, modalities: [txt]}",
            "targets.t.modalities[0]: 'txt' is not known here: did you mean text?",
        ),
        ("{model: m, backend: a, thinking: off}", "targets.t.thinking: 'off' is not known here: one of switchable"),
        (
            "{model: m, backend: a, tools: yes}",
            "targets.t.tools: yes is text in YAML 1.2, not a truth value: true or false",
        ),
        ("{model: m}", "targets.t.backend: is missing: backend: a name under backends"),
        ("{model: 3.5, backend: a}", "targets.t.model: 3.5 is not text: quotes around it"),
        ("{model: m, backend: a, weight: 1.5}", "targets.t.weight: 1.5 is not a whole number"),
    ],
)
def test_a_target_is_judged_as_strictly(target: str, says: str) -> None:
    assert says in told(LEAST.replace("{model: llama-4-scout, backend: a, window: 1M}", target))


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    lines = told(LEAST + "drain: soon\nlog: {format: maybe}\nmax_attempts: 99\n").splitlines()
    assert sorted(line.split(":")[1] for line in lines) == ["5", "6", "7"]


def test_a_gpu_price_is_the_hour_over_its_tokens() -> None:
    doc = read(LEAST.replace("window: 1M", "window: 1M, price: {gpu_hour_usd: 3.20, tokens_per_hour: 40M}"))
    price = doc.targets["t"].price
    assert price is not None
    assert not isinstance(price, str | list)
    rates = price.rates()  # type: ignore[union-attr]
    assert (rates.input, rates.output) == (80_000_000, 80_000_000)  # 0.08 USD per million tokens


def test_price_tiers_ascend_from_zero() -> None:
    tiers = "price: [{above: 0, input: 1, output: 2}, {above: 128000, input: 2, output: 4}]"
    price = read(LEAST.replace("window: 1M", f"window: 1M, {tiers}")).targets["t"].price
    assert isinstance(price, list)
    assert [tier.above for tier in price] == [0, 128_000]
    assert "do not ascend" in told(LEAST.replace("window: 1M", "window: 1M, price: [{above: 5, input: 1, output: 2}]"))


# -- endpoints, secrets, proxies --


def test_an_endpoint_is_taken_apart_once() -> None:
    one = endpoint("https://dashscope-intl.aliyuncs.com/compatible-mode/v1/")
    assert (one.scheme, one.host, one.port, one.path) == (
        "https",
        "dashscope-intl.aliyuncs.com",
        443,
        "/compatible-mode/v1",
    )
    assert endpoint("http://[::1]:8000").host == "::1"
    assert endpoint("http://10.0.0.7:8000/v1").port == 8000


@pytest.mark.parametrize("url", ["http://x/v1\r\nHost: y", "http://x /v1", "http:///v1", "http://x/v 1", "//x/v1", "x"])
def test_an_endpoint_that_could_split_a_request_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        endpoint(url)


def test_a_secret_comes_from_the_environment_or_a_file_and_never_prints(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")
    secret = read_secret(SecretRef(env="KEY"), {"KEY": " sk-env "}, tmp_path)
    assert secret.reveal() == "sk-env"
    assert "sk-env" not in f"{secret} {secret!r}"
    assert read_secret(SecretRef(file="key"), {}, tmp_path).reveal() == "sk-file"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "environment variable KEY is not set"),
        ("", "does not hold a key"),
        ("two words", "does not hold a key"),
        ("a\r\nx-evil: 1", "does not hold a key"),
        ("kéy", "does not hold a key"),
        ("sk-sp-123", "plan key"),
    ],
)
def test_a_secret_that_is_none_or_may_not_be_used_is_refused(value: str | None, says: str, tmp_path: Path) -> None:
    environ = {} if value is None else {"KEY": value}
    with pytest.raises(Invalid, match=says) as caught:
        read_secret(SecretRef(env="KEY"), environ, tmp_path)
    assert not value or len(value) < 5 or value not in str(caught.value)


def test_the_admin_key_is_known_by_its_hash_however_it_is_given(tmp_path: Path) -> None:
    hashed = admin_digest(AdminKeyDoc(env="ADMIN"), {"ADMIN": "abc"}, tmp_path)
    assert hashed.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert admin_digest(AdminKeyDoc(sha256=hashed.hex()), {}, tmp_path) == hashed


@pytest.mark.parametrize(
    ("written", "url", "environ", "proxy"),
    [
        (None, "https://a.example/v1", {"HTTPS_PROXY": "http://p:3128"}, None),
        ("none", "https://a.example/v1", {"HTTPS_PROXY": "http://p:3128"}, None),
        ("http://p:3128", "https://a.example/v1", {}, "http://p:3128"),
        ("env", "https://a.example/v1", {}, None),
        ("env", "https://a.example/v1", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("env", "https://a.example/v1", {"https_proxy": "http://q:1", "HTTPS_PROXY": "http://p:3128"}, "http://q:1"),
        ("env", "http://a.example/v1", {"HTTPS_PROXY": "http://p:3128"}, None),
        ("env", "https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b.example,.example"}, None),
        ("env", "https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample"}, "http://p:1"),
        ("env", "https://10.1.2.3/v1", {"HTTPS_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8"}, None),
        ("env", "https://a.example:8443/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example:443"}, "http://p:1"),
        ("env", "https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
    ],
)
def test_the_egress_proxy_follows_the_file_and_only_on_request_the_environment(
    written: str | None, url: str, environ: dict[str, str], proxy: str | None
) -> None:
    assert egress_proxy(written, (endpoint(url),), environ) == proxy


def test_a_proxy_that_is_none_is_refused_without_showing_its_password() -> None:
    with pytest.raises(Invalid) as caught:
        egress_proxy("socks5://me:secret@p:1", (endpoint("https://a/v1"),), {})
    assert "secret" not in str(caught.value)
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"}
    with pytest.raises(Invalid, match="treats this backend's endpoints differently"):
        egress_proxy("env", (endpoint("https://a.example/v1"), endpoint("https://b.example/v1")), environ)


def test_a_backends_timeouts_go_over_the_sites() -> None:
    site = TimeoutsDoc.model_validate({"connect": "1s", "total": "5m"}).over(Timeouts())
    backend = BackendDoc.model_validate({"dialect": "vllm", "base_url": "http://a/v1", "timeouts": {"idle": "5s"}})
    assert backend.timeouts.over(site) == Timeouts(1.0, 30.0, 120.0, 5.0, 300.0)


def test_a_limit_of_cost_is_an_amount_or_refused() -> None:
    key = f"keys:\n  - {{name: k, sha256: {'a' * 64}, tenant: {{max_cost_usd: 'a dollar'}}}}\n"
    assert "p.yaml:6: keys[0].tenant: max_cost_usd 'a dollar' is not an amount: " in told(LEAST + key)
    assert read(LEAST + key.replace("a dollar", "0.05")).keys[0].tenant["max_cost_usd"] == "0.05"


@pytest.mark.parametrize(
    ("domicile", "says"),
    [
        ("Germany", "domicile 'Germany' is not a country: a country's two capital letters"),
        ("de", "domicile 'de' is not a country: a country's two capital letters"),
        ("D3", "domicile 'D3' is not a country: "),
        ("", "domicile '' is not a country: "),
        ("EL", "domicile 'EL' is not a country: GR"),  # else a licensee in Greece would not be in the EU
        ("UK", "domicile 'UK' is not a country: GB"),
    ],
)
def test_a_domicile_is_a_country_code_or_refused(domicile: str, says: str) -> None:
    key = f"keys:\n  - {{name: k, sha256: {'a' * 64}, tenant: {{team: a, domicile: '{domicile}'}}}}\n"
    assert f"p.yaml:6: keys[0].tenant: {says}" in told(LEAST + key)
    assert read(LEAST + key.replace(f"'{domicile}'", "NO")).keys[0].tenant["domicile"] == "NO"


@pytest.mark.parametrize(
    ("line", "pasted"),
    [
        ("backends: {a: {dialect: openai, base_url: 'https://x/v1', key: PASTED}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: openai, base_url: 'https://x/v1', key: {env: PASTED}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: openai, base_url: 'https://x/v1', key: {PASTED: x}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: azure, base_url: 'https://x/v1', auth: PASTED}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: azure, base_url: 'https://x/v1', auth: {PASTED: x}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: bedrock, base_url: 'https://x/v1', auth: {aws: {secret_key: PASTED}}}}", "sk-7Hq2"),
        ("backends: {a: {dialect: azure, base_url: 'https://x/v1', auth: {entra: {client_secret: PASTED}}}}", "7Hq2"),
        ("backends: {a: {dialect: azure, base_url: 'https://x/v1', auth: {entra: {client_id: PASTED}}}}", "7Hq2~8"),
        ("backends: {a: {dialect: vertex, base_url: 'https://x/v1', auth: {service_account: PASTED}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: openai, base_url: 'https://x/v1', headers: PASTED}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: openai, base_url: 'https://x/v1', headers: {X: {env: PASTED}}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: litellm, litellm: {options: {api_key: PASTED}}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: litellm, litellm: {options: {aws_session_token: PASTED}}}}", "sk-live-7Hq2"),
        ("backends: {a: {dialect: litellm, litellm: {options: {vertex_credentials: PASTED}}}}", '\'{"k": "7Hq2"}\''),
        ("dialects: {a: {auth: PASTED}}", "sk-live-7Hq2"),
        ("keys: [{name: a, sha256: PASTED}]", "sk-live-7Hq2"),
        ("admin_key: PASTED", "sk-live-7Hq2"),
        ("admin_key: {sha256: PASTED}", "sk-live-7Hq2"),
    ],
)
def test_a_secret_pasted_where_its_place_belongs_is_never_shown(tmp_path: Path, line: str, pasted: str) -> None:
    path = tmp_path / "pointsman.yaml"
    path.write_text(line.replace("PASTED", pasted) + "\n")
    with pytest.raises(ConfigError) as caught:
        load_site(path, {}, tests=False)
    assert "7Hq2" not in str(caught.value)
    assert re.search("may be a secret|no such key|is a secret", str(caught.value))


@pytest.mark.parametrize(
    ("records", "path"),
    [
        ({}, "records.dir"),
        ({"dir": "r", "sample": 0}, "records.sample"),
        ({"dir": "r", "sample": 1.5}, "records.sample"),
        ({"dir": "r", "keep_for": "14"}, "records.keep_for"),
        ({"dir": "r", "keep_for": "9999d"}, "records.keep_for"),
        ({"dir": "r", "rotate_size": "big"}, "records.rotate_size"),
        ({"dir": "r", "prompts": -1}, "records.prompts"),
        ({"dir": "r", "prompt": 10}, "records.prompt"),
    ],
)
def test_records_that_mean_nothing_are_refused_at_their_place(records: dict[str, object], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RecordsDoc.model_validate(records)
    assert [".".join(map(str, ("records", *one["loc"]))) for one in caught.value.errors()] == [path]


def test_records_have_defaults_and_lie_beside_the_file() -> None:
    found = RecordsDoc.model_validate({"dir": "kept", "sample": 0.5, "keep_for": "7d"}).settings(Path("/etc/pointsman"))
    assert (str(found.directory), found.sample, found.keep_s) == ("/etc/pointsman/kept", 0.5, 604_800.0)
    assert (found.prompt_chars, found.compress, found.rotate_bytes) == (0, True, 128_000_000)
