"""Keys made: who is asked for one then, and what each may do. How they change is in `test_changing`."""

from __future__ import annotations

import hashlib
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import ConfigError
from gateway.core.money.admission import Hold
from gateway.core.quantities import Invalid
from gateway.keys import making, secret
from gateway.proxy.gates import Gates
from tests.keys.conftest import DAY, LEAD, NOW, create, names, opens, site

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
        ({"name": "n", "rpm": 0}, "rpm: 0 is out of range: at least 1"),
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
    now_s = time.monotonic()
    assert isinstance(gate.admit(500, 0, now_s, 0), Hold)
    making.revoke(kept, "kid", NOW)
    assert "kid" not in gates.adopt(site(place).quotas, {}, NOW)[0]
    gates.adopt(site(place).quotas, {}, NOW)  # whatever else is read meanwhile
    create(place, name="kid", rpm=60, tpm=1200, max_concurrent=2)
    again = gates.adopt(site(place).quotas, {}, NOW)[0]["kid"]
    assert (again.requests[0].left(now_s), again.tokens[0].left(now_s), again.slots[0].used) == (59, 700, 1)


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
