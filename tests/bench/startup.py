"""How long `pointsman serve` takes to be ready, part by part, and what it holds when idle.

    python tests/bench/startup.py [--rounds 9] [--cold] [--json FILE]

Starts the gateway with the bundled policies, nine targets and a key, and measures from the start of the process to the
first 200 of `/readyz`; then waits, reads what the idle process holds, scrapes it once, and asks once for pages of the
control plane, which imports what a start has left out. Parts come from a process that takes the same steps one after
the other. Byte code is compiled beforehand and the parse cache is warm, as at every start but the first; `--cold`
measures that one as well. CPU is the scheduler's own count (`/proc/PID/task/*/schedstat`). Medians, with the range of
the totals.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchparts import free_port

CONFIG = """\
listen: {public: "127.0.0.1:%d", admin: "127.0.0.1:%d"}
log: {requests: none}
backends:
  vllm-us: {dialect: vllm, region: us, processing: us, self_hosted: true, endpoints: ["http://127.0.0.1:9/v1"]}
  vllm-eu: {dialect: vllm, region: eu, processing: eu, self_hosted: true, endpoints: ["http://127.0.0.1:9/v1"]}
  deepinfra: {dialect: openai, region: us, processing: us, base_url: "https://api.deepinfra.com/v1/openai"}
  alibaba:
    dialect: dashscope
    region: ap-southeast-1
    processing: global
    base_url: https://dashscope-intl.aliyuncs.com/compatible-mode/v1
targets:
  scout: {model: llama-4-scout, backend: vllm-us, window: 1M, price: {gpu_hour_usd: 6.40, tokens_per_hour: 40M}}
  maverick: {model: llama-4-maverick, backend: deepinfra, price: catalog}
  llama70: {model: llama-3.3-70b, backend: deepinfra, price: catalog}
  qwen-plus: {model: qwen3.5-plus, backend: alibaba, price: catalog}
  qwen397: {model: qwen3.5-397b-a17b, backend: alibaba, price: catalog}
  qwen122: {model: qwen3.5-122b-a10b, backend: vllm-eu, window: 262144, price: {gpu_hour_usd: 12, tokens_per_hour: 60M}}
  qwen35: {model: qwen3.5-35b-a3b, backend: vllm-eu, window: 262144, price: {gpu_hour_usd: 3.60, tokens_per_hour: 50M}}
  coder: {model: qwen3-coder-480b-a35b, backend: deepinfra, price: catalog}
  gpt-oss: {model: gpt-oss-120b, backend: vllm-us, window: 131072, price: {gpu_hour_usd: 3.20, tokens_per_hour: 40M}}
keys:
  - {name: bench, sha256: fb106844b0d23e7cd31e2c918234dfe6fb1ffd3e124706575ece3cffcbe8cf27, allow: ["*"]}
"""
KEY = "startup-bench-key"
READY_WITHIN_S = 60

#: Steps of a start, in the order in which the process takes them. Each is timed where the ones before are done.
STEPS = """
import json, os, sys, time
began = [(time.perf_counter(), time.process_time())]
names, config = ["interpreter"], sys.argv[1]
def done(name):
    began.append((time.perf_counter(), time.process_time()))
    names.append(name)
import gateway; done("import gateway")
import gateway.cli; done("the command line")
import asyncio, ssl, uvloop, httptools; done("asyncio, uvloop, httptools")
import msgspec; done("msgspec")
import gateway.app; done("the rest of gateway.app")
from pathlib import Path
from gateway.compiled import cache_dir
from gateway.site import load_lexicon, load_site
site = load_site(Path(config), os.environ); done("configuration, catalogue, policies and their tests")
load_lexicon(cache=cache_dir(os.environ)); done("lexicon")
import gateway.control; done("(later) the control plane")
print(json.dumps([[n, b[0] - a[0], b[1] - a[1]] for n, a, b in zip(names[1:], began, began[1:])]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cold", action="store_true", help="also measure a start without a parse cache")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the numbers of every round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pointsman-start-") as name:
        into = Path(name)
        environ = {**os.environ, "HOME": name, "XDG_CACHE_HOME": f"{name}/cache", "PYTHONPYCACHEPREFIX": f"{name}/pyc"}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        config = into / "pointsman.yaml"
        config.write_text(CONFIG % (free_port(), free_port()), encoding="utf-8")
        start(config, environ)  # compiles byte code and fills the cache
        rounds = [{**start(config, environ), "parts": parts(config, environ)} for _ in range(given.rounds)]
        imports = [_timed([sys.executable, "-c", "import gateway"], environ) for _ in range(given.rounds)]
        bare = [_timed([sys.executable, "-c", "pass"], environ) for _ in range(given.rounds)]
        cold = []
        for number in range(given.rounds if given.cold else 0):
            cold.append(start(config, {**environ, "XDG_CACHE_HOME": f"{name}/cold-{number}"}))
    show(rounds, imports, bare, cold)
    if given.json:
        numbers = {"warm": rounds, "import": imports, "interpreter": bare, "cold": cold}
        given.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


def start(config: Path, environ: dict[str, str]) -> dict[str, float]:
    """One start: seconds to readiness by the wall and by CPU, and megabytes held before and after the control plane."""
    port = int(config.read_text(encoding="utf-8").partition("127.0.0.1:")[2].partition('"')[0])
    began = time.perf_counter()
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            wait_ready(process, port, began)
            found = {"wall_s": time.perf_counter() - began, "cpu_s": cpu_s(process.pid)}
            time.sleep(1.0)
            found |= {f"idle_{name}": value for name, value in held(process.pid).items()}
            ask(config, "/healthz", "/metrics")
            time.sleep(0.5)
            found |= {f"scraped_{name}": value for name, value in held(process.pid).items()}
            ask(config, "/v1/models", "/v1/targets")
            time.sleep(0.5)
            found |= {f"used_{name}": value for name, value in held(process.pid).items()}
            found["cpu_later_s"] = cpu_s(process.pid) - found["cpu_s"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)
    return found


def wait_ready(process: subprocess.Popen[bytes], port: int, began: float) -> None:
    while time.perf_counter() - began < READY_WITHIN_S:
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"the gateway ended: {process.stderr.read().decode()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _get(port, "/readyz") == 200:
                return
        time.sleep(0.002)
    raise SystemExit("the gateway was not ready in time")


def ask(config: Path, public_path: str, admin_path: str) -> None:
    """Have each listener answer one page."""
    admin = int(config.read_text(encoding="utf-8").partition("admin:")[2].partition("127.0.0.1:")[2].partition('"')[0])
    public = int(config.read_text(encoding="utf-8").partition("127.0.0.1:")[2].partition('"')[0])
    for port, path in ((public, public_path), (admin, admin_path)):
        if (status := _get(port, path)) != 200:
            raise SystemExit(f"{path} on port {port} was answered with {status}")


def parts(config: Path, environ: dict[str, str]) -> list[list[Any]]:
    command = [sys.executable, "-c", STEPS, str(config)]
    found: list[list[Any]] = json.loads(subprocess.run(command, env=environ, check=True, capture_output=True).stdout)
    return found


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used so far, all threads; what ended threads used is not in it."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def held(pid: int) -> dict[str, float]:
    """Resident and proportional set size in MB (2**20 bytes)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {fields[0]: int(fields[1]) / 1024 for line in lines if len(fields := line.split()) == 3}
    return {"rss_mb": sizes["Rss:"], "pss_mb": sizes["Pss:"]}


def show(
    rounds: list[dict[str, Any]], imports: list[list[float]], bare: list[list[float]], cold: list[dict[str, float]]
) -> None:
    print(f"{len(rounds)} rounds, Python {sys.version.split()[0]}; medians\n")
    print("| part | CPU, ms | wall, ms |\n|---|---|---|")
    print(f"| interpreter alone | {_ms(bare, 1)} | {_ms(bare, 0)} |")
    for number, (name, *_) in enumerate(rounds[0]["parts"]):
        steps = [one["parts"][number] for one in rounds]
        print(f"| {name} | {_ms(steps, 2)} | {_ms(steps, 1)} |")
    for title, found in (("start to ready", rounds), ("start to ready, no cache", cold)):
        if found:
            cpu, wall = ([1000 * one[key] for one in found] for key in ("cpu_s", "wall_s"))
            print(f"| **{title}** | {_told(cpu)} | {_told(wall)} |")
    print(f"| `python -c 'import gateway'` | {_ms(imports, 1)} | {_ms(imports, 0)} |\n")
    print("| held, MB | RSS | PSS |\n|---|---|---|")
    for title, key in (("idle", "idle"), ("scraped", "scraped"), ("after the control plane was asked", "used")):
        rss, pss = ([one[f"{key}_{kind}_mb"] for one in rounds] for kind in ("rss", "pss"))
        print(f"| {title} | {_told(rss, 1)} | {_told(pss, 1)} |")
    later = [1000 * one["cpu_later_s"] for one in rounds]
    print(f"\nCPU after readiness, until the control plane has answered everything: {_told(later)} ms")


def _ms(rows: list[list[Any]], column: int) -> str:
    return f"{1000 * statistics.median(row[column] for row in rows):.1f}"


def _told(values: list[float], digits: int = 0) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _timed(command: list[str], environ: dict[str, str]) -> list[float]:
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, env=environ, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return [time.perf_counter() - began, used]


def _get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
