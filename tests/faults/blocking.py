"""`pointsman serve` whose event loop sleeps for two seconds on SIGUSR1, as a call that blocks would."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop


def sleep_on_purpose() -> None:
    time.sleep(2)


class Blocked(uvloop.Loop):
    """uvloop, with that signal."""

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.add_signal_handler(signal.SIGUSR1, sleep_on_purpose)
        return super().call_later(*args, **kwargs)


def main() -> int:
    uvloop.new_event_loop = Blocked  # type: ignore[assignment]
    from gateway.app import serve

    return serve(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
