"""The sidecar program without litellm: what it refuses, how it reads litellm's exceptions, and what it never runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.core.servers.dialects import DIALECTS
from gateway.sidecar.server import (
    EXIT_REFUSED,
    MESSAGE_MAX,
    Refused,
    bad_version,
    checked,
    error_of,
    event_of,
    stated_usage,
)
from gateway.sidecar.spec import PROGRAM

TAKES = DIALECTS["litellm"].takes or frozenset()
MESSAGES = [{"role": "user", "content": "hi"}]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "a/b", "messages": MESSAGES, **more}


def content(*parts: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": list(parts)}])


# -- versions --


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.12", "1.107"])
def test_malicious_and_withdrawn_versions_are_bad(version: str) -> None:
    assert version in (bad_version(version) or "")


@pytest.mark.parametrize("version", ["1.82.6", "1.82.9", "1.82.70", "1.106.2", "1.108.0", "1.109.1", "11.107.0"])
def test_others_are_not(version: str) -> None:
    assert bad_version(version) is None


@pytest.fixture(scope="module")
def infected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a package that runs as soon as an interpreter looks at it, as 1.82.8 did."""
    place = tmp_path_factory.mktemp("infected")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    packages = next((place / "env").glob("lib/python3*/site-packages"))
    (packages / "litellm_init.pth").write_text(f"import os; open({str(place / 'ran')!r}, 'w').close()\n")
    (packages / "litellm").mkdir()
    (packages / "litellm" / "__init__.py").write_text("")
    return packages


def run(packages: Path, version: str) -> subprocess.CompletedProcess[str]:
    for old in packages.glob("litellm-*.dist-info"):
        (old / "METADATA").unlink()
        old.rmdir()
    if version:
        metadata = packages / f"litellm-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {version}\n")
    python = packages.parents[2] / "bin" / "python"
    return subprocess.run(
        [python, "-I", "-S", PROGRAM], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("version", ["1.82.8", "1.107.3"])
def test_a_bad_version_is_refused_before_anything_of_it_runs(infected: Path, version: str) -> None:
    ended = run(infected, version)
    assert ended.returncode == EXIT_REFUSED
    assert f"litellm {version} must not run" in ended.stderr
    assert not (infected.parents[3] / "ran").exists()


def test_without_litellm_it_says_how_to_get_it(infected: Path) -> None:
    ended = run(infected, "")
    assert ended.returncode == EXIT_REFUSED
    assert "has no litellm: pip install --no-deps -r requirements/litellm.txt" in ended.stderr


def test_started_by_hand_it_says_who_starts_it(infected: Path) -> None:
    ended = run(infected, "1.109.1")
    assert ended.returncode == EXIT_REFUSED
    assert "started by `pointsman serve` or `pointsman sidecar`" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (infected.parents[3] / "ran").exists()  # so the trap of the tests above was one


# -- requests --


def test_what_is_on_the_list_goes_through_without_what_the_configuration_decides() -> None:
    asked = body(stream=True, stream_options={"include_usage": True}, temperature=0, seed=None)
    assert checked(asked, TAKES) == {
        "messages": MESSAGES,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }


HOSTILE = """
api_base api_key base_url caching callbacks custom_llm_provider extra_headers fallbacks headers metadata mock_response
num_retries prompt_id timeout web_search_options
"""


@pytest.mark.parametrize("name", HOSTILE.split())
def test_a_member_that_litellm_reads_a_meaning_into_is_refused(name: str) -> None:
    with pytest.raises(Refused) as caught:
        checked(body(**{name: "x"}), TAKES)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", name)


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def test_content_that_holds_its_data_goes_through() -> None:
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}}
    sound = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    asked = content({"type": "text", "text": "see http://example.org"}, PICTURE, pdf, sound)
    assert checked(asked, TAKES)["messages"] == asked["messages"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": "https://example.org/cat.png"},
        {"type": "image_url", "image_url": {"url": "gs://bucket/cat.png"}},
        {"type": "image_url"},
        {"type": "file", "file": {"file_id": "https://example.org/a.pdf"}},
        {"type": "file", "file": {"file_id": "x", "file_data": "data:text/plain,hi"}},
        {"type": "file", "file": {"file_data": "https://example.org/a.pdf"}},
        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"image_url": {"url": "https://example.org/cat.png"}},
        "text",
    ],
)
def test_content_that_would_have_to_be_fetched_is_refused(part: Any) -> None:
    with pytest.raises(Refused, match="nothing is fetched"):
        checked(content(part), TAKES)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("tools", [{"type": "mcp", "server_url": "https://example.org"}]),
        ("tools", [{"type": "web_search"}]),
        ("tools", ["x"]),
        ("n", 2),
    ],
)
def test_what_would_be_run_elsewhere_or_end_wrong_is_refused(member: str, value: Any) -> None:
    with pytest.raises(Refused) as caught:
        checked(body(stream=True, **{member: value}), TAKES)
    assert caught.value.param == member


@pytest.mark.parametrize("asked", [None, [], {}, {"messages": "x"}, "x"])
def test_what_is_no_chat_request_is_refused(asked: Any) -> None:
    with pytest.raises(Refused):
        checked(asked, TAKES)


# -- errors --


def raised(*names: str, **facts: Any) -> Exception:
    """An exception of that class, and of its parents, as litellm's are found: by name."""
    made: type[Exception] = Exception
    for name in reversed(names):
        made = type(name, (made,), {})
    error = made(facts.pop("message", "it broke"))
    for fact, value in facts.items():
        setattr(error, fact, value)
    return error


@pytest.mark.parametrize(
    ("names", "facts", "status", "code"),
    [
        (("ContextWindowExceededError", "BadRequestError"), {}, 400, "context_length_exceeded"),
        (("UnsupportedParamsError", "BadRequestError"), {}, 400, "unsupported_parameter"),
        (("ContentPolicyViolationError", "BadRequestError"), {}, 400, "content_policy_violation"),
        (("LiteLLMUnknownProvider", "BadRequestError"), {}, 404, "model_not_found"),
        (("BadRequestError",), {}, 400, None),
        (("AuthenticationError",), {}, 401, "invalid_api_key"),
        (("PermissionDeniedError",), {}, 403, "permission_denied"),
        (("NotFoundError",), {}, 404, "model_not_found"),
        (("RateLimitError",), {}, 429, "rate_limit_exceeded"),
        (("Timeout",), {}, 504, "upstream_timeout"),
        (("ServiceUnavailableError",), {}, 503, "overloaded"),
        (("InternalServerError",), {}, 500, "upstream_unavailable"),
        (("APIConnectionError",), {"status_code": 500}, 502, "upstream_unavailable"),
        (("APIError",), {"status_code": 403}, 403, "permission_denied"),
        (("APIError",), {"status_code": 402}, 402, "insufficient_quota"),
        (("APIError",), {"status_code": 418}, 418, None),
        (("APIError",), {"status_code": 529}, 529, "upstream_unavailable"),
        (("APIError",), {"status_code": 200}, 502, "upstream_unavailable"),
        (("KeyError",), {}, 502, "upstream_unavailable"),
    ],
)
def test_every_exception_of_litellm_has_its_status_and_code(
    names: tuple[str, ...], facts: dict[str, Any], status: int, code: str | None
) -> None:
    found, said, _ = error_of(raised(*names, **facts))
    assert (found, said["code"]) == (status, code)
    assert set(said) == {"message", "type", "param", "code"}


def test_what_a_stream_broke_on_is_looked_for_inside_its_wrapping() -> None:
    inner = raised("RateLimitError", message="slow down")
    assert error_of(raised("MidStreamFallbackError", "ServiceUnavailableError", original_exception=inner))[0] == 429


def test_a_provider_s_own_words_are_kept_and_ours_taken_out() -> None:
    inner = json.dumps({"type": "error", "error": {"message": "the key sk-secret-1 may not"}})
    error = raised("BadRequestError", message=f"litellm.BadRequestError: AnthropicException - {inner}")
    assert error_of(error, ["sk-secret-1"])[1]["message"] == "the key *** may not"
    long = raised("BadRequestError", message="x" * 20_000)
    assert len(error_of(long)[1]["message"]) == MESSAGE_MAX


def test_nobody_is_shown_a_traceback() -> None:
    text = "litellm.APIConnectionError: 'x'\nTraceback (most recent call last):\n  File /srv/secret.py"
    for name in ("APIConnectionError", "BadRequestError", "KeyError", "InternalServerError"):
        assert "Traceback" not in error_of(raised(name, message=text))[1]["message"]


def test_retry_after_is_passed_on_in_seconds_where_it_means_something() -> None:
    def with_header(name: str, value: str) -> Exception:
        return raised(name, response=type("R", (), {"headers": {"retry-after": value}})())

    assert error_of(with_header("RateLimitError", "7"))[2] == "7"
    assert error_of(with_header("RateLimitError", "0.4"))[2] == "1"
    assert error_of(with_header("ServiceUnavailableError", "Wed, 21 Oct 2015 07:28:00 GMT"))[2] == "0"
    assert error_of(with_header("RateLimitError", "soon"))[2] is None
    assert error_of(with_header("BadRequestError", "7"))[2] is None


# -- answers --


def test_a_chunk_has_what_openai_s_have() -> None:
    assert event_of({"choices": [{"index": 0}]}) == {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    assert event_of({"choices": [{"index": 0, "delta": {}}], "usage": usage})["choices"] == []
    both = event_of({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    assert both["choices"][0]["finish_reason"] == "stop"


def test_a_usage_that_nobody_stated_is_left_to_the_gateway() -> None:
    assert stated_usage({"usage": {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.1}}) == {}
    assert stated_usage({"usage": {"prompt_tokens": 3, "cost": 0.1}}) == {"usage": {"prompt_tokens": 3}}
