"""Routes of the control plane that ask for a key, or that both listeners have: what each answers with.

Who may come in at all is the caller's to say, by what it hands over to depend on. Which listener serves what, how
refusals are answered, and health are `control`'s.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway import shapes
from gateway.core.errors import BadRequest, Denied, NotFound, UnsupportedEncoding
from gateway.core.types import Tenant
from gateway.explain.request import explain, explain_record
from gateway.front import headers_of
from gateway.keys.api import Keys
from gateway.ledger.command import usage_told
from gateway.listing import listing
from gateway.proxy.asked import authenticated
from gateway.proxy.heads import Headers
from gateway.proxy.left import of_key, rows
from gateway.proxy.outside import peek
from gateway.proxy.runtime import Runtime

Asks = Callable[..., Awaitable[Tenant]]


def in_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def key_holder_routes(runtime: Runtime, tenant_of: Asks) -> APIRouter:
    """What the holder of any key may ask; `tenant_of` refuses who has none."""
    router = APIRouter(dependencies=[Depends(tenant_of)])  # default deny: whatever is added asks for a key
    By = Annotated[Tenant, Depends(tenant_of)]

    @router.get("/v1/models", responses=shapes.answers("object", "data"))
    async def models(tenant: By) -> Response:
        """What this key may send as `model`."""
        return in_json({"object": "list", "data": listing(runtime.serving.site, tenant)})

    @router.get("/v1/models/{name:path}", responses=shapes.answers("id", "object", "owned_by", "created"))
    async def model(name: str, tenant: By) -> Response:
        """One name of the list."""
        for entry in listing(runtime.serving.site, tenant):
            if entry["id"] == name:
                return in_json(entry)
        raise NotFound("model_not_found", "This key has no model of that name; see /v1/models.", param="model")

    @router.get("/v1/key", responses=shapes.answers("object", "name", "expires", "policies", "models", "limits"))
    async def own_key(request: Request) -> Response:
        """What the key that asks may use, until when, and what is left of it; nothing of others."""
        tenant, ends_at = authenticated(runtime.serving, headers_of(request.scope), time.time())
        await _up_to_date(runtime)
        return in_json(of_key(runtime.serving, runtime.gates, tenant, ends_at, time.monotonic()))

    return router


def explaining_routes(runtime: Runtime, tenant_of: Asks) -> APIRouter:
    """What the holder of a key that may explain is told of decisions."""

    async def may_explain(tenant: Annotated[Tenant, Depends(tenant_of)]) -> Tenant:
        if not tenant.explain:
            raise Denied("policy_denied", "This key may not read decisions: set `explain: true` on it.")
        return tenant

    router = APIRouter(dependencies=[Depends(may_explain)])
    By = Annotated[Tenant, Depends(may_explain)]

    @router.post("/v1/explain", responses=shapes.answers("candidates", "signals"), openapi_extra=shapes.CHAT)
    async def explain_request(request: Request, tenant: By) -> Response:
        """What would happen to this chat request, and why; nothing is sent upstream."""
        site, board, now = runtime.serving.site, runtime.board, time.monotonic()
        gate = runtime.serving.gates.get(tenant.key)
        headers = Headers(headers_of(request.scope))
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedEncoding("unsupported_encoding", "Send the request body without Content-Encoding.")
        told = await asyncio.to_thread(
            explain,
            site,
            await request.body(),
            headers=headers,
            tenant=tenant,
            tokenizers=runtime.tokenizers,
            lexicon=runtime.lexicon,
            now=runtime.wall(),
            available=board.available(site.fleet, now),
            last_resort=board.last_resort(site.fleet, now),
            latency_s=board.latency_s,
            doubted=runtime.serving.doubted,
            left=None if gate is None else gate.affordable(),
            outside=partial(peek, runtime.conversations, runtime.paces, tenant.key),
        )
        return in_json(told.to_dict())

    @router.get("/v1/decisions/{request_id}", responses=shapes.answers("record"))
    async def decision(request_id: str, tenant: By) -> Response:
        """How a recent request of this key was decided."""
        entry = runtime.recall(request_id)
        if entry is None or not hmac.compare_digest(entry.record.routing.key, tenant.key):
            raise NotFound("not_found", "No recent request of this key has that id.")
        return in_json(explain_record(entry))

    return router


def key_routes(runtime: Runtime, keys: Keys, asks: Callable[..., Awaitable[str | None]]) -> APIRouter:
    """The calls that make and take back keys; `asks` refuses who may not, and says as which key others do."""
    router = APIRouter(dependencies=[Depends(asks)])
    By = Annotated[str | None, Depends(asks)]

    @router.get("/v1/keys")
    async def listed(by: By) -> Response:
        """Keys with what each may use; never a key."""
        return in_json(await keys.listed(by))

    @router.get("/v1/keys/{name}")
    async def shown(name: str, by: By) -> Response:
        """One key, with what is left of all limits that bind it."""
        told, own = await keys.shown(name, by)
        await _up_to_date(runtime)
        return in_json({**told, "binds": rows(runtime.gates.limits(name), time.monotonic(), own)})

    @router.post("/v1/keys")
    async def create(request: Request, by: By) -> Response:
        """Make a key; the answer is the only place it is in."""
        return in_json(await keys.create(await _json_body(request), by), 201, {"cache-control": "no-store"})

    @router.post("/v1/keys/{name}/rotate")
    async def rotate(name: str, request: Request, by: By) -> Response:
        """Give a name a new key."""
        return in_json(await keys.rotate(name, await _json_body(request), by), 200, {"cache-control": "no-store"})

    @router.patch("/v1/keys/{name}")
    async def update(name: str, request: Request, by: By) -> Response:
        """Change what a key may; with `?dry_run=true` only say what would change."""
        dry = request.query_params.get("dry_run", "false")
        if dry not in ("true", "false") or request.query_params.keys() - {"dry_run"}:
            raise BadRequest("bad_request", "Only dry_run=true means something here.", param="dry_run")
        return in_json(await keys.update(name, await _json_body(request), by, dry=dry == "true"))

    @router.delete("/v1/keys/{name}")
    async def revoke(name: str, by: By) -> Response:
        """Take a key back at once."""
        return in_json(await keys.revoke(name, by))

    return router


def told_routes(runtime: Runtime) -> APIRouter:
    """What operators are told of limits and of use; who may ask is the caller's to say."""
    router = APIRouter()

    @router.get("/v1/limits", responses=shapes.answers("object", "data", "store"))
    async def limits(request: Request) -> Response:
        """What is left of every limit; with `key` of those that bind it, with `team` of its own and its keys'."""
        asked = request.query_params
        if asked.keys() - {"key", "team"} or len(asked) > 1:
            raise BadRequest("bad_request", "One of key and team chooses; nothing else means anything here.")
        gates, quotas = runtime.gates, runtime.serving.site.quotas
        if "key" in asked and asked["key"] not in runtime.serving.site.holdings:
            raise NotFound("not_found", "There is no key of that name.")
        if "team" in asked and asked["team"] not in {*quotas.team_of.values(), *quotas.teams}:
            raise NotFound("not_found", "No key is of that team.")
        await _up_to_date(runtime)
        found = gates.of_team(asked["team"]) if "team" in asked else gates.limits(asked.get("key"))
        store = "memory" if not gates.store.remote else "away" if gates.store.degraded else "shared"
        return in_json({"object": "list", "store": store, "data": rows(found, time.monotonic())})

    @router.get("/v1/usage", responses=shapes.answers("by", "rows", "total", "open"))
    async def usage(request: Request) -> Response:
        """What was used and what it cost: `by`, `since`, `until`, `last`, `day_zone`, `own` as in `pointsman usage`."""
        if runtime.ledger is None:
            raise NotFound("not_found", "No books are kept: the configuration says ledger: none.")
        shared_store = runtime.gates.store.remote
        told = partial(usage_told, runtime.ledger.settings, request.query_params, shared_store=shared_store)
        return in_json(await asyncio.to_thread(told))

    return router


async def _json_body(request: Request) -> bytes:
    """A body that says that it is JSON, which no page of another site can send without being asked about first."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest("bad_request", "Send 'Content-Type: application/json'.")
    return body


async def _up_to_date(runtime: Runtime) -> None:
    """Have the limits say what is so now: periods that have come, and what other replicas have used."""
    runtime.gates.look(time.time())
    await runtime.gates.store.refresh()
