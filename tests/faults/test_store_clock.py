"""Real gateways whose wall clocks are days apart, at one real Valkey."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.replicas import NANO, codes, key, replicas
from tests.harness import eventually, serving
from tests.valkey import valkey

DAY_S = 86_400
OFFS = (0, DAY_S, -DAY_S)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_gateways_whose_clocks_are_days_apart_spend_one_budget_of_one_day(tmp_path: Path) -> None:
    library, source = tmp_path / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environs = []
    for at, off_s in enumerate(OFFS):
        (tmp_path / f"clock{at}").write_text(f"{off_s:+d}\n")
        environs.append({"LD_PRELOAD": str(library), "CLOCK_FILE": str(tmp_path / f"clock{at}")})
    # Away from midnight, whenever this runs: UTC's noon is twelve hours from that of this zone.
    zone = "UTC" if 6 <= time.gmtime().tm_hour < 18 else "Etc/GMT+12"
    keys = [key("hard", budget={"usd": 0.00105, "per": "day", "zone": zone})]
    with (
        valkey(tmp_path / "valkey") as server,
        replicas(tmp_path, len(OFFS), server.url, keys, environs=environs, timeout="5s") as three,
    ):
        assert eventually(lambda: all(three.up()), 20)
        assert eventually(lambda: three.ask(0, "hard").status_code == 200, 20), "a new key waits for what others know"
        passed = 1
        for turn in range(15):
            answers = codes([three.ask(turn % 3, "hard")])
            assert answers.keys() <= {200, "budget_exceeded"}
            passed += answers[200]
        assert passed == 10

        def total() -> int:
            return int(server.hash("{pointsman}:key:hard").get(f"day/{zone}:x", "0"))

        assert eventually(lambda: total() == 10 * NANO)
        for at, off_s in enumerate(OFFS):
            assert three.metric(at, "pointsman_store_clock_offset_seconds") == pytest.approx(off_s, abs=30)
            told = three.gateways[at].get("/readyz", admin=True).json()["store"]
            assert told.get("clock_off_s", 0) == pytest.approx(off_s, abs=30)
        assert three.lines("s ahead of that of store") == [0, 1, 0]
        assert three.lines("s behind that of store") == [0, 0, 1]

        wrong = three.gateways[1:]
        for one in wrong:
            one.process.kill()
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:
            starting = [
                serving(one.directory / "pointsman.yaml", **own) for one, own in zip(wrong, environs[1:], strict=True)
            ]
            for again in pool.map(stack.enter_context, starting):
                row = again.get("/v1/limits?key=hard", admin=True).json()["data"][0]
                assert row["spent_usd"] == 10 * NANO / 1e9, "by its books, which are dated by another clock"
        assert total() == 10 * NANO
