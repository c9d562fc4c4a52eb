"""What a change of policies does, as a comment on a pull request: Markdown that is short where little happened.

Texts from policies stand in code spans and cannot become markup. What is told is found out in `compare` and `traffic`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from gateway.core.clauses.findings import Finding
from gateway.core.errors import Problem
from gateway.core.proving.changes import NOUNS, Detail, DocChange
from gateway.core.types import NANO_PER_USD
from gateway.diff.compare import PolicyChange, TestChange, Told
from gateway.diff.traffic import Traffic

#: The first line, by which a later run finds the comment that it replaces.
MARKER = "<!-- pointsman explain --diff -->"
#: GitHub refuses a comment of more than 65,536 characters.
LONGEST = 60_000
_MOST_ROWS = 40
_MOST_TARGETS = 3
_MOST_MOVES = 15
_LONGEST_TEXT = 200


def comment(found: Sequence[PolicyChange], revision: str, same: int, laid: str = "") -> str:
    """The whole comment. `same` policies are as they were; `laid` says what lies over them."""
    lines = [MARKER, "## What this change does to routing", ""]
    lines += [f"Against {code(revision)}, on the reference fleet. Nothing was sent anywhere.", ""]
    lines += [plain(laid), ""] if laid else []
    if not found:
        lines.append("No policy decides anything differently.")
    for change in found:
        lines += [*_policy(change), ""]
    if same and found:
        lines.append(f"{same} other {'policy is' if same == 1 else 'policies are'} as before.")
    return _bounded("\n".join(lines).rstrip() + "\n")


def _bounded(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    kept = text[:LONGEST].rpartition("\n")[0]
    closing = "\n</details>" * (kept.count("<details>") - kept.count("</details>"))
    return f"{kept}{closing}\n\nToo long for a comment: `pointsman explain --diff` shows the rest.\n"


def _policy(change: PolicyChange) -> Iterator[str]:
    where = change.path_after or change.path_before or ""
    yield f"### {code(change.name)} {_state(change)} ({code(where)})"
    yield ""
    if change.state == "removed":
        yield f"The policy and its {_counted(change.tests_before, 'test')} are gone; names that lead to it are refused."
        return
    if change.unreadable_before:
        yield "The version before could not be compared:"
        yield from (f"- {code(str(problem))}" for problem in change.unreadable_before[:5])
        return
    yield _summary(change)
    yield ""
    yield from _written(change.written)
    yield from _tests(change)
    yield from _findings(change.appeared, change.vanished)
    if change.traffic is not None:
        yield from _traffic(change.traffic)


def _state(change: PolicyChange) -> str:
    if change.state == "renamed":
        was = change.name_before if change.name_before != change.name else change.path_before
        return f"renamed, it was {code(was or '')}"
    return change.state


def _summary(change: PolicyChange) -> str:
    if change.state == "added":
        said = f"{_counted(change.tests_total, 'test')}"
    else:
        counts = {state: sum(one.state == state for one in change.tests) for state in ("added", "removed", "changed")}
        said = f"{_counted(change.tests_total, 'test')}"
        said += "".join(f", {number} {state}" for state, number in counts.items() if number)
        said += f"; {len(change.decided_otherwise)} decided or judged differently"
    failing = len(change.failing)
    return f"{said}; " + (f"**{failing} fail now**." if failing else "all pass.")


def _written(written: Sequence[DocChange]) -> Iterator[str]:
    if not written:
        return
    yield "**Written differently**"
    yield ""
    for one in written:
        yield f"- {_headline(one)}"
        if one.what in ("renamed", "moved"):
            continue
        for detail in one.details:
            yield f"  - {_detail(detail, one.what)}"
    yield ""


def _headline(one: DocChange) -> str:
    name = f"{NOUNS.get(one.part, one.part)} {code(one.id)}" if one.id else code(one.part)
    if one.what == "renamed":
        return f"{name} **renamed**, it was {code(one.details[0].before)}"
    if one.what == "moved":
        place = one.details[0].after
        return f"{name} **moved**, now " + ("first" if place == "first" else f"after {code(place[6:])}")
    return f"{name} **{one.what}**"


def _detail(detail: Detail, what: str) -> str:
    label = f"{code(detail.member)}: " if detail.member else ""
    if what != "changed":
        return label + code(detail.after or detail.before)
    if not detail.before:
        return f"{label}new: {code(detail.after)}"
    if not detail.after:
        return f"{label}gone: {code(detail.before)}"
    return f"{label}{code(detail.before)} → {code(detail.after)}"


def _tests(change: PolicyChange) -> Iterator[str]:
    rows = change.failing if change.state == "added" else change.decided_otherwise
    if not rows:
        return
    yield "**Tests that come out differently**" if change.state != "added" else "**Tests that fail**"
    yield ""
    yield "| Test | Before | After |"
    yield "|---|---|---|"
    for one in sorted(rows, key=lambda row: row.state == "removed" or row.after.passed)[:_MOST_ROWS]:
        yield f"| {_test_name(one)} | {_told(one.before, one.after)} | {_told(one.after, one.before)} |"
    if len(rows) > _MOST_ROWS:
        yield f"| and {len(rows) - _MOST_ROWS} more | | |"
    yield ""


def _test_name(one: TestChange) -> str:
    state = "" if one.state == "kept" else f"{one.state}: "
    return state + plain(one.name)


def _told(told: Told, other: Told) -> str:
    """A decision, as far as it differs from the other: the rule always."""
    if told.refusal is not None:
        said = f"refused, {code(told.refusal)} ({code(told.rule or 'no rule')})"
    else:
        said = f"{code(told.rule or 'no rule')}: {_targets(told, other)}"
        if told.thinking != other.thinking:
            said += f", thinking {code(told.thinking)}"
    return said if told.passed else f"{said}, **fails**"


def _targets(told: Told, other: Told) -> str:
    """The first target; and where that is the same, the candidates from the first one that differs."""
    same = 0
    for one, another in zip(told.targets, other.targets, strict=False):
        if one != another:
            break
        same += 1
    if same == 0 or told.targets == other.targets:
        return code(told.targets[0])
    behind = told.targets[same : same + _MOST_TARGETS]
    shown = ", ".join(code(name) for name in behind) + (", ..." if len(told.targets) > same + _MOST_TARGETS else "")
    return f"{code(told.targets[0])}, candidate {same + 1}: {shown if behind else 'none'}"


def _findings(appeared: Mapping[str, Sequence[Finding]], vanished: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    for name in dict.fromkeys([*appeared, *vanished]):
        new, gone = appeared.get(name, ()), vanished.get(name, ())
        grave = [(sign, one) for sign, some in (("new", new), ("gone", gone)) for one in some if one.severity != "info"]
        minor = [(sign, one) for sign, some in (("new", new), ("gone", gone)) for one in some if one.severity == "info"]
        yield f"**Findings on {plain(name)}**"
        yield ""
        yield from (_finding(sign, one) for sign, one in grave[:_MOST_ROWS])
        if minor:
            yield f"<details><summary>{len(minor)} more, of no weight</summary>"
            yield ""
            yield from (_finding(sign, one) for sign, one in minor[:_MOST_ROWS])
            yield ""
            yield "</details>"
        yield ""


def _finding(sign: str, one: Finding) -> str:
    fix = f" ({prose(one.fix)})" if one.fix and sign == "new" else ""
    return f"- {sign}: {one.severity}: {code(one.id)}: {prose(one.message)}{fix}"


def _traffic(found: Traffic) -> Iterator[str]:
    moved = sum(found.moves.values())
    yield f"**Recorded traffic: {moved:,} of {found.records:,} requests would go elsewhere**"
    yield ""
    if moved:
        yield "| Requests | Before | After |"
        yield "|--:|---|---|"
        for (rule, target, rule_after, target_after), count in found.moves.most_common(_MOST_MOVES):
            yield f"| {count:,} | {code(rule)}: {code(target)} | {code(rule_after)}: {code(target_after)} |"
        left = moved - sum(count for _, count in found.moves.most_common(_MOST_MOVES))
        if left:
            yield f"| {left:,} | otherwise | |"
        yield ""
    if found.newly_refused:
        codes = ", ".join(f"{count:,} {code(name)}" for name, count in found.newly_refused.most_common())
        yield f"- **newly refused**: {codes}"
    if found.newly_served:
        yield f"- refused before, served now: {found.newly_served:,}"
    if found.before_nano or found.after_high_nano:
        low, likely, high = (
            amount - found.before_nano for amount in (found.after_low_nano, found.after_nano, found.after_high_nano)
        )
        yield (
            f"- cost of those that move: {_usd(found.before_nano)} before, {_signed(likely)} after "
            f"({_signed(low)} to {_signed(high)})"
        )
    for count, says in (
        (found.unpriced, "move, and no difference of cost can be said"),
        (found.otherwise, "keep their target and get other fallbacks"),
        (found.undecided, "cannot be decided, because the record lacks what a version asks"),
    ):
        if count:
            yield f"- {count:,} {says}"
    yield ""


def _usd(nano: int) -> str:
    return f"${nano / NANO_PER_USD:,.4f}"


def _signed(nano: int) -> str:
    return f"{'-' if nano < 0 else '+'}{_usd(abs(nano))}"


def problems(found: Sequence[Problem]) -> str:
    """The comment for a version that does not load."""
    lines = [MARKER, "## What this change does to routing", "", "The policies of this change do not load:", ""]
    return _bounded("\n".join([*lines, *(f"- {code(str(one))}" for one in found)]) + "\n")


def _counted(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def code(text: str) -> str:
    """A text as a code span, on one line, bounded, whatever it holds.

    >>> code("a | b"), code("tick ` tock")
    ('`a \\\\| b`', '`` tick ` tock ``')
    """
    flat = " ".join(text.split())
    flat = flat if len(flat) <= _LONGEST_TEXT else flat[: _LONGEST_TEXT - 3] + "..."
    flat = flat.replace("|", "\\|")
    ticks = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (ticks + 1)
    return f"{fence} {flat} {fence}" if ticks else f"`{flat}`"


def prose(text: str) -> str:
    """A sentence of ours, whose backticks mean code.

    >>> prose("taken by `code` above it, *all* of it")
    'taken by `code` above it, \\\\*all\\\\* of it'
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(code(part) if i % 2 else _escaped(part) for i, part in enumerate(parts))


def plain(text: str) -> str:
    """A text that is no markup: what Markdown and HTML would read as theirs is escaped, and nobody is mentioned."""
    return _escaped(" ".join(text.split())[: 2 * _LONGEST_TEXT])


def _escaped(text: str) -> str:
    flat = re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text.replace("\n", " "))
    return flat.replace("@", "@\u200b").replace("&", "&amp;")
