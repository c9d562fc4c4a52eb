"""The command `pointsman`: its arguments, what each command prints, and its exit code. What commands do is elsewhere.

Exit codes: 0 it went well; 1 it ran and the answer is no (a test failed, a finding under `--strict`, a request that
would be refused); 2 the command line, the configuration or a policy is broken.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway import __version__, arguments, completion
from gateway.catalog import cli as catalogcli
from gateway.explain import cli as explaincli
from gateway.keys import cli as keyscli
from gateway.ledger import cli as ledgercli
from gateway.printing import BROKEN, NO, OK, broken, failed, print_json
from gateway.replay import cli as replaycli
from gateway.top import cli as topcli

INTERRUPTED, READER_GONE = 130, 141  # what shells say of SIGINT and SIGPIPE
CONFIG = Path("pointsman.yaml")
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
    every = parser()
    if completion.wanted(os.environ):
        completion.answer(every, os.environ)
    if not (sys.argv[1:] if words is None else words):
        every.print_help(sys.stderr)
        return BROKEN
    given = every.parse_args(words)
    code: int = given.run(given)
    return code


def parser() -> argparse.ArgumentParser:
    """All that may stand on a command line."""
    every = arguments.Parser(prog="pointsman", description="Route OpenAI requests by a YAML policy.")
    every.add_argument("--version", action="version", version=f"pointsman {__version__}")
    commands = every.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, says: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=says, description=says)
        made.set_defaults(run=run)
        return made

    one = command("serve", _serve, "Run the gateway.")
    arguments.config(one)
    one.add_argument("--until-eof", action="store_true", help="end when standard input does, for supervisors")

    one = command("demo", _demo, "See it work: a real, small model answers four requests along four routes.")
    one.add_argument("--port", type=arguments.port, default=8080, help="0 takes a free one (default 8080)")
    one.add_argument("--admin-port", type=arguments.port, default=8081, help="0 takes a free one (default 8081)")
    one.add_argument("--once", action="store_true", help="end after the four answers")
    arguments.no_color(one)

    one = command("init", _init, "Write a pointsman.yaml that works: from a server, from keys, or from LiteLLM's file.")
    arguments.config(one, "the file to write (default pointsman.yaml)")
    for option, metavar, says in (
        ("backend", "DIALECT=URL", "a server, such as llama.cpp=http://127.0.0.1:8082/v1; may be given again"),
        ("model", "NAME", "a model of the server before it (default: those it lists)"),
        ("upstream-id", "ID", "what the server calls the model before it"),
        ("window", "TOKENS", "what the server takes, such as 128k (default: what it says of itself)"),
        ("family", "NAME", "of a model that the catalogue does not know: llama, qwen, ..."),
        ("thinking", "WORD", "never, switchable, always or unknown"),
        ("key-env", "VARIABLE", "where the key of the server before it is"),
    ):
        one.add_argument(f"--{option}", action=arguments.Ordered, metavar=metavar, help=says)
    one.add_argument(
        "--from-litellm", type=Path, metavar="FILE", help="a LiteLLM proxy's config.yaml, as far as it goes"
    )
    one.add_argument("--from-env", action="store_true", help="use providers' keys in the environment (the default)")
    one.add_argument("--key", action="append", default=[], metavar="NAME", help="make a client key, print it once")
    one.add_argument("--public", metavar="ADDRESS", help="default 127.0.0.1:8080; beyond loopback needs --key")
    one.add_argument("--admin", metavar="ADDRESS", help="default 127.0.0.1:8081")
    one.add_argument("--offline", action="store_true", help="ask no server for its models and windows")
    one.add_argument("--force", action="store_true", help="replace what is there")
    arguments.as_json(one, "print JSON, and ask nobody anything")

    one = command("top", _top, "Watch a running gateway: targets, rules, tokens, cost and latency, as they are now.")
    arguments.config(one, "whose admin listener is asked (default pointsman.yaml, if there is one)")
    topcli.arguments(one)
    arguments.no_color(one)
    arguments.as_json(one)

    one = command("usage", _usage, "Say what was used and what it cost, from the books on disk.")
    arguments.config(one)
    ledgercli.arguments(one)
    arguments.as_json(one)

    one = command("keys", _keys, "Make, list, replace and take back the keys that clients hold.")
    keyscli.commands(one)

    one = command("sidecar", _sidecar, "Run the litellm process by itself, for a gateway elsewhere.")
    arguments.config(one)
    one.add_argument("--listen", default="127.0.0.1:4000", metavar="HOST:PORT", help="default 127.0.0.1:4000")

    one = command("check", _check, "Judge the configuration and its policies on your fleet, without running them.")
    arguments.config(one)
    one.add_argument("--policy", action="append", default=[], metavar="NAME", help="this one; may be said again")
    where = (
        "your own fleet (default); all that any installation could make of the catalogue; or the reference fleet, "
        "which tests run on"
    )
    one.add_argument("--against", choices=("fleet", "catalogue", "reference"), default="fleet", help=where)
    paths = "policies, parts or folders of them, in place of the configuration's; not against your own fleet"
    one.add_argument("--policies", action="append", default=[], type=Path, metavar="PATH", help=paths)
    one.add_argument("--strict", action="store_true", help="exit with 1 if there is a warning that nobody accepts")
    one.add_argument("--verbose", action="store_true", help="also show what is only good to know (severity info)")
    without = "ask for no keys and packages that only serving needs: for machines that do not serve"
    one.add_argument("--no-keys", action="store_true", help=without)
    arguments.as_json(one)

    one = command("probe", _probe, "Ask each target, with real requests, what it does; show where the file says other.")
    one.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    arguments.config(one)
    one.add_argument("--dry-run", action="store_true", help="say what it would cost at most, and ask nothing")
    one.add_argument("--window", action="store_true", help="send prompts of a whole window, also where they cost money")
    one.add_argument("--write", action="store_true", help="put what differs into the file, in place")
    one.add_argument(
        "--timeout", type=arguments.seconds, default=60.0, metavar="S", help="seconds of silence (default 60)"
    )
    arguments.as_json(one)

    one = command("catalog", _catalog, "List known models and offers, where that is known from, and what you overlay.")
    arguments.config(one, "whose `catalog:` goes over the shipped facts (default pointsman.yaml, if there is one)")
    catalogcli.arguments(one)
    arguments.as_json(one)

    one = command("test", _test, "Run the tests that policies carry, on the reference fleet.")
    one.epilog = "Exit codes: 0 all passed; 1 a test failed, too little is covered, a mutant lives; 2 a file is broken."
    paths = "files or folders (default: the configuration's; without one, those that come with Pointsman)"
    one.add_argument("paths", nargs="*", type=Path, metavar="POLICY", help=paths)
    whose = "whose policies are the default, and whose `catalog:` may name further models (default pointsman.yaml)"
    arguments.config(one, whose)
    one.add_argument("-k", metavar="TEXT", help="only tests whose name holds this")
    one.add_argument("--junit", type=Path, metavar="FILE", help="also write the results as JUnit XML")
    one.add_argument("--coverage", action="store_true", help="show rules, rungs, constraints that no test reaches")
    one.add_argument(
        "--min-coverage", type=arguments.percent, metavar="PERCENT", help="exit with 1 if a file's coverage is less"
    )
    one.add_argument(
        "--mutants", action="store_true", help="change one thing of a policy at a time; show what no test notices"
    )
    one.add_argument(
        "--time-limit", type=arguments.seconds, default=60.0, metavar="S", help="seconds for --mutants (default 60)"
    )
    arguments.as_json(one)

    replaycli.commands(command)

    one = command("explain", _explain, "Say what would become of a request, and why. Nothing is sent.")
    arguments.config(one, "default pointsman.yaml; without one, the reference fleet")
    explaincli.arguments(one)
    arguments.as_json(one)

    one = command("completion", _completion, "Print what a shell must read to complete pointsman's commands and names.")
    one.epilog = (
        "bash and zsh: put `source <(pointsman completion bash)` (or zsh, after compinit) into ~/.bashrc (~/.zshrc). "
        "fish: `pointsman completion fish > ~/.config/fish/completions/pointsman.fish`."
    )
    one.add_argument("shell", choices=completion.SHELLS)

    one = command("help", lambda given: _help(every, " ".join(given.command)), "Say how a command is used.")
    one.add_argument("command", nargs="*", metavar="COMMAND", help="such as serve, or keys create")
    return every


def _config_there(given: Path | None) -> Path | None:
    """The configuration that was named, or the one that is here; None where there is none."""
    return given or (CONFIG if CONFIG.exists() else None)


def _serve(given: argparse.Namespace) -> int:
    from gateway.app import serve

    if given.until_eof:
        import signal

        from gateway.tether import end_with_stdin

        end_with_stdin(lambda: os.kill(os.getpid(), signal.SIGTERM))
    return serve(given.config or CONFIG)


def _demo(given: argparse.Namespace) -> int:
    from gateway.demo.command import run

    return run(given.port, given.admin_port, once=given.once, colour=not given.no_color)


def _top(given: argparse.Namespace) -> int:
    from gateway.core.errors import ConfigError

    try:
        return topcli.run(given, _config_there(None), os.environ)
    except ConfigError as error:
        return broken(error, as_json=given.json)


def _usage(given: argparse.Namespace) -> int:
    from gateway.core.errors import ConfigError

    try:
        return ledgercli.run(given, _config_there(None), os.environ)
    except ConfigError as error:
        return broken(error, as_json=given.json)


def _keys(given: argparse.Namespace) -> int:
    return keyscli.run(given, CONFIG, os.environ)


def _help(every: argparse.ArgumentParser, name: str | None) -> int:
    known = arguments.commands_of(every)
    if name and name not in known:
        every.error(f"there is no command {name[:80]!r}{arguments.near(name, known)}")
    (known[name] if name else every).print_help()
    return OK


def _completion(given: argparse.Namespace) -> int:
    print(completion.script(given.shell))
    return OK


def _init(given: argparse.Namespace) -> int:
    from gateway.core.quantities import Invalid
    from gateway.init.command import Wishes, run, said, value_of
    from gateway.init.ownserver import tokens

    options = getattr(given, "said", [])
    window = None
    try:
        if given.from_litellm is not None and options and options[0][0] == "window":
            window = value_of("--window", options[0][1], tokens)
            options = options[1:]
        servers = said(options)
    except Invalid as error:
        return failed("init", error.what, error.valid, as_json=given.json)
    wishes = Wishes(
        config=given.config or CONFIG,
        servers=servers,
        from_env=given.from_env,
        from_litellm=given.from_litellm,
        window=window,
        keys=given.key,
        public=given.public,
        admin=given.admin,
        force=given.force,
        offline=given.offline,
        as_json=given.json,
    )
    return run(wishes, os.environ)


def _sidecar(given: argparse.Namespace) -> int:
    from gateway.addresses import parse_address
    from gateway.core.quantities import Invalid
    from gateway.sidecar.process import run_alone

    try:
        address = parse_address(given.listen)
    except Invalid as error:
        return failed("sidecar", f"--listen: {error.what}", error.valid)
    return run_alone(given.config or CONFIG, address, os.environ)


def _check(given: argparse.Namespace) -> int:
    from gateway.check.command import Options, check
    from gateway.core.errors import ConfigError

    config = given.config or CONFIG
    options = Options(
        config=config,
        given=given.config is not None,
        policies=given.policy,
        against=given.against,
        secrets=not given.no_keys,
        files=given.policies,
    )
    try:
        checked = check(options, os.environ, time.time())
    except ConfigError as error:
        return broken(error, as_json=given.json)
    ok = not (given.strict and checked.report.wrong)
    if given.json:
        print_json(checked.report.to_dict(ok=ok))
    else:
        for line in checked.report.lines(verbose=given.verbose):
            print(line)
        print(f"{'ok' if ok else 'not ok'}: {checked.summary}")
    return OK if ok else NO


def _probe(given: argparse.Namespace) -> int:
    from gateway.probe.command import Options, run

    options = Options(
        config=given.config or CONFIG,
        targets=given.targets,
        dry_run=given.dry_run,
        as_json=given.json,
        write=given.write,
        window=given.window,
        timeout_s=given.timeout,
    )
    return run(options, os.environ)


def _test(given: argparse.Namespace) -> int:
    from gateway.core.errors import ConfigError
    from gateway.testing.command import Options, run

    options = Options(
        paths=given.paths,
        config=_config_there(given.config),
        as_json=given.json,
        chosen=given.k,
        junit=given.junit,
        coverage=given.coverage,
        min_coverage=given.min_coverage,
        mutants=given.mutants,
        time_limit_s=given.time_limit,
    )
    try:
        return run(options, os.environ)
    except ConfigError as error:
        return broken(error, as_json=given.json)
    except BrokenPipeError:  # `| head`: for `main`
        raise
    except OSError as error:
        return failed("test", error, as_json=given.json)


def _catalog(given: argparse.Namespace) -> int:
    from gateway.core.errors import ConfigError

    try:
        return catalogcli.run(given, CONFIG if CONFIG.exists() else None, os.environ)
    except ConfigError as error:
        return broken(error, as_json=given.json)


def _explain(given: argparse.Namespace) -> int:
    from gateway.core.errors import ConfigError

    try:
        return explaincli.run(given, _config_there(None), os.environ)
    except ConfigError as error:
        return broken(error, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
