"""Whether and how long a model may think: the client's wish in any spelling, and the fields that say it to a server.

What a policy asks for is `types.Thinking`; which spelling a server understands is a row in `dialects`. Only targets
that are `switchable` are told anything; what a client sent goes to all others as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from gateway.core.request.wire import Envelope
from gateway.core.types import Thinking

#: Where clients and servers put the switch, the budget in tokens, and the effort. A dotted name is a nested member.
_SWITCHES = (
    "chat_template_kwargs.enable_thinking",
    "chat_template_kwargs.thinking",  # DeepSeek's templates
    "enable_thinking",
    "reasoning.enabled",
    "think",
)
_BUDGETS = (
    "thinking_token_budget",
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
    "thinking_budget",
    "chat_template_kwargs.thinking_budget",
    "reasoning.max_tokens",
    "thinking.budget_tokens",  # Anthropic's, beside `type: enabled`
)
_EFFORTS = ("reasoning_effort", "reasoning.effort", "think")  # the last: Ollama's, which also takes true and false

#: Every top-level member that says something of thinking, whatever the dialect.
_SPELLINGS = frozenset((*_SWITCHES, *_BUDGETS, *_EFFORTS))
MEMBERS = frozenset(name.split(".")[0] for name in _SPELLINGS)

#: Efforts at which a model that can only be switched on or off is switched off.
LITTLE = ("none", "minimal")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Wish(NamedTuple):
    """`on` is None where nothing was said of it; `budget` is in tokens; `effort` is OpenAI's word."""

    on: bool | None = None
    budget: int | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Spelling:
    """Where a server reads the wish; None where it has no such field. A dotted name is a nested member.

    `on` is the one effort that it knows for thinking, where it takes no other; `beside` goes with every request to a
    target that can be switched, unless the client says it itself.
    """

    switch: str | None = None
    budget: str | None = None
    effort: str | None = None  # sent only with thinking on, unless the server has no switch
    on: str | None = None
    either: bool = False  # it refuses a budget and an effort together: the budget, which says more, is sent
    beside: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    sure: bool = True  # False: no model is taken to be switchable there unless the target says so

    @property
    def exists(self) -> bool:
        """There is a way to say it."""
        return self.switch is not None or self.effort is not None

    @property
    def heads(self) -> frozenset[str]:
        """The top-level members it is said in."""
        return frozenset(name.split(".")[0] for name in (self.switch, self.budget, self.effort) if name is not None)


def _find(envelope: Envelope, names: tuple[str, ...], kind: type) -> Any:
    for name in names:
        head, _, nested = name.partition(".")
        if head in envelope.tree:
            value = envelope.get(head)
            if nested:
                value = value.get(nested) if isinstance(value, dict) else None
            if type(value) is kind:
                return value
    return None


def wish_of(envelope: Envelope) -> Wish:
    """What the client said of thinking: a switch counts before an effort, an effort before a budget."""
    on: bool | None = _find(envelope, _SWITCHES, bool)
    budget: int | None = _find(envelope, _BUDGETS, int)
    effort: str | None = _find(envelope, _EFFORTS, str)
    if on is None and (word := _find(envelope, ("thinking.type",), str)) in ("enabled", "disabled"):
        on = word == "enabled"
    if on is None and effort is not None:
        on = effort not in LITTLE
    if on is None and budget is not None:
        on = budget > 0
    return Wish(on, budget if on and budget and budget > 0 else None, effort)


def settle(envelope: Envelope, thinking: Thinking) -> Wish:
    """The wish to send: the policy's, or the client's own in mode `client`."""
    mode = thinking.mode
    if mode == "never":
        return Wish(on=False)
    asked = wish_of(envelope)
    if mode == "client":
        return asked
    effort = None if asked.effort in LITTLE else asked.effort
    return Wish(True, thinking.budget if mode == "budget" else asked.budget, effort)


def effort_of(wish: Wish) -> str | None:
    """The wish as one word, for servers that know efforts only. A budget becomes the effort usual for its size.

    >>> effort_of(Wish(on=False)), effort_of(Wish(on=True)), effort_of(Wish(on=True, budget=1000))
    ('none', 'medium', 'low')
    """
    if wish.on is None:
        return None
    if wish.effort is not None and (wish.effort not in LITTLE) == wish.on:
        return wish.effort
    if not wish.on:
        return "none"
    if wish.budget is None:
        return "medium"
    return "low" if wish.budget <= 2048 else "medium" if wish.budget <= 8192 else "high"


def write(wish: Wish, spelling: Spelling, envelope: Envelope) -> dict[str, bytes | None]:
    """The members that tell a server the wish, as overrides for `wire.emit`; other spellings of it are dropped.

    Nested members are merged into what the client sent beside them, so its other template arguments survive.
    """
    nested: dict[str, dict[str, Any]] = {}
    overrides: dict[str, bytes | None] = {
        name: None for name in MEMBERS if name in envelope.tree and name != "chat_template_kwargs"
    }
    for name, value in _fields(wish, spelling).items():
        head, _, inner = name.partition(".")
        if inner:
            nested.setdefault(head, {})[inner] = value
        else:
            overrides[head] = msgspec.json.encode(value)
    nested.setdefault("chat_template_kwargs", {})
    for head, ours in nested.items():
        overrides.update(_merged(envelope, head, ours))
    return overrides


def _fields(wish: Wish, spelling: Spelling) -> dict[str, Any]:
    """What to say, by dotted name."""
    if wish.on is None:
        return {}
    fields: dict[str | None, Any] = {}
    if spelling.switch is None:
        fields[spelling.effort] = spelling.on if spelling.on is not None and wish.on else effort_of(wish)
    else:
        fields[spelling.switch] = wish.on
        if wish.on:
            fields[spelling.effort] = wish.effort
    if wish.on and spelling.budget is not None and wish.budget is not None:
        fields[spelling.budget] = wish.budget
        if spelling.either:
            fields[spelling.effort] = None
    return {name: value for name, value in fields.items() if name is not None and value is not None}


def _merged(envelope: Envelope, head: str, ours: Mapping[str, Any]) -> dict[str, bytes | None]:
    theirs = envelope.get(head) if head in envelope.tree else None
    kept = {}
    if isinstance(theirs, dict):
        kept = {k: v for k, v in theirs.items() if f"{head}.{k}" not in _SPELLINGS}
    merged = {**kept, **ours}
    if merged:
        return {} if merged == theirs and head == "chat_template_kwargs" else {head: msgspec.json.encode(merged)}
    return {head: None} if theirs is not None else {}
