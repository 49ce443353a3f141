"""How long a command of the command line takes, what a node costs that has nothing to do, and what readers cost it.

Each command is run several times in a process of its own, one after the other; the figures are medians. The reference
is a Python that starts and ends. ``status`` and the ledger are asked of a node in a process of its own that is its own
only validator. A node that has nothing to do is measured alone, as ``init`` makes it, and in a demo, whose four nodes
keep a chain together: processor time by the kernel's counters, and resident memory. What readers cost finality is
measured by the time from submitting a transfer to its finality: in turn without readers, beside readers that ask the
node for blocks and for what moved an account, and beside the same readers with a server that has these answers ready.
The readers are a process of their own. What the index of accounts costs is the processor time of appending each of the
same blocks of transfers to two databases, with and without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.blockchain.ledger_readers import READS_PER_S, fetch, reading, serve_static
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.parameters.parameters import CREDIT
from chain.store.kv import LevelStore
from chain.store.writer import ChainStore
from chain.transition.block import Transition, apply_block
from chain.types.blocks import Block
from chain.types.operations import Transfer
from tests.support.chain_builder import Chain
from tests.support.cluster import Cluster, run_cluster
from tests.support.forked import ForkedServer

PROGRAM = (sys.executable, "-P", "-m", "serving.cli.main")
TRANSFERS = 200
"""Transfers in a block that is appended."""
IDLE_BEFORE, DEMO_BEFORE = 2.6, 7.9
"""Percent of a core that an idle node of a demo, and the demo itself, took in the first design (commit d120559)."""
READY_GOAL_S = 2.5
MEMORY_BEFORE = 450
"""MB of a node with the embedded model in the first design."""
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
def started(*arguments: str, until: str) -> Iterator[tuple[int, float]]:
    """A command that stays: its process, and the seconds until a line with ``until`` came on its standard output."""
    began = time.perf_counter()
    process = subprocess.Popen(
        (*PROGRAM, *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        if not any(until in line for line in process.stdout):
            raise RuntimeError(f"{arguments[0]} ended with {process.wait()}")
        yield process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def read_processor_time(pid: int) -> float:
    """Seconds of processor time that a process has taken, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_processes(pids: Sequence[int], idle_s: float) -> list[float]:
    """Percent of a core that each process takes, over ``idle_s`` seconds, once it has been left alone for a third of
    that."""
    time.sleep(idle_s / 3)
    before, began = [read_processor_time(pid) for pid in pids], time.perf_counter()
    time.sleep(idle_s)
    passed = time.perf_counter() - began
    return [100 * (read_processor_time(pid) - at) / passed for pid, at in zip(pids, before, strict=True)]


def measure_idle(idle_s: float, rounds: int) -> list[Figure]:
    """How soon a node is ready, and what it costs while it has nothing to do, alone and in a demo."""
    until_ready = []
    with tempfile.TemporaryDirectory() as name:
        directory = str(Path(name, "node"))
        subprocess.run((*PROGRAM, "init", "--yes", "-d", directory), check=True, stdout=subprocess.DEVNULL)
        for number in range(rounds):
            with started("run", "-d", directory, until="ready in") as (pid, seconds):
                until_ready.append(seconds)
                if number == rounds - 1:
                    (alone,) = measure_processes([pid], idle_s)
                    memory = read_memory(pid)
    with started("demo", "--json", until="nodes") as (pid, seconds):
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        demo, *nodes = measure_processes([pid, *children], idle_s)
    before = "the first design"
    return [
        Figure("run until ready, with the embedded model", median(until_ready), "s", READY_GOAL_S, "goal"),
        Figure("demo until four nodes are ready", seconds, "s"),
        Figure("an idle node, memory", memory, "MB", MEMORY_BEFORE, before),
        Figure("an idle node alone", alone, "% of a core"),
        Figure("an idle node of the demo", median(nodes), "% of a core", IDLE_BEFORE, before),
        Figure("the demo itself, idle", demo, "% of a core", DEMO_BEFORE, before),
    ]


def measure_finality(cluster: Cluster, count: int) -> list[float]:
    """Times from submitting a transfer to its finality, in ms."""
    node, taken = cluster.nodes[0], []
    for _ in range(count):
        order = {"recipient": cluster.users[0].address, "amount": CREDIT // 1_000, "wait": 60}
        started = time.perf_counter()
        node.ask("/wallet/transfer", "POST", order)
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def measure_readers(cluster: Cluster, count: int) -> list[Figure]:
    """What readers cost finality and the node, as other programs on this machine and as readers of the node."""
    node = cluster.nodes[0]
    assert node.process is not None
    pid, directory = node.process.pid, node.directory
    paths = (
        "/chain/head", "/chain/blocks?limit=20", f"/chain/accounts/{cluster.users[0].address}/movements?limit=20",
    )  # fmt: skip
    alone, static, beside, reads = [], [], [], []
    idle = busy = 0.0
    for _ in range(4):
        started = read_processor_time(pid)
        alone += measure_finality(cluster, count // 4)
        idle += read_processor_time(pid) - started
        with tempfile.TemporaryDirectory() as name:
            answers = {path: fetch(directory, path) for path in paths}
            server = ForkedServer(serve_static, Path(name), answers)
            with reading(Path(name), paths):
                static += measure_finality(cluster, count // 4)
            server.kill()
        started = read_processor_time(pid)
        with reading(directory, paths) as taken:
            beside += measure_finality(cluster, count // 4)
        busy += read_processor_time(pid) - started
        reads += taken
    figures = []
    for percent in (50, 99):
        without = get_percentile(alone, percent)
        for name, times in (("", beside), (" of ready answers elsewhere", static)):
            figure = f"finality, {READS_PER_S} reads/s{name} beside, p{percent}"
            figures.append(Figure(figure, get_percentile(times, percent), "ms", without, "no reads"))
    return [
        *figures,
        Figure("a read of the ledger, p99", get_percentile(reads, 99), "ms"),
        Figure("a read of the ledger, processor time of the node", 1000 * (busy - idle) / len(reads), "ms"),
    ]


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
    """Processor time of appending ``count`` blocks with and without an index, and of making the index behind them.

    Each block is appended to two databases, one of them indexed. They take turns at being first.
    """
    chain, done = make_blocks(count)
    names = ("with", "without")
    taken: dict[str, list[float]] = {"with": [], "without": [], "behind": []}
    for _ in range(rounds):
        spent = dict.fromkeys(taken, 0.0)
        with tempfile.TemporaryDirectory() as directory:
            stores = {
                name: ChainStore(LevelStore(Path(directory, name)), chain.genesis, index_accounts=name == "with")
                for name in names
            }
            for number, each in enumerate(done):
                certificate = chain.finality(each[0])
                for name in names if number % 2 else reversed(names):
                    started = time.thread_time()
                    stores[name].append([each], certificate)
                    spent[name] += time.thread_time() - started
                started = time.thread_time()
                while stores["with"].extend_index():
                    pass
                spent["behind"] += time.thread_time() - started
            for store in stores.values():
                store.close()
        for name in taken:
            taken[name].append(1e6 * spent[name] / (count * TRANSFERS))
    appends = median(taken["with"]), "µs/operation", median(taken["without"]), "no index"
    return [
        Figure("an append with an index of accounts, processor time", *appends),
        Figure("making the index behind the chain, processor time", median(taken["behind"]), "µs/operation"),
    ]


def measure(rounds: int, transfers: int, idle_s: float) -> tuple[list[Figure], list[Chart]]:
    """Run each command ``rounds`` times, leave nodes alone for ``idle_s`` seconds, and make ``transfers`` transfers
    with and without readers."""
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
        costs = measure_readers(cluster, transfers)
    against = "Python that starts and ends"
    headlines = {"--help": "`wwwserve --help`", "status": "`wwwserve status`"}
    figures = [
        Figure(name, value, "ms", bare, against, headline=headlines.get(name, "")) for name, value in times.items()
    ]
    figures += measure_idle(idle_s, (rounds + 2) // 3)
    figures += [*costs, *measure_appends(transfers // 8, rounds)]
    bars = Series("ms", (), tuple(times.values()))
    return figures, [Chart("Commands", "", "ms", (bars,), tuple(name.replace(" ", "\n") for name in times))]


def main() -> None:
    """Command line."""
    run = Run(
        "commands",
        __doc__,
        Option("rounds", 9, 3, "times that each command is run"),
        Option("transfers", 400, 8, "transfers with readers, and as many without"),
        Option("idle_s", 30, 3, "seconds for which a node has nothing to do"),
    )
    run.finish(*measure(run.values["rounds"], run.values["transfers"], run.values["idle_s"]))


if __name__ == "__main__":
    main()
