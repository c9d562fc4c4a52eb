import json

import pytest

from gateway.core.request.wire import WHOLE_BYTES, parse
from gateway.core.text.longtext import LongText, pieces, size_of, window

ALPHABET = 'aé語😀\n"\\\t/\u2028 '


def long_text(text: str, *, ascii_only: bool) -> LongText:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=ascii_only).encode()
    content = parse(body).get("messages")[0]["content"]
    assert type(content) is LongText
    return content


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("unit", [ALPHABET, "\\", "\\\\n", "😀", "a", '"', "\\u0041"])
def test_a_long_text_read_in_pieces_is_the_text(unit: str, ascii_only: bool) -> None:
    text = unit * (WHOLE_BYTES // len(unit) + 1)
    content = long_text(text, ascii_only=ascii_only)
    for size in (13, 1000, 65_536):
        if size > 13 or unit == ALPHABET:
            assert "".join(pieces(content, size)) == text
    assert size_of(content) >= len(text.encode())


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_window_of_a_long_text_is_a_part_of_it(ascii_only: bool) -> None:
    text = ALPHABET * 20_000
    content = long_text(text, ascii_only=ascii_only)
    for start in range(200):
        part = window(content, start, 100)
        assert part
        assert part in text
    assert window(content, size_of(content) - 50, 100)
    assert window(content, 0, size_of(content) * 2) == text


def test_a_window_into_a_wall_of_backslashes_does_not_raise() -> None:
    content = long_text("\\" * WHOLE_BYTES + "n" * 1000, ascii_only=True)
    for start in range(0, size_of(content), 997):
        part = window(content, start, 512)
        assert part is None or set(part) <= set("\\n\n")
