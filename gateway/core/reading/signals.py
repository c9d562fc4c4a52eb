"""The facts of one request that policies decide by: lazy, computed at most once, and able to say what they rest on.

Here belongs the meaning of each signal. How a language, a task or a length is told stands in `language`,
`translation`, `lexicon` and `sizes`; the parts of a request are found by `walk`; comparing a signal with what a
policy says stands in `matchers`.

A signal is None where it is not known, never a guess. What the client asks for narrows what its key allows and never
widens it: a tenant's `cost: low`, `region` and `residency` cannot be talked away by a header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from gateway.core.reading import translation
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.sizes import GivenSizes, RequestSizes, Sizes
from gateway.core.reading.walk import Request
from gateway.core.request import thinking as thoughts
from gateway.core.request.hints import Hints
from gateway.core.request.neutral import NEUTRAL, asks_nothing
from gateway.core.request.wire import Envelope
from gateway.core.resilience.conversations import conversation_of
from gateway.core.targets.capabilities import lies_in
from gateway.core.targets.rank import coarse
from gateway.core.text import language as languages
from gateway.core.text.language import Language
from gateway.core.text.tokens import Bounds, Tokenizers
from gateway.core.types import EMPTY, Target, Tenant

#: Tasks that a request's own facts can say, besides those that the lexicon tells by its words.
REQUEST_TASKS = frozenset({"agentic", "extraction"})
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_MOST_KEPT = 64  # names of members that `computed` lists, and characters of one: they are the client's to make up
#: Name under which `computed` tells how long the input was thought to be.
EXPECTED = "expected_tokens"


class Memory(dict[str, Any]):
    """What was asked for so far, in that order. What is asked for anew is not known; subclasses know more."""

    __slots__ = ()

    def __missing__(self, name: str) -> Any:
        self[name] = None


class _Computed(Memory):
    """Computes what is asked for. HOT."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def __missing__(self, name: str) -> Any:
        compute = _COMPUTE.get(name)
        value = self[name] = _named(self._request, name) if compute is None else compute(self._request)
        return value


class Signals:
    """The signals of one request. `get` computes each when it is first asked for.

    Not shared between threads, but for the `run` of a `NeedsCount` while nobody else asks.
    """

    __slots__ = ("_blocking", "_memo", "_request", "_sizes", "get")

    #: The value of a signal by its name, or None where it is not known. HOT, so it is the memory's own lookup.
    get: Callable[[str], Any]

    def __init__(self, memo: Memory, request: Request | None, sizes: Sizes, blocking: bool) -> None:
        self._memo = memo
        self.get = memo.__getitem__
        self._request = request
        self._sizes = sizes
        self._blocking = blocking

    @classmethod
    def of(
        cls,
        envelope: Envelope,
        *,
        tenant: Tenant,
        hints: Hints,
        headers: Mapping[str, str],
        tokenizers: Tokenizers,
        lexicon: Lexicon,
        now: float,
        blocking: bool,
    ) -> Signals:
        """The signals of a request. HOT: nothing is read here. `now` is Unix time, for signals of the hour and day."""
        request = Request(envelope, tenant, hints, headers, lexicon, now)
        return cls(_Computed(request), request, RequestSizes(request, tokenizers), blocking)

    @classmethod
    def given(cls, values: Mapping[str, Any], tokenizers: Tokenizers | None = None) -> Signals:
        """Signals with known values, for tests and replays; all others are unknown.

        `context_tokens` is the whole length as a policy compares it, requested output included. What `computed` made
        is taken back, and decides alike.

        >>> Signals.given({"language": "ja", "context_tokens": 300_000}).exceeds("qwen3.5", 200_000)
        True
        """
        memo = Memory(
            (name, _revive(name, value)) for name, value in values.items() if name not in ("context_tokens", "tokens")
        )
        return cls(memo, None, GivenSizes(values, memo.get("max_output_tokens")), True)

    def exceeds(self, tokenizer: str | None, limit: int) -> bool:
        """Whether prompt, template, tools, media and requested output are more than `limit` tokens. HOT.

        Raises NeedsCount where only an exact count of much text can tell and these signals may not block.
        """
        asked = self.get("max_output_tokens") or 0
        return self._sizes.more_than(tokenizer, limit - asked, self._blocking)

    def fits(self, target: Target) -> bool:
        """Whether prompt and requested output fit a target's window, by the target's own tokenizer. HOT.

        Where no output was requested, what the target typically gives is assumed. Raises NeedsCount as `exceeds` does.
        """
        output = self.get("max_output_tokens") or target.typical_output_tokens
        return not self._sizes.more_than(target.model.tokenizer, target.window - output, self._blocking)

    def surely_within(self, limit: int) -> bool:
        """Whether the input is at most `limit` tokens, as far as is known at no cost: False proves nothing. HOT."""
        return self._sizes.surely_within(limit)

    def tokens(self, tokenizer: str | None) -> Bounds:
        """The best bounds of the input known so far, without counting more."""
        return self._sizes.known(tokenizer)[0]

    def basis(self, tokenizer: str | None) -> str:
        """What `tokens` rests on, in words."""
        return self._sizes.known(tokenizer)[1]

    def at_most(self, tokenizer: str | None) -> tuple[int, str]:
        """What the input is at most, whatever its text, without counting more; and what that rests on in words."""
        bounds, basis = self._sizes.surely(tokenizer)
        return bounds.hi, basis

    def expected_input(self, tokenizer: str | None) -> int:
        """About how many tokens the input has, from what is known already and as a size class: for comparing prices.

        The first answer stands, however much is counted afterwards. HOT.
        """
        found: int | None = self._memo.get(EXPECTED)
        if found is None:
            found = self._memo[EXPECTED] = coarse(self._sizes.expected(tokenizer))
        return found

    @property
    def consulted(self) -> Collection[str]:
        """The names that were asked for so far, in that order, lengths aside."""
        return self._memo.keys()

    def read(self, names: Collection[str]) -> dict[str, Any]:
        """Those of some signals that were asked for and are known."""
        memo = self._memo
        return {name: value for name in names if (value := memo.get(name)) is not None}

    @property
    def quick_limit(self) -> int | None:
        """The largest input, by the bound from the body's size, for which every question of length so far would have
        been answered alike; None where the bound alone did not settle them all.
        """
        sizes = self._sizes
        return sizes.least if isinstance(sizes, RequestSizes) and sizes.quick_sufficed else None

    def computed(self) -> dict[str, Any]:
        """All that was computed so far as JSON: what a decision rested on, without any text of the prompt.

        The conversation is part of it though no policy asked, for a weighted choice is drawn by it. Of the parameters
        at most 64 names of at most 64 characters are listed; no real request has more.
        """
        found = {name: _plain(value) for name, value in self._memo.items() if value is not None}
        if len(sent := found.get("parameters", ())) > _MOST_KEPT or max(map(len, sent), default=0) > _MOST_KEPT:
            found["parameters"] = [name for name in sent if len(name) <= _MOST_KEPT][:_MOST_KEPT]
        if self._request is not None and (conversation := _COMPUTE["conversation"](self._request)) is not None:
            found["conversation"] = conversation
        return found | self._sizes.computed()


def _plain(value: Any) -> Any:
    if isinstance(value, Language):
        return value.to_dict()
    return sorted(value) if isinstance(value, frozenset) else value


def _revive(name: str, value: Any) -> Any:
    if name == "language" and isinstance(value, str):
        return Language({value: 1.0}, 1_000, 0.0)
    if name == "language" and isinstance(value, Mapping):
        return Language.from_dict(value if "shares" in value else {"shares": value})
    if isinstance(value, list | set | tuple):
        return frozenset(value)
    return value


def _named(request: Request, name: str) -> str | None:
    """The value of an open signal: a fact of the tenant, a header, a member of the metadata. Raises nothing."""
    kind, _, rest = name.partition(".")
    if kind == "tenant":
        return request.tenant.facts.get(rest)
    if kind == "headers":
        return request.headers.get(rest.lower())
    if kind == "metadata":
        value = (request.member("metadata") or EMPTY).get(rest)
        return value if isinstance(value, str) else None
    return None


def _effort(request: Request) -> str | None:
    """How much thinking the client asks for, in the words of OpenAI; servers' own switches and budgets count as well.

    By `thinking.wish_of`, which also says what a target is told: what is promised and what is sent must be one thing.
    """
    envelope = request.envelope
    if thoughts.MEMBERS.isdisjoint(envelope.members):
        return None
    wish = thoughts.wish_of(envelope)
    effort = wish.effort
    if wish.on is None or effort is None:
        return {True: "medium", False: "none", None: None}[wish.on]
    if (effort not in thoughts.LITTLE) != wish.on:  # a switch beside it says otherwise
        return "medium" if wish.on else "none"
    return effort if effort in _EFFORTS else None


def _structured_output(request: Request) -> str | None:
    wanted = request.member("response_format")
    kind = wanted["type"] if wanted else None
    if kind is None or kind == "text":
        return None
    return kind if kind in ("json_object", "json_schema") else "other"


def _modality(request: Request) -> frozenset[str]:
    """What the messages consist of; an answer wanted in anything but text is of a kind that no target is known for."""
    kinds: frozenset[str] = request.content.modality
    wanted = request.envelope.get("modalities")
    return kinds if not wanted or wanted == ["text"] else kinds | {"other"}


def _cost_sensitive(request: Request) -> bool:
    """The key's `cost: low` stands; else the header decides; else `service_tier: flex`.

    Only what the client itself asked for in the body can be unsaid by its header.
    """
    if request.tenant.facts.get("cost") == "low":
        return True
    if request.hints.cost is not None:
        return request.hints.cost == "low"
    return bool(request.member("service_tier") == "flex")


def _max_cost_usd(request: Request) -> float | None:
    """The lower one of what the key and what the client allow; of the key, `config` saw that it is a number."""
    fact = request.tenant.facts.get("max_cost_usd")
    hint = request.hints.max_cost_usd
    if fact is None:
        return hint
    return float(fact) if hint is None else min(float(fact), hint)


def _language(request: Request) -> Language | None:
    found = languages.of(request.user_texts)
    return found if found.letters else None


def _target_language(request: Request) -> frozenset[str] | None:
    """By the last thing the user wrote, where there is any."""
    excerpt = request.excerpt
    return None if excerpt is None else translation.wanted(excerpt)


def _task(request: Request) -> str | None:
    """What the words say; where they are undecided, offered tools or a wanted schema say something."""
    task = request.verdict.task
    if task is None and _COMPUTE["tools"](request):
        return "agentic"
    if task is None and _structured_output(request) == "json_schema":
        return "extraction"
    return task


def _difficulty(request: Request) -> str | None:
    """The client's `reasoning_effort` where it takes sides; else the words.

    With tools an easy wording proves nothing: how many steps it takes shows only on the way.
    """
    effort = _effort(request)
    if effort is not None and effort not in ("low", "medium"):
        return "easy" if effort in ("none", "minimal") else "hard"
    difficulty = request.verdict.difficulty
    return None if difficulty == "easy" and _COMPUTE["tools"](request) else difficulty


def _narrowed(name: str) -> Callable[[Request], str | None]:
    """A fact of the tenant, else the client's hint."""
    return lambda request: request.tenant.facts.get(name) or getattr(request.hints, name)


def _place(name: str) -> Callable[[Request], str | None]:
    """Where the tenant must stay, and within it where the client asks to be; a place that is nowhere if they differ."""

    def narrower(request: Request) -> str | None:
        fact: str | None = request.tenant.facts.get(name)
        hint: str | None = getattr(request.hints, name)
        if not fact or not hint or lies_in(fact, hint):
            return fact or hint
        return hint if lies_in(hint, fact) else f"{fact} and {hint}"

    return narrower


def _images(request: Request) -> int:
    return len(request.content.images)


def _max_output_tokens(request: Request) -> int | None:
    get = request.member
    asked = [value for name in ("max_completion_tokens", "max_tokens") if (value := get(name))]
    return max(asked, default=None)  # a server may go by either


def _choices(request: Request) -> int:
    asked = [request.member("n"), request.member("best_of")]
    return max((value for value in asked if type(value) is int), default=1)


def _parameters(request: Request) -> frozenset[str]:
    tree = request.envelope.tree
    if NEUTRAL.keys().isdisjoint(tree) and None not in tree.values():
        return frozenset(tree)
    return frozenset(name for name, value in tree.items() if not asks_nothing(name, value))


_COMPUTE: Mapping[str, Callable[[Request], Any]] = MappingProxyType(
    {
        "language": _language,
        "target_language": _target_language,
        "modality": _modality,
        "images": _images,
        "tools": lambda request: bool(request.member("tools") or request.member("functions")),
        "structured_output": _structured_output,
        "effort": _effort,
        "thinking_hint": lambda request: request.hints.thinking,
        "max_output_tokens": _max_output_tokens,
        "task": _task,
        "difficulty": _difficulty,
        "cost_sensitive": _cost_sensitive,
        "max_cost_usd": _max_cost_usd,
        "choices": _choices,
        "stream": lambda request: request.envelope.stream,
        "workload": _narrowed("workload"),
        "region": _place("region"),
        "residency": _place("residency"),
        "conversation": lambda request: conversation_of(request.hints, request.envelope),
        "model_asked": lambda request: request.envelope.model_asked,
        "parameters": _parameters,
    }
)
#: Every signal that a request has by itself, lengths, headers, metadata and tenant facts aside.
NAMES = tuple(_COMPUTE)
