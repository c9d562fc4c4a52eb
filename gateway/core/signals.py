"""The facts of one request that policies decide by: lazy, computed at most once, and able to say what they rest on.

Here belong the meaning of each signal and of the client's hints. How a language, a length or a task is told stands in
`language`, `tokens`, `media` and `lexicon`; comparing a signal with what a policy says, in `matchers`.

A signal is None where it is not known, never a guess. What the client asks for narrows what its key allows and never
widens it: a tenant's `cost: low`, `region` and `residency` cannot be talked away by a header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway.core import language as languages
from gateway.core import media, translation
from gateway.core.errors import BadRequest
from gateway.core.language import Language
from gateway.core.lexicon import Lexicon, Verdict
from gateway.core.longtext import LongText
from gateway.core.neutral import asks_nothing
from gateway.core.quantities import Invalid
from gateway.core.quantities import tokens as parse_tokens
from gateway.core.rank import coarse
from gateway.core.tokens import TEMPLATES, UNKNOWN_TEMPLATE, Bounds, Prompt, Text, Tokenizers, utf8_size
from gateway.core.types import EMPTY, Target, Tenant
from gateway.core.wire import Envelope

#: Tasks that a request's own facts can say, besides those that the lexicon tells by its words.
REQUEST_TASKS = frozenset({"agentic", "extraction"})
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_MAX_HINT = 128
_MOST_KEPT = 64  # names of members that `computed` lists, and characters of one: they are the client's to make up
_MAX_TIMEOUT_S = 86_400.0
_MUCH = 1 << 60  # tokens; more than any limit
#: Name under which `computed` tells how long the input was thought to be.
EXPECTED = "expected_tokens"


class NeedsCount(Exception):
    """Only an exact count of much text can settle a question, and this is no place to block.

    Run `run` in a thread, then ask again: its result is kept.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        super().__init__("an exact count is needed")
        self.run = run


# --- hints ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hints:
    """The `x-pointsman-*` headers of a request; None where one was not sent."""

    policy: str | None = None
    cost: str | None = None  # low or normal
    thinking: str | int | None = None  # never, always, or a budget in tokens
    region: str | None = None
    residency: str | None = None
    workload: str | None = None
    timeout_s: float | None = None
    conversation: str | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Hints:
        """The hints among headers with lower-case names. Raises BadRequest with the header as `param`.

        >>> Hints.parse({"x-pointsman-thinking": "4k", "x-pointsman-timeout-ms": "1500"}).timeout_s
        1.5
        """
        found: dict[str, Any] = {}
        for header, value in headers.items():
            if not header.startswith(_PREFIX):
                continue
            name = header[len(_PREFIX) :]
            if name not in _HINTS:
                _bad(header, "is not a hint; known are " + ", ".join(_HINTS))
            value = value.strip()
            if not 0 < len(value) <= _MAX_HINT or not value.isprintable():
                _bad(header, f"must be 1 to {_MAX_HINT} printable characters")
            found[_HINTS[name]] = _hint(header, name, value)
        return cls(**found) if found else NO_HINTS


_PREFIX = "x-pointsman-"
_HINTS = {
    "policy": "policy",
    "cost": "cost",
    "thinking": "thinking",
    "region": "region",
    "residency": "residency",
    "workload": "workload",
    "timeout-ms": "timeout_s",
    "conversation": "conversation",
}
NO_HINTS = Hints()


def _bad(header: str, why: str) -> None:
    raise BadRequest("bad_request", f"{header[:64]} {why}.", param=header[:64])


def _hint(header: str, name: str, value: str) -> str | int | float:
    if name == "cost" and value not in ("low", "normal"):
        _bad(header, "must be low or normal")
    if name == "thinking" and value not in ("never", "always"):
        try:
            budget = parse_tokens(value)
        except Invalid:
            budget = 0
        if not 0 < budget <= 10_000_000:
            _bad(header, "must be never, always or a number of tokens such as 4k")
        return budget
    if name == "timeout-ms":
        if not (value.isascii() and value.isdecimal()) or not 0 < int(value) <= _MAX_TIMEOUT_S * 1000:
            _bad(header, "must be a whole number of milliseconds")
        return int(value) / 1000
    return value


# --- signals ----------------------------------------------------------------------------------------------------------


class Signals:
    """The signals of one request. `get` computes each when it is first asked for.

    Not shared between threads, but for the `run` of a `NeedsCount` while nobody else asks.
    """

    __slots__ = ("_blocking", "_memo", "_request", "_sizes")

    def __init__(self, memo: dict[str, Any], request: _Request | None, sizes: _Sizes, blocking: bool) -> None:
        self._memo = memo
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
        request = _Request(envelope, tenant, hints, headers, lexicon, now)
        return cls({}, request, _RequestSizes(request, tokenizers), blocking)

    @classmethod
    def given(cls, values: Mapping[str, Any], tokenizers: Tokenizers | None = None) -> Signals:
        """Signals with known values, for tests and replays; all others are unknown.

        `context_tokens` is the whole length as a policy compares it, requested output included. What `computed` made
        is taken back, and decides alike.

        >>> Signals.given({"language": "ja", "context_tokens": 300_000}).exceeds("qwen3.5", 200_000)
        True
        """
        memo = {
            name: _revive(name, value) for name, value in values.items() if name not in ("context_tokens", "tokens")
        }
        return cls(memo, None, _GivenSizes(values, memo.get("max_output_tokens")), True)

    def get(self, name: str) -> Any:
        """The value of a signal, or None where it is not known. HOT."""
        try:
            return self._memo[name]
        except KeyError:
            pass
        value = None if self._request is None else self._request.compute(name)
        self._memo[name] = value
        return value

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

    def tokens(self, tokenizer: str | None) -> Bounds:
        """The best bounds of the input known so far, without counting more."""
        return self._sizes.known(tokenizer)[0]

    def basis(self, tokenizer: str | None) -> str:
        """What `tokens` rests on, in words."""
        return self._sizes.known(tokenizer)[1]

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
        """Those of some signals that were asked for and are known, as JSON."""
        memo = self._memo
        return {name: _plain(memo[name]) for name in names if memo.get(name) is not None}

    @property
    def quick_limit(self) -> int | None:
        """The largest input, by the bound from the body's size, for which every question of length so far would have
        been answered alike; None where the bound alone did not settle them all.
        """
        sizes = self._sizes
        return sizes.least if isinstance(sizes, _RequestSizes) and sizes.quick_sufficed else None

    def computed(self) -> dict[str, Any]:
        """All that was computed so far as JSON: what a decision rested on, without any text of the prompt.

        The conversation is part of it though no policy asked, for a weighted choice is drawn by it. Of the parameters
        at most 64 names of at most 64 characters are listed; no real request has more.
        """
        found = {name: _plain(value) for name, value in self._memo.items() if value is not None}
        if len(sent := found.get("parameters", ())) > _MOST_KEPT or max(map(len, sent), default=0) > _MOST_KEPT:
            found["parameters"] = [name for name in sent if len(name) <= _MOST_KEPT][:_MOST_KEPT]
        if self._request is not None and (conversation := self._request.hints.conversation) is not None:
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


# --- lengths ----------------------------------------------------------------------------------------------------------


class _Sizes:
    """How long the input is, by each tokenizer."""

    __slots__ = ()

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        raise NotImplementedError

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        raise NotImplementedError

    def expected(self, tokenizer: str | None) -> int:
        """About how long the input is. Bounds that nobody has narrowed are bytes, of which four make a token."""
        bounds = self.known(tokenizer)[0]
        return bounds.hi if bounds.exact else bounds.lo + (bounds.hi - bounds.lo) // 4

    def computed(self) -> dict[str, Any]:
        """What `_GivenSizes` takes back."""
        raise NotImplementedError


def expected_of(envelope: Envelope) -> int:
    """About how many tokens a request without parts has, by the size of its body."""
    return envelope.size // 4


class _GivenSizes(_Sizes):
    """Lengths that are known: one for all tokenizers, or what was computed by each."""

    __slots__ = ("_all", "_by", "_total")

    def __init__(self, values: Mapping[str, Any], asked: int | None) -> None:
        self._total = total = values.get("context_tokens")
        size = 0 if total is None else max(int(total) - (asked or 0), 0)
        self._all = (Bounds(size, size, True), "as given")
        self._by = {
            name: (Bounds(int(lo), int(hi), bool(exact)), str(basis))
            for name, (lo, hi, exact, basis) in values.get("tokens", {}).items()
        }

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        return self._by.get(tokenizer or "") or self._by.get("") or self._all

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        return self.known(tokenizer)[0].hi > limit

    def computed(self) -> dict[str, Any]:
        by = {name: [bounds.lo, bounds.hi, bounds.exact, basis] for name, (bounds, basis) in self._by.items()}
        return {"tokens": by} if self._total is None else {"context_tokens": self._total, "tokens": by}


class _RequestSizes(_Sizes):
    """Lengths found out step by step, no further than the question needs."""

    __slots__ = ("_added", "_prompt", "_quick", "_request", "_tokenizers", "least")

    def __init__(self, request: _Request, tokenizers: Tokenizers) -> None:
        self._request = request
        self._tokenizers = tokenizers
        self._quick: int | None = None
        self._prompt: Prompt | None = None
        self.least = _MUCH  # the smallest limit that was asked about and not reached
        self._added: dict[str | None, tuple[int, int]] = {}

    def quick(self) -> int:
        """An upper bound for any tokenizer from the size of the body alone, or a huge one where there are parts."""
        if self._quick is None:
            plain = all(type(m.get("content")) is str for m in self._request.messages)
            self._quick = self._request.envelope.quick_tokens if plain else _MUCH
        return self._quick

    @property
    def quick_sufficed(self) -> bool:
        """Nothing but the size of the body was looked at so far."""
        return self._prompt is None

    def expected(self, tokenizer: str | None) -> int:
        """By the size of the body, where nothing more was looked at."""
        if self._prompt is None and self.quick() < _MUCH:
            return expected_of(self._request.envelope)
        return super().expected(tokenizer)

    @property
    def prompt(self) -> Prompt:
        if self._prompt is None:
            request = self._request
            self._prompt = Prompt([*request.content.texts, *request.extra_texts], self._tokenizers)
        return self._prompt

    def added(self, tokenizer: str | None) -> tuple[int, int]:
        """What template, tools and media add: at least and at most."""
        found = self._added.get(tokenizer)
        if found is None:
            content, tools = self._request.content, self._request.tools_json
            template = TEMPLATES.get(tokenizer or "", UNKNOWN_TEMPLATE)
            fixed = template.added(content.messages, content.calls, bool(tools))
            lo, hi = content.media_tokens(tokenizer)
            if tools:
                more = int(self._tools_tokens(tokenizer, tools) * template.tools_factor) + 1
                lo, hi = lo, hi + more
                fixed_lo = more // 2
            else:
                fixed_lo = 0
            found = self._added[tokenizer] = (lo + fixed_lo + content.messages, fixed + hi)
        return found

    def _tools_tokens(self, tokenizer: str | None, tools: str) -> int:
        if tokenizer is not None and self._tokenizers.ready(tokenizer) and len(tools) <= 1 << 20:
            return Prompt([tools], self._tokenizers).count_all(tokenizer).hi
        return utf8_size(tools)

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        bounds, basis = self.prompt.known(tokenizer)
        return bounds.plus(*self.added(tokenizer)), basis

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        quick = self.quick()
        if quick <= limit:
            if limit < self.least:
                self.least = limit
            if (
                quick * 4 > limit * 3 and tokenizer is not None
            ):  # its bytes are half of it: the next turn may need a count
                self._tokenizers.want(tokenizer)
            return False
        prompt = self.prompt
        lo, hi = self.added(tokenizer)
        bounds, _ = prompt.known(tokenizer)
        if tokenizer is not None and _between(bounds, limit, lo, hi):
            bounds = prompt.counted_now(tokenizer)
            while _between(bounds, limit, lo, hi) and (step := prompt.sharper(tokenizer)) is not None:
                if not blocking:
                    raise NeedsCount(step)
                bounds = step()
        return bounds.hi + hi > limit

    def computed(self) -> dict[str, Any]:
        names: set[str | None] = {None, *self.prompt.counted, *self._added}  # every one that was asked about
        by = {
            name or "": [bounds.lo, bounds.hi, bounds.exact, basis]
            for name in names
            for bounds, basis in [self.known(name)]
        }
        return {"tokens": by}


def _between(bounds: Bounds, limit: int, lo: int, hi: int) -> bool:
    """Whether a limit lies where it is not known on which side the length is."""
    return bounds.lo + lo <= limit < bounds.hi + hi and not bounds.exact


# --- one request ------------------------------------------------------------------------------------------------------


class _Request:
    """A request and what was found by walking it, once."""

    __slots__ = ("_content", "_verdict", "envelope", "headers", "hints", "lexicon", "messages", "now", "tenant")

    def __init__(
        self,
        envelope: Envelope,
        tenant: Tenant,
        hints: Hints,
        headers: Mapping[str, str],
        lexicon: Lexicon,
        now: float,
    ) -> None:
        self.envelope = envelope
        self.tenant = tenant
        self.hints = hints
        self.headers = headers
        self.lexicon = lexicon
        self.now = now
        self.messages: Sequence[Mapping[str, Any]] = envelope.get("messages")
        self._content: media.Content | None = None
        self._verdict: Verdict | None = None

    def compute(self, name: str) -> Any:
        """The value of a signal. Raises nothing."""
        found = _COMPUTE.get(name)
        if found is not None:
            return found(self)
        kind, _, rest = name.partition(".")
        if kind == "tenant":
            return self.tenant.facts.get(rest)
        if kind == "headers":
            return self.headers.get(rest.lower())
        if kind == "metadata":
            value = (self.envelope.get("metadata") or EMPTY).get(rest)
            return value if isinstance(value, str) else None
        return None

    @property
    def content(self) -> media.Content:
        """What the messages consist of."""
        if self._content is None:
            self._content = media.read(self.messages)
        return self._content

    @property
    def tools_json(self) -> str:
        """The tools as compact JSON, "" where none are offered."""
        offered = [value for name in ("tools", "functions") if (value := self.envelope.get(name))]
        return "".join(map(media.compact, offered))

    @property
    def extra_texts(self) -> list[Text]:
        """Texts outside the messages that servers put into the prompt."""
        wanted = self.envelope.get("response_format")
        schema = wanted.get("json_schema") if wanted else None
        return [media.compact(schema)] if schema else []

    @property
    def user_texts(self) -> list[Text]:
        """What the user wrote, turn by turn."""
        found: list[Text] = []
        for message in self.messages:
            if message["role"] != "user":
                continue
            content = message.get("content")
            if isinstance(content, str | LongText):
                found.append(content)
            elif isinstance(content, list):
                texts = [part.get("text") for part in content if part["type"] in ("text", "input_text")]
                short = [text for text in texts if isinstance(text, str)]
                long = [text for text in texts if isinstance(text, LongText)]
                found += long
                if short:
                    found.append("\n".join(short))
        return found

    @property
    def verdict(self) -> Verdict:
        """What the lexicon says of the last thing the user wrote."""
        if self._verdict is None:
            texts = self.user_texts
            self._verdict = self.lexicon.judge(texts[-1]) if texts else Verdict(None, None)
        return self._verdict


def _effort(request: _Request) -> str | None:
    """How much thinking the client asks for, in the words of OpenAI; servers' own switches count as well."""
    get = request.envelope.get
    effort = get("reasoning_effort")
    if effort is None and isinstance(reasoning := get("reasoning"), dict):
        effort = reasoning.get("effort")
    if effort is None:
        switch = get("enable_thinking")
        if switch is None and isinstance(arguments := get("chat_template_kwargs"), dict):
            switch = arguments.get("enable_thinking")
        effort = {True: "medium", False: "none"}.get(switch) if isinstance(switch, bool) else None
    return effort if isinstance(effort, str) and effort in _EFFORTS else None


def _structured_output(request: _Request) -> str | None:
    wanted = request.envelope.get("response_format")
    kind = wanted["type"] if wanted else None
    return kind if kind in ("json_object", "json_schema") else None


def _cost_sensitive(request: _Request) -> bool:
    """The key's `cost: low` stands; else the header decides; else `service_tier: flex`.

    Only what the client itself asked for in the body can be unsaid by its header.
    """
    if request.tenant.facts.get("cost") == "low":
        return True
    if request.hints.cost is not None:
        return request.hints.cost == "low"
    return bool(request.envelope.get("service_tier") == "flex")


def _language(request: _Request) -> Language | None:
    found = languages.of(request.user_texts)
    return found if found.letters else None


def _target_language(request: _Request) -> frozenset[str] | None:
    """By the last thing the user wrote, where there is any."""
    texts = request.user_texts
    return translation.wanted(texts[-1]) if texts else None


def _task(request: _Request) -> str | None:
    """What the words say; where they are undecided, offered tools or a wanted schema say something."""
    task = request.verdict.task
    if task is None and _COMPUTE["tools"](request):
        return "agentic"
    if task is None and _structured_output(request) == "json_schema":
        return "extraction"
    return task


def _difficulty(request: _Request) -> str | None:
    """The client's `reasoning_effort` where it takes sides; else the words.

    With tools an easy wording proves nothing: how many steps it takes shows only on the way.
    """
    effort = _effort(request)
    if effort is not None and effort not in ("low", "medium"):
        return "easy" if effort in ("none", "minimal") else "hard"
    difficulty = request.verdict.difficulty
    return None if difficulty == "easy" and _COMPUTE["tools"](request) else difficulty


def _narrowed(name: str) -> Callable[[_Request], str | None]:
    """A fact of the tenant, else the client's hint: a hint cannot lead out of where a tenant must stay."""
    return lambda request: request.tenant.facts.get(name) or getattr(request.hints, name)


def _images(request: _Request) -> int:
    return len(request.content.images)


def _max_output_tokens(request: _Request) -> int | None:
    get = request.envelope.get
    value: int | None = get("max_completion_tokens") or get("max_tokens")
    return value


def _parameters(request: _Request) -> frozenset[str]:
    get = request.envelope.get
    return frozenset(name for name in request.envelope.members if not asks_nothing(name, get(name)))


_COMPUTE: Mapping[str, Callable[[_Request], Any]] = MappingProxyType(
    {
        "language": _language,
        "target_language": _target_language,
        "modality": lambda request: request.content.modality,
        "images": _images,
        "tools": lambda request: bool(request.envelope.get("tools") or request.envelope.get("functions")),
        "structured_output": _structured_output,
        "effort": _effort,
        "thinking_hint": lambda request: request.hints.thinking,
        "max_output_tokens": _max_output_tokens,
        "task": _task,
        "difficulty": _difficulty,
        "cost_sensitive": _cost_sensitive,
        "stream": lambda request: request.envelope.stream,
        "workload": lambda request: request.hints.workload or request.tenant.facts.get("workload"),
        "region": _narrowed("region"),
        "residency": _narrowed("residency"),
        "conversation": lambda request: request.hints.conversation,
        "model_asked": lambda request: request.envelope.model_asked,
        "parameters": _parameters,
    }
)
