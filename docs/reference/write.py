"""Write the reference in ``docs/reference`` from the code: ``make reference``. With ``--check``, only compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from serving.admin.health.troubles import KINDS
from serving.admin.levels import Level
from serving.admin.metric_catalogue import PREFIX
from serving.admin.metric_catalogue import SECTIONS as METRIC_SECTIONS
from serving.admin.openapi import ROUTES as ADMIN_ROUTES
from serving.cli.man_pages import find_commands, get_help
from serving.config.environment import VARIABLES
from serving.config.fields import Section
from serving.config.file import format_schema
from serving.config.schema import NodeConfig
from serving.logs.events import SECTIONS
from serving.routes import ROUTES as API_ROUTES

HERE = Path(__file__).parent
GENERATED = "This page is written by `make reference`; a test compares it with the code."


def write_row(*cells: str) -> str:
    """A row of a table; what would end a cell is escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def write_table(*head: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table."""
    yield write_row(*head)
    yield write_row(*("---" for _ in head)).replace(" ", "")
    yield from (write_row(*row) for row in rows)


def write_head(title: str, text: str) -> Iterator[str]:
    """Title and introduction of a page."""
    yield f"# {title}\n"
    yield f"{GENERATED}\n"
    yield text


EVENTS_TEXT = """\
`wwwserve logs` shows the events of a node, and `wwwserve logs --event NAME` those of one name. Each has `timestamp`
(ISO 8601, UTC), `level`, `logger` and `event`, and the fields below. A defect has its traceback under `exception`.
Of one event there are at most 60 lines a minute. No event holds a prompt, an answer or a key. Events whose `logger`
begins with `p2p` have whole sentences as names, and are not listed."""


def write_events() -> Iterator[str]:
    """Every event that is logged."""
    yield from write_head("Events", EVENTS_TEXT)
    for title, events in SECTIONS.items():
        yield f"\n## {title}\n"
        rows = [
            (f"`{name}`", event.level, ", ".join(f"`{each}`" for each in event.fields), event.meaning)
            for name, event in events.items()
        ]
        yield from write_table("event", "level", "fields", "meaning", rows=rows)


TROUBLES_TEXT = """\
What `wwwserve status`, `wwwserve doctor`, the dashboard, `/healthz` and the event `trouble` say is wrong. A *problem*
is a part that does not work, *advice* is about one that could work better, and with a *note* nothing need be done.
`{…}` stands for a detail.
"""


def write_troubles() -> Iterator[str]:
    """Everything that can be said to be wrong."""
    yield from write_head("Troubles", TROUBLES_TEXT)
    rows = [
        (
            f"`{code}`",
            kind.subject,
            kind.severity.value,
            kind.text,
            kind.mend,
            f"`{kind.command}`" if kind.command else "",
        )
        for code, kind in KINDS.items()
    ]
    yield from write_table("code", "subject", "severity", "what is said", "what to do", "command", rows=rows)


METRICS_TEXT = """\
What `GET /metrics` of the admin listener says, for Prometheus. Amounts are in micro-credits, 1,000,000 to a credit.
Beside these there are `process_…`: memory, CPU time and open files of the process. [`docs/monitoring`](../monitoring/)
has a board for Grafana and alert rules."""


def write_metrics() -> Iterator[str]:
    """Every metric."""
    yield from write_head("Metrics", METRICS_TEXT)
    for title, metrics in METRIC_SECTIONS.items():
        yield f"\n## {title}\n"
        rows = [
            (f"`{PREFIX}{name}{'{' + ','.join(each.labels) + '}' if each.labels else ''}`", each.kind, each.meaning)
            for name, each in metrics.items()
        ]
        yield from write_table("metric", "kind", "meaning", rows=rows)


COMMANDS_TEXT = """\
The help of every command. What all of them promise (`--json`, exit codes, the data directory) stands in
[operating.md](../operating.md#watching). `make man` writes the same as man pages, and the files by which shells
complete."""


def write_commands() -> Iterator[str]:
    """The help of every command."""
    yield from write_head("Commands", COMMANDS_TEXT)
    for path, command in find_commands():
        yield f"\n## `{' '.join(path)}`\n"
        yield "```text"
        yield get_help(path, command)
        yield "```"


CONFIGURATION_TEXT = """\
Every key of `config.yaml`, in the data directory. A missing key has its default. `[]` stands for each entry of a list
or of a mapping. [`config.schema.json`](config.schema.json) is the same for editors. `init` puts a copy beside
`config.yaml` and names it in its first line, for editors with YAML's language server: they complete and check the
file. After an upgrade, copy this one there."""


def write_configuration() -> Iterator[str]:
    """Every key of the configuration."""
    yield from write_head("Configuration", CONFIGURATION_TEXT)
    yield ""
    yield from write_table("key", "default", "meaning", rows=list(find_keys(NodeConfig, "")))


def find_keys(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str]]:
    """The keys of a section and of those within it: name, default, meaning."""
    for attribute, field in section.model_fields.items():
        if attribute == "kind":
            continue
        name = f"{prefix}{field.alias or attribute}"
        inner = list(find_sections(field.annotation))
        default = "" if inner or field.is_required() else format_default(field.default)
        yield f"`{name}`", default, field.description or ""
        for each in inner:
            kind = each.model_fields.get("kind")
            place = name if get_origin(field.annotation) is None and not is_many(field.annotation) else f"{name}[]"
            yield from find_keys(each, f"{place}." if kind is None else f"{place} (kind: {kind.default}).")


def find_sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that the value of a key may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for each in get_args(annotation):
        yield from find_sections(each)


def is_many(annotation: Any) -> bool:
    """Whether a value is a list or a mapping."""
    return get_origin(annotation) in (tuple, list, dict) or any(is_many(each) for each in get_args(annotation))


def format_default(value: Any) -> str:
    """A default as it is written in the file."""
    plain = list(value) if isinstance(value, tuple) else value
    text = str(yaml.safe_dump(plain, default_flow_style=True, width=10_000))
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def write_schema() -> Iterator[str]:
    """The configuration as a JSON schema."""
    yield format_schema()


ENVIRONMENT_TEXT = """\
The environment variables that the program reads. Those that hold keys of backends have the names that `config.yaml`
gives them (`api_key_env`)."""


def write_environment() -> Iterator[str]:
    """Every environment variable."""
    yield from write_head("Environment", ENVIRONMENT_TEXT)
    yield ""
    yield from write_table("variable", "what it does", rows=[(f"`{name}`", text) for name, text in VARIABLES.items()])


HTTP_TEXT = """\
What a node answers. The API is for users (`api.port`, 8000), with a key if there are keys; its `GET /openapi.json`
describes it. The admin listener (`admin.port`, 8001) is for the owner and on loopback; its public part may be shown to
others (`dashboard.public`), and its own `GET /openapi.json` describes it. [api.md](../api.md) and
[operating.md](../operating.md#watching) say more of both."""


def write_http() -> Iterator[str]:
    """Every route of both listeners."""
    yield from write_head("HTTP", HTTP_TEXT)
    yield "\n## The API\n"
    rows = [(f"`{each.method} {each.path}`", each.summary) for each in API_ROUTES]
    yield from write_table("route", "what it does", rows=rows)
    yield "\n## The admin listener\n"
    who = {Level.PUBLIC: "everybody", Level.READING: "the owner", Level.ACTING: "the owner, acting"}
    routes = [
        (f"`{method} {path}{'?' + '&'.join(each.query) if each.query else ''}`", who[each.level], each.summary)
        for (method, path), each in ADMIN_ROUTES.items()
    ]
    yield from write_table("route", "who", "what it does", rows=routes)


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "commands.md": write_commands,
    "configuration.md": write_configuration,
    "config.schema.json": write_schema,
    "environment.md": write_environment,
    "events.md": write_events,
    "http.md": write_http,
    "metrics.md": write_metrics,
    "troubles.md": write_troubles,
}
"""The pages by their file."""


def find_differences() -> list[str]:
    """The pages that are not what the code says."""
    return [
        name
        for name, write in PAGES.items()
        if not (HERE / name).exists() or (HERE / name).read_text() != "\n".join(write()) + "\n"
    ]


def main() -> None:
    """Write the pages, or compare them."""
    if "--check" in sys.argv[1:]:
        different = find_differences()
        sys.exit(f"not as the code says (make reference): {', '.join(different)}" if different else 0)
    for name, write in PAGES.items():
        (HERE / name).write_text("\n".join(write()) + "\n")


if __name__ == "__main__":
    main()
