"""What is told of a request: in its answer's headers, and through `types.Routing` in metrics and the log.

Only words are made here; what they tell was decided in `core.decide`. Nothing of it differs between requests that a
remembered decision serves, so it is made once per decision and target.
"""

from __future__ import annotations

from gateway.core.types import Decision, Routing, Target, Tenant


def asking_of(tenant: Tenant, model_asked: str, *, stream: bool) -> Routing:
    """The routing of a request about which nothing was decided."""
    return Routing(tenant.key, tenant.facts.get("team", ""), model_asked, stream)


def routing_of(asking: Routing, decision: Decision, target: Target | None, first_was: str = "failed") -> Routing:
    """What is told of a request, once a decision was made for it and a target, or None, is to answer.

    `first_was` says why it is not the first candidate.
    """
    first = decision.candidates[0].name if decision.candidates else ""
    name, model = (target.name, target.model.id) if target is not None else ("", "")
    told = {
        "target": name,
        "model": model,
        "rule": decision.rule,
        "policy": decision.policy,
        "thinking": str(decision.thinking),
        "because": decision.because if name in ("", first) else f"fallback: {first} {first_was} ({decision.because})",
    }
    lines = [f"x-pointsman-{field}: {_header_safe(value)}\r\n" for field, value in told.items() if value]
    return Routing(
        key=asking.key,
        team=asking.team,
        model_asked=asking.model_asked,
        stream=asking.stream,
        policy=decision.policy,
        rule=decision.rule or "",
        chosen=first,
        target=name,
        model=model,
        thinking=str(decision.thinking),
        because=decision.because,
        headers="".join(lines).encode("latin-1"),
    )


def _header_safe(value: str) -> str:
    """Printable ASCII only: nothing in a header value may end the line or start another."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value)
