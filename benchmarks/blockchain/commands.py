"""How long a command of the command line takes, and what readers of the ledger cost the node that they read.

Each command is run several times in a process of its own, one after the other; the figures are medians. The reference
is a Python that starts and ends. ``status`` and the ledger are asked of a node in a process of its own that is its own
only validator. What readers cost finality is measured by the time from submitting a transfer to its finality, in turn
with and without readers that ask the node for blocks and for what moved an account. What the index of accounts costs is
the processor time of appending blocks of transfers to a database with and without it, in turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.parameters import CREDIT
from chain.store.kv import LevelStore
from chain.store.writer import ChainStore
from chain.transition.block import Transition, apply_block
from chain.types.blocks import Block
from chain.types.operations import Transfer
from serving.cli.running.admin_client import ask_node
from tests.support.chain_builder import Chain
from tests.support.cluster import Cluster, run_cluster

PROGRAM = (sys.executable, "-P", "-m", "serving.cli.main")
READS_PER_S = 100
"""Answers of the ledger that readers ask for."""
READERS = 2
TRANSFERS = 200
"""Transfers in a block that is appended."""
COMPLETION = {"_WWWSERVE_COMPLETE": "complete_bash", "COMP_WORDS": "wwwserve st", "COMP_CWORD": "1"}


def measure_command(arguments: Sequence[str], rounds: int, environment: dict[str, str] | None = None) -> float:
    """Median wall time of a command in ms."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(
            arguments, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


@contextmanager
def reading(directory: Path, address: str) -> Iterator[list[float]]:
    """Ask a node for blocks and the movements of an account all the time.

    How long each answer took, in ms, is appended to the list.

    Raises:
        CommandError: the node refused to answer.
    """
    stopped = threading.Event()
    taken: list[float] = []
    paths = ("/chain/head", "/chain/blocks?limit=20", f"/chain/accounts/{address}/movements?limit=20")

    def read() -> None:
        due = time.perf_counter()
        while not stopped.is_set():
            due += READERS / READS_PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            started = time.perf_counter()
            ask_node(directory, "GET", paths[len(taken) % len(paths)])
            taken.append(1000 * (time.perf_counter() - started))

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read) for _ in range(READERS)]
        try:
            yield taken
        finally:
            stopped.set()
        for reader in readers:
            reader.result()


def measure_finality(cluster: Cluster, count: int) -> list[float]:
    """Times from submitting a transfer to its finality, in ms."""
    node, taken = cluster.nodes[0], []
    for _ in range(count):
        order = {"recipient": cluster.users[0].address, "amount": CREDIT // 1_000, "wait": 60}
        started = time.perf_counter()
        node.ask("/wallet/transfer", "POST", order)
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def make_blocks(count: int) -> tuple[Chain, list[tuple[Block, Transition]]]:
    """A chain of ``count`` blocks with :data:`TRANSFERS` transfers each, and what each block does."""
    chain, done = Chain(4, TRANSFERS // 10), []
    for number in range(count):
        operations, nonces = [], {user: chain.account(user).nonce for user in chain.users}
        for place in range(TRANSFERS):
            payer = chain.users[place % len(chain.users)]
            payee = chain.users[(7 * place + number + 1) % len(chain.users)]
            operations.append(chain.sign(payer, Transfer(nonces[payer], payee.public_key, 5, b"")))
            nonces[payer] += 1
        head, state = chain.head, chain.state
        block = chain.append(operations)
        done.append((block, apply_block(chain.genesis, head, state, block)))
    return chain, done


def measure_appends(count: int, rounds: int) -> list[Figure]:
    """Processor time of appending ``count`` blocks with and without an index, and of making the index behind them."""
    chain, done = make_blocks(count)
    taken: dict[str, list[float]] = {"with": [], "without": [], "behind": []}
    for number in range(2 * rounds):
        name, operations = ("with", "without")[number % 2], count * TRANSFERS
        with tempfile.TemporaryDirectory() as directory:
            store = ChainStore(LevelStore(Path(directory, "chain")), chain.genesis, index_accounts=name == "with")
            appending = indexing = 0.0
            for each in done:
                certificate, started = chain.finality(each[0]), time.thread_time()
                store.append([each], certificate)
                appended = time.thread_time()
                while store.extend_index():
                    pass
                appending += appended - started
                indexing += time.thread_time() - appended
            store.close()
        taken[name].append(1e6 * appending / operations)
        if name == "with":
            taken["behind"].append(1e6 * indexing / operations)
    appends = median(taken["with"]), "µs/operation", median(taken["without"]), "no index"
    return [
        Figure("an append with an index of accounts, processor time", *appends),
        Figure("making the index behind the chain, processor time", median(taken["behind"]), "µs/operation"),
    ]


def measure(rounds: int, transfers: int) -> tuple[list[Figure], list[Chart]]:
    """Run each command ``rounds`` times, and make ``transfers`` transfers with and without readers."""
    bare = measure_command((sys.executable, "-c", ""), rounds)
    wwwserve = "import sys; sys.argv[0] = 'wwwserve'; from serving.cli.main import main; main()"
    times = {
        "--help": measure_command((*PROGRAM, "--help"), rounds),
        "chain --help": measure_command((*PROGRAM, "chain", "--help"), rounds),
        "--version": measure_command((*PROGRAM, "--version"), rounds),
        "completion": measure_command((sys.executable, "-P", "-c", wwwserve), rounds, COMPLETION),
    }
    indexed = {"index_accounts": True}
    with (
        tempfile.TemporaryDirectory() as name,
        run_cluster(Path(name), 1, users=1, config=lambda _: indexed) as cluster,
    ):
        directory = cluster.nodes[0].directory
        for command in (("status",), ("chain", "blocks"), ("chain", "verify")):
            times[" ".join(command)] = measure_command((*PROGRAM, *command, "-d", str(directory)), rounds)
        alone, beside, reads = [], [], []
        for _ in range(4):
            alone += measure_finality(cluster, transfers // 4)
            with reading(directory, cluster.users[0].address) as taken:
                beside += measure_finality(cluster, transfers // 4)
            reads += taken
    against = "Python that starts and ends"
    headlines = {"--help": "`wwwserve --help`", "status": "`wwwserve status`"}
    figures = [
        Figure(name, value, "ms", bare, against, headline=headlines.get(name, "")) for name, value in times.items()
    ]
    figures += [
        Figure(f"finality, {READS_PER_S} reads/s beside, p50", median(beside), "ms", median(alone), "no reads"),
        Figure(
            f"finality, {READS_PER_S} reads/s beside, p99",
            get_percentile(beside, 99), "ms", get_percentile(alone, 99), "no reads",
        ),
        Figure("a read of the ledger, p99", get_percentile(reads, 99), "ms"),
        *measure_appends(transfers // 8, rounds),
    ]  # fmt: skip
    bars = Series("ms", (), tuple(times.values()))
    return figures, [Chart("Commands", "", "ms", (bars,), tuple(name.replace(" ", "\n") for name in times))]


def main() -> None:
    """Command line."""
    run = Run(
        "commands",
        __doc__,
        Option("rounds", 9, 3, "times that each command is run"),
        Option("transfers", 400, 8, "transfers with readers, and as many without"),
    )
    run.finish(*measure(run.values["rounds"], run.values["transfers"]))


if __name__ == "__main__":
    main()
