"""What the control plane's answers look like, in OpenAPI's words: tests hold every answer to it.

Only shapes. Nobody is told of the routes, so the document is served nowhere.
"""

from __future__ import annotations

from typing import Any

_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": {"type": "string", "pattern": "^[a-z_]+$"},
            },
        }
    },
}

Responses = dict[int | str, dict[str, Any]]

#: Every refusal, on every route.
ERRORS: Responses = {"4XX": {"description": "refused", "content": {"application/json": {"schema": _ERROR}}}}

#: The body of a chat completion request, as far as explaining it needs one.
CHAT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "properties": {
                        "model": {"type": "string", "minLength": 1, "maxLength": 256},
                        "messages": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["role", "content"],
                                "properties": {
                                    "role": {"type": "string", "minLength": 1},
                                    "content": {"type": "string"},
                                },
                            },
                        },
                        "stream": {"type": "boolean"},
                    },
                }
            }
        },
    }
}


def answers(*required: str, statuses: tuple[int, ...] = (200,)) -> Responses:
    """An object with these members at least."""
    schema = {"type": "object", "required": list(required)}
    return {one: {"description": "told", "content": {"application/json": {"schema": schema}}} for one in statuses}


def text(*kinds: str) -> Responses:
    """A text of one of these content types."""
    return {200: {"description": "told", "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}}
