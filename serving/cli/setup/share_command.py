"""The command ``wwwserve share``, by :mod:`serving.cli.setup.share`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import print_line, print_lines
from serving.cli.setup.share import (
    change_config,
    check_entry,
    choose_models,
    describe_entry,
    find_server,
    print_server,
)
from serving.cli.setup.start import create_node
from serving.config.data_directory import KEY_FILE


def make_share(run: Callable[..., None]) -> Callable[..., None]:
    """The command; ``run`` is the command that runs the node."""

    def share(
        url: Annotated[str, typer.Argument(help="Where the server answers, such as http://127.0.0.1:11434.")],
        data_dir: DataDir = None,
        model: Annotated[
            list[str] | None,
            typer.Option("--model", help="A model to share, repeatable; default: all that are loaded."),
        ] = None,
        known_as: Annotated[
            str | None, typer.Option("--as", metavar="NAME", help="The name of the model to others: Qwen/Qwen3-8B.")
        ] = None,
        genesis: Annotated[
            Path | None, typer.Option(help="Genesis file of the chain to join, if the directory has no node yet.")
        ] = None,
        new_chain: Annotated[str | None, typer.Option(help="Or the name of a new chain of one's own.")] = None,
        api_key_env: Annotated[
            str | None, typer.Option(metavar="NAME", help="Environment variable with the API key of the server.")
        ] = None,
        only: Annotated[bool, typer.Option("--only", help="Share no other server any more.")] = False,
        no_run: Annotated[
            bool, typer.Option("--no-run", help="Write the configuration, and do not run the node.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Share a server that runs already: vLLM, SGLang, Ollama, llama.cpp, LM Studio, LiteLLM or any like them."""
        if as_json and not no_run:
            raise CommandError("--json goes with --no-run; then 'wwwserve run --json' runs the node")
        directory = data_dir or get_default_data_dir()
        is_new = not (directory / KEY_FILE).exists()
        if is_new and (genesis is None) == (new_chain is None):
            raise CommandError(
                f"no node in {directory} yet: say which chain it belongs to, by --genesis FILE or --new-chain NAME"
            )
        server = find_server(url, api_key_env)
        chosen = choose_models(server, model or ())
        entry = describe_entry(url, server, chosen, api_key_env, known_as)
        check_entry(entry)
        if not as_json:
            print_server(url, server, chosen)
        if is_new:
            _, lines = create_node(directory, genesis, new_chain)
            if not as_json:
                print_lines("\n".join(lines))
        changed = change_config(directory, entry, only=only)
        for path, value in changed.items():
            if path[-1] == "port" and not as_json:
                print_line(
                    f"{'.'.join(map(str, path))} is {value} from now on, because the server has the port before it"
                )
        if as_json:
            content = {"url": url, "kind": server.kind, "models": [each.name for each in chosen]}
            print_result({**content, "directory": str(directory)}, as_json)
        if not no_run:
            run(directory)

    return share
