"""What `policies/README.md` says a decision is, read off the document as it is written: slow, plain, and independent.

Nothing here calls what it judges. Of the code under test only its nouns are used (targets, snapshots), and what share
of a text is in which language (`Language.main` and `.outside`), which has tests of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

from gateway.core.facts import BUILT_IN_SETS
from gateway.core.text.language import Language
from gateway.core.types import Fleet, Price, Snapshot, Target

SET_SIGNALS = {"target_language", "modality", "parameters"}
SET_FACTS = {"model.modalities", "model.languages", "model.lineage", "target.modalities", "target.unsupported"}


def size(raw: Any) -> Any:
    """A number as people write it; a date as a date."""
    if isinstance(raw, str) and raw[4:5] == "-":
        return date.fromisoformat(raw)
    if isinstance(raw, str):
        return int(raw.removesuffix("k")) * 1000 if raw.endswith("k") else int(raw)
    return raw


@dataclass(frozen=True)
class Request:
    """What is known of a request."""

    given: Mapping[str, Any]
    tokens_by: str | None = None

    def __getitem__(self, name: str) -> Any:
        if name == "context_tokens":
            return self.input(self.tokens_by) + (self.given.get("max_output_tokens") or 0)
        value = self.given.get(name)
        if name == "language" and value is not None:
            shares = {value: 1.0} if isinstance(value, str) else value
            return Language(shares, 1_000, max(0.0, 1 - sum(shares.values())))
        return value

    def input(self, tokenizer: str | None) -> int:
        """The longest that the input may be by a tokenizer."""
        if "tokens" in self.given:
            by = self.given["tokens"]
            return int(by.get(tokenizer or "", by.get("", [0, 0]))[1])
        return max(self.given["context_tokens"] - (self.given.get("max_output_tokens") or 0), 0)


# -- matchers: `positive` is False under an odd number of `not`s --


def satisfies(raw: Any, kind: str, value: Any, names: Mapping[str, list[str]], positive: bool = True) -> bool:
    """Whether a value is as a matcher says; what is not known is like nothing but `known: false`."""
    if isinstance(raw, Mapping):
        found = [_operator(op, operand, kind, value, names, positive) for op, operand in raw.items()]
        return all(found) if positive else any(found)
    plain = "has" if kind == "set" and not isinstance(raw, list) else "in"
    return _operator(plain, raw, kind, value, names, positive)


def _operator(op: str, raw: Any, kind: str, value: Any, names: Mapping[str, list[str]], positive: bool) -> bool:
    if op == "not":
        return satisfies(raw, kind, value, names, not positive)
    if op in ("any", "all"):
        found = [satisfies(one, kind, value, names, positive) for one in raw]
        return any(found) if (op == "any") is positive else all(found)
    if op == "known":
        told = value.main if isinstance(value, Language) else value
        return ((told is not None) is raw) is positive
    if value is None:
        return False
    if op in ("gt", "gte", "lt", "lte"):
        edge = size(raw)
        held = {"gt": value > edge, "gte": value >= edge, "lt": value < edge, "lte": value <= edge}[op]
        return held is positive
    if op == "prefix":
        return value.startswith(raw) is positive
    wanted = _words(raw, kind, names)
    if isinstance(value, Language):
        return value.main in wanted if positive else value.outside(frozenset(wanted)) is True
    if kind == "set":
        held = {
            "has": wanted <= value, "lacks": not wanted <= value, "in": bool(wanted & value), "eq": wanted == value
        }[op]  # fmt: skip
        return held is positive
    return (value in wanted) is positive


def _words(raw: Any, kind: str, names: Mapping[str, list[str]]) -> set[Any]:
    found: set[Any] = set()
    for word in raw if isinstance(raw, list) else [raw]:
        if kind == "number":
            found.add(size(word))
        elif isinstance(word, str) and word.startswith("@"):
            found |= set(BUILT_IN_SETS[word[1:]]) if word[1:] in BUILT_IN_SETS else set(names[word[1:]])
        else:
            found.add(names.get(f"alias {word}", [word])[0] if isinstance(word, str) else word)
    return found


def applies(when: Any, request: Request, positive: bool = True) -> bool:
    """Whether a `when` holds."""
    if when is None:
        return True
    found = []
    for name, raw in when.items():
        if name == "not":
            found.append(applies(raw, request, not positive))
        elif name in ("any", "all"):
            parts = [applies(one, request, positive) for one in raw]
            found.append(any(parts) if (name == "any") is positive else all(parts))
        else:
            kind = "set" if name in SET_SIGNALS else "number" if isinstance(request[name], int | float) else "text"
            if request[name] is None and name in ("max_output_tokens", "images", "max_cost_usd"):
                kind = "number"
            found.append(satisfies(raw, kind, request[name], {}, positive))
    return all(found) if positive else any(found)


# -- selectors --


def fact(target: Target, name: str) -> Any:
    """A fact of a target or its model; None where it is not known."""
    name = {"model": "model.id", "family": "model.family"}.get(name, name)
    owner, _, attribute = name.partition(".")
    if name.startswith("model.evals."):
        return dict(target.model.evals).get(name.removeprefix("model.evals."))
    if owner == "license":
        return getattr(target.model.terms, attribute)
    if attribute == "lineage":
        return None if target.model.lineage is None else frozenset(target.model.lineage)
    if attribute == "thinking":
        said = target.thinking if owner == "target" else target.model.thinking
        return None if said == "unknown" else said
    if owner == "model":
        return getattr(target.model, attribute)
    backend = target.backend
    special = {
        "backend": backend.name, "dialect": backend.dialect, "region": backend.region,
        "processing": residency(target), "self_hosted": backend.self_hosted, "priced": target.price is not None,
        "country": backend.country, "jurisdiction": backend.jurisdiction,
        "input_usd": None if target.price is None else target.price.tiers[0].input / 1e9,
    }  # fmt: skip
    return special[attribute] if attribute in special else getattr(target, attribute)


def residency(target: Target) -> str | None:
    """Where its data may be processed: self-hosted, where it stands, unless it says otherwise."""
    backend = target.backend
    return backend.processing or (backend.region if backend.self_hosted else None)


@dataclass(frozen=True)
class World:
    """A document and the fleet it is for."""

    raw: Mapping[str, Any]
    fleet: Fleet

    @property
    def names(self) -> dict[str, list[str]]:
        """The document's sets, and models by their other names."""
        other = {f"alias {alias}": [model.id] for model in self.fleet.models.values() for alias in model.aliases}
        return {**self.raw.get("sets", {}), **other}

    def selects(self, raw: Any, target: Target, request: Request) -> bool:
        """Whether a selector means a target."""
        if raw == "*":
            return True
        if isinstance(raw, list):
            return any(self.selects(one, target, request) for one in raw)
        return all(
            self._is(name, wanted, target, request)
            for name, wanted in raw.items()
            if name not in ("rank", "weights") and not (name in ("model", "family") and wanted == "*")
        )

    def _is(self, name: str, raw: Any, target: Target, request: Request, positive: bool = True) -> bool:
        value = fact(target, name)
        if isinstance(raw, str) and raw.startswith("$"):
            return _compared("has" if name in SET_FACTS else "in", value, request[raw[1:]], positive)
        if isinstance(raw, Mapping):
            found = []
            for op, operand in raw.items():
                if isinstance(operand, str) and operand.startswith("$"):
                    if op == "not":
                        found.append(self._is(name, operand, target, request, not positive))
                    else:
                        found.append(_compared(op, value, request[operand[1:]], positive))
                elif op == "not":
                    found.append(self._is(name, operand, target, request, not positive))
                elif op in ("any", "all"):
                    parts = [self._is(name, one, target, request, positive) for one in operand]
                    found.append(any(parts) if (op == "any") is positive else all(parts))
                else:
                    found.append(satisfies({op: operand}, self._kind(name, raw), value, self.names, positive))
            return all(found) if positive else any(found)
        return satisfies(raw, self._kind(name, raw), value, self.names, positive)

    def _kind(self, name: str, raw: Any) -> str:
        if name in SET_FACTS:
            return "set"
        values = [fact(target, name) for target in self.fleet.targets]
        numeric = any(isinstance(value, int | float | date) and not isinstance(value, bool) for value in values)
        return "number" if numeric else "text"

    # -- what removes --

    def removals(self, target: Target, request: Request, snapshot: Snapshot) -> set[str]:
        """By what a target is removed, health and thinking aside."""
        found = set()
        allowed = self.raw.get("allow_closed", ["qwen", "llama"])
        if target.model.open_weights is False and target.model.family not in allowed:
            found.add("closed")
        if target.retires_on is not None:
            day = datetime(target.retires_on.year, target.retires_on.month, target.retires_on.day, tzinfo=UTC)
            if snapshot.now >= day.timestamp():
                found.add("retired")
        found |= {f"constraint {name}" for name in self.against(target, request)}
        for asked, place in (
            (request["region"], target.backend.region),
            (request["residency"], residency(target)),
        ):
            if asked is not None and not (place is not None and f"{place}-".startswith(f"{asked}-")):
                found.add("place")
        if not (request["modality"] or frozenset()) <= target.modalities:
            found.add("content")
        if target.model.images_max is not None and (request["images"] or 0) > target.model.images_max:
            found.add("content")
        if request["tools"] and not target.tools:
            found.add("tools")
        if request["structured_output"] and not target.structured_output:
            found.add("structure")
        sent = request["parameters"] or frozenset()
        if sent & target.unsupported or (target.takes is not None and not sent <= target.takes):
            found.add("parameters")
        if target.thinking == "always" and target.thinking_needs_stream and not request["stream"]:
            found.add("stream")
        output = request["max_output_tokens"]
        if output and target.max_output is not None and output > target.max_output:
            found.add("output")
        length = request.input(target.model.tokenizer)
        most = request["max_cost_usd"]
        if most is not None and (
            target.price is None or _dearest(target.price, length, output or target.typical_output_tokens) > most
        ):
            found.add("cost")
        if length + (output or target.typical_output_tokens) > target.window:
            found.add("fit")
        if target.max_input is not None and length > target.max_input:
            found.add("fit")
        return found

    def against(self, target: Target, request: Request) -> list[str]:
        """Ids of the constraints that remove a target."""
        found = []
        for entry in self.raw.get("constraints", []):
            if applies(entry.get("when"), request):
                forbidden = "forbid" in entry and self.selects(entry["forbid"], target, request)
                lacking = "require" in entry and not self.selects(entry["require"], target, request)
                if forbidden or lacking:
                    found.append(entry["id"])
        return found

    def avoided(self, target: Target, request: Request) -> list[str]:
        """Ids of the constraints that put a target back."""
        return [
            entry["id"]
            for entry in self.raw.get("constraints", [])
            if "avoid" in entry
            and applies(entry.get("when"), request)
            and self.selects(entry["avoid"], target, request)
        ]

    def slow(self, target: Target, request: Request, snapshot: Snapshot) -> bool:
        """Whether it misses a latency target that the request asks for."""
        return any(
            target.name in snapshot.slow.get(entry["id"], ()) and applies(entry.get("when"), request)
            for entry in self.raw.get("latency", [])
        )

    def stays(self, target: Target, snapshot: Snapshot) -> bool:
        """Whether the conversation of the request was answered by a target not too long ago."""
        last = snapshot.previous
        return (
            "sticky" in self.raw and last is not None and last.target == target.name and snapshot.now - last.at <= 1800
        )

    def may_shadow(self, identity: str, target: Target, request: Request, snapshot: Snapshot, pinned: bool) -> bool:
        """Whether an entry of `shadow` may copy a request to a target."""
        entry = next(entry for entry in self.raw["shadow"] if entry["id"] == identity)
        _, thinks, binds = self.thinking(request, pinned)
        return (
            applies(entry.get("when"), request)
            and bool(self.rungs(target, request, entry["use"]))
            and not self.removals(target, request, snapshot)
            and bool(snapshot.available >> target.index & 1)
            and not (binds and not self.promises(target, thinks, request, snapshot))
        )

    # -- thinking --

    def thinking(self, request: Request, pinned: bool) -> tuple[str, bool | None, bool]:
        """The mode, what a target must promise (None: nothing; else whether it thinks), and whether that binds."""
        hint, effort = request["thinking_hint"], request["effort"]
        wished = hint is not None or effort is not None
        for entry in self.raw.get("thinking", []):
            if pinned and not entry.get("force"):
                continue
            if applies(entry.get("when"), request):
                if entry.get("force") or not wished:
                    mode = entry["set"]
                    if mode == "client":
                        return "client", None, False
                    word = mode if isinstance(mode, str) else "budget"
                    return word, mode != "never", bool(entry.get("force")) or mode == "never"
                break
        if hint is not None:
            return hint if isinstance(hint, str) else "budget", hint != "never", True
        if effort is None or effort == "minimal":
            return "client", None, False
        return "client", effort != "none", True

    def promises(self, target: Target, thinks: bool | None, request: Request, snapshot: Snapshot) -> bool:
        """Whether a target can promise to think, or not to."""
        if thinks is None:
            return True
        if not thinks:
            return target.thinking in ("switchable", "never") and not snapshot.doubted >> target.index & 1
        return target.thinking in ("switchable", "always") and (
            not target.thinking_needs_stream or bool(request["stream"])
        )

    # -- the whole --

    def rule(self, request: Request) -> Mapping[str, Any] | None:
        """The first rule that applies."""
        return next((rule for rule in self.raw["rules"] if applies(rule.get("when"), request)), None)

    def rungs(self, target: Target, request: Request, rungs: list[Any]) -> list[int]:
        """The rungs that select a target."""
        return [number for number, raw in enumerate(rungs) if self.selects(raw, target, request)]

    def candidates(self, request: Request, snapshot: Snapshot, pinned: int | None) -> tuple[set[str], str]:
        """Names of all candidates, and the thinking mode; nothing is said of their order."""
        if pinned is None:
            rule = self.rule(request)
            rungs = [] if rule is None else rule["use"]
            left = [target for target in self.fleet.targets if self.rungs(target, request, rungs)]
        else:
            left = [target for target in self.fleet.targets if pinned >> target.index & 1]
        mode, thinks, binds = self.thinking(request, pinned is not None)
        left = [
            target
            for target in left
            if not self.removals(target, request, snapshot) and snapshot.available >> target.index & 1
        ]
        able = [target for target in left if self.promises(target, thinks, request, snapshot)]
        if binds or able:
            return {target.name for target in able}, mode
        return {target.name for target in left}, "client"


def _dearest(price: Price, tokens: int, output: int) -> float:
    """USD of a request at the tier that its input falls in, nothing cached, its output thought over."""
    tier = [one for one in price.tiers if not one.above_input_tokens or tokens > one.above_input_tokens][-1]
    rate = max(tier.input, tier.cache_write or 0)
    return float(Fraction(tokens * rate + output * max(tier.output, tier.thinking_output or 0), 10**15))


def _compared(op: str, value: Any, asked: Any, positive: bool) -> bool:
    """A fact beside what a request says: where either is not known, or a language could not be told, nothing holds."""
    if value is None or asked is None:
        return False
    if isinstance(asked, Language):
        if not isinstance(value, frozenset):
            return asked.main is not None and (value == asked.main) is positive
        beyond = asked.outside(value)
        return beyond is not None and beyond is ((op == "lacks") is positive)
    if not isinstance(value, frozenset):
        return (value == asked) is positive
    wanted = asked if isinstance(asked, frozenset) else {asked}
    held = {"has": wanted <= value, "lacks": not wanted <= value, "in": bool(wanted & value), "eq": wanted == value}[op]
    return held is positive
