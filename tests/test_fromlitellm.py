"""`pointsman init --from-litellm`: what is carried over works, what is not is told by line, and no secret is copied."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.core.decide import decide
from gateway.core.money.limits import Cap
from gateway.core.reading.signals import Signals
from gateway.core.types import Snapshot
from gateway.init.litellmhosts import reach
from gateway.init.providers import hosted
from gateway.policyfile import load_catalogue
from gateway.site import Site, load_site

TEAM = Path(__file__).parent / "litellm" / "team.yaml"
CATALOGUE = load_catalogue()
NOW = 1_795_262_400.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("LITELLM_MASTER_KEY", *(one.key_env for one in hosted(CATALOGUE).values())):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def imported(text: str, *options: str) -> int:
    Path("litellm.yaml").write_text(text, encoding="utf-8")
    return main(["init", "--from-litellm", "litellm.yaml", *options])


def one(params: dict[str, Any], name: str = "m", more: dict[str, Any] | None = None, **rest: Any) -> str:
    """A file with one deployment."""
    entry = {"model_name": name, "litellm_params": params, **({} if more is None else {"model_info": more})}
    return json.dumps({"model_list": [entry], **rest})


def site() -> Site:
    return load_site(Path("pointsman.yaml"), {}, secrets=False)


def candidates(loaded: Site, model: str) -> list[str]:
    policy, pinned = loaded.resolve(model)
    decision = decide(policy, Signals.given({}), Snapshot(NOW, 0.0, loaded.fleet.mask()), pinned=pinned)
    return [target.name for target in decision.candidates]


@pytest.fixture
def team(capsys: pytest.CaptureFixture[str]) -> tuple[Site, str]:
    assert main(["init", "--from-litellm", str(TEAM)]) == 0
    told = capsys.readouterr()
    return site(), told.out + told.err


def test_a_teams_file_becomes_a_site_that_serves_its_names(team: tuple[Site, str]) -> None:
    loaded, _ = team
    assert sorted(candidates(loaded, "gpt-4o")[:2]) == ["gpt-4o-team-eu", "gpt-4o-team-us"]
    assert candidates(loaded, "gpt-4o")[2:] == ["claude-sonnet-4-anthropic", "qwen3.5-35b-a3b-local"]
    assert candidates(loaded, "gpt-4") == candidates(loaded, "gpt-4o")
    assert candidates(loaded, "fast") == ["llama3.1-local-2", "qwen3.5-35b-a3b-local"]
    assert candidates(loaded, "qwen") == ["qwen3.5-35b-a3b-local"]
    assert candidates(loaded, "sonnet") == ["claude-sonnet-4-anthropic"]
    assert candidates(loaded, "llama") == ["llama-3.3-70b-deepinfra"]
    assert len(candidates(loaded, "auto")) == 6
    assert main(["check", "--no-keys"]) == 0


def test_deployments_keep_what_they_say(team: tuple[Site, str]) -> None:
    targets = {target.name: target for target in team[0].fleet.targets}
    eu, us = targets["gpt-4o-team-eu"], targets["gpt-4o-team-us"]
    assert (eu.backend.dialect, eu.backend.api_version, eu.upstream_id, eu.window) == (
        "azure", "2024-10-21", "gpt-4o-eu", 128_000,
    )  # fmt: skip
    assert eu.backend.endpoints[0].url == "https://team-eu.openai.azure.com/openai"
    assert (eu.weight, us.weight) == (2, 1)  # 600 and 300 requests a minute
    qwen = targets["qwen3.5-35b-a3b-local"]
    assert [place.url for place in qwen.backend.endpoints] == ["http://10.0.0.7:8000/v1", "http://10.0.0.8:8000/v1"]
    sonnet = targets["claude-sonnet-4-anthropic"]
    assert (sonnet.backend.dialect, sonnet.upstream_id) == ("litellm", "anthropic/claude-sonnet-4")
    assert sonnet.price is not None
    assert (sonnet.price.tiers[0].input, sonnet.price.tiers[0].output) == (3 * 10**9, 15 * 10**9)
    assert (team[0].max_attempts, team[0].timeouts.total_s) == (3, 120.0)


def test_what_is_not_carried_over_is_told_by_line(team: tuple[Site, str]) -> None:
    lines = TEAM.read_text().splitlines()
    told = {}
    for line in team[1].splitlines():
        if str(TEAM) in line:
            number, path = line.split(f"{TEAM}:")[1].split(": ")[:2]
            told[path] = lines[int(number) - 1]
    for path, text in {
        "model_list[1].litellm_params.temperature": "temperature: 0.2",
        "model_list[4].litellm_params.api_key": "api_key: sk-canary",
        "model_list[7].model_info.mode": "mode: embedding",
        "model_list[8].model_name": 'model_name: "*"',
        "router_settings.redis_password": "redis_password:",
        "litellm_settings.success_callback": "success_callback:",
        "general_settings.database_url": "database_url:",
        "environment_variables.LANGFUSE_SECRET_KEY": "LANGFUSE_SECRET_KEY:",
    }.items():
        assert text in told[path], path


def test_no_secret_is_copied_or_shown(team: tuple[Site, str]) -> None:
    written = "".join(path.read_text() for path in Path().rglob("*") if path.is_file())
    assert "canary" not in written + team[1]
    assert "key: {env: DEEPINFRA_API_KEY}" in written
    assert "key: {env: AZURE_API_KEY_EU}" in written


def test_the_master_key_goes_on_working_where_it_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-canary-master-27")
    assert main(["init", "--from-litellm", str(TEAM)]) == 0
    text = Path("pointsman.yaml").read_text()
    assert "admin_key: {env: LITELLM_MASTER_KEY}" in text
    assert "canary" not in text
    assert hashlib.sha256(b"sk-canary-master-27").digest() in site().keys


def test_two_keys_that_stand_there_get_two_variables_and_one_key_twice_gets_one() -> None:
    params = {"model": "groq/qwen/qwen3.8-27b"}
    entries = [
        {"model_name": str(i), "litellm_params": {**params, "api_key": key}}
        for i, key in enumerate(["sk-canary-1", "sk-canary-2", "sk-canary-1"])
    ]
    assert imported(json.dumps({"model_list": entries}), "--window", "32k") == 0
    keys = [target.backend.name for target in site().fleet.targets]
    assert len(keys) == 2
    text = Path("pointsman.yaml").read_text()
    assert "{env: GROQ_API_KEY}" in text
    assert "{env: GROQ_API_KEY_2}" in text


def test_a_window_nobody_states_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = one({"model": "gpt-4o", "api_key": "os.environ/OPENAI_API_KEY"})
    assert imported(text) == 2
    assert "litellm.yaml:1: model_list[0]: not carried over: nobody says how many tokens gpt-4o takes" in (
        told := capsys.readouterr().err
    )
    assert "--window" in told
    assert not Path("pointsman.yaml").exists()
    assert imported(text, "--window", "128k") == 0
    [target] = site().fleet.targets
    assert (target.window, target.backend.endpoints[0].url) == (128_000, "https://api.openai.com/v1")
    assert candidates(site(), "m") == candidates(site(), "gpt-4o")


@pytest.mark.parametrize(
    ("sent", "family", "closed"),
    [
        ("my-gpt4o", "gpt", True),
        ("gpt-oss-7b-tuned", "gpt-oss", False),
        ("prod-claude-3-5", "claude", True),
        ("team-llama-tuned", "llama", False),
        ("rocket-7b", "rocket", False),
    ],
)
def test_a_deployment_s_own_name_tells_its_family_wherever_it_stands(sent: str, family: str, closed: bool) -> None:
    assert imported(one({"model": f"openai/{sent}", "api_base": "http://10.0.0.1/v1"}), "--window", "32k") == 0
    [target] = site().fleet.targets
    assert target.model.family == family
    assert (target.model.open_weights is False) == closed


def test_what_was_withdrawn_is_known_by_its_id_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(one({"model": "groq/llama-3.3-70b-versatile"}), "--window", "128k") == 0
    [target] = site().fleet.targets
    assert (target.model.id, target.upstream_id) == ("llama-3.3-70b", "llama-3.3-70b-versatile")
    assert "was withdrawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "chats"),
    [
        ("openai/text-embedding-3-small", False),
        ("cohere/embed-english-v3.0", False),
        ("bedrock/amazon.titan-embed-text-v2:0", False),
        ("ollama/nomic-embed-text", False),
        ("openai/whisper-1", False),
        ("openai/gpt-4o-mini-tts", False),
        ("openai/gpt-4o-transcribe", False),
        ("openai/dall-e-3", False),
        ("openai/gpt-image-1", False),
        ("vertex_ai/imagen-3.0-generate-002", False),
        ("cohere/rerank-v3.5", False),
        ("openai/omni-moderation-latest", False),
        ("openai/gpt-4o-audio-preview", True),
        ("openai/gpt-4-vision-preview", True),
        ("openai/gpt-4o", True),
        ("mistral/pixtral-large-latest", True),
        ("openai/reveal-embedded-llm", True),
    ],
)
def test_what_by_its_name_is_no_chat_model_is_left_out(
    model: str, chats: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"model": model, "api_key": "os.environ/A_KEY"}
    more = {"max_input_tokens": 8_000}
    assert imported(one(params, more=more)) == (0 if chats else 2)
    said = "model_list[0].litellm_params.model: not carried over: its name is not that of a chat model"
    assert (said in capsys.readouterr().err) != chats
    if not chats:
        assert imported(one(params, more={**more, "mode": "chat"})) == 0


@pytest.mark.parametrize(
    ("model", "more", "reads"),
    [
        ("openai/house-model", {}, {"text"}),
        ("openai/house-model", {"supports_vision": True}, {"text", "image"}),
        ("openai/gpt-4o", {}, {"text", "image"}),
        ("openai/gpt-4o", {"supports_vision": False}, {"text"}),
        ("openai/gpt-4o-audio-preview", {}, {"text"}),
    ],
)
def test_of_a_model_nobody_knows_no_more_than_text_is_claimed(
    model: str, more: dict[str, Any], reads: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"model": model, "api_key": "os.environ/A_KEY"}
    assert imported(one(params, more={"max_input_tokens": 8_000, **more})) == 0
    told = capsys.readouterr()
    assert set(site().fleet.targets[0].modalities) == reads
    assert ("taken to read text alone" in told.out + told.err) == (reads == {"text"} and not more)


def test_a_group_of_a_model_s_own_name_passes_a_strict_check(capsys: pytest.CaptureFixture[str]) -> None:
    info = {"base_model": "gpt-4o", "max_input_tokens": 128_000}
    azure = {"model": "azure/my-gpt4o", "api_base": "https://a.openai.azure.com", "api_key": "os.environ/A_KEY"}
    group = [
        {"model_name": "gpt-4o", "litellm_params": params, "model_info": info}
        for params in ({**azure, "api_version": "2024-10-21"}, {"model": "openai/gpt-4o"})
    ]
    llama = {"model_name": "llama", "litellm_params": {"model": "openrouter/meta-llama/llama-3.3-70b-instruct"}}
    settings = {"fallbacks": [{"gpt-4o": ["llama"]}]}
    assert imported(json.dumps({"model_list": [*group, llama], "litellm_settings": settings})) == 0
    capsys.readouterr()
    main(["check", "--no-keys"])
    assert "alias-shadows" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "clocks"),
    [(600, {"total": 600}), (60, {"first_event": 60, "total": 60}), (10, {"headers": 10, "first_event": 10})],
)
def test_a_short_timeout_leaves_no_longer_clock_inside_it(
    seconds: int, clocks: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = {"model": "openai/x", "api_base": "http://10.0.0.1/v1", "timeout": seconds}
    assert imported(one(deployment, litellm_settings={"request_timeout": seconds}), "--window", "32k") == 0
    assert "shorter clocks" not in capsys.readouterr().out
    for timeouts in (site().timeouts, site().fleet.targets[0].backend.timeouts):
        assert timeouts is not None
        assert {name: getattr(timeouts, f"{name}_s") for name in clocks} == clocks


@pytest.mark.parametrize(
    ("model", "base", "params", "dialect", "sent", "url"),
    [
        ("gpt-4o", None, {}, "openai", "gpt-4o", "https://api.openai.com/v1"),
        ("openai/my-model", "http://10.0.0.1:8000/v1", {}, "openai", "my-model", "http://10.0.0.1:8000/v1"),
        ("my-model", "http://10.0.0.1:8000/v1", {}, "openai", "my-model", "http://10.0.0.1:8000/v1"),
        ("groq/llama-3.3-70b-versatile", None, {}, "groq", "llama-3.3-70b-versatile", "https://api.groq.com/openai/v1"),
        ("openrouter/meta-llama/x", None, {}, "openrouter", "meta-llama/x", "https://openrouter.ai/api/v1"),
        ("together_ai/a/b", None, {}, "together", "a/b", "https://api.together.ai/v1"),
        ("huggingface/nebius/Qwen/Q", None, {}, "huggingface", "Qwen/Q:nebius", "https://router.huggingface.co/v1"),
        ("hosted_vllm/a/b", "http://x:8000", {}, "vllm", "a/b", "http://x:8000/v1"),
        ("ollama/llama3.1:8b", "http://x:11434/", {}, "ollama", "llama3.1:8b", "http://x:11434"),
        ("ollama_chat/llama3.1", None, {}, "ollama", "llama3.1", "http://localhost:11434"),
        ("azure/dep", "https://r.openai.azure.com/", {}, "azure", "dep", "https://r.openai.azure.com/openai/v1"),
        ("azure/dep", "https://r.openai.azure.com", {"api_version": "2024-10-21"}, "azure", "dep",
         "https://r.openai.azure.com/openai"),
        ("azure/dep", "https://r.openai.azure.com/openai/v1/", {"api_version": "2024-10-21"}, "azure", "dep",
         "https://r.openai.azure.com/openai/v1"),
        ("azure_ai/Llama", "https://r.services.ai.azure.com", {}, "azure", "Llama",
         "https://r.services.ai.azure.com/openai/v1"),
        ("claude-sonnet-4", None, {}, "litellm", "anthropic/claude-sonnet-4", None),
        ("bedrock/anthropic.claude-v2", None, {"aws_region_name": "eu-west-1"}, "litellm",
         "bedrock/anthropic.claude-v2", None),
        ("vertex_ai/gemini-2.5-pro", None, {"vertex_project": "p"}, "litellm", "vertex_ai/gemini-2.5-pro", None),
        ("mistral/mistral-large", None, {}, "litellm", "mistral/mistral-large", None),
    ],
)  # fmt: skip
def test_each_provider_is_reached_in_its_own_dialect_or_through_litellm(
    model: str, base: str | None, params: dict[str, str | None], dialect: str, sent: str, url: str | None
) -> None:
    found = reach(model, base, None, params, CATALOGUE)
    assert (found.dialect, found.upstream_id, found.base_url) == (dialect, sent, url)


def test_credentials_of_a_cloud_go_to_litellm_by_reference() -> None:
    params = {
        "model": "bedrock/anthropic.claude-v2",
        "aws_region_name": "eu-west-1",
        "aws_access_key_id": "os.environ/AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "canary-secret",
    }
    assert imported(one(params), "--window", "100k") == 0
    text = Path("pointsman.yaml").read_text()
    assert "aws_region_name: eu-west-1" in text
    assert "aws_access_key_id: {env: AWS_ACCESS_KEY_ID}" in text
    assert "aws_secret_access_key: {env: AWS_SECRET_ACCESS_KEY}" in text
    assert "canary" not in text


def test_what_a_cloud_serves_is_known_by_the_catalogue_and_needs_no_second_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = {
        "model": "bedrock/meta.llama3-3-70b-instruct-v1:0",
        "aws_region_name": "us-east-1",
        "aws_access_key_id": "os.environ/AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "os.environ/AWS_SECRET_ACCESS_KEY",
    }
    assert imported(one(params)) == 0
    [target] = site().fleet.targets
    assert (target.model.id, target.window, target.backend.region) == ("llama-3.3-70b", 128_000, "us-east-1")
    assert target.price is not None
    assert "AWS_BEARER_TOKEN_BEDROCK" not in Path("pointsman.yaml").read_text(encoding="utf-8")
    assert "can be had without it: dialect bedrock" in capsys.readouterr().out


def test_included_files_and_named_credentials_are_read_as_litellm_does(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.yaml").write_text(
        "model_list:\n"
        "  - {model_name: '*', litellm_params: {model: '*'}}\n"
        "  - {model_name: extra, litellm_params: {model: openai/x, litellm_credential_name: ours}, "
        "model_info: {max_input_tokens: 9000}}\n",
        encoding="utf-8",
    )
    values = {"api_key": "os.environ/OUR_KEY", "api_base": "https://models.example.com/v1"}
    params = {"model": "groq/openai/gpt-oss-120b"}
    credential = {"credential_name": "ours", "credential_values": values}
    assert imported(one(params, include=["more.yaml"], credential_list=[credential], guardrails=[], a_b=1)) == 0
    text = Path("pointsman.yaml").read_text(encoding="utf-8")
    assert "models.example.com" in text
    assert "OUR_KEY" in text
    assert {target.upstream_id for target in site().fleet.targets} == {"openai/gpt-oss-120b", "x"}
    told = capsys.readouterr().out
    assert "more.yaml:2: model_list[1].model_name: not carried over: a wildcard" in told
    assert told.index("a_b") < told.index("guardrails")


def test_an_included_file_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(one({"model": "groq/openai/gpt-oss-120b"}, include=["away.yaml"])) == 2
    assert "away.yaml" in capsys.readouterr().err


def test_a_server_of_which_nothing_is_carried_over_is_not_written() -> None:
    kept = {"model_name": "a", "litellm_params": {"model": "groq/openai/gpt-oss-120b"}}
    lost = {"model_name": "b", "litellm_params": {"model": "anthropic/claude-sonnet-4-5"}}
    assert imported(json.dumps({"model_list": [kept, lost]})) == 0
    assert "ANTHROPIC_API_KEY" not in Path("pointsman.yaml").read_text(encoding="utf-8")


def test_a_variable_that_holds_no_address_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-a-secret")
    assert imported(one({"model": "hosted_vllm/a/Qwen3.5-9B", "api_base": "os.environ/THE_KEY"})) == 2
    told = capsys.readouterr()
    assert "what THE_KEY holds is not a URL of a server" in told.err
    assert "a-secret" not in told.err + told.out


def test_an_address_that_is_a_reference_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = one({"model": "hosted_vllm/a/Qwen3.5-9B", "api_base": "os.environ/VLLM_URL"}, more={"max_tokens": 32_768})
    assert imported(text) == 2
    assert "it is in VLLM_URL, which is not set here" in capsys.readouterr().err
    monkeypatch.setenv("VLLM_URL", "http://10.1.1.1:8000/v1")
    assert imported(text) == 0
    assert site().fleet.targets[0].backend.endpoints[0].host == "10.1.1.1"


def group(*deployments: dict[str, Any], **rest: Any) -> str:
    """A file with one group of several rented deployments, each with a key of its own."""
    entries = [
        {
            "model_name": "m",
            "litellm_params": {"model": "groq/qwen/qwen3.8-27b", "api_key": f"os.environ/KEY_{at}", **one},
            "model_info": {"max_input_tokens": 8192},
        }
        for at, one in enumerate(deployments)
    ]
    return json.dumps({"model_list": entries, **rest}, indent=1)


def test_the_limits_of_a_deployment_become_those_of_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(group({"rpm": 60, "tpm": 90_000, "max_parallel_requests": 4})) == 0
    assert "not carried over" not in capsys.readouterr().err
    quota = next(iter(site().quotas.targets.values()))
    assert (quota.rpm, quota.tpm, quota.max_concurrent) == (Cap(60), Cap(90_000), Cap(4))


def test_the_limits_of_servers_that_become_one_target_add_up() -> None:
    entries = [
        {
            "model_name": "m",
            "litellm_params": {**VLLM, "api_base": f"http://10.0.0.{at}/v1", "rpm": 60},
            "model_info": {"max_tokens": 4096},
        }
        for at in range(1, 4)
    ]
    assert imported(json.dumps({"model_list": entries})) == 0
    loaded = site()
    assert len(loaded.fleet.targets[0].backend.endpoints) == 3
    assert [one.rpm for one in loaded.quotas.targets.values()] == [Cap(180)]


def test_a_group_shares_its_load_by_one_measure_as_litellm_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(group({"rpm": 60}, {"weight": 3}, {"weight": 6})) == 0
    assert sorted(target.weight for target in site().fleet.targets) == [1, 1, 2]
    told = capsys.readouterr()
    assert "model_list[0]: says no weight, by which others of its group share the load" in told.out + told.err


def test_what_has_a_place_elsewhere_is_told_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "litellm_settings": {"max_budget": 10, "budget_duration": "30d"},
        "router_settings": {"redis_host": "r"},
    }
    assert imported(group({"max_budget": 5}, **settings)) == 0
    captured = capsys.readouterr()
    told = captured.out + captured.err
    for path in ("model_list[0].litellm_params.max_budget", "litellm_settings.max_budget"):
        assert f"{path}: not carried over: `budget:` of a key in `keys:`, or of a team" in told
    assert "litellm_settings.budget_duration: not carried over: `budget:`" in told
    assert "router_settings.redis_host: not carried over: `store:`" in told


def test_an_order_of_deployments_becomes_rungs() -> None:
    entries = [
        {"model_name": "q", "litellm_params": {"model": f"hosted_vllm/q{i}", "api_base": f"http://h{i}/v1", "order": o}}
        for i, o in ((1, 2), (2, 1), (3, 2))
    ]
    assert imported(json.dumps({"model_list": entries}), "--window", "8k") == 0
    loaded = site()
    assert candidates(loaded, "q")[0] == "q2-local-2"
    assert len(candidates(loaded, "q")) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model_list: [&a {model_name: x}, *a]\n", "anchors and aliases are refused"),
        ("model_list: []\nmodel_list: []\n", "stands here a second time"),
        ("model_list: {}\n", "holds no model_list"),
        ("a: b\n", "holds no model_list"),
        ("- a\n", "holds no keys"),
        ("model_list: !!python/object:os.system [x]\n", "tag"),
        ("model_list: []\n", "nothing of"),
        ("x" * 2_000_000, "larger than 1 MiB"),
        ("model_list: [" + "[" * 200 + "]" * 200 + "]\n", "nested deeper"),
        ("model_list: [null, 3, {model_name: a}, {model_name: 3, litellm_params: {model: 4}}]\n", "is no deployment"),
        ('model_list: [{model_name: a, litellm_params: {model: "nonsense/x"}}]\n', "is no provider that is known here"),
        ('model_list: [{model_name: a, litellm_params: {model: x, api_base: "http://u:canary@h/"}}]\n', "***@"),
        ('model_list: [{model_name: a, litellm_params: {model: x, api_base: "javascript:1"}}]\n', "not a URL"),
        ("\x00", "not YAML"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_in_words(text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(text, "--window", "8k") == 2
    told = capsys.readouterr().err
    assert says in told
    assert "canary" not in told
    assert "Traceback" not in told
    assert not Path("pointsman.yaml").exists()


ODD: list[Any] = [
    None, 7, -1, 0.5, True, "", "x", "a\nb: c", "os.environ/", "os.environ/A B", [], {}, [[]], "{}", "🚂" * 300
]  # fmt: skip
PARAMETERS = (
    "api_key", "timeout", "weight", "order", "rpm", "input_cost_per_token", "api_version", "custom",
    "custom_llm_provider", "tpm", "max_parallel_requests",
)  # fmt: skip
SETTINGS = (
    "fallbacks", "context_window_fallbacks", "default_fallbacks", "model_group_alias", "num_retries", "timeout"
)  # fmt: skip
VLLM = {"model": "hosted_vllm/a/Qwen3.5-9B", "api_base": "http://10.0.0.1/v1"}


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_values_of_any_type_make_no_broken_file(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    entries: list[dict[str, Any]] = [{"model_name": "good", "litellm_params": VLLM, "model_info": {"max_tokens": 4096}}]
    entries += [{"model_name": f"m-{name}", "litellm_params": {**VLLM, name: value}} for name in PARAMETERS]
    entries.append({"model_name": "info", "litellm_params": VLLM, "model_info": value})
    info = {"max_tokens": value, "base_model": value}
    entries.append({"model_name": "named", "litellm_params": VLLM, "model_info": info})
    file = {
        "model_list": entries,
        "router_settings": dict.fromkeys(SETTINGS, value),
        "litellm_settings": value,
        "general_settings": {"master_key": value},
        "environment_variables": value,
    }
    assert imported(json.dumps(file, indent=1), "--window", "8k") == 0, capsys.readouterr().err
    assert candidates(site(), "good")


NAMES = ["auto", "auto/x", "qwen3.5-9b", "a b", "x" * 300, "lexicon", "../../etc/passwd", "🚂", "#", "litellm"]


@pytest.mark.parametrize("name", NAMES)
def test_groups_may_be_called_anything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**VLLM, "model": "hosted_vllm/a/Qwen3.5-4B"}
    entries = [{"model_name": name, "litellm_params": VLLM}, {"model_name": name, "litellm_params": other}]
    assert imported(json.dumps({"model_list": entries}), "--window", "8k") == 0, capsys.readouterr().err
    assert not [path for path in Path("policies").iterdir() if path.suffix != ".yaml"]
    if not name.startswith("auto"):
        assert len(candidates(site(), name)) == 2
