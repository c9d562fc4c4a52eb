"""The command: which policies are judged, on which fleet, and with what exit code it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from gateway import bundled, configfile
from gateway.catalog.catalogue import Catalogue
from gateway.catalog.ways import ways_of
from gateway.check import configuration
from gateway.check.report import Places, Report, Told
from gateway.compiled import cache_dir
from gateway.config import ConfigDoc
from gateway.core.analyse import analyse, analyse_everywhere
from gateway.core.clauses.findings import Finding
from gateway.core.clauses.matchers import suggest
from gateway.core.errors import ConfigError, Problem
from gateway.includes import is_part
from gateway.policyfile import (
    PolicyFile,
    files_at,
    lay_over,
    load_catalogue,
    load_policy,
    overlays_of,
    perhaps_overlaid,
    policy_files,
    reference_fleet,
)
from gateway.progress import over, waiting
from gateway.site import Site, load_site
from gateway.yamlfile import Document

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    config: Path
    given: bool  # the configuration was named
    policies: Sequence[str] = ()  # empty: all
    against: str = "fleet"
    secrets: bool = True
    files: Sequence[Path] = ()  # policies, parts and folders of them, in place of those of the configuration


@dataclass(frozen=True, slots=True)
class Checked:
    """A report, and the line that sums it up."""

    report: Report
    summary: str


def check(options: Options, environ: Mapping[str, str], now: float) -> Checked:
    """Judge what the options name. `now` is Unix seconds. Raises `ConfigError` for what does not load."""
    if options.against != "fleet":
        return _without_fleet(options, environ, now)
    if options.files:
        what = "are judged on no fleet: your own serves the policies that its configuration names"
        raise ConfigError([Problem("--policies", 0, "", what, "--against catalogue, or --against reference")])
    with waiting("reading the configuration"):
        site = _site(options, environ)
    cache = cache_dir(environ)
    document, doc = configfile.read(options.config, cache=cache)
    chosen = _chosen(options, site.policies)
    places = Places(document, _documents(doc, options.config, cache), [key.name for key in doc.keys])
    facts = configuration.facts_of(doc)
    optional = _shipped_constraints(doc, options.config, cache)
    told: list[Told] = []
    if not options.policies:
        told += places.told(None, configuration.judge(site, doc, now))
    for policy in over(chosen, "checking"):
        users = {name: own for name, own in facts.items() if _may_use(site, doc, name, policy.name)}
        wanted = optional.get(policy.name, frozenset())
        found = analyse(policy, now=now, keys=users or facts, everyone=facts, optional=wanted)
        told += places.told(policy.name, found)
    unnamed = frozenset() if options.policies else _unnamed(site)
    report = Report("fleet", site.digest, site.warnings, told, unnamed)
    counted = f"{_count(len(site.fleet.targets), 'target', 'targets')}, {_count(len(chosen), 'policy', 'policies')}"
    return Checked(report, f"{counted}, configuration {site.digest}")


def _site(options: Options, environ: Mapping[str, str]) -> Site:
    """The configuration. Raises `ConfigError`, which says of what is only wrong here that it need not be judged."""
    try:
        return load_site(options.config, environ, secrets=options.secrets)
    except ConfigError as error:
        if not options.secrets:
            raise
        without: Sequence[Problem] = ()
        try:
            load_site(options.config, environ, secrets=False, tests=False)
        except ConfigError as still:
            without = still.problems
        told = [
            one
            if one in without or one.file != str(options.config)
            else replace(one, valid=f"{one.valid}; or --no-keys, on a machine that will not serve it")
            for one in error.problems
        ]
        raise ConfigError(told) from None


def _without_fleet(options: Options, environ: Mapping[str, str], now: float) -> Checked:
    """Policies apart from any installation: on the fleet that tests run on, or on all that could be."""
    cache = cache_dir(environ)
    directory, known = bundled.policies(), None
    if options.given or options.config.exists():
        _, doc = configfile.read(options.config, cache=cache)
        directory = _directory(doc, options.config)
        known = load_catalogue([options.config.parent / name for name in doc.catalog], cache=cache)
    files: dict[str, PolicyFile] = {}
    paths = [one for path in options.files or (directory,) for one in files_at(path)]
    for path in {path.resolve(): path for path in paths}.values():
        file = load_policy(path, cache=cache, part=True)
        if (first := files.setdefault(file.doc.policy, file)) is not file:
            what = f"{file.doc.policy} is the policy of {first.document.name} already"
            raise ConfigError([file.document.problem("policy", what, "a name of its own")])
    try:
        return _apart(_chosen(options, files), known, options, now, cache)
    except ConfigError as error:
        if known is not None:
            raise
        raise ConfigError([*map(perhaps_overlaid, error.problems)]) from None


def _apart(
    chosen: Sequence[PolicyFile], known: Catalogue | None, options: Options, now: float, cache: Path | None
) -> Checked:
    """What is found of policies, each by itself."""
    places = Places(None, {file.doc.policy: file.document for file in chosen})
    counted = _count(len(chosen), "policy", "policies")
    if options.against == "reference":
        fleet = reference_fleet(known, cache=cache)
        told = [
            one
            for file in over(chosen, "checking")
            for one in places.told(file.doc.policy, _own(file, analyse(file.bind(fleet))))
        ]
        return Checked(Report("reference", None, (), told), f"{counted} on the reference fleet")
    known = known or load_catalogue(cache=cache)
    ways, providers = ways_of(known), frozenset(known.providers)
    told = [
        one
        for file in over(chosen, "checking")
        for found in [analyse_everywhere(file.imagine(ways, known.models), now=now, providers=providers)]
        for one in places.told(file.doc.policy, _own(file, found))
    ]
    offers = sum(map(len, known.offers.values()))
    summary = f"{counted} on all that {len(known.models):,} models and {offers:,} offers could be"
    return Checked(Report("catalogue", None, (), told), summary)


def _own(file: PolicyFile, found: Iterable[Finding]) -> Iterator[Finding]:
    """Of a part by itself, what is found of the policy made up around it is nobody's business."""
    return (one for one in found if not one.path or not is_part(file.document) or file.own(one.path))


def _chosen(options: Options, policies: Mapping[str, P]) -> list[P]:
    for name in options.policies:
        if name not in policies:
            what = f"there is no policy {name!r:.80}"
            raise ConfigError([Problem("--policy", 0, "", what, suggest(name, [*policies]))])
    return [policy for name, policy in policies.items() if not options.policies or name in options.policies]


def _directory(doc: ConfigDoc, config: Path) -> Path:
    return bundled.policies() if doc.policies.dir is None else config.parent / doc.policies.dir


def _documents(doc: ConfigDoc, config: Path, cache: Path | None) -> dict[str, Document]:
    overlays = overlays_of(config, cache=cache)
    files = [lay_over(load_policy(path, cache=cache), overlays) for path in policy_files(_directory(doc, config))]
    return {file.doc.policy: file.document for file in files}


def _shipped_constraints(doc: ConfigDoc, config: Path, cache: Path | None) -> Mapping[str, frozenset[str]]:
    """The constraints of policies that came along with Pointsman, also where the files were copied as they are."""
    found: dict[str, frozenset[str]] = {}
    for path in policy_files(_directory(doc, config)):
        shipped = bundled.policies() / path.name
        if shipped.is_file() and shipped.read_bytes() == path.read_bytes():
            file = load_policy(path, cache=cache)
            found[file.doc.policy] = frozenset(one.id for one in file.doc.constraints)
    return found


def _may_use(site: Site, doc: ConfigDoc, key: str, policy: str) -> bool:
    own = next((one.policy for one in doc.keys if one.name == key), None)
    default = own or site.default_policy.name
    return policy == default or site.grant_of(key).covers(policy, None, default)


def _unnamed(site: Site) -> frozenset[str]:
    """Policies that came along with Pointsman, and that nothing in the configuration names."""
    named = {route.policy for name, route in site.routes.items() if not name.startswith("auto/")}
    named |= {entry.tenant.policy or "" for entry in site.keys.values()}
    shipped = {path.stem for path in site.files if path.parent == bundled.policies()}
    return frozenset(shipped - named - {site.default_policy.name, site.unknown_policy or ""})


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
