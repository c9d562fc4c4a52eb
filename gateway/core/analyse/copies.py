"""Shadows: copies that go to nobody, or never, or where no rule would send them; and the ones that others hide.

Whatever removes candidates removes shadows, so none leaks past a constraint. What a constraint does not say is another
matter: a copy is a request that leaves, and the client does not see where to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.analyse.able import abilities, hit, spared
from gateway.core.analyse.domains import Undecided
from gateway.core.analyse.formulas import NEVER, Formula, every, some
from gateway.core.analyse.rungs import Admitted, ladder
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.shadow import ShadowRule, draw_for
from gateway.core.facts import residency
from gateway.core.reading.signals import Signals
from gateway.core.targets.capabilities import lies_in
from gateway.core.types import Decision, Target

if TYPE_CHECKING:
    from gateway.core.analyse.study import Study, Witness

_DRAW = 0.5


def judge(study: Study) -> Iterator[Finding]:
    """Shadow by shadow."""
    for i, entry in enumerate(study.policy.shadows):
        path = f"shadow[{i}]"
        if not entry.mask:
            what = f"selects no target {study.here}: nothing is copied"
            yield finding("shadow-empty", entry.id, f"{path}.use", what, "a target that there is")
            continue
        targets = study.candidates(entry.mask)
        if not targets:
            what = "none of its targets is ever allowed: closed, withdrawn, or always forbidden"
            yield finding("shadow-empty", entry.id, f"{path}.use", what, "allow_closed, or another selector")
            continue
        wanted = study.wants(entry.when)
        if study.admits([wanted]) is False:  # told as one that nothing can match
            continue
        yield from ladder(study, Admitted(entry.id, "shadow", [wanted]), entry.rungs, f"{path}.use")
        copied = some(every([*abilities(study, one).values(), spared(study, one)]) for one in targets)
        if study.admits([wanted, study.somebody, copied], "shadow", entry.id) is False:
            what = "never copies anything: what it applies to, none of its targets may or can have"
            yield finding("shadow-unreachable", entry.id, path, what, "other targets, or other conditions")
            continue
        yield from _hidden(study, i)
        yield from _stranded(study, i, targets)
        if study.everywhere is None:
            yield from _leaves(study, i, targets)


def _hidden(study: Study, number: int) -> Iterator[Finding]:
    """A request has one shadow: what stands above with all of its requests leaves only what it has no target for."""
    entry = study.policy.shadows[number]
    for upper in study.policy.shadows[:number]:
        if upper.share < 1 or not study.candidates(upper.mask):
            continue
        covers = upper.when is None or study.admits([study.wants(entry.when), study.lacks(upper.when)]) is False
        if covers:
            what = f"gets only what `{upper.id}` above it has no target for: that one copies all that both apply to"
            yield finding("shadow-hidden", entry.id, f"shadow[{number}]", what, "a smaller share above, or move it up")
            return


def _stranded(study: Study, number: int, targets: Sequence[Target]) -> Iterator[Finding]:
    """Requests of which nothing is copied, because one constraint acts against all of a shadow's targets."""
    entry = study.policy.shadows[number]
    for constraint in study.policy.forbids:
        if constraint.when is None and constraint.select.resolve is None:
            continue
        try:
            formulas = [hit(study, constraint, target) for target in targets]
        except Undecided:
            study.note("shadow", entry.id)
            continue
        if NEVER in formulas:
            continue

        def shows(decision: Decision, signals: Signals) -> bool:
            return decision.refusal is None and (decision.shadow is None or decision.shadow.id != entry.id)

        witness = _example(study, entry, [*formulas, study.wants(entry.when)], shows)
        if witness is not None:
            what = f"copies nothing where `{constraint.id}` applies: it leaves none of its targets"
            fix = "nothing, if such requests are not to be copied; else a target that it allows"
            yield finding("shadow-strands", entry.id, f"shadow[{number}]", what, fix, witness=witness)


def _leaves(study: Study, number: int, targets: Sequence[Target]) -> Iterator[Finding]:
    """Copies that go to rented servers, or to places, to which no rule sends what the shadow applies to."""
    entry = study.policy.shadows[number]
    wanted = study.wants(entry.when)
    met = [i for i in range(len(study.policy.rules)) if study.admits([wanted, *study.taken(i)]) is not False]
    served = [one for i in met for one in study.candidates(study.policy.rules[i].mask)]
    places = {residency(one) for one in served}
    at_home = bool(served) and all(one.backend.self_hosted for one in served)
    abroad = {}
    for target in targets if served else ():
        place = residency(target)
        if at_home and not target.backend.self_hosted:
            abroad[target.name] = "which is not self-hosted as all targets of the rules are"
        elif place not in places and not any(place and known and lies_in(place, known) for known in places):
            abroad[target.name] = (
                f"which is processed in {place}" if place else "of which nobody says where it is processed"
            )
    if not abroad:
        return

    def shows(decision: Decision, signals: Signals) -> bool:
        copied = decision.shadow
        return copied is not None and copied.id == entry.id and copied.target.name in abroad

    reach = some(every(abilities(study, one).values()) for one in targets if one.name in abroad)
    witness = _example(study, entry, [wanted, reach], shows)
    if witness is not None:
        name = next(iter(abroad))
        others = f" (and {len(abroad) - 1} more)" if len(abroad) > 1 else ""
        what = f"copies requests to {name}{others}, {abroad[name]}; no rule sends them there"
        fix = "a constraint that says what holds for copies too, other targets, or accept it"
        yield finding("shadow-leaves", entry.id, f"shadow[{number}].use", what, fix, witness=witness)


def _example(
    study: Study, entry: ShadowRule, formulas: Sequence[Formula], shows: Callable[[Decision, Signals], bool]
) -> Witness | None:
    """A request of which the entry is drawn; a test says so by `drawn`."""
    draw = draw_for(study.policy.shadows, frozenset({entry.id}), _DRAW)
    if draw is None:
        return None
    found = study.example(formulas, shows, "shadow", entry.id, snapshot=replace(study.snapshot, draw=draw))
    return None if found is None else {**found, "drawn": entry.id}
