"""What a request consists of: its texts, and images, audio, video and files with bounds of what they cost in tokens.

Only what lies in the body is read, and of an image in it no more than the header: nothing is ever fetched, for a URL is
the client's and would be followed from inside our network. A size that cannot be read is the largest the model takes.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from gateway.core.request.wire import WHOLE_BYTES
from gateway.core.text.longtext import LongText, size_of, window
from gateway.core.text.tokens import Text
from gateway.core.types import Modality

Size = tuple[int, int]  # width and height in pixels

#: Largest number of tokens assumed for a video or a recording whose length cannot be seen: no model here takes more
#: (Qwen-VL samples at most 768 frames within a budget of 115,200 tokens).
VIDEO_TOKENS = 115_200
AUDIO_TOKENS = 65_536
FILE_TOKENS = 65_536
_AUDIO_TOKENS_PER_S = (13, 25)  # Qwen3-Omni; Qwen2-Audio and Qwen2.5-Omni
_AUDIO_BYTES_PER_S = 1_000  # the thinnest speech codecs; PCM is 16,000 at least
_PCM_BYTES_PER_S = 16_000  # where a recording does not say: the thinnest in use
_ENCODER = msgspec.json.Encoder()
_MANY = 64  # messages that are worth asking first whether they are all alike
_TEXT = frozenset({str, LongText})
_NOTHING = {type(None)}
_USUAL = _TEXT | _NOTHING
_TYPE = itemgetter("type")
_NAMES = 16  # by which messages are walked, each once per name
_TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning"})
#: Members in which servers look for media beside the content of a message, or in a part of text, and what they hold.
MEDIA_MEMBERS: Mapping[str, Modality] = MappingProxyType(
    {
        **dict.fromkeys(("image", "images", "image_url", "input_image"), "image"),
        **dict.fromkeys(("audio", "audios", "audio_url", "input_audio"), "audio"),
        **dict.fromkeys(("video", "videos", "video_url", "input_video"), "video"),
        **dict.fromkeys(("file", "files", "document", "documents", "input_file"), "file"),
        **dict.fromkeys(("image_embeds", "image_pil", "audio_embeds", "attachments"), "other"),
    }
)
_BESIDE = frozenset(MEDIA_MEMBERS)
#: Characters that hold an image's size: PNG, GIF and WebP have it in the first 30 bytes, JPEG puts it behind previews.
_HEADER_CHARS = (2_048, 131_072)


@dataclass(slots=True)
class Content:
    """What was found in the messages of one request."""

    texts: list[Text] = field(default_factory=list)
    images: list[Size | None] = field(default_factory=list)  # None: size not known
    audio_tokens: list[tuple[int, int]] = field(default_factory=list)  # bounds of each recording
    videos: int = 0
    file_tokens: list[int] = field(default_factory=list)
    others: int = 0  # of kinds that nobody here knows; they count as the text that spells them
    messages: int = 0
    calls: int = 0

    @property
    def modality(self) -> frozenset[Modality]:
        """The kinds of content; text is always among them, for a template is text."""
        kinds: tuple[tuple[Modality, object], ...] = (
            ("image", self.images),
            ("audio", self.audio_tokens),
            ("video", self.videos),
            ("file", self.file_tokens),
            ("other", self.others),
        )
        return frozenset(("text", *(kind for kind, found in kinds if found)))

    def media_tokens(self, tokenizer: str | None) -> tuple[int, int]:
        """The least and the most tokens that all media cost the models with this tokenizer."""
        lo = hi = 0
        if self.images:
            cost = IMAGE_COSTS.get(tokenizer or "", UNKNOWN_IMAGE)
            for size in self.images:
                least, most = (cost.least, cost.most) if size is None else cost.of(size)
                lo += least
                hi += most
        for least, most in self.audio_tokens:
            lo += least
            hi += most
        return lo, hi + self.videos * VIDEO_TOKENS + sum(self.file_tokens)


def read(messages: Sequence[Mapping[str, Any]]) -> Content:
    """Walk the messages of a checked request."""
    found = Content(messages=len(messages))
    if len(messages) > _MANY and _by_columns(messages, found):
        return found
    texts = found.texts
    for message in messages:
        for name, value in message.items():
            if name == "role" or not value:
                continue
            if name == "content":
                if type(value) is list:
                    for part in value:
                        _part(part, found)
                else:
                    texts.append(value)
            elif name == "tool_calls" and type(value) is list:
                found.calls += len(value)
                for call in value:
                    _apart(call, texts)
            elif name in MEDIA_MEMBERS:
                _beside(MEDIA_MEMBERS[name], value, found)
            elif type(value) in _TEXT:
                texts.append(value)
            else:
                _apart(value, texts)
    return found


def _by_columns(messages: Sequence[Mapping[str, Any]], found: Content) -> bool:
    """Take in many messages by what they have under one name; False where those are too many."""
    contents = [message.get("content") for message in messages]
    if set(map(len, messages)) == {2} and type(None) not in set(
        map(type, contents)
    ):  # besides it a role, as in every message
        names: Iterable[str] = ("content",)
    elif len(names := dict.fromkeys(chain.from_iterable(messages))) > _NAMES:
        return False
    for name in names:
        if name == "role":
            continue
        values = contents if name == "content" else [message[name] for message in messages if name in message]
        _column(name, values, found)
    return True


def _column(name: str, values: Sequence[Any], found: Content) -> None:
    """Take in all that many messages have under one name, as `read` does one after the other."""
    kinds = set(map(type, values))
    if kinds == _NOTHING:
        return
    if name in MEDIA_MEMBERS:
        for value in values:
            _beside(MEDIA_MEMBERS[name], value, found)
        return
    if list in kinds and name in ("content", "tool_calls"):
        lists = values if len(kinds) == 1 else [value for value in values if type(value) is list]
        (_parts if name == "content" else _calls)(list(chain.from_iterable(lists)), found)
        values = [value for value in values if type(value) is not list]
        kinds.discard(list)
    if kinds <= _USUAL:
        found.texts += filter(None, values)
        return
    for value in values:
        if type(value) in _TEXT:
            found.texts += filter(None, (value,))
        elif value:
            _apart(value, found.texts)


def _parts(parts: Sequence[Mapping[str, Any]], found: Content) -> None:
    """Take in parts of messages."""
    if len(parts) > _MANY and set(map(len, parts)) == {2} and set(map(_TYPE, parts)) == {"text"}:
        texts: list[Any] = [part.get("text") for part in parts]
        if set(map(type, texts)) <= _TEXT:
            found.texts += texts
            return
    for part in parts:
        _part(part, found)


def _calls(calls: Sequence[Any], found: Content) -> None:
    """Take in calls of tools."""
    found.calls += len(calls)
    if len(calls) > _MANY and set(map(type, calls)) == {dict}:
        values = list(chain.from_iterable(map(dict.values, calls)))
        inner = [value for value in values if type(value) is dict]
        kinds = set(map(type, chain.from_iterable(map(dict.values, inner))))
        if not kinds & {LongText, list, dict} and not {LongText, list} & set(map(type, values)):
            found.texts += _ENCODER.encode_lines(calls).decode().split("\n")[:-1]
            return
    for call in calls:
        _apart(call, found.texts)


def compact(value: Any) -> str:
    """A decoded value as compact JSON."""
    text = _ENCODER.encode(value)
    if len(text) > WHOLE_BYTES:
        long: list[Text] = []
        _find(value, long)
        if long:  # what the client wrote of it may not be the shortest
            text = _ENCODER.encode(msgspec.json.decode(text))
    return text.decode()


def _apart(value: Any, texts: list[Text]) -> None:
    """Adds a value of a structure we do not know: its compact JSON, and the texts in it that are not decoded."""
    long: list[Text] = []
    _find(value, long)
    texts.append(_ENCODER.encode(_emptied(value) if long else value).decode())
    texts += long


def _find(value: Any, long: list[Text]) -> None:
    """Adds the texts in a value that are not decoded."""
    for one in value.values() if type(value) is dict else value if type(value) is list else (value,):
        kind = type(one)
        if kind is LongText:
            long.append(one)
        elif kind is dict or kind is list:
            _find(one, long)


def _emptied(value: Any) -> Any:
    """A value with nothing in the texts of it that are not decoded."""
    kind = type(value)
    if kind is dict:
        return {name: _emptied(one) for name, one in value.items()}
    if kind is list:
        return [_emptied(one) for one in value]
    return "" if kind is LongText else value


def _part(part: Mapping[str, Any], found: Content) -> None:
    kind = part["type"]
    value = part.get(kind)
    if kind in _TEXTS:
        text = part.get("text", value)
        if type(text) in _TEXT:
            found.texts.append(text)
        if not _BESIDE.isdisjoint(part):
            for name in part.keys() & _BESIDE:
                _beside(MEDIA_MEMBERS[name], part[name], found)
    elif kind in ("image_url", "image", "input_image"):
        found.images.append(image_size(_url(value) or _url(part.get("image_url"))))
    elif kind in ("input_audio", "audio_url", "audio"):
        found.audio_tokens.append(_audio_tokens(value))
    elif kind in ("video_url", "video", "input_video"):
        found.videos += 1
    elif kind in ("file", "input_file", "document"):
        found.file_tokens.append(_file_tokens(value))
    else:
        found.others += 1
        _apart(part, found.texts)


def _beside(kind: Modality, value: Any, found: Content) -> None:
    """Media that stand where OpenAI's API has none: some servers read them there, so they are not text."""
    if not value:
        return
    many = len(value) if isinstance(value, list) else 1
    if kind == "image":
        found.images += [None] * many
    elif kind == "audio":
        found.audio_tokens += [(0, AUDIO_TOKENS)] * many
    elif kind == "video":
        found.videos += many
    elif kind == "file":
        found.file_tokens += [FILE_TOKENS] * many
    else:
        found.others += 1
        _apart(value, found.texts)


def _url(value: Any) -> Text | None:
    if isinstance(value, Mapping):
        value = value.get("url")
    return value if type(value) in _TEXT else None


def _length(text: Text) -> int:
    return size_of(text) if isinstance(text, LongText) else len(text)


def _audio_tokens(value: Any) -> tuple[int, int]:
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, str | LongText):
        return 0, AUDIO_TOKENS
    least, most = _AUDIO_TOKENS_PER_S
    size = _length(data) * 3 // 4
    rate = _wav_bytes_per_s(data)
    if rate is not None:
        return size // rate * least, (size // rate + 1) * most + 2
    rate = _PCM_BYTES_PER_S if value.get("format") in ("wav", "pcm16") else _AUDIO_BYTES_PER_S
    return 0, (size // rate + 1) * most + 2


def _wav_bytes_per_s(data: Text) -> int | None:
    """What a second of a WAV recording takes, from its header; None for what is no plain WAV."""
    head = window(data, 0, 64) if isinstance(data, LongText) else data[:64]
    try:
        raw = binascii.a2b_base64((head or "")[:60])
    except ValueError:
        return None
    if raw[:4] != b"RIFF" or raw[8:16] != b"WAVEfmt " or len(raw) < 36:
        return None
    channels, per_s, rate, bits = (
        int.from_bytes(raw[at : at + size], "little") for at, size in ((22, 2), (24, 4), (28, 4), (34, 2))
    )
    # A rate that its own fields do not make would let a long recording look short.
    return rate if rate == channels * per_s * bits // 8 and 4_000 <= per_s <= 192_000 and 0 < channels <= 8 else None


def _file_tokens(value: Any) -> int:
    data = value.get("file_data") if isinstance(value, Mapping) else None
    return max(FILE_TOKENS, _length(data) * 3 // 4) if isinstance(data, str | LongText) else FILE_TOKENS


# --- images -----------------------------------------------------------------------------------------------------------


def image_size(url: Text | None) -> Size | None:
    """Width and height of an image in a data URL, from its header; None where it is elsewhere or cannot be read."""
    if url is None:
        return None
    for chars in _HEADER_CHARS:
        head = window(url, 0, chars) if isinstance(url, LongText) else url[:chars]
        if not head or not head.startswith("data:image/"):
            return None
        meta, comma, data = head.partition(",")
        if not comma or not meta.endswith(";base64"):
            return None
        try:
            raw = binascii.a2b_base64(data[: len(data) // 4 * 4])
        except ValueError:
            return None
        size = _png(raw) or _gif(raw) or _webp(raw) or _jpeg(raw)
        if size is not None:
            return size if min(size) > 0 else None
    return None


def _png(raw: bytes) -> Size | None:
    if raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR" or len(raw) < 24:
        return None
    return int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24])


def _gif(raw: bytes) -> Size | None:
    if raw[:6] not in (b"GIF87a", b"GIF89a") or len(raw) < 10:
        return None
    return int.from_bytes(raw[6:8], "little"), int.from_bytes(raw[8:10], "little")


def _webp(raw: bytes) -> Size | None:
    if raw[:4] != b"RIFF" or raw[8:12] != b"WEBP" or len(raw) < 30:
        return None
    kind = raw[12:16]
    if kind == b"VP8X":
        return int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1
    if kind == b"VP8 ":
        return int.from_bytes(raw[26:28], "little") & 0x3FFF, int.from_bytes(raw[28:30], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _jpeg(raw: bytes) -> Size | None:
    if raw[:2] != b"\xff\xd8":
        return None
    at = 2
    for _ in range(1_000):  # markers; a real image has some 20
        if at + 9 > len(raw) or raw[at] != 0xFF:
            return None
        marker = raw[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(raw[at + 7 : at + 9]), int.from_bytes(raw[at + 5 : at + 7])
        else:
            at += 2 + int.from_bytes(raw[at + 2 : at + 4])
    return None


@dataclass(frozen=True, slots=True)
class ImageCost:
    """What an image costs the models of one tokenizer: at least, at most, and the rule between."""

    rule: Literal["tiles", "patches", "flat"]
    least: int
    most: int
    sides: tuple[int, ...] = (32,)  # of a patch in pixels, the largest first, where the models differ

    def of(self, size: Size) -> tuple[int, int]:
        """The least and the most tokens of an image of that size."""
        if self.rule == "tiles":
            return (_tiles(size),) * 2
        if self.rule == "patches":
            return _patches(size, self.sides[0], self.least), _patches(size, self.sides[-1], self.least)
        return self.least, self.most


def _tiles(size: Size) -> int:
    """Llama 4 (llama_models `chat_format.py`): 336-pixel tiles of 144 tokens each, at most 16, and one of the whole.

    Of the grids of tiles the one is taken that enlarges the image least; where all shrink it, the one that does so
    least; of equal ones the smallest.
    """
    width, height = size
    grids = [(rows, columns) for rows in range(1, 17) for columns in range(1, 16 // rows + 1)]
    scaled = [(min(columns * 336 / width, rows * 336 / height), rows * columns) for rows, columns in grids]
    enlarging = [grid for grid in scaled if grid[0] >= 1]
    _, tiles = min(enlarging) if enlarging else max(scaled, key=lambda grid: (grid[0], -grid[1]))
    return 147 if tiles == 1 else (tiles + 1) * 144 + tiles + 3


def _patches(size: Size, side: int, least: int) -> int:
    """Qwen (qwen-vl-utils `smart_resize`): sides rounded to patches, up to 16,384 of them, and two markers."""
    width, height = (max(side, round(length / side) * side) for length in size)
    return min(max(width * height // side**2, least - 2), 16_384) + 2


IMAGE_COSTS: Mapping[str, ImageCost] = {
    "qwen3.5": ImageCost("patches", 66, 16_386),
    "qwen3": ImageCost("patches", 6, 16_386, (32, 28)),  # Qwen3-VL; Qwen2-VL and 2.5-VL
    "llama4": ImageCost("tiles", 147, 2_467),
    "llama3": ImageCost("flat", 1, 6_404),  # Llama 3.2 vision looks at 4 tiles of 1,601 beside the context
}
UNKNOWN_IMAGE = ImageCost("flat", 1, 16_386)
