"""The calls by which keys are made, listed, changed, replaced and taken back over HTTP, as `pointsman keys` does.

Who asks with the admin key is an operator. Who asks with a key that has `may_create` acts as that key: makes no more
than it has, and sees and changes only what it made. Which listener serves this, and who may come in at all, is
`control`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from gateway.core.errors import BadRequest, ConfigError, Denied, GatewayError, NotFound, Unavailable
from gateway.core.quantities import Invalid
from gateway.keys import file, making, telling
from gateway.keys.audit import Asker
from gateway.keys.file import FileBusy
from gateway.keys.making import Issued, MayNot, NoSuchKey, Updated
from gateway.keys.ring import Ring

logger = logging.getLogger("pointsman")

_MOST_TOLD = 4096  # characters of what is wrong


class Keys:
    """The keys of a running gateway, for who asks over HTTP. `by` is always the key that asks; None: an operator."""

    def __init__(self, ring: Callable[[], Ring], rekey: Callable[[], Awaitable[str]]) -> None:
        """`ring` is that of the configuration being served; `rekey` reads its keys file now and says what is wrong."""
        self._ring = ring
        self._rekey = rekey

    async def listed(self, by: str | None) -> dict[str, Any]:
        """All keys, or those that this one made."""
        ring = self._ring()
        made = await self._done(file.read, ring.place.path)
        rows = telling.rows(ring.doc, made, time.time())
        mine = None if by is None else set(making.below(made.entries if made is not None else (), by))
        return {"object": "list", "data": [one for one in rows if mine is None or one["name"] in mine]}

    async def shown(self, name: str, by: str | None) -> tuple[dict[str, Any], set[str] | None]:
        """One key, and the names of keys of whose limits all may be told to who asks; None: of all."""
        ring = self._ring()
        made = await self._done(file.read, ring.place.path)
        mine = None if by is None else {by, *making.below(made.entries if made is not None else (), by)}
        for one in telling.rows(ring.doc, made, time.time()):
            if one["name"] == name and (mine is None or name in mine):
                return {"object": "key", **one}, mine
        raise NotFound("not_found", f"There is no key {name!r:.80}.")

    async def create(self, body: bytes, by: str | None) -> dict[str, Any]:
        """Make a key as the body says; its secret is in this answer and nowhere else."""
        wish = _object(body)
        issued = await self._done(making.create, self._ring(), wish, time.time(), Asker("http", by))
        return await self._issued(issued, "made", by) | {"warnings": list(issued.warnings)}

    async def rotate(self, name: str, body: bytes, by: str | None) -> dict[str, Any]:
        """Give a name a new key."""
        said = _object(body) if body else {}
        if said.keys() - {"overlap"}:
            raise BadRequest("bad_request", f"{sorted(said.keys() - {'overlap'})[0]!r:.60} means nothing here: overlap")
        try:
            overlap_s = making.overlap(str(said["overlap"])) if "overlap" in said else making.OVERLAP_S
        except Invalid as error:
            raise BadRequest("bad_request", f"overlap: {error}", param="overlap") from None
        issued = await self._changed(making.rotate, self._ring().place.path, name, time.time(), overlap_s, by=by)
        return await self._issued(issued, "rotated", by)

    async def update(self, name: str, body: bytes, by: str | None, *, dry: bool = False) -> dict[str, Any]:
        """Have a key's entry say what the body says; null takes out what it said. `dry`: only say what would change."""
        wish = _object(body)
        change = partial(making.update, dry=dry)
        updated: Updated = await self._changed(change, self._ring(), name, wish, time.time(), by=by)
        differs = {one: {"before": was, "after": will} for one, (was, will) in updated.changed.items()}
        told = {"changed": differs, "with_less": list(updated.less), "dry_run": dry, "warnings": list(updated.warnings)}
        if dry or not differs:
            return {"object": "key", "name": name, **told}
        self._log("updated", name, by)
        await self.reload()
        return {"object": "key", **await self._row(name), **told}

    async def revoke(self, name: str, by: str | None) -> dict[str, Any]:
        """Take a key back. It is refused from this answer on."""
        entry, fell = await self._changed(making.revoke, self._ring().place.path, name, time.time(), by=by)
        self._log("revoked", name, by)
        await self.reload()
        return {"object": "key", "name": name, "revoked": entry["revoked"], "with_it": fell}

    async def reload(self) -> dict[str, Any]:
        """Read the keys file now."""
        error = await self._rekey()
        if error:
            raise BadRequest("bad_request", self._named(error)[:_MOST_TOLD])
        return {"status": "reloaded"}

    async def _issued(self, issued: Issued, what: str, by: str | None) -> dict[str, Any]:
        name = issued.entry["name"]
        self._log(what, name, by)
        await self.reload()
        return {"object": "key", **await self._row(name), "key": issued.secret}

    async def _row(self, name: str) -> dict[str, Any]:
        """What is told of a key as the file has it now."""
        ring = self._ring()
        rows = telling.rows(ring.doc, await self._done(file.read, ring.place.path), time.time())
        return next((one for one in rows if one["name"] == name), {"name": name})

    def _log(self, what: str, name: str, by: str | None) -> None:
        logger.info("the key %s was %s by %s over HTTP", name, what, Asker("http", by))

    async def _changed(self, function: Callable[..., Any], *arguments: Any, by: str | None) -> Any:
        """What a change of one key gives. An operator is told of a key that stands elsewhere."""
        try:
            return await self._done(function, *arguments, Asker("http", by))
        except NotFound:
            there = making.stands_there(self._ring().doc, arguments[1]) if by is None else None
            if there is None:
                raise
            raise NotFound("not_found", f"{there}.") from None

    def _named(self, text: str) -> str:
        """With the name of the keys file for its path: where it lies is nobody's business who asks over HTTP."""
        path = self._ring().place.path
        return text.replace(os.path.realpath(path), path.name).replace(str(path), path.name)

    async def _done(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives that works on the file, with what it raises as an answer."""
        try:
            return await asyncio.to_thread(function, *arguments)
        except (Invalid, ConfigError) as error:
            raise self._answer(error) from None
        except FileBusy as error:
            raise Unavailable("store_unavailable", f"{self._named(str(error))}.", retry_after_s=1) from None
        except OSError as error:
            what = f"The keys file cannot be changed ({error.strerror or type(error).__name__}); nothing was changed."
            raise Unavailable("store_unavailable", what, retry_after_s=5) from None

    def _answer(self, error: Invalid | ConfigError) -> GatewayError:
        if isinstance(error, NoSuchKey):
            return NotFound("not_found", f"{error}.")
        if isinstance(error, MayNot):
            return Denied("policy_denied", f"{error}.")
        param = error.problems[0].path if isinstance(error, ConfigError) else None
        return BadRequest("bad_request", self._named(str(error))[:_MOST_TOLD], param=param or None)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadRequest("invalid_json", "The request body is not a JSON object.")
    return found
