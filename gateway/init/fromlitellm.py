"""From a LiteLLM proxy's `config.yaml` to a draft: what can be carried over is, and all else is told by line.

Read as strictly as our own files: aliases, duplicate keys and huge files are refused. No value that may be a secret is
copied or shown: keys become the names of environment variables. How LiteLLM reaches a provider is in `litellmhosts`,
how its groups become policies in `litellmgroups`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from gateway.addresses import endpoint
from gateway.catalog.catalogue import Catalogue
from gateway.core.quantities import Invalid
from gateway.core.types import Timeouts
from gateway.init import litellmfile, modelnames
from gateway.init.draft import Draft
from gateway.init.fromkeys import target_name
from gateway.init.litellmgroups import Groups, Shares
from gateway.init.litellmhosts import Reached, reach
from gateway.init.ownserver import OWN, free, model_name, private, recognise
from gateway.yamlfile import Document

_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
#: What people write where a server asks for no key.
_NO_KEY = frozenset({"", "none", "null", "empty", "fake-key", "fake-api-key", "dummy", "not-needed", "anything", "na"})
_MOST = 1_000_000_000  # of a target's limit
#: What a deployment may take, and what that is called at a target.
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "max_parallel_requests": "max_concurrent"}
#: Parameters of a deployment that are read; every other one is told.
_READ = frozenset(
    {"model", "api_base", "base_url", "api_key", "api_version", "weight", "order", "timeout", *_LIMITS}
    | {"input_cost_per_token", "output_cost_per_token", "custom_llm_provider", "organization", "region_name"}
    | {"aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_region_name"}
    | {"vertex_project", "vertex_location", "vertex_credentials", "litellm_credential_name"}
)  # fmt: skip
_INFO = frozenset(
    {"max_input_tokens", "max_output_tokens", "max_tokens", "mode", "base_model", "supports_function_calling"}
    | {"supports_vision", "supports_response_schema", "input_cost_per_token", "output_cost_per_token", "id"}
)  # fmt: skip


class Unfit(Exception):
    """A deployment that cannot be carried over; the text says why. `path` is where, within the deployment."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path


@dataclass(slots=True)
class Conversion:
    """One conversion. `said` collects a line for everything that was not carried over, or otherwise than written."""

    document: Document
    catalogue: Catalogue
    environ: Mapping[str, str]
    draft: Draft
    window: int | None = None  # for models of which nobody says theirs
    said: list[str] = field(default_factory=list)
    literals: dict[str, str] = field(default_factory=dict)  # digest of a key that stood there -> its variable's name
    named: dict[str, dict[str, Any]] = field(default_factory=dict)  # parameters by the name of a credential
    limits: dict[str, dict[str, int]] = field(default_factory=dict)  # of each server of a target
    variables: dict[str, str] = field(default_factory=dict)  # from which a setting was taken, by its path

    def run(self) -> None:
        """Convert everything. Raises Invalid where nothing is left."""
        data = self.document.data
        groups = Groups(self.draft, self.note)
        self.named = litellmfile.credentials(data)
        deployments = data.get("model_list")
        if not isinstance(deployments, list):
            raise Invalid(f"{self.document.name}: holds no model_list", "a LiteLLM proxy's config.yaml")
        for index, entry in enumerate(deployments):
            path = f"model_list[{index}]"
            try:
                name, target, order, shares = self._deployment(entry, path)
            except Unfit as error:
                self.note(f"{path}{error.path}", f"not carried over: {error}")
            else:
                groups.add(name, target, order, shares, path)
        used = {one["backend"] for one in self.draft.targets.values()}
        for name in self.draft.backends.keys() - used:  # nothing of theirs could be carried over
            del self.draft.backends[name]
        if not self.draft.targets:
            lines = "\n".join(self.said)
            what = f"{lines}\nnothing of {self.document.name} could be carried over"
            raise Invalid(what, "--window 128k, if only windows lack")
        self._settings(groups)
        groups.finish()

    def note(self, path: str, text: str) -> None:
        """Tell of something, by line."""
        file, line = self.document.place(path)
        self.said.append(f"{file}:{line}: {path}: {text}")

    # -- deployments --

    def _deployment(self, entry: Any, path: str) -> tuple[str, str, int, Shares]:
        """The group's name, the name of the target, its order, and what says its share of the load. Raises Unfit."""
        if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
            raise Unfit("", "is no deployment: it has no litellm_params")
        group, params = entry.get("model_name"), self._params(entry["litellm_params"], path)
        written = entry.get("model_info")
        info: dict[str, Any] = written if isinstance(written, dict) else {}
        if not isinstance(group, str) or not group or not isinstance(params.get("model"), str):
            raise Unfit("", "model_name or litellm_params.model is not text")
        if "*" in group or "*" in params["model"]:
            raise Unfit(".model_name", "a wildcard; every model is named here")
        if info.get("mode") not in (None, "chat", "completion"):
            raise Unfit(".model_info.mode", "only chat completions are served")
        reached = self._reached(params, f"{path}.litellm_params")
        base = info.get("base_model")
        called = base if isinstance(base, str) else reached.upstream_id
        if info.get("mode") is None and not modelnames.chats(called, self.catalogue):
            what = "its name is not that of a chat model, and only chat completions are served"
            raise Unfit(".litellm_params.model", f"{what}; if it is one: model_info.mode: chat")
        backend = self._backend(reached, params, path)
        target = self._target(reached, backend, params, info, path)
        self._leftovers(params, info, path)
        told = map(params.get, ("weight", "rpm", "tpm"))
        shares = Shares(path, *(min(float(v), 1e12) if _number(v) and v > 0 else 0.0 for v in told))
        order = params.get("order")
        return group, target, order if type(order) is int else 1, shares

    def _params(self, written: dict[str, Any], path: str) -> dict[str, Any]:
        """What a deployment says, over what the credential says that it names."""
        name = written.get("litellm_credential_name")
        if name is None:
            return written
        if str(name) not in self.named:
            self.note(f"{path}.litellm_params.litellm_credential_name", "not carried over: no credential_list has it")
        return {**self.named.get(str(name), {}), **written}

    def _reached(self, params: Mapping[str, Any], path: str) -> Reached:
        plain = {name: self._plain(value, f"{path}.{name}") for name, value in params.items() if name in _READ}
        base = plain.get("api_base") or plain.get("base_url")
        provider = plain.get("custom_llm_provider")
        try:
            return reach(str(params["model"]), base, provider, plain, self.catalogue)
        except Invalid as error:
            raise Unfit(".litellm_params.model", self._says(error, path)) from None

    def _says(self, error: Invalid, path: str) -> str:
        """What is wrong with an address, or names the variable that holds it: it may be a secret, by mistake."""
        for name in ("api_base", "base_url"):
            variable = self.variables.get(f"{path}.{name}")
            if variable is not None:
                return f"what {variable} holds is not a URL of a server: {error.valid}"
        return f"{error.what}: {error.valid}"

    def _plain(self, value: Any, path: str) -> str | None:
        """A setting that is no secret, as text; a reference is looked up, and told where its variable is not set."""
        if path.endswith(("api_key", "_access_key", "_access_key_id", "_token", "_credentials")) or value is None:
            return None
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is None:
            return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
        found = self.environ.get(reference[1])
        if not found:
            raise Unfit(path[path.index(".litellm_params") :], f"it is in {reference[1]}, which is not set here")
        self.note(path, f"{reference[1]} is written out: only keys are read from the environment")
        self.variables[path] = reference[1]
        return found

    def _backend(self, reached: Reached, params: Mapping[str, Any], path: str) -> str:
        """The name of the deployment's backend, which others may share. Raises Unfit."""
        path = f"{path}.litellm_params"
        made: dict[str, Any] = {"dialect": reached.dialect}
        host = ""
        if reached.base_url is not None:
            try:
                where = endpoint(reached.base_url)
            except Invalid as error:
                raise Unfit(".litellm_params.api_base", self._says(error, path)) from None
            host = where.host
            if reached.dialect in OWN or private(host):
                made["self_hosted"] = True
            if reached.dialect != "litellm":
                made["base_url"] = where.url
        if reached.api_version is not None:
            made["api_version"] = reached.api_version
        usual = "" if any(map(params.get, reached.secrets)) else reached.key_env
        key = self._key(params.get("api_key"), usual, f"{path}.api_key", needed="base_url" not in made)
        if reached.region is not None:
            made["region"] = reached.region
        if reached.dialect == "litellm":
            if reached.provider:
                made["provider"] = reached.provider
            options: dict[str, Any] = dict(reached.options)
            for name in reached.secrets:
                if params.get(name) is not None:
                    ref = self._key(params[name], name.upper(), f"{path}.{name}", needed=True)
                    options |= {name: ref} if ref is not None else {}
            more: dict[str, Any] = {"api_base": reached.base_url} if reached.base_url else {}
            more |= {"options": options} if options else {}
            if more:
                made["litellm"] = more
        if key is not None:
            made["key"] = key
        seconds = params.get("timeout")
        if _number(seconds) and 0 < seconds <= 604_800:
            made["timeouts"] = _clocks(seconds)
        for name, known in self.draft.backends.items():
            if known == made:
                return name
        place = "local" if host and private(host) else host.split(".")[0]
        name = free(reached.called or place or reached.dialect, self.draft.backends)
        self.draft.backends[name] = made
        return name

    def _key(self, value: Any, usual: str, path: str, *, needed: bool) -> dict[str, str] | None:
        """Where a key is read from. One that stands in the file is never copied: it gets a variable's name."""
        if value is None:
            return {"env": usual} if usual else None
        if isinstance(value, str) and (found := _REFERENCE.fullmatch(value)):
            return {"env": found[1]}
        if not isinstance(value, str) or value.strip().lower() in _NO_KEY:
            return {"env": usual} if needed and usual else None
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        name = self.literals.get(digest)
        if name is None:
            name = free(usual or "UPSTREAM_API_KEY", dict.fromkeys(self.literals.values())).replace("-", "_")
            self.literals[digest] = name
        self.note(path, f"a key stands here and is not copied: put it into the environment as {name}")
        return {"env": name}

    def _target(
        self, reached: Reached, backend: str, params: Mapping[str, Any], info: Mapping[str, Any], path: str
    ) -> str:
        """The name of the deployment's target, new or the same as of another group. Raises Unfit."""
        base = info.get("base_model")
        named = [base.split("/", 1)[-1]] if isinstance(base, str) else []
        model = next(filter(None, (recognise(self.catalogue, one) for one in (*named, reached.upstream_id))), None)
        model = model or _rented_as(self.catalogue, reached)
        known = model is not None
        if model is None:
            model = self._unknown(named[0] if named else reached.upstream_id, info, path)
        made: dict[str, Any] = {"model": model, "backend": backend, "upstream_id": reached.upstream_id}
        region = reached.region or self.catalogue.regions.get(reached.provider)
        offer = None
        if known and reached.provider:
            offer = self.catalogue.offer(model, reached.provider, region, _provider_s_id(reached))
        window = next((info[name] for name in ("max_input_tokens", "max_tokens") if _count(info.get(name))), None)
        if window is None and (offer is None or offer.window is None):
            window = self.window
            if window is None:
                what = f"nobody says how many tokens {reached.upstream_id} takes"
                raise Unfit("", f"{what}: model_info.max_input_tokens, or --window")
        if window is not None:
            made["window"] = window
        if _count(info.get("max_output_tokens")):
            made["max_output"] = info["max_output_tokens"]
        if not known:
            made |= {"tools": info.get("supports_function_calling") is not False}
            made |= {"structured_output": info.get("supports_response_schema") is not False}
        made["price"] = self._price(params, info) or ("catalog" if offer is not None and offer.in_usd else "none")
        limits = {name: params[said] for said, name in _LIMITS.items() if _limit(params.get(said))}
        for name, one in self.draft.targets.items():
            if one == made | limits:
                return name
        twin = self._replica(made, limits)
        if twin is not None:
            return twin
        made |= limits
        name = free(target_name(model, backend), self.draft.targets)
        self.draft.targets[name], self.limits[name] = made, limits
        if not known:
            self.draft.remark(f"targets.{name}", "LiteLLM asks nobody what a model can; `pointsman probe` does")
        return name

    def _replica(self, made: Mapping[str, Any], limits: Mapping[str, int]) -> str | None:
        """A target that is this one on another server of one's own: then this backend's address joins the other's, and
        its limits add up with the other's."""
        mine = self.draft.backends[made["backend"]]
        if mine["dialect"] not in OWN or any(one["backend"] == made["backend"] for one in self.draft.targets.values()):
            return None
        place = {"base_url", "endpoints"}
        for name, one in self.draft.targets.items():
            theirs = self.draft.backends[one["backend"]]
            same = all(theirs.get(k) == mine.get(k) for k in (theirs.keys() | mine.keys()) - place)
            alone = sum(other["backend"] == one["backend"] for other in self.draft.targets.values()) == 1
            each = {**one, "backend": "", **self.limits[name]}
            if same and alone and each == {**made, "backend": "", **limits}:
                urls = theirs.pop("endpoints", None) or [theirs.pop("base_url")]
                theirs["endpoints"] = [*urls, mine["base_url"]]
                one |= {key: min(_MOST, one[key] + value) for key, value in limits.items()}
                del self.draft.backends[made["backend"]]
                return name
        return None

    def _unknown(self, sent: str, info: Mapping[str, Any], path: str) -> str:
        """A model that is not in the catalogue, put into a file over it with what the file says of it."""
        name = model_name(sent, self.catalogue)
        if name not in self.draft.unknown_models:
            entry: dict[str, Any] = {"family": modelnames.family(name, self.catalogue)}
            if modelnames.closed(name):
                entry["open_weights"] = False
            sees = info.get("supports_vision")
            if not isinstance(sees, bool):
                sees = modelnames.sees(name)
                if not sees:
                    what = "nothing is known of what it reads: taken to read text alone"
                    self.note(
                        f"{path}.litellm_params.model", f"{what}; if images, too: model_info.supports_vision: true"
                    )
            entry["modalities"] = ["text", "image"] if sees else ["text"]
            self.draft.unknown_models[name] = {**entry, "source": "init"}
        return name

    def _price(self, params: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, float] | None:
        """A price that the file states, in USD per million tokens."""
        for one in (params, info):
            per = (one.get("input_cost_per_token"), one.get("output_cost_per_token"))
            if _number(per[0]) and _number(per[1]) and 0 <= per[0] < 1 and 0 <= per[1] < 1:
                return {"input": round(per[0] * 1e6, 6), "output": round(per[1] * 1e6, 6)}
        return None

    def _leftovers(self, params: Mapping[str, Any], info: Mapping[str, Any], path: str) -> None:
        for part, known, name in ((params, _READ, "litellm_params"), (info, _INFO, "model_info")):
            for key, value in part.items():
                if key not in known:
                    self.note(f"{path}.{name}.{key}", litellmfile.why(key))
                elif key in _LIMITS and value is not None and not _limit(value):
                    self.note(f"{path}.{name}.{key}", f"not carried over: a whole number from 1 to {_MOST:,} is taken")

    # -- the rest of the file --

    def _settings(self, groups: Groups) -> None:
        data = self.document.data
        for section in ("litellm_settings", "router_settings"):
            written = data.get(section)
            for key, value in written.items() if isinstance(written, dict) else ():
                path = f"{section}.{key}"
                if key in ("fallbacks", "context_window_fallbacks"):
                    groups.fallbacks(value, path)
                elif key == "default_fallbacks":
                    groups.default_fallbacks(value, path)
                elif key == "model_group_alias":
                    groups.aliases(value, path)
                elif key == "num_retries" and type(value) is int and 0 <= value <= 15:
                    self.draft.more["max_attempts"] = value + 1
                elif key in ("timeout", "request_timeout") and _number(value) and 0 < value <= 604_800:
                    self.draft.more["timeouts"] = _clocks(value)
                else:
                    self.note(path, litellmfile.why(key))
        self._general(data.get("general_settings"))
        variables = data.get("environment_variables")
        for name in variables if isinstance(variables, dict) else ():
            self.note(f"environment_variables.{name}", "not copied, it may be a secret: set it in the environment")
        known = {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables"}
        known |= {"include", "credential_list"}
        for section in sorted(data.keys() - known):
            self.note(section, "not carried over")

    def _general(self, written: Any) -> None:
        for key, value in written.items() if isinstance(written, dict) else ():
            path = f"general_settings.{key}"
            if key != "master_key":
                self.note(path, litellmfile.why(key))
                continue
            ref = self._key(value, "LITELLM_MASTER_KEY", path, needed=True)
            if ref is None:
                continue
            self.draft.admin_key = ref
            held = self.environ.get(ref["env"], "").strip()
            if re.fullmatch(r"[A-Za-z0-9_.\-]{8,256}", held):
                digest = hashlib.sha256(held.encode()).hexdigest()
                self.draft.keys.append({"name": "master", "sha256": digest, "allow": ["*"], "explain": True})
                self.note(path, "opens the admin listener, and as the key `master` the clients' one")
            else:
                self.note(path, f"opens the admin listener, from {ref['env']}; clients need keys: --key NAME")


def convert(
    file: Path, catalogue: Catalogue, environ: Mapping[str, str], draft: Draft, window: int | None
) -> list[str]:
    """Carry a LiteLLM file over into a draft; returns what needs telling. Raises ConfigError, Invalid."""
    conversion = Conversion(litellmfile.load(file), catalogue, environ, draft, window)
    conversion.run()
    return conversion.said


def _provider_s_id(reached: Reached) -> str:
    """What the provider itself calls the model: litellm's names have the provider's before it."""
    if reached.dialect != "litellm":
        return reached.upstream_id
    own = reached.upstream_id.partition("/")[2]
    return own.removeprefix("converse/").removeprefix("invoke/") if reached.provider == "bedrock" else own


def _rented_as(catalogue: Catalogue, reached: Reached) -> str | None:
    """The model that a provider rents out, or did, by this very id."""
    found = (
        model
        for (model, provider), offers in catalogue.offers.items()
        if provider == reached.provider and any(one.upstream_id == _provider_s_id(reached) for one in offers)
    )
    return next(found, None)


def _clocks(seconds: float) -> dict[str, str]:
    """A timeout of the whole request, and those of its parts that would not fit into it."""
    usual = Timeouts()
    parts = {"connect": usual.connect_s, "headers": usual.headers_s, "first_event": usual.first_event_s}
    return {
        name: f"{seconds:g}s" for name, usually in (*parts.items(), ("total", 0)) if usually > seconds or not usually
    }


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _limit(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= _MOST


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 10**12
