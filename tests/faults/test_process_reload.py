"""Reloading as it happens in a cluster: a mounted ConfigMap whose link is swapped under a gateway that streams."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.faults.test_process_drain import message
from tests.faults.test_process_limits import whole
from tests.harness import ROLE, STOP, Gateway, Upstream, chat, chunk, config, eventually, serving, stream


class Mounted:
    """What the kubelet makes of a ConfigMap: a link to a link to a folder, of which the one between is swapped."""

    def __init__(self, place: Path, text: str) -> None:
        place.mkdir()
        self.place = place
        self.path = place / "pointsman.yaml"
        self.number = 0
        self.swap(text)
        self.path.symlink_to("..data/pointsman.yaml")

    def swap(self, text: str) -> None:
        self.number += 1
        folder = self.place / f"..{self.number}"
        folder.mkdir()
        (folder / "pointsman.yaml").write_text(text)
        fresh = self.place / "..data_tmp"
        fresh.symlink_to(folder.name)
        os.replace(fresh, self.place / "..data")


def written(settings: dict[str, Any]) -> str:
    out = io.StringIO()
    YAML().dump(settings, out)
    return out.getvalue()


def counted(gateway: Gateway, result: str) -> float:
    return gateway.metric(f'pointsman_config_reload_total{{result="{result}"}}')


#: What is made of a good file, and what is said of it. More of what does not load is in tests/test_reload.py.
BROKEN = {
    "a key twice": (lambda text: text + "drain: 1s\ndrain: 2s\n", "drain"),
    "a value that cannot be": (lambda text: text + "drain: soon\n", "drain"),
}


def test_a_swapped_configmap_is_served_if_it_is_good_and_streams_go_on_either_way(
    tmp_path: Path,
) -> None:
    up = Upstream([stream([ROLE, *[chunk("x")] * 120, STOP, b"data: [DONE]\n\n"], pause_s=0.05), stream()])
    settings = config({"a": up})
    good = written(settings)
    mounted = Mounted(tmp_path / "mounted", good)
    with contextlib.closing(up), serving(mounted.path) as gateway, gateway.connect() as streaming:
        streaming.sendall(message(model="a", stream=True))
        assert streaming.recv(1, socket.MSG_PEEK)
        digest = gateway.get("/readyz").json()["config"]
        for name, (make, says) in BROKEN.items():
            rejected = counted(gateway, "rejected")
            mounted.swap(make(good))
            assert eventually(lambda before=rejected: counted(gateway, "rejected") > before, 30), name
            ready = gateway.get("/readyz")
            assert (ready.status_code, ready.json()["status"], ready.json()["config"]) == (200, "ready", digest), name
            assert ready.json()["reload"]["ok"] is False
            assert "yaml" not in ready.text, "who may ask here may not know what is in files"
            told = gateway.get("/readyz", admin=True).json()["reload"]["error"]
            assert told.startswith(f"{mounted.path}:"), (name, told)
            assert says in told, (name, told)
            assert gateway.post(chat("a", stream=True)).status_code == 200, name
        names = [f"name-{number}" for number in range(12)]
        for name in names:  # faster than they can be read: what is read is never a mixture, and the last one wins
            mounted.swap(written(settings | {"models": {name: "a"}}))
        assert eventually(lambda: gateway.post(chat(names[-1], stream=True)).status_code == 200, 30)
        assert gateway.post(chat(names[0], stream=True)).status_code == 404
        assert gateway.get("/readyz").json()["reload"]["ok"] is True
        assert gateway.get("/readyz").json()["config"] != digest
        assert b"[DONE]" in whole(streaming), "it began with the first configuration"
        assert counted(gateway, "ok") >= 1
