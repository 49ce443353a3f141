"""Builders shared by the tests: keys, a genesis, signed operations, and a chain of valid blocks that grows on demand.

Everything is a function of its arguments: the same calls give the same keys, ids and bytes in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from chain import crypto
from chain.crypto import KeyPair
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import Parameters, Price
from chain.state.beacon import make_hash_chain
from chain.state.keys import ACCOUNT_PREFIX
from chain.state.records import Account, ValidatorRecord
from chain.state.state import State, compute_supply
from chain.transition.block import Transition, build_block, state_transition
from chain.transition.epochs import Epoch, get_next_epoch
from chain.transition.fees import compute_fee
from chain.transition.movements import Balance, Movement, Stage, compute_movements
from chain.transition.payments import get_executor
from chain.types.blocks import MAX_NULLIFICATIONS, Block, Header
from chain.types.checks import DeclaredIdentity
from chain.types.duels import DeclaredJudge
from chain.types.operations import (
    Bond,
    Capture,
    CaptureItem,
    Delivery,
    Enroll,
    Evidence,
    Hold,
    Operation,
    Recommit,
    Retire,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Unjail,
    Usage,
    Withdraw,
    sign_operation,
)
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, make_certificate, sign_vote
from tests.support.keys import make_keys

BEACON = crypto.hash_bytes("test beacon")
START = 1_700_000_000_000
"""Timestamp of the genesis, ms."""

MODEL = "smol"
"""The model that validators serve unless told otherwise."""

PARAMETERS = Parameters(
    epoch_heights=4,
    round_heights=2,
    unbonding_epochs=2,
    min_validator_bond=1_000,
    missed_lead_fee=500,
    participation_span_ms=1,
    min_service_bond=1_000,
    entry_fee=0,
    deposit_per_byte=0,
    unused_number_fee=0,
    max_attempts=3,
    max_hold_time_ms=20_000,
    capture_grace_ms=3_000,
    price=Price(100, 1, 10),
)
"""Short epochs and small amounts, so that tests cross every boundary soon. Room in the state and unused numbers are
free."""


def make_test_genesis(
    validators: Sequence[KeyPair],
    *,
    stakes: Sequence[int] | None = None,
    available: int = 1_000_000,
    models: tuple[str, ...] = (MODEL,),
    others: Iterable[GenesisAccount] = (),
    parameters: Parameters = PARAMETERS,
    name: str = "test",
    beacon: bytes = BEACON,
    timestamp: int = START,
) -> Genesis:
    """A genesis in which ``validators`` vote and serve with ``stakes`` (100,000 each by default)."""
    stakes = stakes if stakes is not None else [100_000] * len(validators)
    accounts = [
        make_validator(key, beacon, parameters, available, stake, models)
        for key, stake in zip(validators, stakes, strict=True)
    ]
    return make_genesis(name, timestamp, beacon, [*accounts, *others], parameters)


def find_reveal(key: KeyPair, genesis: Genesis, state: State) -> bytes:
    """What ``key`` reveals in the block that follows ``state``; its hash chains are numbered 0, 1, …"""
    validator = state.validator_record(key.public_key)
    assert validator is not None
    hash_chain = make_hash_chain(key, genesis.beacon, validator.hash_chain, genesis.parameters.epoch_heights)
    reveal = hash_chain.find_reveal(validator.commitment)
    assert reveal is not None
    return reveal


class Chain:
    """A chain of valid blocks, with the keys of everybody on it.

    ``users`` have credit and nothing else; ``validators`` vote, propose and serve ``MODEL``. ``append`` proposes a
    block as the right leader, checks it as everybody else would, has it certified by all, and moves on.

    Attributes:
        genesis: of the chain.
        blocks: the blocks appended so far, height 1 first.
        states: the state after each height, that of genesis first.
        failures: why each operation of each appended block failed (None where it did not).
    """

    def __init__(
        self,
        validators: int = 4,
        users: int = 2,
        *,
        stakes: Sequence[int] | None = None,
        available: int = 1_000_000,
        models: tuple[str, ...] = (MODEL,),
        parameters: Parameters = PARAMETERS,
        name: str = "test",
    ) -> None:
        self.validators = make_keys(validators)
        self.users = make_keys(users, "user")
        self._hold_ids: dict[tuple[bytes, int, int], bytes] = {}
        self.keys = {key.public_key: key for key in (*self.validators, *self.users)}
        self.genesis = make_test_genesis(
            self.validators,
            stakes=stakes,
            available=available,
            models=models,
            others=[GenesisAccount(user.public_key, available, 0, (), None) for user in self.users],
            parameters=parameters,
            name=name,
        )
        self.blocks: list[Block] = []
        self.states: list[State] = [self.genesis.state]
        self.failures: list[tuple[str | None, ...]] = []
        self.moved: dict[bytes, list[Movement]] = {}
        """What moved each account in the last block."""

    @property
    def head(self) -> Header:
        """Header of the last block, or of genesis."""
        return self.blocks[-1].header if self.blocks else self.genesis.header

    @property
    def state(self) -> State:
        """State after the last block."""
        return self.states[-1]

    @property
    def next_epoch(self) -> int:
        """Epoch of the block that comes next."""
        return self.epoch.number

    @property
    def first_round(self) -> int:
        """First round of the serving period of the block that comes next."""
        return self.state.serving_periods.current.first_round

    @property
    def epoch(self) -> Epoch:
        """What is fixed for the epoch of the block that comes next."""
        return get_next_epoch(self.genesis, self.state)

    def account(self, key: KeyPair) -> Account:
        """The account of a key after the last block."""
        return self.state.account(key.public_key)

    def get_epoch(self, number: int) -> Epoch:
        """What is fixed for an epoch up to that of the next block."""
        height = min(number * self.genesis.parameters.epoch_heights, self.head.height)
        epoch = get_next_epoch(self.genesis, self.states[height])
        assert epoch.number == number
        return epoch

    def leader(self, view: int, epoch: int | None = None) -> KeyPair:
        """Key of the leader of a view (of the next block's epoch by default)."""
        return self.keys[(self.epoch if epoch is None else self.get_epoch(epoch)).compute_leader(view)]

    def certify(
        self, header: Header, kind: VoteKind, *, view: int | None = None, signers: Sequence[KeyPair] | None = None
    ) -> Certificate:
        """Votes of ``kind`` on a block by ``signers`` (all validators by default), in its own view unless given."""
        return self.certify_id(kind, header.epoch, header.view if view is None else view, header.id, signers)

    def certify_id(
        self, kind: VoteKind, epoch: int, view: int, block_id: bytes, signers: Sequence[KeyPair] | None = None
    ) -> Certificate:
        """Votes of ``kind`` on whatever stands behind these numbers."""
        chain_id = self.genesis.chain_id
        validators = self.epoch.find_validators(epoch) or self.get_epoch(epoch).validators
        members = [key for key in signers or self.keys.values() if key.public_key in validators]
        votes = [sign_vote(key, chain_id, kind, epoch, view, block_id) for key in members]
        return make_certificate(votes, validators)

    def nullify(self, view: int, epoch: int | None = None) -> Certificate:
        """The nullification of a view (of the next block's epoch by default) by all validators."""
        return self.certify_id(VoteKind.NULLIFY, self.next_epoch if epoch is None else epoch, view, NO_BLOCK)

    def finality(self, block: Block) -> Certificate:
        """The finality certificate of a block, by all validators."""
        return self.certify(block.header, VoteKind.FINALIZE)

    def parent_certificate(self, signers: Sequence[KeyPair] | None = None) -> Certificate | None:
        """What the next block must carry as evidence for its parent, by ``signers`` (all validators by default)."""
        if not self.blocks:
            return None
        kind = VoteKind.NOTARIZE if self.head.epoch == self.next_epoch else VoteKind.FINALIZE
        return self.certify(self.head, kind, signers=signers)

    def propose(
        self,
        operations: Iterable[SignedOperation] = (),
        *,
        elapsed: int = 1_000,
        skipped: int = 0,
        late_votes: Sequence[Vote] = (),
        parent_certificate: Certificate | None = None,
        reveal: bytes | None = None,
    ) -> tuple[Block, Transition, list[tuple[SignedOperation, str]]]:
        """A valid block on the head, ``elapsed`` ms after it and ``skipped`` nullified views later; not appended.

        ``parent_certificate`` is that of all validators unless given; a validator that is not in it was absent.
        ``reveal`` is what opens the tip of the leader unless given.

        Returns what :func:`chain.transition.block.build_block` does: the block, its transition, the operations left
        out.
        """
        first = self.head.view + 1 if self.blocks and self.head.epoch == self.next_epoch else 1
        view = first + skipped
        leader = self.leader(view)
        return build_block(
            self.genesis,
            leader,
            self.head,
            self.state,
            operations,
            view=view,
            timestamp=self.head.timestamp + elapsed,
            reveal=find_reveal(leader, self.genesis, self.state) if reveal is None else reveal,
            parent_certificate=parent_certificate or self.parent_certificate(),
            nullifications=[self.nullify(skip) for skip in range(max(first, view - MAX_NULLIFICATIONS), view)],
            late_votes=late_votes,
        )

    def append(
        self,
        operations: Iterable[SignedOperation] = (),
        *,
        elapsed: int = 1_000,
        skipped: int = 0,
        late_votes: Sequence[Vote] = (),
        voters: Sequence[KeyPair] | None = None,
    ) -> Block:
        """Propose, check and append a block; every operation must be includable (it may still fail: ``failures``).

        ``voters`` are those whose votes for the parent are in its certificate (all by default).
        """
        block, transition, rejected = self.propose(
            operations,
            elapsed=elapsed,
            skipped=skipped,
            late_votes=late_votes,
            parent_certificate=self.parent_certificate(voters),
        )
        assert not rejected, rejected
        self.accept(block, transition)
        return block

    def accept(self, block: Block, transition: Transition) -> None:
        """Check a proposed block as everybody else would, from its bytes, and append it."""
        received = Block.decode(block.encoded)
        checked = state_transition(self.genesis, self.head, self.state, received)
        assert checked.state.root == transition.state.root == block.header.state_root
        assert checked.failures == transition.failures
        self._check_movements(checked, transition)
        self.blocks.append(received)
        self.states.append(checked.state)
        self.failures.append(checked.failures)

    def _check_movements(self, checked: Transition, proposed: Transition) -> None:
        """What moved each account adds up to the difference of its balance, and it is the same for the proposer."""
        self.moved = compute_movements(self.state, checked.steps)
        assert self.moved == compute_movements(self.state, proposed.steps)
        moved = dict(self.moved)
        for key, record in checked.changes.items():
            if key[:1] == ACCOUNT_PREFIX:
                sums = [sum(part) for part in zip(*(each.change for each in moved.pop(key[1:], ())), strict=True)]
                after = Balance.of(record) if isinstance(record, Account) else Balance()
                assert Balance(*sums) == after.minus(Balance.of(self.state.account(key[1:])))
        assert not moved

    def sum_moved(self, stage: Stage) -> dict[bytes, int]:
        """What a stage of the last block moved, by account, in micro-credits."""
        return {
            key: movement.change.total
            for key, movements in self.moved.items()
            for movement in movements
            if movement.cause is stage and movement.change.total
        }

    def append_epochs(self, count: int, *, elapsed: int = 1_000, voters: Sequence[KeyPair] | None = None) -> None:
        """Append empty blocks until ``count`` more epochs have ended; across their borders everybody votes."""
        for _ in range(count):
            epoch = self.next_epoch
            while self.next_epoch == epoch:
                self.append(elapsed=elapsed, voters=voters if self.head.epoch == epoch else None)

    def vote(self, key: KeyPair, block: Block, kind: VoteKind = VoteKind.NOTARIZE) -> Vote:
        """The vote of ``key`` on a block, in the block's own view."""
        return sign_vote(key, self.genesis.chain_id, kind, block.header.epoch, block.header.view, block.id)

    def evidence(
        self,
        finder: KeyPair,
        key: KeyPair,
        *,
        epoch: int | None = None,
        view: int = 1,
        kinds: tuple[VoteKind, VoteKind] = (VoteKind.NOTARIZE, VoteKind.NOTARIZE),
    ) -> SignedOperation:
        """Two votes of ``key`` that contradict each other (of the next block's epoch if None), shown by ``finder``."""
        epoch = self.next_epoch if epoch is None else epoch
        votes = [
            sign_vote(
                key, self.genesis.chain_id, kind, epoch, view,
                NO_BLOCK if kind == VoteKind.NULLIFY else crypto.hash_bytes("test block", bytes([number])),
            )
            for number, kind in enumerate(kinds)
        ]  # fmt: skip
        return self.sign(finder, Evidence(*sorted(votes, key=Vote.encode)))

    def enroll(self, key: KeyPair, *, hash_chain: int = 0, nonce: int | None = None) -> SignedOperation:
        commitment = make_hash_chain(
            key, self.genesis.beacon, hash_chain, self.genesis.parameters.epoch_heights
        ).commitment
        return self.sign(key, Enroll(self._nonce(key, nonce), commitment, hash_chain))

    def recommit(self, key: KeyPair, hash_chain: int, *, nonce: int | None = None) -> SignedOperation:
        commitment = make_hash_chain(
            key, self.genesis.beacon, hash_chain, self.genesis.parameters.epoch_heights
        ).commitment
        return self.sign(key, Recommit(self._nonce(key, nonce), commitment, hash_chain))

    def retire(self, key: KeyPair, *, nonce: int | None = None) -> SignedOperation:
        return self.sign(key, Retire(self._nonce(key, nonce)))

    def unjail(self, key: KeyPair, *, nonce: int | None = None) -> SignedOperation:
        return self.sign(key, Unjail(self._nonce(key, nonce)))

    def validator_record(self, key: KeyPair) -> ValidatorRecord:
        """The validator record of a key after the last block."""
        return self.state.validator_record(key.public_key) or ValidatorRecord()

    def weight(self, key: KeyPair, epoch: int) -> int:
        """With what weight a key votes in an epoch that the state knows."""
        committee = self.state.committee(epoch)
        assert committee is not None
        return committee.get_stake([key.public_key])

    def sign(self, key: KeyPair, operation: Operation) -> SignedOperation:
        """Sign any operation."""
        return sign_operation(key, self.genesis.chain_id, operation)

    def _nonce(self, key: KeyPair, nonce: int | None) -> int:
        return self.account(key).nonce if nonce is None else nonce

    def transfer(
        self, key: KeyPair, recipient: KeyPair | bytes, amount: int, *, nonce: int | None = None
    ) -> SignedOperation:
        """A signed transfer; ``nonce`` is the account's next by default, here and below."""
        to = recipient if isinstance(recipient, bytes) else recipient.public_key
        return self.sign(key, Transfer(self._nonce(key, nonce), to, amount))

    def bond(self, key: KeyPair, amount: int, *, nonce: int | None = None) -> SignedOperation:
        return self.sign(key, Bond(self._nonce(key, nonce), amount))

    def unbond(self, key: KeyPair, amount: int, *, nonce: int | None = None) -> SignedOperation:
        return self.sign(key, Unbond(self._nonce(key, nonce), amount))

    def withdraw(self, key: KeyPair, *, nonce: int | None = None) -> SignedOperation:
        return self.sign(key, Withdraw(self._nonce(key, nonce)))

    def serve(
        self,
        key: KeyPair,
        *models: str,
        judge: DeclaredJudge | None = None,
        identities: tuple[DeclaredIdentity, ...] = (),
        nonce: int | None = None,
    ) -> SignedOperation:
        return self.sign(key, Serve(self._nonce(key, nonce), models, judge, identities))

    def executor(self, payer: KeyPair, seq: int, attempt: int = 0, *, model: str = MODEL) -> KeyPair:
        """Key of the account that the lottery of the next block's serving period draws."""
        drawn = get_executor(self.state, self.first_round, payer.public_key, seq, attempt, model)
        assert drawn is not None
        return self.keys[drawn]

    def hold(
        self,
        payer: KeyPair,
        seq: int,
        attempt: int = 0,
        *,
        amount: int = 5_000,
        payee: bytes | None = None,
        first_round: int | None = None,
        model: str = MODEL,
        lifetime: int = 10_000,
    ) -> SignedOperation:
        """A signed hold for the drawn executor, expiring ``lifetime`` ms of chain time after the head."""
        first_round = self.first_round if first_round is None else first_round
        if payee is None:
            payee = get_executor(self.state, first_round, payer.public_key, seq, attempt, model)
            assert payee is not None
        digest = crypto.hash_bytes("test request", attempt.to_bytes(8, "big"), seq.to_bytes(8, "big"))
        deadline = self.head.chain_time + lifetime
        signed = self.sign(payer, Hold(payee, amount, first_round, seq, attempt, model, digest, deadline))
        self._hold_ids[payer.public_key, seq, attempt] = signed.id
        return signed

    def find_hold_id(self, payer: KeyPair, seq: int, attempt: int = 0) -> bytes:
        """The hold that was signed last under a number; if none was, the id of no hold."""
        unknown = crypto.hash_bytes("test hold", payer.public_key, f"{seq} {attempt}".encode())
        return self._hold_ids.get((payer.public_key, seq, attempt), unknown)

    def delivery(self, payer: KeyPair, seq: int, attempt: int = 0, *, amount: int = 1_000) -> Delivery:
        """A delivery against a hold, of a usage whose price is at least ``amount``."""
        hold = self.find_hold_id(payer, seq, attempt)
        return Delivery(hold, amount, crypto.hash_bytes("test response", hold), Usage(amount, 0), "stop")

    def receipt(self, payer: KeyPair, delivery: Delivery) -> CaptureItem:
        """The delivery with the receipt of ``payer``."""
        return CaptureItem(delivery, payer.sign("receipt", self.genesis.chain_id, delivery.encode()))

    def capture(self, payee: KeyPair, *items: CaptureItem | Delivery) -> SignedOperation:
        """A signed capture; a bare delivery is an item without receipt."""
        parts = tuple(CaptureItem(item, None) if isinstance(item, Delivery) else item for item in items)
        return self.sign(payee, Capture(parts))


def refusal(chain: Chain, *operations: SignedOperation, elapsed: int = 1_000) -> str:
    """Why the last of some operations cannot be included, the others being sound."""
    _, _, rejected = chain.propose(operations, elapsed=elapsed)
    assert [signed for signed, _ in rejected] == [operations[-1]]
    return rejected[0][1]


def failure(chain: Chain, operation: SignedOperation) -> str:
    """Why an operation failed that was included; its fee and nonce must be all that it used."""
    signer = operation.signer
    before, treasury = chain.state.account(signer), chain.state.totals.treasury
    chain.append([operation])
    reason = chain.failures[-1][0]
    assert reason is not None
    fee = compute_fee(chain.genesis, operation)
    assert chain.state.account(signer) == replace(before, nonce=before.nonce + 1, available=before.available - fee)
    assert chain.state.totals.treasury == treasury + fee
    return reason


def do(chain: Chain, *operations: SignedOperation, elapsed: int = 1_000) -> int:
    """Append a block of operations that must all succeed; returns the sum of their fees."""
    chain.append(operations, elapsed=elapsed)
    assert chain.failures[-1] == (None,) * len(operations)
    assert compute_supply(chain.state) == chain.genesis.supply
    return sum(compute_fee(chain.genesis, operation) for operation in operations)
