"""``wwwserve policy`` and ``reload``: the policy of the running node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chain.cli.contract import CommandError
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import print_line
from chain.cli.tree import Entry, build_group
from serving.cli.running.admin_client import ask_node, print_fields
from serving.cli.running.suggestions import suggest_changes

if TYPE_CHECKING:
    from serving.config.yaml_marks import KeyPath


def build_policy_app() -> typer.Typer:
    """The commands of ``wwwserve policy``."""
    entries = {
        "show": Entry("The policy in force.", lambda: show_policy, ("wwwserve policy show",)),
        "set": Entry(
            "Change the policy while the node runs: until it stops, or for good with --save.",
            lambda: set_policy,
            ("wwwserve policy set target_utilization=0.5", "wwwserve policy set accept_frequency=0.8 --save"),
        ),
    }
    return build_group(entries, "The policy of the running node.")


def show_policy(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The policy in force."""
    print_fields(ask_node(data_dir, "GET", "/policy"), as_json)


def set_policy(
    changes: Annotated[
        list[str],
        typer.Argument(
            help="name=value, such as target_utilization=0.5 or models.MODEL.max_own=2", autocompletion=suggest_changes
        ),
    ],
    data_dir: DataDir = None,
    save: Annotated[bool, typer.Option("--save", help="Also write it to config.yaml, for the next start.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change the policy while the node runs: until it stops, or for good with --save."""
    content: dict[str, Any] = {}
    edits: dict[KeyPath, object] = {}
    for change in changes:
        path, value = _read_change(change)
        if ("policy", *path) in edits:
            raise CommandError(f"{'.'.join(path)} is given twice")
        edits["policy", *path] = value
        section = content
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = value
    from chain.files import SECRET_MODE, write_atomically
    from serving.config.data_directory import CONFIG_FILE

    file = (data_dir or get_default_data_dir()) / CONFIG_FILE
    edited = _edit_file(file, edits) if save else None  # before anything changes
    answer = ask_node(data_dir, "PUT", "/policy", content)
    if edited is not None:
        write_atomically(file, edited.encode(), mode=SECRET_MODE)
    print_fields(answer, as_json)
    if not as_json:
        print_line(f"saved in {file}" if save else f"until the node stops; --save also writes it to {file}")


def reload(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Have the running node read the policy in config.yaml again (as the signal HUP does)."""
    print_fields(ask_node(data_dir, "POST", "/policy/reload"), as_json)


def _read_change(change: str) -> tuple[tuple[str, ...], object]:
    """Path and value of a change, which is JSON or plain text.

    Raises:
        CommandError: it is none.
    """
    name, equals, text = change.partition("=")
    path = tuple(name.split("."))
    if path[0] == "models" and len(path) > 1:  # the name of a model may have dots
        _, _, rest = name.partition(".")
        model, dot, key = rest.rpartition(".")
        path = ("models", model, key) if dot else ()
    elif len(path) > 1:
        path = ()
    if not equals or not all(path) or not path:
        raise CommandError(f"{change!r} is not of the form name=value or models.MODEL.name=value")
    value: object
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except ValueError:  # NaN and the like are no JSON
        value = text
    if path == ("schedule",) and isinstance(value, str):
        value = [entry.strip() for entry in value.split(";") if entry.strip()]
    return path, value


def _edit_file(file: Path, edits: Mapping[KeyPath, object]) -> str:
    """The text of a configuration file with changes.

    Raises:
        ConfigError: it cannot be changed.
        CommandError: it cannot be read.
    """
    from serving.config.edit import edit_config

    try:
        return edit_config(file.read_text(encoding="utf-8"), edits, str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {file}: {error}") from error
