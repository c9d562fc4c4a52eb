"""What a policy may ask about: the typed table of signals (of a request) and facts (of a model or a target).

Only names, types, the values they can take, how a fact is read off a target, and how dear a signal is to compute.
How a value is compared stands in `matchers`; computing signals stands in `signals`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Literal

from gateway.core.memory import BITS
from gateway.core.quantities import Invalid, tokens
from gateway.core.types import NANO_PER_USD, Target

Kind = Literal["number", "date", "boolean", "text", "set", "language"]
#: What a fact or a plain signal can be. `None` is "not known" and is never one of these.
Value = int | float | bool | str | date | frozenset[str]

MODALITIES = ("text", "image", "audio", "video", "file", "other")
_THINKING = ("switchable", "always", "never")

#: Members of the European Union, ISO 3166-1 alpha-2. Both cases, so that a domicile written `de` cannot slip through.
_EU = {
    "AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI", "FR", "DE", "GR", "HU", "IE", "IT", "LV", "LT", "LU", "MT",
    "NL", "PL", "PT", "RO", "SK", "SI", "ES", "SE",
}  # fmt: skip
BUILT_IN_SETS: Mapping[str, frozenset[str]] = MappingProxyType({"eu": frozenset(_EU | {code.lower() for code in _EU})})


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal a `when` may name. `cost` orders members of a condition: cheap ones are asked first."""

    name: str
    kind: Kind
    cost: (
        int  # 0 a member of the body or a header, 1 a walk over the messages, 2 token bounds, 3 and 4 reading the text
    )
    choices: tuple[str, ...] = ()  # empty: any text
    says: str = ""
    certain: bool = False  # every request has a value: it is never unknown


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of a model or target that a selector may name; `read` returns None where it is not known."""

    name: str
    kind: Kind
    read: Callable[[Target], Value | None]
    choices: tuple[str, ...] = ()
    says: str = ""


_SIGNALS = (
    Signal(
        "context_tokens",
        "number",
        2,
        says="prompt, template, tools, media and requested output, in tokens",
        certain=True,
    ),
    Signal("language", "language", 3, says="ISO 639-1 code of the language the user writes"),
    Signal(
        "target_language", "set", 3, says="codes of the languages an answer or a translation is asked for in, by words"
    ),
    Signal("modality", "set", 1, MODALITIES, "kinds of content in the request; `other`: not known here", certain=True),
    Signal("images", "number", 1, says="how many images are sent", certain=True),
    Signal("tools", "boolean", 0, says="tools are offered", certain=True),
    Signal("structured_output", "text", 0, ("json_object", "json_schema", "other"), "the response format asked for"),
    Signal("effort", "text", 0, ("none", "minimal", "low", "medium", "high", "xhigh", "max"), "reasoning_effort"),
    Signal("max_output_tokens", "number", 0, says="max_completion_tokens or max_tokens"),
    Signal("task", "text", 4, says="what kind of work it is: code, math, translation, ..."),
    Signal("difficulty", "text", 4, ("easy", "hard"), "whether the request needs thinking; unknown where undecided"),
    Signal("choices", "number", 0, says="how many answers are asked for: n, or best_of", certain=True),
    Signal("max_cost_usd", "number", 0, says="the most that this request may cost, in US dollars"),
    Signal("cost_sensitive", "boolean", 0, says="the client or its key asks for the cheap way", certain=True),
    Signal("stream", "boolean", 0, says="the answer is to be streamed", certain=True),
    Signal("workload", "text", 0, says="x-pointsman-workload"),
    Signal("region", "text", 0, says="x-pointsman-region"),
    Signal("residency", "text", 0, says="x-pointsman-residency"),
    Signal("conversation", "text", 0, says="x-pointsman-conversation, or metadata.conversation_id"),
    Signal("model_asked", "text", 0, says="`model` as the client sent it", certain=True),
    Signal("parameters", "set", 1, says="top-level members of the body that were sent", certain=True),
)
SIGNALS: Mapping[str, Signal] = MappingProxyType({signal.name: signal for signal in _SIGNALS})
#: Signals whose second half is free: `tenant.domicile`, `headers.user-agent`, `metadata.team`.
OPEN_SIGNALS = ("tenant", "headers", "metadata")
_OPEN_NAME = re.compile(r"(?:tenant|headers|metadata)\.[A-Za-z0-9_.-]{1,64}\Z")


def signal_named(name: str) -> Signal | None:
    """The signal of that name, or None; `tenant.<fact>`, `headers.<name>` and `metadata.<name>` are texts."""
    known = SIGNALS.get(name)
    if known is None and _OPEN_NAME.match(name):
        return Signal(name, "text", 0)
    return known


_Side = Literal["input", "output", "cached_input", "cache_write", "thinking_output"]
_BILLED_AS: Mapping[str, str] = MappingProxyType({"thinking_output": "output"})  # where it has no price of its own


def _usd(target: Target, side: _Side) -> float | None:
    if target.price is None:
        return None
    tier = target.price.tiers[0]
    nano = getattr(tier, side)
    return (getattr(tier, _BILLED_AS.get(side, "input")) if nano is None else nano) / NANO_PER_USD  # type: ignore[no-any-return]


def residency(target: Target) -> str | None:
    """Where a target's data may be processed: as its backend says; a self-hosted one that says nothing, where it is."""
    backend = target.backend
    return backend.processing or (backend.region if backend.self_hosted else None)


def _told(support: str) -> str | None:
    return None if support == "unknown" else support


def _set(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


_FACTS = (
    Fact("model.id", "text", lambda t: t.model.id),
    Fact("model.family", "text", lambda t: t.model.family),
    Fact("model.generation", "text", lambda t: t.model.generation, says='as text: "4", "3.3"'),
    Fact("model.params_total_b", "number", lambda t: t.model.params_total_b, says="billions"),
    Fact("model.params_active_b", "number", lambda t: t.model.params_active_b, says="billions a token passes through"),
    Fact("model.window", "number", lambda t: t.model.window, says="tokens, as the model card says"),
    Fact("model.window_extended", "number", lambda t: t.model.window_extended, says="tokens with rope scaling"),
    Fact("model.modalities", "set", lambda t: t.model.modalities, MODALITIES, "what the model reads"),
    Fact("model.languages", "set", lambda t: t.model.languages, says="official list, ISO 639-1"),
    Fact("model.language_count", "number", lambda t: t.model.language_count),
    Fact("model.thinking", "text", lambda t: _told(t.model.thinking), _THINKING),
    Fact("model.tools", "boolean", lambda t: t.model.tools),
    Fact("model.structured_output", "boolean", lambda t: t.model.structured_output),
    Fact("model.images_max", "number", lambda t: t.model.images_max),
    Fact("model.license", "text", lambda t: t.model.license, says="SPDX id, or the catalogue's id of a licence"),
    Fact("license.osi_approved", "boolean", lambda t: t.model.terms.osi_approved),
    Fact("license.commercial_use", "boolean", lambda t: t.model.terms.commercial_use, says="allowed, within limits"),
    Fact("license.mau_clause", "boolean", lambda t: t.model.terms.mau_clause, says="monthly active users matter"),
    Fact("license.mau_limit", "number", lambda t: t.model.terms.mau_limit, says="monthly active users"),
    Fact("license.acceptable_use_policy", "boolean", lambda t: t.model.terms.acceptable_use_policy),
    Fact("license.attribution", "boolean", lambda t: t.model.terms.attribution, says="the model must be named"),
    Fact("model.open_weights", "boolean", lambda t: t.model.open_weights),
    Fact("model.eu_domiciled_licensee_excluded", "boolean", lambda t: t.model.eu_domiciled_licensee_excluded),
    Fact("model.tokenizer", "text", lambda t: t.model.tokenizer),
    Fact("model.purpose", "text", lambda t: t.model.purpose, says="general, code, vision, omni, ..."),
    Fact("model.released", "date", lambda t: t.model.released),
    Fact("model.aliases", "set", lambda t: frozenset(t.model.aliases)),
    Fact("model.base", "text", lambda t: t.model.base, says="the model that a fine-tune was made from"),
    Fact("model.lineage", "set", lambda t: _set(t.model.lineage), says="models and labels that it descends from"),
    Fact(
        "model.quantization", "text", lambda t: t.model.quantization, tuple(BITS), "what its weights are published in"
    ),
    Fact("model.typical_output_tokens", "number", lambda t: t.model.typical_output_tokens),
    Fact("target.name", "text", lambda t: t.name),
    Fact("target.backend", "text", lambda t: t.backend.name),
    Fact("target.dialect", "text", lambda t: t.backend.dialect),
    Fact("target.provider", "text", lambda t: t.backend.provider, says="who rents it out"),
    Fact("target.upstream_id", "text", lambda t: t.upstream_id, says="what its server calls the model"),
    Fact("target.region", "text", lambda t: t.backend.region),
    Fact("target.processing", "text", residency, says="where data may be processed"),
    Fact("target.country", "text", lambda t: t.backend.country, says="where it stands, ISO 3166-1 alpha-2"),
    Fact("target.jurisdiction", "text", lambda t: t.backend.jurisdiction, says="whose law its operator answers to"),
    Fact("target.self_hosted", "boolean", lambda t: t.backend.self_hosted),
    Fact("target.window", "number", lambda t: t.window, says="tokens it serves"),
    Fact("target.max_input", "number", lambda t: t.max_input, says="tokens of prompt, where capped by itself"),
    Fact("target.max_output", "number", lambda t: t.max_output),
    Fact("target.typical_output_tokens", "number", lambda t: t.typical_output_tokens),
    Fact("target.memory_gb", "number", lambda t: t.memory_gb, says="GB that a replica has"),
    Fact("target.memory_needed_gb", "number", lambda t: t.memory_needed_gb, says="GB of the weights alone"),
    Fact("target.quantization", "text", lambda t: t.quantization, tuple(BITS), "what its weights are served in"),
    Fact("target.tokens_per_s", "number", lambda t: t.tokens_per_s, says="of one answer, as measured"),
    Fact("target.tokens_per_hour", "number", lambda t: t.tokens_per_hour, says="of all requests together"),
    Fact("target.modalities", "set", lambda t: t.modalities, MODALITIES),
    Fact("target.tools", "boolean", lambda t: t.tools),
    Fact("target.structured_output", "boolean", lambda t: t.structured_output),
    Fact("target.thinking", "text", lambda t: _told(t.thinking), _THINKING),
    Fact(
        "target.thinking_needs_stream", "boolean", lambda t: t.thinking_needs_stream, says="thinks only when streamed"
    ),
    Fact("target.unsupported", "set", lambda t: t.unsupported, says="request members it refuses"),
    Fact("target.retires_on", "date", lambda t: t.retires_on),
    Fact("target.stand_in", "boolean", lambda t: t.stand_in),
    Fact("target.weight", "number", lambda t: t.weight),
    Fact("target.priced", "boolean", lambda t: t.price is not None),
    Fact("target.input_usd", "number", lambda t: _usd(t, "input"), says="USD per million input tokens, base tier"),
    Fact("target.output_usd", "number", lambda t: _usd(t, "output"), says="USD per million output tokens, base tier"),
    Fact(
        "target.cached_input_usd", "number", lambda t: _usd(t, "cached_input"), says="as input where not priced apart"
    ),
    Fact("target.cache_write_usd", "number", lambda t: _usd(t, "cache_write"), says="as input where not priced apart"),
    Fact(
        "target.thinking_output_usd",
        "number",
        lambda t: _usd(t, "thinking_output"),
        says="as output where not priced apart",
    ),
)
FACTS: Mapping[str, Fact] = MappingProxyType({fact.name: fact for fact in _FACTS})
#: The fact whose last part is free: an operator's own scores. None comes with Pointsman.
EVALS = "model.evals."
EVAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def fact_named(name: str) -> Fact | None:
    """The fact of that name, or None; `model.evals.<name>` are numbers."""
    known = FACTS.get(name)
    if known is None and name.startswith(EVALS) and EVAL_NAME.fullmatch(name, len(EVALS)):
        score = name.removeprefix(EVALS)
        return Fact(name, "number", lambda t: dict(t.model.evals).get(score))
    return known


def value_of(name: str, target: Target) -> Value | None:
    """The value of a fact for a target; None where it is not known, or there is no such fact."""
    fact = fact_named(name)
    return None if fact is None else fact.read(target)


def parse_size(raw: object) -> int | float | None:
    """A number, or a text such as `200k`, `1M` or `32Ki`; None where it is neither.

    >>> parse_size("200k"), parse_size("1M"), parse_size(2.5), parse_size("many")
    (200000, 1000000, 2.5, None)
    """
    if isinstance(raw, str):
        try:
            return tokens(raw)
        except Invalid:
            return None
    return raw if isinstance(raw, int | float) and not isinstance(raw, bool) else None
