"""Every fenced block of the documents is one that a test plays, or is excused by name: here, what needs no node.

``test_pages.py`` plays what does. A block of a kind that is new, and a command that no test knows, fail here with what
is to be done.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer._click.exceptions import ClickException
from typer.main import get_command

from benchmarks.__main__ import BENCHMARKS, PACKAGES
from serving.admin.metric_catalogue import METRICS, PREFIX
from serving.cli.app import build_wwwserve_app
from serving.cli.ledger.chain import build_chain_app
from serving.config.build import build_policy
from serving.config.file import parse_config
from serving.openai.provider_rules import take_rules
from serving.scheduling.policy import Decision, LoadSnapshot
from tests.docs.blocks import (
    PAGES,
    ROOT,
    SHELL,
    STAND_INS,
    Block,
    fill_in,
    find_blocks,
    is_program,
    read_blocks,
    split_words,
)
from tests.docs.excuses import EXCUSES, find_excuse

KINDS = {
    SHELL: "commands",
    "yaml": "a part of config.yaml",
    "json": "the body of a request",
    "python": "a program, or a file with its name in the first line",
    "toml": "a file with its name in the first line",
}
"""What a block of each language is."""


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


@cache
def get_program(name: str) -> Any:
    """The command line of ``wwwserve`` or ``chain``."""
    return get_command(build_wwwserve_app(run_nothing) if name == "wwwserve" else build_chain_app())


def find_fault(command: str) -> str | None:
    """What is wrong with a command, as far as can be said without doing it."""
    program, *words = split_words(fill_in(command))
    match program:
        case "wwwserve" | "chain":
            return find_fault_of_arguments(get_program(program), words)
        case "make":
            return find_fault_of_targets(words)
        case "curl" | "export":
            return None  # which a shell tells
    if find_excuse(command) is not None:
        return None
    return f"no test plays {program!r}: teach the player of test_pages.py to, or add an excuse to excuses.py"


def find_fault_of_arguments(command: Any, words: list[str]) -> str | None:
    """What ``wwwserve`` or ``chain`` says of a command line before it does anything."""
    while (commands := getattr(command, "commands", None)) is not None:
        if not words or words[0] not in commands:
            return f"there is no command {' '.join(words[:1])!r} in {command.name}"
        command, words = commands[words[0]], words[1:]
    try:
        command.make_context(command.name, list(words))
    except ClickException as fault:
        return fault.format_message()
    return None


def find_fault_of_targets(words: list[str]) -> str | None:
    """A target, or a benchmark in ARGS, that there is not."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [word for word in words if "=" not in word]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    if unknown := set(named) - targets:
        return f"there is no target {unknown}"
    if named == ["bench"]:
        names = variables.get("ARGS", "").partition("--")[0].split()
        return next((f"there is no benchmark {name!r}" for name in names if name not in (*BENCHMARKS, *PACKAGES)), None)
    return None


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    blocks = [block for page in PAGES for block in read_blocks(page)]
    assert len(blocks) > 50
    for block in blocks:
        assert block.language in KINDS, (
            f"{block}: after ``` stands {block.language!r}. Name the language of the block, one of {', '.join(KINDS)}; "
            "for another one write a test of all its blocks, and add it to KINDS"
        )


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_program_understands(page: str) -> None:
    for block in read_blocks(page):
        for command in block.commands if block.language == SHELL else ():
            fault = find_fault(command)
            assert fault is None, f"{block}: {command}\n{fault}"


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("wwwserve wallet bond --data-dir DIR 5", None),
        ("wwwserve wallet lend 5", "no command 'lend'"),
        ("wwwserve run --annonymous", "--annonymous"),
        ("wwwserve wallet transfer ADDRESS", "AMOUNT"),
        ("chain prove balance", "ADDRESS"),
        ("make tests", "no target"),
        ('make bench ARGS="gatway --quick"', "no benchmark 'gatway'"),
        ("rm -rf .", "no test plays 'rm'"),
    ],
)
def test_the_check_of_commands_finds_faults(command: str, fault: str | None) -> None:
    found = find_fault(command)
    assert found is None if fault is None else fault.lower() in str(found).lower()


def find_unknown(words: list[str]) -> str | None:
    """A command or an option in a line of text that the program does not have; arguments may be left out there."""
    command, rest = get_program(words[0]), words[1:]
    while (commands := getattr(command, "commands", None)) is not None and rest and not rest[0].startswith("-"):
        if rest[0] not in commands:
            return rest[0]
        command, rest = commands[rest[0]], rest[1:]
    known = {"--help", *(option for each in command.params for option in (*each.opts, *each.secondary_opts))}
    own = rest[: rest.index("--")] if "--" in rest else rest
    return next((word for word in own if word.startswith("-") and len(word) > 1 and word not in known), None)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/protocol.md"])  # which names protocols so
def test_commands_and_metrics_in_the_text_of_a_page_exist(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    commands = re.findall(r"`((?:wwwserve|chain) [a-z-][^`]*)`", text)
    assert [command for command in commands if find_unknown(command.replace("[", "").replace("]", "").split())] == []
    series = set(re.findall(rf"`{PREFIX}([a-z_]+)[`{{]", text))
    assert series <= set(METRICS)


def test_every_excuse_is_needed_and_names_what_does_the_work_instead() -> None:
    commands = [command for block in find_blocks(SHELL) for command in block.commands]
    for excuse in EXCUSES:
        assert any(excuse.covers(command) for command in commands), f"no document has {excuse.command!r} any more"
        assert (ROOT / excuse.instead).exists(), excuse


def test_every_stand_in_stands_in_a_document() -> None:
    texts = [(ROOT / page).read_text() for page in PAGES]
    assert [name for name in STAND_INS if not any(name in text for text in texts)] == []
    assert not [str(block) for block in find_blocks("yaml", "json") if "…" in fill_in(block.text)]


@pytest.mark.parametrize("block", find_blocks("yaml"), ids=str)
def test_a_part_of_the_configuration_is_one_that_a_node_takes(block: Block) -> None:
    config = parse_config(fill_in(block.text), str(block))
    assert config != parse_config("")


@pytest.mark.parametrize("block", find_blocks("json"), ids=str)
def test_the_body_of_a_request_is_one_that_a_node_takes(block: Block) -> None:
    body = json.loads(fill_in(block.text))
    rules, rest = take_rules(body, lambda rules: "model")
    assert rules.max_price is not None and {"model", "messages"} <= set(rest)


PACKAGED = [(a, b) for page in PAGES for a, b in pairwise(sorted(read_blocks(page), key=lambda block: block.line))]
PACKAGED = [pair for pair in PACKAGED if {block.language for block in pair} == {"python", "toml"}]
"""The blocks that show a package together: its module and its pyproject.toml."""


@pytest.mark.parametrize("pair", PACKAGED, ids=lambda pair: str(pair[0]))
def test_the_package_that_blocks_show_is_found_by_its_name(
    pair: tuple[Block, Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {block.language: block.text for block in pair}
    module = tmp_path / texts["python"].splitlines()[0].removeprefix("# ")
    module.parent.mkdir(exist_ok=True)
    module.write_text(texts["python"])
    (points,) = tomllib.loads(texts["toml"])["project"]["entry-points"].items()
    metadata = tmp_path / "shown-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: shown\nVersion: 1\n")
    lines = [f"{name} = {target}" for name, target in points[1].items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{points[0]}]", *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    ((name, target),) = points[1].items()
    policy = build_policy(parse_config(f"policy: {{name: {name}}}"))
    assert type(policy).__name__ == target.partition(":")[2]
    assert policy.decide_offer(LoadSnapshot("m", 0.9, 0, 0), Random(1)) is Decision.DECLINE
    assert f"{{name: {name}}}" in (ROOT / pair[0].page).read_text()


def test_python_is_a_file_of_a_package_or_a_program_that_asks_a_node() -> None:
    shown = {block for pair in PACKAGED for block in pair}
    for block in find_blocks("python", "toml"):
        assert block in shown or is_program(block), (
            f"{block}: neither a program with base_url=, which the player runs against the node of the page, "
            "nor one of the two files of a package: name the file in the first line"
        )
