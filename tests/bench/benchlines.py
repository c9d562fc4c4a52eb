"""What is compared: the lines of the table, the requests they send, and the configurations of both sides."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from benchparts import KEY, key_hash

#: Bytes of the simulator's JSON answer.
JSON_BYTES = 624
PACED_CHUNKS, PACED_INTERVAL_US, PACED_STREAMS = 200, 10_000, 50
FLOODED_CHUNKS, FLOODED_STREAMS = 2_000, 4
#: Events around the content: role, finish, [DONE].
EXTRA_EVENTS = 3
#: Replaced by the load client with digits that differ in every request.
MARK = "@" * 16

JSON_PATH = "/json/v1"
PACED_PATH = f"/paced/{PACED_CHUNKS}/{PACED_INTERVAL_US}/v1"
FLOODED_PATH = f"/flooded/{FLOODED_CHUNKS}/v1"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table.

    `model` is what the gateway is asked for, `nginx_path` the path that makes nginx do the same. Goal and floor are
    multiples of nginx, or microseconds where `against` is "pinned".
    """

    name: str
    title: str
    goal: float
    floor: float
    model: str
    nginx_path: str
    bodies: str = "equal"  # the file of bodies, below
    head: str = "same"  # the file of header lines
    connections: int = 32
    rate: int = 0
    per_event: bool = False
    events: int = 0  # expected per answer; 0: a JSON answer
    tls: bool = False
    against: str = "nginx"  # or "pinned": the gateway itself, asked for the target by name


LINES = (
    Line("pinned", "pinned request, repeated head", 2.0, 2.5, "sim-json", JSON_PATH),
    Line("heads", "pinned request, every head new", 2.5, 3.3, "sim-json", JSON_PATH, bodies="varied", head="new"),
    Line("tls", "TLS upstream, against nginx to TLS", 2.0, 2.5, "sim-tls", "/tls" + JSON_PATH, tls=True),
    Line(
        "paced", "paced SSE chunk", 1.6, 2.0, "sim-paced", PACED_PATH, bodies="stream", connections=PACED_STREAMS,
        per_event=True, events=PACED_CHUNKS + EXTRA_EVENTS,
    ),
    Line(
        "flooded", "flooded SSE chunk, CPU", 0.8, 1.2, "sim-flooded", FLOODED_PATH, bodies="stream",
        connections=FLOODED_STREAMS, per_event=True, events=FLOODED_CHUNKS + EXTRA_EVENTS,
    ),
    Line("rate", "at 1,000 requests/s", 2.2, 2.8, "sim-json", JSON_PATH, rate=1_000),
    Line("auto", "`auto` on 50 English words, added to pinned", 100.0, 100.0, "auto", "", bodies="words", head="new",
         against="pinned"),
)  # fmt: skip

_SYSTEM = (
    "You are the assistant of a small online shop that sells bicycle parts. Answer in at most three sentences, quote "
    "part numbers exactly as the catalogue writes them, and never promise a delivery date. If a question is about a "
    "return, ask for the order number first. Prices are in euros and include tax. Be friendly, be brief, and say that "
    "you do not know when you do not know."
)
_TURNS = (
    ("user", "Hello! I bought a chain from you in spring and it has started to skip under load on the small cogs."),
    (
        "assistant",
        "I am sorry to hear that. Skipping on the small cogs usually means that the cassette is worn as well. Could "
        "you tell me the order number and roughly how many kilometres you have ridden with that chain?",
    ),
    ("user", "About four thousand, most of them in the rain, and I never changed anything but the chain."),
    (
        "assistant",
        "Then both chain and cassette have done their work. CN-HG701 fits your group; a matching cassette is CS-R7000.",
    ),
)
SENTENCES = (
    "The committee met on Tuesday to discuss the budget for the coming financial year.",
    "Several members of the public asked why the bridge had been closed for so long.",
    "A spokesman said that engineers had found cracks in two of the supporting beams.",
    "Repairs are expected to take at least three months and may cost two million pounds.",
    "Local shops have reported a fall in trade since the road was closed in April.",
    "The council has offered free parking in the town centre during the repairs.",
    "Visitors are advised to use the northern route until further notice is given.",
    "My grandmother used to bake bread every morning before anyone else was awake.",
    "She kept the flour in a wooden chest that her father had made for her.",
    "We would sit at the kitchen table and wait for the first warm slice.",
    "The train left the station ten minutes late because of a signal failure.",
    "Passengers were told to change at the next stop and wait for a bus.",
)


def write_inputs(into: Path) -> None:
    """Write the files of bodies and header lines that the lines name. The same every time."""
    chance = random.Random(7)

    def lines(name: str, bodies: list[dict[str, object]]) -> None:
        text = "\n".join(json.dumps(body, separators=(",", ":")) for body in bodies)
        (into / f"{name}.bodies").write_text(text + "\n")

    def chat(model: str, question: str, **members: object) -> dict[str, object]:
        turns = [{"role": role, "content": text} for role, text in _TURNS]
        messages = [{"role": "system", "content": _SYSTEM}, *turns, {"role": "user", "content": question}]
        return {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 256, **members}

    for line in LINES:
        for model in {line.model, "sim-json"}:
            if line.bodies == "words":
                bodies: list[dict[str, object]] = [
                    {
                        "model": model,
                        "messages": [{"role": "user", "content": " ".join(chance.sample(SENTENCES, 4))}],
                        "user": f"shopper-{MARK}",
                    }
                    for _ in range(256)
                ]
            elif line.bodies == "varied":
                bodies = [
                    chat(model, f"Order {n:06d}. " + "It is quite urgent. " * (n % 23), user=f"shopper-{MARK}")
                    for n in range(64)
                ]
            elif line.bodies == "stream":
                bodies = [chat(model, f"It is order number {n:06d}.", stream=True) for n in range(64)]
            else:
                bodies = [chat(model, f"It is order number {n:06d}.") for n in range(64)]
            lines(f"{line.bodies}-{model}", bodies)
    common = (
        f"authorization: Bearer {KEY}\r\nuser-agent: OpenAI/Python 3.54.0\r\nx-stainless-lang: python\r\n"
        "x-stainless-package-version: 3.54.0\r\nx-stainless-os: Linux\r\nx-stainless-runtime: CPython\r\n"
    )
    (into / "same.head").write_text(common)
    (into / "new.head").write_text(f"{common}x-request-id: {MARK}{MARK}\r\ntraceparent: 00-{MARK}{MARK}-{MARK}-01\r\n")


def nginx_http(port: int, sim_port: int, tls_port: int | None, certificate: Path | None) -> str:
    """The yardstick: one nginx location per kind of traffic, kept-alive connections on both sides."""
    tls = ""
    if tls_port is not None:
        tls = f"""
upstream sim_tls {{ server 127.0.0.1:{tls_port}; keepalive 256; keepalive_requests 1000000000; }}"""
    tls_location = f"""
  location /tls/ {{
    proxy_pass https://sim_tls/;
    proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificate}; proxy_ssl_name localhost;
  }}"""
    return f"""
upstream sim {{ server 127.0.0.1:{sim_port}; keepalive 256; keepalive_requests 1000000000; }}{tls}
server {{
  listen 127.0.0.1:{port};
  keepalive_requests 1000000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_read_timeout 120s;
  location = /readyz {{ return 200; }}
  location /json/ {{ proxy_pass http://sim; }}
  location ~ ^/(paced|flooded)/ {{ proxy_pass http://sim; proxy_buffering off; }}{tls_location if tls else ""}
}}"""


def terminator_http(port: int, sim_port: int, certificate: Path, key: Path) -> str:
    """The TLS side of the simulator: an nginx that ends TLS in front of it, on the other CPU."""
    return f"""
upstream sim {{ server 127.0.0.1:{sim_port}; keepalive 256; keepalive_requests 1000000000; }}
server {{
  listen 127.0.0.1:{port} ssl;
  ssl_certificate {certificate}; ssl_certificate_key {key};
  keepalive_requests 1000000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  location / {{ proxy_pass http://sim; }}
}}"""


def write_config(
    into: Path,
    *,
    public: int,
    admin: int,
    sim_port: int,
    tls_port: int | None,
    ca: Path | None,
    limits: str = "",
) -> Path:
    """pointsman.yaml of the gateway under test: a key, prices, and a fleet in which `auto` has to choose.

    Every target is the simulator; sim-json is what `auto` should reach with English text. Books are kept beside the
    file. `limits` are more members of the key.
    """
    plain = f"http://127.0.0.1:{sim_port}"
    backends = {
        "json": f'{{dialect: openai, region: eu, self_hosted: true, endpoints: ["{plain}{JSON_PATH}"]}}',
        "paced": f'{{dialect: openai, region: eu, self_hosted: true, endpoints: ["{plain}{PACED_PATH}"]}}',
        "flooded": f'{{dialect: openai, region: eu, self_hosted: true, endpoints: ["{plain}{FLOODED_PATH}"]}}',
    }
    priced = {  # model, window, US dollars per million tokens in and out
        "sim-json": ("llama-4-maverick", 131_072, 0.27, 0.85),
        "sim-scout": ("llama-4-scout", 1_000_000, 0.11, 0.34),
        "sim-122b": ("qwen3.5-122b-a10b", 262_144, 0.4, 3.2),
        "sim-35b": ("qwen3.5-35b-a3b", 262_144, 0.25, 2.0),
        "sim-coder": ("qwen3-coder-next", 262_144, 0.2, 1.5),
    }
    targets = {
        **{
            name: f"{{model: {model}, backend: json, window: {window}, price: {{input: {usd_in}, output: {usd_out}}}}}"
            for name, (model, window, usd_in, usd_out) in priced.items()
        },
        "sim-paced": "{model: llama-3.1-8b, backend: paced, window: 131072}",
        "sim-flooded": "{model: llama-3.1-8b, backend: flooded, window: 131072}",
        "sim-vast": "{model: llama-4-scout, backend: json, window: 100000000}",  # for large.py
    }
    if tls_port is not None:
        backends["tls"] = (
            f'{{dialect: openai, region: eu, self_hosted: true, ca_file: "{ca}", '
            f'endpoints: ["https://127.0.0.1:{tls_port}{JSON_PATH}"]}}'
        )
        targets["sim-tls"] = "{model: llama-3.1-8b, backend: tls, window: 131072}"
    text = [
        f"listen: {{public: 127.0.0.1:{public}, admin: 127.0.0.1:{admin}}}",
        "policies: {default: default}",
        "log: {sample_above: 0}",
        "ledger: {dir: books}",
        "backends:",
        *(f"  {name}: {value}" for name, value in backends.items()),
        "targets:",
        *(f"  {name}: {value}" for name, value in targets.items()),
        "keys:",
        f"  - {{name: bench, sha256: {key_hash()}, tenant: {{team: bench}}{limits}}}",
    ]
    path = into / "pointsman.yaml"
    path.write_text("\n".join(text) + "\n")
    return path
