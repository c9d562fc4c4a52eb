"""`pointsman init`: a working `pointsman.yaml` from flags, questions, the environment's keys or a LiteLLM file.

Here: where a draft comes from and in which order, what is asked of a person, what is printed. Without a terminal
nothing is asked: what is missing is named with the option that says it. No secret is read that is not needed to ask a
server for its models, and none is written.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any

from gateway.addresses import parse_address
from gateway.catalog.catalogue import Catalogue
from gateway.compiled import cache_dir
from gateway.core.errors import ConfigError
from gateway.core.quantities import Invalid
from gateway.fields import name_of
from gateway.init import fromkeys, ownserver
from gateway.init.draft import Draft, Laid, lay, occupied, write
from gateway.init.fromlitellm import convert
from gateway.init.ownserver import Adding, Server
from gateway.init.providers import hosted, incomplete
from gateway.keys.secret import new_key, sha256
from gateway.policyfile import load_catalogue
from gateway.printing import BROKEN, NO, OK, broken, failed, print_json

INTERRUPTED = 130


@dataclass(slots=True)
class Wishes:
    """What the command line says."""

    config: Path = Path("pointsman.yaml")
    servers: list[Server] = field(default_factory=list)
    from_env: bool = False
    from_litellm: Path | None = None
    window: int | None = None  # for models of a LiteLLM file of which nobody says it
    keys: list[str] = field(default_factory=list)  # names of client keys to make
    public: str | None = None
    admin: str | None = None
    force: bool = False
    offline: bool = False
    as_json: bool = False  # and ask nobody


class _Unsettled(Exception):
    """There is nobody to ask, or they said no: the text is for them."""


@dataclass(slots=True)
class Terminal:
    """The person at the other end, if there is one."""

    out: IO[str]
    source: IO[str] | None  # None: nobody is there

    @staticmethod
    def standard() -> Terminal:
        """Standard output, and standard input where both are a terminal."""
        there = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        return Terminal(sys.stdout, sys.stdin if there else None)

    def say(self, text: str = "") -> None:
        """One line."""
        print(text, file=self.out, flush=True)

    def ask(
        self, question: str, option: str, check: Callable[[str], Any], *, default: str = "", needed: bool = True
    ) -> Any:
        """See `ownserver.Asker`."""
        if self.source is None:
            if needed:
                raise Invalid(f"{question}? Nobody is there to be asked", f"say it with {option}")
            return check(default)
        while True:
            self.out.write(f"{question}{f' [{default}]' if default else ''}: ")
            self.out.flush()
            line = self.source.readline()
            if not line:
                raise _Unsettled("the input ended")
            try:
                return check(line.strip() or default)
            except Invalid as error:
                self.say(f"  {error.what}: {error.valid}")

    def agrees(self, question: str) -> bool:
        """Yes, unless they say no; yes where nobody is there."""
        if self.source is None:
            return True
        answer: bool = self.ask(f"{question} (y/n)", "", _yes, default="y", needed=False)
        return answer


def _yes(text: str) -> bool:
    if text.lower() not in ("y", "yes", "n", "no"):
        raise Invalid(f"{text!r:.20} is neither", "y or n")
    return text.lower().startswith("y")


def run(wishes: Wishes, environ: Mapping[str, str], terminal: Terminal | None = None, day: date | None = None) -> int:
    """Write the file: 0; 1 where a person must settle something first; 2 where what was said is wrong."""
    terminal = Terminal(io.StringIO(), None) if wishes.as_json else terminal or Terminal.standard()
    day = day or datetime.now(UTC).date()
    try:
        if wishes.config.is_dir():
            raise Invalid(f"{wishes.config} is a folder", "--config with the name of a file")
        if not wishes.force and (there := occupied({"pointsman.yaml": ""}, wishes.config)):
            raise _Unsettled(f"{there[0]} is there already: --force replaces it, --config FILE writes another")
        catalogue = load_catalogue(cache=cache_dir(environ))
        draft, said = _drafted(wishes, environ, terminal, catalogue, day)
        made = _keys(wishes, draft, terminal)
        _listeners(draft)
        laid = lay(draft, environ, day, wishes.config.parent)
        if not wishes.force and (there := occupied(laid.texts, wishes.config)):
            raise _Unsettled(f"{there[0]} is there already: --force replaces it")
        written = write(laid, wishes.config, force=wishes.force)
    except _Unsettled as reason:
        return failed("init", f"{reason}; nothing was written", as_json=wishes.as_json, code=NO)
    except KeyboardInterrupt:
        print("\npointsman init: stopped; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except Invalid as error:
        return failed("init", error.what, error.valid, as_json=wishes.as_json)
    except ConfigError as error:
        what = "pointsman init: what was said makes no sound configuration; nothing was written"
        if wishes.as_json:
            return broken(error, as_json=True)
        print(f"{error}\n{what}", file=sys.stderr)
        return BROKEN
    except BrokenPipeError:  # `| head`: no file is to blame
        raise
    except OSError as error:
        return failed("init", error, as_json=wishes.as_json)
    remarks = [*(("note", line) for line in said), *_remarks(draft, laid, environ)]
    if wishes.as_json:
        print_json(_as_json(written, laid, remarks, made))
        return OK
    for kind, line in remarks:
        terminal.say(f"{kind}: {line}")
    for target in laid.site.fleet.targets:
        terminal.say(f"target {target.name}: {target.model.id}, {target.window:,} tokens, thinking {target.thinking}")
    for path in written:
        terminal.say(f"wrote {path}")
    for name, key in made.items():
        terminal.say(f"key of {name}, shown only now: {key}")
    terminal.say(f"next: pointsman check, pointsman probe, pointsman serve{_config(wishes.config)}")
    return OK


def _as_json(
    written: Sequence[Path], laid: Laid, remarks: Sequence[tuple[str, str]], made: Mapping[str, str]
) -> dict[str, Any]:
    """What was done as plain values; the keys are nowhere else."""
    return {
        "ok": True,
        "written": [str(path) for path in written],
        "targets": [
            {"target": one.name, "model": one.model.id, "window_tokens": one.window, "thinking": one.thinking}
            for one in laid.site.fleet.targets
        ],
        "notes": [line for kind, line in remarks if kind == "note"],
        "warnings": [line for kind, line in remarks if kind == "warning"],
        "keys": dict(made),
    }


def _config(path: Path) -> str:
    return "" if path == Wishes().config else f" (each with --config {path})"


def _drafted(
    wishes: Wishes, environ: Mapping[str, str], terminal: Terminal, catalogue: Catalogue, day: date
) -> tuple[Draft, list[str]]:
    """The draft, and what should be said of how it came about. Raises Invalid, ConfigError, OSError."""
    draft, said = Draft(), list[str]()
    adding = Adding(draft, catalogue, environ, terminal.ask, wishes.offline, said)
    if wishes.from_litellm is not None:
        said += convert(wishes.from_litellm, catalogue, environ, draft, wishes.window)
    for server in wishes.servers:
        adding.add(server)
    alone = not wishes.servers and wishes.from_litellm is None
    if wishes.from_env or alone:
        with_keys = fromkeys.found(catalogue, environ)
        wanted = [one for one in with_keys if terminal.agrees(f"{one.key_env} is set. Use {one.name}?")]
        fromkeys.add(draft, wanted, catalogue, environ, day)
        said += incomplete(catalogue, environ).values()
        for one in wanted:
            if unknown := fromkeys.windowless(catalogue, one, day):
                what = f"of {one.name} left out, no window known: {', '.join(unknown)}"
                said.append(f"{what}; add the one you want under targets:, with its window:")
            if one.called not in draft.backends:
                what = "nothing that the default policy prefers to what others rent"
                if not any(provider == one.name for _, provider in catalogue.offers):
                    what = "no offers in the catalogue: name its models with --backend and --model"
                said.append(f"{one.key_env} is set, but {one.name} has {what}")
    if alone and terminal.source is not None:
        _ask_for_server(adding, terminal)
    if not draft.targets:
        names = ", ".join(one.key_env for one in hosted(catalogue).values())
        raise Invalid(
            "".join(f"{one}\n" for one in said) + "there is nothing to begin with",
            "one of\n  a server: --backend llama.cpp=http://127.0.0.1:8082/v1 (or vllm=, ollama=, openai=, ...)"
            f"\n  a provider's key in the environment: {names}"
            "\n  a LiteLLM proxy's file: --from-litellm config.yaml",
        )
    for name in ("public", "admin"):
        if getattr(wishes, name) is not None:
            setattr(draft, name, getattr(wishes, name))
    return draft, said


def _ask_for_server(adding: Adding, terminal: Terminal) -> None:
    url = terminal.ask("Address of a model server of your own, such as http://127.0.0.1:8000/v1", "", str, needed=False)
    if url:
        dialect = terminal.ask("What kind of server is it (vllm, llama.cpp, openai, ...)", "", str, default="vllm")
        adding.add(Server(dialect, url))


def _keys(wishes: Wishes, draft: Draft, terminal: Terminal) -> dict[str, str]:
    """Make the clients' keys that were asked for: name -> key. Only their hashes go into the draft."""
    made = {}
    for name in wishes.keys:
        if name in made:
            raise Invalid(f"--key {name} stands there twice", "a name for each key")
        value_of("--key", name, name_of)
        made[name] = new_key()
        draft.keys.append({"name": name, "sha256": sha256(made[name]), "allow": ["*"], "explain": True})
    return made


def _listeners(draft: Draft) -> None:
    """Raise Invalid for addresses that cannot be listened on, in the words of the command line."""
    public = value_of("--public", draft.public, parse_address)
    admin = value_of("--admin", draft.admin, parse_address)
    if not public.loopback and not draft.keys:
        what = f"--public {draft.public}: can be reached from other machines, but there are no keys"
        raise Invalid(what, "--key NAME beside it, or a loopback address")
    if not admin.loopback and draft.admin_key is None:
        what = f"--admin {draft.admin}: can be reached from other machines, but there is no admin_key"
        raise Invalid(what, "a loopback address; in the file both can be said afterwards")


def _remarks(draft: Draft, laid: Laid, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What somebody should know of the configuration that was made: ("note" or "warning", a line)."""
    for warning in laid.site.warnings:
        yield "warning", str(warning)
    for name in draft.references():
        if not environ.get(name):
            yield "note", f"{name} is not set here: set it to the key before the gateway starts"
    through = [name for name, one in draft.backends.items() if one["dialect"] == "litellm"]
    if through:
        what = "litellm in an environment of its own (requirements/litellm.txt), named by sidecar: {python: PATH}"
        yield "note", f"{', '.join(through)} {'is' if len(through) == 1 else 'are'} reached through {what}"
        if {draft.backends[name].get("provider") for name in through} & {"bedrock", "vertex"}:
            yield (
                "note",
                "open models at Bedrock and Vertex AI can be had without it: dialect bedrock or vertex, with auth:",
            )
    now = datetime.now(UTC).timestamp()
    refused = fromkeys.refusal(laid.site.default_policy, laid.site.fleet, now)
    if refused is not None:
        name = laid.site.default_policy.name
        yield "warning", f"policy {name} would refuse a plain request here: {refused}"
        if any(target.thinking == "unknown" for target in laid.site.fleet.targets):
            yield "note", "`pointsman probe --write` finds out whether they think, or say it: --thinking never"


def value_of(option: str, text: str, check: Callable[[str], Any]) -> Any:
    """What an option says, as `check` makes it. Raises Invalid, which names the option."""
    try:
        return check(text)
    except Invalid as error:
        raise Invalid(f"{option}: {error.what}", error.valid) from None


def said(options: list[tuple[str, str]]) -> list[Server]:
    """The servers that a command line names, from its options in order. Raises Invalid.

    An option belongs to the --model before it, else to the --backend.
    """
    servers: list[Server] = []
    for option, value in options:
        if option == "backend":
            dialect, found, url = value.partition("=")
            if not found or not dialect or not url:
                raise Invalid(f"--backend {value!r:.80} is not DIALECT=URL", "llama.cpp=http://127.0.0.1:8082/v1")
            servers.append(Server(dialect, url))
            continue
        if not servers:
            raise Invalid(f"--{option.replace('_', '-')} belongs to no server", "--backend DIALECT=URL before it")
        server = servers[-1]
        if option == "model":
            server.models.append(ownserver.Wanted(value))
        elif option == "key_env":
            server.key_env = value
        else:
            checks: dict[str, Callable[[str], Any]] = {"window": ownserver.tokens, "thinking": ownserver.thinking}
            wanted = server.models[-1] if server.models else server.common
            setattr(wanted, option, value_of(f"--{option}", value, checks.get(option, str)))
    return servers
