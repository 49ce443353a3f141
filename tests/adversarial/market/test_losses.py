"""What each side of a hold can lose: every row of the table in docs/protocol.md is played, and the books compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from chain.crypto import KeyPair
from chain.transition.fees import compute_fee
from chain.types.operations import CaptureItem, Delivery, Dispute, Release, SignedOperation
from tests.support.chain_builder import Chain
from tests.support.chains.newcomers import GRANT, GRANTING, register
from tests.support.keys import make_key
from tests.support.market.cheating_executor import capture_all, deliver_nothing, plant
from tests.support.market_world import Options, World, ask, get_script, make_request, simulate
from tests.support.waiting import eventually

PROTOCOL = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"
HELD, DELIVERED = 5_000, 3_000
"""H and C of the rows that are played on a chain alone, in micro-credits."""


def read_table() -> dict[tuple[str, str], tuple[str, str]]:
    """By payer and executor: what becomes of both accounts."""
    table = PROTOCOL.read_text(encoding="utf-8").split("| payer | executor | payer's account |")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    return {(payer, executor): (of_payer, of_executor) for payer, executor, of_payer, of_executor, _ in cells}


ROWS = read_table()


@dataclass(frozen=True)
class Books:
    """What became of both accounts, fees aside, and what H and C were."""

    payer: int
    executor: int
    held: int = HELD
    delivered: int = DELIVERED

    def describe(self) -> tuple[str, str]:
        """As the table says it."""
        names = {0: "0", self.delivered: "C", self.held: "H"}
        return self._name(self.payer, names), self._name(self.executor, names)

    def _name(self, change: int, names: dict[int, str]) -> str:
        name = names.get(abs(change), str(change))
        return name if not change else ("−" if change < 0 else "+") + name


Step = Callable[["Match"], None]


class Match:
    """One hold between two accounts on a chain, whose other blocks are empty."""

    def __init__(self, chain: Chain, payer: KeyPair, executor: KeyPair, held: int = HELD) -> None:
        self.chain, self.payer, self.executor = chain, payer, executor
        self.delivered = min(DELIVERED, held)
        self.held = held
        self._fees = dict.fromkeys((payer.public_key, executor.public_key), 0)
        self._before = [chain.account(key).total for key in (payer, executor)]
        self.do(chain.hold(payer, 0, amount=held, lifetime=20_000))

    def do(self, signed: SignedOperation, elapsed: int = 100) -> None:
        self.chain.append([signed], elapsed=elapsed)
        assert self.chain.failures[-1] == (None,)
        if signed.signer in self._fees:
            self._fees[signed.signer] += compute_fee(self.chain.genesis, signed)

    def deliver(self, amount: int) -> Delivery:
        return self.chain.delivery(self.payer, 0, amount=amount)

    def capture(self, item: CaptureItem | Delivery) -> None:
        self.do(self.chain.capture(self.executor, item))

    def capture_with_receipt(self) -> None:
        self.capture(self.chain.receipt(self.payer, self.deliver(self.delivered)))

    def dispute(self) -> None:
        self.do(self.chain.sign(self.payer, Dispute(self.chain.find_hold_id(self.payer, 0))))

    def wait(self) -> None:
        """Until the grace time is over."""
        self.chain.append(elapsed=self.chain.genesis.parameters.capture_grace_ms)

    def release(self) -> None:
        """By a stranger, after the deadline."""
        while self.chain.head.chain_time <= 20_200:
            self.chain.append(elapsed=10_000)
        self.do(self.chain.sign(self.chain.users[1], Release(self.chain.find_hold_id(self.payer, 0))))

    def close(self) -> Books:
        assert self.chain.state.hold(self.chain.find_hold_id(self.payer, 0)) is None, "the hold is still open"
        changes = [
            self.chain.account(key).total - before + self._fees[key.public_key]
            for key, before in zip((self.payer, self.executor), self._before, strict=True)
        ]
        return Books(*changes, self.held, self.delivered)


def play(*steps: Step) -> Books:
    """Play steps on a chain with one executor, whose bond is its own."""
    chain = Chain(validators=1)
    match = Match(chain, chain.users[0], chain.validators[0])
    for step in steps:
        step(match)
    return match.close()


def play_with_a_grant() -> Books:
    """The executor owns nothing but what it was granted, and is given no receipt."""
    chain, newcomer = Chain(parameters=replace(GRANTING, newcomer_share=1_000)), make_key("newcomer")
    chain.keys[newcomer.public_key] = newcomer
    chain.append([register(chain, newcomer)])
    chain.append_epochs(2)
    match = Match(chain, chain.users[0], newcomer, GRANT)
    capture = chain.capture(newcomer, match.deliver(GRANT))
    _, _, rejected = chain.propose([capture])
    assert [signed for signed, _ in rejected] == [capture]
    match.release()
    return match.close()


def capture(amount: int) -> Step:
    return lambda match: match.capture(match.deliver(amount))


RECEIPT, DISPUTE, WAIT, RELEASE = Match.capture_with_receipt, Match.dispute, Match.wait, Match.release

ON_A_CHAIN: dict[tuple[str, str], Callable[[], Books]] = {
    ("honest", "honest"): lambda: play(RECEIPT),
    ("honest", "delivers nothing, and refunds"): lambda: play(capture(0)),
    ("honest", "delivers nothing, and captures H"): lambda: play(capture(HELD), DISPUTE),
    ("honest", "delivers C, and captures H"): lambda: play(capture(HELD), DISPUTE),
    ("honest", "goes away"): lambda: play(RELEASE),
    ("silent", "honest"): lambda: play(capture(DELIVERED), WAIT),
    ("silent", "delivers C, and captures H"): lambda: play(capture(HELD), WAIT),
    ("lying", "honest"): lambda: play(capture(DELIVERED), DISPUTE),
    ("lying", "has a grant alone"): play_with_a_grant,
    ("lying", "goes away"): lambda: play(RELEASE),
    ("offline", "honest"): lambda: play(capture(DELIVERED), WAIT),
    ("offline", "delivers nothing, and captures H"): lambda: play(capture(HELD), WAIT),
}


def restart_and_be_captured(is_honest: bool) -> Books:
    """Between nodes: the payer's is restarted in the middle of an answer, and finds its own way from there."""
    books = Books(0, 0)

    async def act(world: World) -> None:
        nonlocal books
        payer, executor = world.members[1], world.drawn(1)[0]
        get_script(executor).tokens = 200

        deals = [] if is_honest else plant(world, executor, deliver_nothing)
        before = [world.account(member.number).total for member in (payer, executor)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, payer.node, make_request(max_tokens=1_000))
            await trio.sleep(5)
            (hold,) = world.open_holds()
            await world.kill(1)
            nursery.cancel_scope.cancel()
        await world.start(1)
        for deal in deals:
            await capture_all(deal)
        await eventually(lambda: not world.open_holds(), 120)
        changes = [
            world.account(member.number).total - former + sum_fees(world, member.public_key)
            for member, former in zip((payer, executor), before, strict=True)
        ]
        (item,) = world.captured
        assert item.receipt is None
        books = Books(*changes, hold.amount, item.delivery.amount if is_honest else DELIVERED)
        executor.node.payments.payee._served.clear()

    simulate(act, Options(gateways=(0, 1), executors=1, parameters={"capture_grace_ms": 5_000}))
    return books


def sum_fees(world: World, signer: bytes) -> int:
    """The fees of an account's operations that are final."""
    store = world.state_node.engine._store
    blocks = [store.block(height) for height in range(1, store.height + 1)]
    signed = [each for block in blocks if block is not None for each in block.body.operations]
    return sum(compute_fee(world.genesis, each) for each in signed if each.signer == signer)


BETWEEN_NODES: dict[tuple[str, str], Callable[[], Books]] = {
    ("restarted", "honest"): lambda: restart_and_be_captured(is_honest=True),
    ("restarted", "delivers nothing, and captures H"): lambda: restart_and_be_captured(is_honest=False),
}


@pytest.mark.parametrize("row", ROWS, ids=" - ".join)
def test_each_side_loses_what_the_document_says(row: tuple[str, str]) -> None:
    books = (ON_A_CHAIN | BETWEEN_NODES)[row]()
    assert books.describe() == ROWS[row]


def test_every_row_that_is_played_is_in_the_document() -> None:
    assert set(ON_A_CHAIN | BETWEEN_NODES) == set(ROWS)


def test_no_lie_costs_the_other_more_than_the_liar() -> None:
    """But for a payer that is not there to dispute, or does not care to."""
    for (payer, executor), (of_payer, of_executor) in ROWS.items():
        if "captures H" in executor and payer not in ("silent", "offline"):
            assert of_payer == of_executor == "−H"
        if payer == "lying":
            assert of_payer == of_executor
