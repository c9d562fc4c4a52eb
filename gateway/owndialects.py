"""Dialects that people write in pointsman.yaml: OpenAI-compatible providers without a row in `core.servers.rows` yet.

What may stand under `dialects:`, and the row it becomes. What a row means is core's business; what a backend adds to
it (headers, body) is checked here too, by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from gateway.core.quantities import Invalid
from gateway.core.request.thinking import Spelling
from gateway.core.servers.dialects import joined
from gateway.core.servers.rows import DIALECTS, Dialect
from gateway.core.types import LimitCounts, Outcome
from gateway.fields import Strict

_MEMBER = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
#: Header fields that the gateway writes itself, or that frame the message.
_OURS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-request-id",
    }
)
_ROUTED = frozenset({"messages", "model", "stream", "stream_options"})


def header_value(value: str) -> str:
    """A value that may stand in a header line. Raises `Invalid`, without showing it."""
    if not re.fullmatch(r"[!-~]([ -~]{0,4094}[!-~])?", value):
        raise Invalid("does not hold what a header can hold", "one line of printable ASCII, without spaces around it")
    return value


def header_names(headers: Mapping[str, Any]) -> None:
    """Raises `Invalid` for a header field that cannot be, or that is the gateway's own to write."""
    for name in headers:
        if not _TOKEN.fullmatch(name):
            raise Invalid(f"{name!r:.80} is not the name of a header field", "a name such as X-Title")
        if name.lower() in _OURS:
            raise Invalid(f"{name} is written by the gateway", "another header; a key goes under key: or auth:")
    if len({name.lower() for name in headers}) != len(headers):
        raise Invalid("names a header field twice", "each once, whatever its case")


def _headers(value: dict[str, str]) -> dict[str, str]:
    header_names(value)
    for one in value.values():
        header_value(one)
    return value


def _body(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in value:
        if not re.fullmatch(_MEMBER, name):
            raise Invalid(f"{name!r:.80} is not the name of a member", "a name such as provider")
        if name in _ROUTED:
            raise Invalid(f"{name} is written by the gateway", "a member other than model, messages and stream")
    return value


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value) or value.lower() in _OURS - {"authorization"}:
        raise Invalid(f"{value!r:.80} cannot hold a key", "a header field such as Authorization or X-Api-Key")
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]{0,255}", value) or re.search(r"[\\{}#]|/\.\.?(/|$)", value):
        raise Invalid(f"{value!r:.80} is not a path", "what stands behind base_url, such as /chat/completions")
    return value


def _members(value: list[str]) -> list[str]:
    for name in value:
        if not re.fullmatch(_MEMBER, name) or name in _ROUTED:
            raise Invalid(f"{name!r:.80} cannot be left out", "top-level members such as logprobs")
    return value


Body = Annotated[dict[str, JsonValue], AfterValidator(_body)]
Members = Annotated[list[str], AfterValidator(_members)]
Place = Annotated[str, Field(pattern=rf"^{_MEMBER}(\.{_MEMBER})?$")]
#: What an error code can mean; the words are those of `Outcome`.
Meaning = Literal[
    "auth",
    "client_error",
    "context_length",
    "forbidden",
    "miswritten",
    "model_gone",
    "overloaded",
    "rate_limited",
    "server_error",
]


class KeyHeaderDoc(Strict):
    """Which header field takes the key, and the word before it, if any: {header: Authorization, scheme: Bearer}."""

    header: Annotated[str, AfterValidator(_header_name)]
    scheme: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,32}$")


class SwitchDoc(Strict):
    """Where a server reads whether to think; a dotted name is a nested member. Empty: it cannot be told.

    `switch` takes true and false, `budget` tokens, `effort` OpenAI's word (`none` is off where there is no switch).
    `on` is the one effort it knows for thinking, `either` says that it refuses budget and effort together.
    """

    switch: Place | None = None
    budget: Place | None = None
    effort: Place | None = None
    on: str | None = Field(None, pattern=r"^[a-z_]{1,32}$")
    either: bool = False


class DialectDoc(Strict):
    """A dialect of your own: what differs from the one it is `like`. What is given replaces what that one has.

    Not replaced are members by which a client would choose another model than was authorised, what Ollama's API cannot
    say, and `body`, which is joined with that one's.
    `refuses` are members that mean something: a request that needs one goes to another target. `drops` are members an
    answer can do without. `limit` is the one name it knows for the output limit; `limit_counts` says what it holds to
    that: `all` that it writes, the `answer` without what was thought before it, or `nothing`, so that under a hard
    budget all that the target can write counts. `errors` says what the provider's own error codes mean, beside those
    that all have in common. `body` is put into every request, over the client's. A `strict` one refuses what it does
    not know, such as thinking in another server's spelling, which is left out then. `history` is the spelling of
    reasoning it takes in messages.
    """

    like: str = "openai"
    path: Annotated[str, AfterValidator(_path)] | None = None
    auth: KeyHeaderDoc | None = None
    headers: Annotated[dict[str, str], AfterValidator(_headers)] | None = None
    body: Body | None = None
    drops: Members | None = None
    refuses: Members | None = None
    limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    limit_counts: LimitCounts | None = None
    thinking: SwitchDoc | None = None
    strict: bool | None = None
    history: Literal["reasoning", "reasoning_content"] | None = None
    structured_output: bool | None = None
    errors: dict[str, Meaning] | None = None

    def row(self, name: str) -> Dialect:
        """The row this is. Raises KeyError for one that is like nothing."""
        base = DIALECTS[self.like]
        changes: dict[str, Any] = {"name": name}
        if self.path is not None:
            changes |= {"path": self.path, "paths": MappingProxyType({})}
        if self.auth is not None:
            changes["auth"] = (self.auth.header, f"{self.auth.scheme} " if self.auth.scheme else "")
        if self.headers is not None:
            changes["headers"] = MappingProxyType(self.headers)
        if self.body is not None:
            changes["members"] = MappingProxyType(joined(base.members, self.body))
        if self.drops is not None:
            changes["drops"] = frozenset(self.drops)
        if self.refuses is not None:
            # What has no words in an API of its own would be dropped in silence, whatever this says.
            unspoken = base.refuses if base.write is not None else frozenset()
            changes["refuses"] = unspoken.union(self.refuses)
        if self.limit is not None:
            changes["limit"] = self.limit
        if self.limit_counts is not None:
            changes["limit_counts"] = self.limit_counts
        if self.strict is not None:
            changes["strict"] = self.strict
        if self.history is not None:
            changes["history"] = self.history
        if self.structured_output is not None:
            changes["structured"] = self.structured_output
        if self.errors is not None:
            codes = {code: Outcome(meaning) for code, meaning in self.errors.items()}
            changes["codes"] = MappingProxyType({**base.codes, **codes})
        if self.thinking is not None:
            changes["thinking"] = Spelling(**self.thinking.model_dump())
        return replace(base, **changes)
