"""Loading a whole site: what it leads to, what it refuses, who may use what."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from gateway import bundled
from gateway.core.errors import BadRequest, ConfigError, Denied, NotFound
from gateway.core.money.limits import Allowance, Cap
from gateway.core.types import NANO_PER_USD, Tenant
from gateway.listing import listing
from gateway.policyfile import reference_fleet
from gateway.site import Site, SiteError, load_lexicon, load_site

ROOT = Path(__file__).parent.parent
DAY = date(2026, 11, 21)
ENVIRON = {"DASHSCOPE_API_KEY": "sk-canary-1", "DEEPINFRA_API_KEY": "sk-canary-2"}


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


SITE = f"""\
policies: {{dir: policies, default: first}}
models: {{gpt-4o: auto, gpt-4o-mini: auto/second, llama: llama-4-scout}}
backends:
  vllm-eu: {{dialect: vllm, region: eu, self_hosted: true, base_url: "http://10.0.0.7:8000/v1"}}
  deepinfra:
    {{dialect: openai, region: us, base_url: "https://api.deepinfra.com/v1/openai", key: {{env: DEEPINFRA_API_KEY}}}}
  alibaba: {{dialect: dashscope, processing: global, base_url: "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"}}
targets:
  scout-eu: {{model: llama-4-scout, backend: vllm-eu, window: 1M, price: {{gpu_hour_usd: 3.20, tokens_per_hour: 40M}}}}
  scout-us: {{model: llama-4-scout, backend: deepinfra}}
  qwen-plus: {{model: qwen3.5-plus, backend: alibaba, price: catalog}}
keys:
  - {{name: wide, sha256: {sha("wide")}, tenant: {{team: a}}}}
  - {{name: auto-only, sha256: {sha("auto-only")}, tenant: {{team: b}}, allow: [auto]}}
  - {{name: one-model, sha256: {sha("one-model")}, allow: [llama-4-scout]}}
  - {{name: one-target, sha256: {sha("one-target")}, allow: [scout-us]}}
"""
FIRST = """\
policy: first
rules:
  - {id: scout, when: {stream: true}, use: [{model: llama-4-scout}, {family: "*"}]}
  - {id: default, use: [{family: "*"}]}
"""
SECOND = 'policy: second\nrules:\n  - {id: default, use: [{family: qwen}, {family: "*"}]}\n'


class Directory:
    """A directory with a site's files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "policies").mkdir()
        self.write(SITE)
        self.write(FIRST, "policies/first.yaml")
        self.write(SECOND, "policies/second.yaml")

    def write(self, text: str, name: str = "pointsman.yaml") -> None:
        (self.path / name).write_text(text)

    def change(self, old: str, new: str, name: str = "pointsman.yaml") -> None:
        text = (self.path / name).read_text()
        assert old in text
        self.write(text.replace(old, new), name)

    def load(self, environ: Mapping[str, str] = ENVIRON, *, tests: bool = True, secrets: bool = True) -> Site:
        return load_site(self.path / "pointsman.yaml", environ, today=DAY, tests=tests, secrets=secrets)

    def told(self, environ: Mapping[str, str] = ENVIRON) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(environ)
        return str(caught.value).replace(f"{self.path}/", "")


@pytest.fixture
def files(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


@pytest.fixture
def site(files: Directory) -> Site:
    return files.load(tests=False)


def tenant(site: Site, key: str) -> Tenant:
    return site.keys[hashlib.sha256(key.encode()).digest()].tenant


# -- what it leads to --


def test_a_target_takes_from_the_offer_what_the_file_leaves_out(site: Site) -> None:
    scout_eu, scout_us, plus = site.fleet.targets
    assert (scout_us.window, scout_us.upstream_id) == (327_680, "meta-llama/Llama-4-Scout-17B-16E-Instruct")
    assert scout_us.price is not None
    assert scout_us.price.version == "litellm_json@2026-11"
    assert scout_us.modalities == {"text"}  # that host lists no image input for it
    assert (plus.window, plus.max_input, plus.max_output) == (1_000_000, 991_808, 65_536)
    assert plus.backend.region == "ap-southeast-1"  # the provider's only one
    assert (scout_eu.window, scout_eu.upstream_id) == (1_000_000, "llama-4-scout")
    assert scout_eu.modalities == {"text", "image"}
    assert scout_eu.price is not None
    assert scout_eu.price.tiers[0].input == 80_000_000
    assert scout_eu.price.version.startswith("pointsman.yaml@")


def test_a_switch_nobody_can_send_is_no_switch(files: Directory) -> None:
    files.change(
        "  qwen-plus:", "  q-us: {model: qwen3.5-9b, backend: deepinfra}\n"
        "  q-eu: {model: qwen3.5-9b, backend: vllm-eu, window: 128k}\n  qwen-plus:"
    )  # fmt: skip
    thinking = {target.name: target.thinking for target in files.load(tests=False).fleet.targets}
    assert thinking == {
        "scout-eu": "never", "scout-us": "never", "q-us": "unknown", "q-eu": "switchable", "qwen-plus": "switchable",
    }  # fmt: skip


def test_a_secret_is_read_and_does_not_print(site: Site) -> None:
    key = site.fleet.targets[1].backend.key
    assert key is not None
    assert key.reveal() == "sk-canary-2"
    assert "canary" not in repr(site)


def test_the_example_of_the_documentation_loads(files: Directory) -> None:
    files.write(
        f"""\
listen: {{public: 0.0.0.0:8080, admin: 127.0.0.1:8081}}
policies: {{dir: policies, default: default}}
models: {{gpt-4o: auto, gpt-4o-mini: auto/cost-first, llama: llama-4-scout}}
unknown_model: reject
backends:
  vllm-eu: {{dialect: vllm, region: eu, self_hosted: true, endpoints: ["http://10.0.0.7:8000/v1", "http://10.0.0.8:8000/v1"]}}
  alibaba: {{dialect: dashscope, region: ap-southeast-1, processing: global, base_url: https://dashscope-intl.aliyuncs.com/compatible-mode/v1, key: {{env: DASHSCOPE_API_KEY}}}}
targets:
  scout-eu: {{model: llama-4-scout, backend: vllm-eu, window: 1M, price: {{gpu_hour_usd: 3.20, tokens_per_hour: 40M}}}}
  qwen-plus: {{model: qwen3.5-plus, backend: alibaba, price: catalog}}
keys:
  - {{name: checkout, sha256: "{sha("k")}", tenant: {{team: shop, domicile: SG, cost: low}}, allow: [auto], rpm: 600, tpm: 2M, budget: {{usd: 50, per: day, mode: hard}}}}
timeouts: {{connect: 2s, headers: 30s, first_event: 120s, idle: 60s, total: 15m}}
"""  # noqa: E501 - as it is printed there
    )
    (files.path / "policies" / "default.yaml").write_bytes((bundled.policies() / "default.yaml").read_bytes())
    shutil.copytree(bundled.policies() / "parts", files.path / "policies" / "parts")
    files.write(SECOND.replace("second", "cost-first"), "policies/cost-first.yaml")
    site = files.load()
    assert site.listen_public == ("0.0.0.0", 8080)
    assert [target.name for target in site.fleet.targets] == ["scout-eu", "qwen-plus"]
    assert len(site.fleet.targets[0].backend.endpoints) == 2
    assert site.timeouts.total_s == 900.0
    facts = tenant(site, "k").facts
    assert facts == {"team": "shop", "domicile": "SG", "cost": "low"}
    assert tenant(site, "k").limited
    assert site.quotas.keys["checkout"].rpm == Cap(600)
    assert site.quotas.keys["checkout"].budgets == (Allowance(50 * NANO_PER_USD, "day"),)


def test_the_example_file_loads_with_the_policies_that_come_along() -> None:
    site = load_site(ROOT / "pointsman.example.yaml", ENVIRON, today=DAY)
    assert site.default_policy.name == "default"
    assert site.warnings == ()


def test_the_reference_fleet_crosses_families_regions_and_ways_of_hosting() -> None:
    fleet = reference_fleet()
    assert {target.model.family for target in fleet.targets} >= {"llama", "qwen", "gpt-oss", "gemma", "deepseek"}
    places = {"us", "us-east-1", "us-central1", "eu", "eu-central-1", "sg", "jp", "ap-southeast-1", "ap-northeast-1"}
    assert {target.backend.region for target in fleet.targets} == places | {"cn-hongkong", "cn-beijing", None}
    assert {target.backend.self_hosted for target in fleet.targets} == {True, False}
    assert [target.index for target in fleet.targets] == list(range(len(fleet.targets)))
    by_name = {target.name: target for target in fleet.targets}
    assert by_name["scout-deepinfra"].window == 327_680
    assert by_name["qwen-flash"].price is None


def test_every_policy_that_comes_along_loads_and_passes_its_own_tests(tmp_path: Path) -> None:
    (tmp_path / "pointsman.yaml").write_text((ROOT / "pointsman.example.yaml").read_text())
    site = load_site(tmp_path / "pointsman.yaml", ENVIRON, today=DAY)
    shipped = {path.stem for path in bundled.policies().glob("*.yaml")} - {"lexicon"}
    assert set(site.policies) == shipped


def test_the_lexicon_that_comes_along_loads() -> None:
    assert load_lexicon() is not None


# -- names --


@pytest.mark.parametrize(
    ("asked", "policy", "targets"),
    [
        ("auto", "first", None),
        ("auto/first", "first", None),
        ("auto/second", "second", None),
        ("gpt-4o", "first", None),
        ("gpt-4o-mini", "second", None),
        ("llama", "first", ["scout-eu", "scout-us"]),
        ("llama-4-scout", "first", ["scout-eu", "scout-us"]),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "first", ["scout-eu", "scout-us"]),
        ("scout-us", "first", ["scout-us"]),
        ("qwen3.5-plus", "first", ["qwen-plus"]),
    ],
)
def test_a_name_leads_to_a_policy_and_maybe_to_some_targets(
    site: Site, asked: str, policy: str, targets: list[str] | None
) -> None:
    found, pinned = site.resolve(asked)
    assert found.name == policy
    names = None if pinned is None else [target.name for target in site.fleet.targets if pinned >> target.index & 1]
    assert names == targets


@pytest.mark.parametrize("asked", ["gpt-5", "", "AUTO", "auto/", "auto/none", "llama-4-maverick", "first", "vllm-eu"])
def test_an_unknown_name_is_refused_even_if_the_catalogue_knows_the_model(site: Site, asked: str) -> None:
    with pytest.raises(NotFound) as caught:
        site.resolve(asked)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_unknown_names_may_go_to_a_policy_instead(files: Directory) -> None:
    files.change("backends:", "unknown_model: second\nbackends:")
    policy, pinned = files.load(tests=False).resolve("gpt-5")
    assert (policy.name, pinned) == ("second", None)


def test_a_hint_changes_the_policy_and_keeps_the_pin(site: Site) -> None:
    policy, pinned = site.resolve("scout-us", "second")
    assert (policy.name, pinned) == ("second", 0b010)
    with pytest.raises(BadRequest):
        site.resolve("auto", "none")


@pytest.mark.parametrize(
    ("key", "asked", "hint", "may"),
    [
        ("wide", "auto", None, True),
        ("wide", "qwen-plus", "second", True),
        ("auto-only", "auto", None, True),
        ("auto-only", "gpt-4o", None, True),  # another name for auto
        ("auto-only", "auto/first", None, True),  # so is the default policy's own name
        ("auto-only", "auto/second", None, False),
        ("auto-only", "gpt-4o-mini", None, False),  # the map must not open what the plain name would not
        ("auto-only", "auto", "second", False),  # nor must a hint
        ("auto-only", "llama-4-scout", None, False),
        ("auto-only", "llama", None, False),
        ("auto-only", "scout-us", None, False),
        ("one-model", "llama-4-scout", None, True),
        ("one-model", "llama", None, True),
        ("one-model", "meta-llama/Llama-4-Scout-17B-16E-Instruct", None, True),
        ("one-model", "scout-us", None, True),
        ("one-model", "scout-us", "second", False),
        ("one-model", "auto", None, False),
        ("one-model", "qwen3.5-plus", None, False),
        ("one-target", "scout-us", None, True),
        ("one-target", "llama-4-scout", None, False),  # would also mean scout-eu
        ("one-target", "scout-eu", None, False),
    ],
)
def test_what_a_key_may_use_is_judged_on_what_the_name_leads_to(
    site: Site, key: str, asked: str, hint: str | None, may: bool
) -> None:
    policy, pinned = site.resolve(asked, hint)
    who = tenant(site, key)
    if may:
        site.allow(who, asked, policy, pinned)
    else:
        with pytest.raises(Denied) as caught:
            site.allow(who, asked, policy, pinned)
        assert caught.value.code == "model_not_allowed"


def test_unknown_names_do_not_widen_a_key(files: Directory) -> None:
    files.change("backends:", "unknown_model: second\nbackends:")
    site = files.load(tests=False)
    with pytest.raises(Denied):
        site.allow(tenant(site, "auto-only"), "gpt-5", *site.resolve("gpt-5"))


OWN = "".join(
    f'\n  - {{name: {name}, sha256: "{hashlib.sha256(name.encode()).hexdigest()}", policy: second{more}}}'
    for name, more in (("own", ""), ("own-and-first", ', allow: ["*"]'), ("own-auto", ", allow: [auto]"))
)


@pytest.mark.parametrize(
    ("key", "asked", "hint", "policy", "may"),
    [
        ("own", "auto", None, "second", True),
        ("own", "gpt-4o", None, "second", True),  # another name for auto
        ("own", "scout-us", None, "second", True),  # a pin is judged by the key's own policy
        ("own", "scout-us", "first", "first", False),  # a hint does not get it out
        ("own", "auto/first", None, "first", False),
        ("own", "auto/second", None, "second", True),
        ("own-and-first", "auto/first", None, "first", True),  # where the key says so
        ("own-and-first", "auto", None, "second", True),
        ("own-auto", "auto", None, "second", True),
        ("own-auto", "scout-us", None, "second", False),
    ],
)
def test_a_key_can_have_a_default_policy_of_its_own_that_it_does_not_get_out_of(
    files: Directory, key: str, asked: str, hint: str | None, policy: str, may: bool
) -> None:
    files.change("\nkeys:", "\nkeys:" + OWN)
    site = files.load(tests=False)
    who = tenant(site, key)
    found, pinned = site.resolve(asked, hint, who.policy)
    assert found.name == policy
    if may:
        site.allow(who, asked, found, pinned)
    else:
        with pytest.raises(Denied):
            site.allow(who, asked, found, pinned)
    listed = {entry["id"]: entry["pointsman"] for entry in listing(site, who)}
    assert listed["auto"]["policy"].startswith("second@")
    assert ("auto/first" in listed) == (key == "own-and-first")


def test_a_key_s_policy_must_exist(files: Directory) -> None:
    files.change("\nkeys:", '\nkeys:\n  - {name: own, sha256: "' + "a" * 64 + '", policy: secnd}')
    with pytest.raises(ConfigError, match=r"keys\[0\]\.policy: no policy 'secnd': .*second"):
        files.load(tests=False)


def test_a_key_this_site_does_not_know_may_nothing(site: Site) -> None:
    with pytest.raises(Denied):
        site.allow(Tenant("stranger"), "auto", *site.resolve("auto"))
    assert listing(site, Tenant("stranger")) == []


def test_without_keys_everybody_may_everything(files: Directory) -> None:
    files.change(SITE[SITE.index("keys:") :], "")
    site = files.load(tests=False)
    assert site.keys == {}
    site.allow(Tenant("anonymous"), "qwen-plus", *site.resolve("qwen-plus"))


def test_a_listing_has_what_the_key_may_send_and_no_more(site: Site) -> None:
    assert [entry["id"] for entry in listing(site, tenant(site, "auto-only"))] == ["auto/first", "auto", "gpt-4o"]
    listed = {entry["id"]: entry for entry in listing(site, tenant(site, "one-target"))}
    assert list(listed) == ["scout-us"]
    entry = listed["scout-us"]
    assert (entry["object"], entry["owned_by"]) == ("model", "llama")
    assert entry["created"] == 1_743_811_200  # 2025-04-05
    assert entry["pointsman"]["window_tokens"] == 327_680
    assert "deepinfra" not in str(entry)  # whose servers they are is the operator's business


def test_only_a_target_that_is_said_to_reads_what_nobody_here_knows(files: Directory) -> None:
    assert not any("other" in target.modalities for target in files.load(tests=False).fleet.targets)
    files.change("backend: deepinfra}", "backend: deepinfra, modalities: [text, other]}")
    assert [sorted(one.modalities) for one in files.load(tests=False).fleet.targets if "other" in one.modalities] == [
        ["other", "text"]
    ]


def test_a_key_expires_at_the_start_of_its_day(files: Directory) -> None:
    files.change("allow: [auto]}", "allow: [auto], expires: 2027-01-01}")
    entry = files.load(tests=False).keys[hashlib.sha256(b"auto-only").digest()]
    assert not entry.expired(1_798_761_599)  # 2026-12-31T23:59:59Z
    assert entry.expired(1_798_761_600)


# -- what is refused --


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("backend: vllm-eu", "backend: vlm-eu", "yaml:9: targets.scout-eu.backend: no backend 'vlm-eu'"),
        ("model: llama-4-scout, backend: v", "model: llama-4-scot, backend: v", "no model 'llama-4-scot' in"),
        ("window: 1M, ", "", "targets.scout-eu: has no window, and the catalogue has no offer that states one"),
        ("dialect: vllm", "dialect: vlm", "yaml:4: backends.vllm-eu.dialect: no dialect 'vlm': did you mean vllm?"),
        ("backend: deepinfra}", "backend: deepinfra, modalities: [video]}", "llama-4-scout does not read video"),
        ("price: {gpu_hour_usd: 3.20, tokens_per_hour: 40M}", "price: catalog",
         "the catalogue has no price of llama-4-scout by this backend, whose provider is not known"),
        ("dialect: openai,", "dialect: openai, provider: deepinfrae,", "no provider 'deepinfrae' in the catalogue"),
        ("dialect: openai,", "dialect: openai, ca_file: no.pem,", "backends.deepinfra.ca_file: no file"),
        ("default: first", "default: frist", "policies.default: no policy 'frist': did you mean first?"),
        ("backends:", "unknown_model: rejects\nbackends:", "unknown_model: no policy 'rejects'"),
        ("gpt-4o: auto,", "gpt-4o: auto/none,", "models.gpt-4o: 'auto/none' is no policy, model or target"),
        ("gpt-4o: auto,", "gpt-4o: gpt-4o-mini,", "models.gpt-4o: 'gpt-4o-mini' is no policy, model or target"),
        ("gpt-4o: auto,", "auto: qwen-plus,", "models.auto: names beginning with auto cannot be given another meaning"),
        ("allow: [auto]", "allow: [atuo]", "keys[1].allow: 'atuo' means nothing here: did you mean auto"),
        ("name: one-model", "name: one-target", "'one-target' is another key's name"),
        (sha("one-model"), sha("one-target"), "is the hash of another key in this file"),
        ("  qwen-plus:", "  qwen3.5-9b:", "targets.qwen3.5-9b: is the name of a model, but serves qwen3.5-plus"),
        ("policies: {dir: policies,", "policies: {dir: polices,", "policies.dir: no policy files in"),
        ("policies: {", "catalog: mine.yaml\npolicies: {", "mine.yaml: cannot be read: No such file"),
        ("policies: {", "listen: {public: 0.0.0.0:8080}\nadmin_key: {env: NONE}\npolicies: {", "NONE is not set"),
        ("policies: {", "listen: {admin: 0.0.0.0:8081}\npolicies: {", "listen.admin: can be reached from other"),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_told_where_it_stands(files: Directory, old: str, new: str, says: str) -> None:
    files.change(old, new)
    assert says in files.told()


def test_a_listener_for_other_machines_needs_keys(files: Directory) -> None:
    files.change(SITE[SITE.index("keys:") :], "listen: {public: 0.0.0.0:8080}\n")
    assert "listen.public: can be reached from other machines, but there are no keys: keys:" in files.told()


def test_a_missing_secret_is_refused_unless_nobody_needs_it(files: Directory) -> None:
    assert "pointsman.yaml:6: backends.deepinfra.key: environment variable DEEPINFRA_API_KEY is not set" in files.told(
        {}
    )
    assert files.load({}, tests=False, secrets=False).fleet.targets[1].backend.key is None


def test_a_plan_key_is_refused(files: Directory) -> None:
    told = files.told({"DEEPINFRA_API_KEY": "sk-sp-canary"})
    assert "holds a plan key (sk-sp-)" in told
    assert "canary" not in told


def test_problems_of_several_files_are_told_together(files: Directory) -> None:
    files.change('family: "*"}]}\n  - {id: default', 'familly: "*"}]}\n  - {id: default', "policies/first.yaml")
    files.write("policy: third\nrules: []\n", "policies/third.yaml")
    files.change("allow: [auto]", "allow: [atuo]")
    told = files.told()
    assert "policies/first.yaml:3: rules[0].use[1]" in told
    assert "policies/third.yaml:2: rules" in told
    assert "pointsman.yaml:14: keys[1].allow: 'atuo'" in told


def test_two_files_cannot_be_the_same_policy(files: Directory) -> None:
    files.write(SECOND, "policies/third.yaml")
    assert "policies/third.yaml:1: policy: second is already another file's policy" in files.told()


def test_a_policy_that_fails_its_own_test_does_not_load(files: Directory) -> None:
    test = "as_of: 2026-11-21\ntests:\n  - name: streams go to Qwen\n"
    test += "    given: {stream: true}\n    expect: {family: qwen}\n"
    files.write(FIRST + test, "policies/first.yaml")
    assert "policies/first.yaml:7: tests[0]: the test 'streams go to Qwen' fails: " in files.told()
    files.change("family: qwen}", "family: llama}", "policies/first.yaml")
    assert files.load().default_policy.name == "first"


def test_an_operators_catalogue_adds_what_policies_may_name(files: Directory) -> None:
    files.write(
        "catalogue: 1\nas_of: 2026-11-21\nsources: {own: {as_of: 2026-11, kind: operator, ref: us}}\n"
        "models: {house-7b: {family: house, source: own}}\n",
        "mine.yaml",
    )
    files.change("policies: {", "catalog: mine.yaml\npolicies: {")
    files.change("  qwen-plus:", "  house: {model: house-7b, backend: vllm-eu, window: 8k}\n  qwen-plus:")
    files.change("model: llama-4-scout}", "model: house-7b}", "policies/first.yaml")
    site = files.load()
    assert [rule.id for rule in site.default_policy.rules] == ["scout", "default"]
    assert any("targets.house: has no price" in warning for warning in site.warnings)


# -- warnings and change --


def test_what_is_withdrawn_or_soon_will_be_is_warned_of(files: Directory) -> None:
    files.change("backend: deepinfra}", "backend: deepinfra, retires_on: 2026-12-01}")
    (warning,) = files.load(tests=False).warnings
    assert warning.endswith(
        "targets.scout-us: meta-llama/Llama-4-Scout-17B-16E-Instruct will be withdrawn on 2026-12-01"
    )
    files.change("2026-12-01", "2026-07-17")
    (warning,) = files.load(tests=False).warnings
    assert "was withdrawn on 2026-07-17" in warning


def test_a_window_that_needs_rope_scaling_is_warned_of(files: Directory) -> None:
    files.change(
        "model: llama-4-scout, backend: vllm-eu, window: 1M", "model: qwen3.5-27b, backend: vllm-eu, window: 1M"
    )
    (warning,) = files.load(tests=False).warnings
    assert "was made for (262,144); up to 1,010,000 its server must be configured for" in warning


def test_a_window_beyond_the_models_own_is_warned_of(files: Directory) -> None:
    files.change("window: 1M", "window: 20M")
    (warning,) = files.load(tests=False).warnings
    assert "20,000,000 tokens is more than llama-4-scout was made for (10,000,000)" in warning


def test_a_key_sent_in_the_clear_is_warned_of(files: Directory) -> None:
    files.change('"https://api.deepinfra.com/v1/openai"', '"http://api.deepinfra.com/v1/openai"')
    (warning,) = files.load(tests=False).warnings
    assert "its key travels unencrypted" in warning
    files.change('"http://api.deepinfra.com/v1/openai"', '"http://127.0.0.1:9000/v1"')
    files.change("backend: deepinfra}", "backend: deepinfra, window: 8192}")
    assert not any("unencrypted" in one for one in files.load(tests=False).warnings)


def test_the_digest_changes_with_any_file_and_only_then(files: Directory) -> None:
    first = files.load(tests=False)
    assert files.load(tests=False).digest == first.digest
    files.change("id: scout", "id: scouts", "policies/first.yaml")
    second = files.load(tests=False)
    assert second.digest != first.digest
    files.change("window: 1M", "window: 2M")
    assert files.load(tests=False).digest not in (first.digest, second.digest)


def test_every_file_it_was_loaded_from_is_watched(files: Directory) -> None:
    (files.path / "key").write_text("sk-1")
    files.change("{env: DEEPINFRA_API_KEY}", "{file: key}")
    watched = {str(path.relative_to(files.path)) for path in files.load(tests=False).watched()}
    assert watched == {"pointsman.yaml", "policies", "policies/first.yaml", "policies/second.yaml", "key"}


def test_metric_labels_come_from_configuration(site: Site) -> None:
    names = site.metric_names
    assert {"auto", "gpt-4o", "llama-4-scout", "scout-us"} <= names.asked
    assert names.targets == {"scout-eu", "scout-us", "qwen-plus"}
    assert names.teams == {"a", "b"}
    assert names.rules == {"scout", "default"}
    assert site.tokenizers == {"llama4", "qwen3.5"}


@pytest.mark.parametrize(
    ("baseline", "price"),
    [("qwen-plus", "qwen-plus"), ("scout-us", "scout-us"), ("llama-4-scout", "scout-eu"), ("llama", "scout-eu")],
)
def test_costs_are_compared_with_a_target_or_with_the_cheapest_of_a_model(
    files: Directory, baseline: str, price: str
) -> None:
    files.change("policies: {", f"savings: {{baseline: {baseline}}}\npolicies: {{")
    site = files.load(tests=False)
    found = site.metric_names.baseline
    assert found is not None
    assert found.name == baseline
    assert found.price == next(target.price for target in site.fleet.targets if target.name == price)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("savings: {baseline: qwen-plux}", "savings.baseline: 'qwen-plux' is no target and no model"),
        ("savings: {baseline: gpt-4o}", "savings.baseline: 'gpt-4o' is no target and no model"),  # it means auto
        ("savings: {baseline: ''}", "savings.baseline"),
        ("savings: {}", "savings.baseline"),
        ("savings: {baseline: qwen-plus, price: 3}", "savings.price"),
    ],
)
def test_a_baseline_that_is_none_is_told_where_it_stands(files: Directory, line: str, says: str) -> None:
    files.change("policies: {", f"{line}\npolicies: {{")
    with pytest.raises(ConfigError, match=re.escape(says)) as found:
        files.load(tests=False)
    assert "pointsman.yaml:" in str(found.value)


def test_a_baseline_without_a_price_is_said_and_not_guessed(files: Directory) -> None:
    files.change("policies: {", "savings: {baseline: qwen-plus}\npolicies: {")
    files.change("price: catalog", "price: none")
    with pytest.raises(ConfigError, match="'qwen-plus' has no price, so nothing can be compared with it"):
        files.load(tests=False)


def test_the_admin_key_opens_and_nothing_else_does(files: Directory) -> None:
    files.change("policies: {", f"admin_key: {{sha256: {sha('admin')}}}\npolicies: {{")
    site = files.load(tests=False)
    assert site.is_admin_key(b"admin")
    assert not site.is_admin_key(b"admin ")
    assert not site.is_admin_key(b"")


def test_the_module_gives_the_verdict(files: Directory) -> None:
    def verdict() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway.site", str(files.path / "pointsman.yaml")]
        return subprocess.run(command, cwd=ROOT, env={**ENVIRON}, capture_output=True, text=True, check=False)

    assert verdict().returncode == 0
    files.change("window: 1M", "window: one million")
    answer = verdict()
    assert answer.returncode == 2
    assert "yaml:9: targets.scout-eu.window: 'one million' is not a number of tokens" in answer.stderr


def test_a_task_that_no_request_can_have_is_refused_at_load(files: Directory) -> None:
    rule = "  - {id: typo, when: {task: TASK}, use: [{family: qwen}]}\n"
    for task in ("agentic", "extraction", "math"):  # told by the request's own facts, or by its words
        files.write(FIRST.replace("rules:\n", "rules:\n" + rule.replace("TASK", task)), "policies/first.yaml")
        assert files.load(tests=False).default_policy.rules[0].id == "typo"
    files.change("math", "maths", "policies/first.yaml")
    says = "policies/first.yaml:3: rules[0].when.task: 'maths' is no task that is known: did you mean math?"
    assert says in files.told()


def test_a_site_that_does_not_load_says_which_files_may_heal_it(files: Directory) -> None:
    files.change("policies: {", "catalog: more.yaml\npolicies: {")
    files.write("models: [", "more.yaml")
    with pytest.raises(SiteError) as caught:
        files.load()
    assert caught.value.files == (files.path / "pointsman.yaml", files.path / "more.yaml")
