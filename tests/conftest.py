"""What tests of several folders share: a real model server, and how thorough hypothesis is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from gateway import precompile
from gateway.demo import model as demo_model

ROOT = Path(__file__).parent.parent

# In CI a failure must be the change's, not the dice's; elsewhere every run looks at new examples.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
# A long search: `pytest tests/core/test_properties.py --hypothesis-profile deep`.
settings.register_profile("deep", deadline=None, max_examples=5_000)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the shipped files once: hundreds of tests load them, and parsing YAML takes longer than most of these."""
    if not hasattr(config, "workerinput"):  # by the process that starts the others, before it does
        with contextlib.redirect_stdout(io.StringIO()):
            precompile.main()


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    """A real llama.cpp with a real model (135 million parameters), one thread. Its address, without /v1."""
    if lacking := demo_model.missing():
        pytest.skip(f"needs {' and '.join(lacking)}: {demo_model.INSTALL}")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.demo.model"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the model server did not start"
        yield json.loads(line)["url"]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait(10)
