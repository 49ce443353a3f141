"""``wwwserve init``: makes a data directory. At a terminal, without the name of a chain, it asks what it needs to know.

There are three questions at most, each with an answer that is proposed: which network, which of the servers of models
that were found on this machine to share, and whether other machines may use the API. Each has options in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import print_line
from chain.exceptions import LedgerError
from chain.genesis import Genesis, load_genesis
from serving.cli.setup.ports import choose_ports
from serving.cli.setup.start import DEFAULTS, DuelRate, check_is_new, create_node
from serving.config.invitation import MAX_TEXT_BYTES, PREFIX, InvitationError, parse_invitation

if TYPE_CHECKING:
    from serving.backends.detection import FoundServer

OWN_NETWORK = "home"
"""The name that is proposed for a network of one's own."""
EVERY_HOST = "0.0.0.0"
"""Where an API listens that other machines may use."""


@dataclass(frozen=True, slots=True)
class ChainChoice:
    """The network that a node is made for: one to join, or the name of one to begin."""

    genesis: Path | Genesis | None = None
    new_chain: str | None = None
    bootstrap: tuple[str, ...] = ()
    checkpoint: str | None = None


def init(
    data_dir: DataDir = None,
    genesis: Annotated[Path | None, typer.Option(help="Genesis file of the chain to join.")] = None,
    new_chain: Annotated[
        str | None, typer.Option(help="Name of a new chain of one's own, with this node as its first validator.")
    ] = None,
    duel_rate: DuelRate = 0,
    checkpoint: Annotated[
        str | None, typer.Option(help="A recent block of that chain that you trust, HEIGHT:BLOCKID: begin from there.")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A server of models to share, repeatable, as 'wwwserve share' does."),
    ] = None,
    api_key: Annotated[
        bool,
        typer.Option("--api-key", help="Make a key for users of the API, which other machines need, and print it."),
    ] = False,
    open_api: Annotated[
        bool, typer.Option("--open-api", help="Let other machines use the API, with a key that is made and printed.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing, and take the answers that would be proposed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a data directory: key, configuration, genesis, and a journal without votes.

    At a terminal, without --genesis and --new-chain, it asks for the network, shows the servers of models that it finds
    on this machine, and asks which of them to share and who may use the API.
    """
    from serving.cli.setup.share import change_config, check_entry, choose_models, describe_entry, find_server

    directory = data_dir or get_default_data_dir()
    network = ChainChoice(genesis, new_chain, checkpoint=checkpoint)
    servers: Mapping[str, FoundServer] = {url: find_server(url) for url in share or ()}
    if genesis is None and new_chain is None and (yes or is_terminal(as_json)):
        check_is_new(directory)
        network = _ask_for_network(checkpoint, yes=yes)
        servers = servers or _ask_for_servers(yes=yes)
        open_api = open_api or (not (yes or api_key) and typer.confirm("May other machines use the API, with a key?"))
    entries = [describe_entry(url, server, choose_models(server, ()), None) for url, server in servers.items()]
    for entry in entries:
        check_entry(entry)
    config = choose_ports(DEFAULTS).model_copy(update={"bootstrap": network.bootstrap})
    if open_api:
        config = config.model_copy(update={"api": config.api.model_copy(update={"host": EVERY_HOST})})
    content, lines = create_node(
        directory, network.genesis, network.new_chain, duel_rate, network.checkpoint, api_key or open_api, config
    )
    if config.api.port != DEFAULTS.api.port or config.admin.port != DEFAULTS.admin.port:
        url = f"http://{config.api.host}:{config.api.port}/v1"
        lines.insert(-1, f"api      {url} (other programs have the usual ports)")
    for entry in entries:
        change_config(directory, entry, only=False)
        lines.insert(-1, f"shares   {entry['base_url']}: {', '.join(entry['names'])}")
    print_result({**content, "shared": list(servers)} if servers else content, as_json, *lines)


def is_terminal(as_json: bool) -> bool:
    """Whether somebody can be asked."""
    return not as_json and sys.stdin.isatty() and sys.stdout.isatty()


def _ask_for_network(checkpoint: str | None, *, yes: bool) -> ChainChoice:
    """The network that the owner names."""

    def read(answer: str) -> ChainChoice:
        try:
            return read_network(answer.strip(), checkpoint)
        except (CommandError, InvitationError, LedgerError, OSError) as error:
            raise typer.BadParameter(str(error)) from None

    if yes:
        return ChainChoice(new_chain=OWN_NETWORK)
    print_line(
        "Which network? An invitation, the path of one or of a genesis file, or a name for a network of your own."
    )
    network: ChainChoice = typer.prompt("Network", default=OWN_NETWORK, value_proc=read)
    return network


def read_network(answer: str, checkpoint: str | None = None) -> ChainChoice:
    """The network that an answer means: an invitation, the path of a file, or the name of a new one.

    Raises:
        InvitationError, LedgerError, OSError: it is damaged, or cannot be read.
        CommandError: it is a path, and there is no such file.
    """
    path, text = Path(answer), answer
    if not answer.startswith(PREFIX):
        if not path.is_file():
            if "/" in answer or not answer:
                raise CommandError(f"there is no file {answer}")
            return ChainChoice(new_chain=answer)
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_TEXT_BYTES).strip()
    if not text.startswith(PREFIX):
        return ChainChoice(load_genesis(path), checkpoint=checkpoint)
    found = parse_invitation(text)
    return ChainChoice(found.genesis, None, found.bootstrap, checkpoint or found.checkpoint or None)


def _ask_for_servers(*, yes: bool) -> Mapping[str, FoundServer]:
    """Which of the servers that run on this machine to share; all of them unless the owner says otherwise."""
    from serving.backends.detection import NAMES
    from serving.cli.setup.local_servers import find_local_servers

    found = {url: server for url, server in find_local_servers().items() if _has_text_model(server)}
    if yes or not found:
        return found
    print_line("These servers of models run on this machine:")
    for number, (url, server) in enumerate(found.items(), start=1):
        names = ", ".join(model.name for model in server.models if model.is_generator)
        print_line(f"  {number}  {NAMES[server.kind]} at {url}: {names}")

    def read(answer: str) -> list[str]:
        try:
            return choose_by_number(answer, list(found))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    urls: list[str] = typer.prompt("Share which? Numbers, all or none", default="all", value_proc=read)
    return {url: found[url] for url in urls}


def choose_by_number(answer: str, urls: Sequence[str]) -> list[str]:
    """Those of ``urls`` that an answer names by numbers from 1, or by 'all' or 'none'.

    Raises:
        ValueError: it names something else.
    """
    words = answer.replace(",", " ").lower().split()
    if words == ["all"]:
        return list(urls)
    if words == ["none"]:
        return []
    numbers = [int(word) if word.isdecimal() else 0 for word in words]
    if not numbers or not all(1 <= number <= len(urls) for number in numbers):
        raise ValueError(f"name them by numbers from 1 to {len(urls)}, or say all or none")
    return [url for number, url in enumerate(urls, start=1) if number in numbers]


def _has_text_model(server: FoundServer) -> bool:
    """Whether it can be shared without a word about its models."""
    from serving.cli.setup.share import choose_models

    try:
        return bool(choose_models(server, ()))
    except CommandError:
        return False
