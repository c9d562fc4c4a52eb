"""The processes of a benchmark: what they are compiled from, how they start, end, and what CPU they used.

Nothing here knows what is being compared; `benchlines` does, and `run` measures it. Everything listens on loopback, on
ports that the kernel gave, and ends with the `Bench` that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
KEY = "bench-key-0123456789abcdef"
PR_SET_PDEATHSIG = 1
#: Debian package of each tool.
PACKAGES = {"gcc": "gcc libc6-dev", "nginx": "nginx-light", "openssl": "openssl"}


class BenchError(Exception):
    """The benchmark cannot run; the text says why and what to do."""


def tool(name: str) -> str:
    """Path of a program, also looked for where Debian keeps servers."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchError(f"{name} is not installed. On Debian or Ubuntu: apt-get install {PACKAGES.get(name, name)}")
    return found


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot tell which one they were given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def compile_c(name: str, into: Path) -> Path:
    """Compile `<name>.c` of this folder."""
    out = into / name
    done = subprocess.run(
        [tool("gcc"), "-O2", "-Wall", "-o", str(out), str(HERE / f"{name}.c")], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BenchError(f"gcc could not compile {name}.c:\n{done.stderr}")
    return out


def tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_ns(root: int) -> int:
    """Nanoseconds of CPU that a process tree has used so far, user and kernel.

    The scheduler's own sum (`schedstat`) where the kernel keeps it, else `stat`, which counts in 10 ms.
    """
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            tasks = [
                int(Path(task, "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
            ]
            if any(tasks):
                total += sum(tasks)
            else:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return total


def cpu_busy_ns(cpu: int) -> int:
    """Nanoseconds for which a CPU was not idle, whoever used it; steal included."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{cpu} "):
            ticks = [int(field) for field in line.split()[1:9]]
            return (sum(ticks) - ticks[3] - ticks[4]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    raise BenchError(f"there is no CPU {cpu}")


class Bench:
    """Starts the parts in a directory and ends them all on the way out, in whatever way that is."""

    def __init__(self, into: Path, *, server_cpu: int, other_cpu: int, python: str = sys.executable) -> None:
        self.dir = into
        self.server_cpu = server_cpu
        self.other_cpu = other_cpu
        self.python = python
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Bench:
        available = os.sched_getaffinity(0)
        missing = {self.server_cpu, self.other_cpu} - available
        if missing:
            raise BenchError(f"CPU {missing} is not available here (available: {sorted(available)}); see --server-cpu")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()
            if process.stdout:
                process.stdout.close()

    def start(
        self, command: Sequence[str], cpu: int, log: str, *, pipe: bool = False, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a part pinned to a CPU, its errors in `<log>.log`; it dies with this process."""
        libc = ctypes.CDLL(None)

        def before() -> None:
            os.sched_setaffinity(0, {cpu})
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        with open(self.dir / f"{log}.log", "wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stderr=errors,
                cwd=cwd or self.dir,
                preexec_fn=before,
            )
        self._running.append(process)
        return process

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Keep both CPUs from sleeping, by processes that only run while nothing else wants to."""
        spin = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
        command = [sys.executable, "-c", spin]
        spinning = [self.start(command, cpu, f"awake-{cpu}") for cpu in (self.server_cpu, self.other_cpu)]
        try:
            yield
        finally:
            for process in spinning:
                process.kill()
                process.wait()
                self._running.remove(process)

    def sim(self, *own: str) -> int:
        """Start the simulator; its port. `own` are the paths that it acts by where only a model is named."""
        process = self.start([str(compile_c("sim", self.dir)), *own], self.other_cpu, "sim", pipe=True)
        assert process.stdout is not None
        return int(process.stdout.readline().split()[1])

    def nginx(self, name: str, cpu: int, http: str) -> subprocess.Popen[bytes]:
        """Start an nginx of one worker around the given contents of `http {}`."""
        where = self.dir / name
        where.mkdir()
        temp = "\n".join(
            f"{kind}_temp_path {where}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (where / "nginx.conf").write_text(
            f"{'user root;' if os.geteuid() == 0 else ''}\nworker_processes 1;\npid {where}/pid;\n"
            f"error_log stderr warn;\n"
            f"events {{ worker_connections 2048; }}\nhttp {{\naccess_log off;\n{temp}\n{http}\n}}\n"
        )
        return self.start(
            [tool("nginx"), "-e", "stderr", "-p", str(where), "-c", str(where / "nginx.conf"), "-g", "daemon off;"],
            cpu,
            name,
        )

    def certificate(self) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and localhost that is its own authority, and its key."""
        certificate, key = self.dir / "tls.crt", self.dir / "tls.key"
        subprocess.run(
            [
                tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-addext", "keyUsage=critical,digitalSignature,keyCertSign", "-keyout", str(key), "-out",
                str(certificate),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        return certificate, key

    def gateway(self, config: Path, port: int) -> subprocess.Popen[bytes]:
        """Start `serve` with a configuration and wait until it answers."""
        process = self.start(
            [self.python, "-m", "gateway.cli", "serve", "--config", str(config)],
            self.server_cpu,
            "gateway",
            cwd=REPOSITORY,
        )
        self.wait(process, f"http://127.0.0.1:{port}/readyz", "gateway")
        return process

    def wait(self, process: subprocess.Popen[bytes], url: str, log: str, seconds: float = 30.0) -> None:
        """Until the address answers anything at all; BenchError with the log's end if it does not."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except urllib.error.HTTPError as answered:
                answered.close()
                if answered.code != 503:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        state = "ended" if process.poll() is not None else f"does not answer at {url}"
        raise BenchError(f"{log} {state}. The end of its log:\n{self.log_end(log)}")

    def log_end(self, log: str, characters: int = 3000) -> str:
        """The last part of what a part wrote to its standard error."""
        return (self.dir / f"{log}.log").read_text(errors="replace")[-characters:]

    def load(self, options: Sequence[str]) -> dict[str, Any]:
        """Run the load client to its end; what it measured."""
        program = self.dir / "load"
        if not program.exists():
            compile_c("load", self.dir)
        done = subprocess.run(
            [str(program), *options],
            capture_output=True,
            text=True,
            timeout=600,
            preexec_fn=lambda: os.sched_setaffinity(0, {self.other_cpu}),
        )
        if done.returncode != 0:
            raise BenchError(f"the load client failed: {done.stderr or done.stdout}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def key_hash() -> str:
    """What pointsman.yaml holds of the key that the load client sends."""
    return hashlib.sha256(KEY.encode()).hexdigest()


_INTERPRETER = """
import os, platform, sys, sysconfig
flags = " ".join(str(sysconfig.get_config_var(name)) for name in
    ("CONFIG_ARGS", "PY_CORE_CFLAGS", "PY_CFLAGS_NODIST", "PY_LDFLAGS_NODIST", "OPT"))
pgo = "--enable-optimizations" in flags or "-fprofile-use" in flags
built = "optimised build (PGO)" if pgo else "build options not visible"
if os.path.realpath(sys.executable).startswith("/usr/bin/python3"):
    built = "the distribution's build"
print(f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()}), {built}")
"""


def interpreter(python: str) -> str:
    """Which interpreter ran the gateway, and whether it was built with optimisations."""
    done = subprocess.run([python, "-c", _INTERPRETER], capture_output=True, text=True, check=True)
    return done.stdout.strip()
