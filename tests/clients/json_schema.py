"""As much of JSON Schema as the node's document uses."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is of a schema. ValueError for a schema that says what this does not know."""
    unknown = schema.keys() - {
        "anyOf", "const", "description", "enum", "items", "maximum", "maxItems", "minimum", "minItems", "minLength",
        "properties", "required", "type",
    }  # fmt: skip
    if unknown:
        raise ValueError(f"not known: {sorted(unknown)}")
    if "anyOf" in schema and not any(is_valid(value, one) for one in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" not in schema:
        return True
    is_flag = isinstance(value, bool)
    if schema["type"] == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, TYPES[schema["type"]]) or (is_flag and schema["type"] != "boolean"):
        return False
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        return all(name in value for name in schema.get("required", ())) and all(
            is_valid(value[name], fields[name]) for name in fields if name in value
        )
    if isinstance(value, list):
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
        return least <= len(value) <= most and all(is_valid(item, schema.get("items", {})) for item in value)
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0)
    if isinstance(value, int | float) and not is_flag:
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return True
