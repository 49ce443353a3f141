"""What becomes of requests that meet a fault: the matrix of faults, in simulated time.

Each fault of a backend, from a 503 to a tool call that is cut in its arguments, is met once by a request: at a node
with a second backend, at an executor while another is in reach, and at a node's own backend while an executor is in
reach; streamed and not. A request is *rescued* if its user gets a whole answer of one that was not cut, and
*continued* if another went on with what its user had got of one that was; it is answered *as sent* where
nothing is wrong with what the backend sent, or no other is to be asked; else it ends in an error that clients see as
one. The run fails if one is paid twice, hangs, or leaves a hold, a slot or a task behind. Times are simulated, and
the same on every machine.
"""

from __future__ import annotations

import logging

import structlog

from benchmarks.pictures import Chart, make_cumulative
from benchmarks.report import Figure, Option, Run
from tests.support.market.fault_matrix import PLACES, Place, Row, play_column
from tests.support.market_world import World, simulate


def play(place: Place, stream: bool) -> list[Row]:
    """One column of the matrix."""
    rows: list[Row] = []

    async def run(world: World) -> None:
        rows.extend(await play_column(world, place, stream))

    simulate(run, place.options())
    return rows


def measure(places: int) -> tuple[list[Figure], list[Chart]]:
    """All columns of the first ``places`` places."""
    figures, curves = [], []
    for place in PLACES[:places]:
        for stream in (True, False):
            rows, name = play(place, stream), f"{place.name}, {'streamed' if stream else 'not streamed'}"
            for verdict in ("rescued", "continued", "as sent", "safe"):
                count = sum(row.verdict == verdict for row in rows)
                label = "a safe error" if verdict == "safe" else verdict
                is_shown = verdict == "rescued" and stream and place is PLACES[-1]
                headline = "faults of a node's own backend that a peer rescues, streamed" if is_shown else ""
                figures.append(Figure(f"{name}: {label}", count, "faults", len(rows), "all", headline=headline))
            figures.append(Figure(f"{name}: longest until its user knows", max(row.seconds for row in rows), "s"))
            curves.append(make_cumulative(name, [row.seconds for row in rows]))
    return figures, [Chart("Until the user knows", "simulated seconds", "share of faults", tuple(curves))]


def main() -> None:
    """Command line."""
    run = Run("failover", __doc__, Option("places", len(PLACES), 1, "places where the fault is"), is_timed=False)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    run.finish(*measure(run.values["places"]))


if __name__ == "__main__":
    main()
