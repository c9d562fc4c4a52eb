"""From the address of a model server to a backend and its targets: what it lists, matched with the catalogue.

What the catalogue does not know must be said: nobody can route by a family, a window or a thinking that was guessed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from gateway import servers
from gateway.addresses import endpoint
from gateway.catalog.catalogue import Catalogue
from gateway.core import quantities
from gateway.core.quantities import Invalid
from gateway.core.servers.dialects import DIALECTS
from gateway.core.types import Endpoint
from gateway.init.draft import Draft
from gateway.init.fromkeys import target_name
from gateway.init.providers import hosted
from gateway.problems import suggest
from gateway.progress import waiting
from gateway.secretref import SecretRef, read_secret

#: Kinds of server that people run themselves, wherever they stand.
OWN = frozenset({"vllm", "sglang", "llama.cpp", "ollama"})
#: So many models of one server become targets at most.
MOST_MODELS = 20
THINKING = ("never", "switchable", "always", "unknown")
_ASK_S = 3.0
_PACKING = re.compile(
    r"[-_.:](?:fp8|fp4|nvfp4|mxfp4|bf16|f16|awq|gptq|int4|int8|4bit|8bit|gguf|i?q[0-9]\w*|latest)$", re.IGNORECASE
)


@dataclass(slots=True)
class Wanted:
    """A model as the command line names it. What is None is found out, or asked for."""

    name: str | None = None
    window: int | None = None
    family: str | None = None
    thinking: str | None = None
    upstream_id: str | None = None

    def over(self, base: Wanted) -> Wanted:
        """This, with what is None taken from another."""
        return Wanted(*(getattr(self, name) or getattr(base, name) for name in self.__dataclass_fields__))


@dataclass(slots=True)
class Server:
    """A server as the command line names it: `--backend DIALECT=URL` and the options after it."""

    dialect: str
    url: str
    key_env: str | None = None
    models: list[Wanted] = field(default_factory=list)
    common: Wanted = field(default_factory=Wanted)  # said before any --model: of all its models


class Asker(Protocol):
    """Puts a question to a person. Where there is none, it gives the default, or raises Invalid naming the option."""

    def __call__(
        self, question: str, option: str, check: Callable[[str], Any], *, default: str = "", needed: bool = True
    ) -> Any:
        """The answer as `check` makes it, asked again while `check` raises Invalid. `default` is only for people."""


@dataclass(slots=True)
class Adding:
    """Adds servers to a draft. `said` collects what a person should know of how it was done."""

    draft: Draft
    catalogue: Catalogue
    environ: Mapping[str, str]
    ask: Asker
    offline: bool = False
    said: list[str] = field(default_factory=list)

    def add(self, server: Server) -> None:
        """Add one. Raises Invalid."""
        if server.dialect not in DIALECTS:
            raise Invalid(f"no dialect {server.dialect!r:.60}", suggest(server.dialect, DIALECTS))
        where = endpoint(server.url)
        if not where.path and server.dialect != "ollama":
            where = endpoint(f"{where.url}/v1")
            self.said.append(f"{server.url} has no path: taken for {where.url}")
        provider = self.catalogue.provider_of(where.host)
        own = server.dialect in OWN or (provider is None and private(where.host))
        known = hosted(self.catalogue).get(provider or "")
        key_env = server.key_env or (known.key_env if known else None)
        with self._client(where, key_env) as client:
            with waiting(f"asking {where.url}"):
                listed = () if self.offline else self._listed(client, server.dialect, where)
            wanted = server.models or [Wanted(one.id) for one in listed[:MOST_MODELS]]
            if not wanted:
                tried = "" if self.offline else f"{self.said.pop()}. "
                name = self.ask(f"{tried}Which model does {where.url} serve", "--model NAME", _text)
                wanted = [Wanted(name)]
            if len(listed) > MOST_MODELS and not server.models:
                self.said.append(f"{where.url} lists {len(listed)} models, the first {MOST_MODELS} are taken: --model")
            name = free(provider or ("local" if private(where.host) else where.host.split(".")[0]), self.draft.backends)
            backend: dict[str, Any] = {"dialect": server.dialect} | ({"self_hosted": True} if own else {})
            self.draft.backends[name] = (
                backend | {"base_url": where.url} | ({"key": {"env": key_env}} if key_env else {})
            )
            for one in wanted:
                self._target(one.over(server.common), name, provider, listed, own=own)
                target = self.draft.targets[next(reversed(self.draft.targets))]
                if "window" not in target and own:
                    with waiting(f"asking {where.url}"):
                        target["window"] = self._window(client, server.dialect, where, target)
                    target["price"] = target.pop("price")  # what people look for first stands first

    def _client(self, where: Endpoint, key_env: str | None) -> httpx.Client:
        headers = {}
        if key_env and self.environ.get(key_env):
            key = read_secret(SecretRef(env=key_env), self.environ, Path())
            headers["Authorization"] = f"Bearer {key.reveal()}"
        return httpx.Client(timeout=_ASK_S, headers=headers, trust_env=False)

    def _listed(self, client: httpx.Client, dialect: str, where: Endpoint) -> tuple[servers.Listed, ...]:
        answer, listed = servers.models(client, dialect, where.url)
        if not listed:
            why = answer.error or f"status {answer.status}"
            self.said.append(f"{where.url} was asked for its models and named none ({why})")
        return listed

    def _window(self, client: httpx.Client, dialect: str, where: Endpoint, target: Mapping[str, Any]) -> int:
        told = None if self.offline else servers.window(client, dialect, where.url, target["upstream_id"])
        if told is not None:
            self.said.append(f"{where.url} says that it takes {told:,} tokens for {target['upstream_id']}")
            return told
        size: int = self.ask(f"How many tokens does it take for {target['upstream_id']}", "--window TOKENS", tokens)
        return size

    def _target(
        self, wanted: Wanted, backend: str, provider: str | None, listed: tuple[servers.Listed, ...], *, own: bool
    ) -> None:
        assert wanted.name is not None  # noqa: S101 - for the type checker: whoever calls has a name
        sent = wanted.upstream_id or _listed_as(wanted.name, listed, self.catalogue)
        model = recognise(self.catalogue, wanted.name) or recognise(self.catalogue, sent or wanted.name)
        if model is None:
            model = self._unknown(wanted, sent or wanted.name)
        elif model not in (wanted.name, sent):
            self.said.append(f"{wanted.name} is taken for {model}")
        made: dict[str, Any] = {"model": model, "backend": backend}
        offer = self.catalogue.offer(model, provider, self.catalogue.regions.get(provider)) if provider else None
        if sent or offer is None:
            made["upstream_id"] = sent or wanted.name
        window = wanted.window or next((one.window for one in listed if one.id == made.get("upstream_id")), None)
        if window is not None:
            made["window"] = window
        elif not own and (offer is None or offer.window is None):
            made["window"] = self.ask(f"How many tokens does it take for {wanted.name}", "--window TOKENS", tokens)
        if wanted.thinking:
            made["thinking"] = wanted.thinking
        made["price"] = "catalog" if offer is not None and offer.in_usd else "none"
        self.draft.targets[free(target_name(model, backend), self.draft.targets)] = made

    def _unknown(self, wanted: Wanted, sent: str) -> str:
        """A model that is not in the catalogue, put into a file over it."""
        name = model_name(sent, self.catalogue)
        if name not in self.draft.unknown_models:
            says = f"The catalogue does not know {sent}."
            both = "--family NAME" + ("" if wanted.thinking else f" --thinking {'|'.join(THINKING)}")
            guess = (re.match(r"[a-z]+", name) or [""])[0]
            family = wanted.family or self.ask(f"{says} Which family is it of", both, _family, default=guess)
            wanted.thinking = wanted.thinking or self.ask(
                f"{says} Can it think ({', '.join(THINKING)})",
                f"--thinking {'|'.join(THINKING)}",
                thinking,
                default="never",
            )
            self.draft.unknown_models[name] = {"family": family, "thinking": wanted.thinking, "source": "init"}
            if sent != name:
                self.draft.unknown_models[name]["aliases"] = [sent]
        return name


def recognise(catalogue: Catalogue, name: str) -> str | None:
    """The catalogue's model behind a name as servers and people write it; None where it is not certain.

    Letters' case, whose repository it is and how its weights are packed make no other model.
    """
    if name in catalogue.names:
        return catalogue.names[name]
    plain = _bare(name)
    while True:
        found = {model for known, model in catalogue.names.items() if _bare(known) == plain}
        if found:
            return found.pop() if len(found) == 1 else None
        shorter = _PACKING.sub("", plain)
        if shorter == plain:
            return None
        plain = shorter


def _bare(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()


def _listed_as(name: str, listed: tuple[servers.Listed, ...], catalogue: Catalogue) -> str | None:
    """The server's own id for a model that was named."""
    ids = [one.id for one in listed]
    if name in ids:
        return name
    model = recognise(catalogue, name)
    same = [one for one in ids if model is not None and recognise(catalogue, one) == model]
    if len(same) == 1:
        return same[0]
    return ids[0] if len(ids) == 1 else None


def model_name(sent: str, catalogue: Catalogue) -> str:
    """A name for a model that the catalogue does not know."""
    name = re.sub(r"[^a-z0-9._-]+", "-", _bare(sent).removesuffix(".gguf")).strip("-._")[:60] or "model"
    return name if name not in catalogue.names else f"{name[:56]}-own"


def private(host: str) -> bool:
    """Is it this machine, or an address that only a private network has?"""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host or host.endswith((".local", ".internal", ".lan", ".svc"))


def free(name: str, taken: Mapping[str, Any]) -> str:
    """The name itself, or with the first number behind it that nobody has."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "server"
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def tokens(text: str) -> int:
    """A window as people write it. Raises Invalid."""
    size = quantities.tokens(int(text) if text.isdecimal() else text)
    if not 0 < size <= 10**12:
        raise Invalid(f"{text!r:.40} is out of range", "more than 0 tokens, such as 8192 or 128k")
    return size


def thinking(text: str) -> str:
    """One of the words for it. Raises Invalid."""
    if text not in THINKING:
        raise Invalid(f"{text!r:.40} is not one of them", f"one of {', '.join(THINKING)}")
    return text


def _family(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise Invalid(f"{text!r:.40} cannot be a name", "letters, digits, '.', '_' and '-'")
    return text


def _text(text: str) -> str:
    if not text:
        raise Invalid("nothing was said", "its name")
    return text
