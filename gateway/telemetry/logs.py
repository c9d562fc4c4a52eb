"""How the process writes lines: levels, the two forms, what is blotted out, and every line that is not a request's.

One entry is one line in JSON. As text it is one line, too, but for tracebacks and lists, whose further lines begin with
a bar, so that nothing anybody sends can begin an entry. The line of a request is made in `access`, on another path: it
has to cost next to nothing, and holds few texts that it does not know.

Not here: where a line goes in the end. Whoever starts the process hands in descriptors.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal

from gateway.core.recorded.redaction import redacted

Form = Literal["json", "text"]
Level = Literal["info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("info", "warning", "error")
#: Characters of a message, of one line of a list or a traceback, and lines of one entry.
MESSAGE_MAX = 2_000
LINES_MAX = 100
#: Times the characters shown of a text are searched for secrets: what is cut before is no longer known for one.
_LOOKED_AT = 8
#: Exceptions whose texts come from the interpreter or from us. All others may quote what a client sent.
_OURS = (ArithmeticError, AttributeError, ImportError, NameError, OSError, RecursionError, TypeError)
_COLOURS = {"info": b"", "warning": b"\x1b[33m", "error": b"\x1b[31m"}
PLAIN = b"\x1b[0m"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What `log:` in pointsman.yaml says. `slow_s`: seconds to the first event above which a request counts as slow.

    `sample_above`: lines a second of requests about which nothing is remarkable up to which each has one; 0: always.
    """

    form: Literal["auto", "json", "text"] = "auto"
    level: Level = "info"
    requests: Literal["all", "none"] = "all"
    slow_s: float = 30.0
    sample_above: int = 1_000

    def form_of(self, descriptor: int) -> Form:
        """The form on a descriptor: text is for people at a terminal."""
        return self.form if self.form != "auto" else "text" if os.isatty(descriptor) else "json"


def coloured(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether text there may be coloured: on a terminal that can, where nobody asked for none (no-color.org)."""
    return os.isatty(descriptor) and colours_allowed(environ)


def colours_allowed(environ: Mapping[str, str]) -> bool:
    """Whether a terminal here knows colours and nobody asked for none: NO_COLOR counts where it is not empty."""
    return environ.get("TERM") != "dumb" and not environ.get("NO_COLOR")


def colour(line: bytes, level: Level) -> bytes:
    """A line with its end in the colour of its level; that of what is as it should be is the terminal's own."""
    begin = _COLOURS[level]
    return begin + line[:-1] + PLAIN + b"\n" if begin else line


def printable(text: str, limit: int = 128) -> str:
    r"""The text with everything that could move a terminal's cursor, end a line or turn reading order escaped.

    JSON escapes C0 only; C1 controls, U+2028 and bidirectional marks would go through. What is escaped is no longer
    than `limit` either.

    >>> printable("a\x9b31m\u202eb")
    'a\\x9b31m\\u202eb'
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )
    return text if len(text) <= limit + 3 else text[:limit] + "..."


def outside(text: str, limit: int = 128) -> str:
    """A text from outside as a line may hold it: printable, cut, and without what looks like a secret."""
    return printable(redacted(text[: _LOOKED_AT * limit]), limit)


def moment(wall: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(wall % 1 * 1000):03d}Z"


def writer(descriptor: int) -> Callable[[bytes], int]:
    """A `write` that never waits: raises BlockingIOError when a pipe's reader has stopped reading.

    A pipe takes `PIPE_BUF` bytes at once or says that it is full; a descriptor that others share is not made
    non-blocking for our sake. Files take everything, and what was closed before we began nothing.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return _nobody
    if stat.S_ISREG(found.st_mode) or found.st_rdev == os.makedev(1, 3):  # /dev/null
        return partial(os.write, descriptor)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(lines: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        end = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1  # whole lines, or the next one would begin inside this one
        return os.write(descriptor, lines[: end or select.PIPE_BUF])

    return write


def _nobody(_: bytes) -> int:
    raise BrokenPipeError


class Lines(logging.Formatter):
    """Makes an entry of a `logging` record, with its end."""

    def __init__(self, form: Form, secrets: Callable[[], Iterable[str]] = tuple) -> None:
        super().__init__()
        self.form = form
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """One entry. An attribute `request_id` joins it to its request, `lines` are a list that belongs to it."""
        secrets = tuple(self._secrets())

        def clean(text: str) -> str:
            return printable(redacted(text[: _LOOKED_AT * MESSAGE_MAX], secrets), MESSAGE_MAX)

        told: dict[str, Any] = {"time": moment(record.created), "level": level_of(record.levelno)}
        if record.name != "pointsman":
            told["logger"] = record.name
        told["message"] = clean(record.getMessage().strip())
        for name in ("request_id", *FIELDS):
            value = getattr(record, name, None)
            if value not in (None, ""):
                told[name] = clean(value) if isinstance(value, str) else value
        lines = [clean(str(line)) for line in getattr(record, "lines", ())][:LINES_MAX]
        if record.exc_info and record.exc_info[1] is not None:
            told["error"] = type(record.exc_info[1]).__name__
            lines += [clean(line) for line in frames(record.exc_info[1])][-LINES_MAX:]
        if self.form == "json":
            return json.dumps(told | ({"lines": lines} if lines else {}), ensure_ascii=False) + "\n"
        return text_of(told) + "".join(f"\n  | {line}" for line in lines) + "\n"


#: Further fields that an entry may have: of requests that the control plane refused.
FIELDS = ("status", "code", "method", "path")


def text_of(told: Mapping[str, Any]) -> str:
    """An entry for people: time, level, message, and the rest by name."""
    rest = [f"{name}={word(str(value))}" for name, value in told.items() if name not in ("time", "level", "message")]
    return " ".join([told["time"], told["level"].upper(), told["message"], *rest])


def word(text: str) -> str:
    """A text that may come from outside, as one word: quoted where it could be read as more than its field's value."""
    return text if _plain(text) else json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(char in text for char in " \"'=\\")


def level_of(number: int) -> Level:
    """The level of a `logging` entry: one of ours."""
    return "error" if number >= logging.ERROR else "warning" if number >= logging.WARNING else "info"


def frames(error: BaseException) -> list[str]:
    """A traceback by lines. Where its text may quote a request, only the kind of the error is told."""
    found = traceback.TracebackException.from_exception(error, limit=-30, compact=True)
    out = ["Traceback (most recent call last):", *"".join(found.stack.format()).splitlines()]
    told = str(error) if isinstance(error, _OURS) else f"({len(str(error))} characters, which may be a client's)"
    return [*out, f"{type(error).__module__}.{type(error).__name__}: {told}"]


class Handler(logging.Handler):
    """Entries of the whole process on one descriptor. What cannot be written is lost and counted: nothing waits."""

    def __init__(self, descriptor: int, environ: Mapping[str, str]) -> None:
        super().__init__()
        self.written = 0
        self.lost = 0
        self.left_out = 0  # nothing ever is
        self.secrets: Callable[[], Iterable[str]] = tuple  # asked for anew for every entry
        self._descriptor = descriptor
        self._write = writer(descriptor)
        self._colours = coloured(descriptor, environ)
        self.adopt(LogSettings())

    def adopt(self, settings: LogSettings) -> None:
        """Write as these settings say from now on."""
        self.setFormatter(Lines(settings.form_of(self._descriptor), lambda: self.secrets()))
        self.setLevel(settings.level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        """`logging`'s callback. Raises nothing."""
        try:
            text = self.format(record)
            rest = text.encode("utf-8", "backslashreplace")
            if self._colours and not text.startswith("{"):
                rest = colour(rest, level_of(record.levelno))
            while rest:
                rest = rest[self._write(rest) :]
            self.written += 1
        except Exception:
            self.lost += 1


def install(handler: logging.Handler) -> None:
    """Send everything that this process has to say through one handler: ours, libraries' and the interpreter's.

    Libraries speak from warnings on: what they tell at `info`, such as each URL that was fetched, is nobody's business.
    """
    root = logging.getLogger()
    for one in list(root.handlers):
        root.removeHandler(one)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("pointsman").setLevel(logging.INFO)
    logging.captureWarnings(True)
    logger = logging.getLogger("pointsman")

    def in_thread(given: threading.ExceptHookArgs) -> None:
        name = "" if given.thread is None else given.thread.name
        if given.exc_value is not None:
            logger.error("the thread %s ended by an error", name, exc_info=given.exc_value)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        logger.error("the process ends by an error", exc_info=error)

    def unraisable(given: Any) -> None:
        logger.error("an error that nobody could be told", exc_info=given.exc_value)

    threading.excepthook = in_thread
    sys.excepthook = uncaught
    sys.unraisablehook = unraisable


def in_loop(_: Any, context: Mapping[str, Any]) -> None:
    """An event loop's handler of errors that nobody awaits. What its context shows of arguments stays untold."""
    with contextlib.suppress(Exception):
        logging.getLogger("asyncio").error("%s", context.get("message", ""), exc_info=context.get("exception"))
