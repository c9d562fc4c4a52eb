"""`pointsman serve` that may open NOFILE files, or use ADDRESS_SPACE MiB of memory: as the shell's ulimit says it."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def main() -> int:
    for name, which, unit in (("NOFILE", resource.RLIMIT_NOFILE, 1), ("ADDRESS_SPACE", resource.RLIMIT_AS, 1 << 20)):
        if name in os.environ:
            most = int(os.environ[name]) * unit
            resource.setrlimit(which, (most, most))
    from gateway.app import serve

    return serve(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
