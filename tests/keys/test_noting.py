"""What is noted of each change of the keys file, and what becomes of a change that cannot be."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import command, making, secret
from gateway.keys.audit import Asker
from gateway.times import moment
from tests.keys.conftest import LEAD, NOW, create, site, update


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


def test_a_file_of_notes_that_was_moved_away_or_cut_is_gone_on_with(place: Path) -> None:
    create(place, name="shop")
    beside, before = place / "pointsman.keys.audit.jsonl", place / "pointsman.keys.audit.jsonl.1"
    beside.rename(before)
    update(place, "shop", rpm=5)
    assert [one["what"] for one in noted(place)] == ["update"]
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    assert json.loads(before.read_text())["what"] == "create"
    os.truncate(beside, 0)
    making.revoke(place / "pointsman.keys.json", "shop", NOW)
    assert [one["what"] for one in noted(place)] == ["revoke"]


def test_a_change_that_cannot_be_noted_is_not_made(place: Path) -> None:
    create(place, name="shop")
    kept, beside = place / "pointsman.keys.json", place / "pointsman.keys.audit.jsonl"
    before = kept.read_bytes()
    beside.unlink()
    beside.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        making.revoke(kept, "shop", NOW)
    assert kept.read_bytes() == before


def test_what_root_changes_stays_the_gateway_s_though_the_folder_is_root_s(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(place, name="shop")
    kept, beside = place / "pointsman.keys.json", place / "pointsman.keys.audit.jsonl"
    owner = (os.getuid(), os.getgid())
    given = {}
    if os.geteuid() == 0:  # who is not root can give nothing away: there it is seen what would be given
        owner = (65534, 65534)
        for path in (kept, beside):
            os.chown(path, *owner)
    give = os.fchown

    def fchown(descriptor: int, *to: int) -> None:
        given[os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).removesuffix(" (deleted)")] = to
        give(descriptor, *to)

    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    making.revoke(kept, "shop", NOW)
    assert given.pop(beside.name) == given.pop(".pointsman.keys.json.lock") == owner
    assert list(given.values()) == [owner], "and the copy that replaced the file"
    for path in (kept, beside, place / ".pointsman.keys.json.lock"):
        assert (path.stat().st_uid, path.stat().st_gid) == owner, path


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
