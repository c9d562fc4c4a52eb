"""A `pointsman.yaml` in the making, with the files it may need beside it: written whole and sound, or not at all.

Where a draft comes from is in `initialise`, `fromkeys` and `fromlitellm`; here is what it holds, how it reads as YAML,
and the way to the disk: laid out in a folder of its own first, judged there as `pointsman check` judges, then moved.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from gateway import schemas
from gateway.core.errors import ConfigError, Problem
from gateway.site import Site, load_site
from gateway.yamltext import comment, entry, flow

CATALOGUE = "pointsman.models.yaml"
POLICIES = "policies"

_INTRO = """\
Written by `pointsman init` on {day}. It says what there is to route to; what to do with it stands in policies.
Judge it with `pointsman check`, ask every target what it really does with `pointsman probe`, run it with \
`pointsman serve`."""
_LISTEN = "Where it listens. `public` may leave this machine only with keys below, `admin` only with an admin_key."
_POLICY = {
    True: "The policy that `model: auto` means, and the folder of all policies.",
    False: "The policy that `model: auto` means. Without `dir:`, policies are those that come with Pointsman.",
}
_MODELS = "What clients may send as `model`, besides auto, models and targets: name -> auto, policy, model or target."
_BACKENDS = "The servers. Keys are named here and never written here: they are read from the environment at start."
_TARGETS = """\
The models they serve. A window is what that server takes, not what the model's card says; what is left out (id, \
window, price, abilities) comes from the catalogue."""
_KEYS = "Keys of clients, by their SHA-256. A tenant's facts (team, domicile, ...) are what policies match."
_CATALOGUE = """\
Models that the catalogue coming with Pointsman does not know, as far as they were known when this was written. What \
is left out is "not known", never "no"."""


@dataclass(slots=True)
class Draft:
    """Everything a new installation says. Mappings hold plain values in the form of the file."""

    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    unknown_models: dict[str, dict[str, Any]] = field(default_factory=dict)  # for a catalogue file of its own
    policies: dict[str, str] = field(default_factory=dict)  # name -> the text of its file
    default_policy: str = "default"
    keys: list[dict[str, Any]] = field(default_factory=list)
    admin_key: dict[str, str] | None = None
    public: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:8081"
    more: dict[str, Any] = field(default_factory=dict)  # further top-level settings
    remarks: dict[str, list[str]] = field(default_factory=dict)  # path -> comments above it

    def remark(self, path: str, text: str) -> None:
        """Put a comment above an entry, such as `targets.coder`."""
        self.remarks.setdefault(path, []).append(text)

    def texts(self, day: date) -> dict[str, str]:
        """The files by their path relative to the configuration, which itself is `pointsman.yaml`."""
        made = {"pointsman.yaml": self._config(day)}
        if self.unknown_models:
            made[CATALOGUE] = self._catalogue(day)
        made |= {f"{POLICIES}/{name}.yaml": text for name, text in self.policies.items()}
        names = ["pointsman", *(["catalogue"] if self.unknown_models else []), *(["policy"] if self.policies else [])]
        return made | {f"schemas/{name}.json": schemas.text(f"{name}.json") for name in names}

    def references(self) -> tuple[str, ...]:
        """The environment variables that hold its keys."""
        refs = [one.get("key") for one in self.backends.values()] + [self.admin_key]
        return tuple(dict.fromkeys(ref["env"] for ref in refs if ref and "env" in ref))

    def _config(self, day: date) -> str:
        policies = {"dir": POLICIES} if self.policies else {}
        parts = [
            "# yaml-language-server: $schema=schemas/pointsman.json\n#\n" + comment(_INTRO.format(day=day)),
            entry("listen", {"public": self.public, "admin": self.admin}, remarks=[_LISTEN]),
            entry("policies", policies | {"default": self.default_policy}, remarks=[_POLICY[bool(policies)]]),
        ]
        if self.unknown_models:
            parts.append(entry("catalog", CATALOGUE, remarks=["Facts over the catalogue that comes with Pointsman."]))
        if self.models:
            parts.append(self._section("models", _MODELS, self.models))
        parts.append(self._section("backends", _BACKENDS, self.backends))
        parts.append(self._section("targets", _TARGETS, self.targets))
        if self.keys:
            parts.append(comment(_KEYS) + "keys:\n" + "".join(f"  - {flow(key)}\n" for key in self.keys))
        if self.admin_key:
            parts.append(entry("admin_key", self.admin_key))
        parts += [entry(name, value, remarks=self.remarks.get(name, ())) for name, value in self.more.items()]
        return "\n".join(parts)

    def _section(self, name: str, says: str, entries: Mapping[str, Any]) -> str:
        lines = [entry(key, one, 2, self.remarks.get(f"{name}.{key}", ())) for key, one in entries.items()]
        return f"{comment(says)}{name}:\n{''.join(lines)}"

    def _catalogue(self, day: date) -> str:
        head = f"# yaml-language-server: $schema=schemas/catalogue.json\n#\n{comment(_CATALOGUE)}catalogue: 1\n"
        source = {"init": {"as_of": str(day), "kind": "operator", "ref": "said when pointsman init was run"}}
        body = entry("as_of", str(day)) + "\n" + entry("sources", source) + "\nmodels:\n"
        return head + body + "".join(entry(name, one, 2) for name, one in self.unknown_models.items())


@dataclass(frozen=True, slots=True)
class Laid:
    """A draft that loads: the site it makes, and the texts of its files."""

    site: Site
    texts: Mapping[str, str]


def lay(draft: Draft, environ: Mapping[str, str], day: date, directory: Path | None = None) -> Laid:
    """Judge a draft as `pointsman check` would, without looking up keys. Raises `ConfigError`, OSError.

    `directory` is where its files will be, for problems to name; nothing is left there.
    """
    texts = draft.texts(day)
    with tempfile.TemporaryDirectory(prefix="pointsman-init-") as made:
        place = Path(made)
        for name, text in texts.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
        try:
            site = load_site(place / "pointsman.yaml", environ, secrets=False, today=day)
        except ConfigError as error:
            raise ConfigError([_renamed(one, place, directory) for one in error.problems]) from None
    there = "" if directory is None or directory == Path() else f"{directory}/"
    return Laid(replace(site, warnings=tuple(one.replace(f"{place}/", there) for one in site.warnings)), texts)


def _renamed(problem: Problem, place: Path, directory: Path | None) -> Problem:
    """A problem of the file that would have been written, not of the folder it was judged in."""
    file = problem.file.replace(str(place), str(directory or "."))
    return replace(problem, file=file, what=problem.what.replace(f"{place}/", ""))


def occupied(texts: Mapping[str, str], config: Path) -> list[Path]:
    """The files that stand in the way; schemas of any version do not."""
    return [path for path in _paths(texts, config) if path.parent.name != "schemas" and os.path.lexists(path)]


def write(laid: Laid, config: Path, *, force: bool = False) -> list[Path]:
    """Write the files, the configuration last, each whole or not at all. Raises OSError.

    Only its owner may read the configuration: it names the servers and holds the hashes of keys.
    """
    written = []
    paths = _paths(laid.texts, config)
    for (name, text), path in reversed(list(zip(laid.texts.items(), paths, strict=True))):
        if path.parent.name == "schemas" and path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text, mode=0o600 if name == "pointsman.yaml" else 0o644, force=force)
        written.append(path)
    return written[::-1]


def replace_file(path: Path, text: str, *, mode: int, force: bool) -> None:
    """Put a text in a file's place at once. Raises FileExistsError if there is one and `force` is not given."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename it fails where somebody was faster
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _paths(texts: Mapping[str, str], config: Path) -> list[Path]:
    return [config if name == "pointsman.yaml" else config.parent / name for name in texts]
