"""What a policy test may say of the world outside the request, besides health: read into the fields of a Snapshot.

Every literal is checked against the policy and its fleet. Running tests is `policytest`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.core.clauses.matchers import Problems, suggest
from gateway.core.facts import parse_size
from gateway.core.quantities import Invalid, seconds
from gateway.core.types import Previous

if TYPE_CHECKING:
    from gateway.core.policy import Policy

#: Members of `given` that are read here.
OUTSIDE = ("previous", "slow")


def read_outside(policy: Policy, world: Mapping[str, Any], now: float, path: str, problems: Problems) -> dict[str, Any]:
    """The fields of a Snapshot for `previous` and `slow` of a test's `given`; mistakes are noted."""
    found: dict[str, Any] = {}
    if "previous" in world:
        found["previous"] = _previous(policy, world["previous"], now, f"{path}.previous", problems)
    if "slow" in world:
        found["slow"] = _slow(policy, world["slow"], f"{path}.slow", problems)
    return found


def _previous(policy: Policy, raw: object, now: float, path: str, problems: Problems) -> Previous | None:
    valid = "such as {target: qwen-plus, tokens: 12k, ago: 5m}"
    if not isinstance(raw, Mapping) or "target" not in raw:
        problems.add(path, "says no target", valid)
        return None
    for name in raw.keys() - {"target", "tokens", "ago"}:
        problems.add(f"{path}.{name}", f"there is no {name!r:.60} here", valid)
    if policy.sticky is None:
        problems.add(path, "means nothing to a policy that is not sticky", "sticky: {for: 30m} in the policy")
    names = [target.name for target in policy.fleet.targets]
    if raw["target"] not in names:
        what = f"no target {raw['target']!r:.80} in the fleet of the tests"
        problems.add(f"{path}.target", what, suggest(str(raw["target"]), names))
    tokens = parse_size(raw.get("tokens", 0))
    if tokens is None or tokens < 0:
        problems.add(f"{path}.tokens", f"{raw['tokens']!r:.40} is no number of tokens", "a size such as 12k")
    try:
        ago = seconds(raw.get("ago", "0s"))
    except Invalid as error:
        problems.add(f"{path}.ago", error.what, error.valid)
        ago = 0.0
    return Previous(str(raw["target"]), int(tokens or 0), now - ago)


def _slow(policy: Policy, raw: object, path: str, problems: Problems) -> Mapping[str, tuple[str, ...]]:
    entries = [entry.id for entry in policy.latency]
    if not entries:
        problems.add(path, "means nothing to a policy without latency targets", "an entry under latency: in the policy")
    if not isinstance(raw, Mapping):
        names = _targets(policy, raw, path, problems)
        return dict.fromkeys(entries, names)
    found = {}
    for entry, listed in raw.items():
        if entry not in entries:
            problems.add(f"{path}.{entry}", f"no latency target {entry!r:.80}", suggest(str(entry), entries))
        found[str(entry)] = _targets(policy, listed, f"{path}.{entry}", problems)
    return found


def _targets(policy: Policy, raw: object, path: str, problems: Problems) -> tuple[str, ...]:
    """Targets, each by its name or by that of its model."""
    names: list[str] = []
    for name in raw if isinstance(raw, Sequence) and not isinstance(raw, str) else [raw]:
        targets = policy.fleet.targets
        meant = [one.name for one in targets if name in (one.name, one.model.id, *one.model.aliases)]
        if not meant:
            what = f"no target or model {name!r:.80} in the fleet of the tests"
            problems.add(path, what, suggest(str(name), [one.name for one in targets]))
        names += meant
    return tuple(names)
