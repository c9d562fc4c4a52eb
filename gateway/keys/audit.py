"""What is noted of each change of the keys file: who asked for what, of which key, and when. Never a key.

A line of JSON for each, appended to a file beside the keys file under the same lock and before the change takes place:
what happens to keys must be told after years, when logs are gone, and the command has no log. A change that cannot be
noted is not made. Writing is `file`'s; what a change is, `making`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.keys.secret import SHORT
from gateway.times import moment


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a change. `key`: the key that does, or in whose name the command does it; None: an operator."""

    over: Literal["command", "http"] = "command"
    key: str | None = None
    user: str | None = None  # whose command it is, by the name that the machine knows

    def __str__(self) -> str:
        """As logs name it."""
        return f"key {self.key}" if self.key is not None else "an operator"


def line(what: str, entry: Mapping[str, Any], asker: Asker, now: float, **more: Any) -> dict[str, Any]:
    """What is noted of a change of one key; `more` that is None is left out.

    >>> line("revoke", {"name": "shop", "sha256": "ab" * 32}, Asker("http"), 0, with_it=None)["id"]
    'abababababab'
    """
    who = {"by": asker.key, "over": asker.over, "user": asker.user}
    told = {"at": moment(now), "what": what, "key": entry["name"], "id": entry["sha256"][:SHORT], **who, **more}
    return {name: value for name, value in told.items() if value is not None}


def told_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without its hashes."""
    return {name: value for name, value in entry.items() if name not in ("name", "sha256", "replaced")}
