"""What the name of a model tells that the catalogue does not know: its family, what it reads, and whether it chats.

Guesses, made where a file that is carried over says nothing; what the file says goes before them.
"""

from __future__ import annotations

import re

from gateway.catalog.catalogue import Catalogue
from gateway.init.ownserver import recognise

#: Families whose models exist only behind an API.
_CLOSED = re.compile(
    r"(?:^|[^a-z])(?:gpt-?(?!-?oss)[0-9]|chatgpt|o[1-9](?:-|$)|claude|gemini|command|mistral-large|grok|nova|sonar)"
)
#: Families that a name may tell, besides those of the catalogue.
_FAMILIES = frozenset({"gpt", "claude", "gemini", "mistral", "command", "grok", "nova", "sonar"})

#: Words in the names of models that answer no chat: what they give is a vector, a picture, a sound, a text or a score.
_NO_CHAT = re.compile(
    r"(?:^|[^a-z])(?:embed(?:dings?|der|qa)?|bge|e5|gte|voyage|colbert|whisper|transcri(?:be|ption)|tts|sonic|dall-?e"
    r"|(?:gpt|qwen|titan)-image|imagen|canvas|stable-(?:diffusion|image)|sdxl|flux|sora|veo|rerank(?:er)?|moderation"
    r"|realtime)(?:$|[^a-z])"
)
#: Families behind an API whose models are known to read images.
_SEES = re.compile(r"(?:^|[^a-z])(?:(?:chat)?gpt-(?:4o|4\.1|4-turbo|5)|claude-(?:3|haiku|sonnet|opus)|gemini)")
#: Those of them that do not.
_BLIND = re.compile(r"audio|search")


def chats(name: str, catalogue: Catalogue) -> bool:
    """Whether a model may answer chats, by its name; one of the catalogue's does."""
    return recognise(catalogue, name) is not None or _NO_CHAT.search(name.rsplit("/", 1)[-1].lower()) is None


def closed(name: str) -> bool:
    """Whether a model is of a family that exists only behind an API."""
    return _CLOSED.search(name) is not None


def sees(name: str) -> bool:
    """Whether a model is of a family that is known to read images."""
    return _SEES.search(name) is not None and _BLIND.search(name) is None


def family(name: str, catalogue: Catalogue) -> str:
    """The family that a name tells, wherever in it; else its first word."""
    known = sorted({one.family for one in catalogue.models.values()} | _FAMILIES, key=len, reverse=True)
    told = next((one for one in known if one in name), None)
    return told or (re.match(r"[a-z]+", name) or [name])[0]
