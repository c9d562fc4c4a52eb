"""What is found by walking over a request."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.walk import Request
from gateway.core.request.hints import NO_HINTS
from gateway.core.request.wire import parse
from gateway.core.types import Tenant


def walked(messages: list[dict[str, Any]]) -> Request:
    body = json.dumps({"model": "a", "messages": messages}).encode()
    return Request(parse(body), Tenant("k"), NO_HINTS, {}, Lexicon.__new__(Lexicon), 0.0)


def test_of_what_the_user_wrote_only_the_last_turns_are_read() -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": str(n)} for n in range(400)]
    assert walked(turns).user_texts == [str(n) for n in range(272, 400, 2)]


def test_parts_of_one_turn_are_read_together_and_in_order() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": parts},
        {"role": "tool", "content": "x"},
    ]
    assert walked(turns).user_texts == ["first", "a\nb"]
