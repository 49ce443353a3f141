"""The tree of commands: panels, examples, and commands that are imported when they are used.

A command line is called again and again, and a completion at each key. So the tree knows name and summary of each
command, and imports it, with what it needs, only when it runs or is asked for help.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

EXAMPLES = "Examples:"
"""Heading of the examples in the help of a command."""
PLAIN: Mapping[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
"""Settings of an application whose help is plain text, and which imports nothing to read options that it does not
have; both take longer than all else."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or a group of commands, and where it is: a function (``module:name``), or what imports and returns it,
    or the application of a group."""

    summary: str
    place: str | Callable[[], Callable[..., Any] | typer.Typer]
    examples: tuple[str, ...] = ()
    panel: str = "Commands"
    settings: Mapping[str, Any] | None = None
    """Context settings."""


class _Commands(MutableMapping[str, Any]):
    """Commands by name; those of entries are built when they are looked up."""

    def __init__(self, entries: Mapping[str, Entry], eager: Mapping[str, Any]) -> None:
        self._entries = dict(entries)
        self._built: dict[str, Any] = dict(eager)

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, self._entries[name])
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._entries, *self._built)))

    def __len__(self) -> int:
        return len({*self._entries, *self._built})


class _CheapHelp:
    """A command whose option --help is a plain flag: for one without a value typer imports pydantic."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class _Command(_CheapHelp, TyperCommand):
    pass


class _Group(_CheapHelp, TyperGroup):
    entries: Mapping[str, Entry] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands(self.entries, self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands in their panels, with what each is for."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.commands:
            entry = self.entries.get(name)
            if entry is not None:
                panels.setdefault(entry.panel, []).append((name, entry.summary))
            else:  # one that was added
                command: Any = self.commands[name]
                if not command.hidden:
                    summary = command.get_short_help_str(100)
                    panels.setdefault(command.rich_help_panel or "Commands", []).append((name, summary))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def build_group(entries: Mapping[str, Entry], help: str) -> typer.Typer:
    """An application of these commands, in this order; more may be added to it."""
    app = typer.Typer(cls=type("Group", (_Group,), {"entries": entries}), help=help, no_args_is_help=True, **PLAIN)
    app.callback()(_do_nothing)
    return app


def _do_nothing() -> None:
    pass


def format_examples(examples: tuple[str, ...]) -> str:
    """Examples as they stand at the end of a help text."""
    return "\b\n" + "\n".join([EXAMPLES, *(f"  {example}" for example in examples)])


def _build(name: str, entry: Entry) -> Any:
    if isinstance(entry.place, str):
        module, _, attribute = entry.place.partition(":")
        loaded = getattr(importlib.import_module(module), attribute)
    else:
        loaded = entry.place()
    if isinstance(loaded, typer.Typer):
        group = get_command(loaded)
        group.name = name
        return group
    app = typer.Typer(**PLAIN)
    epilog = format_examples(entry.examples) if entry.examples else None
    app.command(name, cls=_Command, epilog=epilog, context_settings=dict(entry.settings or {}))(loaded)
    return get_command(app)
