"""What all commands print alike: JSON, and why a command could not do its work.

With `--json` standard output holds exactly one object, whatever happens; its `ok` says whether the exit code is 0. What
is in it besides is each command's own. docs/cli.md tells of it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.core.errors import ConfigError

OK, NO, BROKEN = 0, 1, 2


def print_json(content: Any, out: IO[str] | None = None) -> None:
    """One value, readable by people too."""
    print(json.dumps(content, indent=2, ensure_ascii=False), file=out or sys.stdout)


def broken(error: ConfigError, *, as_json: bool = False, out: IO[str] | None = None) -> int:
    """Tell every problem of the files or arguments, and return the exit code for it."""
    if as_json:
        print_json({"ok": False, "problems": [asdict(problem) for problem in error.problems]}, out)
    else:
        print(error, file=sys.stderr)
        print(f"{len(error.problems)} to put right", file=sys.stderr)
    return BROKEN


def failed(
    command: str,
    what: object,
    valid: str = "",
    *,
    as_json: bool = False,
    code: int = BROKEN,
    out: IO[str] | None = None,
) -> int:
    """Tell why a command stops, where no line of a file is to blame, and return the exit code."""
    if isinstance(what, OSError) and what.filename is not None:
        what = f"{what.filename}: {what.strerror}"
    if as_json:
        problem = {"file": "", "line": 0, "path": "", "what": str(what), "valid": valid}
        print_json({"ok": False, "problems": [problem]}, out)
    else:
        print(f"pointsman {command}: {what}{f': {valid}' if valid else ''}", file=sys.stderr)
    return code
