"""The comment: bounded, and nothing in a policy becomes markup."""

from __future__ import annotations

import pytest

from gateway.core.proving.changes import Detail, DocChange
from gateway.diff.compare import PolicyChange, TestChange, Told
from gateway.diff.markdown import LONGEST, comment, plain

BEFORE = Told("code", ("a", "b", "c", "d", "e"), "never", None, True)


def told(after: Told, name: str = "a test") -> str:
    change = PolicyChange("p", "changed", "p.yaml", "p.yaml", tests=(TestChange(name, "kept", BEFORE, after),))
    return next(line for line in comment([change], "main", 0).splitlines() if line.startswith(f"| {plain(name)}"))


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (Told("rest", ("b", "a"), "never", None, True), "| a test | `code`: `a` | `rest`: `b` |"),
        (
            Told("code", ("a", "b", "d", "e"), "never", None, True),
            "| a test | `code`: `a`, candidate 3: `c`, `d`, `e` | `code`: `a`, candidate 3: `d`, `e` |",
        ),
        (
            Told("code", ("a", "b", "c", "d"), "never", None, True),
            "| a test | `code`: `a`, candidate 5: `e` | `code`: `a`, candidate 5: none |",
        ),
        (
            Told("code", BEFORE.targets, "budget:4000", None, True),
            "| a test | `code`: `a`, thinking `never` | `code`: `a`, thinking `budget:4000` |",
        ),
        (
            Told("code", (), "client", "policy_denied", False),
            "| a test | `code`: `a`, thinking `never` | refused, `policy_denied` (`code`), **fails** |",
        ),
    ],
)
def test_a_row_shows_what_differs(after: Told, line: str) -> None:
    assert told(after) == line


def test_names_and_texts_are_no_markup() -> None:
    after = Told("rest", ("b",), "never", None, True)
    assert told(after, "<img src=x> | **bold** @everyone [a](b)").startswith(
        "| \\<img src=x\\> \\| \\*\\*bold\\*\\* @\u200beveryone \\[a\\](b) | "
    )
    detail = Detail("because", "", "`</details>` and | more\nlines")
    change = PolicyChange("p", "changed", "p.yaml", "p.yaml", written=(DocChange("rules", "r", "added", (detail,)),))
    assert "  - `because`: `` `</details>` and \\| more lines ``\n" in comment([change], "main", 0)


def test_a_comment_is_never_longer_than_a_comment_may_be() -> None:
    details = tuple(Detail(f"m{i}", "", "x" * 190) for i in range(1_000))
    change = PolicyChange("p", "changed", "p.yaml", "p.yaml", written=(DocChange("rules", "r", "added", details),))
    made = comment([change], "main", 0)
    assert LONGEST < len(made) + 1_000 < 65_536
    assert made.endswith("Too long for a comment: `pointsman explain --diff` shows the rest.\n")
