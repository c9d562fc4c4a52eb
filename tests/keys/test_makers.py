"""Keys that make keys: what they make has no more than they have, whoever edits the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import ConfigError
from gateway.keys.making import MayNot, NoSuchKey
from gateway.quotas import Quotas
from tests.keys.conftest import DAY, LEAD, NOW, create, names, opens, site


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
