"""`pointsman top`: watches gateways and shows what they do, on a screen, line by line, or as JSON.

Here belong which gateways are meant, which of the three ways of showing it is taken, and the exit code. On a terminal
the screen is drawn over until q is pressed; anywhere else a plain table, or with --json an object on one line, is
printed once per interval, or only once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from gateway import configfile
from gateway.admin import KEY_VARIABLE, key_of, url_in, url_of, url_said
from gateway.compiled import cache_dir
from gateway.config import ListenDoc
from gateway.terminal import DIM, coloured
from gateway.top.cli import SORT_KEYS
from gateway.top.screen import Screen
from gateway.top.table import Line, lines, text
from gateway.top.view import View, ordered
from gateway.top.watch import REFUSED, Watch

OK, NO, BROKEN, INTERRUPTED = 0, 1, 2, 130
_TICK_S = 0.2  # how soon a resized terminal is drawn again


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `config` was named, `beside` is one that happens to be here."""

    config: Path | None = None
    beside: Path | None = None
    urls: Sequence[str] = ()
    interval_s: float = 2.0
    over_s: float = 30.0
    once: bool = False
    as_json: bool = False
    sort: str = "requests"
    colour: bool = True


def run(options: Options, environ: Mapping[str, str], out: IO[str] | None = None) -> int:
    """Watch until told to end. Raises `ConfigError`."""
    out = out or sys.stdout
    urls, key = _whom(options, environ)
    watch = Watch(urls, key, options.over_s)
    colour = coloured(out, environ, wanted=options.colour)
    if options.as_json or options.once or not out.isatty() or environ.get("TERM", "dumb") == "dumb":
        return _print_on(watch, options, out, colour=colour)
    with Screen(sys.stdin, out) as screen:
        return _draw_on(watch, options, screen, colour=colour)


def _whom(options: Options, environ: Mapping[str, str]) -> tuple[list[str], str | None]:
    """The admin listeners to ask, and the key for them. Raises `ConfigError`.

    The configuration's key goes to its own listener, and to other addresses only where it was named together with
    them: a file that happens to lie here must not give its key away.
    """
    urls = [*map(url_said, options.urls)]
    config = options.config or (None if urls else options.beside)
    if config is None:
        return urls or [url_of(ListenDoc().admin)], environ.get(KEY_VARIABLE)
    _, doc = configfile.read(config, cache=cache_dir(environ))
    return urls or [url_in(doc, config)], environ.get(KEY_VARIABLE) or key_of(doc, environ, config.parent)


def _print_on(watch: Watch, options: Options, out: IO[str], *, colour: bool) -> int:
    """Print a table or an object per interval; of --once, after two answers."""
    watch.ask()
    while True:
        if not options.once or any(one.error is None for one in watch.gateways):
            time.sleep(options.interval_s)
            watch.ask()
        shown = watch.view()
        if options.as_json:
            print(
                json.dumps(as_json(shown, options.sort)), file=out, flush=True
            )  # ASCII: names cannot act on a terminal
        else:
            _print_table(shown, options, out, colour=colour)
        if options.once:
            return OK if all(row.up for row in shown.gateways) else NO


def _print_table(shown: View, options: Options, out: IO[str], *, colour: bool) -> None:
    if options.once and not any(row.up for row in shown.gateways):  # a table of nothing helps nobody
        for row in shown.gateways:
            hint = ": start the gateway, or name its admin listener with --url" if row.error == REFUSED else ""
            print(f"pointsman top: {row.url}: {row.error}{hint}", file=sys.stderr)
        return
    columns = os.get_terminal_size(out.fileno()).columns if out.isatty() else None
    made = [text(line, colour=colour) for line in lines(shown, sort=options.sort, columns=columns)]
    print(*made, *([] if options.once else [""]), sep="\n", file=out, flush=True)


def _draw_on(watch: Watch, options: Options, screen: Screen, *, colour: bool) -> int:
    """Draw until q. Asking is done in a thread, so that a gateway that hangs does not hold up the keys."""
    answers: queue.SimpleQueue[View] = queue.SimpleQueue()

    def ask() -> None:
        while True:
            began = time.monotonic()
            watch.ask()
            answers.put(watch.view())
            time.sleep(max(0.0, options.interval_s - (time.monotonic() - began)))

    threading.Thread(target=ask, daemon=True).start()
    shown, sort, drawn = watch.view(), options.sort, None
    while True:
        while not answers.empty():
            shown = answers.get()
        if (now := (shown, sort, screen.size())) != drawn:
            screen.draw([text(line, colour=colour) for line in _screenful(shown, sort, *screen.size())])
            drawn = now
        try:
            typed = screen.keys(_TICK_S)
        except EOFError:
            return OK
        except KeyboardInterrupt:
            return INTERRUPTED
        if "q" in typed:
            return OK
        sort = next((name for name, key in SORT_KEYS.items() if key in typed), sort)


def _screenful(shown: View, sort: str, columns: int, rows: int) -> list[Line]:
    """What fits on the screen, the keys in its last row."""
    keys = "  ".join(f"{key} {name}" for name, key in SORT_KEYS.items() if name != sort)
    foot: Line = [(f"q quit  sorted by {sort}: {keys}"[:columns], DIM)]
    if rows < 4:
        return lines(shown, sort=sort, columns=columns, rows=rows)
    made = lines(shown, sort=sort, columns=columns, rows=rows - 1)
    return [*made, *([] for _ in range(rows - 1 - len(made))), foot]


def as_json(shown: View, sort: str) -> dict[str, Any]:
    """One refresh as plain values, see docs/cli.md."""
    targets, rules = ordered(shown, sort)
    return {
        "ok": all(row.up for row in shown.gateways),
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "gateways": [asdict(row) for row in shown.gateways],
        "totals": asdict(shown.totals),
        "targets": [asdict(row) for row in targets],
        "rules": [asdict(row) for row in rules],
    }
