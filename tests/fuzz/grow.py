"""Looks for bytes that break what `targets.py` says of a parser: `python tests/fuzz/grow.py sse --minutes 5`.

Needs atheris (`pip install atheris`, not part of any requirements file). It starts from the corpus and writes what it
learns to a directory of its own, named at the end; nothing of that is committed. When it finds something it ends and
names the file: mend the parser, and put the bytes, cut down, into `corpus/<kind>/`, named by what they show.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
with atheris.instrument_imports(include=["gateway"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run one target until the time is over or it fails."""
    parser = argparse.ArgumentParser(description="Look for bytes that break a parser.")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--longest", type=int, default=2048, help="bytes of one input")
    asked = parser.parse_args()
    learnt = Path(tempfile.mkdtemp(prefix=f"fuzz-{asked.target}-"))
    settings = [
        f"-max_total_time={round(asked.minutes * 60)}",
        f"-max_len={asked.longest}",
        f"-artifact_prefix={learnt}/found-",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    print(f"what it learns is in {learnt}", flush=True)
    atheris.Setup([sys.argv[0], *settings, str(learnt), str(HERE / "corpus" / asked.target)], TARGETS[asked.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
