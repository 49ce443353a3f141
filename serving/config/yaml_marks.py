"""YAML with line numbers: plain data, and the line of every key and list item in it.

Three things that YAML allows are errors here: a key that appears twice in one mapping (parsers use the last one), a key
that is not text, and a value that contains itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of a document; the empty path is the document itself."""

Marks = Mapping[KeyPath, int]
"""Line of each path in the document, counted from 1."""

KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
"""Text, and ``<<``."""


class YamlFault(Exception):
    """Something in the text is not acceptable YAML; ``line`` counts from 1."""

    def __init__(self, line: int, path: KeyPath, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.path = path
        self.reason = reason


def parse_yaml(text: str) -> tuple[object, Marks]:
    """The one document in ``text`` (None if it is empty) and the line of everything in it.

    Raises:
        YamlFault: it cannot be read, or repeats a key.
    """
    marks: dict[KeyPath, int] = {(): 1}
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, marks
            _walk(node, (), marks, [])
            return loader.construct_document(node), marks
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlFault(mark.line + 1 if mark else 1, (), _explain(error)) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        raise YamlFault(line, (), getattr(error, "reason", None) or str(error)) from None
    except (ValueError, RecursionError) as error:  # a date that is none; thousands of nested brackets
        raise YamlFault(1, (), "nested too deeply" if isinstance(error, RecursionError) else str(error)) from None


def _walk(node: yaml.Node, path: KeyPath, marks: dict[KeyPath, int], above: list[yaml.Node]) -> None:
    """Note the line of every key below ``node``, and check the keys."""
    if any(node is other for other in above):
        raise YamlFault(node.start_mark.line + 1, path, "contains itself")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            marks[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), marks, [*above, node])
    elif isinstance(node, yaml.ScalarNode):
        if not _is_unicode(node.value):
            raise YamlFault(node.start_mark.line + 1, path, "has half of a surrogate pair, which is not text")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in KEY_TAGS:
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise YamlFault(line, path, f"a key must be text, and {shown} is not (quotes make it so)")
            if not _is_unicode(key.value):
                raise YamlFault(line, path, "a key has half of a surrogate pair, which is not text")
            if key.value in lines:
                raise YamlFault(line, (*path, key.value), f"appears twice (first in line {lines[key.value]})")
            lines[key.value] = line
            marks[(*path, key.value)] = line
            _walk(value, (*path, key.value), marks, [*above, node])


def _is_unicode(text: str) -> bool:
    """Whether ``text`` can be encoded: escapes such as ``"\\ud800"`` make text that cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _explain(error: yaml.MarkedYAMLError) -> str:
    reason = ", ".join(part for part in (error.problem, error.context) if part)
    if error.problem and "'\\t'" in error.problem:
        reason += " (YAML is indented with spaces, not with tabs)"
    return f"not valid YAML: {reason}"
