"""What pydantic's models complain of, in the words of `Problem`: where, what is wrong, what would be valid.

Shared by every loader of files that people write. The models say what is allowed; here is only how it is told.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.core.clauses.entries import ID_PATTERN
from gateway.core.clauses.matchers import MOST_PROBLEMS
from gateway.core.errors import ConfigError, Problem
from gateway.core.quantities import Invalid
from gateway.yamlfile import Document, dotted

M = TypeVar("M", bound=BaseModel)


def problems(document: Document, error: ValidationError, model: type[BaseModel] | None = None) -> list[Problem]:
    """One `Problem` for each thing a pydantic model did not accept, with line, path and what would have been valid.

    `model` is the class that was validated: with it, an unknown key is answered with the keys there are. A validator
    that raises `quantities.Invalid` chooses both halves of the message itself.
    """
    found: dict[Problem, None] = {}
    for one in _telling(document, error, model):
        if len(found) >= MOST_PROBLEMS:
            found[Problem(document.name, 0, "", f"has more than {MOST_PROBLEMS} mistakes; these are the first")] = None
            break
        steps = one.steps
        if _is_secret(steps):
            what, valid = _say_secret(one)
            if one.kind == "extra_forbidden":
                steps = steps[:-1]  # the key itself may be what was pasted
        elif _may_be_secret(steps):
            what, valid = _say(replace(one, value=_HIDDEN), model)
            if one.kind == "extra_forbidden":
                what, steps = "there is no such key here", steps[:-1]
        else:
            what, valid = _say(one, model)
        if isinstance(cause := one.context.get("error"), Invalid) and cause.first:
            first = (*steps[: len(steps) - len(cause.at)], *cause.first)
            what += f" (first on line {document.line(first)})"
        found[Problem(document.name, document.line(steps), dotted(steps), what, valid)] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class _Complaint:
    """One of pydantic's: of what kind, and of which value at which path of the file."""

    item: Mapping[str, Any]
    steps: tuple[str | int, ...]
    value: Any

    @classmethod
    def of(cls, document: Document, item: Mapping[str, Any]) -> _Complaint:
        steps, value = _locate(document.data, item["loc"], missing=item["type"] == "missing")
        cause = item.get("ctx", {}).get("error")
        return cls(item, (*steps, *cause.at) if isinstance(cause, Invalid) else steps, value)

    @property
    def kind(self) -> str:
        return str(self.item["type"])

    @property
    def loc(self) -> tuple[str | int, ...]:
        return tuple(self.item["loc"])

    @property
    def context(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.item.get("ctx", {})
        return found

    @property
    def words(self) -> str:
        """The words that may stand there, and what else may; "" where they are all there is."""
        found = self.example()
        return "" if found.startswith(("[", "{")) else found

    def example(self, shape: str = "") -> str:
        """What may stand there, a list (`[`) or a mapping (`{`) where that is wanted; "" where none is known."""
        found = _EXAMPLES.get(str(self.steps[-1]), "") if self.steps else ""
        return found if found.startswith(shape) else ""


def _telling(document: Document, error: ValidationError, model: type[BaseModel] | None) -> list[_Complaint]:
    """The complaints of pydantic without those that only follow from others.

    Where values of several kinds may stand, each kind complains: only the one that the value comes nearest to is told.
    A key that is missing because it is misspelt is not told twice.
    """
    every = [
        _Complaint.of(document, item) for item in error.errors(include_url=False)[: MOST_PROBLEMS * _MOST_AT_ONE_PLACE]
    ]
    nearer = {one.steps[:depth] for one in every if one.kind not in _OF_KIND for depth in range(len(one.steps) + 1)}
    told: list[_Complaint] = []
    seen: set[tuple[str | int, ...]] = set()
    for one in every:
        if one.kind in _OF_KIND and (one.steps in seen or one.steps in nearer):
            continue
        seen.add(one.steps)
        told.append(one)
    unknown = [one for one in told if one.kind == "extra_forbidden"][:MOST_PROBLEMS]
    meant = {(*one.steps[:-1], _other_key(one, model)[len(_NEAR) : -1]) for one in unknown}
    return [one for one in told if one.kind != "missing" or one.steps not in meant]


def validated(document: Document, model: type[M]) -> M:
    """A document as a pydantic model. Raises `ConfigError` with lines."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(problems(document, error, model)) from None


def suggest(word: object, known: Iterable[str]) -> str:
    """What would have been valid: the nearest of `known` names, or all of them while they are few.

    >>> suggest("modle", ["model", "backend"])
    'did you mean model?'
    """
    names = list(known)
    if isinstance(word, str):
        near = difflib.get_close_matches(word[:80], names, n=2, cutoff=0.6)
        if near:
            return f"did you mean {' or '.join(near)}?"
    if not names:
        return ""
    if isinstance(word, str) and len(word) > 2:
        inside = sorted((name for name in names if word.lower() in name.lower()), key=len)
        if inside:
            return f"did you mean {' or '.join(inside[:2])}?"
    if len(names) > 24:
        return f"one of {len(names)} names, such as {', '.join(names[:5])}"
    return f"one of {', '.join(names)}" if len(names) > 1 else f"there is {names[0]}"


#: What keys that must be there may say.
_EXAMPLES = {
    "as_of": "2026-11-21",
    "constraints": "[{id: at-home, require: {target.region: eu}}]",
    "first_event": "{p90: 2s}",
    "include": "[parts/eu.yaml]",
    "overlays": "[house-rules.part.yaml]",
    "rank": "listed, cheapest, fastest, balanced, weighted, or a fact such as {lowest: target.input_usd}",
    "sticky": "{for: 30m}",
    "tests": "[{name: code is code, given: {task: code}, expect: {rule: code}}]",
    "thinking": "[{id: else, set: never}]",
    "tokens_per_s": "{p50: 20}",
    "backend": "a name under backends",
    "catalogue": "1",
    "dialect": "vllm, or another that docs/backends.md lists",
    "expect": "{rule: code}",
    "kind": "operator",
    "model": "a name that `pointsman catalog` lists",
    "output": "0.6, in USD per million tokens",
    "input": "0.2, in USD per million tokens",
    "policy": "a name such as default; or part: in its place, for constraints that policies share",
    "provider": "a name that `pointsman catalog --offers` lists",
    "ref": "where it was read",
    "rules": "[{id: default, use: [{family: '*'}]}]",
    "sets": "{general: [qwen3.5-35b-a3b, llama-4-maverick]}",
    "set": "never, always, client or {budget: 4k}",
    "source": "a name under sources",
    "tokens_per_hour": "40M",
    "use": "[{family: '*'}]",
}
#: What other policy languages, and plain speech, call a key that there is.
_MEANT: Mapping[str, tuple[str, ...]] = {
    word: keys
    for keys, words in (
        (("when",), ("if", "match", "matches", "condition", "where")),
        (("use",), ("route", "to", "target", "targets", "model", "models", "candidates")),
        (("use", "expect"), ("then",)),
        (("forbid",), ("deny", "block", "exclude", "not")),
        (("require",), ("allow", "only", "must")),
        (("because",), ("comment", "description", "reason", "why")),
        (("id", "name"), ("id", "name", "title", "rule", "constraint")),
        (("include", "overlays"), ("include", "includes", "import", "extends", "parts", "overlays")),
        (("share",), ("percent", "ratio", "sample")),
        (("given",), ("input", "with")),
        (("expect",), ("assert", "expected", "output")),
    )
    for word in words
}
#: What a pattern lets through, in words.
_SPELLINGS = {
    ID_PATTERN: ("is no id", "lower case letters, digits, `.`, `_` and `-`, at most 64, such as long-context"),
}
_EXPECTED = {
    "string_type": ("text", "quotes around it"),
    "bool_type": ("true or false", "true or false"),
    "int_type": ("a whole number", "such as 60"),
    "float_type": ("a number", "a number"),
    "list_type": ("a list", "a list: [a, b]"),
    "dict_type": ("a mapping", "a mapping: {key: value}"),
    "model_type": ("a mapping", "a mapping: {key: value}"),
    "model_attributes_type": ("a mapping", "a mapping: {key: value}"),
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_SHAPES = {"a list": "[", "a mapping": "{"}
_NEAR = "did you mean "
_MOST_AT_ONE_PLACE = 10  # complaints of one value, by all the kinds that may stand there
#: Complaints that a value is of another kind than one of several that may stand there.
_OF_KIND = frozenset({*_EXPECTED, "literal_error", "enum"})


def _say(one: _Complaint, model: type[BaseModel] | None) -> tuple[str, str]:
    kind, context, value = one.kind, one.context, one.value
    if kind == "missing":
        return "is missing", f"{one.loc[-1]}: {one.example() or '...'}"
    if kind == "extra_forbidden":
        return f"there is no key {one.loc[-1]!r:.80} here", _other_key(one, model)
    if kind in ("value_error", "assertion_error"):
        cause = context.get("error")
        if isinstance(cause, Invalid):
            return cause.what, cause.valid
        return str(cause), ""
    if kind in ("literal_error", "enum"):
        near = suggest(value, re.findall(r"'([^']*)'", str(context.get("expected", ""))))
        return f"{_shown(value)} is not known here", near if near.startswith(_NEAR) else one.words or near
    if kind == "string_pattern_mismatch" and context.get("pattern") in _SPELLINGS:
        what, valid = _SPELLINGS[context["pattern"]]
        return f"{_shown(value)} {what}", valid
    if kind in _EXPECTED:
        want, valid = _EXPECTED[kind]
        if context.get("class_name") == "SecretRef":
            valid = _SECRETS["key"]
        elif want in _SHAPES:
            valid = one.example(_SHAPES[want]) or valid
        if kind == "bool_type" and isinstance(value, str) and value.lower() in ("on", "off", "yes", "no", "y", "n"):
            return f"{value} is text in YAML 1.2, not a truth value", valid
        return f"{_shown(value)} is not {want}", valid
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"{_shown(value)} is out of range", f"{word} {context[name]:,}"
    message = str(one.item["msg"])
    return f"{_shown(value)} is not valid", message[:1].lower() + message[1:]


def _other_key(one: _Complaint, model: type[BaseModel] | None) -> str:
    """The key that was probably meant by one that is not there, or all there are."""
    key = one.loc[-1]
    names = _keys_at(model, one.loc[:-1]) if model else []
    meant = next((name for name in _MEANT.get(str(key).lower(), ()) if name in names), None)
    return f"{_NEAR}{meant}?" if meant else suggest(key, names)


#: Where files refer to secrets, and what belongs there. People paste the secret itself, and a message about it is
#: printed, logged and served by `/readyz`: nothing found at these places is ever shown.
_SECRETS = {
    "key": "{env: NAME} or {file: path}",
    "password": "{env: NAME} or {file: path}",
    "admin_key": "{sha256: ...}, {env: NAME} or {file: path}",
    "env": "the name of an environment variable: letters, digits and _",
    "file": "a path",
    "sha256": '64 hexadecimal digits, the first word that `printf %s "$KEY" | sha256sum` prints',
}


def _is_secret(steps: Sequence[str | int]) -> bool:
    inside = any(step in ("key", "admin_key", "password") for step in steps)
    return inside or (bool(steps) and steps[0] == "keys" and steps[-1] == "sha256")


#: Where secrets are referred to beside other settings, of which more can be told: all but what was found there.
_BESIDE_SECRETS = frozenset({"auth", "headers", "options"})
_HIDDEN = object()


def _may_be_secret(steps: Sequence[str | int]) -> bool:
    return tuple(steps[:1]) in (("backends",), ("dialects",)) and not _BESIDE_SECRETS.isdisjoint(steps[2:])


def _say_secret(one: _Complaint) -> tuple[str, str]:
    cause = one.context.get("error")
    if isinstance(cause, Invalid):
        return cause.what, cause.valid  # in our own words, which show nothing
    named = next((step for step in reversed(one.steps) if step in _SECRETS), "key")
    if one.kind == "missing":
        return "is missing", _SECRETS[str(named)]
    if one.kind == "extra_forbidden":
        return "there is no such key here", _SECRETS["key"]
    return "is not valid here, and is not shown because it may be a secret", _SECRETS[str(named)]


def _shown(value: Any) -> str:
    """A value as the file has it; containers only by kind, and long text cut."""
    if value is _HIDDEN:
        return "what stands here, not shown as it may be a secret,"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."


def _locate(data: Any, loc: Sequence[str | int], *, missing: bool) -> tuple[tuple[str | int, ...], Any]:
    """The path in the file of pydantic's `loc`, which also names union members that no file contains."""
    steps: list[str | int] = []
    for number, step in enumerate(loc):
        inside = step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))
        if inside:
            data = data[step]
        elif missing and number == len(loc) - 1:
            data = None
        else:
            continue
        steps.append(step)
    return tuple(steps), data


def _keys_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys of the pydantic model(s) that `loc` leads to."""
    here: list[Any] = [model]
    for step in loc:
        after: list[Any] = []
        for cls in _models(here):
            for name, info in cls.model_fields.items():
                if step in (info.alias or name, name):
                    after.append(info.annotation)
        # An index, a key of a free mapping or the name of a union member: what it leads to is already in `here`.
        here = after or here
    return sorted({info.alias or name for cls in _models(here) for name, info in cls.model_fields.items()})


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    out: list[type[BaseModel]] = []
    todo = list(annotations)
    while todo:
        one = todo.pop()
        if isinstance(one, type) and not isinstance(one, types.GenericAlias) and issubclass(one, BaseModel):
            out.append(one)
        elif isinstance(one, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
            todo.append(one.__value__)
        else:
            todo.extend(arg for arg in typing.get_args(one) if arg is not one)
    return out
