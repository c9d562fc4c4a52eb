"""What the litellm process is told, and what a configuration of it must say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import ConfigError
from gateway.core.types import Secret
from gateway.fleet import Door
from gateway.sidecar.spec import environment
from gateway.site import Site, load_site
from tests.test_docs import the

BACKEND = "{dialect: litellm, key: {env: K}, litellm: {api_base: 'http://10.0.0.1/v1'}}"
TARGET = "{model: llama-3.3-70b, backend: far, upstream_id: openai/m, window: 128k, price: none}"
DOOR = Door(4321, Secret("the-token"))


def load(directory: Path, text: str, *, secrets: bool = True, **environ: str) -> Site:
    path = directory / "pointsman.yaml"
    path.write_text(text)
    return load_site(path, environ, tests=False, secrets=secrets, door=lambda: DOOR)


def written(backend: str = BACKEND, target: str = TARGET, more: str = "") -> str:
    python = f"sidecar: {{python: {sys.executable}}}\n" if "sidecar:" not in more else ""
    return f"{more}{python}backends:\n  far: {backend}\ntargets:\n  t: {target}\n"


def told(site: Site) -> dict[str, Any]:
    assert site.sidecar is not None
    line = site.sidecar.instructions(host="127.0.0.1", port=1, share_port=True, token=Secret("tok"))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_process_is_told_its_own_backends_and_the_gateway_where_it_is(tmp_path: Path) -> None:
    text = written() + (
        "  other: {model: llama-3.3-70b, backend: far, upstream_id: openai/b, window: 128k, price: none}\n"
        "  near: {model: llama-3.3-70b, backend: own, window: 8k, price: none}\n"
    )
    text = text.replace(
        "targets:", "  own: {dialect: vllm, base_url: 'http://10.0.0.2/v1', key: {env: OTHER}}\ntargets:"
    )
    site = load(tmp_path, text, K="sk-mine", OTHER="sk-not-yours")
    assert site.sidecar is not None
    assert site.sidecar.targets == {"t", "other"}
    said = told(site)
    assert said["backends"]["far"] == {
        "name": "far",
        "models": ["openai/b", "openai/m"],
        "api_base": "http://10.0.0.1/v1",
        "key": "sk-mine",
        "options": {},
        "timeout_s": 900.0,
    }
    assert "sk-not-yours" not in json.dumps(said)
    backend = site.fleet.targets[0].backend
    assert backend.endpoints[0].url == "http://127.0.0.1:4321/far/v1"
    assert backend.key == DOOR.token
    assert "messages" in said["members"]
    assert not {"api_base", "metadata", "mock_response", "extra_headers"} & set(said["members"])


def test_no_secret_is_in_what_is_run_or_shown(tmp_path: Path) -> None:
    backend = (
        "{dialect: litellm, key: {env: K}, litellm: {options: {aws_secret_access_key: {env: S}, api_version: v1}}}"
    )
    site = load(tmp_path, written(backend), K="sk-mine-long", S="sk-mine")
    assert site.sidecar is not None
    assert "sk-mine" not in repr(site.sidecar) + " ".join(site.sidecar.command())
    assert site.sidecar.secrets() == ("sk-mine-long", "sk-mine")
    assert told(site)["backends"]["far"]["options"] == {"aws_secret_access_key": "sk-mine", "api_version": "v1"}


def test_the_environment_is_an_allow_list() -> None:
    given = {"PATH": "/bin", "OPENAI_API_KEY": "sk-1", "HOME": "/root", "AWS_PROFILE": "x", "LITELLM_LOG": "DEBUG"}
    assert environment(given) == {"PATH": "/bin"}


def test_only_what_concerns_the_process_starts_another(tmp_path: Path) -> None:
    first = load(tmp_path, written(), K="a").sidecar
    assert first is not None
    same = load(tmp_path, written(more="drain: 5s\n"), K="a").sidecar
    assert same is not None
    assert same.same_process(first)
    other = load(tmp_path, written(), K="b").sidecar
    assert other is not None
    assert not other.same_process(first)


def test_without_such_a_backend_there_is_none(tmp_path: Path) -> None:
    remote = "{dialect: litellm, base_url: 'https://side.example/far/v1', key: {env: K}}"
    site = load(tmp_path, written(remote), K="sk-of-the-sidecar")
    assert site.sidecar is None
    assert site.fleet.targets[0].backend.key == Secret("sk-of-the-sidecar")


def test_an_interpreter_is_found_beside_the_file_from_wherever_the_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    site = load(Path(), written(more="sidecar: {python: bin/python}\n"), K="a")
    assert site.sidecar is not None
    assert site.sidecar.python == str(tmp_path / "bin" / "python")


BROKEN = {
    "a model without its provider": (written(target=TARGET.replace("openai/m", "m")), "targets.t.upstream_id: is not"),
    "no name of the model": (
        written(target=TARGET.replace("upstream_id: openai/m, ", "")),
        "targets.t.upstream_id: is not",
    ),
    "a key that is not there": (written(BACKEND.replace("env: K", "env: NONE")), "variable NONE is not set"),
    "no interpreter": (written(more="sidecar: {python: nowhere/python}\n"), "sidecar.python: no file"),
    "no litellm here": (
        written(more="sidecar: {}\n"),
        "yaml:3: backends.far: needs litellm, which is not",
    ),
    "litellm: elsewhere": (
        written("{dialect: vllm, base_url: 'http://a/v1', litellm: {}}"),
        "backends.far: has litellm:",
    ),
    "litellm: with an address": (
        written("{dialect: litellm, base_url: 'http://a/v1', litellm: {}}"),
        "backends.far: has litellm:",
    ),
    "a proxy": (written("{dialect: litellm, proxy: env}"), "backends.far: has proxy"),
    "an unknown option": (written("{dialect: litellm, litellm: {options: {callbacks: x}}}"), "callbacks"),
    "an address with a password": (
        written("{dialect: litellm, litellm: {api_base: 'http://u:sk-canary@a'}}"),
        "is not a URL of a server",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_is_told_by_line_and_leaks_nothing(tmp_path: Path, name: str) -> None:
    text, words = BROKEN[name]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, K="sk-canary")
    assert words in str(caught.value)
    assert "sk-canary" not in str(caught.value)
    assert all(problem.line for problem in caught.value.problems)


def test_a_machine_without_keys_can_judge_the_file(tmp_path: Path) -> None:
    site = load(tmp_path, written(more="sidecar: {python: nowhere/python}\n"), secrets=False)
    assert site.sidecar is not None


def test_the_readme_s_example_loads_with_window_and_price_of_the_catalogue(tmp_path: Path) -> None:
    site = load(tmp_path, the("sidecar"), secrets=False)
    assert site.warnings == ()
    [target] = site.fleet.targets
    assert target.window == 131072
    assert target.price is not None
    assert target.thinking == "never"
    assert told(site)["backends"]["watsonx"]["options"] == {"project_id": "3f0e"}
