"""The litellm process: an OpenAI-compatible door to every provider that has no dialect of its own.

The only file that imports litellm. It is run by its path, by the interpreter of the environment that holds litellm, and
needs nothing of the gateway there: only the standard library, litellm, and aiohttp, which litellm brings. All it may
do comes as one line of JSON on standard input (see `sidecarspec`): models, keys, addresses. Nothing of that comes from
a request, nothing from the environment. It tries nothing twice, keeps nothing, tells nobody, and ends when its standard
input does. Starting and watching it is `process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hmac
import importlib.metadata
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

#: 1.82.7 and 1.82.8 carried malware (PYSEC-2026-2); the line 1.107 was withdrawn, and nobody has said why.
FORBIDDEN = re.compile(r"1\.82\.[78]|1\.107(\..*)?")
EXIT_REFUSED = 78
MESSAGE_MAX = 8192
BEAT_S = 5.0

#: Read by litellm while it is imported: no downloads, no .env file.
QUIET = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "HF_HUB_OFFLINE": "1",
}

#: litellm's exception, by name, most special first -> HTTP status, OpenAI's type and code.
ERRORS: tuple[tuple[str, int, str, str | None], ...] = (
    ("ContextWindowExceededError", 400, "invalid_request_error", "context_length_exceeded"),
    ("ContentPolicyViolationError", 400, "invalid_request_error", "content_policy_violation"),
    ("UnsupportedParamsError", 400, "invalid_request_error", "unsupported_parameter"),
    ("LiteLLMUnknownProvider", 404, "invalid_request_error", "model_not_found"),
    ("PaymentRequiredError", 402, "insufficient_quota", "insufficient_quota"),
    ("AuthenticationError", 401, "authentication_error", "invalid_api_key"),
    ("PermissionDeniedError", 403, "permission_error", "permission_denied"),
    ("NotFoundError", 404, "invalid_request_error", "model_not_found"),
    ("RateLimitError", 429, "rate_limit_error", "rate_limit_exceeded"),
    ("UnprocessableEntityError", 422, "invalid_request_error", None),  # the gateway may know better, by the words
    ("BadRequestError", 400, "invalid_request_error", None),
    ("Timeout", 504, "server_error", "upstream_timeout"),
    ("ServiceUnavailableError", 503, "server_error", "overloaded"),
    ("APIResponseValidationError", 502, "server_error", "upstream_invalid_response"),
    ("BadGatewayError", 502, "server_error", "upstream_unavailable"),
    ("APIConnectionError", 502, "server_error", "upstream_unavailable"),
    ("InternalServerError", 500, "server_error", "upstream_unavailable"),
)
_SAID_BY = re.compile(r"^(?:litellm\.\w+: |\w+Error: |\w*Exception - |Error code: \d+ - )+")
UNKNOWN: tuple[int, str, str | None] = (502, "server_error", "upstream_unavailable")
#: Of the statuses from 500 on, those that are an answer of the provider's.
SPOKEN = frozenset({"InternalServerError", "ServiceUnavailableError", "BadGatewayError"})
ROWS = {name: (status, kind, code) for name, status, kind, code in ERRORS}
#: What litellm has no exception for, by the status it was told with.
STATUSES = {status: (status, kind, code) for _, status, kind, code in ERRORS}
#: Kinds of content that go through; an address in one is never followed, see `_address_in`.
PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal", "thinking", "redacted_thinking"})


class Refused(Exception):
    """A request that this process does not pass on."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


# -- the version, before anything of it runs --


def bad_version(version: str) -> str | None:
    """What is wrong with a version of litellm, None if nothing is.

    >>> bad_version("1.82.8"), bad_version("1.109.1")
    ('litellm 1.82.8 must not run: install what requirements/litellm.txt pins', None)
    """
    if FORBIDDEN.fullmatch(version):
        return f"litellm {version} must not run: install what requirements/litellm.txt pins"
    return None


def installed(folders: Iterable[str]) -> list[str]:
    """The versions of litellm in some folders of packages, by the names of their metadata alone."""
    found = [path for folder in folders for path in glob.glob(f"{glob.escape(folder)}/litellm-*.dist-info")]
    return [os.path.basename(path)[len("litellm-") : -len(".dist-info")] for path in found]


def _package_folders() -> list[str]:
    """Where this interpreter's packages are. 1.82.8 ran as soon as an interpreter looked at them: so we look first."""
    roots = {os.path.dirname(os.path.dirname(sys.executable)), sys.prefix, sys.base_prefix}
    return [path for root in roots for path in glob.glob(f"{glob.escape(root)}/lib*/python3*/*-packages")]


def _open_packages() -> str:
    """Make installed packages importable and return litellm's version. Ends the process where that must not be."""
    if sys.flags.no_site:
        for version in installed(_package_folders()):
            if wrong := bad_version(version):
                _refuse(wrong)
        import site

        site.main()
    try:
        version = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        _refuse(f"{sys.executable} has no litellm: pip install --no-deps -r requirements/litellm.txt")
    if wrong := bad_version(version):
        _refuse(wrong)
    return version


def _refuse(why: str) -> Any:
    print(why, file=sys.stderr, flush=True)
    os._exit(EXIT_REFUSED)


# -- what may be asked --


def checked(body: Any, members: frozenset[str]) -> dict[str, Any]:
    """The members of a request that go to litellm. Raises `Refused`: what is not passed on is never dropped unsaid."""
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise Refused(400, "The request is no chat completion.", "bad_request")
    asked = {name: value for name, value in body.items() if value is not None}
    for name in sorted(asked.keys() - members):
        raise Refused(400, f"{name[:64]!r} is not passed on to this provider.", "unsupported_parameter", name[:64])
    if asked.get("stream") is True and asked.get("n", 1) != 1:  # litellm loses the end of all choices but one
        raise Refused(400, "Several choices are not streamed through this provider.", "unsupported_parameter", "n")
    for tool in asked.get("tools") or ():
        if not isinstance(tool, dict) or tool.get("type") not in ("function", "custom"):
            raise Refused(
                400, "Only tools that the client runs itself are passed on.", "unsupported_parameter", "tools"
            )
    for message in asked["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict) or part.get("type") not in PARTS or _address_in(part):
                raise Refused(
                    400,
                    "Content is passed on as text or as data: URLs; nothing is fetched.",
                    "unsupported_parameter",
                    "messages",
                )
    return {name: value for name, value in asked.items() if name not in ("model", "messages", "stream")} | {
        "messages": asked["messages"]
    }


def _address_in(part: Mapping[str, Any]) -> bool:
    """Would litellm have to fetch something for this? Where to is nothing for a client to say."""
    image = part.get("image_url")
    if part["type"] == "image_url":
        url = image.get("url") if isinstance(image, dict) else image
        return not (isinstance(url, str) and url.startswith("data:"))
    if part["type"] == "file":
        file = part.get("file")
        data = file.get("file_data") if isinstance(file, dict) else None
        return not (isinstance(data, str) and data.startswith("data:")) or "file_id" in (file or ())
    return False


# -- what is answered --


def error_of(error: BaseException, secrets: Iterable[str] = ()) -> tuple[int, dict[str, Any], str | None]:
    """Status, OpenAI's error object and Retry-After for what litellm raised.

    Texts are kept only where they are the provider's own, shortened and without our secrets: litellm puts tracebacks
    into the others.
    """
    if type(error).__name__ == "MidStreamFallbackError":  # wrapped around whatever happens once a stream has begun
        error = getattr(error, "original_exception", None) or error
    names = {cls.__name__ for cls in type(error).__mro__}
    status, kind, code = UNKNOWN
    for name, *_ in ERRORS:
        if name in names:
            status, kind, code = ROWS[name]
            break
    else:
        stated = getattr(error, "status_code", None)
        if "APIError" in names and isinstance(stated, int) and 400 <= stated < 600:
            unnamed = (stated, "invalid_request_error", None) if stated < 500 else (stated, kind, code)
            status, kind, code = STATUSES.get(stated, unnamed)
    said = {"message": f"The provider failed ({type(error).__name__}).", "type": kind, "param": None, "code": code}
    if names & SPOKEN or status < 500:
        said["message"] = _blotted(_message(error), secrets)
    return status, said, _retry_after(error) if status == 429 or status >= 500 else None


def _message(error: BaseException) -> str:
    text = _SAID_BY.sub("", str(getattr(error, "message", None) or error)).partition("\nTraceback")[0]
    with contextlib.suppress(ValueError, RecursionError):
        inner = json.loads(text[text.index("{") : text.rindex("}") + 1])
        found = inner.get("error", inner) if isinstance(inner, dict) else None
        found = found.get("message") if isinstance(found, dict) else found
        if isinstance(found, str) and found:
            return found
    return text


def _blotted(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:MESSAGE_MAX]


def _retry_after(error: BaseException) -> str | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    stated = headers.get("retry-after") or (getattr(error, "litellm_response_headers", None) or {}).get("retry-after")
    if not isinstance(stated, str):
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return str(max(0, math.ceil(float(stated))))
    with contextlib.suppress(ValueError, TypeError):
        return str(max(0, math.ceil(parsedate_to_datetime(stated).timestamp() - time.time())))
    return None


def event_of(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """A chunk as OpenAI sends it: a finish reason in every choice, and usage alone in a chunk without choices."""
    event = dict(chunk)
    choices = event.get("choices") or []
    for choice in choices:
        choice.setdefault("finish_reason", None)
        choice.setdefault("delta", {})
    if event.get("usage") is not None and not any(c["delta"] or c["finish_reason"] for c in choices):
        event["choices"] = []
    return stated_usage(event)


def stated_usage(answer: dict[str, Any]) -> dict[str, Any]:
    """Without litellm's guess at a cost, and without a usage of nothing, its way to say that none was stated."""
    usage = answer.get("usage")
    if isinstance(usage, dict):
        usage.pop("cost", None)
    if isinstance(usage, dict) and not (usage.get("prompt_tokens") or usage.get("completion_tokens")):
        del answer["usage"]
    return answer


# -- the server --


class Door:
    """The HTTP side: who may ask for what, and how litellm is called."""

    def __init__(self, litellm: Any, spec: Mapping[str, Any], version: str) -> None:
        self.litellm = litellm
        self.backends: Mapping[str, Mapping[str, Any]] = spec["backends"]
        self.token = spec["token"].encode()
        self.members = frozenset(spec["members"])
        self.version = version
        given = [spec["token"]]
        for one in self.backends.values():
            given += [one["key"], *one["options"].values()]
        self.secrets = sorted({text for text in given if text and len(text) >= 8}, key=len, reverse=True)

    def app(self, max_body: int) -> Any:
        """The aiohttp application."""
        from aiohttp import web

        self.web = web
        app = web.Application(client_max_size=max_body)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/{backend}/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/{backend}/v1/chat/completions", self.chat)
        return app

    async def healthz(self, _: Any) -> Any:
        """The process is alive."""
        return self.web.json_response({"status": "ok", "litellm": self.version})

    def _opened(self, request: Any) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key.encode(errors="replace"), self.token)

    def _closed(self) -> Any:
        return self._error(401, "The key is missing or not valid.", "authentication_error", "invalid_api_key")

    async def models(self, request: Any) -> Any:
        """What a backend is configured to serve."""
        if not self._opened(request):
            return self._closed()
        where = self.backends.get(request.match_info["backend"], {"models": ()})
        return self.web.json_response({"object": "list", "data": [{"id": one} for one in where["models"]]})

    async def chat(self, request: Any) -> Any:
        """One chat completion. Cancelled by aiohttp when the gateway hangs up, and everything below it with it."""
        if not self._opened(request):
            return self._closed()
        try:
            try:
                body = json.loads(await request.read())
            except (ValueError, RecursionError):
                raise Refused(400, "The body is not JSON.", "invalid_json") from None
            arguments = checked(body, self.members)
            where = self._provider(request.match_info.get("backend"), body.get("model"))
        except Refused as no:
            return self._error(no.status, no.message, "invalid_request_error", no.code, no.param)
        try:
            answer = await self._ask(arguments, where, body)
            if body.get("stream") is True:
                return await self._stream(request, answer, where)
            # Shaped here, so that what cannot be told as JSON is the provider's failure too.
            told = json.dumps(stated_usage(answer.model_dump(mode="json", exclude_none=True)), ensure_ascii=False)
        except ConnectionError:  # of the one who asked
            raise
        except Exception as error:
            return self._failed(error, where)
        return self.web.Response(text=told, content_type="application/json")

    def _provider(self, backend: str | None, model: Any) -> Mapping[str, Any]:
        """The configured backend that serves a model. Nothing else of a request says where it goes."""
        for name, one in self.backends.items():
            if backend in (None, name) and model in one["models"]:
                return one
        raise Refused(404, "This model is not configured here.", "model_not_found", "model")

    async def _ask(self, arguments: Mapping[str, Any], where: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
        fixed = {
            "model": body["model"],
            "stream": body.get("stream") is True,
            # Without one, litellm would look for one: another provider's, say, in a variable of its own choice.
            "api_key": where["key"] or (None if where["options"] else "none"),
            "api_base": where["api_base"],
            "timeout": where["timeout_s"],
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": False,
            "no-log": True,
            "_skip_mcp_handler": True,  # which would want a package that is not there, and other servers than these
            **where["options"],
        }
        return await self.litellm.acompletion(**arguments, **{k: v for k, v in fixed.items() if v is not None})

    async def _stream(self, request: Any, answer: Any, where: Mapping[str, Any]) -> Any:
        response = self.web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        await response.prepare(request)
        try:
            async for event in self._events(answer, where):
                await response.write(b"data: " + event + b"\n\n")
        finally:
            close = getattr(answer, "aclose", None)
            if close is not None:
                await close()
        await response.write_eof()
        return response

    async def _events(self, answer: Any, where: Mapping[str, Any]) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer:
                event = event_of(chunk.model_dump(mode="json", exclude_none=True))
                if event["choices"] or "usage" in event:
                    yield json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        except Exception as error:
            status, said, _ = error_of(error, self.secrets)
            self._log(error, status, where)
            yield json.dumps({"error": {**said, "status": status}}, ensure_ascii=False).encode()
        else:
            yield b"[DONE]"

    def _failed(self, error: Exception, where: Mapping[str, Any]) -> Any:
        status, said, retry_after = error_of(error, self.secrets)
        self._log(error, status, where)
        headers = {"retry-after": retry_after} if retry_after is not None else {}
        return self.web.json_response({"error": said}, status=status, headers=headers)

    def _error(self, status: int, message: str, kind: str, code: str, param: str | None = None) -> Any:
        error = {"message": message, "type": kind, "param": param, "code": code}
        return self.web.json_response({"error": error}, status=status)

    @staticmethod
    def _log(error: Exception, status: int, where: Mapping[str, Any]) -> None:
        # No text of the error: it may quote the prompt.
        print(f"{where['name']}: {type(error).__name__}, told as {status}", file=sys.stderr, flush=True)


def settle(litellm: Any) -> None:
    """Turn off in litellm whatever tries again, keeps, reports, downloads or drops."""
    litellm.telemetry = False
    litellm.num_retries = 0
    litellm.drop_params = False
    litellm.modify_params = False
    litellm.cache = None
    litellm.model_fallbacks = None
    litellm.suppress_debug_info = True
    litellm.set_verbose = False
    litellm.disable_hf_tokenizer_download = True
    litellm.user_url_validation = True
    for name in ("callbacks", "success_callback", "failure_callback", "input_callback", "service_callback"):
        setattr(litellm, name, [])
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).disabled = True


def _end_with_stdin() -> None:
    """End when whoever holds the other end of standard input is gone, killed or not."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=wait, name="tether", daemon=True).start()


def _first_line() -> bytes:
    read = b""
    while b"\n" not in read:
        more = os.read(0, 65_536)
        if not more:
            _refuse("standard input holds no instructions: this is started by `pointsman serve` or `pointsman sidecar`")
        read += more
    return read


def _own_output() -> int:
    """Standard output for who started us alone: whatever else is printed there goes where errors go."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


async def _beat(out: int) -> None:
    """Say now and then that the loop turns: a process that hangs does not, and cannot say so."""
    while True:
        await asyncio.sleep(BEAT_S)
        os.write(out, b"{}\n")


async def serve(door: Door, spec: Mapping[str, Any], out: int) -> None:
    """Listen until SIGTERM, then let what is under way end within the grace period."""
    from aiohttp import web

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # What is under way must end with the gateway's connection: nobody would read the answer, but it would be paid for.
    runner = web.AppRunner(
        door.app(spec["max_body"]), handler_cancellation=True, access_log=None, shutdown_timeout=spec["drain_s"]
    )
    await runner.setup()
    await web.TCPSite(runner, spec["host"], spec["port"], reuse_port=spec["share_port"] or None).start()
    os.write(out, json.dumps({"ready": door.version}).encode() + b"\n")
    beating = loop.create_task(_beat(out))
    await stopping.wait()
    beating.cancel()
    await runner.cleanup()


def main() -> None:
    """Read what to serve, import litellm, serve."""
    version = _open_packages()
    spec = json.loads(_first_line())
    _end_with_stdin()
    out = _own_output()
    os.environ.update(QUIET)
    import litellm

    settle(litellm)
    asyncio.run(serve(Door(litellm, spec, version), spec, out))


if __name__ == "__main__":
    main()
