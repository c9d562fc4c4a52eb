"""JSON Schemas of the files people write, made from the models that read them.

`python -m gateway.schemas` writes them to `schemas/`; editors use them through the first line of each file. They help
while writing: what is valid is decided by loading, which also knows names, environments and other files.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from gateway.catalog.doc import CatalogueDoc
from gateway.config import ConfigDoc, FleetDoc
from gateway.core.parts import PartDoc
from gateway.core.policy import PolicyDoc

_WORTH_SHARING = 120  # characters
_NAMED = ("properties", "$defs", "patternProperties")

#: File in `schemas/` -> title and model.
SCHEMAS: Mapping[str, tuple[str, type[BaseModel]]] = MappingProxyType(
    {
        "pointsman.json": ("pointsman.yaml", ConfigDoc),
        "fleet.json": ("A fleet of backends and targets", FleetDoc),
        "catalogue.json": ("A catalogue of models and offers", CatalogueDoc),
        "policy.json": ("A routing policy", PolicyDoc),
        "part.json": ("Constraints that policies include", PartDoc),
    }
)


def schema(name: str) -> dict[str, Any]:
    """One schema, complete in itself."""
    title, model = SCHEMAS[name]
    made = _shared(_plain(model.model_json_schema()))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": title}


def text(name: str) -> str:
    """One schema as it is committed."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


def _plain(node: Any) -> Any:
    """Without what pydantic adds that helps no reader: titles, and `null` for saying nothing."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in _NAMED:
            out[key] = {name: _plain(sub) for name, sub in value.items()}
        elif key == "default" and (value is None or isinstance(value, dict)):
            continue
        elif not (key == "title" and isinstance(value, str)):
            out[key] = _plain(value)
    options = [one for one in out.get("anyOf", ()) if one != {"type": "null"}]
    if len(options) == 1:
        only: dict[str, Any] = options[0]
        return only | {key: value for key, value in out.items() if key != "anyOf"}
    if options:
        out["anyOf"] = options
    return out


def _shared(schema: dict[str, Any]) -> dict[str, Any]:
    """With every larger part that occurs more than once moved to `$defs`, so that the file stays readable."""
    seen: Counter[str] = Counter()

    def count(node: Any, *, is_schema: bool) -> None:
        spelt = json.dumps(node)
        if is_schema and isinstance(node, dict) and len(spelt) >= _WORTH_SHARING:
            seen[spelt] += 1
        for one, inner in _parts(node, is_schema=is_schema):
            count(one, is_schema=inner)

    count(schema, is_schema=True)
    repeated = (spelt for spelt, times in seen.items() if times > 1)
    names = {spelt: f"Shared{number}" for number, spelt in enumerate(repeated, 1)}

    def refer(node: Any, *, is_schema: bool, top: bool = False) -> Any:
        name = names.get(json.dumps(node)) if is_schema and not top else None
        if name is not None:
            return {"$ref": f"#/$defs/{name}"}
        done = [refer(one, is_schema=inner) for one, inner in _parts(node, is_schema=is_schema)]
        if isinstance(node, dict):
            return dict(zip(node, done, strict=True))
        return done if isinstance(node, list) else node

    parts = {name: refer(json.loads(spelt), is_schema=True, top=True) for spelt, name in names.items()}
    made: dict[str, Any] = refer(schema, is_schema=True, top=True)
    return made | {"$defs": made.get("$defs", {}) | parts}


def _parts(node: Any, *, is_schema: bool) -> list[tuple[Any, bool]]:
    """The members of a node, each with whether it is a schema; members of `properties` are, `properties` is not."""
    if isinstance(node, dict):
        return [(value, not is_schema or key not in _NAMED) for key, value in node.items()]
    return [(one, True) for one in node] if isinstance(node, list) else []


def main() -> int:
    """Write every schema."""
    directory = Path(__file__).parent.parent / "schemas"
    directory.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (directory / name).write_text(text(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
