"""The control plane: everything that is not hot, as two FastAPI apps, one per listener.

Public routes ask for a key (health checks excepted) and tell a key only about its own requests. The admin app sits on
its own listener. Model requests never come here: `proxy.downstream` takes them before they reach ASGI.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from gateway import __version__, shapes
from gateway.core.errors import (
    BadRequest,
    Denied,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    UnsupportedEncoding,
    to_openai,
)
from gateway.core.types import Tenant
from gateway.explain.request import explain, explain_record
from gateway.front import admits, alive, headers_of, readiness, targets
from gateway.keys.api import Keys
from gateway.ledger.command import usage_told
from gateway.listing import listing
from gateway.proxy.asked import ELSEWHERE, authenticate, authenticated
from gateway.proxy.heads import Headers
from gateway.proxy.left import of_key, rows
from gateway.proxy.outside import peek
from gateway.proxy.runtime import Runtime
from gateway.reload import Reloader

#: Other calls of OpenAI's API. Nothing is known of who could serve one, so none is routed.
_UNROUTED = tuple(
    f"/v1/{name}"
    for name in (
        "audio", "batches", "completions", "embeddings", "files", "fine_tuning", "images", "moderations", "realtime",
        "responses", "videos",
    )
)  # fmt: skip

#: Characters of a path that a log line holds.
_LONGEST_PATH = 128
logger = logging.getLogger("pointsman")


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _app(runtime: Runtime, title: str, serves: str) -> FastAPI:
    # Without openapi_url FastAPI would tell everybody which routes there are.
    app = FastAPI(
        title=title,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=shapes.ERRORS,
    )

    def answer(request: Request, error: GatewayError, allow: str = "") -> Response:
        request_id = runtime.request_id(time.time())
        headers = {"x-request-id": request_id, "x-pointsman-origin": "gateway"}
        told = {"request_id": request_id, "status": error.status, "code": error.code}
        asked = {"method": request.method, "path": request.scope["path"][:_LONGEST_PATH]}
        level = logging.ERROR if error.status == 500 else logging.WARNING
        logger.log(level, "the control plane refused a request", extra=told | asked)
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        if allow:
            headers["allow"] = allow
        if error.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(error.retry_after_s)))
        return Response(to_openai(error), error.status, headers, "application/json")

    async def on_gateway_error(request: Request, error: Exception) -> Response:
        return answer(
            request, error if isinstance(error, GatewayError) else InternalError("internal_error", "It failed.")
        )

    async def on_http_error(request: Request, error: Exception) -> Response:
        if isinstance(error, StarletteHTTPException) and error.status_code == 405:
            allow = next((value for name, value in (error.headers or {}).items() if name.lower() == "allow"), "")
            return answer(
                request, MethodNotAllowed("method_not_allowed", "This path does not take that method."), allow
            )
        if request.scope["path"].startswith(_UNROUTED):
            return answer(
                request, NotFound("not_found", f"Pointsman routes chat completions, no other calls: {serves}.")
            )
        return answer(request, NotFound("not_found", f"There is nothing at this path: {serves}."))

    async def on_invalid(request: Request, _: Exception) -> Response:
        return answer(request, BadRequest("bad_request", "The request's parameters are not valid."))

    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(StarletteHTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_gateway_error)
    return app


def public_app(runtime: Runtime, reloader: Reloader) -> FastAPI:
    """Model listing, explanations, recent decisions, health."""
    app = _app(runtime, "Pointsman", "here are /v1/chat/completions and /v1/models; an SDK's base_url ends in /v1")

    async def tenant_of(request: Request) -> Tenant:
        return authenticate(runtime.serving, headers_of(request.scope), time.time())

    async def may_explain(tenant: Annotated[Tenant, Depends(tenant_of)]) -> Tenant:
        if not tenant.explain:
            raise Denied("policy_denied", "This key may not read decisions: set `explain: true` on it.")
        return tenant

    # Default deny: whatever is added to this router asks for a key.
    keyed = APIRouter(dependencies=[Depends(tenant_of)])

    @app.get("/healthz", responses=shapes.answers("status"))
    async def healthz() -> Response:
        """The process is alive. `front` answers it even before this app is there."""
        status, body = alive()
        return _json(body, status)

    @app.get("/readyz", responses=shapes.answers("status", "config", "reload", statuses=(200, 503)))
    async def readyz() -> Response:
        """Whether traffic should come here. `front` answers it even before this app is there."""
        status, body = readiness(runtime, reloader)
        return _json(body, status)

    @app.api_route(
        "/v1/chat/completions", methods=["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"], include_in_schema=False
    )
    async def not_post() -> Response:
        """Chat completions are asked for with POST, and those never come here."""
        raise StarletteHTTPException(405, headers={"allow": "POST"})

    @keyed.get("/v1/models", responses=shapes.answers("object", "data"))
    async def models(tenant: Annotated[Tenant, Depends(tenant_of)]) -> Response:
        """What this key may send as `model`."""
        return _json({"object": "list", "data": listing(runtime.serving.site, tenant)})

    @keyed.get("/v1/models/{name:path}", responses=shapes.answers("id", "object", "owned_by", "created"))
    async def model(name: str, tenant: Annotated[Tenant, Depends(tenant_of)]) -> Response:
        """One name of the list."""
        for entry in listing(runtime.serving.site, tenant):
            if entry["id"] == name:
                return _json(entry)
        raise NotFound("model_not_found", "This key has no model of that name; see /v1/models.", param="model")

    @keyed.post("/v1/explain", responses=shapes.answers("candidates", "signals"), openapi_extra=shapes.CHAT)
    async def explain_request(request: Request, tenant: Annotated[Tenant, Depends(may_explain)]) -> Response:
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
        return _json(told.to_dict())

    @keyed.get("/v1/decisions/{request_id}", responses=shapes.answers("record"))
    async def decision(request_id: str, tenant: Annotated[Tenant, Depends(may_explain)]) -> Response:
        """How a recent request of this key was decided."""
        entry = runtime.recall(request_id)
        if entry is None or not hmac.compare_digest(entry.record.routing.key, tenant.key):
            raise NotFound("not_found", "No recent request of this key has that id.")
        return _json(explain_record(entry))

    @keyed.get("/v1/key", responses=shapes.answers("object", "name", "expires", "policies", "models", "limits"))
    async def own_key(request: Request) -> Response:
        """What the key that asks may use, until when, and what is left of it; nothing of others."""
        tenant, ends_at = authenticated(runtime.serving, headers_of(request.scope), time.time())
        await _up_to_date(runtime)
        return _json(of_key(runtime.serving, runtime.gates, tenant, ends_at, time.monotonic()))

    own = Keys(lambda: runtime.serving.site.ring, lambda: reloader.rekey())

    async def maker(tenant: Annotated[Tenant, Depends(tenant_of)]) -> str:
        has = runtime.serving.site.holdings.get(tenant.key)
        if has is None or not has.may_create:
            raise Denied("policy_denied", "This key may not make keys: set `may_create: true` on it.")
        return tenant.key

    app.include_router(keyed)
    app.include_router(_key_routes(runtime, own, maker))
    return app


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


def _key_routes(runtime: Runtime, keys: Keys, asks: Callable[..., Awaitable[str | None]]) -> APIRouter:
    """The calls that make and take back keys; `asks` refuses who may not, and says as which key others do."""
    router = APIRouter(dependencies=[Depends(asks)])
    By = Annotated[str | None, Depends(asks)]

    @router.get("/v1/keys")
    async def listed(by: By) -> Response:
        """Keys with what each may use; never a key."""
        return _json(await keys.listed(by))

    @router.get("/v1/keys/{name}")
    async def shown(name: str, by: By) -> Response:
        """One key, with what is left of all limits that bind it."""
        told, own = await keys.shown(name, by)
        await _up_to_date(runtime)
        return _json({**told, "binds": rows(runtime.gates.limits(name), time.monotonic(), own)})

    @router.post("/v1/keys")
    async def create(request: Request, by: By) -> Response:
        """Make a key; the answer is the only place it is in."""
        return _json(await keys.create(await _json_body(request), by), 201, {"cache-control": "no-store"})

    @router.post("/v1/keys/{name}/rotate")
    async def rotate(name: str, request: Request, by: By) -> Response:
        """Give a name a new key."""
        return _json(await keys.rotate(name, await _json_body(request), by), 200, {"cache-control": "no-store"})

    @router.patch("/v1/keys/{name}")
    async def update(name: str, request: Request, by: By) -> Response:
        """Change what a key may; with `?dry_run=true` only say what would change."""
        dry = request.query_params.get("dry_run", "false")
        if dry not in ("true", "false") or request.query_params.keys() - {"dry_run"}:
            raise BadRequest("bad_request", "Only dry_run=true means something here.", param="dry_run")
        return _json(await keys.update(name, await _json_body(request), by, dry=dry == "true"))

    @router.delete("/v1/keys/{name}")
    async def revoke(name: str, by: By) -> Response:
        """Take a key back at once."""
        return _json(await keys.revoke(name, by))

    return router


def _told_routes(runtime: Runtime) -> APIRouter:
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
        return _json({"object": "list", "store": store, "data": rows(found, time.monotonic())})

    @router.get("/v1/usage", responses=shapes.answers("by", "rows", "total", "open"))
    async def usage(request: Request) -> Response:
        """What was used and what it cost: `by`, `since`, `until`, `last`, `day_zone`, `own` as in `pointsman usage`."""
        if runtime.ledger is None:
            raise NotFound("not_found", "No books are kept: the configuration says ledger: none.")
        shared_store = runtime.gates.store.remote
        told = partial(usage_told, runtime.ledger.settings, request.query_params, shared_store=shared_store)
        return _json(await asyncio.to_thread(told))

    return router


def admin_app(runtime: Runtime, reloader: Reloader) -> FastAPI:
    """Metrics, target states, reload. Open on loopback; elsewhere the configuration demands an admin key."""
    app = _app(
        runtime,
        "Pointsman admin",
        "this is the admin listener, with /metrics, /v1/usage, /v1/limits, /v1/targets, /v1/decisions, /v1/keys and "
        "/v1/reload",
    )

    async def admin(request: Request) -> None:
        if not admits(runtime, headers_of(request.scope)):
            if runtime.serving.site.admin_key_sha256 is None:
                raise Denied("policy_denied", ELSEWHERE.replace("keys", "an admin_key"))
            raise Unauthenticated("invalid_api_key", "The admin key is missing or not valid.")

    async def operator(request: Request) -> str | None:
        """None for an operator; the name of a key that may make keys, where it was sent in place of the admin key."""
        site, headers = runtime.serving.site, headers_of(request.scope)
        if site.admin_key_sha256 is not None and admits(runtime, headers):
            return None
        if not site.open and b"authorization" in headers:
            tenant = authenticate(runtime.serving, headers, time.time())
            if not site.holdings[tenant.key].may_create:
                raise Denied("policy_denied", "This key may not make keys: set `may_create: true` on it.")
            return tenant.key
        await admin(request)
        return None

    guarded = APIRouter(dependencies=[Depends(admin)])
    keys = Keys(lambda: runtime.serving.site.ring, lambda: reloader.rekey())

    @app.get("/healthz", responses=shapes.answers("status"))
    async def healthz() -> Response:
        """The process is alive. `front` answers it even before this app is there."""
        status, body = alive()
        return _json(body, status)

    @app.get("/readyz", responses=shapes.answers("status", "config", "reload", statuses=(200, 503)))
    async def readyz(request: Request) -> Response:
        """Whether traffic should come here, to those who may ask with why not. `front` answers it, as above."""
        status, body = readiness(runtime, reloader, detailed=admits(runtime, headers_of(request.scope)))
        return _json(body, status)

    @guarded.get("/metrics", responses=shapes.text("text/plain", "application/openmetrics-text"))
    async def metrics() -> Response:
        """`front` answers it to those who may ask: here it is only refused."""
        raise Unauthenticated("invalid_api_key", "The admin key is missing or not valid.")

    @guarded.get("/v1/targets", responses=shapes.answers("data"))
    async def listed() -> Response:
        """`front.targets`. `front` answers it to those who may ask, even before this app is there."""
        return _json(targets(runtime))

    @guarded.get("/v1/decisions/{request_id}", responses=shapes.answers("record"))
    async def decision(request_id: str) -> Response:
        """How a recent request was decided, whosever key it came with."""
        entry = runtime.recall(request_id)
        if entry is None:
            raise NotFound("not_found", "No recent request has that id: records on disk may have it (`records:`).")
        return _json(explain_record(entry))

    @guarded.post("/v1/targets/{name}/probed", responses=shapes.answers("target", "was_doubted"))
    async def probed(name: str) -> Response:
        """A probe saw that the target obeys its thinking switch: believe it again."""
        if all(target.name != name for target in runtime.serving.site.fleet.targets):
            raise NotFound("not_found", "There is no target of that name; see /v1/targets.")
        return _json({"target": name, "was_doubted": runtime.restore(name)})

    @guarded.post("/v1/reload", responses=shapes.answers("status", "config"))
    async def reload() -> Response:
        """Load the files again; 200 when they are served now, 400 with every problem when the old ones stay."""
        result = await asyncio.shield(reloader.request())
        if result.error:
            raise BadRequest("bad_request", result.error[:8192])
        return _json({"status": "reloaded", "config": runtime.serving.site.digest})

    @guarded.post("/v1/keys/reload")
    async def reload_keys() -> Response:
        """Read the keys file now, and nothing else; 400 with what is wrong when the old keys stay."""
        return _json(await keys.reload())

    guarded.include_router(_told_routes(runtime))
    app.include_router(guarded)
    app.include_router(_key_routes(runtime, keys, operator))
    return app
