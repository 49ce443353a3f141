"""What gets into an engine: each signature checked once, rates per sender, and nothing before a vote."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import trio

from chain import crypto
from chain.exceptions import InvalidSignature
from chain.types.operations import Register, SignedOperation, Transfer, sign_operation
from chain.types.votes import NO_BLOCK, VoteKind, sign_vote
from consensus.engine import QUEUE_EVENTS
from consensus.network.committee_streams import COMMITTEE_PROTOCOL
from consensus.network.gossip import MAX_BATCH_BYTES, TOPIC_LIMITS, Batch, TopicRateLimiter, get_topic
from consensus.simplex.messages import FORWARDED_KIND, encode_message
from p2p.limits.rate_limit import PENALTY_S
from p2p.network import GossipMessage
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchanges import Streams
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

FOUR = (1, 2, 3, 4)
USERS = tuple(range(5, 15))
ONE, TWO, STRANGER, NEIGHBOUR = (make_key(number).public_key for number in (1, 2, 90, 91))


class Verifications:
    """Counts how often the signature of each operation is checked, in all nodes together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[bytes] = Counter()
        verify = crypto.verify

        def count(public_key: bytes, domain: str, chain_id: bytes, message: bytes, signature: bytes) -> bool:
            if domain == "operation":
                self.count[signature] += 1
            return verify(public_key, domain, chain_id, message, signature)

        monkeypatch.setattr("chain.crypto.verify", count)


@pytest.mark.parametrize("loss", [0.0, 0.5])
@pytest.mark.parametrize("count", [3, 50])
def test_a_node_checks_a_signature_once_however_the_operation_comes(
    monkeypatch: pytest.MonkeyPatch, count: int, loss: float
) -> None:
    """By gossip (which may be lost), over a link, in a whole or a compact proposal, in a block, and again later."""
    verifications = Verifications(monkeypatch)

    async def play(world: World) -> None:
        await world.start(*FOUR, USERS[0])
        operations = [world.transfer(user, 2, 1) for user in USERS for _ in range(count)]
        async with trio.open_nursery() as nursery:
            for index, operation in enumerate(operations):
                nursery.start_soon(world.engine(index % 4 + 1).submit, operation)
        for number in (*FOUR, USERS[0]):
            for operation in operations:
                await world.engine(number).wait_final(operation.id, 60.0)
        for engine in world.engines:
            await engine._ingress.take(STRANGER, NEIGHBOUR, Batch(tuple(o.encoded for o in operations)).encode())
        nodes = len(world.engines)
        checks = [verifications.count[operation.signature] for operation in operations]
        assert max(checks) <= nodes and min(checks) >= 1

    simulate(make_equal_genesis(4, others=len(USERS)), play, loss=loss)


def test_a_signature_is_checked_once_if_copies_come_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    verifications = Verifications(monkeypatch)

    async def play(world: World) -> None:
        (engine,) = await world.start(1)
        operation = world.transfer(5, 2, 1)
        payload = Batch((operation.encoded, operation.encoded)).encode()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(engine._ingress.take, STRANGER, NEIGHBOUR, payload)
        assert verifications.count[operation.signature] == 1
        await engine.wait_final(operation.id, 10.0)

    simulate(make_equal_genesis(1, others=len(USERS)), play)


def test_a_forged_batch_costs_its_sender_and_hardly_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    verifications = Verifications(monkeypatch)

    async def play(world: World) -> None:
        (engine,) = await world.start(1)
        network = SimulatedNetwork(world.hub, STRANGER)
        world.hub.connect_all()

        def forge(nonce: int, amount: int) -> bytes:
            real = sign_operation(make_key(90), world.genesis.chain_id, Transfer(nonce, ONE, amount))
            return SignedOperation(real.operation, make_key(5).public_key, real.signature).encoded

        topic = get_topic(world.genesis.chain_id, "ops")
        for amount in range(20):
            batch = Batch(tuple(forge(nonce, amount) for nonce in range(64)) * 4)
            await network.publish(topic, batch.encode())
            await trio.sleep(0.1)
        assert 0 < sum(verifications.count.values()) <= 64
        assert engine._receiver._rate_limits["ops"].dropped == 19
        await trio.sleep(PENALTY_S)  # then it may try again
        good = world.transfer(6, 2, 1)
        await network.publish(topic, Batch((good.encoded,)).encode())
        await engine.wait_final(good.id, 10.0)

    simulate(make_equal_genesis(1, others=len(USERS)), play)


def test_what_was_found_forged_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    verifications = Verifications(monkeypatch)

    async def play(world: World) -> None:
        (engine,) = await world.start(1)
        real = world.transfer(5, 2, 1)
        forged = SignedOperation(real.operation, real.signer, bytes(64))
        for _ in range(5):
            with pytest.raises(InvalidSignature):
                await engine._ingress.take(STRANGER, NEIGHBOUR, Batch((forged.encoded, real.encoded)).encode())
        assert verifications.count[bytes(64)] == 1 and engine.status().mempool_operations <= 1

    simulate(make_equal_genesis(1, others=len(USERS)), play)


def test_proofs_of_work_that_cannot_be_looked_at_yet_do_not_wait_for_the_moment_when_they_can() -> None:
    """They cost nothing to make up, and all of them would be computed by the loop that has to vote, in a new epoch."""

    async def play(world: World) -> None:
        (engine,) = await world.start(1)
        for epoch in (1, 9):
            batch = [
                sign_operation(make_key(number), world.genesis.chain_id, Register(epoch, bytes(16), ()))
                for number in range(100, 140)
            ]
            await engine._ingress.take(STRANGER, NEIGHBOUR, Batch(tuple(o.encoded for o in batch)).encode())
            await trio.sleep(5.0)
        assert engine.status().mempool_operations == 0

    genesis = make_equal_genesis(1, others=len(USERS))
    simulate(replace(genesis, parameters=replace(genesis.parameters, register_grant=1000)), play)


def test_operations_longer_than_any_are_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(world: World) -> None:
        (engine,) = await world.start(1)
        decoded: list[int] = []
        monkeypatch.setattr(SignedOperation, "decode", classmethod(lambda cls, raw: decoded.append(len(raw))))
        await engine._receiver.on_committee_message(TWO, b"")
        message = GossipMessage("ops", STRANGER, Batch((bytes(MAX_BATCH_BYTES - 100),)).encode())
        with pytest.raises(Exception, match="an operation of"):
            await engine._receiver._on_ops(message)
        assert not decoded

    simulate(make_equal_genesis(1, others=1), play)


def test_a_noisy_member_delays_the_votes_of_others_by_no_more_than_its_turns() -> None:
    """A validator floods another with messages that each must be looked at, and with batches to be verified."""

    async def play(world: World) -> None:
        await world.start(1, 2, 3)
        engine = world.engine(1)
        noisy = Streams(SimulatedNetwork(world.hub, make_key(4).public_key))
        world.nursery.start_soon(noisy.run)
        world.hub.connect_all()
        chain_id = world.genesis.chain_id
        sent = 0

        async def shout() -> None:
            nonlocal sent
            async with noisy.open(ONE, COMMITTEE_PROTOCOL) as exchange:
                while True:
                    votes = tuple(
                        encode_message(sign_vote(make_key(4), chain_id, VoteKind.NULLIFY, 0, view, NO_BLOCK))
                        for view in range(10**6 + sent, 10**6 + sent + 100)
                    )
                    await exchange.send(Batch(votes).encode())
                    await exchange.send(Batch((FORWARDED_KIND + Batch((b"junk",)).encode(),)).encode())
                    sent += 100
                    await trio.sleep(0.1)

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(shout)
                for _ in range(5):
                    operation = world.transfer(5, 2, 1)
                    await engine.submit(operation)
                    await engine.wait_final(operation.id, 30.0)
                    queues = engine._events._queues
                    assert all(len(queue.items) <= QUEUE_EVENTS for queue in queues.values())
                scope.cancel()
        assert sent > 0
        # Junk among what it forwarded, for which it is not heard.
        assert engine._receiver._rate_limits["ops"].dropped > 0

    simulate(make_equal_genesis(4, others=len(USERS)), play)


def test_gates_know_members_strangers_and_neighbours() -> None:
    gate = TopicRateLimiter(TOPIC_LIMITS["ops"], lambda peer: peer in (ONE, TWO))
    size = 32 * 1024
    assert sum(gate.admit(STRANGER, NEIGHBOUR, size, 0.0) for _ in range(1_000)) == 16  # 128 KiB/s for 4 s
    names = [b"name" + number.to_bytes(28, "big") for number in range(1_000)]
    # A neighbour may bring what all strangers may, and new names gain nothing.
    assert sum(gate.admit(name, NEIGHBOUR, size, 0.0) for name in names) == 16
    # Members are heard all the same, each as far as its own rate goes.
    assert sum(gate.admit(ONE, NEIGHBOUR, size, 0.0) for _ in range(1_000)) == 64
    assert gate.admit(TWO, NEIGHBOUR, size, 0.0)
    assert gate.dropped == (1_000 - 16) + (1_000 - 16) + (1_000 - 64)


def test_senders_with_credit_share_a_rate_that_no_stranger_uses_up() -> None:
    payers = [b"payer" + number.to_bytes(27, "big") for number in range(40)]
    gate = TopicRateLimiter(TOPIC_LIMITS["ops"], lambda peer: False, lambda peer: peer in payers)
    for second in range(30):
        for number in range(400):
            now = second + number / 400
            gate.admit(second.to_bytes(4) + number.to_bytes(28, "big"), NEIGHBOUR, 145, now)
            gate.admit(payers[number % 39], NEIGHBOUR, 145, now)
        if second > 10:
            assert gate.admit(payers[39], NEIGHBOUR, 145, second + 1.0), "its share is its own"
    gate.punish(payers[0], 30.0)
    assert not gate.admit(payers[0], NEIGHBOUR, 145, 31.0) and gate.admit(payers[39], NEIGHBOUR, 145, 32.0)


def test_certificates_of_members_are_never_refused_unless_one_was_forged() -> None:
    gate = TopicRateLimiter(TOPIC_LIMITS["certs"], lambda peer: peer in (ONE, TWO))
    assert all(gate.admit(peer, NEIGHBOUR, 100_000, 0.0) for _ in range(1_000) for peer in (ONE, TWO))
    gate.punish(ONE, 0.0)
    assert not gate.admit(ONE, NEIGHBOUR, 1, 1.0) and gate.admit(TWO, NEIGHBOUR, 1, 1.0)
    assert gate.admit(ONE, NEIGHBOUR, 1, PENALTY_S + 1.0)
