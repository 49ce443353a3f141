"""What a node adds to a request: latency and throughput, served locally and offloaded, against the backend directly.

The backend is a fast fake, so that nearly all of the time is the node's. Client, nodes and backend share the machine,
as in the figures that this is compared with. An offloaded request pays with a hold and a capture on the ledger of the
two nodes, which is part of what is measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio

from benchmarks.load import LoadResult, run_load
from benchmarks.report import Claim, parse_options, report
from serving.openai.requests import CHAT_COMPLETIONS
from tests.fakes.backend import MODEL
from tests.processes.cluster import run_cluster

CONCURRENCY = (1, 16, 64)


def measure(options_quick: bool) -> list[Claim]:
    """Run all loads one after the other."""
    seconds = 2.0 if options_quick else 8.0
    body = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "x" * 400}]}
    offload = {"policy": {"target_utilization": 0.0, "offload_frequency": 1.0}}
    generous = {"policy": {"accept_frequency": 1.0, "queue_frequency": 1.0, "max_queue": 256, "offload_frequency": 0.0}}
    claims: list[Claim] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        run_cluster(Path(directory), 2, config=lambda number: generous if number else offload) as cluster,
    ):
        places = {
            "direct": f"{cluster.backend_url.removesuffix('/')}{CHAT_COMPLETIONS}",
            "local": cluster.nodes[1].completions_url,
            "offloaded": cluster.nodes[0].completions_url,
        }
        for connections in CONCURRENCY:
            results: dict[str, LoadResult] = {}
            for name, url in places.items():
                trio.run(run_load, url, body, connections, 0.5)  # connections, pools and streams are opened
                results[name] = trio.run(run_load, url, body, connections, seconds, name == "offloaded")
            claims += _compare(results, connections)
    return claims


def _compare(results: dict[str, LoadResult], connections: int) -> list[Claim]:
    direct = results["direct"]
    claims = [Claim(f"direct c={connections} rate", direct.rate, "req/s")]
    for name in ("local", "offloaded"):
        result = results[name]
        for percent in (50, 99):
            added = result.get_percentile(percent) - direct.get_percentile(percent)
            claims.append(
                Claim(
                    f"{name} c={connections} added p{percent}",
                    added,
                    "ms",
                    direct.get_percentile(percent),
                    f"direct p{percent}",
                )
            )
        claims.append(Claim(f"{name} c={connections} rate", result.rate, "req/s", direct.rate, "direct"))
        for count, what in ((result.failures, "refused"), (result.local, "served locally instead")):
            if count:
                claims.append(Claim(f"{name} c={connections} {what}", count, "requests"))
    return claims


def main() -> None:
    """Command line."""
    options = parse_options(__doc__)
    report("gateway", measure(options.quick), options.json)


if __name__ == "__main__":
    main()
