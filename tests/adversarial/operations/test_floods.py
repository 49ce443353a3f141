"""Floods of operations: whatever is sent, by however many, honest operations become final within a few blocks.

Real engines on a network in memory, and attackers who gossip as fast as their links take it: Sybil accounts with and
without credit, dust accounts, one rich account, captures of holds that never were, forged signatures, gaps, and
operations as large as they come. Then a mempool alone, filled to its brim without a network before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count, islice

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.state import compute_supply
from chain.types.operations import (
    Capture,
    CaptureItem,
    Delivery,
    Operation,
    Release,
    Serve,
    SignedOperation,
    Transfer,
    Usage,
    sign_operation,
)
from consensus.mempool.pool import MAX_ACCOUNT_BYTES, MAX_NONCED, MAX_UNREADY_WAIT_S, MAX_WAITING_OPERATIONS, Mempool
from consensus.network.committee_streams import COMMITTEE_PROTOCOL
from consensus.network.gossip import MAX_BATCH_BYTES, Batch, get_topic
from consensus.simplex.messages import FORWARDED_KIND
from p2p.network import NetworkError
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from p2p.streams.exchanges import Streams
from tests.consensus.mempool.single_validator import Chain
from tests.support.consensus_world import World, simulate
from tests.support.keys import make_key

VALIDATORS = (1, 2, 3, 4)
FOLLOWER = 5
USERS = (6, 7, 8)
SYBILS = 400
DUST = 600
"""Accounts of the attackers: some that can pay for a hundred operations, some that can pay for one."""
RICH = 9
ATTACKERS = 6
"""Nodes that gossip the flood."""
BLOCKS = 8
"""An honest operation is final so many blocks after the one that was final when it was sent."""
BEFORE, FLOOD, AFTER = 1.5, 2.0, 3.0
"""Seconds before, during and after a flood."""


@cache
def make_sybil(number: int) -> KeyPair:
    return KeyPair(b"sybil" + number.to_bytes(27, "big"))


@cache
def make_flooded_genesis() -> Genesis:
    """Validators and users with 1,000 credits each, a rich attacker with a million, and two thousand Sybils."""
    parameters = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT)
    accounts = [
        make_validator(make_key(number), bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT) for number in VALIDATORS
    ]
    credits = {make_key(number): 1_000 * CREDIT for number in (FOLLOWER, *USERS)} | {make_key(RICH): 10**6 * CREDIT}
    credits |= {make_sybil(number): 20_000 if number < SYBILS else 300 for number in range(SYBILS + DUST)}
    accounts += [GenesisAccount(key.public_key, amount, 0, (), None) for key, amount in credits.items()]
    return make_genesis("floods", SimulatedRuntime.EPOCH_MS, bytes(32), accounts, parameters)


# The floods: endless or not, each yields signed operations.


def sign(key: KeyPair, operation: Operation) -> SignedOperation:
    return sign_operation(key, make_flooded_genesis().chain_id, operation)


def pay(nonce: int, amount: int = 1) -> Transfer:
    return Transfer(nonce, make_key(RICH).public_key, amount)


def flood_funded() -> Iterator[SignedOperation]:
    """Valid transfers, the first of every Sybil, then the second."""
    return (sign(make_sybil(number), pay(nonce)) for nonce in count() for number in range(SYBILS))


def flood_dust() -> Iterator[SignedOperation]:
    """One valid transfer of each account that can pay for no more."""
    return (sign(make_sybil(number), pay(0)) for number in range(SYBILS, SYBILS + DUST))


def flood_unfunded() -> Iterator[SignedOperation]:
    """Transfers of accounts that own nothing."""
    return (sign(make_sybil(10**6 + number), pay(0)) for number in count())


def flood_rich() -> Iterator[SignedOperation]:
    """As many and as large operations as one account may have pending."""
    models = tuple(sorted(f"{number:02}{'x' * 120}" for number in range(16)))
    return (sign(make_key(RICH), Serve(nonce, models)) for nonce in count())


def flood_captures() -> Iterator[SignedOperation]:
    """Captures of holds that never were, by accounts without credit and with: they pay no fee until they succeed."""
    for number in count():
        item = CaptureItem(Delivery(number.to_bytes(32, "big"), 1, bytes(32), Usage(1, 1), "stop"), None)
        yield sign(make_sybil(number * 7919 % 10_000), Capture((item,)))


def flood_releases() -> Iterator[SignedOperation]:
    """Releases of holds that never were."""
    return (sign(make_sybil(number % SYBILS), Release(number.to_bytes(32, "big"))) for number in count())


def flood_gaps() -> Iterator[SignedOperation]:
    """Transfers that wait for a nonce that never comes."""
    return (sign(make_sybil(number), pay(nonce)) for nonce in count(1) for number in range(SYBILS + DUST))


def flood_forged() -> Iterator[SignedOperation]:
    """Transfers of the honest users, signed with another key."""
    for nonce in count():
        for number in USERS:
            forged = sign(make_sybil(0), pay(nonce % MAX_NONCED, 1 + nonce))
            yield SignedOperation(forged.operation, make_key(number).public_key, forged.signature)


FLOODS: dict[str, Callable[[], Iterator[SignedOperation]]] = {
    "funded": flood_funded,
    "dust": flood_dust,
    "unfunded": flood_unfunded,
    "rich": flood_rich,
    "captures": flood_captures,
    "releases": flood_releases,
    "gaps": flood_gaps,
    "forged": flood_forged,
}
GIANT = bytes(MAX_BATCH_BYTES - 100)
"""What is no operation at all, as large as a batch can be."""


# On the network.


class Attack:
    """Attackers who gossip a flood in turns, and one validator's own node that forwards it over the links."""

    def __init__(
        self, world: World, flood: Iterator[SignedOperation], batch: int, giant: bool, insider: KeyPair | None
    ) -> None:
        self._world = world
        self._flood = flood
        self._batch = batch
        self._giant = giant
        self.sent = 0
        keys = [insider or KeyPair(b"attacker" + number.to_bytes(24, "big")) for number in range(ATTACKERS)]
        self._networks = [SimulatedNetwork(world.hub, key.public_key) for key in dict.fromkeys(keys)]
        self._is_insider = insider is not None
        world.hub.connect_all()

    async def run(self) -> None:
        topic = get_topic(self._world.genesis.chain_id, "ops")
        streams = Streams(self._networks[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.run)
            await trio.sleep(0)
            end = trio.current_time() + FLOOD
            while trio.current_time() < end:
                for network in self._networks:
                    operations = list(islice(self._flood, self._batch))
                    self.sent += len(operations)
                    items = (GIANT,) if self._giant else tuple(operation.encoded for operation in operations)
                    if items:
                        payload = Batch(items).encode()
                        await network.publish(topic, payload)
                        if self._is_insider:
                            await self._forward(streams, payload)
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    async def _forward(self, streams: Streams, payload: bytes) -> None:
        try:
            async with streams.open(make_key(1).public_key, COMMITTEE_PROTOCOL) as exchange:
                await exchange.send(Batch((FORWARDED_KIND + payload,)).encode(), end=True)
        except NetworkError:
            pass


async def use(world: World, numbers: Sequence[int], user: int, sent: list[float]) -> None:
    """Send one operation after the other, each through another node, and note when: each is final in a few blocks."""
    recipient = make_key(USERS[0]).public_key
    for nonce in count():
        engine = world.engine(numbers[(user + nonce) % len(numbers)])
        while engine.state.account(make_key(user).public_key).nonce < nonce:
            await trio.sleep(0.05)  # the one before came through another node
        operation = sign(make_key(user), Transfer(nonce, recipient, 1))
        before, now = engine.header.height, trio.current_time()
        await engine.submit(operation)
        height, failure = await engine.wait_final(operation.id, 60.0)
        assert failure is None and height - before <= BLOCKS, f"sent after block {before}, final in block {height}"
        sent.append(now)
        await trio.sleep(0.5)


def play_flood(
    flood: Iterator[SignedOperation],
    batch: int = 5,
    giant: bool = False,
    insider: int | None = None,
    is_refused: bool = False,
) -> None:
    async def play(world: World) -> None:
        numbers = [number for number in (*VALIDATORS, FOLLOWER) if number != insider]
        await world.start(*numbers)
        attack = Attack(world, flood, batch, giant, None if insider is None else make_key(insider))
        sent: dict[int, list[float]] = {user: [] for user in USERS}
        async with trio.open_nursery() as nursery:
            for user in USERS:
                nursery.start_soon(use, world, numbers, user, sent[user])
            await trio.sleep(BEFORE)
            await attack.run()
            await trio.sleep(AFTER)
            nursery.cancel_scope.cancel()
        assert attack.sent
        for times in sent.values():
            phases = [sum(time < BEFORE for time in times), sum(BEFORE <= time < BEFORE + FLOOD for time in times)]
            assert all(phases) and len(times) > sum(phases), "nothing became final before, during or after"
        await trio.sleep(MAX_UNREADY_WAIT_S)
        world.check_same_chain()
        for number in numbers:
            engine = world.engine(number)
            assert compute_supply(engine.state) == world.genesis.supply
            # An operation that reached the follower alone in a flood is proposed by no validator: it stays for long.
            assert engine.status().mempool_operations == 0 or number == FOLLOWER
            assert not is_refused or sum(gate.dropped for gate in engine._receiver._rate_limits.values()) > 0

    simulate(make_flooded_genesis(), play)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "forged" else [pytest.mark.long]) for kind in FLOODS]
)
def test_honest_operations_become_final_in_a_flood_of(kind: str) -> None:
    play_flood(FLOODS[kind](), is_refused=kind == "forged")


def test_honest_operations_become_final_in_every_flood_at_once() -> None:
    floods = [flood() for flood in FLOODS.values()]
    play_flood((operation for turn in count() for operation in islice(floods[turn % len(floods)], 10)), batch=15)


def test_honest_operations_become_final_in_a_flood_of_giants() -> None:
    play_flood(flood_unfunded(), giant=True, is_refused=True)


@pytest.mark.parametrize("kind", [pytest.param("funded", marks=pytest.mark.long), "forged", "captures"])
def test_honest_operations_become_final_in_a_flood_by_a_validator(kind: str) -> None:
    play_flood(FLOODS[kind](), insider=4, is_refused=kind == "forged")


# In the mempool.

POOL_BYTES = 256 * 1024
BLOCK_BYTES = 64 * 1024


@cache
def make_small_genesis() -> Genesis:
    """One validator, users of 1,000 credits, poor users of a hundredth, and Sybils that own no more together."""
    parameters = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT)
    credits = {make_key(number): 1_000 * CREDIT for number in USERS}
    credits |= {make_key(100 + number): CREDIT // 100 for number in USERS}
    credits |= {make_sybil(number): 2_000 for number in range(2_000)}
    accounts = [make_validator(make_key(1), bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT)]
    accounts += [GenesisAccount(key.public_key, amount, 0, (), None) for key, amount in credits.items()]
    return make_genesis("brim", SimulatedRuntime.EPOCH_MS, bytes(32), accounts, parameters)


@cache
def sign_small(key: KeyPair, nonce: int) -> SignedOperation:
    return sign_operation(key, make_small_genesis().chain_id, pay(nonce))


def try_add(pool: Mempool, operation: SignedOperation, now: float = 0.0) -> bool:
    try:
        pool.add(operation, now)
    except InvalidOperation:
        return False
    return True


def make_full_pool() -> Mempool:
    """A pool that Sybils have filled: another of their operations has no room."""
    genesis = make_small_genesis()
    pool = Mempool(genesis, genesis.header, genesis.state, max_bytes=POOL_BYTES)
    sybils = iter(range(2_000))
    while try_add(pool, sign_small(make_sybil(next(sybils)), 0)):
        pass
    assert pool.size > POOL_BYTES - 200
    return pool


@pytest.mark.parametrize("offset", [0, pytest.param(100, marks=pytest.mark.long)])
def test_who_owns_more_finds_room_in_a_full_pool_and_keeps_it(offset: int) -> None:
    """Thousands of Sybils refill the pool after every block: users wait for a pool's worth of blocks at most."""
    pool, chain = make_full_pool(), Chain(make_small_genesis())
    longest = -(-POOL_BYTES // BLOCK_BYTES) + 1
    nonces = dict.fromkeys(USERS, 0)
    for user in USERS:
        pool.add(sign_small(make_key(offset + user), 0), 0.0)
    sent = dict.fromkeys(USERS, 0)
    flood = [sign_small(make_sybil(number), nonce) for nonce in range(4) for number in range(2_000)]
    for height in range(1, 13):
        chosen = pool.select(BLOCK_BYTES)
        chain.make_final(pool, chosen, float(height))
        for operation in flood:
            try_add(pool, operation, float(height))
        for user in USERS:
            done = chain.state.account(make_key(offset + user).public_key).nonce
            assert done == nonces[user] + 1 or sign_small(make_key(offset + user), nonces[user]).id in pool
            if done == nonces[user] + 1:
                assert height - sent[user] <= longest
                nonces[user], sent[user] = done, height
                pool.add(sign_small(make_key(offset + user), done), float(height))
    assert all(nonce >= 12 // longest for nonce in nonces.values())


def test_gaps_of_sybils_do_not_crowd_out_one_who_waits_for_good_reason() -> None:
    genesis = make_small_genesis()
    pool = Mempool(genesis, genesis.header, genesis.state)
    early = sign_small(make_key(USERS[0]), 1)
    pool.add(early, 0.0)
    for number in range(2_000):
        for nonce in range(1, 4):
            try_add(pool, sign_small(make_sybil(number), nonce))
    assert early.id in pool and len(pool) <= MAX_WAITING_OPERATIONS
    first = sign_small(make_key(USERS[0]), 0)
    pool.add(first, 1.0)
    assert pool.select(10**6) == [first, early]


def test_captures_by_accounts_without_credit_are_not_even_kept_waiting() -> None:
    genesis = make_flooded_genesis()
    pool = Mempool(genesis, genesis.header, genesis.state)
    taken = sum(try_add(pool, operation) for operation in islice(flood_captures(), 5_000))
    owners = sum(number * 7919 % 10_000 < SYBILS + DUST for number in range(5_000))
    assert taken == owners and len(pool) == min(owners, MAX_WAITING_OPERATIONS)


def test_one_rich_account_fills_no_more_than_its_part() -> None:
    genesis = make_flooded_genesis()
    pool = Mempool(genesis, genesis.header, genesis.state)
    for operation in islice(flood_rich(), 200):
        try_add(pool, operation)
    assert len(pool) == MAX_NONCED and pool.size <= MAX_ACCOUNT_BYTES
    honest = [sign(make_key(user), pay(0)) for user in USERS]
    for operation in honest:
        pool.add(operation, 1.0)
    assert pool.select(4_096) == [pool.get(next(islice(flood_rich(), 1)).id), *honest]


STEPS = ("flood", "user", "block", "time", "reject")
Step = tuple[str, int, int]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 400), st.integers(0, 3)),
        max_size=40,
    )
)
def test_whatever_the_order_who_owns_more_loses_nothing(steps: list[Step]) -> None:
    genesis, chain = make_small_genesis(), Chain(make_small_genesis())
    pool = Mempool(genesis, genesis.header, genesis.state, max_bytes=8_000, max_operations=60)
    sent: dict[bytes, None] = {}
    now, nonce = 0.0, 0
    for step, number, choice in steps:
        match step:
            case "flood":
                for sybil in range(number, number + 50):
                    try_add(pool, sign_small(make_sybil(sybil), choice), now)
            case "user" if nonce < 32:
                operation = sign_small(make_key(USERS[0]), nonce)
                pool.add(operation, now)
                sent[operation.id] = None
                nonce += 1
            case "block":
                chosen = pool.select(number * 10)
                chain.make_final(pool, chosen, now)
                for operation in chosen:
                    sent.pop(operation.id, None)
            case "reject":
                for operation in pool.select(10**6)[: choice * 10]:
                    if operation.signer != make_key(USERS[0]).public_key:
                        pool.reject(operation.id, "no", now)
            case "time":
                now += number / 10
                pool.expire(now)
        assert all(operation_id in pool for operation_id in sent)
        assert pool.size <= 8_000 and len(pool) <= 60
        assert bool(pool.select(10**6)) == pool.has_ready()
