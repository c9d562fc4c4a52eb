"""How well the language signal tells foreign prompts, on a labelled JSONL.

    python tests/bench/quality_language.py PROMPTS.jsonl [--misses] [--official en,de,...]

Each line: `text` or `messages`, `kind`, `lang` or `langs`, `words` and `decision`, which is "in" or "out" of the
official list ("either": not judged); `target_lang` where a translation is asked for. Prints the share of rows called
outside by kind, what is asked for against `target_language`, how the whole stands to what is aimed at, and what a call
costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.request.hints import Hints
from gateway.core.request.wire import parse
from gateway.core.text import language
from gateway.core.text.language import Language
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Tenant

LLAMA_4 = "ar,en,fr,de,hi,id,it,pt,es,tl,th,vi"
MUST_NOT_FIRE = (
    "en_prompt", "en_code_prompt", "code_only", "code_only_repo", "json", "stack_trace", "math_en", "math_formula",
    "url_only", "symbols_only", "emoji_en",
)  # fmt: skip


def signals(row: dict[str, Any]) -> Signals:
    """The signals of a request with this row's messages."""
    messages = row.get("messages") or [{"role": "user", "content": row["text"]}]
    envelope = parse(json.dumps({"model": "auto", "messages": messages}).encode())
    return Signals.of(
        envelope,
        tenant=Tenant("bench"),
        hints=Hints(),
        headers={},
        tokenizers=Tokenizers(),
        lexicon=Lexicon.empty(),
        now=0.0,
        blocking=False,
    )


def signal(row: dict[str, Any]) -> Language | None:
    """The language of a row."""
    found: Language | None = signals(row).get("language")
    return found


def summary(rows: list[dict[str, Any]], official: frozenset[str]) -> None:
    """What is aimed at, and what came out. Foreign prompts are the rows of kind "plain" outside the list."""

    def called(wanted: Callable[[dict[str, Any]], bool]) -> str:
        some = [row for row in rows if wanted(row)]
        hits = sum(1 for row in some if (found := signal(row)) is not None and found.outside(official) is True)
        return f"{100 * hits / max(len(some), 1):6.2f} %  of {len(some)}"

    def plain(row: dict[str, Any], decision: str, least: int, most: int) -> bool:
        return row["kind"] == "plain" and row["decision"] == decision and least <= row["words"] <= most

    print("called foreign, and the aim")
    print("  English, code, JSON, traces     <= 1 (0.6) ", called(lambda row: row["kind"] in MUST_NOT_FIRE))
    print("  foreign, 5 words               >= 94 (96)  ", called(lambda row: plain(row, "out", 5, 5)))
    print("  foreign, 20 words and more     >= 98       ", called(lambda row: plain(row, "out", 20, 10_000)))
    print("  foreign, 20 words                          ", called(lambda row: plain(row, "out", 20, 20)))
    system = "chat_en_system_foreign_user"
    chats = called(lambda row: row["kind"] == system and row["decision"] == "out")
    print("  English system prompt, foreign user  100   ", chats)
    print("  in the list                     (<= 2)     ", called(lambda row: plain(row, "in", 0, 10_000)))


def asked_for(rows: list[dict[str, Any]], misses: bool) -> None:
    """How often `target_language` is the language that a translation is asked for in, and fires where none is."""
    right = several = 0
    false, plain = Counter[str](), 0
    for row in rows:
        found = signals(row).get("target_language")
        if target := row.get("target_lang"):
            several += 1
            right += found == {target}
            shown = found != {target}
        elif row["kind"] in MUST_NOT_FIRE or row["kind"] == "plain":
            plain += 1
            false[row["kind"]] += found is not None
            shown = found is not None
        else:
            continue
        if misses and shown:
            print(f"MISS target_language {found} {row['text'][:110]!r}")
    print(f"target_language: {right} of {several} right; fires on {false.total()} of {plain} rows that ask for none")


def table(rows: list[dict[str, Any]], official: frozenset[str], misses: bool) -> None:
    cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
    unknown: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        found = signal(row)
        outside = found.outside(official) if found else None
        kind = f"plain {row['words']} words" if row["kind"] == "plain" else row["kind"]
        for name in (kind, *(["ALL must not fire"] if row["kind"] in MUST_NOT_FIRE else [])):
            cells[name, row["decision"]].append(outside is True)
            unknown[name, row["decision"]] += outside is None
        if misses and row["decision"] != "either" and (outside is True) != (row["decision"] == "out"):
            shown = (row.get("text") or json.dumps(row.get("messages"), ensure_ascii=False))[:110].replace("\n", "\\n")
            print(f"MISS {kind} {row.get('lang')} {row['decision']} {found and found.to_dict()}\n     {shown!r}")
    print(f"{'kind':32} {'label':7} {'rows':>5} {'outside %':>9} {'unknown %':>9}")
    for name, decision in sorted(cells):
        hits = cells[name, decision]
        share, blank = 100 * sum(hits) / len(hits), 100 * unknown[name, decision] / len(hits)
        print(f"{name:32} {decision:7} {len(hits):5} {share:9.2f} {blank:9.1f}")


def cost(rows: list[dict[str, Any]]) -> None:
    """CPU of `language.of`, in microseconds: the best of five runs of each text."""
    by_words: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "plain":
            by_words[row["words"]].append(_microseconds(row["text"], 5))
    for words, found in sorted(by_words.items()):
        p95 = sorted(found)[int(len(found) * 0.95)]
        middle = statistics.median(found)
        print(f"{words:4} words: median {middle:6.1f} us, 95 % {p95:6.1f} us, worst {max(found):6.1f} us")
    english = [_microseconds(row["text"], 5) for row in rows if row["kind"] == "en_prompt"]
    print(f"English prompts: median {statistics.median(english):.1f} us, worst {max(english):.1f} us")
    hostile = {
        "40 MB English": "The quick brown fox jumps over the lazy dog. " * 900_000,
        "13 M Japanese": "今日は天気がいいので公園を散歩しましょう。" * 650_000,
        "10 M spaces": " " * 10_000_000,
        "10 M newlines": "\n" * 10_000_000,
        "4 M emoji": "😀" * 4_000_000,
        "brackets": "(" * 4_000_000,
        "fences": "```\n" * 1_000_000,
        "one letter lines": "a\n" * 2_000_000,
        "all different": "".join(map(chr, range(0x100, 0xD000))) * 20,
        "mixed scripts": "д a अ ا 漢 " * 400_000,
        "mixed lines": "здравствуй mundo नमस्ते سلام 漢字\n" * 100_000,
        "NUL": "\x00" * 4_000_000,
    }
    for name, text in hostile.items():
        print(f"{name:18} {_microseconds(text, 5):8.1f} us")


def _microseconds(text: str, runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        language.of([text])
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts")
    parser.add_argument("--misses", action="store_true", help="print each row that is judged wrongly")
    parser.add_argument("--official", default=LLAMA_4, help="the list that is asked about (default: Llama 4's 12)")
    options = parser.parse_args()
    with open(options.prompts, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    official = frozenset(options.official.split(","))
    table(rows, official, options.misses)
    asked_for(rows, options.misses)
    summary(rows, official)
    cost(rows)


if __name__ == "__main__":
    main()
