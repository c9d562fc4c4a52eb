"""What was spent against what a baseline would have cost: everything to one model, one target, or by another policy.

Only requests that were answered, and that the baseline could have answered, are compared. The others are counted apart
and never priced at zero, or a baseline that serves nobody would be the cheapest. Health is left aside: the baseline's
targets count as up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gateway.core.errors import ConfigError, Problem
from gateway.core.policy import Policy, PolicyDoc, compile_policy
from gateway.core.recorded.records import Recorded
from gateway.core.recorded.replay import Replay, Undecided
from gateway.core.recorded.worth import ASSUMPTIONS, Elsewhere
from gateway.core.types import Decision, Fleet
from gateway.problems import suggest
from gateway.replay.comparison import Money
from gateway.replay.copies import Copies
from gateway.replay.reading import Read
from gateway.replay.telling import money_json, usd
from gateway.telemetry.logs import printable

#: By what requests are told apart.
GROUPS = ("rule", "team", "model", "day")
COMPARED = (
    "compared are requests that were answered, at a price, and that the baseline could have answered",
    "of a model with several targets the one that was cheapest to expect is taken; no target counts as down",
    "a model or a target is told to think as the request was",
)


@dataclass(slots=True)
class Group:
    """Requests that were compared, and their money."""

    requests: int = 0
    money: Money = field(default_factory=Money)


@dataclass(slots=True)
class Savings:
    """One baseline. `add` takes one record at a time."""

    name: str
    replay: Replay
    thinks: bool = True  # whether it says how to think; else the baseline is told what the request was
    compared: Group = field(default_factory=Group)
    groups: dict[str, dict[str, Group]] = field(default_factory=lambda: {name: {} for name in GROUPS})
    unanswered: int = 0  # nothing was answered, so there is nothing to measure by
    unpriced: int = 0  # answered, but some attempt had no price: what was spent is not known
    unable: Counter[str] = field(default_factory=Counter)  # the baseline would have refused: by code
    unable_spent: int = 0  # nano-USD that were spent on those
    priceless: int = 0  # the baseline's target has no price
    undecided: Counter[str] = field(default_factory=Counter)
    sampled: bool = False
    _places: dict[str, Elsewhere] = field(init=False)

    def __post_init__(self) -> None:
        fleet = self.replay.policy.fleet
        self._places = {target.name: Elsewhere(target, fleet.models) for target in fleet.targets}

    def add(self, recorded: Recorded) -> None:
        """Count one record. HOT. Raises `Unreadable`."""
        result = recorded.result
        if recorded.sample < 1:
            self.sampled = True
        if result.usage is None:
            self.unanswered += 1
            return
        if not result.priced:
            self.unpriced += 1
            return
        found = self.replay.decide(recorded)
        if isinstance(found, Undecided):
            self.undecided[found.lacks] += 1
        elif found.refusal is not None:
            self.unable[found.refusal[0]] += 1
            self.unable_spent += result.cost_nano
        else:
            self._compare(recorded, found)

    def _compare(self, recorded: Recorded, decision: Decision) -> None:
        thinking = str(decision.thinking) if self.thinks else recorded.decided.thinking
        would = self._places[decision.candidates[0].name].cost(recorded, thinking)
        if would is None:
            self.priceless += 1
            return
        spent = recorded.result.cost_nano
        self.compared.requests += 1
        self.compared.money.add(spent, would)
        values = (recorded.decided.rule or "", recorded.team or "(none)", recorded.result.model, _day(recorded.at))
        for name, value in zip(GROUPS, values, strict=True):
            groups = self.groups[name]
            group = groups.get(value)
            if group is None:
                group = groups[value] = Group()
            group.requests += 1
            group.money.add(spent, would)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at // 86_400 * 86_400, UTC).date().isoformat()


def everything_to(name: str, fleet: Fleet) -> Replay:
    """A baseline that sends all that it can to one target or one model, whatever any policy says.

    Raises `ConfigError` for a name that is neither.
    """
    models = {alias: model.id for model in fleet.models.values() for alias in (*model.aliases, model.id)}
    wanted = models.get(name, name)
    mask = sum(1 << target.index for target in fleet.targets if name == target.name or target.model.id == wanted)
    if not mask:
        served = [*(target.name for target in fleet.targets), *sorted({t.model.id for t in fleet.targets})]
        what = f"{name!r:.80} is no target and no model that is served here"
        raise ConfigError([Problem("--baseline", 0, "", what, suggest(name, served))])
    return Replay(_anything(fleet), pinned=mask, healthy=True)


def _anything(fleet: Fleet) -> Policy:
    """A policy that forbids nothing: what is left are capabilities."""
    families = sorted({target.model.family for target in fleet.targets})
    doc = PolicyDoc.model_validate(
        {"policy": "baseline", "allow_closed": families, "rules": [{"id": "all", "use": ["*"]}]}
    )
    return compile_policy(doc, fleet, digest="0" * 12)


# -- telling --


def lines(found: Savings, read: Read, shown: int) -> list[str]:
    """One baseline for people."""
    money, counted = found.compared.money, found.compared.requests
    out = [f"against {found.name}: {counted:,} requests compared"]
    if counted:
        out.append(f"  spent {usd(money.spent)}; {found.name} would have cost {usd(money.likely)} "
                   f"({usd(money.low)} to {usd(money.high)})")  # fmt: skip
        out.append(f"  saved {_saved(money)}")
    if found.sampled:
        out.append("  the records are a sample: sums are those of the records, not of all requests")
    for count, says in (
        (
            sum(found.unable.values()),
            f"it could not have served ({_list(found.unable)}): {usd(found.unable_spent)} spent",
        ),
        (sum(found.undecided.values()), f"of which that is not recorded ({_list(found.undecided)})"),
        (found.priceless, "it has no price for"),
        (found.unpriced, "were served by a target without a price"),
        (found.unanswered, "were not answered"),
        (read.damaged, "lines are damaged"),
    ):
        if count:
            out.append(f"  not compared: {count:,} {says}")
    for name in GROUPS:
        groups = found.groups[name]
        if not groups:
            continue
        out.append(f"  {'by ' + name:<30} {'requests':>10} {'spent':>14} {'baseline':>14}  saved")
        ordered = sorted(
            groups.items(), key=(lambda one: one[0]) if name == "day" else (lambda one: -one[1].money.spent)
        )
        for value, group in ordered[:shown]:
            money = group.money
            out.append(f"    {value:<28.60} {group.requests:>10,} {usd(money.spent):>14} {usd(money.likely):>14}  "
                       f"{_saved(money)}")  # fmt: skip
        if len(ordered) > shown:
            out.append(f"    ... {len(ordered) - shown} more")
    return [printable(line, 400) for line in out]


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common(6))


def _saved(money: Money) -> str:
    """What the baseline would have cost more: negative where it would have been cheaper."""
    share = f", {(money.likely - money.spent) / money.likely:.0%}" if money.likely > 0 else ""
    return (
        f"{usd(money.likely - money.spent)} ({usd(money.low - money.spent)} to {usd(money.high - money.spent)}{share})"
    )


def as_json(found: Savings, read: Read) -> dict[str, Any]:
    """One baseline for programs. Costs are nano-USD."""
    return {
        "baseline": found.name,
        "compared": found.compared.requests,
        "sampled": found.sampled,
        **money_json(found.compared.money),
        "not_compared": {
            "unable": dict(found.unable),
            "unable_spent_nano_usd": found.unable_spent,
            "undecided": dict(found.undecided),
            "baseline_unpriced": found.priceless,
            "unpriced": found.unpriced,
            "unanswered": found.unanswered,
            "damaged": read.damaged,
        },
        "damaged_places": list(read.places),
        "by": {
            name: [
                {name: value, "requests": group.requests, **money_json(group.money)}
                for value, group in sorted(found.groups[name].items())
            ]
            for name in GROUPS
        },
        "assumes": [*COMPARED, *ASSUMPTIONS],
    }


CSV_HEAD = ("baseline", "by", "value", "requests", "spent_usd", "low_usd", "likely_usd", "high_usd")


def rows(found: Savings) -> list[tuple[object, ...]]:
    """One baseline for a table: all, and each group. Amounts are USD."""
    everything = [("all", "", found.compared)]
    for name in GROUPS:
        everything += [(name, value, group) for value, group in sorted(found.groups[name].items())]
    return [
        (found.name, by, _cell(value), group.requests, *(f"{part / 1e9:.9f}" for part in (
            group.money.spent, group.money.low, group.money.likely, group.money.high)))
        for by, value, group in everything
    ]  # fmt: skip


def _cell(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    value = printable(value)
    return "'" + value if value[:1] in ("=", "+", "-", "@", "\t") else value


# -- shadows --


def copy_lines(found: Copies, shown: int) -> list[str]:
    """What shadows cost, for people; nothing where nobody was copied."""
    total = found.total
    if not total.count:
        return []
    out = [f"shadows, which are in no sum above: {total.count:,} cost {usd(total.cost_nano)}"]
    for count, says in ((total.failed, "failed"), (total.unpriced, "were answered by a target without a price")):
        if count:
            out.append(f"  {count:,} of them {says}")
    out.append(f"  {'by rule and target':<30} {'shadows':>10} {'spent':>14}")
    ordered = found.dearest()
    for (rule, target), one in ordered[:shown]:
        out.append(f"    {f'{rule}: {target}':<28.60} {one.count:>10,} {usd(one.cost_nano):>14}")
    if len(ordered) > shown:
        out.append(f"    ... {len(ordered) - shown} more")
    return [printable(line, 400) for line in out]


def copy_rows(found: Copies) -> list[tuple[object, ...]]:
    """The same for a table: without a baseline, as nobody would have copied them there."""
    return [
        ("", "shadow", _cell(f"{rule}: {target}"), one.count, f"{one.cost_nano / 1e9:.9f}", "", "", "")
        for (rule, target), one in sorted(found.by.items())
    ]
