"""What pointsman.yaml may say of the litellm sidecar, and of the backends behind it.

Only what is written; what the process is told of it is `sidecarspec`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.addresses import Url
from gateway.core.quantities import Invalid
from gateway.fields import Strict
from gateway.secretref import SecretRef

LitellmOption = Literal[
    "api_version",
    "aws_access_key_id",
    "aws_region_name",
    "aws_secret_access_key",
    "aws_session_token",
    "organization",
    "project_id",
    "region_name",
    "space_id",
    "vertex_credentials",
    "vertex_location",
    "vertex_project",
]


_SECRETS = ("aws_secret_access_key", "aws_session_token")
Options = dict[LitellmOption, str | SecretRef]


def _options(value: Options) -> Options:
    for name, one in value.items():
        if isinstance(one, str) and (name in _SECRETS or (name == "vertex_credentials" and "{" in one)):
            raise Invalid(f"{name} is a secret, which no file may hold", "{env: NAME} or {file: path}")
    return value


class LitellmDoc(Strict):
    """What litellm is told of a provider besides its key: an address other than its own, and what else it asks for."""

    api_base: Url | None = None
    options: Annotated[Options, AfterValidator(_options)] = Field(default_factory=dict)


class SidecarDoc(Strict):
    """The process that alone imports litellm: whose Python (left out: the gateway's own), and the key of its callers.

    `serve` makes that key up; it is only needed for `pointsman sidecar`.
    """

    python: str | None = None
    key: SecretRef | None = None
