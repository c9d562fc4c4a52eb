"""Fill the cache that is shipped with the code: `python -m gateway.precompile`, once, where the package can be written.

An image's build or an installer runs this, so that a first start is as fast as every other one, and so that a start
on a read-only machine does not parse the shipped files each time. What is kept, and how it is judged when it is read,
is `gateway.compiled`; without it everything works, only later.
"""

from __future__ import annotations

import sys

from gateway import bundled, compiled
from gateway.policyfile import load_policy, policy_files, reference_fleet


def main() -> int:
    """Load everything that is shipped; 0, or 1 where nothing could be written."""
    for path in policy_files(bundled.policies()):
        load_policy(path, cache=compiled.SHIPPED)
    reference_fleet(cache=compiled.SHIPPED)
    kept = list(compiled.SHIPPED.glob("*.msgpack"))
    print(f"{len(kept)} files in {compiled.SHIPPED}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
