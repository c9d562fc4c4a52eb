"""A small fleet, and policies written as the dicts that their YAML is: what the policy tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from gateway.core.policy import Policy, PolicyDoc, compile_policy
from gateway.core.reading.signals import Signals
from gateway.core.text.tokens import Bounds
from gateway.core.types import Backend, Fleet, Model, Price, PriceTier, Snapshot, Target

LLAMA4 = frozenset(["ar", "en", "fr", "de", "hi", "id", "it", "pt", "es", "tl", "th", "vi"])
LLAMA3 = frozenset(["en", "de", "fr", "it", "pt", "hi", "es", "th"])
NOON = 1_795_262_400.0  # 2026-11-21, 12:00 UTC

MODELS = (
    Model("llama-4-scout", "llama", ("Scout",), languages=LLAMA4, thinking="never", images_max=5,
          modalities=frozenset({"text", "image"}), license="llama4-community", eu_domiciled_licensee_excluded=True),
    Model("llama-4-maverick", "llama", languages=LLAMA4, thinking="never", license="llama4-community",
          eu_domiciled_licensee_excluded=True),
    Model("llama-3.3-70b", "llama", languages=LLAMA3, thinking="never", license="llama3.3-community"),
    Model("qwen3.5-122b-a10b", "qwen", params_active_b=10, thinking="switchable", license="Apache-2.0",
          modalities=frozenset({"text", "image", "video"}), tokenizer="qwen3.5"),
    Model("qwen3.5-35b-a3b", "qwen", params_active_b=3, thinking="switchable", license="Apache-2.0",
          tokenizer="qwen3.5"),
    Model("qwen3-coder-next", "qwen", params_active_b=3, thinking="never", license="Apache-2.0", purpose="code"),
    Model("qwen3.5-plus", "qwen", thinking="switchable", open_weights=False),
    Model("gpt-oss-120b", "gpt-oss", thinking="always", license="Apache-2.0"),
    Model("gpt-5", "gpt", thinking="always", open_weights=False),
)  # fmt: skip
CATALOGUE = {model.id: model for model in MODELS}
BACKENDS = {
    "us": Backend("us", "vllm", (), region="us-east-1", processing="us", self_hosted=True),
    "eu": Backend("eu", "vllm", (), region="eu", self_hosted=True),
    "ap": Backend("ap", "dashscope", (), region="ap-southeast-1", processing="global"),
    "host": Backend("host", "openai", (), region=None),
}


def price(usd_in: float, usd_out: float) -> Price:
    return Price((PriceTier(0, int(usd_in * 1e9), int(usd_out * 1e9)),), "test")


def target(name: str, model: str, backend: str, window: int, cost: tuple[float, float] | None, **more: Any) -> Target:
    facts = CATALOGUE[model]
    defaults: dict[str, Any] = {
        "modalities": facts.modalities, "tools": True, "structured_output": True, "thinking": facts.thinking
    }  # fmt: skip
    defaults["price"] = price(*cost) if cost else None
    return Target(name, -1, facts, BACKENDS[backend], model, window, **{**defaults, **more})


def fleet(targets: Sequence[Target]) -> Fleet:
    return Fleet(tuple(replace(one, index=i) for i, one in enumerate(targets)), CATALOGUE)


TARGETS = (
    target("scout", "llama-4-scout", "us", 1_000_000, (0.2, 0.6)),
    target("scout-small", "llama-4-scout", "host", 327_680, (0.1, 0.3)),
    target("maverick", "llama-4-maverick", "us", 1_000_000, (0.3, 0.8)),
    target("llama70", "llama-3.3-70b", "host", 131_072, (0.23, 0.4), retires_on=date(2026, 12, 1)),
    target("qwen122", "qwen3.5-122b-a10b", "eu", 262_144, (0.4, 3.0)),
    target("qwen35", "qwen3.5-35b-a3b", "eu", 262_144, (0.1, 1.0)),
    target("coder", "qwen3-coder-next", "us", 262_144, (0.2, 1.0), unsupported=frozenset({"logprobs"})),
    target("plus", "qwen3.5-plus", "ap", 1_000_000, (0.4, 2.4), max_output=64_000, max_input=900_000),
    target("oss", "gpt-oss-120b", "us", 131_072, None, tools=False, structured_output=False),
    target("gone", "llama-3.3-70b", "us", 131_072, (0.1, 0.1), retires_on=date(2026, 7, 17)),
    target("gpt", "gpt-5", "host", 400_000, (1.0, 8.0)),
)
FLEET = fleet(TARGETS)
ANYTHING: list[Any] = [{"id": "all", "use": ["*"]}]


def document(**parts: Any) -> dict[str, Any]:
    """A policy document with the parts that a test is about."""
    return {"policy": "test", "rank": "listed", "rules": ANYTHING, **parts}


def policy(of: Fleet = FLEET, **parts: Any) -> Policy:
    return compile_policy(PolicyDoc.model_validate(document(**parts)), of, digest="0123456789abcdef")


def snapshot(of: Fleet = FLEET, *, held_back: Sequence[str] = (), **more: Any) -> Snapshot:
    available = sum(1 << one.index for one in of.targets if one.name not in held_back)
    return Snapshot(**{"now": NOON, "draw": 0.5, "available": available, **more})


def mask(of: Fleet, *names: str) -> int:
    return sum(1 << one.index for one in of.targets if one.name in names)


def given(**values: Any) -> Signals:
    """Signals with these values; `tenant_domicile` stands for `tenant.domicile`."""
    named = {
        name.replace("_", ".", 1) if name.partition("_")[0] in ("tenant", "headers", "metadata") else name: value
        for name, value in values.items()
    }
    return Signals.given(named)


class Watched:
    """Signals that note what is asked of them, and pass the question on."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._signals = given(**(values or {}))
        self.asked: list[str] = []

    def get(self, name: str) -> Any:
        self.asked.append(name)
        return self._signals.get(name)

    def exceeds(self, tokenizer: str | None, limit: int) -> bool:
        self.asked.append("context_tokens")
        return self._signals.exceeds(tokenizer, limit)

    def fits(self, one: Target) -> bool:
        self.asked.append("fits")
        return self._signals.fits(one)

    def surely_within(self, limit: int) -> bool:
        return False  # so that every question about lengths is seen

    def tokens(self, tokenizer: str | None) -> Bounds:
        return self._signals.tokens(tokenizer)
