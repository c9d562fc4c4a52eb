"""What may be written to a terminal: when in colour, how wide text is there, and text that cannot take it over.

Here belong questions about text and terminals that several commands ask. A screen that is drawn over again and again
is `gateway.top.screen`, a bar of progress `gateway.progress`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import IO

from gateway.telemetry.logs import colours_allowed

BOLD, DIM, RED, GREEN = "1", "2", "31", "32"  # ANSI styles


def coloured(out: IO[str], environ: Mapping[str, str], *, wanted: bool = True) -> bool:
    """Whether to write styles: on a terminal that knows them, where neither --no-color nor NO_COLOR is given."""
    return wanted and out.isatty() and colours_allowed(environ)


def styled(text: str, style: str) -> str:
    """Text in an ANSI style; as it is where the style or the text is empty."""
    return f"\x1b[{style}m{text}\x1b[0m" if style and text else text


def safe(text: str) -> str:
    """Text without anything that a terminal would obey or draw out of order: escapes, control and format characters.

    >>> safe("a\\x1b[2Jb")
    'a?[2Jb'
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def width(text: str) -> int:
    """How many columns text takes: two for what East Asian typography calls wide, none for marks that combine."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, columns: int) -> str:
    """As much of a text as fits, ending in `~` where something was left out."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "~" if columns > 0 else ""


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """A text of exactly so many columns."""
    text = cut(text, columns)
    blank = " " * (columns - width(text))
    return blank + text if right else text + blank


def in_columns(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> Iterator[str]:
    """Lines of a table, each column as wide as its widest cell; the cells of the columns `right` end below each other.

    >>> list(in_columns([["KEY", "LEFT"], ["shop", "5"]], right={1}))
    ['KEY   LEFT', 'shop     5']
    """
    safely = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*safely, strict=True)]
    for row in safely:
        cells = (padded(cell, widths[at], right=at in right) for at, cell in enumerate(row))
        yield "  ".join(cells).rstrip()
