"""JSON Schema of the parts of a policy that pydantic does not see: conditions, selectors, rungs and tests.

Written from the tables in `facts`, so that an editor offers exactly the names a policy may use. It helps people write;
what is valid is decided by `compile_policy`, which also knows the catalogue.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast

from gateway.core.facts import EVAL_NAME, EVALS, FACTS, MODALITIES, SIGNALS, Fact, Kind, Signal

Schema = dict[str, Any]
Part = Literal["Condition", "Selector", "Rank", "Rung", "Given", "Expectation"]

SIZE: Schema = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(k|M|Ki|Mi)$"}]
}
_WEIGHTS: Schema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "number", "minimum": 0},
    "description": "model or target -> its part of this rung's requests, with rank: weighted",
}
_TEXT: Schema = {"type": "string", "minLength": 1}
_ORDERED = ("gt", "gte", "lt", "lte")


def part(name: Part) -> Schema:
    """A place holder that pydantic leaves alone; `complete` turns it into a reference."""
    return {"x-part": name}


def complete(schema: Schema) -> Schema:
    """Put the definitions behind the place holders into a schema that pydantic made."""
    done = cast(Schema, _resolve(schema))
    done["$defs"] = {**done.get("$defs", {}), **_definitions()}
    return done


def _resolve(node: Any) -> Any:
    if isinstance(node, dict):
        if "x-part" in node:
            kept = {key: value for key, value in node.items() if key != "x-part"}
            return {**kept, "$ref": f"#/$defs/{node['x-part']}"}
        return {key: _resolve(value) for key, value in node.items()}
    return [_resolve(item) for item in node] if isinstance(node, list) else node


def _definitions() -> dict[str, Schema]:
    condition = {"$ref": "#/$defs/Condition"}
    conditions = {"type": "array", "items": condition, "minItems": 1}
    open_signals = {
        rf"^{prefix}\.[A-Za-z0-9_.-]+$": _matcher(_TEXT, "text") for prefix in ("tenant", "headers", "metadata")
    }
    facts = {
        "model": {**_matcher(_TEXT, "text"), "description": 'a model id, "@set", "*", or several'},
        "family": {**_matcher(_TEXT, "text"), "description": 'a model family, "*", or several'},
        **{fact.name: _described(fact) for fact in FACTS.values()},
    }
    scored = {"patternProperties": {f"^{re.escape(EVALS)}{EVAL_NAME.pattern}$": _matcher(SIZE, "number")}}
    selector_map = {**_closed(facts), **scored}
    ordered = {"enum": [fact.name for fact in FACTS.values() if fact.kind in ("number", "date")]}
    by_fact = {"anyOf": [ordered, {"type": "string", "pattern": f"^{re.escape(EVALS)}{EVAL_NAME.pattern}$"}]}
    one_of_two = {**_closed({"highest": by_fact, "lowest": by_fact}), "minProperties": 1, "maxProperties": 1}
    rank = {"anyOf": [{"enum": ["listed", "cheapest", "fastest", "balanced", "weighted"]}, one_of_two]}
    beside = {"rank": {"$ref": "#/$defs/Rank"}, "weights": _WEIGHTS}
    return {
        "Condition": {
            **_closed({
                **{signal.name: _described(signal) for signal in SIGNALS.values()},
                "any": conditions, "all": conditions, "not": condition,
            }),
            "patternProperties": open_signals, "minProperties": 1,
            "description": "all members must hold; a signal that is not known matches only `known: false`",
        },
        "Selector": {"anyOf": [{"const": "*"}, selector_map, {"type": "array", "items": selector_map, "minItems": 1}]},
        "Rank": rank,
        "Rung": {"anyOf": [{"const": "*"}, {**_closed({**facts, **beside}), **scored}]},
        "Given": _given(),
        "Expectation": _expectation(),
    }  # fmt: skip


def _closed(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _described(entry: Signal | Fact) -> Schema:
    made = _matcher(_scalar(entry.kind, entry.choices), entry.kind)
    return {**made, "description": entry.says} if entry.says else made


def _scalar(kind: Kind, choices: tuple[str, ...]) -> Schema:
    if kind == "number":
        return SIZE
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "date":
        return {"type": "string", "format": "date"}
    if choices:
        return {"anyOf": [{"enum": list(choices)}, {"type": "string", "pattern": "^[$@]"}]}
    return _TEXT


def _matcher(scalar: Schema, kind: Kind) -> Schema:
    some = {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}]}
    operators: dict[str, Schema] = {"eq": some, "in": some, "not": {}, "known": {"type": "boolean"}}
    if kind in ("number", "date"):
        operators |= dict.fromkeys(_ORDERED, scalar)
    if kind == "text":
        operators["prefix"] = _TEXT
    if kind == "set":
        operators |= {"has": some, "lacks": some}
    operators |= {"any": {"type": "array", "minItems": 1}, "all": {"type": "array", "minItems": 1}}
    return {"anyOf": [*some["anyOf"], {**_closed(operators), "minProperties": 1}]}


def _given() -> Schema:
    values: dict[Kind, Schema] = {
        "number": SIZE,
        "boolean": {"type": "boolean"},
        "text": _TEXT,
        "set": {"type": "array", "items": _TEXT},
        "language": {"anyOf": [_TEXT, {"type": "object"}]},
    }
    given = {signal.name: values[signal.kind] for signal in SIGNALS.values()}
    given["modality"] = {"type": "array", "items": {"enum": list(MODALITIES)}}
    pinned = {"pinned": {**_TEXT, "description": "a model or target named by the client"}}
    world: dict[str, Schema] = {
        "unavailable": {"type": "array", "items": _TEXT, "description": "targets that health holds back"},
        "draw": {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "description": "for rank: weighted"},
        "previous": _previous(),
        "slow": {
            "anyOf": [
                {"type": "array", "items": _TEXT},
                {"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}},
            ],
            "description": "targets that miss the policy's latency targets, or those of one entry",
        },
        "thinking_hint": {"anyOf": [{"enum": ["never", "always"]}, SIZE], "description": "x-pointsman-thinking"},
    }
    return {
        **_closed({**given, **pinned, **world}),
        "patternProperties": {r"^(tenant|headers|metadata)\.": _TEXT},
    }


def _previous() -> Schema:
    duration = {"type": "string", "pattern": r"^[0-9]{1,15}(\.[0-9]{1,9})? ?(us|ms|s|m|min|h|d)$"}
    return {
        **_closed({"target": _TEXT, "tokens": SIZE, "ago": duration}),
        "required": ["target"],
        "description": "where the conversation was answered last, how many tokens of its prompt, and when",
    }


def _expectation() -> Schema:
    names = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
    several = {"type": "array", "items": _TEXT, "minItems": 1}
    subjects = ("model", "family", "target")
    return {
        **_closed({
            "rule": _TEXT,
            **{name: {**names, "description": "of the first candidate"} for name in subjects},
            **{f"not_{name}": {**names, "description": "not of the first candidate"} for name in subjects},
            **{f"never_{name}": {**names, "description": "of no candidate at all"} for name in subjects},
            "candidates": {**several, "description": "targets, in the order they are tried; more may follow"},
            "models": {**several, "description": "models in the order they are tried; more may follow"},
            "families": {**several, "description": "families in the order they are tried; more may follow"},
            "thinking": {"anyOf": [{"enum": ["never", "always", "client"]}, _closed({"budget": SIZE})]},
            "shadow": {**names, "description": "the target that gets a copy, or none"},
            "refused": {**_TEXT, "description": "the error code"},
            "because": {**_TEXT, "description": "a part of the line that explains the decision"},
        }),
        "minProperties": 1,
    }  # fmt: skip
