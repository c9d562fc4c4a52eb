"""From what a file says there is (`backends:`, `targets:`) to a `Fleet`: every target with nothing left open.

What a target does not say comes from the catalogue's offer of that model by that provider, then from the model's own
facts. Windows are the exception: only a served window counts, so a model card never supplies one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from gateway import trust
from gateway.addresses import Address, egress_proxy, endpoint
from gateway.auth import credential, references
from gateway.catalog.catalogue import Catalogue, Offer
from gateway.clouds import check_addresses, region_of
from gateway.config import BackendDoc, FleetDoc, GpuPrice, TargetDoc
from gateway.core.errors import Problem
from gateway.core.memory import BITS, USUAL, weights_gb
from gateway.core.money.pricing import converted
from gateway.core.quantities import Invalid
from gateway.core.request.thinking import MEMBERS
from gateway.core.servers.credentials import Credential
from gateway.core.servers.dialects import limit_lost, takes
from gateway.core.servers.rows import DIALECTS, Dialect
from gateway.core.types import Backend, Endpoint, Fleet, Model, Price, Secret, Target, ThinkingSupport, Timeouts
from gateway.fields import price
from gateway.problems import suggest
from gateway.secretref import SecretRef, read_secret
from gateway.yamlfile import Document

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Door:
    """Where the sidecar that this process starts is reached on the loopback interface, and what opens it."""

    port: int
    token: Secret

    def endpoint(self, backend: str) -> Endpoint:
        """The address of one backend: each has a path of its own, as two may serve models of the same name."""
        path = f"/{backend}/v1"
        return Endpoint(f"http://127.0.0.1:{self.port}{path}", "http", "127.0.0.1", self.port, path)


#: Stands for the door where a configuration is only judged.
NO_DOOR = Door(0, Secret(""))


@dataclass(slots=True)
class FleetBuilder:
    """Builds one fleet. Problems and warnings are collected in `found` and `warnings`, not raised."""

    document: Document
    catalogue: Catalogue
    environ: Mapping[str, str]
    directory: Path  # what files in the document are relative to
    timeouts: Timeouts
    secrets: bool = True  # False: keys are not looked up, for judging a file where its keys are not
    door: Callable[[], Door] = lambda: NO_DOOR  # asked where the sidecar is, if a backend is reached through it
    found: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)  # read beside the document
    own: dict[str, Dialect] = field(default_factory=dict)  # dialects that the document defines
    alike: dict[str, str] = field(default_factory=dict)  # what each of them is like
    rates: Mapping[str, int] = field(default_factory=dict)  # nano-USD for one unit of a currency

    def build(self, doc: FleetDoc) -> Fleet:
        """The fleet; what could not be built is missing from it and stands in `found`."""
        self.rates = doc.currencies
        self._dialects(doc)
        backends: dict[str, Backend] = {}
        for name, one in doc.backends.items():
            made = self._backend(name, one)
            if made is not None:
                backends[name] = made
        targets: list[Target] = []
        for name, target in doc.targets.items():
            path = f"targets.{name}"
            model_id = self.catalogue.model_of(target.model)
            if model_id is None:
                valid = suggest(target.model, self.catalogue.names)
                if not valid.startswith("did you mean"):
                    valid = "`pointsman catalog` lists them, a file named by `catalog:` adds one of your own"
                self._note(f"{path}.model", f"no model {target.model!r:.80} in the catalogue", valid)
            if target.backend not in doc.backends:
                valid = suggest(target.backend, doc.backends)
                self._note(f"{path}.backend", f"no backend {target.backend!r:.80}", valid)
            if model_id is not None and target.backend in backends:
                model, backend = self.catalogue.models[model_id], backends[target.backend]
                served = self._target(name, target, model, backend, len(targets))
                if served is not None:
                    targets.append(served)
        for name in backends.keys() - {target.backend for target in doc.targets.values()}:
            self._warn(f"backends.{name}", "no target uses this backend")
        for name in self.own.keys() - {backend.dialect for backend in doc.backends.values()}:
            self._warn(f"dialects.{name}", "no backend speaks this dialect")
        return Fleet(tuple(targets), MappingProxyType(dict(self.catalogue.models)))

    # -- backends --

    def _dialects(self, doc: FleetDoc) -> None:
        for name, one in doc.dialects.items():
            if name in DIALECTS:
                self._note(f"dialects.{name}", "is the name of a dialect that comes with Pointsman", "another name")
            elif one.like not in DIALECTS:
                self._note(f"dialects.{name}.like", f"no dialect {one.like!r:.60}", suggest(one.like, DIALECTS))
                self.own[name] = DIALECTS["openai"]  # so that who speaks it is judged all the same
            else:
                self.own[name] = one.row(name)
                self.alike[name] = one.like

    def _backend(self, name: str, doc: BackendDoc) -> Backend | None:
        path = f"backends.{name}"
        known = {**DIALECTS, **self.own}
        if doc.dialect not in known:
            valid = suggest(doc.dialect, known)
            self._note(f"{path}.dialect", f"no dialect {doc.dialect!r:.60}", valid)
            return None
        door = self.door() if doc.by_sidecar else None
        endpoints = (door.endpoint(name),) if door is not None else tuple(endpoint(url) for url in doc.urls())
        where = f"{path}.base_url" if doc.base_url is not None else f"{path}.endpoints"
        self._try(where, lambda: check_addresses(self.alike.get(doc.dialect, doc.dialect), endpoints, doc.api_version))
        api_base = doc.litellm.api_base if doc.litellm is not None else None
        provider = self._provider(path, doc, endpoints if api_base is None else (endpoint(api_base),))
        written = doc.proxy
        proxy = self._try(f"{path}.proxy", lambda: egress_proxy(written, endpoints, self.environ))
        ca_file = None
        if doc.ca_file is not None:
            file = self.directory / doc.ca_file
            ca_file = str(file)
            self.files.append(file)
            if wrong := trust.no_certificates(file):
                self._note(f"{path}.ca_file", wrong, trust.VALID)
        timeouts = doc.timeouts.over(self.timeouts)
        if timeouts.total_s < max(timeouts.connect_s, timeouts.headers_s, timeouts.first_event_s):
            self._warn(path, "its total timeout ends before its shorter clocks can")
        spoken = self.own.get(doc.dialect) or DIALECTS[doc.dialect]
        return Backend(
            name=name,
            dialect=doc.dialect,
            endpoints=endpoints,
            region=doc.region or self._region(provider, endpoints) or _common(map(region_of, endpoints)),
            processing=doc.processing,
            self_hosted=doc.self_hosted,
            provider=provider,
            country=doc.country,
            jurisdiction=doc.jurisdiction,
            memory_gb=doc.memory_gb,
            key=door.token if door is not None else self._key(path, doc, endpoints),
            auth=self._auth(path, doc, endpoints),
            headers=self._headers(path, doc),
            members=MappingProxyType(doc.body),
            own_dialect=self.own.get(doc.dialect),
            limit_counts=spoken.limit_counts,
            limit_lost=limit_lost(spoken, doc.body),
            api_version=doc.api_version,
            ca_file=ca_file,
            proxy=proxy,
            max_inflight=doc.max_inflight,
            timeouts=timeouts,
            trace_context=doc.self_hosted if doc.trace_context is None else doc.trace_context,
            hedge=doc.hedge,
            prefix_affinity=doc.affinity == "prefix" and len(endpoints) > 1,
        )

    def _provider(self, path: str, doc: BackendDoc, endpoints: tuple[Endpoint, ...]) -> str | None:
        if doc.provider is not None:
            if doc.provider not in self.catalogue.providers:
                valid = suggest(doc.provider, sorted(self.catalogue.providers))
                self._note(f"{path}.provider", f"no provider {doc.provider!r:.60} in the catalogue", valid)
            return doc.provider
        if doc.self_hosted:
            return None
        known = {self.catalogue.provider_of(one.host) for one in endpoints}
        return known.pop() if len(known) == 1 else None

    def _region(self, provider: str | None, endpoints: tuple[Endpoint, ...]) -> str | None:
        if provider is None:
            return None
        told = {self.catalogue.region_of(provider, one.host) for one in endpoints}
        return told.pop() if len(told) == 1 else None

    def _key(self, path: str, doc: BackendDoc, endpoints: tuple[Endpoint, ...]) -> Secret | None:
        ref = doc.key
        if ref is None or not self.secrets:
            return None
        clear = (one for one in endpoints if one.scheme == "http" and not Address(one.host, one.port).loopback)
        if doc.proxy is None and not doc.self_hosted and any(clear):
            self._warn(path, "its key travels unencrypted: an endpoint is http://")
        return self._secret(f"{path}.key", ref)

    def _headers(self, path: str, doc: BackendDoc) -> Mapping[str, str | Secret]:
        made: dict[str, str | Secret] = {}
        for name, value in doc.headers.items():
            read = value if isinstance(value, str) else self._secret(f"{path}.headers.{name}", value)
            if read is not None:
                made[name] = read
        return MappingProxyType(made)

    def _secret(self, path: str, ref: SecretRef) -> Secret | None:
        if not self.secrets:
            return None
        if ref.file is not None:
            self.files.append(self.directory / ref.file)
        return self._try(path, lambda: read_secret(ref, self.environ, self.directory))

    def _auth(self, path: str, doc: BackendDoc, endpoints: tuple[Endpoint, ...]) -> Credential | None:
        written = doc.auth
        if written is None:
            if self.alike.get(doc.dialect, doc.dialect) == "vertex" and doc.key is not None:
                self._warn(f"{path}.key", "Vertex takes access tokens, which end within the hour: use auth")
            return None
        if not self.secrets:
            return None
        self.files += [self.directory / ref.file for ref in references(written) if ref.file is not None]
        if written.aws is None and not doc.self_hosted and any(one.scheme == "http" for one in endpoints):
            self._warn(path, "its access tokens travel unencrypted: an endpoint is http://")
        return self._try(f"{path}.auth", lambda: credential(written, endpoints, self.environ, self.directory))

    # -- targets --

    def _target(self, name: str, doc: TargetDoc, model: Model, backend: Backend, index: int) -> Target | None:
        path = f"targets.{name}"
        snapshot = doc.model if doc.model not in self.catalogue.names else None
        offer = self._offer(path, doc, model, backend, snapshot)
        dialect = backend.own_dialect or DIALECTS[backend.dialect]
        window = doc.window or offer.window
        if window is None:
            valid = "window: the tokens that server takes (vLLM: --max-model-len), not what the model card says"
            self._note(path, "has no window, and the catalogue has no offer that states one", valid)
            return None
        self._judge_window(path, doc, model)
        thinking = self._thinking(path, doc, offer.thinking or model.thinking, dialect)
        return Target(
            name=name,
            index=index,
            model=model,
            backend=backend,
            upstream_id=doc.upstream_id or snapshot or offer.upstream_id,
            window=window,
            max_input=doc.max_input or offer.max_input,
            max_output=doc.max_output or offer.max_output,
            price=self._price(path, doc, model, backend.provider, offer),
            modalities=self._modalities(path, doc, model, offer),
            tools=_first(doc.tools, offer.tools, model.tools, False),
            structured_output=_first(
                doc.structured_output,
                offer.structured_output,
                model.structured_output,
                dialect.structured,
            ),
            thinking=thinking,
            thinking_needs_stream=_first(doc.thinking_needs_stream, offer.thinking_needs_stream),
            unsupported=dialect.refuses.union(doc.unsupported, _unheard(dialect, thinking)),
            takes=takes(dialect, thinking),
            retires_on=doc.retires_on or offer.retires_on,
            stand_in=doc.stand_in,
            weight=doc.weight,
            typical_output_tokens=doc.typical_output_tokens or model.typical_output_tokens,
            memory_gb=doc.memory_gb or backend.memory_gb,
            quantization=doc.quantization,
            memory_needed_gb=self._judge_memory(path, doc, model, backend),
            tokens_per_s=doc.tokens_per_s,
            tokens_per_hour=doc.price.tokens_per_hour if isinstance(doc.price, GpuPrice) else None,
        )

    def _judge_memory(self, path: str, doc: TargetDoc, model: Model, backend: Backend) -> float | None:
        """GB that the weights need, after complaining of a place that does not have them."""
        kept_in = doc.quantization or model.quantization
        needed, there = weights_gb(model.params_total_b, kept_in), doc.memory_gb or backend.memory_gb
        if there is None:
            return needed
        at = f"{path}.memory_gb" if doc.memory_gb is not None else path
        if needed is None:
            self._warn(
                at, f"nobody says how many parameters {model.id} has: whether {there:g} GB hold it is not judged"
            )
        elif needed > there:
            what = f"{model.id} needs {needed:g} GB for its weights alone ({kept_in or USUAL}), and has {there:g} GB"
            smaller = [name for name in BITS if (weights_gb(model.params_total_b, name) or 0) <= there]
            largest = max(smaller, key=lambda name: BITS[name], default=None)
            kept = f"quantization: {largest} or smaller, if it is served so; " if largest else ""
            self._note(at, what, f"{kept}a smaller model, or more memory")
        return needed

    def _judge_window(self, path: str, doc: TargetDoc, model: Model) -> None:
        if doc.window is None or model.window is None or doc.window <= model.window:
            return
        what = f"{doc.window:,} tokens is more than {model.id} was made for ({model.window:,})"
        if model.window_extended is not None and doc.window <= model.window_extended:
            what += f"; up to {model.window_extended:,} its server must be configured for (rope scaling)"
        self._warn(f"{path}.window", what)

    def _offer(self, path: str, doc: TargetDoc, model: Model, backend: Backend, snapshot: str | None) -> Offer:
        """The catalogue's offer that a target takes up, or one of which nothing is known."""
        provider = backend.provider
        if provider is None:
            return Offer(model.id, "", model.id)
        region, processing = backend.region, backend.processing
        own_id = _own_id(doc, backend)
        found = self.catalogue.offer(model.id, provider, region, own_id or snapshot, processing)
        if found is None and own_id is None:
            found = self.catalogue.offer(model.id, provider, region, None, processing)
        if found is None:
            return Offer(model.id, provider, model.id)
        if found.processing is not None and found.processing != backend.processing:
            said = f"while its backend says {backend.processing or 'nothing'}"
            self._warn(f"{path}.upstream_id", f"{found.upstream_id} is processed in scope {found.processing}, {said}")
        return found

    def _price(self, path: str, doc: TargetDoc, model: Model, provider: str | None, offer: Offer) -> Price | None:
        written = doc.price
        if written == "none":
            return None
        if written is None or written == "catalog":
            if offer.price is not None:
                return self._in_usd(path, offer.price, offer.currency, required=written is not None)
            if written == "catalog":
                where = f"by {provider}" if provider else "by this backend, whose provider is not known"
                valid = (
                    "price: {input: 0.4, output: 2.4} in USD per million tokens, price: none, or the backend's provider"
                )
                self._note(f"{path}.price", f"the catalogue has no price of {model.id} {where}", valid)
            else:
                self._warn(path, "has no price: it ranks behind all that have one, and its cost is not counted")
            return None
        version = f"{Path(self.document.name).name}@{self.document.sha256[:12]}"
        return price(written.rates() if isinstance(written, GpuPrice) else written, version)

    def _in_usd(self, path: str, listed: Price, currency: str | None, *, required: bool) -> Price | None:
        """A list price in USD; None, and said so, where it is in a currency that the operator gave no rate for."""
        if currency is None or currency == "USD":
            return listed
        rate = self.rates.get(currency)
        if rate is not None:
            return converted(listed, rate, currency)
        what = f"its list price is in {currency}, and there is no rate for it"
        if required:
            self._note(f"{path}.price", what, f"currencies: {{{currency}: ...}}, USD for one unit; or a price in USD")
        else:
            self._warn(path, f"{what} under `currencies`: it ranks as without a price, and its cost is not counted")
        return None

    def _modalities(self, path: str, doc: TargetDoc, model: Model, offer: Offer) -> frozenset[str]:
        if doc.modalities is None:
            return offer.modalities if offer.modalities is not None else model.modalities
        beyond = sorted(
            set(doc.modalities) - model.modalities - {"other"}
        )  # which only its server can be known to read
        if beyond:
            valid = f"some of {', '.join(sorted(model.modalities))}; or correct the catalogue in a file of your own"
            self._note(f"{path}.modalities", f"{model.id} does not read {', '.join(beyond)}", valid)
        return frozenset(doc.modalities)

    def _thinking(self, path: str, doc: TargetDoc, known: ThinkingSupport, dialect: Dialect) -> ThinkingSupport:
        if doc.thinking == "switchable" and not dialect.thinking.exists:
            valid = "always, never or unknown; or a dialect of your own with thinking:"
            self._note(f"{path}.thinking", f"there is no known way to switch thinking with {dialect.name}", valid)
        # A switch that the backend cannot be asked for is no switch: what happens then is not known.
        if known == "switchable" and not (dialect.thinking.exists and dialect.thinking.sure):
            return doc.thinking or "unknown"
        return doc.thinking or known

    # -- collecting --

    def _try(self, path: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Invalid as error:
            self._note(path, error.what, error.valid)
            return None

    def _note(self, path: str, what: str, valid: str = "") -> None:
        self.found.append(self.document.problem(path, what, valid))

    def _warn(self, path: str, what: str) -> None:
        self.warnings.append(str(self.document.problem(path, what)))


def _common(values: Iterable[str | None]) -> str | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _own_id(doc: TargetDoc, backend: Backend) -> str | None:
    """What the provider itself calls the model: litellm's names have the provider's before it."""
    if backend.dialect != "litellm" or doc.upstream_id is None:
        return doc.upstream_id
    return doc.upstream_id.partition("/")[2]


def _unheard(dialect: Dialect, thinking: ThinkingSupport) -> frozenset[str]:
    """Spellings of thinking that a strict server refuses and that nobody may translate for it.

    A target that always or never thinks is not changed by them, and is sent the request without.
    """
    return MEMBERS - dialect.thinking.heads if dialect.strict and thinking == "unknown" else frozenset()


def _first(*values: bool | None) -> bool:
    return next((value for value in values if value is not None), False)
