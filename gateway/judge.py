"""What `pointsman check` tells of a configuration that loads: its warnings, and what its policies are found to do.

Here is which findings a person is shown, and in how many lines. What there is to find is `core.analyse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway import bundled
from gateway.core.analyse import analyse
from gateway.core.findings import Finding
from gateway.site import Site


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found of each policy; `unnamed` ones came along with Pointsman, and nothing in the file names them."""

    findings: Mapping[str, list[Finding]]
    unnamed: frozenset[str]

    def wrong(self, site: Site) -> bool:
        """Is there a warning or an error about anything that the configuration names?"""
        shown = (one for name, found in self.findings.items() if name not in self.unnamed for one in found)
        return bool(site.warnings) or any(one.severity in ("error", "warning") for one in shown)


def judge(site: Site, now: float) -> Judged:
    """Judge all policies of a site. `now` is Unix seconds."""
    named = {route.policy for name, route in site.routes.items() if not name.startswith("auto/")} | {*site.routes_of}
    shipped = {path.stem for path in site.files if path.parent == bundled.policies()}
    unnamed = shipped - named - {site.default_policy.name, site.unknown_policy}
    return Judged({policy.name: analyse(policy, now=now) for policy in site.policies.values()}, frozenset(unnamed))


def lines(site: Site, judged: Judged) -> Iterator[str]:
    """What a person is shown, line by line."""
    yield from (f"warning: {warning}" for warning in site.warnings)
    for name, found in judged.findings.items():
        if name not in judged.unnamed:
            yield from _of(name, found)
    for name in sorted(judged.unnamed):
        yield f"policy {name}: not shown: it comes with Pointsman, and nothing here names it (--json judges it)"


def _of(policy: str, findings: Iterable[Finding]) -> Iterator[str]:
    """The lines about a policy: one for all that the same is found of, none that names the policy twice."""
    about: dict[tuple[str, str, str], dict[str, None]] = {}
    for one in findings:
        ids = about.setdefault((one.severity, one.message, one.fix), {})
        if one.id != policy or "[" in one.path:
            ids[one.id] = None
    for (severity, message, fix), ids in about.items():
        told = f"{', '.join(ids)}: {message}" if ids else message
        yield f"policy {policy}: {severity}: {told}" + (f" ({fix})" if fix else "")
