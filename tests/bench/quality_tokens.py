"""How often the true count lies in the sampled interval, and how often an exact count is needed.

    python tests/bench/quality_tokens.py PROMPTS.jsonl [--tokenizer qwen3.5] [--documents 300]

Builds documents of 8 kB to 6 MB out of the texts of a JSONL (by language, by source, repeated, with a needle of emoji)
and judges each against thresholds of 32k to 1M tokens, as a request's only message. Prints for each threshold how the
question was settled, how often the true count lies in the sampled interval, and what the event loop was held for.
"counted": texts so short that a sample would read all of them, so that counting is the cheaper way.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.reading.sizes import NeedsCount
from gateway.core.request.hints import Hints
from gateway.core.request.wire import Envelope, parse
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Tenant
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
        size = int(8_000 * 750 ** chance.random())
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
    inside = sampled = wrong = 0
    settled = {limit: Counter[str]() for limit in THRESHOLDS}
    widths, costs = [], []
    for text in documents(rows, options.documents):
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
        envelope = parse(body.encode())
        true = request(envelope, tokenizers)._sizes.prompt.count_all(name).hi
        true += request(envelope, tokenizers)._sizes.added(name)[1]
        for limit in THRESHOLDS:
            signals = request(envelope, tokenizers)
            start = time.perf_counter()
            try:
                told = signals.exceeds(name, limit)
            except NeedsCount as more:
                costs.append((time.perf_counter() - start) * 1e3)
                told = finished(signals, name, limit, more)
                place = " in a thread"
            else:
                place = ""
                costs.append((time.perf_counter() - start) * 1e3)
            settled[limit][signals.basis(name).removesuffix(": no count was needed") + place] += 1
            wrong += told != (true > limit)
        signals._sizes.prompt._known.clear()
        bounds = signals._sizes.prompt.counted_now(name)
        if not bounds.exact:
            bounds = bounds.plus(*signals._sizes.added(name))
            sampled += 1
            inside += bounds.lo <= true <= bounds.hi
            widths.append((bounds.hi - bounds.lo) / true)
    for limit, counts in settled.items():
        shares = ", ".join(f"{how} {100 * count / options.documents:.1f} %" for how, count in counts.most_common())
        print(f"{limit:9,} tokens: {shares}")
    exact = max(counts["counted in a thread"] for counts in settled.values())
    print(f"exact count of more than a sample reads: {100 * exact / options.documents:.1f} % at most; the aim is <= 3")
    print(f"{options.documents} documents, {sampled} of them sampled; true count inside {100 * inside / sampled:.2f} %")
    print(f"questions {options.documents * len(THRESHOLDS)}, wrong answers {wrong}")
    print(f"interval: median {100 * statistics.median(widths):.1f} % of the count, widest {100 * max(widths):.0f} %")
    costs.sort()
    p99 = costs[len(costs) * 99 // 100]
    print(f"event loop held: median {statistics.median(costs):.2f} ms, 99 % {p99:.1f} ms, worst {costs[-1]:.1f} ms")


def request(envelope: Envelope, tokenizers: Tokenizers) -> Signals:
    return Signals.of(
        envelope,
        tenant=Tenant("bench"),
        hints=Hints(),
        headers={},
        tokenizers=tokenizers,
        lexicon=Lexicon.empty(),
        now=0.0,
        blocking=False,
    )


def finished(signals: Signals, name: str, limit: int, more: NeedsCount) -> bool:
    """The answer, with what a server does in a thread done here."""
    while True:
        more.run()
        try:
            return signals.exceeds(name, limit)
        except NeedsCount as again:
            more = again


if __name__ == "__main__":
    main()
