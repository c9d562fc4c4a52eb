"""What all commands' arguments share: the parser, the options several commands have, and the types of values.

Here belongs how a command line is read and what is said of one that means nothing. Which commands there are is
`gateway.cli`; what one takes is the module `cli` beside it. Light: nothing may be imported here or there that
`pointsman --help` would wait for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Number = TypeVar("Number", int, float)
#: The configuration where none is named.
CONFIG = Path("pointsman.yaml")


class Parser(argparse.ArgumentParser):
    """argparse's, but options are not guessed from their first letters, and what is mistyped is told with what is near.

    A script that says `--js` would mean something else, or nothing, as soon as another option begins so.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **named: Any) -> None:
        super().__init__(prog, description=description, **(named | {"allow_abbrev": False}))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # typeshed has overloads for it
        """As argparse's; but a command refuses itself what it does not know, with its own usage."""
        self._words: list[str] = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            said = unknown[0].partition("=")[0]
            meant = near(said, self._option_string_actions) if said.startswith("-") else ""
            self.error(f"{' '.join(unknown)} means nothing here{meant}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        meant = near(value, names) or ": one of " + ", ".join(names)
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f"there is no command {str(value)[:80]!r}{meant}")
        raise argparse.ArgumentError(action, f"{str(value)[:80]!r} means nothing here{meant}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and usage. argparse's own swallows what a disk or pipe says (CPython from 3.11.3 on)."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Say how the command is used, what is wrong, and where all of it is told; exit with 2."""
        if message.endswith(" required") or " are required: " in message:  # perhaps there, but mistyped
            said = [word.partition("=")[0] for word in getattr(self, "_words", ()) if word.startswith("--")]
            for word in said:
                meant = near(word, self._option_string_actions)
                if word not in self._option_string_actions and meant:
                    message = f"{word} means nothing here{meant}"
                    break
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\nAll there is: {self.prog} --help\n")


def near(word: object, names: Iterable[str]) -> str:
    """`: did you mean ...?` where something is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - only where something is wrong

    found = get_close_matches(str(word)[:80], list(names), n=2, cutoff=0.6)
    return f": did you mean {' or '.join(found)}?" if found else ""


class Ordered(argparse.Action):
    """Keeps options that belong to one before them in the order they were given."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: Any = None) -> None:
        """Note one option."""
        namespace.said = [*getattr(namespace, "said", ()), (self.dest, values)]


# --- options that several commands have ---


def config(parser: argparse.ArgumentParser, says: str = "default pointsman.yaml") -> None:
    """`--config FILE`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=says)


def config_of(given: argparse.Namespace) -> Path:
    """The configuration that was named, else the usual one."""
    named: Path | None = given.config
    return named or CONFIG


def config_there(given: argparse.Namespace) -> Path | None:
    """The configuration that was named, else the one that is here; None where there is none."""
    named: Path | None = given.config
    return named or (CONFIG if CONFIG.exists() else None)


def as_json(parser: argparse.ArgumentParser, says: str = "print JSON") -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=says)


def no_color(parser: argparse.ArgumentParser) -> None:
    """`--no-color`."""
    parser.add_argument("--no-color", action="store_true", help="write no colours, as with NO_COLOR in the environment")


# --- types of values ---


def _number(text: str, kind: type[Number], why_not: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} {why_not}") from None


def port(text: str) -> int:
    """A port to listen on; 0 is a free one."""
    number = _number(text, int, "is no port: 0 to 65535")
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is no port: 0 to 65535")
    return number


def seconds(text: str) -> float:
    """A time, up to an hour."""
    number = _number(text, float, "is no number of seconds, such as 2.5")
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is out of range: more than 0, at most 3600")
    return number


def percent(text: str) -> float:
    """0 to 100, with or without the sign."""
    number = _number(text.removesuffix("%"), float, "is no percentage: 0 to 100")
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is out of range: 0 to 100")
    return number


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = _number(text, int, "is no whole number")
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range: at least 1")
    return number


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name; those of commands within commands by both words."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found[name] = inner
                found |= {f"{name} {below}": one for below, one in commands_of(inner).items()}
    return found


def valued(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """The options and arguments of a parser that take a value."""
    return [
        action
        for action in parser._actions
        if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
    ]
