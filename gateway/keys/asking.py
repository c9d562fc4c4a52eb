"""What the command asks a running gateway: to read its keys now, and what is left of limits; and how that is printed.

Limits live in the process that keeps them, so only it can tell what is left of them. Which gateway is meant, and what
else the command does, is in `command`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.admin import KEY_VARIABLE
from gateway.keys.telling import money
from gateway.terminal import in_columns
from gateway.times import a_period

#: Seconds to wait for an answer.
_ANSWER_S = 10.0


class NotTold(Exception):
    """The gateway did not answer, or not what was asked for. The text says why, `valid` what to do, if anything."""

    def __init__(self, why: str, valid: str = "") -> None:
        super().__init__(why)
        self.valid = valid


def ask(url: str, admin_key: str | None, method: str, path: str, **parameters: str) -> dict[str, Any]:
    """What the gateway with this admin listener answers. Raises NotTold; LookupError where it knows no such name."""
    import httpx  # noqa: PLC0415 - only who asks pays for it

    headers = {} if admin_key is None else {"authorization": f"Bearer {admin_key}"}
    try:
        answer = httpx.request(
            method, f"{url}{path}", params=parameters, headers=headers, timeout=_ANSWER_S, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL):
        raise NotTold(f"no gateway answers at {url}", "start it, or name its admin listener with --url") from None
    if answer.status_code == 401:
        raise NotTold(f"the gateway at {url} wants its admin key: {KEY_VARIABLE}")
    try:
        body = answer.json()
        if answer.status_code == 200 and isinstance(body, dict):
            return body
        said = f"the gateway at {url} does not follow: {body['error']['message']}"
    except (ValueError, LookupError, TypeError):
        raise NotTold(f"what answers at {url} is no gateway's admin listener") from None
    if answer.status_code == 404 and body["error"]["code"] == "not_found" and parameters:
        raise LookupError(body["error"]["message"].removesuffix("."))
    raise NotTold(said)


def follow(url: str, admin_key: str | None) -> str:
    """Have the gateway read its keys now. Why it did not, or ""."""
    try:
        ask(url, admin_key, "POST", "/v1/keys/reload")
    except NotTold as why:
        return str(why)
    return ""


def used_most(found: Sequence[Mapping[str, Any]], above: float) -> list[Mapping[str, Any]]:
    """The rows of which so many percent are used, the most used first."""
    return sorted((one for one in found if one["used"] * 100 >= above), key=lambda one: -float(one["used"]))


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is left of limits, for people."""
    cells = [["OF", "NAME", "LIMIT", "MOST", "LEFT", "USED", "RESETS"]]
    for one in found:
        shadow = " (shadow)" if one["mode"] == "shadow" else " (soft)" if one["mode"] == "soft" else ""
        if one["limit"] == "budget":
            what, most = f"budget {a_period(one['per'])}", money(one["usd"])
            left = money(one.get("here_usd", one["left_usd"]))
        else:
            what, most, left = one["limit"], f"{one['most']:,}", f"{one['left']:,}"
        resets = one.get("resets") or (f"in {one['resets_s']:.0f} s" if one.get("resets_s") else "-")
        cells.append([one["scope"], one["name"], what + shadow, most, left, f"{one['used']:.0%}", resets])
    return in_columns(cells, right=range(3, 6))
