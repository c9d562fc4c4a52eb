"""Several gateways that share a store, one upstream and one configuration: keys for each thing that is looked at."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.harness import COMPLETION, Gateway, Script, Upstream, chat, config, plain, running

#: 50 tokens for 2 USD a million: an answer costs 100 micro-dollars, and `max_tokens: 50` says that it can cost no more.
USED = {"prompt_tokens": 10, "completion_tokens": 50, "total_tokens": 60}
ANSWER = plain(body=json.dumps({**COMPLETION, "usage": USED}).encode())
NANO = 100_000


def secret(name: str) -> str:
    return f"sk-{name}-0123456789"


def key(name: str, **limits: Any) -> dict[str, Any]:
    digest = hashlib.sha256(secret(name).encode()).hexdigest()
    return {"name": name, "sha256": digest, "tenant": {"team": name}, **limits}


class Replicas:
    """The gateways, and what is asked of them."""

    def __init__(self, gateways: Sequence[Gateway], upstreams: dict[str, Upstream]) -> None:
        self.gateways = gateways
        self.upstreams = upstreams
        self.upstream = upstreams["a"]
        self._clients = [httpx.Client(base_url=one.public, trust_env=False, timeout=60) for one in gateways]
        self._admins = [httpx.Client(base_url=one.admin, trust_env=False, timeout=60) for one in gateways]

    def ask(self, at: int, name: str, **more: Any) -> httpx.Response:
        """One request to one of them."""
        headers = {"authorization": f"Bearer {secret(name)}"}
        return self._clients[at].post("/v1/chat/completions", json=chat(max_tokens=50, **more), headers=headers)

    def at_once(self, count: int, name: str, workers: int = 40) -> list[httpx.Response]:
        """Requests to all of them in turn."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda at: self.ask(at % len(self.gateways), name), range(count)))

    def metric(self, at: int, line_start: str) -> float:
        """The sum of the samples of one whose line starts so."""
        lines = self._admins[at].get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))

    def close(self) -> None:
        for one in (*self._clients, *self._admins):
            one.close()

    def up(self) -> list[bool]:
        """Of each: can it use the store?"""
        return [self.metric(at, "pointsman_store_up") == 1 for at in range(len(self.gateways))]

    def errors(self, at: int, op: str) -> float:
        """Calls that failed."""
        return self.metric(at, f'pointsman_store_errors_total{{op="{op}"')

    def left(self, at: int, name: str) -> int:
        """What one says is left of a budget, in nano-USD."""
        return round(self.metric(at, f'pointsman_budget_left_usd{{key="{name}"') * 1e9)

    def lines(self, text: str) -> list[int]:
        """How many lines of each one's log have a text."""
        return [sum(text in line for line in one.lines) for one in self.gateways]


@contextlib.contextmanager
def replicas(
    where: Path,
    count: int,
    url: str,
    keys: list[dict[str, Any]],
    *scripts: Script,
    environs: Sequence[Mapping[str, str]] = (),
    **store: Any,
) -> Iterator[Replicas]:
    """So many, started together. Prompts cost nothing. Of several scripts, each is a target's, tried in their order."""
    upstreams = {name: Upstream([script]) for name, script in zip("abc", scripts or [ANSWER], strict=False)}
    order = ", ".join(f"{{target.name: {name}}}" for name in upstreams)

    def settings(at: int) -> dict[str, Any]:
        made = config(
            upstreams, keys=[dict(one) for one in keys], ledger={"dir": "books"}, policies={"dir": "policies"}
        )
        for target in made["targets"].values():
            target["price"] = {"input": 0, "output": 2.0}
        made["timeouts"] |= {"headers": "60s", "first_event": "60s"}
        return made | {"store": {"url": url, **store}}

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        for upstream in upstreams.values():
            stack.callback(upstream.close)
        for at in range(count):
            (where / str(at) / "policies").mkdir(parents=True)
            (where / str(at) / "policies" / "default.yaml").write_text(
                f"policy: default\nrank: listed\nrules:\n  - {{id: all, use: [{order}]}}\n"
            )
        own = environs or [{}] * count
        starting = [running(where / str(at), settings(at), **own[at]) for at in range(count)]
        gateways = list(pool.map(stack.enter_context, starting))
        made = Replicas(gateways, upstreams)
        stack.callback(made.close)
        yield made


def codes(answers: Sequence[httpx.Response]) -> Counter[object]:
    """How often each status came, or each error's code."""
    return Counter(200 if one.status_code == 200 else one.json()["error"]["code"] for one in answers)
