"""Function parameters: JSON Schema as tools have it, and the OpenAPI subset (`Schema`) that the protocol has. Both ways.

`Schema` names types in capitals, knows `nullable` instead of a union with null, and has no references; field names are the
vendor's (google-genai 3.4, `types.Schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAME = ("title", "description", "enum", "format", "default", "pattern", "example", "minimum", "maximum", "required")
_SIZES = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_TYPES = {"string", "number", "integer", "boolean", "array", "object"}
#: deepest nesting that is converted; a recursive schema is cut there
_DEPTH = 12


def from_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema as `Schema`. References are put in place; what cannot be said is left out."""
    return _schema(schema, {**_mapping(schema.get("definitions")), **_mapping(schema.get("$defs"))}, 0)


def _schema(schema: Any, defs: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {"type": "OBJECT"}
    if isinstance(reference := schema.get("$ref"), str):
        found = _mapping(defs.get(reference.rsplit("/", 1)[-1]))
        schema = {**found, **{name: value for name, value in schema.items() if name != "$ref"}}
        return _schema(schema, defs, depth + 1)
    out: dict[str, Any] = {name: schema[name] for name in (*_SAME, *_SIZES) if name in schema}
    if "const" in schema:
        out["enum"] = [schema["const"]]
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else _texts(kinds)
    variants = [*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))]
    if "null" in kinds or any(_is_null(variant) for variant in variants):
        out["nullable"] = True
    kinds = [kind for kind in kinds if kind in _TYPES]
    variants = [variant for variant in variants if not _is_null(variant)]
    if len(kinds) > 1:
        variants += [{"type": kind} for kind in kinds]
        kinds = []
    if len(variants) == 1:
        return {**_schema(variants[0], defs, depth + 1), **out}
    if variants:
        out["anyOf"] = [_schema(variant, defs, depth + 1) for variant in variants]
        return out
    values = out.get("enum")
    if isinstance(values, list | tuple) and not all(isinstance(value, str) for value in values):
        # Enumerations are of strings here; others become part of the description.
        del out["enum"]
        out["description"] = f"{out.get('description', '')} One of: {', '.join(map(str, values))}.".strip()
        kinds = kinds or ["integer" if all(isinstance(value, int) for value in values) else "number"]
    properties = schema.get("properties")
    kind = kinds[0] if kinds else "object" if properties is not None else "array" if "items" in schema else "string"
    out["type"] = kind.upper()
    if kind == "object" and isinstance(properties, Mapping) and properties:
        out["properties"] = {name: _schema(inner, defs, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        out["items"] = _schema(schema.get("items", {"type": "string"}), defs, depth + 1)
    return out


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else []


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def to_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A `Schema` (its own field names in either case) as JSON Schema."""
    return _json(schema, 0)


def _json(schema: Any, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {}
    out: dict[str, Any] = {name: schema[name] for name in _SAME if name in schema}
    for name in _SIZES:
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        value = schema.get(name, schema.get(snake))
        if isinstance(value, int | float) or (isinstance(value, str) and value.isdecimal()):
            out[name] = int(value)  # 64-bit integers are strings in protobuf's JSON
    variants = schema.get("anyOf", schema.get("any_of"))
    if isinstance(variants, list):
        out["anyOf"] = [_json(variant, depth + 1) for variant in variants]
    kind = schema.get("type")
    if isinstance(kind, str) and kind.lower() in {*_TYPES, "null"}:
        out["type"] = kind.lower()
    if isinstance(properties := schema.get("properties"), Mapping):
        out["properties"] = {str(name): _json(inner, depth + 1) for name, inner in properties.items()}
    if "items" in schema:
        out["items"] = _json(schema["items"], depth + 1)
    if schema.get("nullable"):
        if "type" in out:
            out["type"] = [out["type"], "null"]
            if isinstance(out.get("enum"), list):
                out["enum"] = [*out["enum"], None]
        elif "anyOf" in out:
            out["anyOf"].append({"type": "null"})
    return out
