"""What a node adds to a request: latency and throughput, served locally and offloaded, against the backend directly.

The backend is a fast fake, so that nearly all of the time is the node's. Client, nodes and backend share the machine,
as in the figures that this is compared with. An offloaded request pays with a hold and a capture on the ledger of the
two nodes, which is part of what is measured.
"""

from __future__ import annotations

import random
import string
import tempfile
from pathlib import Path

import trio

from benchmarks.endpoint.load import LoadResult, run_load
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.parameters import Parameters
from serving.openai.requests import CHAT_COMPLETIONS
from tests.support.cluster import run_cluster
from tests.support.fake_backend import MODEL

CONNECTIONS = (1, 16, 64)
"""Requests at a time."""
PROMPT_CHARACTERS = 400
MAX_TOKENS = 64
WARM_UP_S = 0.5
"""Seconds of load before each measurement, in which connections, pools and streams are opened."""
OFFLOADS_ALL = {"policy": {"target_utilization": 0.0, "offload_frequency": 1.0}}
ACCEPTS_ALL = {"policy": {"accept_frequency": 1.0, "queue_frequency": 1.0, "max_queue": 256, "offload_frequency": 0.0}}


def measure(seed: int, seconds: float) -> tuple[list[Figure], list[Chart]]:
    """Run all loads one after the other, each for ``seconds``."""
    prompt = "".join(random.Random(seed).choices(string.ascii_lowercase + " ", k=PROMPT_CHARACTERS))
    body = {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
    results: dict[int, dict[str, LoadResult]] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        run_cluster(
            Path(directory), 2, parameters=Parameters(), config=lambda number: ACCEPTS_ALL if number else OFFLOADS_ALL
        ) as cluster,
    ):
        urls = {
            "direct": f"{cluster.backend_url.removesuffix('/')}{CHAT_COMPLETIONS}",
            "local": cluster.nodes[1].completions_url,
            "offloaded": cluster.nodes[0].completions_url,
        }
        for connections in CONNECTIONS:
            results[connections] = {}
            for name, url in urls.items():
                trio.run(run_load, url, body, connections, WARM_UP_S)
                results[connections][name] = trio.run(run_load, url, body, connections, seconds, name == "offloaded")
    figures = [figure for connections, found in results.items() for figure in _get_figures(found, connections)]
    return figures, _make_charts(results)


def _get_figures(results: dict[str, LoadResult], connections: int) -> list[Figure]:
    direct = results["direct"]
    figures = [Figure(f"direct c={connections} rate", direct.rate, "requests/s")]
    for name in ("local", "offloaded"):
        result, title = results[name], f"{name} c={connections}"
        what = "request served by the node itself" if name == "local" else "offloaded and paid request"
        for percent in (50, 99):
            reference, against = direct.get_percentile(percent), f"backend called directly, p{percent}"
            figures.append(Figure(f"{title} p{percent}", result.get_percentile(percent), "ms", reference, against))
        added = result.get_percentile(50) - direct.get_percentile(50)
        headline = f"{what}: time added, p50" if connections == 1 else ""
        against = "backend called directly, p50"
        figures.append(Figure(f"{title} added p50", added, "ms", direct.get_percentile(50), against, headline=headline))
        headline = f"{what}: rate, 16 at a time" if connections == 16 else ""
        against = "backend called directly"
        figures.append(Figure(f"{title} rate", result.rate, "requests/s", direct.rate, against, headline=headline))
        for count, outcome in ((result.failures, "refused"), (result.local, "served locally instead")):
            if count:
                figures.append(Figure(f"{title} {outcome}", count, "requests"))
    return figures


def _make_charts(results: dict[int, dict[str, LoadResult]]) -> list[Chart]:
    categories = tuple(f"{connections} at a time" for connections in results)
    latencies, rates = [], []
    for name in ("direct", "local", "offloaded"):
        of_name = [found[name] for found in results.values()]
        latencies.append(Series(name, (), tuple(result.get_percentile(50) for result in of_name)))
        rates.append(Series(name, (), tuple(result.rate for result in of_name)))
    return [
        Chart("Time of a request, p50", "", "ms", tuple(latencies), categories, y_scale="log"),
        Chart("Rate", "", "requests/s", tuple(rates), categories, y_scale="log"),
    ]


def main() -> None:
    """Command line."""
    run = Run("gateway", __doc__, Option("seconds", 8.0, 2.0, "duration of each of the nine loads"))
    run.finish(*measure(run.seed, run.values["seconds"]))


if __name__ == "__main__":
    main()
