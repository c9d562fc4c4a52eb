"""`pointsman demo`: a real gateway in front of a real, small model, and four requests that take four routes.

Here: what the demo starts, asks and prints, and how it ends whatever happens. The model server is `model`; the
gateway is `pointsman serve`, started as a process of its own with a configuration written for the occasion, so that
what is shown is what a user gets. Nothing else of the gateway is imported.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn, cast

import httpx

from gateway.demo.model import ALIAS, INSTALL, WINDOW_TOKENS, missing
from gateway.terminal import BOLD, DIM, GREEN, coloured, styled

HOST = "127.0.0.1"
START_S = 60.0  # a model of 98 MB loads in under a second; a cold, slow disk is what the rest is for
STOP_S = 0.7  # patience with each child, twice, when the demo ends

#: One model answers for all targets. Prices are what the named one may cost to run: a GPU's hour over its tokens.
CONFIG = """\
# Written by `pointsman demo`, removed when it ends. Every target is the same small local model, standing in.
listen: {{public: "{host}:{port}", admin: "{host}:{admin}"}}
policies: {{default: demo}}
ledger: none
backends:
  local: {{dialect: llama.cpp, self_hosted: true, base_url: "{model_url}/v1"}}
targets:
{targets}"""
TARGET = (
    "  {name}: {{model: {model}, backend: local, upstream_id: {alias}, window: {window}, stand_in: true, tools: true, "
    "structured_output: true, price: {{gpu_hour_usd: {usd}, tokens_per_hour: {tokens}}}}}\n"
)
#: target, model, USD for a GPU-hour, tokens in that hour
TARGETS = (
    ("scout-demo", "llama-4-scout", "6.40", "40M"),
    ("maverick-demo", "llama-4-maverick", "25.60", "80M"),
    ("qwen122-demo", "qwen3.5-122b-a10b", "12.80", "60M"),
    ("qwen35-demo", "qwen3.5-35b-a3b", "3.20", "50M"),
    ("coder-demo", "qwen3-coder-next", "6.40", "50M"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the demo: `text` is sent, `shown` is printed, `more` are further members of the body."""

    title: str
    text: str
    shown: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


def questions() -> tuple[Question, ...]:
    """The four requests. Each is only what a client would send: `model: auto`, and no word of where it should go."""
    document = Path(__file__).with_name("document.txt").read_text(encoding="utf-8")
    ask = "Which rule is about long trains?"
    return (
        Question(
            "A long document",
            f"{document}\n{ask}",
            f"[a document of {len(document.split())} words] {ask}",
            {"max_completion_tokens": 80},
        ),
        Question("Code", "Write a Python function that adds two numbers.", more={"max_completion_tokens": 160}),
        Question("Another language", "Hola, ¿cuál es la capital de Francia?", more={"max_completion_tokens": 60}),
        Question(
            "A hard question, with thinking",
            "A ticket costs 5 euros and a sandwich costs 2 times as much. What do 2 tickets and 1 sandwich cost?",
            more={"reasoning_effort": "high"},
        ),
    )


class DemoError(Exception):
    """The demo cannot go on; the text says what is wrong and what to do."""


class Child:
    """A process of the demo. It cannot outlive this one: it ends when its standard input does."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - a list of our own words, no shell
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if name == "model" else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its children in order
            )

    def ended(self) -> NoReturn:
        """Raise what is known of why it ended."""
        code = self.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise DemoError(f"The {self.name} server ended ({how}).\n{tail}".rstrip())

    def stop(self) -> None:
        """End it: ask, ask again (which ends streams at once), then insist."""
        for action in (self.process.terminate, self.process.terminate, self.process.kill):
            if self.process.poll() is not None:
                break
            action()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Screen:
    """Where the demo is told."""

    def __init__(self, out: IO[str], *, colour: bool) -> None:
        self.out = out
        self.styled = colour
        self._line_ends = 0

    def line(self, text: str = "", style: str = "") -> None:
        """One line."""
        self.write(text, style)
        self.out.write("\n")
        self.out.flush()

    def write(self, text: str, style: str = "") -> None:
        """Text as it arrives. `style` is the number of an ANSI style."""
        self.out.write(styled(text, style) if self.styled else text)
        self.out.flush()

    def begin(self, label: str) -> None:
        """Start an answer, indented under its question."""
        self.write(f"   {label}: ", DIM)
        self._line_ends = 0

    def answer(self, text: str, style: str = "") -> None:
        """A piece of it. Line ends wait for the text that follows them, so that an answer ends without empty lines."""
        for number, part in enumerate(text.split("\n")):
            self._line_ends += number > 0
            if part:
                self.out.write("\n" * self._line_ends + ("   " if self._line_ends else ""))
                self._line_ends = 0
                self.write(part, style)


def run(
    port: int = 8080, admin_port: int = 8081, *, once: bool = False, colour: bool = True, out: IO[str] | None = None
) -> int:
    """Run the demo: 0 when it ended as asked, 1 with one clear message when it could not do its work.

    `once` ends it after the four answers. Ports of 0 take free ones. Without `colour` there is none on a terminal, too.
    """
    out = out or sys.stdout
    screen = Screen(out, colour=coloured(out, os.environ, wanted=colour))
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    children: list[Child] = []
    directory: Path | None = None
    try:
        if lacking := missing():
            raise DemoError(f"The demo needs {' and '.join(lacking)}: {INSTALL}")
        port, admin_port = free(port, "--port"), free(admin_port, "--admin-port")
        directory = Path(tempfile.mkdtemp(prefix="pointsman-demo-"))
        _demonstrate(screen, directory, children, port, admin_port, once=once)
    except _Stopped:
        screen.line("\nStopped.")
    except DemoError as error:
        print(f"pointsman demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head`: no file is to blame
        raise
    except OSError as error:
        where = f" ({error.filename or directory})" if error.filename or directory else ""
        print(f"pointsman demo: cannot write its files: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # ending takes under two seconds; a second Ctrl-C must not spoil it
        for child in reversed(children):
            child.stop()
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, so that nothing on the way takes it for a failure."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped


def free(port: int, option: str) -> int:
    """The port itself if it can be bound, a free one for 0. Raises DemoError naming the option that helps."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DemoError(
                f"Port {port} cannot be used ({reason}). Choose another: pointsman demo {option} {port % 60000 + 1000}"
            ) from None
        return int(probe.getsockname()[1])


def _demonstrate(
    screen: Screen, directory: Path, children: list[Child], port: int, admin_port: int, *, once: bool
) -> None:
    screen.line("Pointsman demo", BOLD)
    screen.line("One small local model (SmolLM2, 135 million parameters) stands in for every model the policy names.")
    screen.line("The routing is real and so are the answers; how good they are says nothing about those models.")
    screen.line()

    began = time.monotonic()
    screen.write("Loading the model (98 MB, llama.cpp, no GPU, no network) ")
    threads = max(1, min(4, (os.cpu_count() or 2) - 1))  # one too many on a busy machine is ten times slower
    model = Child("model", ["gateway.demo.model", "--threads", str(threads)], directory)
    children.append(model)
    url = _model_url(model, screen)
    screen.line(f" ready in {time.monotonic() - began:.1f} s")

    began = time.monotonic()
    screen.write("Starting the gateway ")
    config = directory / "pointsman.yaml"
    targets = "".join(
        TARGET.format(name=name, model=named, alias=ALIAS, window=WINDOW_TOKENS, usd=usd, tokens=tokens)
        for name, named, usd, tokens in TARGETS
    )
    config.write_text(
        CONFIG.format(host=HOST, port=port, admin=admin_port, model_url=url, targets=targets), encoding="utf-8"
    )
    gateway = Child("gateway", ["gateway.cli", "serve", "--config", str(config), "--until-eof"], directory)
    children.append(gateway)
    base = f"http://{HOST}:{port}"
    _until_ready(gateway, base, screen)
    screen.line(f" ready in {time.monotonic() - began:.1f} s")

    for number, question in enumerate(questions(), 1):
        _ask(screen, base, number, question, children)
    if not once:
        _invite(screen, base, admin_port, gateway.log)
        while all(child.process.poll() is None for child in children):
            time.sleep(0.2)
        next(child for child in children if child.process.poll() is not None).ended()


def _model_url(model: Child, screen: Screen) -> str:
    """Where the model server listens, which it prints as its first line; a dot a second until then."""
    pipe = cast("IO[bytes]", model.process.stdout)
    deadline = time.monotonic() + START_S
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if ready.select(1.0):
                line = pipe.readline()
                if not line:
                    model.ended()
                return str(json.loads(line)["url"])
            screen.write(".")
    raise DemoError(f"The model did not load within {START_S:.0f} s.")


def _until_ready(gateway: Child, base: str, screen: Screen) -> None:
    began = dotted = time.monotonic()
    while (now := time.monotonic()) < began + START_S:
        if gateway.process.poll() is not None:
            gateway.ended()
        try:
            if httpx.get(f"{base}/readyz", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if now > dotted + 1:
            screen.write(".")
            dotted = now
        time.sleep(0.05)
    raise DemoError(f"The gateway did not become ready within {START_S:.0f} s.")


def _ask(screen: Screen, base: str, number: int, question: Question, children: list[Child]) -> None:
    """Send one request, stream its answer to the screen, then tell how it was decided and what it took."""
    screen.line()
    screen.line(f"{number}. {question.title}", BOLD)
    screen.line(f"   > {question.shown or question.text}")
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": question.text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        **question.more,
    }
    began = time.monotonic()
    try:
        with httpx.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=300, trust_env=False) as answer:
            if answer.status_code != 200:
                told = answer.read().decode("utf-8", "replace")
                raise DemoError(f"Request {number} was answered with status {answer.status_code}: {told}")
            head = answer.headers
            _decided(screen, head)
            first_s, tokens = _relay(screen, answer.iter_bytes(), began)
    except (httpx.TransportError, DemoError) as error:
        for child in children:  # a dead child is the cause; the failed request is what came of it
            if child.process.poll() is not None:
                child.ended()
        raise error if isinstance(error, DemoError) else DemoError(f"Request {number} failed: {error!r}") from None
    took_s = time.monotonic() - began
    cost = _cost(base, head["x-request-id"])
    screen.line(
        f"   first event {first_s:.2f} s · total {took_s:.2f} s · {tokens} · {cost} · "
        f"attempts {head.get('x-pointsman-attempts', '?')}",
        DIM,
    )


def _decided(screen: Screen, head: Mapping[str, str]) -> None:
    rule, target = head["x-pointsman-rule"], head["x-pointsman-target"]
    screen.write("   rule ", DIM)
    screen.write(rule, GREEN)
    screen.write(" -> ", DIM)
    screen.write(head["x-pointsman-model"], GREEN)
    screen.line(f" (target {target}, stand-in) · thinking {head['x-pointsman-thinking']}", DIM)
    screen.line(f"   because {head['x-pointsman-because']} · policy {head['x-pointsman-policy']}", DIM)


def events(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream. Lines end at LF only: text may hold other separators (U+2028)."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                yield json.loads(data)


def _relay(screen: Screen, pieces: Iterator[bytes], began: float) -> tuple[float, str]:
    """Print a stream as it arrives. Returns seconds to the first text, and the tokens used in words."""
    first_s, told, speaking = 0.0, "tokens unknown", ""
    for event in events(pieces):
        if error := event.get("error"):
            raise DemoError(f"The stream broke: {error.get('message')}")
        if usage := event.get("usage"):
            told = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            for member, label, style in (("reasoning_content", "thinks", DIM), ("content", "answers", "")):
                if text := delta.get(member):
                    first_s = first_s or time.monotonic() - began
                    if speaking != member:
                        if speaking:
                            screen.line()
                        screen.begin(label)
                        speaking, text = member, text.lstrip()
                    screen.answer(text, style)
    screen.line()
    return first_s, told


def _cost(base: str, request_id: str) -> str:
    """What the gateway booked for a request, in words."""
    answer = httpx.get(f"{base}/v1/decisions/{request_id}", timeout=5, trust_env=False)
    record = answer.json()["record"] if answer.status_code == 200 else {"priced": False}
    return f"{record['cost_nano'] / 1e9:.7f} USD" if record["priced"] else "cost unknown"


def program() -> str:
    """The words that run this program in another terminal, whose PATH need not have it."""
    ran = Path(sys.argv[0]).absolute()
    return shlex.quote(str(ran)) if ran.name == "pointsman" else f"{shlex.quote(sys.executable)} -m gateway.cli"


def _invite(screen: Screen, base: str, admin_port: int, log: Path) -> None:
    screen.line()
    screen.line("The gateway stays up until you press Ctrl-C. Try it:", BOLD)
    screen.line(f"""
  curl -iN {base}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "auto", "stream": true, "max_tokens": 60, "messages": [{{"role": "user", "content": "Hola!"}}]}}'

  from openai import OpenAI                                      # pip install openai
  client = OpenAI(base_url="{base}/v1", api_key="none")
  print(client.chat.completions.create(
      model="auto", max_tokens=60, temperature=0, messages=[{{"role": "user", "content": "Hello!"}}]))

  curl -s {base}/v1/explain -H 'content-type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Why?"}}]}}'

  Watch it in another terminal: {program()} top --url http://{HOST}:{admin_port}

  Admin: http://{HOST}:{admin_port}/metrics and http://{HOST}:{admin_port}/v1/targets · requests are logged in {log}
""")
