"""Other proxies that are measured in the same rounds: how each is started, and what it is asked.

Each does as little as it can be told to: one worker, kept-alive connections on both sides, no log, no transformation.
None is a dependency: what is not installed is left out, with the reason.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchparts import Bench, BenchError, free_port, tool

#: The lines in which they take part.
LINES = ("pinned", "heads", "paced", "flooded")


@dataclass(slots=True)
class Rival:
    """One that runs. `path` is where its OpenAI route is; empty for those that pass on every path, as nginx does."""

    name: str
    port: int
    pid: int
    path: str = ""


def started(bench: Bench, sim_port: int, wheels: Path | None) -> tuple[list[Rival], list[str]]:
    """Those that could be started, and why the others were not. `wheels` is a virtual environment with them."""
    running, reasons = [], []
    for start in (_haproxy, _envoy, _sglang):
        try:
            running.append(start(bench, sim_port, wheels))
        except (BenchError, OSError) as problem:
            reasons.append(f"{start.__name__.removeprefix('_')} is left out: {str(problem).splitlines()[0]}")
    return running, reasons


def _program(name: str, wheels: Path | None) -> str:
    """A program of the virtual environment, or one that is installed."""
    if wheels is not None and (found := shutil.which(name, path=str(wheels / "bin"))):
        return found
    found = shutil.which(name)
    if found is None:
        raise BenchError(f"{name} is in neither {wheels or 'a --wheels environment'} nor PATH, see README.md")
    return found


def _version(program: str, option: str) -> str:
    """The version that a program tells of itself."""
    told = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\b\d+\.\d+\.\d+\b", told)
    return found[0] if found else "of unknown version"


def _haproxy(bench: Bench, sim_port: int, wheels: Path | None) -> Rival:
    program, port = tool("haproxy"), free_port()
    config = bench.dir / "haproxy.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 4096
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 120s
  timeout server 120s
frontend public
  bind 127.0.0.1:{port}
  http-request return status 200 if {{ path /readyz }}
  default_backend sim
backend sim
  server sim 127.0.0.1:{sim_port} pool-max-conn 256
"""
    )
    process = bench.start([program, "-db", "-f", str(config)], bench.server_cpu, "haproxy")
    bench.wait(process, f"http://127.0.0.1:{port}/readyz", "haproxy")
    return Rival(f"haproxy {_version(program, '-v')}", port, process.pid)


def _envoy(bench: Bench, sim_port: int, wheels: Path | None) -> Rival:
    program, port = _program("envoy", wheels), free_port()

    def address(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    typed = "type.googleapis.com/envoy.extensions."
    router = {"@type": f"{typed}filters.http.router.v3.Router", "suppress_envoy_headers": True}
    routes = [
        {"match": {"path": "/readyz"}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/"}, "route": {"cluster": "sim", "timeout": "0s"}},
    ]
    manager = {
        "@type": f"{typed}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoint = {"endpoint": {"address": address(sim_port)}}
    cluster = {
        "name": "sim",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "sim", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    config = bench.dir / "envoy.json"
    listener = {"name": "public", "address": address(port), "filter_chains": [{"filters": filters}]}
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    command = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    process = bench.start(command, bench.server_cpu, "envoy")
    bench.wait(process, f"http://127.0.0.1:{port}/readyz", "envoy")
    return Rival(f"Envoy {_version(program, '--version')}", port, process.pid)


def _sglang(bench: Bench, sim_port: int, wheels: Path | None) -> Rival:
    program, port = _program("smg", wheels), free_port()
    command = [
        program, "launch", "--worker-urls", f"http://127.0.0.1:{sim_port}", "--host", "127.0.0.1", "--port", str(port),
        "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port()),
        "--max-concurrent-requests", "4096", "--disable-retries",
    ]  # fmt: skip
    process = bench.start(command, bench.server_cpu, "sglang-router")
    bench.wait(process, f"http://127.0.0.1:{port}/readiness", "sglang-router", 60)
    return Rival(f"sglang-router {_version(program, '--version')}", port, process.pid, "/v1")
