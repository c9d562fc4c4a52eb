"""Starts gateways by the dozen: everything is imported once, and each gateway is a fork of this process.

Reads a configuration's path per line and writes the process's number; a second line of the same, or an end of input,
waits for it. Only for tests that kill hundreds of gateways: they live so shortly that every slow stream may be hedged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gateway.app
from gateway.core.resilience import hedging
from gateway.proxy import exchange, shadow  # noqa: F401 - imported by nobody before the first request


def main() -> None:
    hedging.SHARE = 1.0
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os._exit(gateway.app.serve(Path(line.strip())))
        print(pid, flush=True)
        sys.stdin.readline()
        os.waitpid(pid, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
