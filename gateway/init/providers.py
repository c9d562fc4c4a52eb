"""Hosted providers as `pointsman init` takes them up: the catalogue's, with the dialect that each is best spoken to in.

Whose servers answer where, and which variable usually holds a key, are facts and stand in the catalogue; how a server
is spoken to is a row of `core.servers.rows`, found by the provider's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.catalog.catalogue import Catalogue
from gateway.core.servers.rows import DIALECTS

#: Where an account may answer elsewhere: the variable that their own tools read the address from.
_ELSEWHERE = {"dashscope-intl": "DASHSCOPE_API_BASE", "openai": "OPENAI_BASE_URL"}
#: Where the catalogue does not say it: keys there may have any name, and this is a usual one.
_KEYS = {"azure": "AZURE_API_KEY"}


@dataclass(frozen=True, slots=True)
class Hosted:
    """One provider. `name` is the catalogue's, `called` what init calls its backend."""

    name: str
    called: str
    dialect: str
    base_url: str
    key_env: str
    base_env: str = ""


def hosted(catalogue: Catalogue) -> dict[str, Hosted]:
    """Every provider whose address needs nothing filled in, by name; of several with one key, the first."""
    found = {
        one.name: Hosted(
            one.name, _called(one.name), _dialect(one.name), one.base_url, one.key_env, _ELSEWHERE.get(one.name, "")
        )
        for one in catalogue.providers.values()
        if one.base_url is not None and one.key_env is not None and "{" not in one.base_url
    }
    known = ("https://api.openai.com/v1", "OPENAI_API_KEY")
    found.setdefault("openai", Hosted("openai", "openai", "openai", *known, _ELSEWHERE["openai"]))
    first: dict[str, str] = {}
    for name, one in found.items():
        first.setdefault(one.key_env, name)
    return {name: one for name, one in found.items() if first[one.key_env] == name}


def incomplete(catalogue: Catalogue, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that hold a key for a provider whose address has to be filled in -> what to say of it."""
    said = {}
    for one in catalogue.providers.values():
        name = one.key_env or _KEYS.get(one.name)
        if one.base_url is not None and "{" in one.base_url and name and environ.get(name) and name not in said:
            dialect = _dialect(one.name)
            said[name] = f"{name} is set: --backend {dialect}={one.base_url} --key-env {name} --model NAME takes it up"
    used = {one.key_env for one in hosted(catalogue).values()}
    return {name: text for name, text in said.items() if name not in used}


def _called(name: str) -> str:
    return "dashscope" if name == "dashscope-intl" else name


def _dialect(name: str) -> str:
    family = "dashscope" if name.startswith("dashscope-") else name
    return family if family in DIALECTS else "openai"
