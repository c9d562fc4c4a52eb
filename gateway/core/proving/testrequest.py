"""A test's request, read the way serving reads one: the same parse, hints, signals and lexicon.

The bytes come from whoever reads files. What a signal means stands in `signals`; what is expected of the decision in
`expectations`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gateway.core.clauses.matchers import Problems
from gateway.core.errors import GatewayError
from gateway.core.policy import Policy, TestDoc, clock
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.request import wire
from gateway.core.request.hints import Hints
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Tenant

NOT_READ = "cannot be read here"


@dataclass(frozen=True, slots=True)
class Reader:
    """What requests are read with. `bodies` holds those that stand in files, by the path that a test gives."""

    lexicon: Lexicon
    tokenizers: Tokenizers
    bodies: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read: its signals, and the targets that its `model` names, if it names any."""

    signals: Signals
    pinned: int | None


def body_of(request: Any, bodies: Mapping[str, bytes]) -> bytes | None:
    """The bytes of a request that is written out, or of the file that it names; None where there is no such file."""
    if isinstance(request, str):
        return bodies.get(request)
    return json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")


def read_request(policy: Policy, test: TestDoc, path: str, reader: Reader | None, problems: Problems) -> Asked | None:
    """The request of a test; None after a noted problem."""
    body = None if reader is None else body_of(test.request, reader.bodies)
    if reader is None or body is None:
        problems.add(f"{path}.request", NOT_READ, "a JSON file beside the policy, or the body written out")
        return None
    headers = {name.lower(): value for name, value in test.headers.items()}
    try:
        hints = Hints.parse(headers)
    except GatewayError as error:
        problems.add(f"{path}.headers", error.message, "headers as a client sends them")
        return None
    try:
        envelope = wire.parse(body)
    except GatewayError as error:
        what = f"is refused before anything is decided: {error.code}: {error.message}"
        problems.add(f"{path}.request", what, "the body of a chat request")
        return None
    asked = hints.policy or envelope.model_asked.removeprefix("auto/")
    if asked != policy.name and (hints.policy is not None or envelope.model_asked.startswith("auto/")):
        at = f"{path}.headers.x-pointsman-policy" if hints.policy else f"{path}.request.model"
        problems.add(at, f"asks for the policy {asked!r}, and this is {policy.name}", f"auto or {policy.name}")
        return None
    signals = Signals.of(
        envelope,
        tenant=Tenant("test", MappingProxyType(dict(test.tenant))),
        hints=hints,
        headers=headers,
        tokenizers=reader.tokenizers,
        lexicon=reader.lexicon,
        now=clock(policy),
        blocking=True,
    )
    return Asked(signals, named(policy, envelope.model_asked) or None)


def named(policy: Policy, name: object) -> int:
    """The targets of that name, or of the model of that name."""
    return sum(1 << t.index for t in policy.fleet.targets if name in (t.name, t.model.id, *t.model.aliases))
