"""Statistics of the executor lottery: how many draws each payer skipped, and how many chance would explain."""

from __future__ import annotations

from dataclasses import dataclass

from chain.parameters.parameters import Parameters
from chain.state.records import REPLAY_WINDOW_SIZE, ReplayWindow
from chain.state.state import State
from chain.transition.deposits import compute_forfeit
from chain.transition.payments import get_executor
from chain.types.blocks import Block
from chain.types.operations import Hold


@dataclass(slots=True)
class PayerDraws:
    """How a payer used the lottery.

    Its ``holds``, the attempts it ``skipped`` to make them, and the sequence numbers below its highest that it left
    ``unused``: both are ways around a draw that a payer does not like, and both happen by chance too. ``forfeited`` is
    what it lost for numbers that can not be used any more, in micro-credits. ``expected`` is how many it would have
    skipped by chance, if each executor that it drew had failed it as often as all other payers. It is None if there is
    no other payer.
    """

    holds: int = 0
    skipped: int = 0
    unused: int = 0
    forfeited: int = 0
    expected: float | None = None


class DrawStatistics:
    """How all payers use the lottery, block after block, from the ``base`` state on. Fills ``payers``."""

    def __init__(self, parameters: Parameters, base: State, payers: dict[bytes, PayerDraws]) -> None:
        self._parameters = parameters
        self._base = base
        self._payers = payers
        self._skips = _SkipCounts()
        self._attempts: dict[bytes, dict[int, int]] = {}
        """Per payer and recent sequence number: one more than its highest attempt."""
        self._numbers: dict[bytes, int] = {}
        """Per payer: how many sequence numbers it used, or that lie before the base state."""
        self._windows: dict[bytes, ReplayWindow] = {}
        """Per payer: the numbers that it may still use."""

    def add(self, state: State, block: Block) -> None:
        """Count the holds of a block; ``state`` is the one before it."""
        for signed in block.body.operations:
            if isinstance(signed.operation, Hold):
                self._add_hold(state, signed.signer, signed.operation)

    def _add_hold(self, state: State, payer: bytes, hold: Hold) -> None:
        draws = self._payers.setdefault(payer, PayerDraws())
        draws.holds += 1
        before = self._windows.get(payer) or self._base.replay_window(payer)
        window = self._windows[payer] = before.use(hold.seq, hold.attempt)
        draws.forfeited += compute_forfeit(self._parameters, before, window)
        attempts = self._attempts.setdefault(payer, {})
        if hold.seq not in attempts:
            self._numbers[payer] = 1 + self._numbers.get(payer, self._base.replay_window(payer).top)
            draws.unused = window.top - self._numbers[payer]
        # Lower attempts that have no hold and were not counted as skipped yet.
        seen = attempts.get(hold.seq, 0)
        for attempt in range(seen, hold.attempt):
            drawn = get_executor(state, hold.round, payer, hold.seq, attempt, hold.model)
            assert drawn is not None  # there is one at a later attempt
            self._skips.add(payer, drawn, is_skipped=True)
        self._skips.add(payer, hold.payee, is_skipped=False)
        draws.skipped += max(0, hold.attempt - seen)
        attempts[hold.seq] = max(seen, hold.attempt + 1)
        if len(attempts) > 2 * REPLAY_WINDOW_SIZE:  # numbers further back cannot be used any more
            lowest = window.top - REPLAY_WINDOW_SIZE
            self._attempts[payer] = {seq: made for seq, made in attempts.items() if seq >= lowest}

    def compare_with_chance(self) -> None:
        """Say of each payer how many draws it would have skipped by chance, when all blocks are counted."""
        for payer, expected in self._skips.compute_expected().items():
            self._payers[payer].expected = expected


class _SkipCounts:
    """How often executors were drawn and passed over, of all payers and of each."""

    def __init__(self) -> None:
        self._counts: dict[tuple[bytes | None, bytes | None], list[int]] = {}
        """Draws and skips, by payer and executor; None for all."""

    def add(self, payer: bytes, executor: bytes, is_skipped: bool) -> None:
        """Note one draw."""
        for key in ((payer, executor), (payer, None), (None, executor), (None, None)):
            counts = self._counts.setdefault(key, [0, 0])
            counts[0] += 1
            counts[1] += is_skipped

    def compute_expected(self) -> dict[bytes, float | None]:
        """How many draws each payer would have skipped by chance (:class:`PayerDraws`)."""
        expected: dict[bytes, float | None] = {}
        for (payer, executor), (draws, _) in self._counts.items():
            if payer is None or executor is None:
                continue
            # An executor that no other payer drew is taken to fail as often as the average.
            rate = self._get_rate(payer, executor)
            rate = self._get_rate(payer, None) if rate is None else rate
            before = expected.setdefault(payer, None if rate is None else 0.0)
            expected[payer] = None if rate is None or before is None else before + draws * rate
        return expected

    def _get_rate(self, payer: bytes, executor: bytes | None) -> float | None:
        """Which share of its draws other payers skipped; None if they had none."""
        all_draws, all_skips = self._counts[None, executor]
        draws, skips = self._counts[payer, executor]
        return (all_skips - skips) / (all_draws - draws) if all_draws > draws else None
