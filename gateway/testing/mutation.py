"""Running a policy's tests on its mutants, within a time that whoever asks can wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy, TestDoc
from gateway.core.proving.mutate import Mutant, Slip, Survey, effect, mutants
from gateway.core.proving.policytest import Case, noticed_by, prepare
from gateway.core.reading.signals import Signals
from gateway.core.types import Fleet
from gateway.policyfile import PolicyFile, placed

#: Of so many tests a request with each target pinned is tried, too.
_MOST_PINNED = 12


def ready(file: PolicyFile, fleet: Fleet) -> tuple[Policy, tuple[Case, ...]]:
    """A policy on a fleet, and its tests ready to run. Raises `ConfigError` with lines."""
    policy = file.bind(fleet)
    reader = file.reader(fleet)
    with placed(file.document):
        return policy, prepare(policy, reader, file.promises)


def survey(
    file: PolicyFile,
    fleet: Fleet,
    cases: Sequence[Case] | None = None,
    *,
    time_is_up: Callable[[], bool] = lambda: False,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Change one thing at a time and see which changes none of the cases (by default all tests of the file) notices.

    The cases must pass on the policy as it is. `step` is told how many mutants of how many are done. Raises
    `ConfigError` for a policy that does not load.
    """
    policy, every_case = ready(file, fleet)
    cases = every_case if cases is None else cases
    whole = effect(policy)
    every = [mutant for mutant in mutants(file.doc) if file.own(mutant.path)]
    noticed = 0
    survivors: list[Mutant] = []
    slips: list[Slip | None] = []
    idle: list[Mutant] = []
    for done, mutant in enumerate(every):
        step(done, len(every))
        if time_is_up():
            return Survey(noticed, tuple(survivors), tuple(idle), len(every) - done, tuple(slips))
        try:
            changed = replace(file, doc=mutant.doc).bind(fleet)
        except ConfigError:  # it would not even load: that is noticed
            noticed += 1
            continue
        if effect(changed) == whole:
            idle += () if mutant.slight else (mutant,)
        elif noticed_by(changed, cases, mutant.removed_rule) is None:
            survivors.append(mutant)
            slips.append(slip(policy, changed, cases))
        else:
            noticed += 1
    return Survey(noticed, tuple(survivors), tuple(idle), 0, tuple(slips))


def slip(policy: Policy, changed: Policy, cases: Sequence[Case]) -> Slip | None:
    """Who comes in or falls out by a change: shown by what a test gives, else by that with a target pinned.

    Cheap rather than complete: only what the cases give is tried, and nothing given, with pins the first few of it.
    """
    told = [case for case in cases if case.test.request is None]
    nothing = TestDoc(name="nothing is given", expect={"thinking": "client"})
    told.append(Case(nothing, "", Signals.given({}), None, policy.fleet.mask(), 0.5))
    fleet = policy.fleet.targets
    pins = ((case, target) for case in told[:_MOST_PINNED] if case.pinned is None for target in fleet)
    for case, target in [*((case, None) for case in told), *pins]:
        pinned = case.pinned if target is None else 1 << target.index
        before, after = (
            {one.name for one in decide(which, case.signals, case.snapshot(which), pinned=pinned).candidates}
            for which in (policy, changed)
        )
        if before != after:
            more = {} if target is None else {"pinned": target.name}
            return Slip({**case.test.given, **more}, tuple(sorted(after - before)), tuple(sorted(before - after)))
    return None
