import base64
import json
import struct
from typing import Any

import pytest

from gateway.core.reading.media import Content, image_size, read
from gateway.core.request.wire import WHOLE_BYTES, parse
from gateway.core.text.longtext import LongText, pieces


def url(kind: str, raw: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def png(width: int, height: int) -> str:
    return url("png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(20))


def jpeg(width: int, height: int, preview: int = 0) -> str:
    exif = b"\xff\xe1" + struct.pack(">H", preview + 2) + bytes(preview)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + bytes(10)
    return url("jpeg", b"\xff\xd8" + exif + frame)


def parts(*content: dict[str, Any]) -> Content:
    return read([{"role": "user", "content": list(content)}])


def image(address: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}}


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (png(640, 480), (640, 480)),
        (jpeg(1024, 768), (1024, 768)),
        (jpeg(1024, 768, preview=40_000), (1024, 768)),
        (url("gif", b"GIF89a" + struct.pack("<HH", 320, 200) + bytes(10)), (320, 200)),
        (
            url("webp", b"RIFF....WEBPVP8X" + bytes(8) + (799).to_bytes(3, "little") + (599).to_bytes(3, "little")),
            (800, 600),
        ),
        (url("webp", b"RIFF....WEBPVP8 " + bytes(10) + struct.pack("<HH", 800, 600)), (800, 600)),
        (url("webp", b"RIFF....WEBPVP8L" + bytes(5) + struct.pack("<I", 799 | 599 << 14) + bytes(9)), (800, 600)),
        ("https://example.com/cat.png", None),
        ("data:image/png;base64,!!!", None),
        ("data:image/png,raw", None),
        (url("png", b"\x89PNG\r\n\x1a\n"), None),
        (url("jpeg", b"\xff\xd8" + b"\xff" * 90_000), None),
        (url("jpeg", b"\xff\xd8" + b"\xff\xe1\x00\x00" * 20_000), None),
        (png(0, 7), None),
        ("", None),
    ],
)
def test_the_size_of_an_image_is_read_from_its_header_or_not_known(address: str, size: tuple[int, int] | None) -> None:
    assert image_size(address) == size


def test_a_large_image_is_sized_without_decoding_it() -> None:
    big = png(336, 336) + "A" * WHOLE_BYTES * 4
    body = {"model": "m", "messages": [{"role": "user", "content": [image(big)]}]}
    content = read(parse(json.dumps(body).encode()).get("messages"))
    assert content.images == [(336, 336)]
    assert content.texts == []


@pytest.mark.parametrize(
    ("tokenizer", "size", "tokens"),
    [
        ("llama4", (336, 336), 147),
        ("llama4", (100, 100), 147),
        ("llama4", (672, 336), 3 * 144 + 2 + 3),
        ("llama4", (1344, 1344), 2_467),
        ("llama4", (9000, 9000), 2_467),
        ("llama4", (336, 672), 3 * 144 + 2 + 3),
        ("llama4", (1000, 1000), 10 * 144 + 9 + 3),
        ("qwen3.5", (1024, 1024), 1_024 + 2),
        ("qwen3.5", (1000, 500), 31 * 16 + 2),
        ("qwen3.5", (10, 10), 64 + 2),
        ("qwen3.5", (20_000, 20_000), 16_384 + 2),
    ],
)
def test_an_image_costs_what_the_models_own_formula_says(tokenizer: str, size: tuple[int, int], tokens: int) -> None:
    assert parts(image(png(*size))).media_tokens(tokenizer) == (tokens, tokens)


def test_where_models_of_one_tokenizer_cut_images_differently_both_are_bounds() -> None:
    """Qwen2.5-VL cuts 28 pixels, Qwen3-VL 32."""
    assert parts(image(png(896, 896))).media_tokens("qwen3") == (28 * 28 + 2, 32 * 32 + 2)
    assert parts(image(png(20, 20))).media_tokens("qwen3") == (6, 6)


def wav(seconds: int, per_s: int, channels: int, *, claimed: int | None = None) -> str:
    rate = per_s * channels * 2
    header = b"RIFF\0\0\0\0WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, per_s, claimed or rate, channels * 2, 16
    )
    return base64.b64encode(header + b"data\0\0\0\0" + bytes(seconds * rate)).decode()


@pytest.mark.parametrize(
    ("data", "least", "most"),
    [
        (wav(60, 16_000, 1), 60 * 13, 61 * 25 + 2),
        (wav(60, 44_100, 2), 60 * 13, 61 * 25 + 2),
        (wav(60, 16_000, 1, claimed=10**9), 0, 122 * 25),  # not believed: as the thinnest recording
        ("A" * 4_000, 0, 25 + 2),
    ],
)
def test_a_recording_costs_what_its_length_says(data: str, least: int, most: int) -> None:
    content = parts({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    lo, hi = content.media_tokens("qwen3.5")
    assert lo == least
    assert most * 0.97 <= hi <= most * 1.03


def test_an_image_of_unknown_size_costs_the_most_a_model_takes() -> None:
    content = parts(image("https://example.com/a.png"), image("https://example.com/b.png"))
    assert content.media_tokens("llama4") == (2 * 147, 2 * 2_467)
    assert content.media_tokens("qwen3.5")[1] == 2 * 16_386
    assert content.media_tokens(None)[1] == 2 * 16_386


def test_base64_is_no_text_but_everything_else_in_a_message_is() -> None:
    content = read(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hear"}, {"type": "odd", "x": 1}]},
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "A" * 4_000, "format": "mp3"}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]
    )
    assert content.texts[:3] == ["be brief", "ann", "hear"]
    assert content.texts[3] == '{"type":"odd","x":1}'
    assert content.texts[-2:] == ["1", "42"]
    assert content.calls == 1
    assert content.messages == 5
    assert content.modality == {"text", "audio", "other"}
    assert content.media_tokens("qwen3.5") == (0, 4 * 25 + 2)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "other"),
        ({"type": "audio_embeds", "audio_embeds": "AAAA"}, "other"),
        ({"type": "image_pil", "image_pil": "x"}, "other"),
        ({"type": "Image_URL", "image_url": {"url": "https://x/y"}}, "other"),
        ({"type": "text", "text": "x", "image_url": {"url": "https://x/y"}}, "image"),
        ({"type": "text", "text": "x", "video": "https://x/y"}, "video"),
        ({"type": "text", "text": "x", "image_embeds": "AAAA"}, "other"),
    ],
)
def test_a_part_that_is_not_known_to_be_text_is_not_taken_for_text(part: dict[str, Any], kind: str) -> None:
    assert parts(part).modality == {"text", kind}


@pytest.mark.parametrize(
    ("member", "kind"),
    [("images", "image"), ("audio", "audio"), ("videos", "video"), ("files", "file"), ("attachments", "other")],
)
def test_media_beside_the_content_of_a_message_are_media(member: str, kind: str) -> None:
    assert read([{"role": "user", "content": "x", member: ["aGVsbG8="]}]).modality == {"text", kind}
    assert read([{"role": "user", "content": "x", member: None}]).modality == {"text"}


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text", "refusal", "thinking", "reasoning"])
def test_what_models_said_and_thought_is_text_when_it_is_sent_back(kind: str) -> None:
    content = parts({"type": kind, kind: "hm", "cache_control": {"type": "ephemeral"}})
    assert (content.modality, content.texts) == ({"text"}, ["hm"])


def test_media_whose_length_cannot_be_seen_has_a_bound_all_the_same() -> None:
    content = parts(
        {"type": "video_url", "video_url": {"url": "https://example.com/v.mp4"}},
        {"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}},
        {"type": "file", "file": {"file_id": "f-1"}},
    )
    assert content.modality == {"text", "video", "audio", "file"}
    lo, hi = content.media_tokens("qwen3.5")
    assert lo == 0
    assert hi > 200_000


def test_a_long_text_in_an_unknown_place_is_a_text_of_its_own_and_not_decoded() -> None:
    long = "é" * WHOLE_BYTES
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": long}}
    asked = {
        "model": "a",
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "user", "content": [{"type": "odd", "odd": long}], "extra": {"deep": [long]}},
        ],
    }
    texts = read(parse(json.dumps(asked).encode()).tree["messages"]).texts
    assert [type(text) for text in texts] == [str, LongText] * 3
    assert json.loads(str(texts[0])) == {**call, "function": {"name": "f", "arguments": ""}}
    assert {"".join(pieces(text, 65_536)) for text in texts if isinstance(text, LongText)} == {long}
