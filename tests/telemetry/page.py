"""Writes the tables of docs/metrics.md from the families that the gateway declares and from what reads them.

    python tests/telemetry/page.py           writes the page
    python tests/telemetry/page.py --check   exits with 1 where it is not what would be written

Name, type, labels and meaning stand in `gateway.telemetry.families`, and how many series a family can have follows from
its labels. What only this page says: why there is a family that no dashboard, rule or `pointsman top` reads.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.telemetry import families
from gateway.telemetry.families import FAMILIES, OVERHEAD_BUCKETS_S, PER_TOKEN_BUCKETS_S
from gateway.telemetry.series import Family

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "metrics.md"

#: Families in the order of the page, by the first of each part.
PARTS = {
    "Requests": families.REQUESTS,
    "Tokens and money": families.TOKENS,
    "Times": families.DURATION,
    "Shadows": families.SHADOW_REQUESTS,
    "The process as it is": families.INFLIGHT,
}
#: Why there is a family that nothing here reads.
AD_HOC = {
    families.SHADOW_TOKENS: "what a model that is tried out uses",
    families.SHADOW_UNPRICED: "is shadow_cost_usd whole",
    families.SHADOW_DURATION: "how long whole answers of a model that is tried out take",
    families.BUDGET_ENDS: "when does a budget that is spent hold something again",
    families.SHADOWED: "what would a limit refuse, before it is enforced",
    families.LOADED_AT: "since when does each replica serve its configuration",
    families.LOG_LINES: "is the log whole, where a pipe or a disk is slow",
    families.LEDGER_ENTRIES: "what was booked, and how much of it by estimate",
    families.OTLP_EXPORTS: "spans are missing: does the collector answer",
    families.OTLP_EXPORTED: "spans are missing: what did the collector take",
    families.OTLP_DROPPED: "spans are missing: what was lost, and why",
    families.OTLP_DROPPED_REQUESTS: "spans are missing: was the exporter too slow",
}
#: How many values a label can have, by the letters that the page explains.
LETTERS = {
    "model_asked": "A", "policy": "P", "rule": "R", "target": "T", "chosen": "T", "team": "Q", "code": "C",
    "cause": "C", "outcome": "O", "reason": "O", "class": "4", "stream": "2", "shadow": "H", "signal": "2",
}  # fmt: skip
#: Families whose labels depend on each other: one series for each of what is configured.
OF_CONFIGURATION = {
    families.SHADOW_SKIPPED: "11 H",
    families.HEDGES: "4 T",
    families.SHED: "17",
    families.LOAD: "2",
    families.RELOADS: "2",
    families.RECORDS: "2",
    families.LOG_LINES: "6",
    families.BUDGET_LIMIT: "B",
    families.BUDGET_LEFT: "B",
    families.BUDGET_ENDS: "B",
    families.SHADOWED: "S",
    families.STORE_UP: "1",
    families.STORE_CLOCK: "1",
    families.STORE_ERRORS: "6",
    families.LEDGER_ENTRIES: "10",
    families.LEDGER_ERRORS: "3",
    families.SHIPPING_ERRORS: "12",
    families.OTLP_EXPORTS: "6",
    families.OTLP_DROPPED: "8",
    families.ENDPOINT_INFLIGHT: "E",
    families.ENDPOINT_LIMIT: "E",
    families.ENDPOINT_STATE: "E",
    families.EJECTIONS: "(E + T) O",
    families.TARGET_STATE: "T",
    families.TARGET_SLOW: "T L",
    families.BUILD: "1",
    families.POLICY: "P",
    families.TARGET: "T",
}
BUCKETS = {
    families.OVERHEAD: len(OVERHEAD_BUCKETS_S) + 3,
    families.PER_TOKEN: len(PER_TOKEN_BUCKETS_S) + 3,
}


def most(family: Family) -> str:
    """How many series there can be, as a product of letters and numbers."""
    if family in OF_CONFIGURATION:
        return OF_CONFIGURATION[family]
    labels = list(family.labels)
    number, factors = 1, []
    if "target" in labels and "model" in labels:  # of a target that is configured, one model
        factors.append("(T + M)")
        labels = [one for one in labels if one not in ("target", "model")]
    for factor in [LETTERS.get(one, f"({one}?)") for one in labels if one != "baseline"]:  # of that there is one
        if factor.isdigit():
            number *= int(factor)
        else:
            factors.append(factor)
    if family.kind == "histogram":
        number *= BUCKETS.get(family, len(families.DURATION_BUCKETS_S) + 3)
    return " ".join(factors if factors and number == 1 else [str(number), *factors])


def value_of(product: str, letters: dict[str, int]) -> int:
    """What a product comes to when the letters are these numbers."""
    spaced = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", product)
    return int(eval(spaced, {"__builtins__": {}}, letters))  # our own text, of letters, numbers and brackets


def readers() -> dict[str, str]:
    """What reads metrics: the name it has on the page, and its text."""
    found = {
        path.stem.capitalize(): path.read_text("utf-8")
        for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
    }
    rules = sorted((ROOT / "deploy/prometheus/rules").glob("*.yaml"))
    found["rules"] = "\n".join(path.read_text("utf-8") for path in rules)
    top = sorted((ROOT / "gateway/top").glob("*.py"))
    found["`top`"] = "\n".join(path.read_text("utf-8") for path in top)
    return found


def used_by(family: Family, known: dict[str, str]) -> list[str]:
    """Who reads a family. `pointsman top` names families without the prefix, as whole strings."""
    suffix = "(_bucket|_sum|_count)?" if family.kind == "histogram" else ""
    bare = family.name.removeprefix("pointsman_")
    return [
        name
        for name, text in known.items()
        if re.search(rf"\b{family.name}{suffix}\b", text)
        or (name == "`top`" and re.search(rf"[\"']{bare}{suffix}[\"']", text))
    ]


def row(family: Family, known: dict[str, str]) -> str:
    """One line of a table."""
    users = ", ".join(used_by(family, known)) or f"ad hoc: {AD_HOC.get(family, 'WHY IS IT THERE?')}"
    labels = ", ".join(f"`{one}`" for one in family.labels) or "none"
    unit = family.unit or "1"
    return f"| `{family.name}` | {family.kind} | {labels} | {unit} | {family.help} | {most(family)} | {users} |"


def tables() -> str:
    """All tables, each under its heading."""
    known = readers()
    starts = {first: title for title, first in PARTS.items()}
    lines: list[str] = []
    for family in FAMILIES:
        if family in starts:
            lines += ["", f"### {starts[family]}", "", HEAD, "|---|---|---|---|---|---|---|"]
        lines.append(row(family, known))
    return "\n".join([*lines[1:], ""])


HEAD = "| Metric | Type | Labels | Unit | Meaning | Series, at most | Read by |"
BEGIN, END = "<!-- tables: python tests/telemetry/page.py -->\n", "<!-- end of tables -->"


def written() -> str:
    """The page with its tables as they are to be."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    made = written()
    if "--check" in sys.argv[1:]:
        sys.exit(made != PAGE.read_text("utf-8"))
    PAGE.write_text(made, "utf-8")
