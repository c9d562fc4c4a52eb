"""What one target really does, seen by asking it: the requests of a probe, what each may cost, what its answer shows.

Bodies are made and answers are read by the code that serves, so what is seen is what a request through the gateway
would meet. Which targets are asked, how that is told and what is recorded stand in `probe` and `proberecord`.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx

from gateway import servers
from gateway.core.request import wire
from gateway.core.servers import dialects
from gateway.core.types import Outcome, Target, Thinking
from gateway.probe.reply import (
    PARAMETERS,
    SCHEMA,
    TOOL,
    Reply,
    filler,
    holds_schema,
    length_in,
    png,
    unheeded,
    usage_in,
)

Verdict = Literal["same", "differs", "wrong", "note", "failed"]

OUTPUT = 96  # tokens that an answer may have: enough to see whether it begins with thinking
THOUGHTS = 1024  # where thinking cannot be switched off, and the answer comes after it
OVER = 1.1  # how much longer than the window the prompt is that must be refused
ROUNDS = 8  # of a bisection
MOST_SHOWN = 240  # characters of a cell: servers' words have no end
#: A refusal of a prompt that long, and a bisection's prompts, are only worth it where tokens cost no money.
FREE_WINDOW = 262_144
_SAID_NO = (Outcome.CLIENT_ERROR, Outcome.INEXPRESSIBLE)
_NEVER, _ALWAYS, _CLIENT = Thinking("never"), Thinking("always"), Thinking("client")

_QUESTION = "A pen costs 3 euros and a book costs 4 times as much. What do 2 pens and 1 book cost? Answer in one word."


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was asked. `record` is what --write puts into the target's entry: setting -> value."""

    check: str
    configured: str
    seen: str
    verdict: Verdict
    note: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a probe and the most it can cost, in requests and in tokens of prompt and answer."""

    name: str
    requests: int
    tokens: int


@dataclass(slots=True)
class Probe:
    """One probe of one target. `bisect` allows the window to be searched for, at its price."""

    target: Target
    client: httpx.Client
    secrets: Callable[[], Sequence[str]] = tuple  # texts that must not come back in a server's words
    bisect: bool = False
    requests: int = 0
    tokens: int = 0
    rows: list[Row] = field(default_factory=list)
    plan: dialects.Plan = field(init=False)
    can_switch: bool = field(init=False)
    _asked: Target = field(init=False)

    def __post_init__(self) -> None:
        target = self.target
        # What is said to be unsupported never leaves the gateway: here it must, to be seen.
        self._asked = replace(target, unsupported=frozenset())
        self.plan = dialects.prepare(self._asked)
        self.can_switch = False
        if target.thinking != "never":
            self._use_switch()

    def _use_switch(self) -> None:
        """Ask with the thinking switch from here on, if its dialect has one."""
        if self.plan.dialect.thinking.exists:
            self.can_switch = True
            self.plan = dialects.prepare(replace(self._asked, thinking="switchable"))

    # -- what it may cost --

    def steps(self) -> list[Step]:
        """What will be asked, and the most that each part can cost."""
        output = THOUGHTS if self.target.thinking == "always" else OUTPUT
        prompt = 64
        steps = [
            Step("lists", 3, 0),
            Step("answer", 2, 2 * (prompt + output)),
            Step("stream", 1, prompt + output),
            Step("tools", 1, 2 * prompt + output),
            Step("structured_output", 1, 2 * prompt + output),
            Step("parameters", 1 + len(PARAMETERS), (1 + len(PARAMETERS)) * (prompt + 2 * 8)),
        ]
        if "image" in self.target.modalities:
            steps.append(Step("image", 1, 2048 + output))
        if self._asks_overflow():
            steps.append(Step("overflow", 1, self._too_long() + 1))
            if self.bisect:
                steps.append(Step("window", ROUNDS, ROUNDS * (self._too_long() + 1)))
        return steps

    def _asks_overflow(self) -> bool:
        """Where tokens cost money, a prompt of a whole window is sent only if that was asked for."""
        return self.bisect or (self.target.backend.self_hosted and self.target.window <= FREE_WINDOW)

    def _too_long(self) -> int:
        return math.ceil(self.target.window * OVER) + 64

    # -- asking --

    def run(self) -> list[Row]:
        """Ask everything, one request at a time. Never raises for what a server does."""
        url = self.target.backend.endpoints[0].url
        listing, listed = servers.models(self.client, self.target.backend.dialect, url)
        window = servers.window(self.client, self.target.backend.dialect, url, self.target.upstream_id)
        self.requests += 2
        first = self._chat({"messages": _user(_QUESTION)}, self._quiet())
        if first.reasoned and not self.can_switch:  # it was said never to think: does it at least obey?
            self._use_switch()
            if self.can_switch:
                first = self._chat({"messages": _user(_QUESTION)}, self._quiet())
        if not first.ok:
            self._row("answers", "", first.said(), "failed", _advice(first))
            return self.rows
        self._row("answers", "", f"yes, in {first.took_s:.2f} s", "note")
        self._listing(listing, [one.id for one in listed])
        streamed = self._chat({"messages": _user(_QUESTION), "stream": True}, _ALWAYS if self.can_switch else _CLIENT)
        self._thinking(first, streamed)
        self._usage(first, streamed)
        self._tools()
        self._structured()
        self._parameters()
        if "image" in self.target.modalities:
            self._image()
        refused = self._overflow() if self._asks_overflow() else None
        self._window(window, refused)
        return self.rows

    def _listing(self, answer: servers.Answer, ids: Sequence[str]) -> None:
        sent = self.target.upstream_id
        if sent in ids:
            self._row("listed", sent, "yes", "note")
        elif ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            self._row("listed", sent, f"no: {shown}", "note", "it answers to a name it does not list")
        else:
            why = answer.error or (f"status {answer.status}" if answer.status != 200 else "an empty list")
            self._row("listed", sent, f"not known: {why}", "note")

    def _thinking(self, told_not: Reply, told_to: Reply) -> None:
        configured = self.target.thinking
        if not told_to.ok:
            self._row("thinking", configured, f"streams fail: {told_to.said()}", "failed")
            return
        silent, thoughtful = not told_not.reasoned, told_to.reasoned
        if not self.can_switch:
            seen = "never" if silent and not thoughtful else "always" if thoughtful and not silent else "unknown"
            note = "plain requests: its dialect has no switch" if configured != "never" else "plain requests"
        else:
            seen = {(True, True): "switchable", (True, False): "never", (False, True): "always"}.get(
                (silent, thoughtful), "unknown"
            )
            note = f"told not to: {_thought(told_not)}; told to: {_thought(told_to)}"
        if "<think>" in str(told_not.message().get("content") or ""):
            seen, note = "unknown", "its thinking stands in the text of the answer: the server needs a reasoning parser"
        self._compare("thinking", configured, seen, note)

    def _usage(self, plain: Reply, streamed: Reply) -> None:
        seen = f"plain {'yes' if plain.usage else 'missing'}, streams {streamed.usage_in or 'missing'}"
        missing = plain.usage is None or not streamed.usage_in
        note = "tokens are estimated where it does not say" if missing else ""
        self._row("usage", "", seen, "wrong" if missing else "note", note)

    def _tools(self) -> None:
        reply = self._chat(
            {"messages": _user("What is the weather in Paris now? Use the tool."), "tools": [TOOL]}, self._quiet()
        )
        calls = reply.message().get("tool_calls")
        made = isinstance(calls, list) and bool(calls) and "get_weather" in json.dumps(calls)[:10_000]
        note = "" if made else "answered without a call" if reply.ok else reply.said()
        self._ability("tools", self.target.tools, made, reply, note)

    def _structured(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "probe", "strict": True, "schema": SCHEMA}}
        reply = self._chat({"messages": _user("Say hello."), "response_format": form}, self._quiet())
        held = holds_schema(reply.message().get("content"))
        note = "" if held else "the answer does not keep to the schema" if reply.ok else reply.said()
        self._ability("structured_output", self.target.structured_output, held, reply, note)

    def _ability(self, name: str, configured: bool, seen: bool, reply: Reply, note: str) -> None:
        if not reply.ok and reply.outcome not in (*_SAID_NO, Outcome.SERVER_ERROR):
            self._row(name, _yes(configured), "not known", "failed", note)
        else:
            self._compare(name, configured, seen, note)

    def _parameters(self) -> None:
        body = {"messages": _user("Say hello."), "max_tokens": 8}
        refused = self.plan.dialect.refuses  # of the whole kind of server: no target can say otherwise
        every = {name: value for name, (value, _) in PARAMETERS.items() if name not in refused}
        reply = self._chat({**body, **every}, self._quiet())
        found = set(unheeded(reply, every))
        if not reply.ok:
            for name, value in every.items():
                one = self._chat({**body, name: value}, self._quiet())
                if one.outcome in _SAID_NO or (one.ok and unheeded(one, [name])):
                    found.add(name)
                elif not one.ok:
                    self._row("unsupported", _names(self.target.unsupported), "not known", "failed", one.said())
                    return
        configured = self.target.unsupported & every.keys()
        others = self.target.unsupported - every.keys() - refused
        record = {} if found == configured else {"unsupported": sorted(found | others)}
        verdict: Verdict = "same" if found == configured else "differs"
        note = f"of {', '.join(every)}"
        self._row("unsupported", _names(configured), _names(found), verdict, note, record)

    def _image(self) -> None:
        content = [
            {"type": "text", "text": "What colour is this? Answer in one word."},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"}},
        ]
        reply = self._chat({"messages": [{"role": "user", "content": content}]}, self._quiet())
        modalities = sorted(self.target.modalities)
        if reply.ok:
            self._row("image", "yes", "yes", "same")
        elif reply.outcome in (*_SAID_NO, Outcome.SERVER_ERROR):
            left = [name for name in modalities if name != "image"]
            self._row("image", "yes", "no", "differs", reply.said(), {"modalities": left})
        else:
            self._row("image", "yes", "not known", "failed", reply.said())

    def _overflow(self) -> Reply:
        """Send more than it can take: how that is refused, or that it is not."""
        long = self._too_long()
        reply = self._chat({"messages": _user(filler(long)), "max_tokens": 1}, self._quiet())
        if reply.outcome is Outcome.CONTEXT_LENGTH:
            self._row("overflow", "refused", "refused as context_length", "same")
        elif reply.ok and reply.usage is not None and reply.usage.input >= self.target.window:
            seen = f"taken: {reply.usage.input:,} tokens"
            self._row("overflow", "refused", seen, "note", "it takes more than configured")
        elif reply.ok:
            took = f"{reply.usage.input:,} tokens of about {long:,}" if reply.usage else "no usage"
            self._row("overflow", "refused", f"answered, {took}", "wrong", "it cuts prompts off without a word")
        else:
            note = "not told from other errors: such a request would not go to a larger target"
            self._row("overflow", "refused", reply.said(), "wrong", note)
        return reply

    def _window(self, told: int | None, refused: Reply | None) -> None:
        configured = self.target.window
        where = "it says so itself"
        if told is None and refused is not None and refused.outcome is Outcome.CONTEXT_LENGTH:
            told, where = length_in(refused.body), "its refusal says so"
            if told is None and self.bisect:
                told, where = self._search(), "found by trying"
        if told is None:
            note = "" if self.bisect else "--window searches for it"
            self._row("window", f"{configured:,}", "not known", "note", note)
        elif told < configured:
            self._row("window", f"{configured:,}", f"{told:,}", "differs", where, {"window": told})
        else:
            note = where if told == configured else f"{where}; less is configured"
            self._row("window", f"{configured:,}", f"{told:,}", "same", note)

    def _search(self) -> int | None:
        """The longest prompt it takes, by bisection: known to some hundredths after `ROUNDS`."""
        taken, refused = 0, self._too_long()
        for _ in range(ROUNDS):
            tried = (taken + refused) // 2
            reply = self._chat({"messages": _user(filler(tried)), "max_tokens": 1}, self._quiet())
            if reply.ok and reply.usage is not None:
                taken = max(tried, reply.usage.input)
            elif reply.outcome is Outcome.CONTEXT_LENGTH:
                refused = tried
            else:
                return None
            if refused - taken < max(64, refused // 50):
                break
        return taken or None

    # -- requests --

    def _quiet(self) -> Thinking:
        return _NEVER if self.can_switch else _CLIENT

    def _chat(self, body: Mapping[str, Any], thinking: Thinking) -> Reply:
        output = THOUGHTS if self.target.thinking == "always" else OUTPUT
        request = {"model": self.target.name, "temperature": 0, "max_tokens": output, **body}
        envelope = wire.parse(json.dumps(request).encode())
        try:
            content = dialects.request_body(envelope, self.plan, thinking)
        except dialects.CannotSay as error:
            return Reply(None, error=str(error))
        url = self.target.backend.endpoints[0].url + self.plan.path
        self.requests += 1
        began = time.monotonic()
        reply = self._streamed(url, content) if envelope.stream else self._whole(url, content)
        if reply.usage is not None:
            self.tokens += reply.usage.input + reply.usage.output
        return replace(reply, took_s=time.monotonic() - began)

    def _whole(self, url: str, content: bytes) -> Reply:
        got = servers.send(self.client, "POST", url, content)
        if got.error:
            return Reply(None, error=got.error)
        if got.status != 200:
            return Reply(dialects.classify(self.plan, got.status, got.body), got.status, got.body)
        facts = self.plan.parse(got.body)
        if facts is None:
            return Reply(dialects.classify_answer(self.plan, got.body), got.status, error="it is no chat completion")
        body = got.body if facts.body is None else facts.body
        thought = facts.reasoned or bool(facts.usage and facts.usage.reasoning)
        return Reply(Outcome.OK, got.status, body, reasoned=thought, usage=facts.usage)

    def _streamed(self, url: str, content: bytes) -> Reply:
        got = servers.send(self.client, "POST", url, content)
        if got.error:
            return Reply(None, error=got.error)
        if got.status != 200:
            return Reply(dialects.classify(self.plan, got.status, got.body), got.status, got.body)
        relay = self.plan.relay(True)
        events = relay.feed(got.body) + relay.end()
        if relay.failure is not None:
            return Reply(relay.failure, got.status, error="its stream breaks off or is no event stream")
        thought = relay.reasoned or bool(relay.usage and relay.usage.reasoning)
        return Reply(Outcome.OK, got.status, b"", "", thought, relay.usage, usage_in(events))

    def _compare(self, check: str, configured: bool | str, seen: bool | str, note: str) -> None:
        verdict: Verdict = "same" if configured == seen else "differs"
        record = {} if configured == seen else {check: seen}
        self._row(check, _yes(configured), _yes(seen), verdict, note, record)

    def _row(
        self, check: str, configured: str, seen: str, verdict: Verdict, note: str = "", record: Any = None
    ) -> None:
        secrets = self.secrets()
        # Scrubbed before it is cut: what is left of a secret at a cut would no longer be known for one.
        seen, note = _scrubbed(seen, secrets)[:MOST_SHOWN], _scrubbed(note, secrets)[:MOST_SHOWN]
        self.rows.append(Row(check, configured, seen, verdict, note, record or {}))


def _scrubbed(text: str, secrets: Sequence[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return "".join(char if char.isprintable() else "?" for char in text)


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _yes(value: bool | str) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


def _names(found: Any) -> str:
    return ", ".join(sorted(found)) or "none"


def _thought(reply: Reply) -> str:
    return "thinks" if reply.reasoned else "does not think"


def _advice(reply: Reply) -> str:
    return {
        Outcome.AUTH: "its key is missing or wrong",
        Outcome.FORBIDDEN: "its key may not use this model",
        Outcome.MODEL_GONE: "upstream_id names no model there",
        None: "nobody answers there",
    }.get(reply.outcome, "")
