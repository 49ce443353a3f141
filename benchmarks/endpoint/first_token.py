"""What the wait for the payment costs: time to the first token of an offloaded request.

An executor sends nothing before the hold is final, unless the payer has credit because it has paid before. Eight nodes
with modelled GPUs serve Poisson requests twice, from one seed: as they are, and with credit for every payer from the
beginning, so that no answer waits for its payment. Blocks are as far apart as those of a node by default. Times are
simulated, and the same on every machine.
"""

from __future__ import annotations

import logging

import structlog

from benchmarks.network.shared_ledger import run_nodes
from benchmarks.network.simulation import Outcome, Simulation
from benchmarks.pictures import Chart, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from consensus.engine import Settings
from serving.accounting.payment_history import MAX_ALLOWANCE

NODES, RATE, CAPACITY = 8, 0.5, 4
UNLIMITED = 1 << 60
"""Micro-credits that each payer counts as having paid, where all have credit."""


def simulate(seed: int, duration: float, has_credit: bool) -> Outcome:
    """Run one simulation; ``has_credit``: no executor waits for a payment."""
    simulation = Simulation(seed, NODES, duration, RATE, CAPACITY, Settings().block_spacing_s)
    if has_credit:
        for executor in simulation.nodes:
            for payer in simulation.nodes:
                for amount in (UNLIMITED, *[0] * MAX_ALLOWANCE):
                    executor.payments.payee.history.note_payment(payer.key.public_key, amount)
    return run_nodes(seed, simulation.run)


def split(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Times of each originator's first request to each executor, and of all later ones."""
    first = [times[0] for times in outcome.first_tokens.values()]
    later = [time for times in outcome.first_tokens.values() for time in times[1:]]
    return first, later


def measure(seed: int, duration: float) -> tuple[list[Figure], list[Chart]]:
    """Run both simulations, of ``duration`` simulated seconds each."""
    waiting, trusting = (simulate(seed, duration, has_credit) for has_credit in (False, True))
    kinds = ("first request to an executor", "later requests")
    figures = []
    for name, times, reference in zip(kinds, split(waiting), split(trusting), strict=True):
        figures.append(Figure(f"{name}, number", len(times), "requests"))
        for percent in (50, 99):
            value, least = (1000 * get_percentile(found, percent) for found in (times, reference))
            headline = f"offloaded: time to the first token, {name}, p50" if percent == 50 else ""
            figures.append(Figure(f"{name}, p{percent}", value, "ms", least, "without the wait", headline=headline))
    curves = [
        make_cumulative(name, [1000 * time for times in split(outcome) for time in times])
        for name, outcome in (("waiting for payments", waiting), ("with credit", trusting))
    ]
    chart = Chart("Time to the first token", "simulated milliseconds", "share of requests", tuple(curves))
    return figures, [chart]


def main() -> None:
    """Command line."""
    run = Run(
        "first_token",
        __doc__,
        Option("minutes", 5.0, 0.5, "simulated minutes of requests, in each of the two simulations"),
        is_timed=False,
    )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    run.finish(*measure(run.seed, 60 * run.values["minutes"]))


if __name__ == "__main__":
    main()
