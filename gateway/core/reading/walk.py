"""One request, walked once: its texts, its media, its tools, and what its words say.

Here belongs finding the parts of a request. What they mean as signals stands in `signals`, how long they are in
`sizes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core.reading import media
from gateway.core.reading.lexicon import UNDECIDED, Excerpt, Lexicon, Verdict
from gateway.core.request.hints import Hints
from gateway.core.request.wire import Envelope
from gateway.core.text.longtext import LongText
from gateway.core.text.tokens import Text
from gateway.core.types import Tenant

_USER_TEXTS = 64  # who wrote no letter in so many will not have before


class Request:
    """A request and what was found by walking it, once."""

    __slots__ = (
        "_content",
        "_excerpt",
        "_tools_json",
        "_user_texts",
        "_verdict",
        "envelope",
        "headers",
        "hints",
        "lexicon",
        "member",
        "messages",
        "now",
        "tenant",
    )

    def __init__(
        self,
        envelope: Envelope,
        tenant: Tenant,
        hints: Hints,
        headers: Mapping[str, str],
        lexicon: Lexicon,
        now: float,
    ) -> None:
        self.envelope = envelope
        self.member = envelope.tree.get  # the decoded member of a name, or None where it is missing or null. HOT
        self.tenant = tenant
        self.hints = hints
        self.headers = headers
        self.lexicon = lexicon
        self.now = now
        self.messages: Sequence[Mapping[str, Any]] = envelope.get("messages")
        self._content: media.Content | None = None
        self._excerpt: Excerpt | None = None
        self._tools_json: str | None = None
        self._user_texts: list[Text] | None = None
        self._verdict: Verdict | None = None

    @property
    def content(self) -> media.Content:
        """What the messages consist of."""
        if self._content is None:
            self._content = media.read(self.messages)
        return self._content

    @property
    def tools_json(self) -> str:
        """The tools as compact JSON, "" where none are offered."""
        if self._tools_json is None:
            offered = [value for name in ("tools", "functions") if (value := self.envelope.get(name))]
            self._tools_json = "".join(map(media.compact, offered))
        return self._tools_json

    @property
    def tools_size(self) -> int:
        """Bytes of the tools as the client wrote them."""
        members = self.envelope.members
        return sum(len(memoryview(members[name])) for name in ("tools", "functions") if self.envelope.get(name))

    @property
    def extra_texts(self) -> list[Text]:
        """Texts outside the messages that servers put into the prompt."""
        wanted = self.envelope.get("response_format")
        schema = wanted.get("json_schema") if wanted else None
        return [media.compact(schema)] if schema else []

    @property
    def user_texts(self) -> list[Text]:
        """The last of what the user wrote, turn by turn."""
        if self._user_texts is None:
            self._user_texts = _user_texts(self.messages)
        return self._user_texts

    @property
    def excerpt(self) -> Excerpt | None:
        """The words of the last thing the user wrote; None where there is none."""
        if self._excerpt is None and (texts := self.user_texts):
            self._excerpt = self.lexicon.excerpt(texts[-1])
        return self._excerpt

    @property
    def verdict(self) -> Verdict:
        """What the lexicon says of the last thing the user wrote."""
        if self._verdict is None:
            excerpt = self.excerpt
            self._verdict = UNDECIDED if excerpt is None else self.lexicon.judge(excerpt)
        return self._verdict


def _user_texts(messages: Sequence[Mapping[str, Any]]) -> list[Text]:
    found: list[Text] = []
    for message in reversed(messages):
        if message["role"] != "user":
            continue
        content = message.get("content")
        if isinstance(content, str | LongText):
            found.append(content)
        elif isinstance(content, list):
            texts = [part.get("text") for part in content if part["type"] in ("text", "input_text")]
            short = [text for text in texts if isinstance(text, str)]
            if short:
                found.append("\n".join(short))
            found += [text for text in reversed(texts) if isinstance(text, LongText)]
        if len(found) >= _USER_TEXTS:
            break
    return found[::-1]
