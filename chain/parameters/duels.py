"""The parameters of duels: how often, by how many judges, how long each stage takes, and what is at stake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Record
from chain.types.duels import MAX_CHALLENGERS, MAX_JUDGES

Share = Annotated[int, Bounds(0, 1_000_000)]
"""Thousandths of the amount that was captured for the answer that a duel is about."""

MIN_DRAW_DELAY = 8
"""Blocks after a capture until its deciding block is drawn."""
DRAW_DELAYS = 32
"""Blocks among which the deciding one is drawn."""
MAX_DRAW_HEIGHTS = MIN_DRAW_DELAY + DRAW_DELAYS
"""Blocks from a capture until its duel is open, or known not to be, at most."""

StageTime = Annotated[int, Bounds(1, 2**53)]
"""Milliseconds of chain time."""

DEFAULT_RATE = 50
"""The rate that the default fines are made for."""


@dataclass(frozen=True, slots=True)
class DuelParameters(Record):
    """What a duel costs and brings. Shares are thousandths of the amount captured.

    Of 1,000 captures ``rate`` become a duel. It has ``judges``, or the largest odd number of them that there is. The
    stages last ``answer_ms``, ``commit_ms`` (once more where votes are repeated) and ``reveal_ms`` at most; a block
    ends ``max_deadlines`` overdue ones of each kind and leaves the rest to the next.

    ``lock`` of the executor's bond stands behind its answer meanwhile. The executor earns ``executor_won`` or pays
    ``executor_lost``; a challenger earns ``challenger``, or ``challenger_lost`` if the executor was better; a judge
    earns ``judge`` with the majority, a quarter of it in a tie. A challenger without an answer and a judge without a
    ballot pay ``silence``, an executor whose request or answer could not be obtained ``void``. An executor whose answer
    two panels call unusable pays ``fraud``, and proportionally less if its answers are drawn more often. ``levy`` times
    the rate is what each capture pays for all this.

    Of 1,000 votes ``repeat_rate`` are repeated by another account with an equal judge. An account whose votes differ
    too often (:mod:`chain.state.judge_records`) pays ``guessing``, and cannot judge for ``bench_ms``. Judges are drawn
    from kinds that have ``min_judge_share`` thousandths of the stake of all judges.

    An account on *probation* has the rate ``probation_rate`` if that is higher. Probation lasts for the first
    ``probation_duels``. It also follows a fraud, until duels were about that many times the weight of the fraud. An
    executor that loses more than it wins is drawn by a share of its stake: the odds of its winning, raised to
    ``exposure_exponent`` (:mod:`chain.state.ratings`).
    """

    rate: Annotated[int, Bounds(0, 1_000)] = 0
    judges: Annotated[int, Bounds(1, MAX_JUDGES)] = 3
    answer_ms: StageTime = 120_000
    commit_ms: StageTime = 60_000
    reveal_ms: StageTime = 30_000
    max_deadlines: Annotated[int, Bounds(1, 65_536)] = 1_024
    lock: Share = 20_000
    executor_won: Share = 250
    executor_lost: Share = 500
    challenger: Share = 1_000
    challenger_lost: Share = 600
    judge: Share = 350
    silence: Share = 500
    void: Share = 2_000
    fraud: Share = 20_000
    levy: Share = 1_750
    probation_duels: Annotated[int, Bounds(0, 1_000)] = 8
    probation_rate: Annotated[int, Bounds(0, 1_000)] = 500
    exposure_exponent: Annotated[int, Bounds(0, 4)] = 3
    repeat_rate: Annotated[int, Bounds(0, 1_000)] = 150
    guessing: Share = 90_000
    bench_ms: StageTime = 86_400_000
    min_judge_share: Annotated[int, Bounds(0, 1_000)] = 200

    @property
    def longest_ms(self) -> int:
        """The longest time from the first stage to the last verdict, with every challenger but the last silent."""
        return MAX_CHALLENGERS * self.answer_ms + 2 * (2 * self.commit_ms + self.reveal_ms)


NO_DUELS = DuelParameters()
"""Those of a chain on which no answer is compared."""
