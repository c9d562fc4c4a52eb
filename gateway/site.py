"""The Site: everything a request is served by, loaded from files as one immutable value, or not at all.

`load_site` is the way from `pointsman.yaml` to it: parse, validate, build the fleet, bind each policy to it, analyse,
run the policies' own tests on the reference fleet. Whatever fails, the caller gets one `ConfigError` with everything
that is wrong, and keeps what it had. Run as a module it only gives the verdict: `python -m gateway.site pointsman.yaml`
exits with 0 or 2; a reload uses that to have another process do the slow work and fill the parse cache.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway import bundled, configfile, exported, otlpdoc, storedoc, yamlfile
from gateway.addresses import Address
from gateway.catalog.catalogue import Catalogue
from gateway.catalog.catalogue import files_of as catalogue_files
from gateway.compiled import cache_dir
from gateway.config import ConfigDoc, admin_digest
from gateway.core.analyse import leaks
from gateway.core.errors import BadRequest, ConfigError, Denied, NotFound, Problem
from gateway.core.policy import Policy
from gateway.core.quantities import Invalid
from gateway.core.reading.lexicon import Lexicon
from gateway.core.recorded.redaction import secrets_in
from gateway.core.types import Fleet, Tenant, Timeouts
from gateway.fleet import NO_DOOR, Door, FleetBuilder
from gateway.includes import Part, read_overlays
from gateway.keys.file import Place
from gateway.keys.holding import Holding
from gateway.keys.ring import ANONYMOUS, Keyed, KeyEntry, Ring, digest_of
from gateway.ledger.directory import LedgerSettings
from gateway.limits import Drain, Limits
from gateway.naming import Grant, Route, routes
from gateway.policyfile import failures_of, lay_over, load_catalogue, load_policy, placed, policy_files, reference_fleet
from gateway.problems import suggest
from gateway.quotas import Quotas
from gateway.secretref import Reading
from gateway.sidecar.spec import SidecarSpec, SpecReader
from gateway.stores.settings import StoreSettings
from gateway.telemetry.logs import LogSettings
from gateway.telemetry.names import Baseline, Names
from gateway.telemetry.otlp.settings import OtlpSettings
from gateway.telemetry.records import RecordSettings

_RETIRES_SOON = timedelta(days=30)


class SiteError(ConfigError):
    """A site does not load. `files` are those that were looked at: a change of one may heal it."""

    def __init__(self, problems: Sequence[Problem], files: Sequence[Path]) -> None:
        super().__init__(problems)
        self.files = tuple(files)


@dataclass(frozen=True, slots=True)
class Site:
    """One loaded configuration. Never changes: a reload makes another, and requests finish with the one they began."""

    digest: str
    fleet: Fleet
    policies: Mapping[str, Policy]
    default_policy: Policy
    keys: Mapping[bytes, KeyEntry]  # SHA-256 of a key -> whose it is
    routes: Mapping[str, Route]  # every value of `model` that means something
    routes_of: Mapping[str, Mapping[str, Route]]  # the same for keys whose default is this policy
    unknown_policy: str | None  # the policy for all others; None: they are refused
    ring: Ring  # by which its keys were judged
    listen_public: Address
    listen_admin: Address
    admin_key_sha256: bytes | None
    timeouts: Timeouts
    limits: Limits
    max_attempts: int
    thinking_violations: int  # answers that think unasked after which a target's promise is doubted; 0: never
    drain: Drain
    log: LogSettings
    tokenizers: frozenset[str]  # names of those that its targets and policies count with
    metric_names: Names
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    anonymous: Tenant = ANONYMOUS  # who everyone is where no keys are asked for
    open: bool = True  # no keys are asked for
    records: RecordSettings | None = None  # None: no decision is recorded
    otlp: OtlpSettings | None = None  # None: no collector is told anything
    ledger: LedgerSettings | None = None  # None: no books are kept
    store: StoreSettings | None = None  # None: limits are this process's own
    quotas: Quotas = field(default_factory=Quotas)
    sidecar: SidecarSpec | None = None  # what the litellm process must serve; None: none is needed
    released: Mapping[str, date] = field(default_factory=dict)
    holdings: Mapping[str, Holding] = field(default_factory=dict)  # what each key has, by name
    keys_sha256: str = ""  # of the keys file as it was read; "" where there is none
    _base: str = ""  # its digest without the keys file
    _grants: Mapping[str, Grant] = field(default_factory=dict)

    def secrets(self) -> set[str]:
        """Every text in it that must be shown nowhere."""
        backends = {target.backend.name: target.backend for target in self.fleet.targets}
        return secrets_in(backends, self.sidecar, self.otlp, self.ledger, self.store)

    def rekeyed(self) -> Site:
        """The same with the keys file as it is now. Raises `ConfigError`."""
        keyed = self.ring.read()
        tenants = [one.tenant for one in keyed.keys.values()]
        return replace(
            self,
            digest=digest_of(self._base, keyed.sha256),
            metric_names=replace(self.metric_names, teams=exported.teams(tenants)),
            **_of_keys(keyed),
        )

    def resolve(
        self, model_asked: str, policy_asked: str | None = None, own: str | None = None
    ) -> tuple[Policy, int | None]:
        """The policy that decides, and the mask of targets a name pins the request to (None: no pin). HOT.

        `policy_asked` is the client's hint, `own` the default policy of its key. Raises NotFound for an unknown model,
        BadRequest for an unknown policy.
        """
        route = (self.routes if own is None else self.routes_of[own]).get(model_asked)
        if route is None:
            if self.unknown_policy is None:
                raise NotFound("model_not_found", "There is no such model; GET /v1/models lists them.", param="model")
            route = Route(own or self.unknown_policy)
        policy = self.policies.get(policy_asked or route.policy)
        if policy is None:
            raise BadRequest("bad_request", "There is no such policy.", param="x-pointsman-policy")
        return policy, route.pinned

    def allow(self, tenant: Tenant, model_asked: str, policy: Policy, pinned: int | None) -> None:
        """Refuse what a key may not use, judged on what the name led to and never on the name. HOT. Raises Denied."""
        granted = self._grants.get(tenant.key)
        if granted is None or not granted.covers(policy.name, pinned, tenant.policy or self.default_policy.name):
            raise Denied("model_not_allowed", "This key may not use that model.", param="model")

    def grant_of(self, key: str) -> Grant:
        """What the key of this name may use."""
        return self._grants.get(key, Grant())

    def is_admin_key(self, key: bytes) -> bool:
        """Does this open the admin listener? True where no admin key is configured."""
        expected = self.admin_key_sha256
        return expected is None or hmac.compare_digest(hashlib.sha256(key).digest(), expected)

    def watched(self) -> tuple[Path, ...]:
        """Files and directories whose change means that a reload is due."""
        return self.files

    def granted(self, tenant: Tenant) -> Iterator[tuple[str, Route]]:
        """Every name that a key may send as `model`, and where it leads."""
        granted = self._grants.get(tenant.key, Grant())
        default = tenant.policy or self.default_policy.name
        for name, route in (self.routes_of.get(default) or self.routes).items():
            if granted.covers(route.policy, route.pinned, default):
                yield name, route


def _of_keys(keyed: Keyed) -> dict[str, Any]:
    """The fields of a site that its keys make."""
    return {
        "open": keyed.open,
        "keys": keyed.keys,
        "routes_of": keyed.routes_of,
        "quotas": keyed.quotas,
        "holdings": keyed.holdings,
        "keys_sha256": keyed.sha256,
        "_grants": keyed.grants,
    }


def load_lexicon(directory: Path | None = None, *, cache: Path | None = None) -> Lexicon:
    """The rules by which text tells its task and difficulty. Raises `ConfigError`."""
    document = yamlfile.load((directory or bundled.policies()) / "lexicon.yaml", cache_dir=cache)
    with placed(document):
        return Lexicon.compile(document.data)


def load_site(
    path: Path,
    environ: Mapping[str, str],
    *,
    secrets: bool = True,
    today: date | None = None,
    tests: bool = True,
    door: Callable[[], Door] = lambda: NO_DOOR,
) -> Site:
    """Load everything a file leads to. Raises `SiteError` with every problem that can be known so far, in all files.

    `secrets=False` does not look up upstream keys, for judging a file on a machine that must not have them; `today`
    (the system's date if not given) is what retirements are warned of by; `tests=False` leaves the policies' tests to
    somebody who prints them; `door` is asked where the sidecar is reached, if one is needed.
    """
    loader = _Loader(path, environ, secrets=secrets, today=today or datetime.now(UTC).date(), tests=tests)
    loader.door = door
    try:
        return loader.load()
    except ConfigError as error:
        raise SiteError(error.problems, tuple(dict.fromkeys(loader.files))) from None


class _Loader:
    """One load: collects problems over all files, so that a person sees all of them at once."""

    def __init__(self, path: Path, environ: Mapping[str, str], *, secrets: bool, today: date, tests: bool) -> None:
        self.path = path
        self.environ = environ
        self.secrets = secrets
        self.today = today
        self.tests = tests
        self.directory = path.parent
        self.cache = cache_dir(environ)
        self.found: list[Problem] = []
        self.warnings: list[str] = []
        self.digests: list[str] = []
        self.files: list[Path] = [path]
        self.door: Callable[[], Door] = lambda: NO_DOOR
        self.unread = False  # a policy file did not load: of names that lead to policies nothing can be said

    def load(self) -> Site:
        document, doc = configfile.read(self.path, cache=self.cache)
        self.document = document
        self.digests.append(document.sha256)
        overlays = [self.directory / name for name in doc.catalog]
        self.files += overlays
        known = load_catalogue(overlays, cache=self.cache)
        files = [file for one in overlays for file in catalogue_files(one)]
        self.digests += [hashlib.sha256(yamlfile.read(file)).hexdigest() for file in files]
        timeouts = doc.timeouts.over(Timeouts())
        builder = FleetBuilder(document, known, self.environ, self.directory, timeouts, self.secrets)
        builder.door = self.door
        fleet = builder.build(doc)
        reader = SpecReader(document, self.environ, self.directory, self.secrets)
        sidecar = reader.read(doc)
        self.found += reader.found
        self.files += reader.files
        self.found += builder.found
        self.warnings += builder.warnings
        self.files += builder.files
        self._retirements(fleet)
        admin_key = self._listen(doc)
        records = self._records(doc)
        reading = Reading(self.environ, self.directory, self.secrets, self._note, self._warn, self.files)
        otlp = None if doc.otlp is None else otlpdoc.read(doc.otlp, reading)
        store = None if doc.store is None else storedoc.read(doc.store, reading)
        if self.found:  # without the whole fleet, what a policy lacks would be noise
            raise ConfigError(self.found)
        policies = self._policies(doc, fleet, known)
        default = self._default(doc, policies)
        books = doc.books(self.path, self.environ, self._note, self.files, secrets=self.secrets)
        table = self._names(doc, fleet, policies)
        place = Place.of(doc, self.path)
        ring = Ring(self.document, doc, fleet, policies, place, doc.ledger != "none", self.unread)
        keyed = self._keyed(ring)
        baseline = self._baseline(doc, fleet, table)
        if self.found or default is None or keyed is None:
            raise ConfigError(self.found)
        base = hashlib.sha256(" ".join(self.digests).encode()).hexdigest()[:12]
        return Site(
            digest=digest_of(base, keyed.sha256),
            fleet=fleet,
            policies=MappingProxyType(policies),
            default_policy=default,
            routes=table,
            unknown_policy=None if doc.unknown_model == "reject" else doc.unknown_model,
            listen_public=doc.listen.public,
            listen_admin=doc.listen.admin,
            admin_key_sha256=admin_key,
            timeouts=timeouts,
            limits=Limits.of(doc.limits),
            max_attempts=doc.max_attempts,
            thinking_violations=doc.thinking_violations,
            drain=Drain(doc.drain_delay or 0.0, doc.drain),
            log=doc.log.settings(),
            tokenizers=_tokenizers(fleet, policies),
            metric_names=exported.names(fleet, policies, table, [one.tenant for one in keyed.keys.values()], baseline),
            warnings=tuple(self.warnings),
            files=tuple(dict.fromkeys(self.files)),
            anonymous=replace(ANONYMOUS, reasoning=doc.reasoning),
            records=records,
            otlp=otlp,
            ledger=books,
            store=store,
            sidecar=sidecar,
            released=known.released,
            ring=ring,
            _base=base,
            **_of_keys(keyed),
        )

    # -- the fleet and the listeners --

    def _records(self, doc: ConfigDoc) -> RecordSettings | None:
        if doc.records is not None and doc.records.prompts:
            kept = f"{doc.records.prompts} characters of each request's last message"
            self._warn("records.prompts", f"decision records hold up to {kept}: what users write is kept on disk")
        return None if doc.records is None else doc.records.settings(self.directory)

    def _retirements(self, fleet: Fleet) -> None:
        for target in fleet.targets:
            day = target.retires_on
            if day is not None and day - self.today <= _RETIRES_SOON:
                verb = "was withdrawn" if day <= self.today else "will be withdrawn"
                self._warn(f"targets.{target.name}", f"{target.upstream_id} {verb} on {day}")

    def _listen(self, doc: ConfigDoc) -> bytes | None:
        place = Place.of(doc, self.path)
        if not doc.listen.public.loopback and not (doc.keys or place.stated or place.path.exists()):
            valid = "keys: or keys_file: for the clients, or a loopback address"
            self._note("listen.public", "can be reached from other machines, but there are no keys", valid)
        if not doc.listen.admin.loopback and doc.admin_key is None:
            valid = "admin_key: {sha256: ...}, or a loopback address"
            self._note("listen.admin", "can be reached from other machines, but there is no admin_key", valid)
        if doc.admin_key is None or (doc.admin_key.sha256 is None and not self.secrets):
            return None
        if doc.admin_key.file is not None:
            self.files.append(self.directory / doc.admin_key.file)
        try:
            return admin_digest(doc.admin_key, self.environ, self.directory)
        except Invalid as error:
            self._note("admin_key", error.what, error.valid)
            return None

    # -- policies --

    def _policies(self, doc: ConfigDoc, fleet: Fleet, known: Catalogue) -> dict[str, Policy]:
        own = doc.policies.dir
        directory = bundled.policies() if own is None else self.directory / own
        self.files.append(directory)
        paths = policy_files(directory)
        if not paths:
            self._note("policies.dir", f"no policy files in {directory}", "a directory of *.yaml files")
        reference = reference_fleet(known, cache=self.cache) if self.tests and paths else None
        policies: dict[str, Policy] = {}
        named = [self.directory / name for name in doc.policies.overlays]
        overlays = read_overlays(self.document, named, self.cache, self.files)
        for path in paths:
            self.files.append(path)
            try:
                policy = self._policy(path, fleet, reference, overlays)
            except ConfigError as error:
                self.found += error.problems
                self.unread = True
                continue
            if policy.name in policies:
                self.found.append(Problem(str(path), 1, "policy", f"{policy.name} is already another file's policy"))
            policies[policy.name] = policy
        return policies

    def _policy(self, path: Path, fleet: Fleet, reference: Fleet | None, overlays: Sequence[Part]) -> Policy:
        file = load_policy(path, cache=self.cache, touched=self.files)
        served = lay_over(file, overlays, touched=self.files)
        self.digests.append(served.document.sha256)
        policy = served.bind(fleet)
        self.found += served.wrong(leaks(policy))
        self.found += [] if reference is None else failures_of(file, served, reference)
        return policy

    def _default(self, doc: ConfigDoc, policies: Mapping[str, Policy]) -> Policy | None:
        for path, name in (("policies.default", doc.policies.default), ("unknown_model", doc.unknown_model)):
            if not self.unread and name not in policies and (path, name) != ("unknown_model", "reject"):
                self._note(path, f"no policy {name!r:.80}", suggest(name, policies))
        return policies.get(doc.policies.default)

    # -- names and keys --

    def _names(self, doc: ConfigDoc, fleet: Fleet, policies: Mapping[str, Policy]) -> Mapping[str, Route]:
        """Every value of `model` that means something; notes those that clash or mean nothing."""
        table, wrong = routes(fleet, policies, doc.policies.default, doc.models)
        for name, why in wrong:
            if self.unread and why.startswith("auto/"):
                continue
            if name in doc.models and doc.models[name] == why:
                valid = suggest(why, table) or "auto"
                shipped = bundled.policies() / f"{why.removeprefix('auto/')}.yaml"
                if doc.policies.dir is not None and why.startswith("auto/") and shipped in policy_files(shipped.parent):
                    valid = f"{shipped.stem} comes along with Pointsman and is off because of policies.dir: copy it"
                self._note(f"models.{name}", f"{why!r:.80} is no policy, model or target that is served here", valid)
            else:
                self._note(f"models.{name}" if name in doc.models else f"targets.{name}", why, "another name")
        return table

    def _keyed(self, ring: Ring) -> Keyed | None:
        """The keys, or None with what is wrong with them noted."""
        try:
            keyed = ring.read()
        except ConfigError as error:
            self.found += error.problems
            self.files.append(ring.place.path)  # mending it makes the site load
            return None
        self.warnings += keyed.warnings
        return keyed

    def _baseline(self, doc: ConfigDoc, fleet: Fleet, table: Mapping[str, Route]) -> Baseline | None:
        try:
            return None if doc.savings is None else exported.baseline(doc.savings.baseline, fleet, table)
        except Invalid as error:
            self._note("savings.baseline", error.what, error.valid)
            return None

    def _note(self, path: str, what: str, valid: str = "") -> None:
        self.found.append(self.document.problem(path, what, valid))

    def _warn(self, path: str, what: str) -> None:
        self.warnings.append(str(self.document.problem(path, what)))


def _tokenizers(fleet: Fleet, policies: Mapping[str, Policy]) -> frozenset[str]:
    names = {target.model.tokenizer for target in fleet.targets} | {policy.tokens_by for policy in policies.values()}
    return frozenset(name for name in names if name)


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """The verdict on one file: 0, or 2 with every problem on standard error."""
    if len(arguments) > 1:  # CPU seconds, after which the kernel ends the process (SIGXCPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(arguments[1]), resource.RLIM_INFINITY))
    try:
        load_site(Path(arguments[0]), environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
