"""The command `pointsman`: which commands there are, and the exit code. What one takes is the module `cli` beside it.

Exit codes: 0 it went well; 1 it ran and the answer is no (a test failed, a finding under `--strict`, a request that
would be refused); 2 the command line, the configuration or a policy is broken.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from gateway import __version__, arguments
from gateway.printing import BROKEN, OK, broken, failed

if TYPE_CHECKING:
    from gateway.core.errors import ConfigError

INTERRUPTED, READER_GONE = 130, 141  # what shells say of SIGINT and SIGPIPE
SHELLS = ("bash", "zsh", "fish")
_CANNOT_PRINT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Ctrl-C and a reader that went away end it without a word."""
    try:
        try:
            return _run(words)
        finally:  # also after --help, which ends with SystemExit; at the interpreter's own end it would be too late
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stderr is not None and sys.stderr.isatty():
            print(file=sys.stderr)  # the shell's prompt does not belong behind ^C
        return INTERRUPTED
    except BrokenPipeError:  # `pointsman explain ... | head`
        _print_nowhere()
        return READER_GONE
    except OSError as error:
        if error.errno not in _CANNOT_PRINT or error.filename is not None:
            raise
        _print_nowhere()
        print(f"pointsman: cannot print: {error.strerror}", file=sys.stderr)
        return BROKEN


def _print_nowhere() -> None:
    """What is still buffered would fail once more when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: Sequence[str] | None) -> int:
    words = sys.argv[1:] if words is None else words
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may stand at its cursor
        from gateway import completion

        completion.answer(parser(), os.environ)
    if not words:
        parser().print_help(sys.stderr)
        return BROKEN
    every = parser(words[0])
    if words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        every.error(f"{words[0]} means nothing here: options stand behind the command, as in pointsman check --json")
    given = every.parse_args(words)
    try:
        code: int = given.run(given)
    except _config_error() as error:
        return broken(error, as_json=getattr(given, "json", False))
    return code


def _config_error() -> type[ConfigError]:
    """Imported where something went wrong: `pointsman help` need not wait for it."""
    from gateway.core.errors import ConfigError

    return ConfigError


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """All that may stand on a command line; with the name of a command, only what may stand behind that."""
    every = arguments.Parser(prog="pointsman", description="Route OpenAI requests by a YAML policy.")
    every.add_argument("--version", action="version", version=f"pointsman {__version__}")
    commands = every.add_subparsers(title="commands", required=True, metavar="COMMAND")
    known = any(name == only for name, _, _ in COMMANDS)
    for name, says, add in COMMANDS:
        if name == only or not known:
            add(commands.add_parser(name, help=says, description=says))
    return every


def _beside(module: str, name: str) -> Callable[[argparse.ArgumentParser], None]:
    """What adds a command's arguments, from a module that is imported where that command is meant."""

    def add(one: argparse.ArgumentParser) -> None:
        getattr(import_module(module), name)(one)

    return add


# --- commands that take next to nothing ---


def _serve(one: argparse.ArgumentParser) -> None:
    arguments.config(one)
    one.add_argument("--until-eof", action="store_true", help="end when standard input does, for supervisors")

    def run(given: argparse.Namespace) -> int:
        from gateway.app import serve

        if given.until_eof:
            import signal

            from gateway.tether import end_with_stdin

            end_with_stdin(lambda: os.kill(os.getpid(), signal.SIGTERM))
        return serve(arguments.config_of(given))

    one.set_defaults(run=run)


def _demo(one: argparse.ArgumentParser) -> None:
    one.add_argument("--port", type=arguments.port, default=8080, metavar="N", help="0 takes a free one (default 8080)")
    one.add_argument(
        "--admin-port", type=arguments.port, default=8081, metavar="N", help="0 takes a free one (default 8081)"
    )
    one.add_argument("--once", action="store_true", help="end after the four answers")
    arguments.no_color(one)

    def run(given: argparse.Namespace) -> int:
        from gateway.demo.command import run

        return run(given.port, given.admin_port, once=given.once, colour=not given.no_color)

    one.set_defaults(run=run)


def _sidecar(one: argparse.ArgumentParser) -> None:
    arguments.config(one)
    one.add_argument("--listen", default="127.0.0.1:4000", metavar="HOST:PORT", help="default 127.0.0.1:4000")

    def run(given: argparse.Namespace) -> int:
        from gateway.addresses import parse_address
        from gateway.core.quantities import Invalid
        from gateway.sidecar.process import run_alone

        try:
            address = parse_address(given.listen)
        except Invalid as error:
            return failed("sidecar", f"--listen: {error.what}", error.valid)
        return run_alone(arguments.config_of(given), address, os.environ)

    one.set_defaults(run=run)


def _completion(one: argparse.ArgumentParser) -> None:
    one.epilog = (
        "bash and zsh: put `source <(pointsman completion bash)` (or zsh, after compinit) into ~/.bashrc (~/.zshrc). "
        "fish: `pointsman completion fish > ~/.config/fish/completions/pointsman.fish`."
    )
    one.add_argument("shell", choices=SHELLS)

    def run(given: argparse.Namespace) -> int:
        from gateway import completion

        print(completion.script(given.shell))
        return OK

    one.set_defaults(run=run)


def _help(one: argparse.ArgumentParser) -> None:
    one.add_argument("command", nargs="*", metavar="COMMAND", help="such as serve, or keys create")

    def run(given: argparse.Namespace) -> int:
        every, name = parser(), " ".join(given.command)
        known = arguments.commands_of(every)
        if name and name not in known:
            every.error(f"there is no command {name[:80]!r}{arguments.near(name, known)}")
        (known[name] if name else every).print_help()
        return OK

    one.set_defaults(run=run)


#: Name, what it does, and what adds its arguments, in the order of the help.
COMMANDS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("serve", "Run the gateway.", _serve),
    ("demo", "See it work: a real, small model answers four requests along four routes.", _demo),
    (
        "init",
        "Write a pointsman.yaml that works: from a server, from keys, or from LiteLLM's file.",
        _beside("gateway.init.cli", "init"),
    ),
    (
        "top",
        "Watch a running gateway: targets, rules, tokens, cost and latency, as they are now.",
        _beside("gateway.top.cli", "top"),
    ),
    ("usage", "Say what was used and what it cost, from the books on disk.", _beside("gateway.ledger.cli", "usage")),
    ("keys", "Make, list, replace and take back the keys that clients hold.", _beside("gateway.keys.cli", "keys")),
    ("sidecar", "Run the litellm process by itself, for a gateway elsewhere.", _sidecar),
    (
        "check",
        "Judge the configuration and its policies on your fleet, without running them.",
        _beside("gateway.check.cli", "check"),
    ),
    (
        "probe",
        "Ask each target, with real requests, what it does; show where the file says other.",
        _beside("gateway.probe.cli", "probe"),
    ),
    (
        "catalog",
        "List known models and offers, where that is known from, and what you overlay.",
        _beside("gateway.catalog.cli", "catalog"),
    ),
    ("test", "Run the tests that policies carry, on the reference fleet.", _beside("gateway.testing.cli", "test")),
    (
        "replay",
        "Decide recorded requests by another policy: what changes, and what that costs.",
        _beside("gateway.replay.cli", "replay"),
    ),
    (
        "savings",
        "Compare what recorded requests cost with what a baseline would have cost.",
        _beside("gateway.replay.cli", "savings"),
    ),
    (
        "explain",
        "Say what would become of a request, and why. Nothing is sent.",
        _beside("gateway.explain.cli", "explain"),
    ),
    ("completion", "Print what a shell must read to complete pointsman's commands and names.", _completion),
    ("help", "Say how a command is used.", _help),
)


if __name__ == "__main__":
    sys.exit(main())
