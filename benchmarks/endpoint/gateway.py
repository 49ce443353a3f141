"""What a node adds to a request: latency, throughput and processor time, served locally and offloaded, against the
backend directly.

The backend is a fast fake, so that nearly all of the time is the node's; for the streams it is one that writes a
hundred events a second. Client, nodes and backend share the machine, as in the figures that this is compared with. An
offloaded request pays with a hold and a capture on the ledger of the nodes, which is part of what is measured. It is
the request of a payer that the executors know, so it waits for no finality; the wait of a newcomer's is what the
benchmark ``first_token`` measures.
"""

from __future__ import annotations

import os
import random
import string
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from benchmarks.endpoint.load import LoadResult, StreamResult, run_load, run_streams
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.parameters.parameters import Parameters
from serving.openai.requests import CHAT_COMPLETIONS
from tests.support.cluster import Cluster, run_cluster
from tests.support.fake_backend import MODEL, FakeOptions

CONNECTIONS = (1, 16, 64)
"""Requests at a time."""
CAPACITY = 2 * max(CONNECTIONS)
"""Requests that a node has its backend work on: no request or stream waits for another to end."""
NODES = 4
"""All of them validators. The first offloads what it is asked, the second serves it itself."""
PROMPT_CHARACTERS = 400
MAX_TOKENS = 64
STREAM_TOKENS = 300
"""Of each stream."""
EVENT_INTERVAL_S = 0.01
"""Between two events of a stream."""
WARM_UP_S = 0.5
"""Seconds of load before each measurement, in which connections, pools and streams are opened."""
INTRODUCTION_S = 4.0
"""Seconds of load in which the payer becomes known to the executors."""
INTRODUCTION_CONNECTIONS = 16
INTRODUCTION_CHARACTERS = 100 * PROMPT_CHARACTERS
"""Of the prompts in that time: they are paid for, so that the executors lend the payer what all later holds cover."""
OFFLOADS_ALL = {"policy": {"target_utilization": 0.0, "offload_frequency": 1.0}}
ACCEPTS_ALL = {"policy": {"accept_frequency": 1.0, "queue_frequency": 1.0, "max_queue": 256, "offload_frequency": 0.0}}
PLACES = ("direct", "local", "offloaded")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Measured:
    """One load at one place, and the seconds of processor time that all nodes took for it."""

    load: LoadResult
    cpu_s: float


@contextmanager
def _run_nodes(backend: FakeOptions) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """The nodes, and the URLs of the places."""
    with (
        tempfile.TemporaryDirectory() as directory,
        run_cluster(
            Path(directory),
            NODES,
            parameters=Parameters(),
            backend=backend,
            capacity=CAPACITY,
            config=lambda number: ACCEPTS_ALL if number else OFFLOADS_ALL,
        ) as cluster,
    ):
        direct = f"{cluster.backend_url.removesuffix('/')}{CHAT_COMPLETIONS}"
        yield cluster, dict(zip(PLACES, (direct, *(cluster.nodes[n].completions_url for n in (1, 0))), strict=True))


def read_cpu(cluster: Cluster) -> float:
    """Seconds of processor time of all nodes so far (Linux: proc_pid_stat(5))."""
    ticks = 0
    for node in cluster.nodes:
        assert node.process is not None
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def introduce(url: str, prompt: str) -> None:
    """Have the node at ``url`` pay the others for long prompts."""
    long = (prompt * (INTRODUCTION_CHARACTERS // len(prompt)))[:INTRODUCTION_CHARACTERS]
    body = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": long}]}
    trio.run(run_load, url, body, INTRODUCTION_CONNECTIONS, INTRODUCTION_S)


def measure(seed: int, seconds: float) -> tuple[list[Figure], list[Chart]]:
    """Run all loads one after the other, each for ``seconds``."""
    prompt = "".join(random.Random(seed).choices(string.ascii_lowercase + " ", k=PROMPT_CHARACTERS))
    body = {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
    whole = _measure_places(FakeOptions(), prompt, body, partial(run_load, body=body, seconds=seconds))
    slow, short = FakeOptions(token_delay=EVENT_INTERVAL_S), {**body, "max_tokens": 1}
    long = {**body, "max_tokens": STREAM_TOKENS}
    streamed = _measure_places(slow, prompt, short, partial(run_streams, body=long, seconds=seconds))
    figures = [figure for connections, found in whole.items() for figure in _get_figures(found, connections)]
    figures += [figure for connections, found in streamed.items() for figure in _get_stream_figures(found, connections)]
    return figures, _make_charts(whole, streamed)


def _measure_places(
    backend: FakeOptions, prompt: str, warm: dict[str, object], load: Callable[..., Awaitable[LoadResult]]
) -> dict[int, dict[str, Measured]]:
    """Run ``load`` at each place with each number of connections, after requests of ``warm``."""
    measured: dict[int, dict[str, Measured]] = {}
    with _run_nodes(backend) as (cluster, urls):
        introduce(urls["offloaded"], prompt)
        for connections in CONNECTIONS:
            measured[connections] = {}
            for name, url in urls.items():
                trio.run(run_load, url, warm, connections, WARM_UP_S)
                before = read_cpu(cluster)
                result = trio.run(partial(load, url, connections=connections, offloaded=name == "offloaded"))
                measured[connections][name] = Measured(result, read_cpu(cluster) - before)
    return measured


def _get_figures(results: dict[str, Measured], connections: int) -> list[Figure]:
    direct = results["direct"].load
    figures = [Figure(f"direct c={connections} rate", direct.rate, "requests/s")]
    for name in PLACES[1:]:
        result, title = results[name].load, f"{name} c={connections}"
        what = "request served by the node itself" if name == "local" else "offloaded and paid request"
        figures += _compare_times(result, direct, title, f"{what}: time added" if connections == 1 else "")
        headline = f"{what}: rate, 16 at a time" if connections == 16 else ""
        against = "backend called directly"
        figures.append(Figure(f"{title} rate", result.rate, "requests/s", direct.rate, against, headline=headline))
        figures += _count_others(results[name], title)
    return figures


def _get_stream_figures(results: dict[str, Measured], connections: int) -> list[Figure]:
    direct = results["direct"].load
    assert isinstance(direct, StreamResult)
    figures = [Figure(f"direct, {connections} streams: rate", direct.event_rate, "events/s")]
    for name in PLACES[1:]:
        result, title = results[name].load, f"{name}, {connections} streams:"
        assert isinstance(result, StreamResult)
        figures += _compare_times(result, direct, f"{title} first event", "")
        headline = f"{connections} streams of 100 events/s, {name}: rate" if connections == 64 else ""
        against = "backend called directly"
        figures.append(
            Figure(f"{title} rate", result.event_rate, "events/s", direct.event_rate, against, headline=headline)
        )
        figures += _count_others(results[name], title)
    return figures


def _compare_times(result: LoadResult, direct: LoadResult, title: str, headline: str) -> list[Figure]:
    if not result.latencies:
        return [Figure(f"{title} answered", 0, "requests")]
    figures = []
    for percent in (50, 99):
        reference, against = direct.get_percentile(percent), f"backend called directly, p{percent}"
        value = result.get_percentile(percent)
        shown = f"{headline}, p50" if headline and percent == 50 else ""
        figures.append(Figure(f"{title} p{percent}", value, "ms", reference, against))
        figures.append(Figure(f"{title} added p{percent}", value - reference, "ms", reference, against, headline=shown))
    return figures


def _count_others(measured: Measured, title: str) -> list[Figure]:
    load = measured.load
    figures = []
    if isinstance(load, StreamResult):
        if load.events:
            figures.append(Figure(f"{title} CPU per event", 1e6 * measured.cpu_s / load.events, "µs"))
    elif load.latencies:
        figures.append(Figure(f"{title} CPU per request", 1e3 * measured.cpu_s / len(load.latencies), "ms"))
    for count, outcome in ((load.failures, "refused"), (load.local, "served locally instead")):
        if count:
            figures.append(Figure(f"{title} {outcome}", count, "requests"))
    return figures


def _make_charts(whole: dict[int, dict[str, Measured]], streamed: dict[int, dict[str, Measured]]) -> list[Chart]:
    categories = tuple(f"{connections} at a time" for connections in whole)
    latencies, rates, events = [], [], []
    for name in PLACES:
        of_name = [found[name].load for found in whole.values()]
        medians = (result.get_percentile(50) for result in of_name)
        latencies.append(Series(name, (), tuple(medians)))
        rates.append(Series(name, (), tuple(result.rate for result in of_name)))
        streams = [found[name].load for found in streamed.values()]
        events.append(Series(name, (), tuple(load.event_rate for load in streams if isinstance(load, StreamResult))))
    return [
        Chart("Time of a request, p50", "", "ms", tuple(latencies), categories, y_scale="log"),
        Chart("Rate", "", "requests/s", tuple(rates), categories, y_scale="log"),
        Chart("Streams", "", "events/s", tuple(events), categories, y_scale="log"),
    ]


def main() -> None:
    """Command line."""
    run = Run("gateway", __doc__, Option("seconds", 8.0, 1.0, "duration of each of the eighteen loads"))
    run.finish(*measure(run.seed, run.values["seconds"]))


if __name__ == "__main__":
    main()
