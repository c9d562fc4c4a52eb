"""What a replay of a million records takes: CPU seconds on one core, from a file to a told result.

    python -m tests.bench.replay [--records 1000000] [--kept DIRECTORY]

The records are made from requests that differ in text, length, key, members and time, decided by the default policy on
the reference fleet, and replayed by a policy that differs in one rule. Prints what it saw; nothing is asserted.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from gateway import bundled
from gateway.core.policy import compile_policy
from gateway.core.reading.signals import EXPECTED
from gateway.core.recorded import records
from gateway.core.recorded.records import Decided, Recorded, Result, Spoken, World
from gateway.core.recorded.replay import Replay, Undecided
from gateway.core.targets.rank import coarse
from gateway.core.types import Usage
from gateway.policyfile import load_policy, reference_fleet
from gateway.replay.comparison import Comparison
from gateway.replay.reading import Read, Wanted, read
from gateway.replay.telling import lines

_START = 1_795_262_400.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--kept", type=Path, help="write the records here and keep them")
    given = parser.parse_args()
    file = load_policy(bundled.policies() / "default.yaml")
    fleet = reference_fleet()
    serves = file.bind(fleet)
    doc = file.doc.model_copy(update={"rules": [*file.doc.rules[2:]]})
    other = compile_policy(doc, fleet, digest="another", tasks=file.tasks)
    with tempfile.TemporaryDirectory() as scratch:
        path = (given.kept or Path(scratch)) / "records-bench.jsonl"
        write(path, given.records, Replay(serves))
        print(f"{given.records:,} records, {path.stat().st_size / 1e6:,.0f} MB")
        for policy in (serves, other):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            began = time.perf_counter()
            found, told = Comparison(policy), Read()
            for recorded in read([path], Wanted(), told):
                found.add(recorded)
            out = lines(found, told)
            spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            print(f"{spent:6.1f} s CPU, {time.perf_counter() - began:6.1f} s in all, "
                  f"{spent / given.records * 1e6:5.1f} us a record; {found.unchanged:,} unchanged, "
                  f"{found.rerouted:,} rerouted, {sum(found.undecided.values()):,} undecided")  # fmt: skip
        sys.stdout.write("\n".join(out) + "\n")


def write(path: Path, count: int, replay: Replay) -> None:
    """A file of so many records, each decided by the policy of the replay."""
    dice = random.Random(7)
    tasks = ["code", "math", "chitchat", "translation", None, None]
    tongues = ["en"] * 7 + ["de", "ja", "hi"]
    digest = records.fleet_digest(replay.policy.fleet)
    by_name = {target.name: target for target in replay.policy.fleet.targets}
    tokenizers = {target.model.tokenizer or "" for target in replay.policy.fleet.targets} - {""}
    keys, facts = ["checkout", "search", "mobile", "batch"], [{"team": "shop", "domicile": "SG"}, {"team": "data"}]
    with path.open("wb") as out:
        for number in range(count):
            size = min(int(dice.lognormvariate(7, 1.6)) + 60, 80_000)
            counted = dict.fromkeys(tokenizers, (size // 4, size // 4, True))
            tongue = dice.choice(tongues)
            share = round(dice.uniform(0.8, 1.0), 6)
            recorded = Recorded(
                1, f"{number:012x}{dice.getrandbits(80):020x}", _START + number * 0.6, replay.policy.label, digest,
                dice.choice(keys), "auto", World(dice.random()), Decided(), Result(),
                tenant=dice.choice(facts),
                stream=dice.random() < 0.6,
                signals={
                    "language": Spoken({tongue: share}, dice.randrange(20, 900), round(1 - share, 6)),
                    "target_language": None, "task": dice.choice(tasks),
                    "difficulty": dice.choice(["easy", "hard", None]),
                    "modality": ("text",), "images": 0, "tools": dice.random() < 0.1, "structured_output": None,
                    "effort": None, "thinking_hint": None, "max_cost_usd": None,
                    "max_output_tokens": dice.choice([None, None, 256, 1024, 4096]),
                    "cost_sensitive": dice.random() < 0.2, "workload": None, "region": None, "residency": None,
                    "conversation": None, "model_asked": "auto", "parameters": ("messages", "model"),
                },
                tokens={"": (1, size, True), **(counted if size > 3_000 else {})}, text_bytes=size,
            )  # fmt: skip
            recorded.signals["stream"] = recorded.stream
            recorded.signals[EXPECTED] = coarse(size // 4)
            decision = replay.decide(recorded)
            assert not isinstance(decision, Undecided), decision
            recorded.decided = records.decided(decision)
            if decision.candidates:
                target = by_name[decision.candidates[0].name]
                usage = Usage(size // 4, dice.randrange(5, 900))
                recorded.result = Result(
                    200, attempts=1, target=target.name, model=target.model.id, usage=usage,
                    cost_nano=usage.input * 400 + usage.output * 2400, prices="x", first_s=0.4, duration_s=3.1,
                )  # fmt: skip
            else:
                recorded.result = Result(403, "policy_denied")
            out.write(msgspec.json.encode(recorded) + b"\n")


if __name__ == "__main__":
    main()
