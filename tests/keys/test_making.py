"""Keys made, replaced and taken back: what the file holds, what each key may do, and what is refused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import ConfigError
from gateway.core.money.admission import Hold
from gateway.core.quantities import Invalid
from gateway.keys import command, file, making, secret, telling
from gateway.keys.audit import Asker
from gateway.keys.making import Issued, MayNot, NoSuchKey
from gateway.proxy.gates import Balance, Gates
from gateway.quotas import Quotas
from gateway.site import Site, load_site
from gateway.times import moment

NOW = 1_795_000_000.0
DAY = 86_400.0
CONFIG = """\
backends:
  up: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}
targets:
  a: {model: llama-3.3-70b, backend: up, window: 8k, price: {input: 1, output: 2}}
  b: {model: llama-4-scout, backend: up, window: 8k, price: {input: 1, output: 2}}
policies: {dir: policies, default: default}
ledger: {dir: books}
"""
POLICIES = ("default", "other")
LEAD = {"name": "lead", "may_create": True, "allow": ["auto", "a"], "rpm": 60, "tenant": {"team": "shop"}}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    for name in POLICIES:
        rule = "rules:\n  - {id: all, use: [{family: '*'}]}\n"
        (tmp_path / "policies" / f"{name}.yaml").write_text(f"policy: {name}\n{rule}")
    (tmp_path / "pointsman.yaml").write_text(CONFIG)
    return tmp_path


def site(place: Path, more: str = "") -> Site:
    if more:
        (place / "pointsman.yaml").write_text(CONFIG + more)
    return load_site(place / "pointsman.yaml", {"HOME": str(place)}, secrets=False, tests=False)


def create(place: Path, now: float = NOW, by: str | None = None, **wish: Any) -> Issued:
    return making.create(site(place).ring, wish, now, Asker(key=by))


def opens(found: Site, key: str, now: float = NOW) -> str | None:
    """Whose key it is, if it is taken."""
    entry = found.keys.get(hashlib.sha256(key.encode()).digest())
    return None if entry is None or entry.expired(now) else entry.tenant.key


def names(found: Site, key: str) -> set[str]:
    """What a key may send as `model`, short names only."""
    entry = found.keys[hashlib.sha256(key.encode()).digest()]
    return {name for name, _ in found.granted(entry.tenant)} & {"auto", "auto/default", "auto/other", "a", "b"}


# --- the key ---


def test_a_key_has_a_prefix_cannot_be_guessed_and_shows_what_is_missing_of_it() -> None:
    made = {secret.new_key() for _ in range(1000)}
    assert len(made) == 1000
    for key in made:
        assert re.fullmatch(r"sk-pm-[0-9A-Za-z]{38}", key)
        assert secret.whole(key)
        assert not secret.whole(key[:-1])
        assert not secret.whole(key[:-1] + ("a" if key[-1] != "a" else "b"))


def test_only_the_hash_is_kept_in_a_file_that_its_owner_alone_may_read(place: Path) -> None:
    issued = create(place, name="shop")
    kept = place / "pointsman.keys.json"
    assert issued.secret not in kept.read_text()
    assert hashlib.sha256(issued.secret.encode()).hexdigest() in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert opens(site(place), issued.secret) == "shop"


def test_the_file_says_each_key_on_a_line_and_may_be_edited_as_yaml(place: Path) -> None:
    one, two = create(place, name="one"), create(place, name="two")
    kept = place / "pointsman.keys.json"
    assert len(kept.read_text().splitlines()) == 4
    kept.write_text("# ours\n" + kept.read_text())
    assert opens(site(place), one.secret) == "one"
    making.revoke(kept, "two", NOW)
    assert opens(site(place), two.secret) is None


# --- who is asked for a key ---


def test_with_the_first_key_everybody_is_asked_for_one_and_stays_so_when_none_is_left(place: Path) -> None:
    assert site(place).open
    issued = create(place, name="only")
    assert not site(place).open
    making.revoke(place / "pointsman.keys.json", "only", NOW)
    after = site(place)
    assert (after.open, after.keys) == (False, {})
    assert opens(after, issued.secret) is None


def test_a_configuration_that_names_a_file_asks_for_keys_before_there_are_any(place: Path) -> None:
    assert not site(place, "keys_file: k/made.json\n").open


def test_beyond_loopback_a_keys_file_is_enough(place: Path) -> None:
    more = "listen: {public: 0.0.0.0:8080}\n"
    with pytest.raises(ConfigError, match="keys: or keys_file:"):
        site(place, more)
    (place / "pointsman.keys.json").write_text('{"keys": []}')
    assert not site(place, more).open


# --- what a key may do ---


def test_a_key_may_use_what_its_entry_allows_until_it_expires(place: Path) -> None:
    issued = create(place, name="shop", allow=["auto/other", "b"], expires="30d", tenant={"team": "shop"}, rpm=5)
    found = site(place)
    assert names(found, issued.secret) == {"auto/other", "b"}
    assert opens(found, issued.secret, NOW + 30 * DAY - 1) == "shop"
    assert opens(found, issued.secret, NOW + 30 * DAY) is None
    assert found.quotas.limits("shop")


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"name": "no name"}, "name: 'no name' cannot be a name"),
        ({"name": "anonymous"}, "name: 'anonymous' is another key's name"),
        ({"name": "n", "rpm": 0}, "rpm: 0 is not valid"),
        ({"name": "n", "rpm": "fast"}, "rpm: 'fast' is not a whole number: such as 60"),
        ({"name": "n", "budget": {"usd": -1, "per": "day"}}, "budget.usd"),
        ({"name": "n", "budget": {"usd": 1, "per": "fortnight"}}, "budget.per"),
        ({"name": "n", "allow": []}, "allow"),
        ({"name": "n", "allow": ["aut"]}, "allow: 'aut' means nothing here: did you mean auto"),
        ({"name": "n", "policy": "othr"}, "policy: no policy 'othr': did you mean other?"),
        ({"name": "n", "tenant": {"domicile": "UK"}}, "tenant: domicile 'UK' is not a country"),
        ({"name": "n", "expires": "soon"}, "'soon' is no time"),
        ({"name": "n", "expires": "2020-01-01"}, "expires 2020-01-01 is past"),
        ({"name": "n", "expires": "0s"}, "out of range"),
        ({"name": "n", "sha256": "ab" * 32}, "'sha256' is nothing that can be said of a key"),
        ({"name": "n", "created": "2026-11-22"}, "'created' is nothing that can be said of a key"),
    ],
)
def test_what_is_wrong_is_said_and_no_file_is_made(place: Path, wish: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, Invalid)) as told:
        create(place, **wish)
    assert says in str(told.value)
    assert not (place / "pointsman.keys.json").exists()


def test_a_name_is_one_key_also_of_one_in_the_configuration(place: Path) -> None:
    create(place, name="shop")
    with pytest.raises(Invalid, match="shop is a key already: another name, or rotate it"):
        create(place, name="shop")
    site(place, f"keys:\n  - {{name: fixed, sha256: '{'ab' * 32}'}}\n")
    with pytest.raises(Invalid, match="fixed is the name of a key of pointsman"):
        create(place, name="fixed")


def test_a_revoked_name_may_be_used_again_by_who_made_it(place: Path) -> None:
    old = create(place, name="shop")
    making.revoke(place / "pointsman.keys.json", "shop", NOW)
    new = create(place, name="shop")
    found = site(place)
    assert (opens(found, old.secret), opens(found, new.secret)) == (None, "shop")


def test_the_name_of_an_expired_key_may_be_used_again_as_rotate_says(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    old = create(place, name="ex", expires="1h")
    with pytest.raises(Invalid, match="ex is a key already"):
        create(place, now=NOW + 3599, name="ex")
    with pytest.raises(Invalid, match="ex has expired: create it again, by the same name"):
        making.rotate(kept, "ex", NOW + 3600)
    new = create(place, now=NOW + 3600, name="ex", expires="2h")
    found = site(place)
    assert [opens(found, one.secret, NOW + 3600) for one in (old, new)] == [None, "ex"]
    create(place, **LEAD)
    create(place, by="lead", name="kid", expires="1h")
    with pytest.raises(Invalid, match="kid was a key that somebody else made: another name"):
        create(place, now=NOW + 3600, name="kid")


@pytest.mark.parametrize(
    "more", ["", "keys_file: pointsman.keys.json\nkeys:\n  - {name: fixed, sha256: '%s'}\n" % ("ab" * 32)]
)
def test_a_team_may_have_limits_before_the_first_key_of_it_is_made(place: Path, more: str) -> None:
    assert not site(place, "teams: {shop: {rpm: 5}}\n" + more).quotas.teams
    create(place, name="s1", tenant={"team": "shop"})
    assert site(place).quotas.limits("s1")
    making.revoke(place / "pointsman.keys.json", "s1", NOW)
    site(place)


def test_a_team_that_no_key_is_of_loads_and_is_told_of_where_nobody_awaits_keys(place: Path) -> None:
    fixed = "keys:\n  - {name: fixed, sha256: '%s'}\n" % ("ab" * 32)
    says = "teams.shop: is a team that no key is of as yet: tenant: {team: ...} at the keys it is of"
    assert any(says in one for one in site(place, "teams: {shop: {rpm: 5}}\n" + fixed).warnings)
    create(place, name="s1", tenant={"team": "shop"})
    found = site(place)
    assert found.quotas.limits("s1")
    assert not any("teams" in one for one in found.warnings)


def test_a_key_that_is_made_anew_goes_on_with_what_its_former_one_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who may make keys could give them a minute's worth as often as it likes; a shared store keeps it, too."""
    monkeypatch.setattr(time, "monotonic", lambda: 1_000.0)  # or some would come back meanwhile
    gates, kept = Gates(), place / "pointsman.keys.json"
    create(place, name="kid", rpm=60, tpm=600, max_concurrent=2)
    gate = gates.adopt(site(place).quotas, {}, NOW)[0]["kid"]
    now_us = int(time.monotonic() * 1_000_000)
    assert isinstance(gate.admit(500, 0, now_us, 0), Hold)
    making.revoke(kept, "kid", NOW)
    assert "kid" not in gates.adopt(site(place).quotas, {}, NOW)[0]
    gates.adopt(site(place).quotas, {}, NOW)  # whatever else is read meanwhile
    create(place, name="kid", rpm=60, tpm=1200, max_concurrent=2)
    again = gates.adopt(site(place).quotas, {}, NOW)[0]["kid"]
    assert (again.requests[0].left(now_us), again.tokens[0].left(now_us), again.slots[0].used) == (59, 700, 1)


def test_a_name_that_is_used_again_brings_back_nothing_that_its_former_key_made(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    create(place, **LEAD)
    kid = create(place, by="lead", name="kid", may_create=True)
    grandkid = create(place, by="kid", name="grandkid")
    making.revoke(kept, "lead", NOW)
    new = create(place, **LEAD)
    found = site(place)
    assert [opens(found, one.secret) for one in (kid, grandkid, new)] == [None, None, "lead"]
    again = create(place, by="lead", name="kid")
    assert opens(site(place), again.secret) == "kid"
    assert opens(site(place), grandkid.secret) is None


# --- rotate, revoke ---


def test_during_the_overlap_both_keys_are_taken_and_after_it_the_new_one(place: Path) -> None:
    old = create(place, name="shop", expires="2d")
    kept = place / "pointsman.keys.json"
    new = making.rotate(kept, "shop", NOW, 3600)
    found = site(place)
    assert opens(found, old.secret, NOW + 3599) == opens(found, new.secret, NOW + 3599) == "shop"
    assert opens(found, old.secret, NOW + 3600) is None
    assert opens(found, new.secret, NOW + 3600) == "shop"
    assert opens(found, new.secret, NOW + 2 * DAY) is None  # a new key does not last longer than the old one would
    third = making.rotate(kept, "shop", NOW, 0)
    found = site(place)
    assert [opens(found, one.secret) for one in (old, new, third)] == [None, None, "shop"]


def test_an_overlap_does_not_outlast_the_key(place: Path) -> None:
    old = create(place, name="shop", expires="1h")
    making.rotate(place / "pointsman.keys.json", "shop", NOW, 24 * 3600)
    assert opens(site(place), old.secret, NOW + 3600) is None


def test_keys_that_are_over_are_not_rotated(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    create(place, name="gone")
    create(place, name="late", expires="1h")
    making.revoke(kept, "gone", NOW)
    with pytest.raises(Invalid, match="gone was revoked"):
        making.rotate(kept, "gone", NOW)
    with pytest.raises(Invalid, match="late has expired"):
        making.rotate(kept, "late", NOW + 3600)
    with pytest.raises(NoSuchKey, match=r"there is no key 'lat': did you mean late"):
        making.rotate(kept, "lat", NOW)
    for _ in range(file.MOST_REPLACED):
        making.rotate(kept, "late", NOW)
    with pytest.raises(Invalid, match="--overlap 0"):
        making.rotate(kept, "late", NOW)


def test_revoking_takes_back_all_keys_of_a_name_and_those_it_made(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    lead = create(place, **LEAD)
    kid = create(place, by="lead", name="kid", may_create=True)
    grandkid = create(place, by="kid", name="grandkid")
    new = making.rotate(kept, "lead", NOW)
    entry, fell = making.revoke(kept, "lead", NOW)
    assert sorted(fell) == ["grandkid", "kid"]
    found = site(place)
    assert [opens(found, one.secret) for one in (lead, new, kid, grandkid)] == [None] * 4
    again, _ = making.revoke(kept, "lead", NOW + 5)
    assert again["revoked"] == entry["revoked"]
    states = {one["name"]: one["state"] for one in telling.rows(found.ring.doc, file.read(kept), NOW)}
    assert states == {"lead": "revoked", "kid": "void", "grandkid": "void"}


def test_what_is_long_over_is_forgotten(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    create(place, name="old")
    create(place, name="short", expires="1h")
    making.revoke(kept, "old", NOW)
    create(place, now=NOW + making.FORGOTTEN_S - 1, name="two")
    assert [one["name"] for one in json.loads(kept.read_text())["keys"]] == ["old", "short", "two"]
    create(place, now=NOW + making.FORGOTTEN_S + 3601, name="three")
    assert [one["name"] for one in json.loads(kept.read_text())["keys"]] == ["two", "three"]


def test_a_maker_cannot_have_the_file_forget_what_its_keys_have_spent(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "MOST_OVER", 4)
    monkeypatch.setattr(making, "MOST_MADE", 3)
    kept = place / "pointsman.keys.json"
    create(place, **LEAD, budget={"usd": 1, "per": "month"})
    create(place, by="lead", name="kid", may_create=True)
    for maker, name in (("lead", "spender"), ("kid", "x0"), ("lead", "x1")):
        create(place, by=maker, name=name)
        making.revoke(kept, name, NOW, Asker(key=maker))
    for maker in ("lead", "kid"):
        with pytest.raises(MayNot, match=f"{maker} has made too many keys that are over"):
            create(place, by=maker, name="x2")
    assert "spender" in site(place).quotas.family("lead")
    create(place, by="lead", name="x1")
    create(place, name="other")
    create(place, by="lead", now=NOW + making.LATE_S + 1, name="x2")


# --- a key grants only what its maker has ---


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"allow": ["*"]}, "allow[0]: lead may not use '*': what lead may use: auto, a"),
        ({"allow": ["auto", "b"]}, "allow[1]: lead may not use 'b'"),
        ({"allow": ["auto/*"]}, "allow[0]: lead may not use 'auto/*'"),
        ({"policy": "other"}, "policy: lead may not use other"),
        ({"rpm": 61}, "rpm: 61 is more than the 60 of lead"),
        ({"explain": True}, "explain: lead does not have that"),
        ({"priority": "high"}, "priority: lead has normal: the same or lower"),
        ({"expires": "31d"}, "expires: is later than that of lead"),
        ({"tenant": {"team": "other"}}, "tenant.team: lead has 'shop'"),
        ({"tenant": {"tier": "gold"}}, "tenant.tier: lead does not have that fact"),
        ({"budget": {"usd": 51, "per": "day"}}, "budget: 51 USD is more than the 50 of lead per day"),
    ],
)
def test_a_made_key_with_more_than_its_maker_is_refused(place: Path, wish: dict[str, Any], says: str) -> None:
    create(place, **LEAD, expires="30d", budget={"usd": 50, "per": "day"})
    before = (place / "pointsman.keys.json").read_bytes()
    with pytest.raises(ConfigError) as told:
        create(place, by="lead", name="kid", **wish)
    assert says in str(told.value)
    assert (place / "pointsman.keys.json").read_bytes() == before


def test_a_made_key_has_what_its_maker_has_where_it_says_nothing(place: Path) -> None:
    create(place, **LEAD, expires="30d")
    kid = create(place, by="lead", name="kid")
    found = site(place)
    tenant = found.keys[hashlib.sha256(kid.secret.encode()).digest()].tenant
    assert names(found, kid.secret) == {"auto", "auto/default", "a"}
    assert (dict(tenant.facts), tenant.explain, tenant.limited) == ({"team": "shop"}, False, True)
    assert opens(found, kid.secret, NOW + 30 * DAY) is None


@pytest.mark.parametrize(
    "edit",
    [
        {"allow": ["*"]},
        {"policy": "other"},
        {"explain": True, "may_create": True, "priority": "critical"},
        {"tenant": {"team": "other", "tier": "gold"}},
        {"expires": "2099-01-01"},
        {"rpm": 100_000, "budget": {"usd": 10_000, "per": "day"}},
    ],
)
def test_a_file_that_was_edited_by_hand_gives_no_key_more_than_its_maker_has(place: Path, edit: Any) -> None:
    create(place, **{**LEAD, "may_create": True}, expires="30d", budget={"usd": 50, "per": "day"})
    kid = create(place, by="lead", name="kid")
    kept = place / "pointsman.keys.json"
    written = json.loads(kept.read_text())
    written["keys"][1] |= edit
    if "may_create" in edit:
        written["keys"][0] |= {"may_create": False}
    kept.write_text(json.dumps(written))
    found = site(place)
    tenant = found.keys[hashlib.sha256(kid.secret.encode()).digest()].tenant
    assert names(found, kid.secret) <= {"auto", "auto/default", "a"}
    assert (tenant.policy, dict(tenant.facts), tenant.explain) == (None, {"team": "shop"}, False)
    assert (found.holdings["kid"].may_create, tenant.priority) == (False, "normal")
    assert opens(found, kid.secret, NOW + 30 * DAY) is None
    assert found.quotas.above["kid"] == ("lead",)  # whose limits bind it
    assert all("pointsman.keys.json:" in one and "does not count" in one for one in found.warnings if "keys" in one)
    assert any("does not count" in one for one in found.warnings)


def test_a_maker_whose_rights_were_narrowed_narrows_what_it_made(place: Path) -> None:
    more = "keys:\n  - {name: lead, sha256: '%s', may_create: true, allow: %s, tenant: {domicile: %s}}\n"
    site(place, more % ("ab" * 32, "['*']", "SG"))
    kid = create(place, by="lead", name="kid", allow=["a", "b"])
    assert names(site(place), kid.secret) == {"a", "b"}
    found = site(place, more % ("ab" * 32, "[a]", "DE"))
    assert names(found, kid.secret) == {"a"}
    assert dict(found.holdings["kid"].facts) == {"domicile": "DE"}
    assert opens(site(place, "keys: []\n"), kid.secret) is None  # who made it is gone


def test_only_a_key_that_may_make_keys_makes_keys(place: Path) -> None:
    create(place, name="plain")
    create(place, name="short", may_create=True, expires="1h")
    for by, now, says in (("plain", NOW, "may make no keys"), ("short", NOW + 3600, "may make no keys")):
        with pytest.raises(MayNot, match=says):
            create(place, now=now, by=by, name="kid")
    with pytest.raises(NoSuchKey, match="there is no key 'nobody'"):
        create(place, by="nobody", name="kid")


def test_a_lower_bound_of_cost_may_be_added_and_a_higher_one_may_not(place: Path) -> None:
    create(place, name="lead", may_create=True, tenant={"max_cost_usd": "0.05"})
    create(place, by="lead", name="less", tenant={"max_cost_usd": "0.01"})
    assert dict(site(place).holdings["less"].facts) == {"max_cost_usd": "0.01"}
    with pytest.raises(ConfigError, match=r"tenant.max_cost_usd: lead has '0.05'"):
        create(place, by="lead", name="more", tenant={"max_cost_usd": "0.5"})


def test_keys_make_keys_four_deep_and_no_circle_opens_anything(place: Path) -> None:
    create(place, name="k0", may_create=True)
    for depth in range(1, 5):
        create(place, by=f"k{depth - 1}", name=f"k{depth}", may_create=True)
    with pytest.raises(ConfigError, match="more than 4 keys made one another"):
        create(place, by="k4", name="k5")
    kept = place / "pointsman.keys.json"
    written = json.loads(kept.read_text())
    written["keys"][0]["by"] = "k4"
    kept.write_text(json.dumps(written))
    assert not site(place).keys


def test_limits_of_a_maker_bind_all_that_it_made(place: Path) -> None:
    create(place, **LEAD)
    create(place, by="lead", name="kid", rpm=10)
    create(place, by="lead", name="sister")
    quotas: Quotas = site(place).quotas
    assert quotas.above == {"kid": ("lead",), "sister": ("lead",)}
    assert quotas.family("lead") == {"lead", "kid", "sister"}
    assert quotas.limits("sister")


# --- the file ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"keys": [}', "pointsman.keys.json:1"),
        ("", "is empty"),
        ('{"keys": [{"name": "a"}]}', "pointsman.keys.json:1: keys[0].sha256"),
        ('{"keys": [], "keys": []}', "stands here a second time"),
        ('{"keys": [NaN]}', "pointsman.keys.json:1: keys[0]"),
        ('{"kyes": []}', "kyes"),
        (
            '{\n"keys": [\n{"name": "a", "sha256": "%s", "created": "2026-11-22", "rpm": -1}\n]}' % ("a" * 64),
            ":3: keys[0].rpm",
        ),
        ('{"keys": [%s, %s]}', "is the hash of another key"),
    ],
)
def test_a_broken_file_does_not_load_and_says_where(place: Path, text: str, says: str) -> None:
    entry = '{"name": "%s", "sha256": "%s", "created": "2026-11-22"}'
    text = text % (entry % ("a", "a" * 64), entry % ("b", "a" * 64)) if "%s" in text else text
    (place / "pointsman.keys.json").write_text(text)
    with pytest.raises(ConfigError) as told:
        site(place)
    assert says in str(told.value)
    assert str(place / "pointsman.keys.json") in str(told.value)


def test_a_file_that_others_may_write_to_is_warned_of(place: Path) -> None:
    create(place, name="shop")
    (place / "pointsman.keys.json").chmod(0o664)
    assert any("can be written to by others" in one for one in site(place).warnings)


def test_a_folder_or_a_dead_link_in_its_place_does_not_open_the_gateway(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    kept.symlink_to(place / "nowhere")
    with pytest.raises(ConfigError, match="is a link that leads nowhere"):
        site(place)
    kept.unlink()
    kept.mkdir()
    with pytest.raises(ConfigError, match=r"is not a regular file|cannot be read"):
        site(place)


def test_a_full_disk_leaves_the_file_as_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(place, name="shop")
    kept = place / "pointsman.keys.json"
    before = kept.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        create(place, name="two")
    assert kept.read_bytes() == before
    assert sorted(one.name for one in place.glob(".pointsman.keys*")) == [".pointsman.keys.json.lock"]


def _make(place: str, number: int) -> None:
    create(Path(place), name=f"k{number}")


def test_of_keys_made_at_once_none_is_lost(place: Path) -> None:
    create(place, name="first")
    children = [multiprocessing.get_context("fork").Process(target=_make, args=(str(place), at)) for at in range(8)]
    for one in children:
        one.start()
    for one in children:
        one.join(60)
    assert {one["name"] for one in json.loads((place / "pointsman.keys.json").read_text())["keys"]} == {
        "first",
        *(f"k{at}" for at in range(8)),
    }


def test_who_holds_the_lock_too_long_is_told_of(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LOCK_S", 0.0)
    kept = place / "pointsman.keys.json"
    with (
        file.editing(kept),
        pytest.raises(file.FileBusy, match="is being changed by another process"),
        file.editing(kept),
    ):
        pass


# --- what changes of a key ---


def update(place: Path, name: str, now: float = NOW, by: str | None = None, **wish: Any) -> making.Updated:
    return making.update(site(place).ring, name, wish, now, Asker(key=by))


def entry(place: Path, name: str) -> dict[str, Any]:
    kept = json.loads((place / "pointsman.keys.json").read_text())["keys"]
    return next(one for one in kept if one["name"] == name)


def test_an_update_changes_what_it_names_and_leaves_the_key_and_all_else(place: Path) -> None:
    facts = {"team": "shop", "domicile": "SG"}
    issued = create(place, name="shop", allow=["a"], rpm=5, tpm="2M", tenant=facts, expires="1d")
    before = entry(place, "shop")
    told = update(place, "shop", NOW + 5, rpm=50, tpm=None, tenant={"domicile": None, "tier": "gold"}, expires="2d")
    after = entry(place, "shop")
    assert told.changed["rpm"] == (5, 50)
    assert told.changed["tpm"] == ("2M", None)
    assert set(told.changed) == {"rpm", "tpm", "tenant", "expires"}
    assert after == {
        **{name: value for name, value in before.items() if name != "tpm"},
        "rpm": 50,
        "tenant": {"team": "shop", "tier": "gold"},
        "expires": making.expiry("2d", NOW + 5),
        "updated": making.moment(NOW + 5),
    }
    assert opens(site(place), issued.secret, NOW + 5 + 2 * DAY - 1) == "shop"
    assert update(place, "shop", allow=None).changed == {"allow": (["a"], None)}
    assert names(site(place), issued.secret) == {"auto", "auto/default", "auto/other", "a", "b"}


def test_an_update_to_what_is_so_already_or_a_dry_one_writes_nothing(place: Path) -> None:
    create(place, name="shop", rpm=5)
    kept = place / "pointsman.keys.json"
    before = kept.read_bytes()
    assert update(place, "shop", rpm=5, budget=None).changed == {}
    dry = making.update(site(place).ring, "shop", {"rpm": 6}, NOW, dry=True)
    assert (dry.changed, kept.read_bytes()) == ({"rpm": (5, 6)}, before)
    assert len((place / "pointsman.keys.audit.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "wish", "says"),
    [
        ("shop", {"name": "other"}, "'name' is nothing that can be said of a key"),
        ("shop", {"sha256": "ab" * 32}, "'sha256' is nothing that can be said of a key"),
        ("shop", {"by": "lead"}, "'by' is nothing that can be said of a key"),
        ("shop", {"rpmm": 3}, "'rpmm' is nothing that can be said of a key: did you mean rpm?"),
        ("shop", {"rpm": 0}, "rpm: 0 is not valid"),
        ("shop", {"budget": {"usd": 1, "per": "fortnight"}}, "budget.per"),
        ("shop", {"allow": ["aut"]}, "allow: 'aut' means nothing here: did you mean auto"),
        ("shop", {"policy": "othr"}, "policy: no policy 'othr': did you mean other?"),
        ("shop", {"tenant": {"domicile": "UK"}}, "tenant: domicile 'UK' is not a country"),
        ("shop", {"tenant": {"tier": 5}}, "tenant.tier"),
        ("shop", {"expires": "soon"}, "'soon' is no time"),
        ("shop", {"expires": "2020-01-01"}, "expires 2020-01-01 is past: a time that is yet to come, or revoke it"),
        ("shp", {"rpm": 1}, "there is no key 'shp': did you mean shop?"),
        ("gone", {"rpm": 1}, "gone was revoked: create it again, by the same name"),
        ("late", {"expires": "1d"}, "late has expired: create it again, by the same name"),
        ("void", {"rpm": 1}, "void opens nothing: who made it was revoked or is gone: create it again"),
        ("kid", {"rpm": 61}, "rpm: 61 is more than the 60 of lead"),
        ("kid", {"allow": ["a", "b"]}, "allow[1]: lead may not use 'b': what lead may use: auto, a"),
        ("kid", {"tenant": {"team": "other"}}, "tenant.team: lead has 'shop'"),
    ],
)
def test_a_wrong_update_is_refused_and_changes_nothing(place: Path, name: str, wish: dict[str, Any], says: str) -> None:
    kept = place / "pointsman.keys.json"
    for one in ("shop", "gone", "maker"):
        create(place, name=one, may_create=True)
    create(place, name="late", now=NOW - 3600, expires="1h")
    create(place, **LEAD)
    create(place, by="lead", name="kid")
    create(place, by="maker", name="void")
    for one in ("gone", "maker"):
        making.revoke(kept, one, NOW)
    before = kept.read_bytes()
    with pytest.raises((ConfigError, Invalid)) as told:
        making.update(site(place).ring, name, wish, NOW)
    assert says in str(told.value)
    assert kept.read_bytes() == before


def test_a_maker_changes_what_it_made_within_what_it_has_and_never_itself(place: Path) -> None:
    create(place, **LEAD, budget={"usd": 50, "per": "day"})
    create(place, by="lead", name="kid", rpm=10)
    create(place, name="other")
    assert update(place, "kid", by="lead", rpm=60, budget={"usd": 50, "per": "day"}).changed["rpm"] == (10, 60)
    for name in ("lead", "other"):
        with pytest.raises(NoSuchKey):
            update(place, name, by="lead", rpm=10)
    with pytest.raises(ConfigError, match="budget: 51 USD is more than the 50 of lead per day"):
        update(place, "kid", by="lead", budget={"usd": 51, "per": "day"})


def test_what_a_narrowed_maker_leaves_too_wide_below_is_told_and_stands_in_no_way(place: Path) -> None:
    create(place, **LEAD)
    create(place, by="lead", name="kid", rpm=50)
    create(place, by="lead", name="sister", rpm=5)
    assert update(place, "lead", rpm=20, may_create=None).less == ["kid"]
    assert update(place, "kid", priority="low").changed == {"priority": (None, "low")}  # of a maker that no more may


def test_a_budget_and_a_bucket_go_on_where_they_were_after_an_update(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1_000.0)  # or some would come back meanwhile
    gates = Gates()
    create(place, name="shop", rpm=60, budget={"usd": 1, "per": "month"})
    keys, _ = gates.adopt(site(place).quotas, {}, NOW)
    now_us = int(time.monotonic() * 1_000_000)
    assert all(isinstance(keys["shop"].admit(0, 0, now_us, 0), Hold) for _ in range(55))
    keys["shop"].budgets[0].spend(400_000_000, int(NOW * 1000))
    update(place, "shop", rpm=600, budget={"usd": 2, "per": "month"})
    keys, _ = gates.adopt(site(place).quotas, {}, NOW)
    assert (keys["shop"].requests[0].left(now_us), keys["shop"].budgets[0].left) == (545, 1_600_000_000)


def test_a_budget_that_is_taken_out_and_set_again_goes_on_whatever_the_books_know_yet(place: Path) -> None:
    gates = Gates()
    create(place, name="shop", budget={"usd": 1, "per": "month"})
    gate = gates.adopt(site(place).quotas, {}, NOW)[0]["shop"]
    (budget,) = gate.budgets
    hold = gate.admit(0, 100_000_000, 0, NOW * 1000)
    budget.spend(300_000_000, int(NOW * 1000))
    for booked, spent in ((0, 300_000_000), (650_000_000, 550_000_000)):  # the latter with the one under way
        update(place, "shop", budget=None)
        assert "shop" not in gates.adopt(site(place).quotas, {}, NOW)[0]
        update(place, "shop", budget={"usd": 2, "per": "month"})
        balance = Balance(budget.begins_ms, budget.ends_ms, {("shop", ""): booked})
        (again,) = gates.adopt(site(place).quotas, {("month", "UTC"): balance}, NOW)[0]["shop"].budgets
        assert (again.spent, again.reserved, again.left) == (spent, 100_000_000, 1_900_000_000 - spent)
    assert isinstance(hold, Hold)
    hold.end(0, spent=40_000_000, at_ms=int(NOW * 1000))
    assert (again.spent, again.reserved) == (590_000_000, 0)


# --- what is noted of it ---


def noted(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "pointsman.keys.audit.jsonl").read_text().splitlines()]


def test_who_did_what_to_which_key_is_noted_and_no_key(place: Path) -> None:
    kept = place / "pointsman.keys.json"
    command = Asker("command", None, "ann")
    lead = making.create(site(place).ring, {**LEAD, "expires": "30d"}, NOW, command)
    kid = making.create(site(place).ring, {"name": "kid"}, NOW + 1, Asker("http", "lead"))
    update(place, "kid", NOW + 2, by="lead", rpm=7)
    again = making.rotate(kept, "kid", NOW + 3, 3600, Asker("http"))
    making.revoke(kept, "lead", NOW + 4, command)
    making.revoke(kept, "lead", NOW + 5, command)  # is so already
    told = noted(place)
    assert [(one["what"], one["key"], one["over"], one.get("by"), one.get("user")) for one in told] == [
        ("create", "lead", "command", None, "ann"),
        ("create", "kid", "http", "lead", None),
        ("update", "kid", "command", "lead", None),
        ("rotate", "kid", "http", None, None),
        ("revoke", "lead", "command", None, "ann"),
    ]
    assert told[0]["said"]["rpm"] == 60
    assert told[2]["changed"] == {"rpm": {"before": None, "after": 7}}
    assert (told[3]["id"], told[3]["before"]) == (secret.sha256(again.secret)[:12], secret.sha256(kid.secret)[:12])
    assert told[4] == {
        "at": moment(NOW + 4), "what": "revoke", "key": "lead", "id": secret.sha256(lead.secret)[:12],
        "over": "command", "user": "ann", "with_it": ["kid"],
        "file": hashlib.sha256(kept.read_bytes()).hexdigest()[:12],
    }  # fmt: skip
    text = (place / "pointsman.keys.audit.jsonl").read_text()
    for one in (lead, kid, again):
        assert one.secret not in text
        assert secret.sha256(one.secret) not in text
    assert stat.S_IMODE((place / "pointsman.keys.audit.jsonl").stat().st_mode) == 0o600


def test_a_change_that_cannot_be_noted_is_not_made(place: Path) -> None:
    create(place, name="shop")
    kept, beside = place / "pointsman.keys.json", place / "pointsman.keys.audit.jsonl"
    before = kept.read_bytes()
    beside.unlink()
    beside.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        making.revoke(kept, "shop", NOW)
    assert kept.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_changes_stays_the_gateway_s_though_the_folder_is_root_s(place: Path) -> None:
    create(place, name="shop")
    kept, beside = place / "pointsman.keys.json", place / "pointsman.keys.audit.jsonl"
    for path in (kept, beside):
        os.chown(path, 65534, 65534)
    making.revoke(kept, "shop", NOW)
    for path in (kept, beside, place / ".pointsman.keys.json.lock"):
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534), path


@pytest.mark.parametrize("uid", [0, os.getuid() or 65534])
def test_only_root_is_believed_who_called_sudo(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    own = command.user({})
    assert own != "bob"
    assert command.user({"SUDO_USER": "bob"}) == ("bob" if uid == 0 else own)


def test_what_failed_after_it_was_noted_is_noted_as_failed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(place, name="shop")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        making.revoke(place / "pointsman.keys.json", "shop", NOW)
    assert [(one["what"], one["key"]) for one in noted(place)][1:] == [("revoke", "shop"), ("failed", "shop")]
