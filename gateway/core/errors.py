"""Every error a client or an operator can meet, and the only maker of error bodies.

GatewayError                      answered to a client
├── BadRequest                    400  bad_request, invalid_json, context_length_exceeded, unsupported_capability,
│                                      unsupported_parameter, model_not_priced
├── Unauthenticated               401  invalid_api_key
├── Denied                        403  policy_denied, model_not_allowed
├── NotFound                      404  model_not_found, not_found
├── MethodNotAllowed              405  method_not_allowed
├── TooSlow                       408  request_timeout
├── TooLarge                      413  request_too_large
├── UnsupportedEncoding           415  unsupported_encoding
├── RateLimited                   429  rate_limit_exceeded, upstream_rate_limited, budget_exceeded
├── InternalError                 500  internal_error
├── BadUpstream                   502  upstream_unavailable, upstream_invalid_response, upstream_auth
├── Unavailable                   503  no_target_available, store_unavailable, overloaded, draining
├── UpstreamTimeout               504  upstream_timeout
└── StreamBroken                  in a stream: upstream_stream_interrupted, upstream_timeout, event_too_large, draining
ConfigError                       a file people wrote: what is wrong, where, and what would be valid

`code` is a closed set: clients switch on it and it is the metrics label. Texts that a client can see are constants of
the gateway; the one exception is an upstream's own 4xx, which is relayed (see `proxy.relaying`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

_INVALID = "invalid_request_error"
_SERVER = "server_error"

#: code -> (HTTP status, OpenAI error type). The status of a code in a stream is 200: the head was sent long ago.
CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, _INVALID),
    "invalid_json": (400, _INVALID),
    "context_length_exceeded": (400, _INVALID),
    "unsupported_capability": (400, _INVALID),
    "unsupported_parameter": (400, _INVALID),
    "model_not_priced": (400, _INVALID),
    "invalid_api_key": (401, "authentication_error"),
    "policy_denied": (403, "permission_error"),
    "model_not_allowed": (403, "permission_error"),
    "model_not_found": (404, _INVALID),
    "not_found": (404, _INVALID),
    "method_not_allowed": (405, _INVALID),
    "request_timeout": (408, _INVALID),
    "request_too_large": (413, _INVALID),
    "unsupported_encoding": (415, _INVALID),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "upstream_rate_limited": (429, "rate_limit_error"),
    "budget_exceeded": (429, "insufficient_quota"),
    "internal_error": (500, _SERVER),
    "upstream_unavailable": (502, _SERVER),
    "upstream_invalid_response": (502, _SERVER),
    "upstream_auth": (502, _SERVER),
    "upstream_stream_interrupted": (502, _SERVER),
    "event_too_large": (502, _SERVER),
    "no_target_available": (503, _SERVER),
    "store_unavailable": (503, _SERVER),
    "overloaded": (503, _SERVER),
    "draining": (503, _SERVER),
    "upstream_timeout": (504, _SERVER),
}


class GatewayError(Exception):
    """An error with a place in the table above. `retry_after_s` becomes the header of that name."""

    codes: tuple[str, ...] = tuple(CODES)

    def __init__(
        self, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        if code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status this error is answered with when the head has not been sent."""
        return CODES[self.code][0]

    @property
    def type(self) -> str:
        """OpenAI's `type` of this error."""
        return CODES[self.code][1]


class BadRequest(GatewayError):
    codes = (
        "bad_request",
        "invalid_json",
        "context_length_exceeded",
        "unsupported_capability",
        "unsupported_parameter",
        "model_not_priced",
    )


class Unauthenticated(GatewayError):
    codes = ("invalid_api_key",)


class Denied(GatewayError):
    codes = ("policy_denied", "model_not_allowed")


class NotFound(GatewayError):
    codes = ("model_not_found", "not_found")


class MethodNotAllowed(GatewayError):
    codes = ("method_not_allowed",)


class TooSlow(GatewayError):
    codes = ("request_timeout",)


class TooLarge(GatewayError):
    codes = ("request_too_large",)


class UnsupportedEncoding(GatewayError):
    codes = ("unsupported_encoding",)


class RateLimited(GatewayError):
    codes = ("rate_limit_exceeded", "upstream_rate_limited", "budget_exceeded")


class InternalError(GatewayError):
    codes = ("internal_error",)


class BadUpstream(GatewayError):
    codes = ("upstream_unavailable", "upstream_invalid_response", "upstream_auth")


class Unavailable(GatewayError):
    codes = ("no_target_available", "store_unavailable", "overloaded", "draining")


class UpstreamTimeout(GatewayError):
    codes = ("upstream_timeout",)


class StreamBroken(GatewayError):
    codes = ("upstream_stream_interrupted", "upstream_timeout", "event_too_large", "draining")


_CLASSES: tuple[type[GatewayError], ...] = (
    BadRequest,
    Unauthenticated,
    Denied,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    TooLarge,
    UnsupportedEncoding,
    RateLimited,
    InternalError,
    BadUpstream,
    Unavailable,
    UpstreamTimeout,
    StreamBroken,
)


def of_code(code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> GatewayError:
    """The error of the right class for a code, for callers that hold the code as a value (a refused Decision)."""
    for cls in _CLASSES:
        if code in cls.codes:
            return cls(code, message, param=param, retry_after_s=retry_after_s)
    raise ValueError(f"unknown error code {code!r}")


def to_openai(error: GatewayError) -> bytes:
    """The JSON body of an error, in OpenAI's shape.

    >>> to_openai(NotFound("model_not_found", "No model x.", param="model")).decode()
    '{"error":{"message":"No model x.","type":"invalid_request_error","param":"model","code":"model_not_found"}}'
    """
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file: `file:line: path: what is wrong: what would be valid`."""

    file: str
    line: int  # 1-based; 0 where the whole file is meant
    path: str  # dotted path into the document, e.g. rules[2].use[0].model
    what: str
    valid: str = ""

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}" if self.line else self.file, self.path, self.what, self.valid]
        return ": ".join(part for part in parts if part)


class ConfigError(Exception):
    """A file that people wrote does not load. Holds every problem found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
