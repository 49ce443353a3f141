"""A peer that makes others check invented proofs of work: under ever new names, through one neighbour."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.crypto import KeyPair, hash_bytes
from chain.genesis import Genesis
from chain.parameters.parameters import CREDIT
from chain.types.operations import Register, SignedOperation, sign_operation
from consensus.network import ingress as admission
from consensus.network.gossip import Batch
from p2p.network import GossipMessage
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

PLAIN = make_equal_genesis(1, others=3)
GENESIS: Genesis = replace(
    PLAIN, parameters=replace(PLAIN.parameters, register_grant=CREDIT, register_cap=10, register_difficulty=8)
)
SECONDS = 20
STAKED, SYBIL = make_key(2).public_key, make_key(99).public_key
GOOD = bytes([1]) * 16


class Proofs:
    """Stands in for what is slow: a proof is good if its salt is ``GOOD``. ``checked`` says when each was looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checked: list[float] = []
        monkeypatch.setattr(admission, "has_valid_proof_of_work", self._check)
        monkeypatch.setattr(
            "chain.transition.validators.registration.is_valid_proof_of_work",
            lambda challenge, salt, difficulty: salt == GOOD,
        )

    def _check(self, genesis: Genesis, state: object, signed: SignedOperation) -> bool:
        assert isinstance(signed.operation, Register)
        self.checked.append(trio.current_time())
        return signed.operation.salt == GOOD


def make_registration(number: int, salt: bytes = bytes(16)) -> tuple[bytes, SignedOperation]:
    key = KeyPair(hash_bytes("sybil", number.to_bytes(8, "big")))
    return key.public_key, sign_operation(key, GENESIS.chain_id, Register(0, salt, ()))


def test_a_flood_of_proofs_costs_a_few_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes with them or from others does not wait: nor does a newcomer whose neighbour has a stake."""
    proofs = Proofs(monkeypatch)

    async def play(world: World) -> None:
        [engine] = await world.start(1)

        async def gossip(sender: bytes, neighbour: bytes, *operations: SignedOperation) -> None:
            payload = Batch(tuple(operation.encoded for operation in operations)).encode()
            await engine._receiver._on_ops(GossipMessage("ops", sender, payload, neighbour))

        start = trio.current_time()
        for number in range(50 * SECONDS):
            sender, forged = make_registration(number)
            payment = [world.transfer(3, 2, 1)] if number % 100 == 0 else []
            before = trio.current_time()
            await gossip(sender, SYBIL, forged, *payment)
            assert trio.current_time() == before
            assert all(operation.id in engine._mempool for operation in payment)
            if number == 500:
                newcomer, registration = make_registration(10**6, GOOD)
                await gossip(newcomer, STAKED, registration)
            await trio.sleep(0.02)
        assert len(proofs.checked) <= 3 * SECONDS
        assert len([when for when in proofs.checked if when > start + 4.0]) <= 2 * SECONDS
        assert engine.state.account(newcomer).grant == CREDIT

    simulate(GENESIS, play)


def test_the_sender_of_an_invalid_proof_is_not_heard_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = Proofs(monkeypatch)

    async def play(world: World) -> None:
        [engine] = await world.start(1)
        sender, forged = make_registration(0)
        payload = Batch((forged.encoded,)).encode()
        await engine._receiver._on_ops(GossipMessage("ops", sender, payload, SYBIL))
        await trio.sleep(1.0)
        assert len(proofs.checked) == 1
        assert not engine._receiver._rate_limits["ops"].admit(sender, SYBIL, 100, trio.current_time())

    simulate(GENESIS, play)
