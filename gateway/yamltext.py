"""Plain values as YAML that people like to read and that `yamlfile` reads back as the same values.

For files the gateway writes anew, with comments; a file that a person wrote is edited in place by `proberecord`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Longest line a comment or a flow mapping is kept on.
WIDTH = 120
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*|[0-9]{4}-[0-9]{2}-[0-9]{2}")
#: Words that this or another YAML reader takes for something else than text.
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_UNPRINTABLE = re.compile("[\x7f-\x9f\ud800-\udfff\u2028\u2029\ufeff\ufffe\uffff]")


def scalar(value: str | float | bool | None) -> str:
    """One value.

    >>> scalar("qwen3.5-9b"), scalar("off"), scalar("a: b"), scalar(0.4), scalar(True)
    ('qwen3.5-9b', '"off"', '"a: b"', '0.4', 'true')
    """
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def flow(value: Any) -> str:
    """A value on one line.

    >>> flow({"model": "qwen3.5-9b", "window": 8192, "allow": ["auto", "*"]})
    '{model: qwen3.5-9b, window: 8192, allow: [auto, "*"]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def entry(key: str, value: Any, indent: int = 0, remarks: Iterable[str] = ()) -> str:
    """`key: value` with comments above it: on one line where it fits, else a mapping or list in block style."""
    pad = " " * indent
    head = "".join(comment(remark, indent) for remark in remarks)
    line = f"{pad}{scalar(key)}: {flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, Mapping | list) or not value:
        return f"{head}{line}\n"
    if isinstance(value, Mapping):
        return f"{head}{pad}{scalar(key)}:\n" + "".join(entry(k, v, indent + 2) for k, v in value.items())
    return f"{head}{pad}{scalar(key)}:\n" + "".join(f"{pad}  - {flow(one)}\n" for one in value)


def comment(text: str, indent: int = 0) -> str:
    """Text as comment lines, wrapped. Whatever it holds, it stays a comment."""
    pad = " " * indent + "# "
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            clean = "".join(char if char.isprintable() else "?" for char in word)
            if line and len(pad) + len(line) + 1 + len(clean) > WIDTH:
                lines.append(line)
                line = clean
            else:
                line = f"{line} {clean}".strip()
        lines.append(line)
    return "".join(f"{pad}{line}".rstrip() + "\n" for line in lines)
