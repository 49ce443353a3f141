"""The command line ``wwwserve``: the tree of all commands, by a newcomer's path."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chain.cli.contract import print_result
from chain.cli.tree import Entry, build_group

if TYPE_CHECKING:
    from serving.cli.setup.start import RunNode

RUN_NODE = "node:run_node"
"""What ``run`` runs: the composition root, which imports everything and so is imported by that command alone."""

START, LOOK, MONEY, NETWORK, LEDGER = "Start", "Look", "Money", "Network", "Ledger"
"""Panels of the help."""


def build_wwwserve_app(run_node: RunNode | None = None) -> typer.Typer:
    """The whole command line; ``run_node`` is what ``run`` runs (default: :data:`RUN_NODE`)."""

    def load_run() -> Callable[..., Any]:
        from serving.cli.setup.start import make_run

        return make_run(lambda: run_node or _import_run_node())

    def load_share() -> Callable[..., Any]:
        from serving.cli.setup.share_command import make_share

        return make_share(load_run())

    def load_join() -> Callable[..., Any]:
        from serving.cli.setup.join import make_join

        return make_join(load_run())

    entries = {
        "init": Entry(
            "Make a data directory: key, configuration, genesis, and a journal without votes.",
            "serving.cli.setup.init:init",
            ("wwwserve init --new-chain home", "wwwserve init --genesis genesis.json"),
            START,
        ),
        "run": Entry(
            "Run the node in a data directory until it is stopped.",
            load_run,
            ("wwwserve run", "wwwserve run --vllm Qwen/Qwen3-8B"),
            START,
        ),
        "share": Entry(
            "Share a server that runs already: vLLM, SGLang, Ollama, llama.cpp, LM Studio, LiteLLM or any like them.",
            load_share,
            ("wwwserve share http://127.0.0.1:11434", "wwwserve share http://127.0.0.1:9000 --new-chain home --no-run"),
            START,
        ),
        "join": Entry(
            "Join the network that an invitation names.",
            load_join,
            ("wwwserve join wwwserve-eNoBAA…", "wwwserve join invitation.txt --no-run"),
            START,
        ),
        "demo": Entry(
            "Run a network of four nodes with real models on this machine.",
            "serving.cli.setup.start:demo",
            ("wwwserve demo", "wwwserve demo --once"),
            START,
        ),
        "ask": Entry(
            "Ask a model, and print its answer as it comes; who served it and what it cost stands below, on stderr.",
            "serving.cli.running.ask:ask",
            ('wwwserve ask "Why is the sky blue?"', "wwwserve ask -m smollm2-135m --json < question.txt"),
            START,
        ),
        "chat": Entry(
            "Talk with a model, a line at a time, until Ctrl-D. With --json each answer is a JSON value on a line.",
            "serving.cli.running.ask:chat",
            ("wwwserve chat", "wwwserve chat -m smollm2-135m --local-only"),
            START,
        ),
        "status": Entry(
            "Where the node stands: ledger, peers, models, requests.",
            "serving.cli.running.owner:status",
            ("wwwserve status", "wwwserve status --json"),
            LOOK,
        ),
        "peers": Entry(
            "Who is online, and what they serve.", "serving.cli.running.owner:peers", ("wwwserve peers",), LOOK
        ),
        "models": Entry(
            "Models that this node serves or can offload to others, and how their executors have done in duels.",
            "serving.cli.running.owner:models",
            ("wwwserve models",),
            LOOK,
        ),
        "doctor": Entry(
            "Look for what is wrong with the node, running or not, and say what mends it.",
            "serving.cli.doctor.command:doctor",
            ("wwwserve doctor", "wwwserve doctor --bundle doctor.tar.gz"),
            LOOK,
        ),
        "top": Entry(
            "The node at a glance: verdict, backends, requests, peers; drawn anew every second until q.",
            "serving.cli.running.top:top",
            ("wwwserve top", "wwwserve top --json"),
            LOOK,
        ),
        "ping": Entry(
            "How long a round trip to a peer takes, and whether it is direct.",
            "serving.cli.running.ping:ping",
            ("wwwserve ping 12D3KooWQvTxaoyGqNKYT9hek1DhLxZJzC8ykN71NWKJREaB5oXb",),
            LOOK,
        ),
        "netcheck": Entry(
            "How this node reaches others and is reached: NAT, relays, IPv4 and IPv6, clock, round trips.",
            "serving.cli.running.ping:netcheck",
            ("wwwserve netcheck",),
            LOOK,
        ),
        "logs": Entry(
            "What the node has logged, whether it runs or not (docs/reference/events.md says what each event means).",
            "serving.cli.running.logs:logs",
            ("wwwserve logs --level warning", "wwwserve logs --follow --event 'request ended'"),
            LOOK,
        ),
        "dashboard": Entry(
            "Open the dashboard of the running node with the owner's rights. The link is good once, for a minute.",
            "serving.cli.running.dashboard:dashboard",
            ("wwwserve dashboard --no-open",),
            LOOK,
        ),
        "duels": Entry(
            "Duels and checks of a model that this node took part in since it started ('chain show --duels' has all).",
            "serving.cli.running.owner:duels",
            ("wwwserve duels",),
            LOOK,
        ),
        "wallet": Entry("The node's account.", _load("serving.cli.running.wallet:build_wallet_app"), panel=MONEY),
        "policy": Entry(
            "The policy of the running node.", _load("serving.cli.running.policy:build_policy_app"), panel=NETWORK
        ),
        "network": Entry(
            "Networks of one's own, and invitations to them.",
            _load("serving.cli.setup.network:build_network_app"),
            panel=NETWORK,
        ),
        "reload": Entry(
            "Have the running node read the policy in config.yaml again (as the signal HUP does).",
            "serving.cli.running.policy:reload",
            ("wwwserve reload",),
            NETWORK,
        ),
        "completion": Entry(
            "Print what makes a shell complete commands and options.",
            "serving.cli.completion:completion",
            ("wwwserve completion bash > ~/.local/share/bash-completion/completions/wwwserve",),
            START,
        ),
        "keys": Entry("Keys of the OpenAI API.", _load("serving.cli.running.keys:build_keys_app"), panel=START),
        "backup": Entry(
            "Write key, configuration, genesis and API keys to a file.",
            "serving.cli.setup.backup:backup",
            ("wwwserve backup node.backup",),
            START,
        ),
        "restore": Entry(
            "Make a node again from a backup.",
            "serving.cli.setup.backup:restore",
            ("wwwserve restore node.backup -d /srv/wwwserve",),
            START,
        ),
        "judge": Entry(
            "Comparing answers of other nodes with your own backend.",
            _load("serving.cli.quality.judge:build_judge_app"),
            panel=NETWORK,
        ),
        "calibrate": Entry(
            "Check honest answers of a backend, and propose the thresholds of the same-model check.",
            "serving.cli.quality.calibrate:calibrate_check",
            ("wwwserve calibrate --prompts 400",),
            NETWORK,
        ),
        "chain": Entry(
            "Audit, show, export and prove a ledger.", _load("serving.cli.ledger.chain:build_chain_app"), panel=LEDGER
        ),
    }
    app = build_group(entries, "An open market of LLM services without a centre.")
    app.callback()(_take_options)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print_result(None, False, f"wwwserve {version('wwwserve')}")
        raise typer.Exit


def _take_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def _load(place: str) -> Callable[[], typer.Typer]:
    """What imports and builds the application of a group."""
    module, _, function = place.partition(":")

    def load() -> typer.Typer:
        app: typer.Typer = getattr(import_module(module), function)()
        return app

    return load


def _import_run_node() -> RunNode:
    module, _, function = RUN_NODE.partition(":")
    run_node: RunNode = getattr(import_module(module), function)
    return run_node
