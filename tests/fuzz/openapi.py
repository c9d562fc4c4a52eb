"""The control plane's OpenAPI documents, and a run of schemathesis over them: `python tests/fuzz/openapi.py`.

Needs schemathesis (`pip install schemathesis` into an environment of its own; `--schemathesis` names its program). It
brings a dozen packages that nothing else here needs, so CI holds the same documents with hypothesis alone, in
`test_openapi.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gateway.control import admin_app, public_app
from tests.harness import KEY, Upstream, config, plain, running

ADMIN = "adm-0123456789"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
_NOBODY = cast("Any", None)


def documents() -> dict[str, dict[str, Any]]:
    """By listener."""
    return {
        "public": public_app(_NOBODY, _NOBODY).openapi(),
        "admin": admin_app(_NOBODY, _NOBODY).openapi(),
    }


def main() -> int:
    """Run schemathesis over both listeners of a gateway; the worst of its exit codes."""
    parser = argparse.ArgumentParser(description="Run schemathesis over the control plane of a real gateway.")
    parser.add_argument("--schemathesis", default="schemathesis")
    parser.add_argument("--examples", type=int, default=100)
    asked = parser.parse_args()
    upstream = Upstream([plain()])
    with tempfile.TemporaryDirectory() as directory:
        settings = config({"a": upstream}, admin_key={"env": "ADMIN_KEY"})
        worst = 0
        with running(Path(directory), settings, ADMIN_KEY=ADMIN) as gateway:
            for name, document in documents().items():
                path = Path(directory) / f"{name}.json"
                path.write_text(json.dumps(document))
                url, key = (gateway.public, KEY) if name == "public" else (gateway.admin, ADMIN)
                command = [
                    asked.schemathesis, "run", str(path), "--url", url, "--header", f"Authorization: Bearer {key}",
                    "--checks", CHECKS, "--max-examples", str(asked.examples), "--suppress-health-check", "all",
                ]  # fmt: skip
                worst = max(worst, subprocess.run(command, check=False).returncode)
    upstream.close()
    return worst


if __name__ == "__main__":
    sys.exit(main())
