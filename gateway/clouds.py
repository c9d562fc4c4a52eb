"""What addresses of the three clouds, and of Ollama, look like and say: a slip there is else met as a 404 by requests.

Only hosts that are known to be theirs are judged; anything else (a private link, a proxy, a test) is taken as written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.core.quantities import Invalid
from gateway.core.types import Endpoint

_AZURE = re.compile(r"[\w-]+\.(openai|services\.ai|cognitiveservices)\.azure\.(com|us)")
_VERTEX = re.compile(r"(?:([a-z0-9-]+)-)?aiplatform\.googleapis\.com")
_VERTEX_PATH = re.compile(r"/v1(?:beta1)?/projects/[^/]+/locations/([^/]+)/endpoints/[^/]+")
_RUNTIME = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_MANTLE = re.compile(r"bedrock-mantle\.([a-z0-9-]+)\.api\.aws")

_VALID = {
    "azure": "https://RESOURCE.openai.azure.com/openai/v1, or .../openai or "
    "https://RESOURCE.services.ai.azure.com/models with an api_version",
    "vertex": "https://LOCATION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/LOCATION/endpoints/openapi",
    "bedrock": "https://bedrock-runtime.REGION.amazonaws.com/openai/v1 or https://bedrock-mantle.REGION.api.aws/v1",
}


def check_addresses(dialect: str, places: Sequence[Endpoint], api_version: str | None) -> None:
    """Refuse what cannot be meant. Raises `Invalid`."""
    if api_version is not None and dialect != "azure":
        raise Invalid("only Azure has an api_version", "leave it out")
    for place in places:
        _check(dialect, place, api_version)
    if dialect == "azure" and len({place.path for place in places}) > 1:
        raise Invalid("these endpoints are of different APIs, which differ in their paths", "a backend for each")


def _check(dialect: str, place: Endpoint, api_version: str | None) -> None:
    if dialect == "ollama" and place.path.endswith(("/v1", "/api")):
        raise Invalid(f"Ollama is spoken to by its own API, not under {place.path}", "http://host:11434")
    if dialect == "azure":
        _check_azure(place, api_version)
    elif dialect == "vertex":
        _check_vertex(place)
    elif dialect == "bedrock":
        scope = aws_scope(place.host)
        if scope is not None and place.path not in ("/openai/v1", "/v1"):
            raise Invalid(f"Bedrock has no chat completions under {place.path or '/'}", _VALID["bedrock"])


def region_of(place: Endpoint) -> str | None:
    """The region that an address names, where it is one of these clouds'."""
    scope = aws_scope(place.host)
    if scope is not None:
        return scope[0]
    match = _VERTEX.fullmatch(place.host)
    return match[1] if match else None


def aws_scope(host: str) -> tuple[str, str] | None:
    """Region and service that a signature for this host names; None where the host does not say."""
    for known, service in ((_RUNTIME, "bedrock"), (_MANTLE, "bedrock-mantle")):
        match = known.fullmatch(host)
        if match:
            return match[1], service
    return None


def _check_azure(place: Endpoint, api_version: str | None) -> None:
    if "/openai/deployments/" in f"{place.path}/":
        what = "names a deployment, but a deployment is a target: its upstream_id"
        raise Invalid(f"{place.url!r:.120} {what}", "the address up to /openai, with an api_version")
    ours = _AZURE.fullmatch(place.host)
    if ours and place.path not in ("/openai/v1", "/openai", "/models"):
        raise Invalid(f"Azure has no chat completions under {place.path or '/'}", _VALID["azure"])
    if api_version is None and (place.path.endswith("/openai") or (ours and place.path == "/models")):
        raise Invalid(f"{place.path} needs an api_version", "api_version: 2024-10-21, or the address .../openai/v1")


def _check_vertex(place: Endpoint) -> None:
    match = _VERTEX.fullmatch(place.host)
    if match is None:
        return
    path = _VERTEX_PATH.fullmatch(place.path)
    if path is None:
        raise Invalid(f"Vertex has no chat completions under {place.path or '/'}", _VALID["vertex"])
    if (match[1] or "global") != path[1]:
        raise Invalid(f"the host is for {match[1] or 'global'}, the path for {path[1]}", _VALID["vertex"])
