"""A LiteLLM `config.yaml` as LiteLLM itself would see it: with the files it includes, and credentials that have a name.

Here stands, too, what is to be done where a setting has no counterpart. What deployments mean is read in `fromlitellm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway import yamlfile
from gateway.yamlfile import Document

_BUDGET = "`budget:` of a key in `keys:`, or of a team in `teams:`, says how much may be spent and per what"
_STORE = "`store:` names the Valkey or Redis in which replicas share limits and budgets"

_SAYS = {
    "num_retries": "max_attempts says how many targets a request may try",
    "max_retries": "max_attempts says how many targets a request may try",
    "drop_params": "a target's `unsupported:` names members it does not take, and requests that need one go elsewhere",
    "additional_drop_params": "a target's `unsupported:` names members it does not take",
    "extra_headers": "a backend's `headers:` are sent with every request; their values may be secrets",
    "cooldown_time": "health holds failing targets back by itself",
    "allowed_fails": "health holds failing targets back by itself",
    "routing_strategy": "a policy's `rank` says it: cheapest, fastest, weighted, listed",
    "content_policy_fallbacks": "a refusal of content is an answer, and no other target is asked",
    "max_budget": _BUDGET,
    "budget_duration": _BUDGET,
    "provider_budget_config": _BUDGET,
    "redis_host": _STORE,
    "redis_port": _STORE,
    "redis_url": _STORE,
    "redis_password": _STORE,
    "database_url": "virtual keys and spend stay in LiteLLM's database: `pointsman init --key NAME` makes a client key",
    "cache": "answers are not cached",
    "callbacks": "/metrics and the access log tell of every request",
    "success_callback": "/metrics and the access log tell of every request",
    "failure_callback": "/metrics and the access log tell of every request",
}


def load(file: Path) -> Document:
    """The file and those it includes, whose lists follow its own and whose other settings replace its own, as LiteLLM
    has it. Each path tells the file it stands in. Raises ConfigError."""
    document = yamlfile.load(file)
    included = document.data.get("include")
    if not isinstance(included, list):
        return document
    data, parts = dict(document.data), dict(document.parts)
    for name in included:
        if not isinstance(name, str):
            continue
        other = yamlfile.load(file.parent / name)
        for key, value in other.data.items():
            mine = data.get(key)
            if isinstance(value, list) and isinstance(mine, list):
                parts |= {f"{key}[{len(mine) + at}]": (other, f"{key}[{at}]") for at in range(len(value))}
                data[key] = [*mine, *value]
            else:
                parts[key] = (other, key)
                data[key] = value
    return replace(document, data=data, parts=parts)


def credentials(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters that stand under each name in `credential_list`."""
    listed = data.get("credential_list")
    found = {}
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and isinstance(one.get("credential_values"), dict):
            found[str(one.get("credential_name"))] = dict(one["credential_values"])
    return found


def why(key: str) -> str:
    """What to say of a setting that is not carried over."""
    says = _SAYS.get(key)
    return f"not carried over: {says}" if says else "not carried over"
