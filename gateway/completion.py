"""Completion in bash, zsh and fish: the script for a shell, and what may stand where.

argcomplete (Apache-2.0, no dependency of its own) asks the parser itself, so no command or option can be missing. Here
is what no parser knows: which values are files, and which are names that stand in the configuration or the catalogue.
A shell waits for this at every TAB: files are read with care for time, and whatever is wrong with one, nothing is
offered and nothing is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.arguments import commands_of, valued

#: A configuration of more bytes would take longer to read than somebody who has pressed TAB waits.
MOST_BYTES = 64 << 10


def script(shell: str) -> str:
    """What a shell has to read to complete `pointsman`."""
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - no other command needs it

    return str(shellcode(["pointsman"], shell=shell, complete_arguments=["-o nospace"]))


def answer(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Tell the shell that called what may stand at its cursor, and end the process."""
    import argcomplete  # noqa: PLC0415

    attach(parser, environ)
    argcomplete.autocomplete(parser, always_complete_options=False)


def attach(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Say of every option and argument that takes a value what may stand there."""
    known = commands_of(parser)
    for name, command in known.items():
        for action in valued(command):
            if action.choices is None:
                try:
                    offer = _words(*known) if action.dest == "command" else offers(name, action)
                except LookupError:  # a test forbids it; whoever pressed TAB shall not pay for it
                    offer = _nothing
                action.completer = _Completer(offer, environ)  # type: ignore[attr-defined]


def offers(command: str, action: argparse.Action) -> Offer:
    """What completes a value: what is listed for this command, else for all. Raises LookupError where neither is."""
    for key in (f"{command} {action.dest}", action.dest):
        if key in OFFERS:
            return OFFERS[key]
    raise LookupError(f"{command}: say in gateway/completion.py what completes {action.dest}, or that nothing does")


@dataclass(frozen=True, slots=True)
class Here:
    """The configuration that a command line means, as far as it can be read; and the environment."""

    config: Path
    environ: Mapping[str, str]

    def section(self, name: str) -> Any:
        """A top-level section of the configuration; an empty one where there is none."""
        from gateway import yamlfile  # noqa: PLC0415
        from gateway.compiled import cache_dir  # noqa: PLC0415

        raw = yamlfile.read(self.config)
        if len(raw) > MOST_BYTES:
            return {}
        return yamlfile.parse(raw, str(self.config), cache_dir(self.environ)).data.get(name, {})


Offer = Callable[[Here, str], Iterable[str]]


@dataclass(frozen=True, slots=True)
class _Completer:
    """An offer as argcomplete calls it."""

    offer: Offer
    environ: Mapping[str, str]

    def __call__(self, *, prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        """Whatever is wrong with a file, the shell's line is not the place to say it.

        Somebody else's file must not put a line's end or an escape there either.
        """
        from gateway.core.errors import ConfigError  # noqa: PLC0415

        config = getattr(parsed_args, "config", None) or Path("pointsman.yaml")
        try:
            return [one for one in dict.fromkeys(self.offer(Here(config, self.environ), prefix)) if one.isprintable()]
        except (ConfigError, OSError, ValueError, TypeError, LookupError, AttributeError):
            return []


# --- what there is to offer ---


def _nothing(_here: Here, _prefix: str) -> Iterator[str]:
    """For what only the person knows: texts, numbers, addresses, names that are made up."""
    return iter(())


def _words(*words: str) -> Offer:
    return lambda _here, _prefix: words


def _files(_here: Here, prefix: str) -> Iterator[str]:
    """Files and folders; hidden ones where the prefix begins so, as shells do it."""
    folder, name = os.path.split(prefix)
    for entry in sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda one: one.name):
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            yield os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")


def _targets(here: Here, _prefix: str) -> Iterator[str]:
    yield from here.section("targets")


def _policies(here: Here, _prefix: str) -> Iterator[str]:
    from gateway import bundled  # noqa: PLC0415

    written = here.section("policies").get("dir")
    for path in sorted((here.config.parent / written if written else bundled.policies()).glob("*.yaml")):
        if not path.is_file() or path.stat().st_size > MOST_BYTES:  # a pipe would be waited for
            continue
        if found := re.search(r"^policy: *[\"']?([^\s\"'#]+)", path.read_text("utf-8"), re.M):
            yield found[1]


def _keys(here: Here, _prefix: str) -> Iterator[str]:
    for key in here.section("keys"):
        yield key["name"]


def _made_keys(here: Here, _prefix: str) -> Iterator[str]:
    from gateway import yamlfile  # noqa: PLC0415

    written = here.section("keys_file")
    path = here.config.parent / written if written else here.config.with_name(f"{here.config.stem}.keys.json")
    raw = yamlfile.read(path) if path.exists() else b'{"keys": []}'
    for key in json.loads(raw)["keys"] if len(raw) <= MOST_BYTES else ():
        if "revoked" not in key:
            yield key["name"]


def _every_key(here: Here, prefix: str) -> Iterator[str]:
    yield from _keys(here, prefix)
    yield from _made_keys(here, prefix)


def _teams(here: Here, _prefix: str) -> Iterator[str]:
    for key in here.section("keys"):
        if team := key.get("tenant", {}).get("team"):
            yield team


def _models(here: Here, _prefix: str) -> Iterator[str]:
    """What a client may send as `model`."""
    yield "auto"
    yield from (f"auto/{name}" for name in _policies(here, ""))
    yield from here.section("models")
    yield from _targets(here, "")
    yield from _served(here, "")


def _served(here: Here, _prefix: str) -> Iterator[str]:
    """The models that targets serve."""
    yield from (target["model"] for target in here.section("targets").values())


def _baselines(here: Here, prefix: str) -> Iterator[str]:
    yield from _targets(here, prefix)
    yield from _served(here, prefix)
    yield from _files(here, prefix)


def _in_place_of(here: Here, prefix: str) -> Iterator[str]:
    yield "all"
    yield from _policies(here, prefix)


def _facts(here: Here, _prefix: str) -> Iterator[str]:
    for key in here.section("keys"):
        yield from (f"{name}=" for name in key.get("tenant", {}))


def _headers(_here: Here, _prefix: str) -> Iterator[str]:
    from gateway.core.request.hints import NAMES  # noqa: PLC0415

    return (f"{name}=" for name in NAMES)


def _dialects(_here: Here, _prefix: str) -> Iterator[str]:
    from gateway.core.servers.rows import DIALECTS  # noqa: PLC0415

    return (f"{name}=" for name in DIALECTS)


def _secret_variables(here: Here, _prefix: str) -> Iterator[str]:
    return (name for name in sorted(here.environ) if name.endswith(("_KEY", "_TOKEN")))


def _shipped(section: str) -> Offer:
    """The names of a section of the shipped catalogue. Its files are ours, so lines are enough to find them."""

    def offer(_here: Here, _prefix: str) -> Iterator[str]:
        from gateway import bundled  # noqa: PLC0415

        for path in bundled.catalogue():
            if path.parent.name == "offers":
                continue
            inside = False
            for line in path.read_text("utf-8").splitlines():
                if line[:1] not in ("", " ", "#"):
                    inside = line == f"{section}:"
                elif inside and (found := re.match(r"  ([\w.-]+):", line)):
                    yield found[1]

    return offer


def _families(_here: Here, _prefix: str) -> Iterator[str]:
    from gateway import bundled  # noqa: PLC0415

    for path in bundled.catalogue():
        if path.parent.name == "models":
            yield from re.findall(r"^    family: (\S+)$", path.read_text("utf-8"), re.M)


_THINKING = _words("never", "switchable", "always", "unknown")

#: By "command destination", or by destination for all commands; `_nothing` is for what only the person knows.
OFFERS: Mapping[str, Offer] = {
    "config": _files,
    # names of the configuration
    "targets": _targets,
    "down": _targets,
    "policy": _policies,
    "key": _every_key,
    "team": _teams,
    "command": _nothing,  # `attach` knows them
    "keys create name": _nothing,  # of a key that is yet to be made
    "keys create tenant": _facts,
    "allow": _models,
    "priority": _words("low", "normal", "high", "critical"),
    "by": _every_key,
    "name": _made_keys,
    "keys show name": _every_key,
    "overlap": _words("0", "1h", "24h", "7d"),
    "unset": _words(
        "allow", "budget", "expires", "explain", "max-concurrent", "may-create", "policy", "priority", "rpm", "tenant",
        "tpm",
    ),
    "expires": _words("24h", "30d", "90d", "365d"),
    "model": _models,
    "tenant": _facts,
    "in_place_of": _in_place_of,
    "baseline": _baselines,
    "usage model": _served,
    "usage target": _targets,
    "usage by": _words("day", "key", "model", "policy", "replica", "rule", "shadow", "target", "team", "total"),
    # files
    "dir": _files,
    "replay policy": _files,
    "policies": _files,
    "records": _files,
    "request": _files,
    "paths": _files,
    "junit": _files,
    "overlay": _files,
    "from_litellm": _files,
    # names of the catalogue and of the program
    "catalog model": _shipped("models"),
    "catalog license": _shipped("licenses"),
    "provider": _shipped("providers"),
    "family": _families,
    "thinking": _THINKING,
    "header": _headers,
    "backend": _dialects,
    "init model": _nothing,
    "init key": _nothing,  # the name of a key that is yet to be made
    "key_env": _secret_variables,
    # what only the person knows
    **dict.fromkeys(
        (
            "above", "admin", "admin_port", "budget", "day_zone", "diff", "fits", "interval", "k", "language", "last",
            "limit", "listen", "max_concurrent", "min_coverage", "over", "port", "public", "region", "replica",
            "retiring", "rows", "rpm", "rule", "shadow", "since", "text", "time_limit", "timeout", "tpm", "until",
            "upstream_id", "url", "window",
        ),
        _nothing,
    ),
}  # fmt: skip
