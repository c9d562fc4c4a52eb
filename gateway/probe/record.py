"""Putting what a probe saw into `pointsman.yaml`: in place, with the file's comments kept, and only if it still loads.

Editing one file a person wrote; writing a new one is `draft`'s. What a difference is, `probetarget` says.
"""

from __future__ import annotations

import difflib
import io
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core.errors import ConfigError, Problem
from gateway.init.draft import replace_file
from gateway.site import load_site

_WIDE = 4096  # never break a line that a person left whole


def edited(text: str, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """The file's text with settings of targets put in: target -> setting -> value. Raises ConfigError."""
    from ruamel.yaml import YAML  # noqa: PLC0415 - slow to import, and only this needs it
    from ruamel.yaml.util import load_yaml_guess_indent  # noqa: PLC0415

    _, indent, offset = load_yaml_guess_indent(text)
    yaml = YAML()
    yaml.width = _WIDE
    yaml.preserve_quotes = True
    yaml.explicit_start = text.startswith("---")
    if indent is not None:
        yaml.indent(mapping=2, sequence=indent, offset=offset or 0)
    data = yaml.load(text)
    for name, settings in changes.items():
        target = data["targets"][name]
        for setting, value in settings.items():
            target[setting] = _value(value)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _value(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    from ruamel.yaml.comments import CommentedSeq  # noqa: PLC0415

    made = CommentedSeq(value)
    made.fa.set_flow_style()
    return made


def difference(before: str, after: str, name: str) -> str:
    """What changes, as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, f"{name} (probed)", n=1
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def record(config: Path, before: str, after: str, environ: Mapping[str, str]) -> None:
    """Put the new text in the file's place if it loads. Raises ConfigError, and OSError; the file is then as it was.

    It is judged beside the old one, where everything it names is found, and not put in place of a text that somebody
    has changed meanwhile.
    """
    real = config.resolve()  # a link stays a link
    descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.", suffix=".yaml", dir=real.parent)
    trial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(after)
        load_site(trial, environ)
    except ConfigError as error:
        problems = [replace(one, file=one.file.replace(str(trial), str(config))) for one in error.problems]
        raise ConfigError(problems) from None
    finally:
        trial.unlink(missing_ok=True)
    if real.read_text(encoding="utf-8") != before:
        raise ConfigError([Problem(str(config), 0, "", "was changed while the probe ran", "another probe")])
    replace_file(real, after, mode=stat.S_IMODE(real.stat().st_mode), force=True)
