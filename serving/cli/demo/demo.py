"""The demonstration: a network of four node processes on this machine, each with a real small model.

``run_demo`` starts them and stays up. With ``once`` it sends twenty prompts through one node that offloads most of
them, waits until every payment is final, stops the nodes, audits all four ledgers and compares them.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import trio
from rich.console import Console
from rich.text import Text

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.cli.contract import print_result
from chain.genesis import make_genesis, make_validator
from chain.keyfile import create_identity
from chain.parameters.parameters import CREDIT, Parameters
from chain.store.kv import CHAIN_DIRECTORY, LevelStore
from chain.store.reader import load_stored_genesis
from chain.store.writer import ChainStore
from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL
from serving.cli.demo.node_process import NodeProcess, stop_nodes
from serving.config.data_directory import KEY_FILE, make_data_dir

HOST = "127.0.0.1"
"""Where its nodes listen."""
NODES = 4
"""Nodes of the network."""
PORTS_OF_NODE = 3
"""Ports of a node, in this order: its API, its dashboard, other nodes."""
PORTS = PORTS_OF_NODE * NODES
"""Ports of the network."""
PARAMETERS = Parameters(epoch_heights=20, round_heights=4, unbonding_epochs=3)
"""Those of its chain: a short demonstration crosses several epochs."""
START_TIMEOUT_S = 120.0
"""How long the nodes may take to see one another."""
SETTLE_TIMEOUT_S = 120.0
"""How long the payments may take to be final, and then to be so for every node."""
CONCURRENCY = 4
"""Prompts under way at a time."""
POLL_INTERVAL_S = 0.3
"""How often it is looked which payments are final."""
MAX_ANSWER_TOKENS = 48
"""Completion tokens of an answer."""
COLUMNS = {"#": 2, "served by": 9, "first token": 11, "tokens": 6, "credits": 8, "held at": 7, "paid at": 7}
"""What stands before an answer, and how many characters wide."""

PROMPTS = (
    "Name three primary colours.",
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What do bees make?",
    "Give me a synonym for happy.",
    "How many days are in a week?",
    "What is water made of?",
    "Finish the sentence: Once upon a time",
    "Name a planet with rings.",
    "Why is the sky blue?",
    "What does a baker do?",
    "Say hello in Spanish.",
    "What is two plus three?",
    "Describe a cat in five words.",
    "What is the opposite of cold?",
    "Name a musical instrument.",
    "Who wrote Romeo and Juliet?",
    "What do plants need to grow?",
    "Give one tip for sleeping well.",
    "What is a blockchain?",
)
"""What the demo asks."""


class DemoFailed(Exception):
    """The demonstration did not show what it promises; the message says what."""


def find_ports(first: int | None) -> list[int]:
    """The :data:`PORTS` ports from ``first`` on, or any; they are free at this moment.

    Raises:
        DemoFailed: one of them is not.
    """
    wanted = [0] * PORTS if first is None else list(range(first, first + PORTS))
    with ExitStack() as stack:  # all at the same time, so that no two are the same
        found = []
        for port in wanted:
            try:
                listener = stack.enter_context(socket.create_server((HOST, port)))
            except OSError as error:
                reason = f"cannot listen on {HOST}:{port}: {os.strerror(error.errno or 0)}"
                raise DemoFailed(f"{reason}; the demo takes {PORTS} ports from --port on") from error
            found.append(int(listener.getsockname()[1]))
        return found


def run_demo(directory: Path, ports: Sequence[int], once: bool, console: Console, as_json: bool = False) -> None:
    """Make a network in the empty directory ``directory``, run it, and stop it at the end.

    ``ports`` are those of :func:`find_ports`. What people read goes to ``console``; with ``as_json`` one JSON value is
    printed, when the nodes are up, or with ``once`` at the end.

    Raises:
        DemoFailed: something that should have been shown was not.
    """
    nodes = make_nodes(directory, ports)
    try:
        for node in nodes:
            node.start()
        wait_until_ready(nodes, console)
        _announce(nodes, console)
        places = [{"api": node.api_url, "address": node.address, "directory": str(node.directory)} for node in nodes]
        if as_json and not once:
            print_result({"directory": str(directory), "nodes": places}, as_json)
            sys.stdout.flush()
        if not once:
            console.print("\nRunning until Ctrl-C.")
            while True:
                time.sleep(1)
                for node in nodes:
                    check_running(node)
        results, rows = trio.run(_run_prompts, nodes, console)
        _sum_up(results, rows, console)
        height = max(row["settled_height"] or 0 for row in rows.values())
        _wait_until_all_have(nodes, height)
    except* KeyboardInterrupt:  # which a nursery may have put into a group
        console.print("stopping")
        once = False
    finally:
        stop_nodes(nodes)
    if once:
        _audit(nodes, height, console)
        answers = [{**asdict(result), **rows[result.request_id]} for result in results]
        if as_json:
            print_result({"directory": str(directory), "nodes": places, "answers": answers}, as_json)


def make_nodes(directory: Path, ports: Sequence[int]) -> list[NodeProcess]:
    """Make keys, genesis and configuration of equal nodes. The first node offloads most of its requests."""
    directory.mkdir(parents=True, exist_ok=True)
    nodes = []
    for number in range(NODES):
        home = directory / f"node{number}"
        make_data_dir(home)
        api_port, admin_port, peer_port = ports[PORTS_OF_NODE * number : PORTS_OF_NODE * (number + 1)]
        key = create_identity(home / KEY_FILE)
        nodes.append(NodeProcess(home, key, peer_port, api_port, admin_port, ends_with_parent=True))
    parameters, beacon = PARAMETERS, secrets.token_bytes(32)
    accounts = [
        make_validator(node.key, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, (MODEL,)) for node in nodes
    ]
    genesis = make_genesis("demo", RealRuntime().now(), beacon, accounts, parameters)
    for node in nodes:
        node.write_chain(genesis)
        node.write_config(
            {
                "bootstrap": [other.multiaddress for other in nodes if other is not node],
                # Above a target of 0 even an idle node offers its requests to the others.
                "policy": {"target_utilization": 0.0, "offload_frequency": 0.9} if node is nodes[0] else {},
                "models": [{"kind": "embedded"}],
            }
        )
    return nodes


def check_running(node: NodeProcess) -> None:
    """Check that the node's process has not ended.

    Raises:
        DemoFailed: it has.
    """
    if not node.is_running and node.process is not None:
        code = node.process.returncode
        raise DemoFailed(f"{node.directory.name} ended with code {code}:\n{node.log[-2000:]}")


def is_ready(node: NodeProcess) -> bool:
    """Whether the node answers, serves its model, and sees that all the others serve theirs.

    Raises:
        DemoFailed: its process has ended.
    """
    check_running(node)
    try:
        status = node.ask("/status")
        serving = [peer for peer in node.ask("/peers")["peers"] if MODEL in peer["models"]]
        return len(serving) >= NODES - 1 and MODEL in status["models"]
    except (OSError, httpx.HTTPError, KeyError):
        return False


def wait_until_ready(nodes: Sequence[NodeProcess], console: Console) -> None:
    """Wait until every node sees every other.

    Raises:
        DemoFailed: one has ended, or they take too long.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    with console.status("starting four nodes, each with its own model") if console.is_terminal else nullcontext():
        while not all(is_ready(node) for node in nodes):
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"the nodes were not ready after {START_TIMEOUT_S:.0f} s; see the logs in the directory"
                )
            time.sleep(0.3)


def _announce(nodes: Sequence[NodeProcess], console: Console) -> None:
    console.print("Four nodes are up, each with its own key, ledger and model:\n", highlight=False)
    for number, node in enumerate(nodes):
        console.print(f"  node {number}  {node.api_url}  {node.address}", highlight=False, soft_wrap=True)
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]})
    home = nodes[0].directory
    console.print("\nTry, in another terminal:\n", highlight=False)
    for command in ("ask 'Hello!'", "status", "chain blocks", "dashboard"):
        console.print(f"  wwwserve {command} -d {home}", highlight=False, soft_wrap=True, markup=False)
    console.print("\nTalk to any of them as to OpenAI:\n", highlight=False)
    command = f"  curl -N {nodes[0].api_url}/chat/completions -H 'Content-Type: application/json' -d '{body}'\n"
    console.print(command, highlight=False, soft_wrap=True, markup=False)


@dataclass(slots=True)
class _Result:
    """One answered prompt, as the user saw it. Time in seconds."""

    request_id: str
    executor: str
    first_token: float
    text: str


async def _run_prompts(
    nodes: Sequence[NodeProcess], console: Console
) -> tuple[list[_Result], dict[str, dict[str, Any]]]:
    """Send the prompts through the first node, and show each answer when it is paid.

    Returns the answers, and by request what the first node has on record of those that were shown.
    """
    names = {node.address: f"node {number}" for number, node in enumerate(nodes)}
    results: list[_Result] = []
    shown: dict[str, dict[str, Any]] = {}
    console.print(f"\n{len(PROMPTS)} prompts through node 0", highlight=False)
    _print_line(console, tuple(COLUMNS), "answer")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_prompts, nodes[0], results)
        deadline = math.inf
        while len(shown) < len(PROMPTS) and trio.current_time() < deadline:
            await trio.sleep(POLL_INTERVAL_S)
            if len(results) == len(PROMPTS):
                deadline = min(deadline, trio.current_time() + SETTLE_TIMEOUT_S)
            answer = await trio.to_thread.run_sync(nodes[0].ask, "/requests?limit=100")
            rows = {row["id"]: row for row in answer["requests"]}
            for result in results:
                row = rows.get(result.request_id)
                if row is None or result.request_id in shown:  # it began after the node was asked
                    continue
                is_settled = result.executor == "local" or row["settled_height"] is not None
                if row["outcome"] != "running" and is_settled:
                    shown[result.request_id] = row
                    _print_answer(len(shown), names.get(result.executor, result.executor), result, row, console)
    return results, shown


async def _send_prompts(node: NodeProcess, results: list[_Result]) -> None:
    """Send all prompts, and append each answer when it is there."""
    client = openai.AsyncOpenAI(base_url=node.api_url, api_key="none", max_retries=0, timeout=120)
    limit = trio.CapacityLimiter(CONCURRENCY)

    async def send(prompt: str) -> None:
        async with limit:
            started = trio.current_time()
            first, text = 0.0, ""
            async with client.chat.completions.with_streaming_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=MAX_ANSWER_TOKENS,
                stream=True,
            ) as response:
                request_id = response.headers["x-request-id"]
                executor = response.headers["x-wwwserve-executor"]
                async for chunk in await response.parse():
                    for choice in chunk.choices:
                        if choice.delta.content:
                            first = first or trio.current_time() - started
                            text += choice.delta.content
            results.append(_Result(request_id, executor, first, text))

    async with client, trio.open_nursery() as nursery:
        for prompt in PROMPTS:
            nursery.start_soon(send, prompt)


def _print_answer(number: int, served_by: str, result: _Result, row: dict[str, Any], console: Console) -> None:
    cells = (
        str(number),
        served_by,
        f"{1000 * result.first_token:.0f} ms",
        str(row["completion_tokens"]),
        "" if row["amount"] is None else f"{row['amount'] / CREDIT:.6f}",
        *("" if row[name] is None else str(row[name]) for name in ("hold_height", "settled_height")),
    )
    _print_line(console, cells, " ".join(result.text.split()))


def _print_line(console: Console, cells: Sequence[str], answer: str) -> None:
    """One line of the table of answers; what is too long is cut."""
    line = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True))
    console.print(Text(f"{line}  {answer}"), no_wrap=True, overflow="ellipsis")


def _sum_up(results: Sequence[_Result], rows: dict[str, dict[str, Any]], console: Console) -> None:
    """Say what was shown.

    Raises:
        DemoFailed: too little of it was.
    """
    offloaded = sum(result.executor != "local" for result in results)
    moved = sum(row["amount"] or 0 for row in rows.values())
    console.print(
        f"\n{offloaded} of {len(results)} offloaded; {moved / CREDIT:.6f} credits moved; "
        "'held at' and 'paid at' are the heights at which a hold and its payment became final\n",
        highlight=False,
        soft_wrap=True,
    )
    if len(rows) < len(results):
        raise DemoFailed(f"{len(results) - len(rows)} payments were not final after {SETTLE_TIMEOUT_S:.0f} s")
    if not all(result.text for result in results):
        raise DemoFailed("not every prompt was answered")
    if offloaded <= len(results) // 2:
        raise DemoFailed(f"only {offloaded} of {len(results)} requests were offloaded")


def _wait_until_all_have(nodes: Sequence[NodeProcess], height: int) -> None:
    """Wait until the block at ``height`` is final for every node.

    Raises:
        DemoFailed: it takes too long.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while any(node.ask("/status")["height"] < height for node in nodes):
        if time.monotonic() > deadline:
            raise DemoFailed(f"not every node had the block at height {height} after {SETTLE_TIMEOUT_S:.0f} s")
        time.sleep(POLL_INTERVAL_S)


def _audit(nodes: Sequence[NodeProcess], height: int, console: Console) -> None:
    """``chain verify`` on all four data directories, and the comparison of their blocks, at ``height`` and all below.

    Raises:
        DemoFailed: a ledger is shorter, or wrong, or they differ.
    """
    heights, common = [], []
    for number, node in enumerate(nodes):
        store = LevelStore(node.directory / CHAIN_DIRECTORY, create=False)
        report = audit_chain(StoreSource(store))
        store.close()
        if report.fault is not None:
            fault = report.fault
            raise DemoFailed(f"node {number}: height {fault.height}, {fault.field}: {fault.reason}")
        heights.append(report.height)
        console.print(
            f"chain verify node{number}: ok, {report.height} blocks, {report.operations} operations, "
            f"every block confirmed by at least {100 * (report.smallest_certificate or 0):.0f} % of stake",
            highlight=False,
            soft_wrap=True,
        )
    for node in nodes:
        common.append(_read_block(node.directory / CHAIN_DIRECTORY, min(heights)))
    if len(set(common)) != 1:
        raise DemoFailed(f"the ledgers differ at height {min(heights)}")
    if min(heights) < height:
        raise DemoFailed(f"a ledger has less than {height} blocks: {heights}")
    block_id, state_root = common[0]
    console.print(
        f"all four agree at height {min(heights)}: block {block_id.hex()[:16]}, state root {state_root.hex()[:16]}",
        highlight=False,
        soft_wrap=True,
    )


def _read_block(path: Path, height: int) -> tuple[bytes, bytes]:
    store = LevelStore(path, create=False)
    try:
        block = ChainStore(store, load_stored_genesis(store)).block(height)
        assert block is not None
        return block.id, block.header.state_root
    finally:
        store.close()
