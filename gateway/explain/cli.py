"""The arguments of `pointsman explain`, and the request they make. Light.

Explaining is done by `gateway.explain.request`, comparing by `gateway.diff`; both are imported when they run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway import arguments
from gateway.printing import NO, OK, failed, print_json
from gateway.progress import waiting

if TYPE_CHECKING:
    from gateway.core.types import Tenant
    from gateway.site import Site


def explain(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    one.epilog = (
        "Exit codes: 0 it would be served, 1 it would be refused, 2 something is broken. "
        "With --diff: 0 it was told, 1 a test fails now, 2 the policies do not load or there is no such revision."
    )
    arguments.config(one, "default pointsman.yaml; without one, the reference fleet")
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="what the user says")
    what.add_argument("--request", metavar="FILE", help="the JSON body of a chat request; - reads standard input")
    what.add_argument("--diff", metavar="REV", help="tell what the policies here change against a git revision")
    one.add_argument("--model", help="`model` of the request made from --text (default auto)")
    one.add_argument("--policy", help="as a client's x-pointsman-policy")
    for option, metavar, says in (("header", "NAME=VALUE", "a header"), ("tenant", "FACT=VALUE", "a tenant's fact")):
        one.add_argument(f"--{option}", action="append", default=[], type=_pair, metavar=metavar, help=says)
    one.add_argument("--key", metavar="NAME", help="explain for the key of this name: its facts and what it may use")
    one.add_argument("--down", action="append", default=[], metavar="TARGET", help="as if health held it back")
    for option, says in (
        ("policies", "with --diff: a policy, or a folder of them (default: the configuration's, else policies/)"),
        ("records", "with --diff: decision records, or a folder of them, to decide by both versions"),
    ):
        one.add_argument(f"--{option}", action="append", default=[], type=Path, metavar="PATH", help=says)
    arguments.as_json(one)


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _run(given: argparse.Namespace) -> int:
    config = arguments.config_there(given)
    _refuse_idle(given)
    if given.diff is not None:
        from gateway.diff.command import Options  # noqa: PLC0415 - only what runs is imported
        from gateway.diff.command import run as compare  # noqa: PLC0415

        return compare(Options(given.diff, given.policies, config, given.records, given.json), os.environ)
    try:
        return _explain(given, config, os.environ)
    except BrokenPipeError:  # `| head`: no file is to blame
        raise
    except (LookupError, OSError) as error:
        return failed("explain", error, as_json=given.json)


def _refuse_idle(given: argparse.Namespace) -> None:
    """Raise `ConfigError` for an option that would say nothing beside the others."""
    from gateway.core.errors import ConfigError, Problem  # noqa: PLC0415

    idle = {
        "--diff": () if given.diff is not None else ("policies", "records"),
        "--text or --request": () if given.diff is None else ("policy", "header", "tenant", "key", "down"),
        "--text": () if given.text is not None else ("model",),
    }
    found = [
        Problem(f"--{name}", 0, "", "means nothing here", f"it goes with {others}")
        for others, names in idle.items()
        for name in names
        if getattr(given, name)
    ]
    if found:
        raise ConfigError(found)


def _explain(given: argparse.Namespace, config: Path | None, environ: Mapping[str, str]) -> int:
    from gateway.compiled import cache_dir  # noqa: PLC0415
    from gateway.core.decisions.tracetext import render  # noqa: PLC0415
    from gateway.core.errors import GatewayError, to_openai  # noqa: PLC0415
    from gateway.explain import money  # noqa: PLC0415
    from gateway.explain.request import explain  # noqa: PLC0415
    from gateway.problems import suggest  # noqa: PLC0415
    from gateway.site import load_lexicon  # noqa: PLC0415
    from gateway.vocab import open_tokenizers  # noqa: PLC0415

    with waiting("reading the policies"):
        site = _site(config, environ)
        lexicon = load_lexicon(cache=cache_dir(environ))
    tenant, site = _whose(site, given.key, dict(given.tenant))
    body = _body(given)
    available = _available(site, given.down)
    if given.policy is not None and given.policy not in site.policies:
        raise LookupError(f"no policy {given.policy!r}: {suggest(given.policy, site.policies)}")
    headers = {name.lower(): value for name, value in given.header}
    if given.policy is not None:
        headers["x-pointsman-policy"] = given.policy
    try:
        with waiting("counting tokens"):
            told = explain(
                site,
                body,
                headers=headers,
                tenant=tenant,
                tokenizers=open_tokenizers(site.tokenizers, background=False),
                lexicon=lexicon,
                now=time.time(),
                available=available,
            )
    except GatewayError as error:
        if given.json:
            print_json({"ok": False, **json.loads(to_openai(error))})
        else:
            print(f"refused with status {error.status}: {error.code}: {error.message}", file=sys.stderr)
            if error.code == "model_not_found" and given.model is not None:
                print(f"model {given.model!r:.80}: {suggest(given.model, site.routes)}", file=sys.stderr)
        return NO
    if given.json:
        print_json({"ok": told.trace.decision.refusal is None, **told.to_dict()})
    else:
        print(render(told.trace), end="")
        if told.budget is not None:
            print(f"\n{money.text(told.budget)}")
        if told.wire_body is not None:
            print(f"\nwould be sent to {told.trace.decision.candidates[0].name}\n  {told.wire_body}")
    return OK if told.trace.decision.refusal is None else NO


def _site(config: Path | None, environ: Mapping[str, str]) -> Site:
    from gateway import bundled  # noqa: PLC0415
    from gateway.site import load_site  # noqa: PLC0415

    if config is None:
        print("no pointsman.yaml here: explaining on the reference fleet with the bundled policies", file=sys.stderr)
        reference = bundled.policies() / "catalog" / "reference-fleet.yaml"
        return load_site(reference, {}, secrets=False, tests=False)
    return load_site(config, environ, secrets=False, tests=False)


def _whose(site: Site, key: str | None, facts: Mapping[str, str]) -> tuple[Tenant, Site]:
    """The tenant to explain for, on a site that knows it. Raises LookupError for a key that is not configured.

    Without a key it is the operator's own question: everything may be used.
    """
    from dataclasses import replace  # noqa: PLC0415

    from gateway.core.types import Tenant  # noqa: PLC0415
    from gateway.naming import Grant  # noqa: PLC0415
    from gateway.problems import suggest  # noqa: PLC0415

    if key is not None:
        tenants = {entry.tenant.key: entry.tenant for entry in site.keys.values()}
        if key not in tenants:
            raise LookupError(f"no key {key!r}: {suggest(key, tenants) or 'none is configured'}")
        found = tenants[key]
        return replace(found, facts=MappingProxyType({**found.facts, **facts})), site
    operator = Tenant("operator", MappingProxyType(dict(facts)), explain=True)
    return operator, replace(site, _grants=MappingProxyType({operator.key: Grant(everything=True)}))


def _available(site: Site, down: Sequence[str]) -> int:
    """The mask of targets that are up. Raises LookupError for a name that is none."""
    from gateway.problems import suggest  # noqa: PLC0415

    indices = {target.name: target.index for target in site.fleet.targets}
    for name in down:
        if name not in indices:
            raise LookupError(f"no target {name!r}: {suggest(name, indices)}")
    return site.fleet.mask() & ~sum(1 << indices[name] for name in set(down))


def _body(given: argparse.Namespace) -> bytes:
    """The request's bytes, exactly as a client would send them. Raises OSError."""
    if given.text is not None:
        request = {"model": given.model or "auto", "messages": [{"role": "user", "content": given.text}]}
        return json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return sys.stdin.buffer.read() if given.request == "-" else Path(given.request).read_bytes()
