"""Ten thousand connections that nobody uses: what each holds, what they cost, and what everybody else still gets.

    python -m tests.bench.idle [--connections 10000]

Half have been used once, half never. Needs as many open files and twice as many again in all processes together; what
is above the limit of one address's ports goes to 127.0.0.2 and further.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import Gateway, Upstream, chat, config, eventually, plain, running
from tests.proxy.test_requests import head, read_answer

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PORTS = 20_000  # connections from one address


def held(gateway: Gateway) -> tuple[int, float]:
    """Resident bytes, and CPU seconds so far."""
    place = Path(f"/proc/{gateway.process.pid}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return int((place / "statm").read_text().split()[1]) * _PAGE, cpu_s


def ask(conn: socket.socket) -> None:
    """One request and its answer."""
    body = json.dumps(chat("a")).encode()
    conn.sendall(head(len(body)) + body)
    first, _, _ = read_answer(conn)
    if not first.startswith(b"HTTP/1.1 200"):
        raise AssertionError(first)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.idle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000)
    number: int = parser.parse_args().connections
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < number + 200:
        print(f"only {most} files may be open: ulimit -Hn {number + 200}", file=sys.stderr)
        return 2
    upstream = Upstream([plain()])
    settings = config({"a": upstream}, limits={"max_connections": 2 * number, "keep_alive": "10m"})
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), settings) as gateway:
        for _ in range(50):
            gateway.post(chat("a"))
        before, _ = held(gateway)
        conns: list[socket.socket] = []
        began = time.monotonic()
        for at in range(number):
            source = (f"127.0.0.{2 + at // _PORTS}", 0)
            conns.append(socket.create_connection(("127.0.0.1", gateway.port), timeout=30, source_address=source))
            if at % 2:
                ask(conns[-1])
        if not eventually(lambda: gateway.metric("pointsman_client_connections") == number, 30):
            raise AssertionError("not all connections are held")
        opened_s = time.monotonic() - began
        full, cpu_s = held(gateway)
        time.sleep(10)
        _, later_s = held(gateway)
        for conn in conns[:: max(1, number // 500)]:
            ask(conn)
        served = len(conns[:: max(1, number // 500)])
        for conn in conns:
            conn.close()
        if not eventually(lambda: gateway.metric("pointsman_client_connections") == 0, 30):
            raise AssertionError("some are left over")
        print(f"connections                  {number}, opened in {opened_s:.1f} s")
        print(f"memory, each                 {(full - before) / number / 1000:.1f} kB ({(full - before) / 1e6:.0f} MB)")
        print(f"CPU while all are idle       {(later_s - cpu_s) * 100:.1f} ms a second")
        print(f"served on every {number // served}th of them  {served} of {served}")
    upstream.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
