"""Hosted providers as `pointsman init` knows them: where they answer, and which variable usually holds their key.

Addresses and names of variables only. How a provider is spoken to is a row of `core.dialects`, found by its name;
what it serves, for how much, is the catalogue's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.core.dialects import DIALECTS


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. `name` is the catalogue's; `dialects` are tried in order, `openai` is what is left."""

    name: str
    key_env: str
    base_url: str
    backend: str = ""  # what init calls it; empty: its name
    dialects: tuple[str, ...] = ()
    base_env: str = ""  # where it answers elsewhere for some: the variable that says so

    @property
    def called(self) -> str:
        """The name of its backend in a new file."""
        return self.backend or self.name

    @property
    def dialect(self) -> str:
        """The best dialect there is for it."""
        return next((one for one in (*self.dialects, self.name) if one in DIALECTS), "openai")


_ROWS = (
    Provider(
        "dashscope-intl",
        "DASHSCOPE_API_KEY",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        backend="dashscope",
        dialects=("dashscope",),
        base_env="DASHSCOPE_API_BASE",
    ),
    Provider("deepinfra", "DEEPINFRA_API_KEY", "https://api.deepinfra.com/v1/openai"),
    Provider("openrouter", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1"),
    Provider("together", "TOGETHER_API_KEY", "https://api.together.ai/v1"),
    Provider("groq", "GROQ_API_KEY", "https://api.groq.com/openai/v1"),
    Provider("fireworks", "FIREWORKS_API_KEY", "https://api.fireworks.ai/inference/v1"),
    Provider("cerebras", "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1"),
    Provider("huggingface", "HF_TOKEN", "https://router.huggingface.co/v1"),
    Provider("novita", "NOVITA_API_KEY", "https://api.novita.ai/openai"),
    Provider("nebius", "NEBIUS_API_KEY", "https://api.tokenfactory.nebius.com/v1"),
    Provider("sambanova", "SAMBANOVA_API_KEY", "https://api.sambanova.ai/v1"),
    Provider("openai", "OPENAI_API_KEY", "https://api.openai.com/v1", base_env="OPENAI_BASE_URL"),
)
PROVIDERS: Mapping[str, Provider] = MappingProxyType({one.name: one for one in _ROWS})
