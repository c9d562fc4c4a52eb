"""Reloading: what is noticed, what is swapped, what stays, and who is told why.

Most of it with a real Reloader on real files that looks a hundred times a second; then the running process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from gateway import reload
from gateway.core.errors import ConfigError, Problem
from gateway.core.reading.lexicon import Lexicon
from gateway.core.text.tokens import Tokenizers
from gateway.proxy.runtime import Runtime
from gateway.reload import Reloader
from gateway.site import Site, load_site
from gateway.telemetry.metrics import Metrics
from tests.harness import Gateway, Upstream, chat, config, plain, running, stream
from tests.proxy.test_requests import wait_for

SITE = """\
listen: {public: "127.0.0.1:0", admin: "127.0.0.1:0"}
policies: {dir: policies, default: home}
backends: {b: {dialect: vllm, base_url: "http://127.0.0.1:1/v1"}}
targets: {t: {model: llama-3.3-70b, backend: b, window: 128k}}
"""
HOME = """\
policy: home
as_of: 2026-11-21
rules:
  - {id: first, when: {stream: true}, use: ["*"]}
  - {id: rest, use: ["*"]}
tests:
  - {name: streams are first, given: {stream: true}, expect: {rule: first}}
"""
OTHER = HOME.replace("policy: home", "policy: other")


class Quick(Reloader):
    """A Reloader that notes what it loads, and has no other process check first."""

    def __init__(self, config: Path, runtime: Runtime, environ: Mapping[str, str]) -> None:
        super().__init__(config, runtime, environ)
        self.ended = 0

    async def _check_in_child(self) -> None:
        await asyncio.sleep(0)

    async def _reload_once(self) -> reload.Reloaded:
        made = await super()._reload_once()
        self.ended += 1
        return made


class Place:
    """A directory with a site, and a Reloader that watches it."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.directory = directory
        self.environ = environ
        self.reloader: Quick
        self.runtime: Runtime

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @property
    def site(self) -> Site:
        return self.runtime.serving.site

    @property
    def error(self) -> str:
        return self.reloader.last.error.replace(f"{self.directory}/", "")

    def counted(self, result: str) -> int:
        line = f'pointsman_config_reload_total{{result="{result}"}} '
        text = self.runtime.metrics.exposition().decode()
        return next((int(float(one.rpartition(" ")[2])) for one in text.splitlines() if one.startswith(line)), 0)

    async def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < end, f"waited in vain; the last reload said {self.error!r}"
            await asyncio.sleep(0.005)

    async def quiet(self) -> None:
        """Long enough for several looks, and no reload came."""
        ended = self.reloader.ended
        await asyncio.sleep(0.1)
        assert self.reloader.ended == ended

    def run(self, scenario: Callable[[Place], Awaitable[None]]) -> None:
        """Load the site, and play a scenario while it is watched."""

        async def play() -> None:
            site = load_site(self.directory / "pointsman.yaml", self.environ)
            metrics = Metrics(site.metric_names, build={"version": "0", "python": "0"})
            loop = asyncio.get_running_loop()
            self.runtime = Runtime(loop, metrics, None, Tokenizers(), Lexicon.empty())
            self.runtime.adopt(site)
            self.reloader = Quick(self.directory / "pointsman.yaml", self.runtime, self.environ)
            self.reloader.start()
            try:
                await scenario(self)
            finally:
                self.reloader.stop()
                self.runtime.close()

        asyncio.run(play())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache of parsed files for all: the catalogue takes a second to parse."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def place(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(reload, "WATCH_S", 0.01)
    made = Place(tmp_path, {"XDG_CACHE_HOME": cache})
    made.write("pointsman.yaml", SITE)
    made.write("policies/home.yaml", HOME)
    return made


# -- what is noticed --


def test_an_edited_file_is_served_and_counted(place: Place) -> None:
    async def scenario(place: Place) -> None:
        before = place.site
        place.write("pointsman.yaml", SITE + "models: {gpt-4o: auto}\n")
        await place.until(lambda: "gpt-4o" in place.site.routes)
        assert place.site.digest != before.digest
        assert (place.counted("ok"), place.counted("rejected"), place.error) == (1, 0, "")
        await place.quiet()

    place.run(scenario)


def test_an_edited_added_or_removed_policy_is_noticed(place: Place) -> None:
    async def scenario(place: Place) -> None:
        place.write("policies/home.yaml", HOME.replace("id: rest", "id: others"))
        await place.until(lambda: place.site.default_policy.rules[1].id == "others")
        place.write("policies/other.yaml", OTHER)
        await place.until(lambda: "other" in place.site.policies)
        (place.directory / "policies" / "other.yaml").unlink()
        await place.until(lambda: "other" not in place.site.policies)
        await place.quiet()

    place.run(scenario)


def test_what_an_editor_leaves_beside_the_policies_is_nobodys_business(place: Place) -> None:
    async def scenario(place: Place) -> None:
        for name in ("policies/.home.yaml.swp", "policies/4913", "policies/home.yaml~", "pointsman.yaml.orig"):
            place.write(name, "x")
        await place.quiet()

    place.run(scenario)


def test_a_swapped_link_as_of_a_mounted_configmap_is_noticed(place: Place) -> None:
    mounted = place.directory / "mounted"

    def mount(version: str, text: str) -> None:
        place.write(f"mounted/{version}", "")
        (mounted / version).unlink()
        (mounted / version).mkdir()
        (mounted / version / "home.yaml").write_text(text)
        os.utime(mounted / version / "home.yaml", (1, 1))  # times tell nothing there
        (mounted / "..tmp").symlink_to(version)
        (mounted / "..tmp").rename(mounted / "..data")

    async def scenario(place: Place) -> None:
        for number in (2, 3):
            mount(f"..v{number}", HOME.replace("id: rest", f"id: rest{number}"))
            name = f"rest{number}"
            await place.until(lambda name=name: place.site.default_policy.rules[1].id == name)  # type: ignore[misc]
        await place.quiet()

    mount("..v1", HOME)
    (mounted / "home.yaml").symlink_to("..data/home.yaml")
    place.write("pointsman.yaml", SITE.replace("dir: policies", "dir: mounted"))
    place.run(scenario)


def test_a_file_replaced_while_it_is_read_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["id: second", "id: third"]

    def reading(path: Path, environ: Mapping[str, str], **more: Any) -> Site:
        site = load_site(path, environ, **more)
        if changes:  # after our read, before the swap
            time.sleep(0.06)
            place.write("policies/home.yaml", HOME.replace("id: rest", changes.pop(0)))
        return site

    async def scenario(place: Place) -> None:
        place.reloader.request()
        await place.until(lambda: place.site.default_policy.rules[1].id == "third")
        await place.quiet()

    monkeypatch.setattr(reload, "load_site", reading)
    place.run(scenario)


def test_a_new_file_that_was_half_written_when_it_was_read_is_read_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = [OTHER[:40]]

    def reading(path: Path, environ: Mapping[str, str], **more: Any) -> Site:
        try:
            return load_site(path, environ, **more)
        finally:
            if halves:
                halves.clear()
                place.write("policies/other.yaml", OTHER)

    async def scenario(place: Place) -> None:
        place.write("policies/other.yaml", halves[0])
        await place.until(lambda: "other" in place.site.policies)

    monkeypatch.setattr(reload, "load_site", reading)
    place.run(scenario)


def test_a_file_that_is_named_for_the_first_time_while_it_is_written_is_read_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(path: Path, environ: Mapping[str, str], **more: Any) -> Site:
        try:
            return load_site(path, environ, **more)
        finally:
            if (secret := place.directory / "secret").read_text() != "sk-whole":
                secret.write_text("sk-whole")

    async def scenario(place: Place) -> None:
        place.write("secret", "sk-ha")
        place.write("pointsman.yaml", SITE.replace('base_url: "', 'key: {file: secret}, base_url: "'))
        await place.until(lambda: held(place) == "sk-whole")

    monkeypatch.setattr(reload, "load_site", reading)
    place.run(scenario)


def held(place: Place) -> str:
    key = place.site.fleet.targets[0].backend.key
    return "" if key is None else key.reveal()


def test_a_request_during_a_reload_makes_another_follow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(place: Place) -> None:
        first = place.reloader.request()
        await asyncio.sleep(0)  # it has begun: what changes from here on may have been read already
        assert place.reloader.request() is first
        assert place.reloader.request() is first
        assert (await first).error == ""
        assert place.reloader.ended == 2

    place.run(scenario)


# -- what stays --

BROKEN: dict[str, tuple[str, str, str]] = {
    "not YAML": ("pointsman.yaml", SITE + "models: [\n", "pointsman.yaml:"),
    "an unknown key": ("pointsman.yaml", SITE + "surprise: 1\n", "pointsman.yaml:5: surprise: there is no key"),
    "a missing variable": (
        "pointsman.yaml",
        SITE.replace('base_url: "', 'key: {env: NOT_SET}, base_url: "'),
        "pointsman.yaml:3: backends.b.key: environment variable NOT_SET is not set",
    ),
    "a policy that fails its test": (
        "policies/home.yaml",
        HOME.replace("stream: true}, use", "stream: false}, use"),
        "policies/home.yaml:7: tests[0]: the test 'streams are first' fails",
    ),
    "a policy that names nothing": ("policies/home.yaml", HOME.replace('["*"]', "[{model: lama}]"), "did you mean"),
    "a policy that leaks": (
        "policies/home.yaml",
        HOME.replace("rules:", "constraints: [{id: at-home, forbid: {target.region: {not: eu}}}]\nrules:"),
        "policies/home.yaml:3: constraints[0]",
    ),
    "an alias": ("policies/home.yaml", HOME.replace("rules:", "sets: &a {}\nrules:"), "policies/home.yaml:3"),
    "10,000 levels": (
        "policies/home.yaml",
        HOME + "sets: {a: " + "[" * 10_000 + "]" * 10_000 + "}\n",
        "policies/home.yaml:",
    ),
    "more than 1 MiB": ("policies/home.yaml", HOME + "# \n" * 400_000, "is larger than 1 MiB"),
    "NUL": ("policies/home.yaml", HOME + "# \0\n", "policies/home.yaml:"),
    "a key twice": ("policies/home.yaml", HOME + "policy: home\n", "policies/home.yaml:"),
    "500 mistakes": (
        "policies/home.yaml",
        HOME.replace("rules:", "rules:\n" + "".join(f"  - {{id: x{n}, use: [{{model: lama}}]}}\n" for n in range(500))),
        "policies/home.yaml:1: has at least 100 mistakes",
    ),
    "a test that means nothing": (
        "policies/home.yaml",
        HOME.replace("given: {", "given: {tsak: x, "),
        "policies/home.yaml:",
    ),
    "an empty file": ("pointsman.yaml", "", "pointsman.yaml:"),
    "two policies of one name": ("policies/other.yaml", HOME, "home is already another file's policy"),
    "no default": ("policies/home.yaml", OTHER, "policies.default: no policy 'home'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_load_changes_nothing_until_it_is_mended(
    place: Place, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, text, says = BROKEN[name]
    path = place.directory / file
    good = path.read_text() if path.exists() else OTHER

    async def scenario(place: Place) -> None:
        before = place.site
        place.write(file, text)
        await place.until(lambda: place.error)
        assert says in place.error
        assert place.site is before
        assert (place.counted("ok"), place.counted("rejected")) == (0, 1)
        await place.quiet()  # one complaint for one mistake
        assert "the old configuration stays" in caplog.text
        assert any(says.partition("/")[2] in line for one in caplog.records for line in getattr(one, "lines", ()))
        place.write(file, good + "\n")
        await place.until(lambda: not place.error)
        assert place.site is not before
        assert place.counted("ok") == 1

    with caplog.at_level(logging.INFO):
        place.run(scenario)


def test_a_file_that_goes_away_and_comes_back(place: Place) -> None:
    async def scenario(place: Place) -> None:
        before = place.site
        (place.directory / "pointsman.yaml").rename(place.directory / "away")
        await place.until(lambda: "pointsman.yaml: cannot be read" in place.error)
        assert place.site is before
        (place.directory / "away").rename(place.directory / "pointsman.yaml")
        await place.until(lambda: not place.error)

    place.run(scenario)


def test_a_secret_that_comes_late_heals_the_file_that_named_it(place: Place) -> None:
    async def scenario(place: Place) -> None:
        place.write("pointsman.yaml", SITE.replace('base_url: "', 'key: {file: secret}, base_url: "'))
        await place.until(lambda: "secret cannot be read" in place.error)
        place.write("secret", "sk-late-1")
        await place.until(lambda: not place.error)
        assert held(place) == "sk-late-1"
        place.write("secret", "sk-later-2")  # rotated
        await place.until(lambda: held(place) == "sk-later-2")

    place.run(scenario)


def test_a_request_of_a_test_that_is_mended_heals_the_policy(place: Place) -> None:
    async def scenario(place: Place) -> None:
        test = "  - {name: from a file, request: streams.json, expect: {rule: first}}\n"
        place.write("policies/home.yaml", HOME + test)
        await place.until(lambda: "streams.json cannot be read" in place.error)
        place.write("policies/streams.json", '{"model": "auto", "messages": [{"role": "user", "content": "x"}]}')
        await place.until(lambda: "'from a file' fails" in place.error)
        place.write(
            "policies/streams.json",
            '{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "x"}]}',
        )
        await place.until(lambda: not place.error)
        place.write("policies/streams.json", "{")
        await place.until(lambda: "is refused before anything is decided" in place.error)

    place.run(scenario)


def test_an_overlay_that_only_the_broken_file_names_is_watched_until_it_is_mended(place: Place) -> None:
    async def scenario(place: Place) -> None:
        place.write("more.yaml", "models: [")
        place.write("pointsman.yaml", SITE + "catalog: more.yaml\n")
        await place.until(lambda: "more.yaml" in place.error)
        place.write("more.yaml", "models: {mine: {family: own, window: 8k, source: ours}}\nas_of: 2026-11-21\n")
        await place.until(lambda: place.reloader.ended == 2)

    place.run(scenario)


@pytest.mark.parametrize(
    "broken", [RuntimeError("a defect"), OSError("too many open files"), ConfigError([Problem("f", 1, "p", "w")])]
)
def test_whatever_goes_wrong_while_loading_is_told_and_watching_goes_on(
    place: Place, broken: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, environ: Mapping[str, str], **more: Any) -> Site:
        raise broken

    async def scenario(place: Place) -> None:
        before = place.site
        with monkeypatch.context() as patched:
            patched.setattr(reload, "load_site", failing)
            assert (await place.reloader.request()).error
        assert place.site is before
        assert place.counted("rejected") == 1
        place.write("pointsman.yaml", SITE + "models: {gpt-4o: auto}\n")
        await place.until(lambda: "gpt-4o" in place.site.routes)

    place.run(scenario)


def test_what_only_a_restart_can_change_is_said(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(place: Place) -> None:
        place.write(
            "pointsman.yaml", SITE.replace('public: "127.0.0.1:0"', 'public: "127.0.0.1:9"') + "records: {dir: r}\n"
        )
        await place.until(lambda: place.counted("ok") == 1)

    with caplog.at_level(logging.WARNING):
        place.run(scenario)
    told = [record.message for record in caplog.records if "next start" in record.message]
    assert [line.split(" ")[0] for line in told] == ["listen.public", "records"]


def test_what_was_put_back_needs_no_restart(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(place: Place) -> None:
        place.write("pointsman.yaml", SITE.replace('public: "127.0.0.1:0"', 'public: "127.0.0.1:9"'))
        await place.until(lambda: place.counted("ok") == 1)
        caplog.clear()
        place.write("pointsman.yaml", SITE)
        await place.until(lambda: place.counted("ok") == 2)

    with caplog.at_level(logging.WARNING):
        place.run(scenario)
    assert not [record.message for record in caplog.records if "next start" in record.message]


def test_a_vocabulary_that_a_new_target_counts_with_is_known_after_the_reload(place: Place) -> None:
    async def scenario(place: Place) -> None:
        assert place.runtime.tokenizers.lacking("qwen3.5") == "is not known here"
        place.write(
            "pointsman.yaml",
            SITE.replace("window: 128k}", "window: 128k}, q: {model: qwen3.5-9b, backend: b, window: 128k}"),
        )
        await place.until(lambda: len(place.site.fleet.targets) == 2)
        known = place.runtime.tokenizers
        assert known.usable("qwen3.5") or "is not installed" in known.lacking("qwen3.5")

    place.run(scenario)


# -- the running process --


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("reload")
    (directory / "policies").mkdir()
    (directory / "policies" / "home.yaml").write_text(HOME)
    upstream = Upstream([plain()])
    settings = config({"a": upstream}, policies={"dir": "policies", "default": "home"})
    with contextlib.closing(upstream), running(directory, settings) as gateway:
        yield gateway


@pytest.fixture
def kept(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """What /readyz says at first; afterwards the files are as they were."""
    files = [gateway.directory / "pointsman.yaml", gateway.directory / "policies" / "home.yaml"]
    texts = [path.read_text() for path in files]
    before = gateway.get("/readyz").json()
    yield before
    for path, text in zip(files, texts, strict=True):
        path.write_text(text)
    assert httpx.post(gateway.admin + "/v1/reload", timeout=30).status_code == 200


def total(gateway: Gateway, result: str) -> float:
    return gateway.metric(f'pointsman_config_reload_total{{result="{result}"}}')


def test_a_policy_that_fails_its_tests_is_told_by_readyz_and_metrics(gateway: Gateway, kept: dict[str, Any]) -> None:
    rejected = total(gateway, "rejected")
    path = gateway.directory / "policies" / "home.yaml"
    path.write_text(HOME.replace("stream: true}, use", "stream: false}, use"))
    wait_for(lambda: total(gateway, "rejected") == rejected + 1, 10)  # by the watch alone
    ready = gateway.get("/readyz")
    told = ready.json()
    assert (ready.status_code, told["status"], told["config"]) == (200, "ready", kept["config"])
    assert told["reload"]["ok"] is False
    assert "home.yaml" not in ready.text
    detailed = gateway.get("/readyz", admin=True).json()
    assert detailed["reload"]["error"].startswith(f"{path}:7: tests[0]: the test 'streams are first' fails")
    assert told["reload"]["at"] > kept["reload"]["at"]
    assert gateway.post(chat()).headers["x-pointsman-rule"] == "rest"
    assert any("the test 'streams are first' fails" in line for line in gateway.lines)


def test_sighup_reloads_and_readyz_forgets_the_error(gateway: Gateway, kept: dict[str, Any]) -> None:
    ok, rejected = total(gateway, "ok"), total(gateway, "rejected")
    gateway.process.send_signal(signal.SIGHUP)  # though nothing changed that the watch could see
    wait_for(lambda: total(gateway, "ok") == ok + 1, 10)
    path = gateway.directory / "policies" / "home.yaml"
    path.write_text("policy: [")
    gateway.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not gateway.get("/readyz").json()["reload"]["ok"], 10)
    assert total(gateway, "rejected") > rejected  # the watch may have seen it too
    path.write_text(HOME.replace("id: rest", "id: others"))
    gateway.process.send_signal(signal.SIGHUP)
    wait_for(lambda: gateway.get("/readyz").json()["reload"]["ok"], 10)
    assert gateway.get("/readyz").json()["config"] != kept["config"]
    assert gateway.post(chat()).headers["x-pointsman-rule"] == "others"
    assert total(gateway, "ok") > ok + 1


def test_what_takes_too_long_to_load_is_not_loaded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "CHILD_CPU_S", 1)
    monkeypatch.setattr(Quick, "_check_in_child", reload.Reloader._check_in_child)

    async def scenario(place: Place) -> None:
        before = place.site
        place.write(
            "policies/long.yaml",
            "policy: long\nrules:\n" + "".join(f"- {{id: r{n}, use: ['*']}}\n" for n in range(16_000)),
        )
        told = await place.reloader.request()
        assert "takes more than 1 s of CPU to load" in told.error
        assert place.site is before

    place.run(scenario)


HOSTILE = {
    "it does not load": "policy: [",
    "it fails its test": HOME.replace("stream: true}, use", "stream: false}, use"),
    "it leaks": HOME.replace("rules:", "constraints: [{id: c, forbid: {target.region: {not: eu}}}]\nrules:"),
    "it is a bomb": "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(1_000)),
    "it is deep": HOME + "sets: {a: " + "[" * 10_000 + "]" * 10_000 + "}\n",
    "it is full of mistakes": "policy: home\nrules:\n" + "".join(f"- {{id: r{n}, uze: [x]}}\n" for n in range(14_000)),
}


@pytest.mark.parametrize("why", HOSTILE)
def test_a_policy_that_must_not_be_served_never_is_before_during_and_after(
    gateway: Gateway, kept: dict[str, Any], why: str
) -> None:
    def served() -> tuple[int, str, str]:
        answer = gateway.post(chat())
        return answer.status_code, answer.headers["x-pointsman-rule"], answer.headers["x-pointsman-policy"]

    before, rejected = served(), total(gateway, "rejected")
    (gateway.directory / "policies" / "home.yaml").write_text(HOSTILE[why])
    seen = {before}

    def told() -> bool:
        seen.add(served())
        return total(gateway, "rejected") > rejected

    wait_for(told, 60)
    seen.add(served())
    assert seen == {before}
    assert gateway.get("/readyz").json()["config"] == kept["config"]


def test_a_missing_variable_is_named_and_never_a_value(gateway: Gateway, kept: dict[str, Any]) -> None:
    path = gateway.directory / "pointsman.yaml"
    settings = YAML(typ="safe").load(path.read_text())
    settings["backends"]["a"]["key"] = {"env": "NOT_SET_ANYWHERE"}
    with path.open("w") as file:
        YAML().dump(settings, file)
    answer = httpx.post(gateway.admin + "/v1/reload", timeout=30)
    assert answer.status_code == 400
    assert "environment variable NOT_SET_ANYWHERE is not set" in answer.json()["error"]["message"]
    assert gateway.get("/readyz").json()["config"] == kept["config"]
    assert gateway.post(chat()).status_code == 200
    assert not any("sk-upstream-canary" in line for line in gateway.lines)


def test_a_stream_goes_on_through_many_reloads(tmp_path: Path) -> None:
    upstream = Upstream([stream(pause_s=0.15)])
    with contextlib.closing(upstream), running(tmp_path, config({"a": upstream})) as gateway:
        with httpx.stream(
            "POST", gateway.public + "/v1/chat/completions", json=chat("a", stream=True), timeout=30,
            headers={"authorization": "Bearer sk-test-0123456789"},
        ) as answer:  # fmt: skip
            for _ in range(3):
                gateway.process.send_signal(signal.SIGHUP)
            data = answer.read()
        assert data.endswith(b"data: [DONE]\n\n")
        assert httpx.post(gateway.admin + "/v1/reload", timeout=30).status_code == 200
