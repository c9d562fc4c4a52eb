"""How often the true count lies in the sampled interval, and how often an exact count is needed.

    python tests/bench/quality_tokens.py PROMPTS.jsonl [--tokenizer qwen3.5] [--documents 300]

Builds documents of 100 kB to 4 MB out of the texts of a JSONL (by language, by source, repeated, with a needle
of emoji) and judges each against thresholds of 32k to 1M tokens, as a request's only message.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from gateway.core.lexicon import Lexicon
from gateway.core.signals import Hints, NeedsCount, Signals
from gateway.core.types import Tenant
from gateway.core.wire import parse
from gateway.vocab import open_tokenizers

THRESHOLDS = (32_000, 128_000, 256_000, 1_000_000)


def documents(rows: list[dict[str, Any]], count: int) -> Iterator[str]:
    chance = random.Random(7)
    groups = defaultdict(list)
    for row in rows:
        if isinstance(row.get("text"), str):
            for key in ("all", row.get("source", ""), row.get("lang", ""), row.get("category", row.get("kind", ""))):
                groups[key].append(row["text"])
    names = [name for name, texts in groups.items() if sum(map(len, texts)) > 5_000]
    for number in range(count):
        texts = groups[chance.choice(names)]
        size = int(100_000 * 40 ** chance.random())
        parts: list[str] = []
        length = 0
        block = chance.choice((1, 1, 5, 50))  # how often each text is repeated in a row
        while length < size:
            text = chance.choice(texts)
            parts += [text] * block
            length += (len(text) + 1) * block
        if number % 5 == 0:
            parts.insert(chance.randrange(len(parts)), "🦜🧵" * (size // 100))
        yield "\n".join(parts)[:size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts")
    parser.add_argument("--tokenizer", default="qwen3.5")
    parser.add_argument("--documents", type=int, default=300)
    options = parser.parse_args()
    with open(options.prompts, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    name = options.tokenizer
    tokenizers = open_tokenizers([name], background=False)
    tokenizers.load(name)
    inside = sampled = needed = asked = wrong = 0
    widths, costs = [], []
    for text in documents(rows, options.documents):
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
        signals = Signals.of(
            parse(body.encode()),
            tenant=Tenant("bench"),
            hints=Hints(),
            headers={},
            tokenizers=tokenizers,
            lexicon=Lexicon.empty(),
            now=0.0,
            blocking=False,
        )
        told = {}
        start = time.perf_counter()
        for limit in THRESHOLDS:
            asked += 1
            try:
                told[limit] = signals.exceeds(name, limit)
            except NeedsCount:
                needed += 1
        costs.append((time.perf_counter() - start) * 1e3)
        bounds, basis = signals.tokens(name), signals.basis(name)
        step = signals._sizes.prompt.count_all(name)
        true = step.hi + signals._sizes.added(name)[1]
        wrong += sum(answer != (true > limit) for limit, answer in told.items())
        if basis.startswith("sampled"):
            sampled += 1
            inside += bounds.lo <= true <= bounds.hi
            widths.append((bounds.hi - bounds.lo) / true)
    print(f"{options.documents} documents, {sampled} of them sampled; true count inside {100 * inside / sampled:.2f} %")
    print(f"questions {asked}, exact count needed {100 * needed / asked:.2f} %, wrong answers {wrong}")
    print(f"interval: median {100 * statistics.median(widths):.1f} % of the count, widest {100 * max(widths):.0f} %")
    print(f"cost of all questions: median {statistics.median(costs):.2f} ms, worst {max(costs):.1f} ms")


if __name__ == "__main__":
    main()
