"""The pace of a chain: intervals, views that brought no block, and those that a validator should have led."""

from __future__ import annotations

from chain.types.blocks import MAX_NULLIFICATIONS
from consensus.pace import Pace
from tests.support.chain_builder import Chain


def test_each_block_counts_what_lies_before_it() -> None:
    chain = Chain()
    height = chain.genesis.parameters.epoch_heights
    everybody = [validator.public_key for validator in chain.validators]
    paces = [Pace(chain.head, key) for key in (*everybody, b"")]
    led = dict.fromkeys(everybody, 0)
    skips = [0, 3, MAX_NULLIFICATIONS + 5, *([1] * height)]  # into the next epoch, where views begin at 1 again
    for number, skipped in enumerate(skips):
        epoch, before = chain.epoch, chain.head
        first = before.view + 1 if chain.blocks and before.epoch == epoch.number else 1
        for view in range(first, first + skipped)[-MAX_NULLIFICATIONS:]:
            led[epoch.compute_leader(view)] += 1
        block = chain.append(skipped=skipped, elapsed=2_000 if number else 500)
        for pace in paces:
            pace.note(block, epoch)
    assert {pace.skipped_views for pace in paces} == {sum(skips)}
    assert [pace.missed_leads for pace in paces] == [*led.values(), 0] and min(led.values()) > 0
    assert paces[0].intervals.count == len(skips) and paces[0].intervals.sum == 0.5 + 2 * (len(skips) - 1)
    assert paces[0].intervals.count_above(0.5) == len(skips) - 1


def test_after_a_leap_it_goes_on_from_where_that_ends() -> None:
    chain = Chain()
    pace = Pace(chain.head, b"")
    for _ in range(3):
        last = chain.append(elapsed=60_000)
    pace.go_on_from(last.header)
    epoch = chain.epoch
    pace.note(chain.append(), epoch)
    assert (pace.intervals.sum, pace.skipped_views) == (1, 0)
