"""Tying a process to the one that started it, by its standard input. For the demo's children and for supervisors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def end_with_stdin(end: Callable[[], object]) -> None:
    """Call `end` in a thread as soon as standard input ends, which it does when whoever holds its other end is gone.

    Unlike a signal this also works when that process was killed.
    """

    def wait() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:  # closed, or a terminal that is not ours to read: no one to be tied to
            return
        end()

    threading.Thread(target=wait, name="tether", daemon=True).start()
