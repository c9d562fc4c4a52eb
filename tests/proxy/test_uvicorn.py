"""What the data plane relies on in uvicorn's httptools protocol, which is no public interface: hence the exact pin."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl

from gateway.proxy.downstream import ClientConnection
from tests.harness import ROOT


def test_the_version_is_the_one_that_was_read() -> None:
    assert uvicorn.__version__ == version("uvicorn") == "0.54.0"
    assert '"uvicorn==0.54.0"' in (ROOT / "pyproject.toml").read_text()


def test_the_protocol_has_the_members_that_are_used_and_overridden() -> None:
    protocol = httptools_impl.HttpToolsProtocol
    for name in ("data_received", "connection_made", "connection_lost", "pause_writing", "resume_writing", "shutdown"):
        assert getattr(ClientConnection, name) is not getattr(protocol, name), f"{name} is not overridden"
    for name in ("on_response_complete", "_unset_keepalive_if_required"):
        assert callable(getattr(protocol, name))
    assert list(inspect.signature(protocol.__init__).parameters) == [
        "self", "config", "server_state", "app_state", "_loop",
    ]  # fmt: skip
    assert httptools_impl.STATUS_LINE[404] == b"HTTP/1.1 404 Not Found\r\n"


def test_a_finished_answer_calls_back_before_the_next_request_is_begun() -> None:
    source = inspect.getsource(httptools_impl.RequestResponseCycle.send)
    done, told = source.index("self.response_complete = True"), source.index("self.on_response()")
    assert done < told
    assert "on_response=self.on_response_complete" in inspect.getsource(httptools_impl.HttpToolsProtocol)


def test_flow_control_knows_whether_writing_is_paused() -> None:
    flow = FlowControl(None)  # type: ignore[arg-type]
    assert flow.write_paused is False
    flow.pause_writing()
    assert flow.write_paused is True
    flow.resume_writing()
    assert flow.write_paused is False
