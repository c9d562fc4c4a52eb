"""What `pointsman check` tells: the findings with file and line, in how many lines a person sees them, and as JSON.

What there is to find stands in `core.analyse` and `configuration`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.clauses.findings import SEVERITIES, Finding
from gateway.yamlfile import Document

#: Of the JSON that is told; it grows by members, and is raised when one changes its meaning.
FORMAT = 1
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")
_SPECIAL = frozenset({"true", "false", "null"})
_ABOUT_TARGETS = ("target-retired", "target-retires", "target-unpriced")


@dataclass(frozen=True, slots=True)
class Told:
    """A finding and where it stands; `policy` is None for what is found of the configuration."""

    policy: str | None
    finding: Finding
    file: str
    line: int

    @property
    def wrong(self) -> bool:
        """Is it a warning or an error that nobody accepts?"""
        return self.finding.severity in ("error", "warning") and self.finding.accepted is None

    def to_dict(self) -> dict[str, Any]:
        """As JSON tells it."""
        one = self.finding
        return {
            "policy": self.policy,
            "code": one.code,
            "severity": one.severity,
            "id": one.id,
            "file": self.file,
            "line": self.line,
            "path": one.path,
            "message": one.message,
            "fix": one.fix,
            "given": None if one.witness is None else dict(one.witness),
            "accepted": one.accepted,
        }


@dataclass(frozen=True, slots=True)
class Places:
    """Where findings belong: the configuration, where there is one, and the file of each policy."""

    config: Document | None
    policies: Mapping[str, Document]
    keys: Sequence[str] = ()  # their names in the order of the file

    def told(self, policy: str | None, found: Iterable[Finding]) -> Iterator[Told]:
        """Findings with their files and lines. What a part accepts need not be found in every policy it is in."""
        document = self.policies.get(policy or "")
        for one in found:
            if one.code != "accept-unused" or document is None or one.path not in document.parts:
                yield self.of(policy, one)

    def of(self, policy: str | None, one: Finding) -> Told:
        """A finding with its file and line."""
        path = one.path
        document = self.policies.get(policy or "")
        if one.code in _ABOUT_TARGETS:
            document, path = self.config, f"targets.{one.id}"
        elif path.startswith("keys.") and one.id in self.keys:
            document, path = self.config, f"keys[{self.keys.index(one.id)}]{path.removeprefix(f'keys.{one.id}')}"
        elif policy is None:
            document = self.config
        if document is None:
            return Told(policy, one, "", 0)
        return Told(policy, one, *document.place(path))


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found. `unnamed` policies came along with Pointsman, and nothing in the file names them."""

    against: str
    config: str | None  # digest of the configuration
    warnings: Sequence[str]
    told: Sequence[Told]
    unnamed: frozenset[str] = frozenset()

    @property
    def shown(self) -> list[Told]:
        """What is told of all that the configuration names."""
        return [one for one in self.told if one.policy not in self.unnamed]

    @property
    def wrong(self) -> bool:
        """Is there a warning or an error that nobody accepts?"""
        return bool(self.warnings) or any(one.wrong for one in self.shown)

    def to_dict(self, *, ok: bool) -> dict[str, Any]:
        """The whole as JSON; see policies/README.md."""
        return {
            "format": FORMAT,
            "ok": ok,
            "against": self.against,
            "config": self.config,
            "warnings": list(self.warnings),
            "not_named": sorted(self.unnamed),
            "findings": [one.to_dict() for one in self.told],
        }

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """What a person is shown, line by line: first what is wrong, wherever. Without `verbose` infos are counted."""
        yield from (f"warning: {warning}" for warning in self.warnings)
        infos = () if verbose else [one for one in self.shown if one.finding.severity == "info"]
        for wrong in (True, False):
            by_policy: dict[str | None, list[Told]] = {}
            for one in self.shown:
                if one.wrong is wrong and (verbose or one.finding.severity != "info"):
                    by_policy.setdefault(one.policy, []).append(one)
            for policy, told in by_policy.items():
                yield from _of(policy, told)
        if infos:
            codes = ", ".join(sorted({one.finding.code for one in infos}))
            counted = "1 info" if len(infos) == 1 else f"{len(infos)} infos"
            yield f"not shown: {counted}, good to know and not wrong: {codes} (--verbose does)"
        if self.unnamed:
            names = ", ".join(sorted(self.unnamed))
            yield f"not shown, for they come with Pointsman and nothing here names them: {names} (--policy NAME does)"


def _of(policy: str | None, told: Sequence[Told]) -> Iterator[str]:
    """The lines about a policy: one for all that the same is found of, none that names the policy twice."""
    about: dict[tuple[str, str, str, str, str | None], list[Told]] = {}
    for one in sorted(told, key=lambda one: SEVERITIES.index(one.finding.severity)):
        found = one.finding
        about.setdefault((found.severity, found.code, found.message, found.fix, found.accepted), []).append(one)
    for (severity, code, message, fix, accepted), same in about.items():
        ids = dict.fromkeys(one.finding.id for one in same if one.finding.id != policy or "[" in one.finding.path)
        said = f"{', '.join(ids)}: {message}" if ids else message
        if severity == "holds":
            yield f"policy {policy}: holds: {said}"
            continue
        first = same[0]
        place = f"{first.file}:{first.line}" if first.file else f"policy {policy}"
        word = severity if accepted is None else f"accepted {severity}"
        more = f" (accepted: {accepted})" if accepted is not None else f" ({fix})" if fix else ""
        yield f"{place}: {word}: {said}{more} [{code}]"
        if first.finding.witness is not None:
            yield f"    given: {flow(first.finding.witness)}"


def flow(value: Any) -> str:
    """A value as YAML in one line, as a policy's test takes it.

    >>> flow({"tenant.home": "no", "modality": ["text"], "tools": False})
    '{tenant.home: "no", modality: [text], tools: false}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        simple = _PLAIN.match(value) and value.lower() not in _SPECIAL | {"yes", "no", "on", "off"}
        return value if simple else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
