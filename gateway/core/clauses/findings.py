"""What can be found out about a policy before its first request: the codes of findings, and the finding itself.

Codes are stable: scripts and `accept` entries name them. How a finding is come by stands in `analyse`; how it is shown,
and at which line, is the business of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.core.clauses.entries import Strict
from gateway.core.clauses.matchers import suggest
from gateway.core.quantities import Invalid

Severity = Literal["error", "warning", "info", "holds"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "holds")

#: Every code: how grave it is at most, and what it says. The table in policies/README.md is this one.
CODES: Mapping[str, tuple[Severity, str]] = MappingProxyType(
    {
        "leak-unknown": ("error", "a hard constraint does not reach targets because a fact it negates is not known"),
        "rule-unreachable": ("warning", "a rule can never apply"),
        "thinking-unreachable": ("warning", "a thinking entry can never apply"),
        "constraint-unreachable": ("warning", "a constraint can never apply"),
        "shadow-unreachable": ("warning", "a shadow can never apply, or never to what a target of it may have"),
        "latency-unreachable": ("warning", "a latency target can never apply"),
        "rule-shadowed": ("info", "a part of what a rule would take is taken above it"),
        "gap": ("warning", "there is a request for which no rule applies"),
        "rule-empty": ("warning", "a rule selects no target of this fleet"),
        "shadow-empty": ("warning", "a shadow has no target that is ever allowed, or none on this fleet"),
        "shadow-hidden": (
            "warning",
            "a shadow gets only what one above it, which copies everything, has no target for",
        ),
        "shadow-leaves": ("warning", "a shadow copies requests to where no rule sends them"),
        "shadow-strands": ("info", "a constraint leaves a shadow no target"),
        "latency-idle": ("warning", "a latency target is for rules that have one target at most"),
        "latency-missed": ("warning", "targets are said to be slower than a latency target asks"),
        "latency-unstreamed": (
            "info",
            "a latency target asks of answers that are not streamed what streams are measured by",
        ),
        "weight-outside": ("warning", "a name of `weights` is not in its rung, and gets no share"),
        "rung-empty": ("info", "a rung selects no target of this fleet"),
        "rung-impossible": ("warning", "no target that any installation could have would stand in a rung"),
        "rung-closed": ("warning", "none of a rung's targets is ever allowed"),
        "rung-idle": ("info", "a rung adds nothing to those before it"),
        "rung-cannot-serve": ("warning", "no target of a rung can serve anything that the rule admits"),
        "target-cannot-serve": ("info", "a target of a rung can serve nothing that the rule admits"),
        "rule-lacks": ("warning", "a rule refuses requests that other targets of the fleet could serve"),
        "constraint-strands": ("warning", "constraints leave a rule no target"),
        "constraint-empty": ("info", "a constraint concerns no target of this fleet"),
        "constraint-everything": ("warning", "a constraint forbids every target, always"),
        "require-unknown": ("info", "a requirement removes targets only because a fact of them is not known"),
        "hint-lifts": ("warning", "a client can lift a hard constraint by a hint that it sends"),
        "hint-binds": ("info", "a hard constraint binds only requests that say so themselves"),
        "avoid-must": ("warning", "the words of an `avoid` say that it must not be, but it is only put last"),
        "tenant-unset": ("info", "no key sets a fact that the policy asks for"),
        "tenant-unread": ("warning", "a key sets a fact that no policy reads"),
        "tenant-unmet": ("warning", "no key has the value of a fact that a hard constraint is for"),
        "tenant-unmatched": ("warning", "a key's fact has a value that nothing which asks for the fact knows"),
        "family-locked": ("warning", "fallbacks never leave a family"),
        "backend-locked": ("info", "fallbacks never leave a backend"),
        "region-locked": ("info", "fallbacks never leave a region"),
        "thinking-refused": ("warning", "a thinking entry leaves a rule no target"),
        "thinking-narrows": ("info", "targets that cannot promise what a thinking entry asks are not used"),
        "thinking-unheard": ("info", "a thinking entry asks for thinking of which no target of a rule is capable"),
        "thinking-overruled": ("warning", "a thinking entry applies only where the client's own wish wins"),
        "target-retired": ("warning", "a target is withdrawn and never chosen"),
        "target-retires": ("warning", "a target will be withdrawn soon"),
        "target-unpriced": ("info", "a target without a price ranks behind all that have one"),
        "target-unused": ("info", "no rule ever uses a target"),
        "model-retired": ("warning", "a model that is named is offered by nobody any more"),
        "model-retires": ("warning", "a model that is named will soon be offered by nobody"),
        "budget-unpriced": ("warning", "a key with a hard budget may use targets that have no price"),
        "budget-unheeded": ("info", "a key with a hard budget may use targets that heed no `max_tokens`"),
        "name-unknown": ("warning", "a name that no target of the fleet or model of the catalogue bears"),
        "set-unserved": ("info", "a set names models that this fleet does not serve"),
        "set-unused": ("info", "a set is never used"),
        "alias-shadows": ("warning", "an entry of `models:` hides a model or target of the same name"),
        "alias-refused": ("warning", "an entry of `models:` leads to targets that are never allowed"),
        "allow-refused": ("warning", "what a key may name is never allowed by a policy"),
        "place-unmet": ("warning", "no target lies where a key must stay"),
        "no-tokenizer": ("warning", "thresholds are compared with bytes"),
        "no-tests": ("info", "the policy has no tests"),
        "accept-unused": ("info", "an `accept` entry accepts nothing"),
        "undecided": ("info", "what could not be told within the effort that is spent on it"),
        "covered": ("holds", "every request is covered by a rule"),
        "crosses-families": ("holds", "the fallbacks of every rule cross families"),
        "constraints-bind": ("holds", "no rule, fallback or pin can leak past the hard constraints"),
    }
)

#: Those that are told only where a policy is judged against the catalogue.
EVERYWHERE = frozenset({"rung-impossible", "model-retired", "model-retires"})

#: Those that are told of keys and names of the configuration, which a policy by itself does not see.
CONFIGURED = frozenset(
    {"alias-refused", "alias-shadows", "allow-refused", "budget-unheeded", "budget-unpriced", "place-unmet"}
    | {"tenant-unread"}
)


def _code(raw: object) -> str:
    if raw not in CODES:
        raise Invalid(f"{raw!r:.60} is no finding", suggest(str(raw), [*CODES]))
    return str(raw)


class AcceptDoc(Strict):
    """A finding that somebody looked at and wants so: its code, the id it is told of, and why."""

    finding: Annotated[str, AfterValidator(_code), WithJsonSchema({"enum": [*CODES]})]
    id: str = Field(min_length=1)
    because: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing. `holds` is good news: something that was shown to be so.

    `witness` is a request that shows it, as the `given` of a policy's test; it was put to `decide` before it is told.
    """

    code: str
    id: str  # of the rule, constraint, thinking entry, set, target or key
    path: str  # into the policy file; "" where a target or a key of the configuration is meant
    message: str
    fix: str = ""
    witness: Mapping[str, Any] | None = None
    severity: Severity = "info"  # filled from the code unless said otherwise
    accepted: str | None = None  # why somebody accepts it

    def __str__(self) -> str:
        return f"{self.severity}: {self.id}: {self.message}" + (f" ({self.fix})" if self.fix else "")


def finding(
    code: str,
    identity: str,
    path: str,
    message: str,
    fix: str = "",
    *,
    witness: Mapping[str, Any] | None = None,
    severity: Severity | None = None,
) -> Finding:
    """A finding as grave as its code says, unless it is said otherwise."""
    return Finding(code, identity, path, message, fix, witness, severity or CODES[code][0])
