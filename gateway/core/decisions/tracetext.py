"""A trace as a person reads it in a terminal: plain text, no colours, one fact a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.core.decisions.trace import EntryTrace, TargetTrace, Trace
from gateway.core.money.pricing import dollars

LEGEND = "> decided  + applies  - does not apply  . not asked"


def render(trace: Trace) -> str:
    """The whole trace: what was decided first, then why, then what would flip it."""
    return "\n".join(_lines(trace)) + "\n"


def _lines(trace: Trace) -> Iterator[str]:
    decision = trace.decision
    if decision.refusal is None:
        first = decision.candidates[0]
        yield f"{first.name} ({first.model.id}) under rule {decision.rule} of {decision.policy}"
    else:
        yield f"refused: {decision.refusal[0]} under rule {decision.rule} of {decision.policy}"
        yield f"  {decision.refusal[1]}"
    yield f"  because   {decision.because}"
    yield f"  thinking  {decision.thinking}" + (f" ({decision.thinking.rule})" if decision.thinking.rule else "")
    yield f"  tokens    {trace.tokens.removeprefix('is ')}"
    if trace.conversation:
        yield f"  conversation  {trace.conversation}"
    if decision.shadow is not None:
        yield f"  shadow    {decision.shadow.target.name} ({decision.shadow.id})"
    yield ""
    yield LEGEND
    yield from _entries("rules", trace.rules)
    yield from _entries("constraints", trace.constraints)
    yield from _entries("thinking", trace.thinking)
    yield from _entries("latency", trace.latency)
    yield from _entries("shadow", trace.shadows)
    yield "targets"
    width = max((len(entry.target) for entry in trace.targets), default=0)
    yield from (_target(entry, width) for entry in trace.targets)
    if trace.flips:
        yield ""
        yield "nearest flips"
        yield from (f"  {flip.text}" for flip in trace.flips)


def _entries(title: str, entries: Sequence[EntryTrace]) -> Iterator[str]:
    if not entries:
        return
    yield title
    width = max(len(entry.id) for entry in entries)
    for entry in entries:
        mark = ">" if entry.chosen else "." if not entry.asked else "+" if entry.matched else "-"
        effect = f" {entry.effect}" if entry.effect else ""
        names = f": {', '.join(entry.targets)}" if entry.targets else ""
        if entry.effect == "require" and entry.matched:
            names = f": only {', '.join(entry.targets) or 'targets that are not here'}"
        yield f"  {mark} {entry.id:<{width}}{effect}  {entry.why}{names}"
        if entry.because and (entry.chosen or entry.targets):
            yield f"    {'':<{width}}  because {entry.because}"
    yield ""


def _target(entry: TargetTrace, width: int) -> str:
    place = f"{entry.place:>3}." if entry.place else "   -"
    low, usual, high = entry.cost_low_nano, entry.cost_usual_nano, entry.cost_high_nano
    if low is None or usual is None or high is None:
        cost = "unpriced"
    else:
        cost = f"{dollars(low)} to {dollars(high)}, usually {dollars(usual)}"
    why = f"  {entry.verdict}: {', '.join(entry.reasons)}" if entry.reasons else ""
    return f"{place} {entry.target:<{width}}  {cost}{why}"
