"""Keys changed, replaced and taken back: what holds then, and what goes on where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.core.errors import ConfigError
from gateway.core.money.admission import Hold
from gateway.core.quantities import Invalid
from gateway.keys import file, making, telling
from gateway.keys.audit import Asker
from gateway.keys.making import MayNot, NoSuchKey
from gateway.proxy.gates import Balance, Gates
from tests.keys.conftest import DAY, LEAD, NOW, create, names, opens, site, update

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


# --- what changes of a key ---


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
    assert update(place, "shop", rpm=5, budget=None, tenant={"tier": None}).changed == {}
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
        ("shop", {"rpm": 0}, "rpm: 0 is out of range: at least 1"),
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
    now_s = time.monotonic()
    assert all(isinstance(keys["shop"].admit(0, 0, now_s, 0), Hold) for _ in range(55))
    keys["shop"].budgets[0].spend(400_000_000, int(NOW * 1000))
    update(place, "shop", rpm=600, budget={"usd": 2, "per": "month"})
    keys, _ = gates.adopt(site(place).quotas, {}, NOW)
    assert (keys["shop"].requests[0].left(now_s), keys["shop"].budgets[0].left) == (545, 1_600_000_000)


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


def test_a_list_that_leaves_all_out_says_that_there_are_revoked_ones(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(place / "pointsman.yaml")
    assert main(["keys", "list", "--config", config]) == 0
    assert "no keys: `pointsman keys create NAME`" in capsys.readouterr().err
    create(place, **LEAD)
    making.revoke(place / "pointsman.keys.json", "lead", NOW)
    assert main(["keys", "list", "--config", config]) == 0
    assert "no keys (1 revoked: --all): `pointsman keys create NAME`" in capsys.readouterr().err
