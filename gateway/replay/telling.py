"""How a replay reads: as lines for a terminal, and as JSON.

Names come from records, which others may have written: nothing here moves a terminal's cursor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway.core.recorded.records import Decided
from gateway.core.recorded.worth import ASSUMPTIONS
from gateway.core.types import NANO_PER_USD
from gateway.replay.comparison import ROWS, Change, Comparison, Money, usual_s
from gateway.replay.reading import Read
from gateway.telemetry.logs import printable

_SHOWN = 12  # rows of each table


def usd(nano_usd: int) -> str:
    """An amount, with as many decimals as say something.

    >>> usd(1_234_567_891_234), usd(-1_234_567)
    ('$1,234.57', '-$0.001235')
    """
    sign, amount = ("-", -nano_usd) if nano_usd < 0 else ("", nano_usd)
    dollars = amount / NANO_PER_USD
    return f"{sign}${dollars:,.2f}" if dollars >= 100 else f"{sign}${dollars:,.6f}"


def difference(money: Money) -> str:
    """What would have been spent more (or less), likely and at the bounds."""
    low, likely, high = (f"{'+' if part > money.spent else ''}{usd(part - money.spent)}"
                         for part in (money.low, money.likely, money.high))  # fmt: skip
    return f"{likely} ({low} to {high})"


def lines(found: Comparison, read: Read, shown: int = _SHOWN) -> list[str]:
    """A replay for people."""
    out = [f"{found.total:,} recorded requests decided by {found.policy.label}"]
    if found.elsewhere:
        out.append(f"  {found.elsewhere:,} others were decided by other policies and are left aside")
    if found.other_fleet:
        out.append(
            f"  {found.other_fleet:,} were decided on another fleet: targets go by name, and were up if unheard of"
        )
    if found.sampled:
        out.append("  the records are a sample: counts and costs are those of the records, not of all requests")
    out += _damage(read)
    out += _verdict(found)
    out += _changes(found, shown)
    out += _tables(found, shown)
    out += _latency(found)
    if found.not_reproduced:
        out.append(f"NOT REPRODUCED under their own policy and fleet, a defect: {', '.join(found.not_reproduced)}")
    return [printable(line, 400) for line in out]


def _damage(read: Read) -> list[str]:
    out = []
    if read.damaged:
        out.append(f"  {read.damaged:,} damaged lines were passed over:")
        out += [f"    {place}" for place in read.places]
        if read.damaged > len(read.places):
            out.append("    ...")
    return out


def _verdict(found: Comparison) -> list[str]:
    refused = sum(found.newly_refused.values())
    rows: list[tuple[int, str]] = [
        (found.unchanged, "decided alike"),
        (found.rerouted, "to another target"),
        (found.rethought, "to the same target, told otherwise to think"),
        (found.reordered, "to the same target, with other fallbacks"),
        (found.reruled, "by another rule, else alike"),
        (found.reshadowed, "with another shadow, else alike"),
        (refused, f"newly refused ({_list(found.newly_refused.items())})"),
        (found.newly_allowed, "newly allowed"),
        (found.refused_otherwise, "refused for another reason"),
        (sum(found.undecided.values()), f"undecided: not recorded ({_list(found.undecided.items())})"),
    ]
    out = [f"  {count:>9,}  {says}" for count, says in rows if count or says == "decided alike"]
    money = found.money
    out.append(f"spent {usd(found.spent)} in all; of that {usd(money.spent)} on requests that would be sent otherwise")
    if money.spent or money.likely:
        out.append(f"  they would have cost {usd(money.likely)} ({usd(money.low)} to {usd(money.high)}): "
                   f"{difference(money)}")  # fmt: skip
    if found.refused_money.spent:
        out.append(f"  {usd(found.refused_money.spent)} was spent on what is newly refused")
    if found.newly_allowed:
        out.append(f"  what is newly allowed would cost {difference(found.allowed_money)}, a guess")
    if found.unpriced:
        out.append(f"  {found.unpriced:,} changed requests are in no sum: no price, or no answer to measure by")
    return out


def _list(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts, key=lambda one: -one[1])[:6])


def _changes(found: Comparison, shown: int) -> list[str]:
    if not found.changes:
        return []
    out = ["changes, the most frequent first:"]
    ordered = ordered_changes(found)
    for change in ordered[:shown]:
        out.append(f"  {change.count:>9,}  {_said(change.before)} -> {_said(change.after)}")
        if change.why:
            out.append(f"             {change.before.candidates[0]} {change.why}")
        if change.money.spent or change.money.likely:
            out.append(f"             {difference(change.money)}")
        out.append(f"             for example {change.example}")
    rest = sum(change.count for change in ordered[shown:]) + found.other_changes
    if rest:
        out.append(f"  {rest:>9,}  in other ways")
    return out


def ordered_changes(found: Comparison) -> list[Change]:
    """The changes, the most frequent first."""
    return sorted(found.changes.values(), key=lambda change: -change.count)


def _said(decided: Decided) -> str:
    rule = decided.rule or "no rule"
    if decided.refusal is not None:
        return f"{rule}: refused, {decided.refusal}"
    thinking = "" if decided.thinking == "client" else f", thinking {decided.thinking}"
    return f"{rule}: {decided.candidates[0]}{thinking}"


def _tables(found: Comparison, shown: int) -> list[str]:
    out = []
    for name in ROWS:
        rows = sorted(
            found.rows[name].items(), key=lambda item: (-item[1].changed, -abs(item[1].after - item[1].before))
        )
        rows = [(value, row) for value, row in rows if row.changed or row.before != row.after]
        if not rows:
            continue
        out.append(f"{'by ' + name:<32} {'before':>10} {'after':>10} {'changed':>10}  cost of what changed")
        for value, row in rows[:shown]:
            money = difference(row.money) if row.money.spent or row.money.likely else ""
            out.append(f"  {value:<30.60} {row.before:>10,} {row.after:>10,} {row.changed:>10,}  {money}".rstrip())
        if len(rows) > shown:
            out.append(f"  ... {len(rows) - shown} more")
    return out


def _latency(found: Comparison) -> list[str]:
    """The usual times to a first event where requests were and where they would go, as far as records tell."""
    out = []
    for (was, now), count in found.moves.most_common(5):
        if was == now:
            continue
        times = [usual_s(found.times.get(name, [])) for name in (was, now)]
        said = [f"{time:.2f} s" if time is not None else "no record" for time in times]
        out.append(f"  {count:>9,}  {was or '(nobody)'}, {said[0]} -> {now}, {said[1]}")
    return ["first event, in the middle of what was recorded of each target:", *out] if out else []


# -- as JSON --


def as_json(found: Comparison, read: Read) -> dict[str, Any]:
    """A replay for programs. Costs are nano-USD."""
    return {
        "policy": found.policy.label,
        "requests": found.total,
        "other_policies": found.elsewhere,
        "other_fleet": found.other_fleet,
        "sampled": found.sampled,
        "damaged": {"lines": read.damaged, "places": list(read.places)},
        "unchanged": found.unchanged,
        "rerouted": found.rerouted,
        "thinking_changed": found.rethought,
        "fallbacks_changed": found.reordered,
        "rule_changed_only": found.reruled,
        "shadow_changed_only": found.reshadowed,
        "newly_refused": dict(found.newly_refused),
        "newly_allowed": found.newly_allowed,
        "refused_otherwise": found.refused_otherwise,
        "undecided": dict(found.undecided),
        "unpriced": found.unpriced,
        "spent_nano_usd": found.spent,
        "changed_cost": money_json(found.money),
        "newly_refused_spent_nano_usd": found.refused_money.spent,
        "newly_allowed_cost": money_json(found.allowed_money),
        "by": {
            name: [
                {name: value, "before": row.before, "after": row.after, "changed": row.changed,
                 "cost": money_json(row.money)}
                for value, row in sorted(found.rows[name].items())
            ]
            for name in ROWS
        },
        "changes": [
            {
                "requests": change.count,
                "before": msgspec.to_builtins(change.before),
                "after": msgspec.to_builtins(change.after),
                "why": change.why,
                "example": change.example,
                "cost": money_json(change.money),
            }
            for change in ordered_changes(found)
        ],
        "changed_in_other_ways": found.other_changes,
        "why_not_chosen_any_more": dict(found.dropped),
        "first_event_s": {name: usual_s(times) for name, times in sorted(found.times.items())},
        "reproducible": found.same_inputs,
        "not_reproduced": list(found.not_reproduced),
        "assumes": list(ASSUMPTIONS),
    }  # fmt: skip


def money_json(money: Money) -> dict[str, int]:
    """What was spent and what it would have cost, in nano-USD."""
    return {
        "spent_nano_usd": money.spent,
        "low_nano_usd": money.low,
        "likely_nano_usd": money.likely,
        "high_nano_usd": money.high,
    }


def assumptions(also: Sequence[str] = ()) -> list[str]:
    """What the costs rest on."""
    return ["assumes", *(f"  {one}" for one in (*ASSUMPTIONS, *also))]
