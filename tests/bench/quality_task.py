"""How well `task` and `difficulty` are told, on a labelled JSONL.

    python tests/bench/quality_task.py PROMPTS.jsonl [--lexicon FILE] [--misses easy|hard|code]

Each line: `text`, `category`, `think` (1: needs thinking) and `tools`. Prints precision and recall of "easy" (needs no
thinking) and "hard", of code recognition, of each task, and what a call costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from gateway.core.reading.lexicon import Excerpt, Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.request.hints import Hints
from gateway.core.request.wire import parse
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Tenant
from gateway.site import load_lexicon


def signals(row: dict[str, Any], lexicon: Lexicon) -> Signals:
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": row["text"]}]}
    if row.get("tools"):
        body["tools"] = [{"type": "function", "function": {"name": "f"}}]
    return Signals.of(
        parse(json.dumps(body).encode()),
        tenant=Tenant("bench"),
        hints=Hints(),
        headers={},
        tokenizers=Tokenizers(),
        lexicon=lexicon,
        now=0.0,
        blocking=False,
    )


def line(name: str, right: int, called: int, all_of_them: int) -> None:
    precision = f"{100 * right / called:6.1f}" if called else "     -"
    recall = f"{100 * right / all_of_them:6.1f}" if all_of_them else "     -"
    print(f"{name:14} precision {precision} %   recall {recall} %   called {called:5} of {all_of_them}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts")
    parser.add_argument("--lexicon", type=Path, help="a directory with another lexicon.yaml")
    parser.add_argument("--misses", choices=("easy", "hard", "code"))
    options = parser.parse_args()
    lexicon = load_lexicon(options.lexicon)
    with open(options.prompts, encoding="utf-8") as file:
        rows = [json.loads(text) for text in file]
    called: dict[str, Counter[str]] = defaultdict(Counter)
    costs, hits = [], Counter[str]()
    for row in rows:
        told = signals(row, lexicon)
        task, difficulty = told.get("task"), told.get("difficulty")
        truth = "hard" if row["think"] else "easy"
        called["difficulty"][f"{difficulty} {truth}"] += 1
        called[f"of {row['category']}"][str(difficulty)] += 1
        called["task"][f"{task} {row['category']}"] += 1
        wrong_code = (task == "code") != (row["category"] == "code")
        if difficulty not in (None, truth):
            hits.update(f"{rule} -> {difficulty}" for rule in lexicon.judge(Excerpt(row["text"])).hits)
        wrong = wrong_code if options.misses == "code" else difficulty not in (None, truth)
        if options.misses in ("code", difficulty) and options.misses and wrong:
            print(
                f"MISS {row['category']} {task} {lexicon.judge(Excerpt(row['text'])).hits}\n     {row['text'][:160]!r}"
            )
        start = time.perf_counter()
        lexicon.judge(Excerpt(row["text"]))
        costs.append((time.perf_counter() - start) * 1e6)
    found = called["difficulty"]
    print('difficulty; the aim is "easy" right in >= 95 %')
    for word in ("easy", "hard"):
        total = sum(count for key, count in found.items() if key.endswith(word))
        line(f"  {word}", found[f"{word} {word}"], sum(v for k, v in found.items() if k.startswith(word)), total)
    for name, counts in sorted(called.items()):
        if name.startswith("of "):
            print(f"    {name:22} {dict(counts)}")
    print("task")
    tasks = called["task"]
    names = sorted({key.split()[0] for key in tasks} - {"None"})
    same = {"agentic": "agentic_tool", "summarise": "extract_summarise", "extraction": "extract_summarise"}
    for name in names:
        category = same.get(name, name)
        total = sum(count for key, count in tasks.items() if key.split()[1] == category)
        line(f"  {name}", tasks[f"{name} {category}"], sum(v for k, v in tasks.items() if k.split()[0] == name), total)
    print("rules in wrong verdicts:", hits.most_common(12))
    print(f"CPU: median {statistics.median(costs):.0f} us, 95 % {sorted(costs)[len(costs) * 95 // 100]:.0f} us")
    worst = {"spaces": " " * 10**7, "quotes": "`" * 10**7, "lines": "\n" * 10**7, "words": "write a " * 10**6}
    for name, text in worst.items():
        start = time.perf_counter()
        lexicon.judge(Excerpt(text))
        print(f"  {name:8} {(time.perf_counter() - start) * 1e6:7.0f} us")


if __name__ == "__main__":
    main()
