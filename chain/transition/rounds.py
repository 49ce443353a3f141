"""Rounds: when a change of who serves comes into force, and what the draws of executors come from.

Heights 1 to R are round 0, and so on; an epoch is a whole number of rounds. A *serving period* is a run of rounds with
one serving table and one source of draws. A new period begins two rounds after an account changed what it serves, or
its bond while it serves. One also begins with every epoch, so that no draws are known for long. The table is frozen at
the end of the round with the change. The source of draws is the beacon after the round that follows, which does not
exist yet at that time.

A round in which nothing changed costs nothing: no table is computed, and none is written.
"""

from __future__ import annotations

from dataclasses import replace

from chain.genesis import Genesis, compute_serving_table
from chain.parameters.parameters import Parameters
from chain.state.keys import ACCOUNT_PREFIX, PERIODS_KEY, table_key
from chain.state.lottery import ServingPeriod, ServingPeriods
from chain.state.state import State, StateOverlay, StateReader, make_serving_entry


def get_round(parameters: Parameters, height: int) -> int:
    """The round of a height: heights 1 to R are round 0 (and so is genesis, height 0)."""
    return max(0, height - 1) // parameters.round_heights


def get_period(parameters: Parameters, state: StateReader, height: int) -> ServingPeriod:
    """The serving period that the block of ``height`` is in; ``state`` is the one after it."""
    number = get_round(parameters, height)
    return next(period for period in reversed(state.serving_periods.periods) if period.first_round <= number)


def is_change_pending(genesis: Genesis, state: StateReader, height: int) -> bool:
    """Whether a change of who serves waits to come into force, in the block of ``height`` that comes next."""
    changed_in = state.serving_periods.changed_in
    return changed_in is not None and get_round(genesis.parameters, height) <= changed_in + 1


def note_serving_changes(overlay: StateOverlay, before: StateReader, genesis: Genesis, height: int) -> None:
    """Note whether a block changed what an account serves, or the bond of an account that serves."""
    number, periods = get_round(genesis.parameters, height), overlay.serving_periods
    if periods.changed_in == number:
        return
    for key, after in overlay.changes.items():
        if key[:1] != ACCOUNT_PREFIX:
            continue
        if make_serving_entry(key[1:], before.get(key)) != make_serving_entry(key[1:], after):
            overlay.put(PERIODS_KEY, replace(periods, changed_in=number))
            return


def process_round(overlay: StateOverlay, state: State, genesis: Genesis, height: int) -> None:
    """Everything that happens after the last block of a round; ``state`` is that after the block, of ``height``."""
    parameters, before = genesis.parameters, overlay.serving_periods
    number, periods = get_round(parameters, height), list(before.periods)
    while len(periods) > 1 and periods[1].first_round <= number:  # it ended before this round
        overlay.put(table_key(periods.pop(0).first_round), None)
    for place, period in enumerate(periods):
        if period.first_round == number + 1:
            periods[place] = replace(period, source=overlay.beacon.value)
    begins_epoch = (number + 2) * parameters.round_heights % parameters.epoch_heights == 0
    if before.changed_in == number or begins_epoch:
        overlay.put(table_key(number + 2), compute_serving_table(state, parameters, overlay.beacon.value))
        periods.append(ServingPeriod(number + 2, None))
    after = ServingPeriods(before.changed_in, tuple(periods))
    if after != before:
        overlay.put(PERIODS_KEY, after)
