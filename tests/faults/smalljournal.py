"""`pointsman serve` whose journals are 4 KB long, so that one is full after a dozen requests."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path


def main() -> int:
    from gateway.app import serve
    from gateway.ledger import ledger

    ledger.Journal = partial(ledger.Journal, room=4_096)  # type: ignore[misc, assignment]
    return serve(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
