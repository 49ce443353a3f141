"""A node's configuration file: read with errors that name file, line and key, and written with comments.

:mod:`serving.config.schema` defines its keys.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from serving.config.data_directory import SCHEMA_FILE
from serving.config.fields import ConfigError, Section
from serving.config.models import OpenAIModel
from serving.config.schema import NodeConfig
from serving.config.yaml_marks import KeyPath, Marks, YamlFault, parse_yaml

MAX_CONFIG_BYTES = 1 << 20
"""Largest file that is read."""
COMMENT_COLUMNS = 110
"""Width of the comments that are written."""
SECRET_KEYS = ("key", "api_key")
"""Keys whose values no error shows."""

# Reading


def load_config(path: Path) -> NodeConfig:
    """The configuration in the file at ``path``.

    Raises:
        ConfigError: it cannot be read or used; the message has a line per fault.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        hint = "; an empty file stands for all defaults" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{hint}") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_CONFIG_BYTES} bytes")
    return parse_config(text, str(path))


def parse_config(text: str, source: str = "configuration") -> NodeConfig:
    """The configuration in ``text``; ``source`` is what its errors call it.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        data, marks = parse_yaml(text)
    except YamlFault as fault:
        raise ConfigError(_format(source, fault.line, fault.path, fault.reason)) from None
    try:
        config = NodeConfig.model_validate({} if data is None else data)
        faults = [(path, reason) for path, reason in config.find_conflicts()]
    except ValidationError as error:
        faults = list(describe_errors(error, NodeConfig))
    if faults:
        placed = sorted((_find_line(path, marks), index) for index, (path, _) in enumerate(faults))
        raise ConfigError("\n".join(_format(source, line, *faults[index]) for line, index in placed))
    return config


def describe_errors(error: ValidationError, root: type[Section]) -> Iterator[tuple[KeyPath, str]]:
    """Path and plain reason of each fault that pydantic found in a ``root``."""
    for details in error.errors():
        path, sections = _resolve(details["loc"], root)
        yield path, _describe(details, path, sections)


def format_path(path: KeyPath) -> str:
    """A path as people write it: ``models[0].base_url``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _format(source: str, line: int, path: KeyPath, reason: str) -> str:
    return f"{source}:{line}: {format_path(path)}: {reason}" if path else f"{source}:{line}: {reason}"


def _find_line(path: KeyPath, marks: Marks) -> int:
    """Line of ``path``; if it is missing in the file, that of the section that it is missing in."""
    while path not in marks:
        path = path[:-1]
    return marks[path]


def _resolve(location: KeyPath, root: type[Section]) -> tuple[KeyPath, list[type[Section]]]:
    """The path without the union tags that pydantic puts into it, and the sections that may hold its last part."""
    path: KeyPath = ()
    around: list[type[Section]] = [root]
    inside = around
    is_key = False
    """Whether the next part is a key of a mapping."""
    for part in location:
        if isinstance(part, int):
            path = (*path, part)
            continue
        tagged = [section for section in inside if "kind" in section.model_fields and part in _get_kinds(section)]
        if tagged and len(inside) > 1:
            inside = tagged
            continue
        if part == "[key]":  # pydantic's mark of a fault in the key before it
            continue
        path = (*path, part)
        if is_key:
            is_key = False
            continue
        around = inside
        fields = [_get_fields(section).get(part) for section in around]
        inside = [found for field in fields for found in _find_sections(field)]
        is_key = any(field is not None and get_origin(field.annotation) is dict for field in fields)
    return path, around


def _get_kinds(section: type[Section]) -> tuple[Any, ...]:
    return get_args(section.model_fields["kind"].annotation)


def _get_fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by their names in the file."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


def _find_sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, FieldInfo):
        annotation = annotation.annotation
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _find_sections(part)]


def _describe(details: ErrorDetails, path: KeyPath, sections: list[type[Section]]) -> str:
    context = details.get("ctx", {})
    got = "" if path and path[-1] in SECRET_KEYS else f", got {_show(details['input'])}"
    match details["type"]:
        case "missing":
            return "is missing"
        case "union_tag_not_found":
            return "is not a section, or its kind is missing"
        case "extra_forbidden":
            known = sorted({name for section in sections for name in _get_fields(section)})
            close = difflib.get_close_matches(str(path[-1]), known, n=1)
            return "is unknown" + (f": did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})")
        case "value_error":
            return str(context["error"])
        case "union_tag_invalid":
            return f"kind must be {context['expected_tags'].replace(', ', ' or ')}, got {context['tag']!r}"
        case "literal_error":
            return f"must be {context['expected']}{got}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}{got}"
        case "greater_than":
            return f"must be more than {context['gt']}{got}"
        case "less_than_equal":
            return f"must be at most {context['le']}{got}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long" | "too_long":
            unit = "entries" if details["type"] == "too_long" else "characters"
            return f"must have at most {context['max_length']} {unit}"
        case kind if kind in _EXPECTED:
            return f"must be {_EXPECTED[kind]}{got}"
        case _:
            return details["msg"].lower()


_EXPECTED = {
    "string_type": "text (quotes make it so)",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section of keys and values",
    "model_type": "a section of keys and values",
    "model_attributes_type": "a section of keys and values",
}


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else repr(value)[:80]


# Writing

SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"
"""First line of a new file, by which editors find the schema beside it."""
INTRODUCTION = (
    "Configuration of a wwwserve node, read when it starts. Every key is optional: what is left out, or left without "
    "a value, has its default."
)
"""First comment of a new file for people."""

MODEL_EXAMPLE = OpenAIModel(kind="openai", base_url="http://127.0.0.1:9000/v1", names=("name-of-the-model",))
"""Written as a comment below the models of the configuration."""


def write_default_config(path: Path, config: NodeConfig | None = None) -> None:
    """Write a new, commented file with the values of ``config`` (default: the defaults), readable by its owner only,
    and beside it the schema by which an editor completes and checks it.

    Raises:
        FileExistsError: there is a file at ``path`` already.
    """
    text = format_config(config or NodeConfig())
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8")
    path.with_name(SCHEMA_FILE).write_text(format_schema(), encoding="utf-8")


def format_schema() -> str:
    """The configuration as a JSON schema."""
    schema = NodeConfig.model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1)


def format_config(config: NodeConfig) -> str:
    """The text of a configuration file with these values and a comment for each key."""
    lines = [SCHEMA_LINE, *_comment(INTRODUCTION, ""), ""]
    for name, info in _get_fields(NodeConfig).items():
        lines += [*_format_field(config, name, info, ""), ""]
        if name == "models":
            example = _format_item(MODEL_EXAMPLE, "  ")
            lines[-1:] = [f"  # {line[2:]}" for line in example] + [""]
    return "\n".join(lines)


def _format_section(section: Section, indent: str) -> list[str]:
    return [
        line for name, info in _get_fields(type(section)).items() for line in _format_field(section, name, info, indent)
    ]


def _format_field(section: Section, name: str, info: FieldInfo, indent: str) -> list[str]:
    attribute = next(key for key, field in type(section).model_fields.items() if (field.alias or key) == name)
    value = getattr(section, attribute)
    lines = _comment(info.description or "", indent)
    if isinstance(value, Section):
        return [*lines, f"{indent}{name}:", *_format_section(value, indent + "  ")]
    if isinstance(value, dict) and any(isinstance(item, Section) for item in value.values()):
        lines.append(f"{indent}{name}:")
        for key, item in value.items():
            lines += [f"{indent}  {_format_scalar(key)}:", *_format_section(item, indent + "    ")]
        return lines
    if isinstance(value, tuple) and value:
        lines.append(f"{indent}{name}:")
        for item in value:
            lines += _format_item(item, indent + "  ")
        return lines
    return [*lines, f"{indent}{name}: {_format_scalar(list(value) if isinstance(value, tuple) else value)}"]


def _format_item(item: object, indent: str) -> list[str]:
    if not isinstance(item, Section):
        return [f"{indent}- {_format_scalar(item)}"]
    lines = _format_section(item, indent + "  ")
    first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#"))
    comments = [line[2:] for line in lines[:first]]
    return [*comments, f"{indent}- {lines[first].lstrip()}", *lines[first + 1 :]]


def _format_scalar(value: object) -> str:
    flow = True if isinstance(value, dict) else None
    dumped = str(yaml.safe_dump(value, width=float("inf"), allow_unicode=True, default_flow_style=flow))
    text = dumped.removesuffix("\n").removesuffix("\n...")
    if "\n" in text:
        text = str(yaml.safe_dump(value, width=float("inf"), default_style='"')).removesuffix("\n")
    return text


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, COMMENT_COLUMNS - len(indent))]
