"""Changes of single keys in the text of a configuration file, which leave its comments and layout as they are.

A value is replaced where it stands; a key that is missing is added at the end of its section. The result is read again
and compared with what it should say, so that text which this module does not understand is refused, never spoilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from serving.config.fields import ConfigError
from serving.config.file import parse_config
from serving.config.yaml_marks import KeyPath, YamlFault, parse_yaml


def edit_config(text: str, changes: Mapping[KeyPath, object], source: str = "configuration") -> str:
    """``text`` with other values at some paths of mapping keys; ``source`` is what errors call it.

    Raises:
        ConfigError: the text, or what would come out, is no configuration; or the text is too unusual to be changed.
    """
    parse_config(text, source)
    if not changes:
        return text
    data, _ = parse_yaml(text)
    wanted: Any = {} if data is None else _copy(data)
    edited = text
    for path, value in changes.items():
        edited = _set_value(edited, path, value)
        _set_plain(wanted, path, value)
    try:
        found, _ = parse_yaml(edited)
    except YamlFault:
        found = None
    if found != wanted:
        raise ConfigError(f"{source}: its layout is too unusual for a program to change it; edit it by hand")
    parse_config(edited, source)
    return edited


def _copy(data: Any) -> Any:
    """A copy without shared parts: what YAML has in two places by an alias is changed in one."""
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(item) for item in data] if isinstance(data, list) else data


def _set_plain(data: Any, path: KeyPath, value: object) -> None:
    for key in path[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
    data[path[-1]] = value


def _set_value(text: str, path: KeyPath, value: object) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return _append(text, path[0], _nest(path[1:], value))
    node = section = root
    for depth, key in enumerate(path):
        child = _find(node, key)
        if child is None or (_is_null(child) and depth < len(path) - 1):
            inner = _nest(path[depth + 1 :], value)
            if child is not None:
                return _replace(text, child, inner, node)
            return _add(text, node, key, inner, is_root=depth == 0)
        section, node = node, child
    return _replace(text, node, value, section)


def _nest(path: KeyPath, value: object) -> object:
    for key in reversed(path):
        value = {key: value}
    return value


def _find(node: yaml.Node, key: object) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _replace(text: str, node: yaml.Node, value: object, section: yaml.Node) -> str:
    start, end = node.start_mark.index, _get_end(node)
    is_list_below_key = isinstance(node, yaml.SequenceNode) and node.start_mark.column <= section.start_mark.column
    space = " " if is_list_below_key or (start > 0 and text[start - 1] not in " \n") else ""
    return f"{text[:start]}{space}{_format(value)}{text[end:]}"


def _add(text: str, section: yaml.Node, key: object, value: object, *, is_root: bool) -> str:
    """Add a key at the end of a section that lacks it."""
    entry = f"{_format(key)}: {_format(value)}"
    if isinstance(section, yaml.MappingNode) and section.flow_style:
        end = section.end_mark.index - 1
        comma = ", " if section.value else ""
        return f"{text[:end]}{comma}{entry}{text[end:]}"
    if is_root:
        return _append(text, key, value)
    end = text.find("\n", _get_end(section))
    end = len(text) if end < 0 else end
    return f"{text[:end]}\n{' ' * section.start_mark.column}{entry}{text[end:]}"


def _append(text: str, key: object, value: object) -> str:
    newline = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{newline}{_format(key)}: {_format(value)}\n"


def _get_end(node: yaml.Node) -> int:
    """Where the last value in a node ends; the end of a block is marked after the comments that follow it."""
    while isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _format(value: object) -> str:
    text = str(yaml.safe_dump(value, width=float("inf"), allow_unicode=True, default_flow_style=True))
    return text.removesuffix("\n").removesuffix("\n...")
