"""JSON Schema of the parts of a policy that pydantic does not see: conditions, selectors, rungs and tests.

Written from the tables in `facts` and `matchers`, so that an editor offers exactly what a policy may say. What is valid
is decided by `compile_policy`. It accepts nothing that the schema refuses, and refuses besides what no schema can say:
names that the catalogue, the lexicon or the file itself does not have, ids that stand there twice, dates that are in no
calendar, sizes that are no whole number, `weights` without `rank: weighted`, and tests that mean nothing.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast

from gateway.core.clauses.matchers import OPERATORS
from gateway.core.facts import BUILT_IN_SETS, EVAL_NAME, EVALS, FACTS, MODALITIES, SIGNALS, Kind, Signal
from gateway.core.text.languagecodes import CODES

Schema = dict[str, Any]
Part = Literal["Condition", "Selector", "Rank", "Rung", "Given", "Expectation"]

_SIZES = r"^([0-9]{1,15}|[0-9]{1,15}(\.[0-9]{1,9})? ?(k|M|Ki|Mi))$"
SIZE: Schema = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _SIZES}]}
_WEIGHTS: Schema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "number", "minimum": 0},
    "description": "model or target -> its part of this rung's requests, with rank: weighted",
}
_TEXT: Schema = {"type": "string", "minLength": 1}
_WORD: Schema = {"type": "string", "pattern": "^[^@]"}
_CODE: Schema = {"enum": sorted(CODES)}
_ANY_CODE = ("#",)  # stands for the codes of languages that a list of a model may hold
_BUILT_IN = [f"@{name}" for name in BUILT_IN_SETS]
_SCORE = f"^{re.escape(EVALS)}{EVAL_NAME.pattern}$"
_OPEN = r"^(tenant|headers|metadata)\.[A-Za-z0-9_.-]{1,64}$"
#: Signals whose values a fact of a kind can be compared with: a text is never a whole set.
_VARIABLE = {
    kind: "^\\$(" + "|".join([*(name for name, one in SIGNALS.items() if one.kind in kinds), _OPEN[1:-1]]) + ")$"
    for kind, kinds in (("text", ("text", "language")), ("set", ("text", "set", "language")))
}
#: A rung is more than what stands beside a selector.
_NAMES: Schema = {
    "minProperties": 1,
    "propertyNames": {"minLength": 1},
    "not": {"propertyNames": {"enum": ["rank", "weights"]}},
}
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
    made: dict[str, Schema] = {}
    plain, bound = _Words(made, ""), _Words(made, "Bound")
    rung, select = _facts(plain), _facts(bound)
    scored = {_SCORE: plain.matcher("number", ())}
    selector_map = {**_closed(select), "patternProperties": scored, "minProperties": 1}
    ordered = {"enum": [fact.name for fact in FACTS.values() if fact.kind in ("number", "date")]}
    by_fact = {"anyOf": [ordered, {"type": "string", "pattern": _SCORE}]}
    one_of_two = {**_closed({"highest": by_fact, "lowest": by_fact}), "minProperties": 1, "maxProperties": 1}
    beside = {"rank": {"$ref": "#/$defs/Rank"}, "weights": _WEIGHTS}
    return {
        "Condition": {
            **_closed({
                **{one.name: _said(plain.matcher(one.kind, _choices(one)), one.says) for one in SIGNALS.values()},
                "any": conditions, "all": conditions, "not": condition,
            }),
            "patternProperties": {_OPEN: plain.matcher("text", ())}, "minProperties": 1,
            "description": "all members must hold; a signal that is not known matches only `known: false`",
        },
        "Selector": {"anyOf": [{"const": "*"}, selector_map, {"type": "array", "items": selector_map, "minItems": 1}]},
        "Rank": {"anyOf": [{"enum": ["listed", "cheapest", "fastest", "balanced", "weighted"]}, one_of_two]},
        "Rung": {"anyOf": [{"const": "*"}, {**_closed({**rung, **beside}), "patternProperties": scored, **_NAMES}]},
        "Given": _given(),
        "Expectation": _expectation(),
        **made,
    }  # fmt: skip


def _choices(signal: Signal) -> tuple[str, ...]:
    """What the values of a signal can be; nothing where they are free."""
    return tuple(sorted(CODES)) if signal.name == "target_language" else signal.choices


def _facts(words: _Words) -> dict[str, Schema]:
    of_models, of_families = words.matcher("text", ("@",)), words.matcher("text", ())
    known = {
        one.name: _said(words.matcher(one.kind, _ANY_CODE if one.name == "model.languages" else one.choices), one.says)
        for one in FACTS.values()
    }
    anything = {"const": "*"}
    return {
        **known,
        "model": {"anyOf": [anything, of_models], "description": 'a model id, "@set", "*", or several'},
        "model.id": of_models,
        "family": {"anyOf": [anything, of_families], "description": 'a model family, "*", or several'},
    }


class _Words:
    """How values are compared, a definition for each kind and choice, as matchers may stand inside one another."""

    def __init__(self, made: dict[str, Schema], prefix: str) -> None:
        self._made = made
        self._prefix = prefix
        self._named: dict[tuple[Kind, tuple[str, ...]], str] = {}

    def matcher(self, kind: Kind, choices: tuple[str, ...]) -> Schema:
        """A reference to the matcher of a kind."""
        name = self._named.get((kind, choices))
        if name is None:
            tails = {(): "", ("@",): "OfModels", _ANY_CODE: "OfLanguages"}
            tail = tails.get(choices, str(len(self._named)))
            name = self._named[kind, choices] = f"{self._prefix}{kind.capitalize()}{tail}"
            self._made[name] = {}  # taken, before what refers to it is made
            self._made[name] = self._of(kind, choices, {"$ref": f"#/$defs/{name}"})
        return {"$ref": f"#/$defs/{name}"}

    def _of(self, kind: Kind, choices: tuple[str, ...], itself: Schema) -> Schema:
        scalar = _scalar(kind, choices)
        free = kind not in ("text", "set") or choices in ((), ("@",), _ANY_CODE)
        one = scalar if free else {"enum": list(choices)}
        alone = _not_a_variable(one, kind)
        if self._prefix and kind in _VARIABLE:
            alone = {"anyOf": [*alone.get("anyOf", [alone]), {"type": "string", "pattern": _VARIABLE[kind]}]}
        some = {"anyOf": [*alone.get("anyOf", [alone]), {"type": "array", "items": scalar, "minItems": 1}]}
        several = {"type": "array", "items": itself, "minItems": 1}
        said: dict[str, Schema] = {
            **dict.fromkeys(("eq", "in", "has", "lacks"), some), **dict.fromkeys(_ORDERED, scalar),
            **dict.fromkeys(("any", "all"), several), "not": itself, "prefix": _TEXT, "known": {"type": "boolean"},
        }  # fmt: skip
        operators = {name: said[name] for name in OPERATORS[kind]}
        return {"anyOf": [*some["anyOf"], {**_closed(operators), "minProperties": 1}]}


def _not_a_variable(scalar: Schema, kind: Kind) -> Schema:
    """Outside constraints nothing stands for a signal's value, and texts that look so are refused."""
    if kind not in ("text", "set", "language") or "enum" in scalar:
        return scalar
    return {"anyOf": [{**one, "pattern": "^[^$@]"} if one == _WORD else one for one in scalar["anyOf"]]}


def _closed(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _said(schema: Schema, says: str) -> Schema:
    return {**schema, "description": says} if says else schema


def _scalar(kind: Kind, choices: tuple[str, ...]) -> Schema:
    if kind == "number":
        return SIZE
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "date":
        return {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
    if choices == ("@",):
        return {"anyOf": [_WORD, {"type": "string", "pattern": "^@."}]}
    if choices == _ANY_CODE:
        return {"anyOf": [_CODE, {"type": "string", "pattern": "^[a-z]{3}$"}]}
    if choices:
        return {"enum": list(choices)}
    return {"anyOf": [_CODE]} if kind == "language" else {"anyOf": [_WORD, {"enum": _BUILT_IN}]}


def _given() -> Schema:
    values: dict[Kind, Schema] = {
        "number": SIZE,
        "boolean": {"type": "boolean"},
        "text": _TEXT,
        "set": {"type": "array", "items": _TEXT},
        "language": {"anyOf": [_CODE, {"type": "object"}]},
    }
    given = {signal.name: values[signal.kind] for signal in SIGNALS.values()}
    given["target_language"] = {"type": "array", "items": _CODE}
    given["modality"] = {"type": "array", "items": {"enum": list(MODALITIES)}}
    pinned = {"pinned": {**_TEXT, "description": "a model or target named by the client"}}
    world: dict[str, Schema] = {
        "unavailable": {"type": "array", "items": _TEXT, "description": "targets that health holds back"},
        "draw": {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "description": "for rank: weighted"},
        "drawn": {
            "anyOf": [_TEXT, {"type": "array", "items": _TEXT}],
            "description": "the shadows whose share the request is of",
        },
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
