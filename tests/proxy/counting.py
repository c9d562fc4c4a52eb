"""`pointsman serve` on a loop that counts the tasks and futures it makes, and prints the count on SIGUSR1."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

made = {"tasks": 0, "futures": 0}


class Counting(uvloop.Loop):
    """uvloop, counting."""

    def create_task(self, *args: Any, **kwargs: Any) -> Any:
        made["tasks"] += 1
        return super().create_task(*args, **kwargs)

    def create_future(self) -> Any:
        made["futures"] += 1
        return super().create_future()


def main() -> int:
    uvloop.new_event_loop = Counting  # type: ignore[assignment]
    from gateway.app import serve

    signal.signal(signal.SIGUSR1, lambda *_: print(f"made {made['tasks']} tasks {made['futures']} futures", flush=True))
    return serve(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
