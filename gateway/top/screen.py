"""A terminal that is drawn over again and again, and that is as it was when we are done with it.

Here belong the few control sequences every terminal since the VT100 knows, raw keys, the size, and being suspended
(Ctrl-Z) and ended by a signal without leaving a broken terminal behind. It knows nothing of what is drawn.

Six sequences need no library. curses would do it too, but lays out a screen of its own, from which the lines that are
printed where there is no terminal would have to be made a second time.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import IO, Any, Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no wrapping
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-9;]*[@-~]|O.|.)?")  # what a key sends that is no letter
_HOME, _TO_END_OF_LINE, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """The whole terminal, from `with` to its end. Keys are read only where standard input is a terminal too."""

    def __init__(self, source: IO[str] | None, out: IO[str]) -> None:
        self._out = out
        self._keys: int | None = source.fileno() if source is not None and source.isatty() else None
        self._was: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        handlers = {signal.SIGTSTP: self._suspend, signal.SIGTERM: _end, signal.SIGHUP: _end}
        self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone needs no repair
            self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _enter(self) -> None:
        if self._keys is not None:
            self._was = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _leave(self) -> None:
        self._write(_LEAVE)
        if self._keys is not None and self._was is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._was)

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()  # here we are woken by `fg`

    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        try:
            return os.get_terminal_size(self._out.fileno())
        except OSError:
            return shutil.get_terminal_size()

    def draw(self, lines: Sequence[str]) -> None:
        """Draw over what is there. Lines must be no wider and no more than the screen."""
        self._write(_HOME + f"{_TO_END_OF_LINE}\n".join(lines) + _TO_END_OF_LINE + _TO_END)

    def keys(self, wait_s: float) -> str:
        """What was typed, waiting so long for it at most. Arrows and the like are nothing."""
        watched = [] if self._keys is None else [self._keys]
        if not select.select(watched, [], [], wait_s)[0] or self._keys is None:
            return ""
        typed = os.read(self._keys, 64)
        if not typed:  # the terminal is gone
            raise EOFError
        return _SEQUENCE.sub(b"", typed).decode("ascii", "ignore")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
