"""The arguments of `pointsman init`. What it does is `gateway.init.command`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gateway import arguments
from gateway.printing import failed

_OF_A_SERVER = (
    ("backend", "DIALECT=URL", "a server, such as llama.cpp=http://127.0.0.1:8082/v1; may be given again"),
    ("model", "NAME", "a model of the server before it (default: those it lists)"),
    ("upstream-id", "ID", "what the server calls the model before it"),
    ("window", "TOKENS", "what the server takes, such as 128k (default: what it says of itself)"),
    ("family", "NAME", "of a model that the catalogue does not know: llama, qwen, ..."),
    ("thinking", "WORD", "never, switchable, always or unknown"),
    ("key-env", "VARIABLE", "where the key of the server before it is"),
)


def init(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    arguments.config(one, "the file to write (default pointsman.yaml)")
    for option, metavar, says in _OF_A_SERVER:
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


def _run(given: argparse.Namespace) -> int:
    from gateway.core.quantities import Invalid  # noqa: PLC0415 - only what runs is imported
    from gateway.init.command import Wishes, run, said, value_of  # noqa: PLC0415
    from gateway.init.ownserver import tokens  # noqa: PLC0415

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
        config=arguments.config_of(given),
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
