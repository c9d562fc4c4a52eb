"""How LiteLLM names providers and reaches them, in our terms: dialect, address, and the variable its key is usually in.

Names and addresses only; what a deployment says besides is `fromlitellm`'s. A provider without a dialect of its own
goes through the sidecar, under the name that LiteLLM knows it by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.catalog.catalogue import Catalogue
from gateway.core.quantities import Invalid
from gateway.core.servers.rows import DIALECTS
from gateway.init.providers import hosted

#: LiteLLM's name of a provider -> the catalogue's.
_CATALOGUE = {
    "dashscope": "dashscope-intl",
    "deepinfra": "deepinfra",
    "openrouter": "openrouter",
    "together_ai": "together",
    "groq": "groq",
    "fireworks_ai": "fireworks",
    "cerebras": "cerebras",
    "huggingface": "huggingface",
    "novita": "novita",
    "nebius": "nebius",
    "sambanova": "sambanova",
    "openai": "openai",
}
#: Servers of one's own: LiteLLM's name -> dialect, and the address where none is given.
_OWN: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "hosted_vllm": ("vllm", ""),
        "vllm": ("vllm", ""),
        "ollama": ("ollama", "http://localhost:11434"),
        "ollama_chat": ("ollama", "http://localhost:11434"),
        "llamafile": ("llama.cpp", "http://127.0.0.1:8080/v1"),
        "lm_studio": ("openai", ""),
        "openai_like": ("openai", ""),
        "custom_openai": ("openai", ""),
        "litellm_proxy": ("openai", ""),
        "xinference": ("openai", ""),
        "docker_model_runner": ("openai", ""),
    }
)
#: Providers that LiteLLM has and we have no dialect for: which variable holds their key.
_LITELLM: Mapping[str, str] = MappingProxyType(
    {
        "anthropic": "ANTHROPIC_API_KEY",
        "gemini": "GEMINI_API_KEY",
        "mistral": "MISTRAL_API_KEY",
        "codestral": "CODESTRAL_API_KEY",
        "cohere": "COHERE_API_KEY",
        "cohere_chat": "COHERE_API_KEY",
        "deepseek": "DEEPSEEK_API_KEY",
        "xai": "XAI_API_KEY",
        "perplexity": "PERPLEXITYAI_API_KEY",
        "moonshot": "MOONSHOT_API_KEY",
        "nvidia_nim": "NVIDIA_NIM_API_KEY",
        "databricks": "DATABRICKS_API_KEY",
        "replicate": "REPLICATE_API_KEY",
        "watsonx": "WATSONX_API_KEY",
        "ai21_chat": "AI21_API_KEY",
        "github": "GITHUB_API_KEY",
        "sagemaker_chat": "",
        "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
        "vertex_ai": "",
        "azure": "AZURE_API_KEY",
        "azure_ai": "AZURE_AI_API_KEY",
    }
)
#: Those of them that the catalogue knows offers of.
_RENTED = {
    "bedrock": "bedrock",
    "vertex_ai": "vertex",
    "azure_ai": "azure",
    "databricks": "databricks",
    "watsonx": "watsonx",
}
_SECRETS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "vertex_credentials")


@dataclass(frozen=True, slots=True)
class Reached:
    """How a deployment is reached. `secrets` are parameters that may hold credentials which litellm is to have."""

    dialect: str
    upstream_id: str
    base_url: str | None = None  # None: litellm knows it
    key_env: str = ""
    provider: str = ""  # the catalogue's name of it
    called: str = ""  # a name for its backend; empty: its host's
    api_version: str | None = None
    region: str | None = None  # where it is, if the deployment says so
    secrets: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)  # what litellm is told besides


def reach(
    model: str, base: str | None, provider: str | None, params: Mapping[str, str | None], catalogue: Catalogue
) -> Reached:
    """How LiteLLM would reach `model`, whose first part often names the provider. Raises `Invalid`."""
    name, id_ = _split(model, provider, base)
    if name in _OWN:
        dialect, usual = _OWN[name]
        url = base or usual
        if not url:
            raise Invalid(f"{name} is a server of one's own", "api_base: its address")
        return Reached(dialect, id_, _rooted(url, dialect), called="" if base else "local")
    if name == "azure":
        return _azure(id_, base, params)
    if name == "azure_ai" and base and re.search(r"\.(services\.ai|openai)\.azure\.", base):
        return Reached("azure", id_, _azure_ai(base), "AZURE_AI_API_KEY", "azure", "azure", _version(base, params))
    known = _CATALOGUE.get(name)
    if known is not None and (base is None or name != "openai"):
        host = hosted(catalogue).get(known)
        if host is not None:
            if name == "huggingface" and id_.count("/") > 1:  # provider/organisation/model
                place, _, rest = id_.partition("/")
                id_ = f"{rest}:{place}"
            return Reached(host.dialect, id_, base or host.base_url, host.key_env, known, host.called)
    if name == "openai" and base:
        return Reached("openai", id_, base, "OPENAI_API_KEY" if "api.openai.com" in base else "", called="")
    if name not in _LITELLM:
        raise Invalid(f"{name!r:.60} is no provider that is known here", "a provider that LiteLLM names")
    if "litellm" not in DIALECTS:
        raise Invalid(f"there is no dialect for {name}", "another provider")
    return _by_litellm(name, id_, base, params)


def _split(model: str, provider: str | None, base: str | None) -> tuple[str, str]:
    """LiteLLM's name of the provider, and the id that it sends there."""
    first, slash, rest = model.partition("/")
    if provider:
        return provider, rest if slash and first == provider else model
    if slash and (first in _OWN or first in _CATALOGUE or first in _LITELLM):
        return first, rest
    if base is not None or re.match(r"gpt-|chatgpt-|o[1-9](?:-|$)", model):
        return "openai", model
    if model.startswith("claude"):
        return "anthropic", model
    if model.startswith("gemini"):
        return "gemini", model
    return (first, rest) if slash else ("openai", model)


def _rooted(url: str, dialect: str) -> str:
    """An address as its dialect wants it: Ollama's without a path, others with one."""
    url = url.rstrip("/")
    if dialect == "ollama":
        return re.sub(r"/(?:v1|api)$", "", url)
    return url if re.search(r"//[^/]+/", f"{url}") else f"{url}/v1"


def _azure(deployment: str, base: str | None, params: Mapping[str, str | None]) -> Reached:
    if base is None:
        raise Invalid("azure has an address for each resource", "api_base: https://RESOURCE.openai.azure.com")
    version = _version(base, params)
    root = re.sub(r"(?<=[^/])/+(?:openai(?:/.*)?)?$", "", base.partition("?")[0])
    url = f"{root}/openai" if version else f"{root}/openai/v1"
    return Reached("azure", deployment, url, "AZURE_API_KEY", "azure", api_version=version)


def _azure_ai(base: str) -> str:
    root = base.partition("?")[0].rstrip("/")
    return root if root.endswith(("/models", "/openai/v1")) else f"{root}/openai/v1"


def _version(base: str, params: Mapping[str, str | None]) -> str | None:
    """The API version that a path without v1 needs; `v1` and `preview` are of the path that needs none."""
    if base.partition("?")[0].rstrip("/").endswith("/openai/v1"):
        return None
    version = params.get("api_version")
    return None if version in (None, "", "v1", "preview", "latest") else version


def _by_litellm(name: str, id_: str, base: str | None, params: Mapping[str, str | None]) -> Reached:
    """Through the sidecar, with what it must be told: only what our file has a place for."""
    wanted = ("api_version", "aws_region_name", "organization", "region_name", "vertex_location", "vertex_project")
    options = {option: value for option in wanted if (value := params.get(option))}
    region = params.get("aws_region_name") or params.get("vertex_location")
    key = "" if params.get("aws_region_name") and name == "sagemaker_chat" else _LITELLM[name]
    return Reached(
        "litellm",
        f"{name}/{id_}",
        base,
        key,
        provider=_RENTED.get(name, ""),
        called=name.replace("_", "-"),
        region=region if region and re.fullmatch(r"[a-z0-9-]{2,40}", region) else None,
        options=options,
        secrets=_SECRETS,
    )
