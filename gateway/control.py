"""The control plane: everything that is not hot, as two FastAPI apps, one per listener.

Public routes ask for a key (health checks excepted) and tell a key only about its own requests. The admin app sits on
its own listener. Model requests never come here: `proxy.downstream` takes them before they reach ASGI.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

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
    to_openai,
)
from gateway.core.types import Tenant
from gateway.explain.request import explain_record
from gateway.front import admits, alive, headers_of, readiness, targets
from gateway.keys.api import Keys
from gateway.proxy.asked import ELSEWHERE, authenticate
from gateway.proxy.runtime import Runtime
from gateway.reload import Reloader
from gateway.routes import explaining_routes, in_json, key_holder_routes, key_routes, told_routes

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

    @app.get("/healthz", responses=shapes.answers("status"))
    async def healthz() -> Response:
        """The process is alive. `front` answers it even before this app is there."""
        status, body = alive()
        return in_json(body, status)

    @app.get("/readyz", responses=shapes.answers("status", "config", "reload", statuses=(200, 503)))
    async def readyz() -> Response:
        """Whether traffic should come here. `front` answers it even before this app is there."""
        status, body = readiness(runtime, reloader)
        return in_json(body, status)

    @app.api_route(
        "/v1/chat/completions", methods=["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"], include_in_schema=False
    )
    async def not_post() -> Response:
        """Chat completions are asked for with POST, and those never come here."""
        raise StarletteHTTPException(405, headers={"allow": "POST"})

    own = Keys(lambda: runtime.serving.site.ring, lambda: reloader.rekey())

    async def maker(tenant: Annotated[Tenant, Depends(tenant_of)]) -> str:
        has = runtime.serving.site.holdings.get(tenant.key)
        if has is None or not has.may_create:
            raise Denied("policy_denied", "This key may not make keys: set `may_create: true` on it.")
        return tenant.key

    app.include_router(key_holder_routes(runtime, tenant_of))
    app.include_router(explaining_routes(runtime, tenant_of))
    app.include_router(key_routes(runtime, own, maker))
    return app


def admin_app(runtime: Runtime, reloader: Reloader) -> FastAPI:
    """Metrics, target states, reload. Open on loopback; elsewhere the configuration demands an admin key."""
    app = _app(
        runtime,
        "Pointsman admin",
        "this is the admin listener, with /metrics, /v1/usage, /v1/limits, /v1/targets, /v1/decisions, /v1/keys and "
        "/v1/reload",
    )

    admin, operator = _guards(runtime)
    keys = Keys(lambda: runtime.serving.site.ring, lambda: reloader.rekey())

    @app.get("/healthz", responses=shapes.answers("status"))
    async def healthz() -> Response:
        """The process is alive. `front` answers it even before this app is there."""
        status, body = alive()
        return in_json(body, status)

    @app.get("/readyz", responses=shapes.answers("status", "config", "reload", statuses=(200, 503)))
    async def readyz(request: Request) -> Response:
        """Whether traffic should come here, to those who may ask with why not. `front` answers it, as above."""
        status, body = readiness(runtime, reloader, detailed=admits(runtime, headers_of(request.scope)))
        return in_json(body, status)

    guarded = APIRouter(dependencies=[Depends(admin)])
    guarded.include_router(_operators_routes(runtime, reloader, keys))
    guarded.include_router(told_routes(runtime))
    app.include_router(guarded)
    app.include_router(key_routes(runtime, keys, operator))
    return app


def _guards(
    runtime: Runtime,
) -> tuple[Callable[[Request], Awaitable[None]], Callable[[Request], Awaitable[str | None]]]:
    """Who may come in: an operator; or an operator or a key that may make keys."""

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

    return admin, operator


def _operators_routes(runtime: Runtime, reloader: Reloader, keys: Keys) -> APIRouter:
    """What the process is, for an operator's eyes, and what may be done to it."""
    routes = APIRouter()

    @routes.get("/metrics", responses=shapes.text("text/plain", "application/openmetrics-text"))
    async def metrics() -> Response:
        """`front` answers it to those who may ask: here it is only refused."""
        raise Unauthenticated("invalid_api_key", "The admin key is missing or not valid.")

    @routes.get("/v1/targets", responses=shapes.answers("data"))
    async def listed() -> Response:
        """`front.targets`. `front` answers it to those who may ask, even before this app is there."""
        return in_json(targets(runtime))

    @routes.get("/v1/decisions/{request_id}", responses=shapes.answers("record"))
    async def decision(request_id: str) -> Response:
        """How a recent request was decided, whosever key it came with."""
        entry = runtime.recall(request_id)
        if entry is None:
            raise NotFound("not_found", "No recent request has that id: records on disk may have it (`records:`).")
        return in_json(explain_record(entry))

    @routes.post("/v1/targets/{name}/probed", responses=shapes.answers("target", "was_doubted"))
    async def probed(name: str) -> Response:
        """A probe saw that the target obeys its thinking switch: believe it again."""
        if all(target.name != name for target in runtime.serving.site.fleet.targets):
            raise NotFound("not_found", "There is no target of that name; see /v1/targets.")
        return in_json({"target": name, "was_doubted": runtime.restore(name)})

    @routes.post("/v1/reload", responses=shapes.answers("status", "config"))
    async def reload() -> Response:
        """Load the files again; 200 when they are served now, 400 with every problem when the old ones stay."""
        result = await asyncio.shield(reloader.request())
        if result.error:
            raise BadRequest("bad_request", result.error[:8192])
        return in_json({"status": "reloaded", "config": runtime.serving.site.digest})

    @routes.post("/v1/keys/reload")
    async def reload_keys() -> Response:
        """Read the keys file now, and nothing else; 400 with what is wrong when the old keys stay."""
        return in_json(await keys.reload())

    return routes
