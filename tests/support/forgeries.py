"""Chains to audit, and every single way to forge one: material for the tests of the audit.

A :class:`Forger` holds all keys. It signs what it forges, and has it certified by everybody, so that nothing but the
rule in question can catch it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from chain.crypto import KeyPair, hash_bytes
from chain.genesis import Genesis
from chain.light.client import LightClientUpdate
from chain.state.beacon import NO_COMMITMENT
from chain.state.state import State
from chain.store.kv import Store
from chain.store.writer import ChainStore
from chain.transition.block import Transition, apply_block, execute
from chain.transition.epochs import get_next_epoch
from chain.types.blocks import NO_REVEAL, Block, Header, sign_block
from chain.types.operations import (
    Capture,
    CaptureItem,
    Dispute,
    Enroll,
    Evidence,
    Hold,
    Operation,
    Recommit,
    Release,
    Retire,
    SignedOperation,
    Transfer,
    Unjail,
    sign_operation,
)
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import MODEL, PARAMETERS, Chain, find_reveal
from tests.support.keys import make_key

STAKES = (30_000, 25_000, 20_000, 15_000, 10_000)
OTHER = hash_bytes("test other")

Finals = dict[int, Certificate]
"""Finality certificates by height; a block without one is final by a descendant's."""


def make_busy_chain(length: int) -> tuple[Chain, Finals]:
    """A chain on which everything happens again and again, with the certificates that made it final.

    All kinds of operations, some of them failing; holds that are captured with and without receipt, refunded, disputed
    and released; nullified views; one, three and two blocks under one certificate, in turn. The committee changes all
    the time: people enroll and retire, one is absent and jailed, another lies and is slashed, and both return.
    """
    chain = Chain(len(STAKES), stakes=STAKES, parameters=replace(PARAMETERS, deposit_per_byte=1))
    first, second = chain.users
    worker, server, _, absent, _ = chain.validators
    for index in range(length):
        cycle, step = divmod(index, 8)
        seq, attempt, elapsed = 2 * cycle, 1 + cycle % 2, 1_000
        operations: list[SignedOperation] = change_committee(chain)
        match step:
            case 0:
                operations += [chain.hold(first, seq), chain.transfer(first, second, 5)]
                operations.append(chain.transfer(worker, first, 7))
                if cycle:  # a hold of the last round that was not captured
                    operations.append(chain.sign(server, Release(chain.find_hold_id(first, seq - 1))))
            case 1:
                delivery = chain.delivery(first, seq, amount=0 if cycle % 3 == 2 else 900)
                operations += [chain.capture(get_payee(chain, first, seq), chain.receipt(first, delivery))]
            case 2:
                operations += [chain.hold(second, seq, attempt), chain.bond(worker, 500)]
            case 3:
                delivery, payee = chain.delivery(second, seq, attempt), get_payee(chain, second, seq, attempt)
                is_backed = chain.account(payee).free_bond >= delivery.amount  # or it was slashed
                operations += [chain.capture(payee, delivery if is_backed else chain.receipt(second, delivery))]
                operations.append(chain.transfer(first, second, 10_000_000))  # fails
            case 4:
                operations += [chain.unbond(worker, 300)]
                hold = chain.state.hold(chain.find_hold_id(second, seq, attempt))
                if cycle % 2 and hold is not None:
                    operations.append(chain.sign(second, Dispute(chain.find_hold_id(second, seq, attempt))))
            case 5:
                operations += [chain.hold(first, seq + 1, lifetime=2_500), chain.serve(server, MODEL)]
            case 6:
                operations += [chain.withdraw(worker)]  # fails while nothing has finished unbonding
            case 7:
                elapsed = 3_000
        # One misses a whole epoch now and then; else its votes for the first block of each come late.
        epoch, place = divmod(index, chain.genesis.parameters.epoch_heights)
        is_member = absent.public_key in chain.epoch.validators
        voters = [key for key in chain.keys.values() if key is not absent]
        is_away, late_votes = epoch % YEAR == 1, []
        if place == 2 and is_member and not is_away:
            late_votes = [chain.vote(absent, chain.blocks[-2])]
        chain.append(
            operations,
            elapsed=elapsed,
            skipped=2 if index % 5 == 3 else 0,
            voters=voters if place and (is_away or place == 1) else None,
            late_votes=late_votes,
        )
    finals, ends = {}, 0
    for number in range(length):
        ends += (1, 3, 2)[number % 3]
        if ends >= length:
            break
        finals[ends] = chain.finality(chain.blocks[ends - 1])
    finals[length] = chain.finality(chain.blocks[-1])
    return chain, finals


YEAR = 12
"""Epochs after which the committee goes through the same again."""


def change_committee(chain: Chain) -> list[SignedOperation]:
    """What those do in the next block who come, go, lie or return: at the second height of an epoch, if at all."""
    first, second = chain.users
    _, _, careful, absent, liar = chain.validators
    epoch, place = divmod(chain.head.height, chain.genesis.parameters.epoch_heights)
    if place != 1:
        return []
    match epoch % YEAR:
        case 0 if epoch == 0:
            return [
                chain.bond(first, 12_000),
                chain.enroll(first, nonce=chain.account(first).nonce + 1),
                chain.bond(second, 5_000),
                chain.enroll(second, nonce=1),
            ]
        case 2:
            return [chain.unjail(absent), chain.evidence(second, liar)]
        case 3:
            return [chain.recommit(careful, 1 + epoch // YEAR), chain.retire(second)]
        case 4:
            return [chain.bond(liar, 10_000), chain.unjail(liar, nonce=chain.account(liar).nonce + 1)]
        case 6:
            return [chain.enroll(second, hash_chain=1 + epoch // YEAR)]
    return []


def get_payee(chain: Chain, payer: KeyPair, seq: int, attempt: int = 0) -> KeyPair:
    """Who may capture an open hold."""
    hold = chain.state.hold(chain.find_hold_id(payer, seq, attempt))
    assert hold is not None
    return chain.keys[hold.payee]


def get_transitions(chain: Chain) -> list[tuple[Block, Transition]]:
    """The blocks of a chain, each with what it leads to."""
    headers = [chain.genesis.header, *(block.header for block in chain.blocks)]
    return [
        (block, apply_block(chain.genesis, headers[index], chain.states[index], block))
        for index, block in enumerate(chain.blocks)
    ]


def fill_store(store: Store, chain: Chain, finals: Finals, keep_epochs: int = 0) -> ChainStore:
    """Write a chain to a store, or what it lacks of it, one batch per certificate as a node would."""
    blocks = ChainStore(store, chain.genesis, keep_epochs)
    transitions = get_transitions(chain)
    for height in sorted(height for height in finals if height > blocks.height):
        blocks.append(transitions[blocks.height : height], finals[height], (height, OTHER))
    return blocks


class ListSource:
    """A chain in memory, as a source for the audit."""

    def __init__(self, genesis: Genesis, entries: Sequence[tuple[bytes, bytes | None]], height: int) -> None:
        self.genesis = genesis
        self.height = height
        self.rows = entries

    @property
    def base(self) -> Header:
        """See :class:`chain.audit.sources.ChainSource`."""
        return self.genesis.header

    def read_base(self) -> State:
        """See :class:`chain.audit.sources.ChainSource`."""
        return self.genesis.state

    def light_client_updates(self) -> Iterator[LightClientUpdate]:
        """See :class:`chain.audit.sources.ChainSource`."""
        return iter(())

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See :class:`chain.audit.sources.ChainSource`."""
        yield from self.rows

    def check_block(self, block: Block, before: State, transition: Transition) -> None:
        """See :class:`chain.audit.sources.ChainSource`."""

    def check(self, state: State, header: Header) -> None:
        """See :class:`chain.audit.sources.ChainSource`."""


class Forger:
    """A chain being forged.

    Most forgeries strike one block, at ``height``: it has nullified views before it, several operations, a late vote,
    a notarized parent, and a certificate of its own; the committee is another in the epoch after it. It is the first
    such block from height ``above`` on. Some strike the first operation of a kind instead, above height ``after``.
    """

    def __init__(self, chain: Chain, finals: Finals, above: int = 9, after: int = 0) -> None:
        self.chain = chain
        self.above, self.after = above, after
        self.genesis = chain.genesis
        self.blocks = dict(enumerate(chain.blocks, start=1))
        self.finals: dict[int, Certificate | None] = dict(finals)
        self.raw: dict[int, bytes] = {}
        self.raw_finals: dict[int, bytes] = {}
        self.order = list(self.blocks)
        self.claimed_height = len(self.blocks)

    @cached_property
    def height(self) -> int:
        """Where most forgeries strike."""
        blocks = self.chain.blocks
        return next(
            height
            for height in range(self.above, len(blocks))
            if height in self.finals
            and blocks[height - 1].body.nullifications
            and blocks[height - 1].body.late_votes
            and blocks[height - 1].header.validators_hash != blocks[height - 1].header.next_validators_hash
            and len(blocks[height - 1].body.operations) > 1
            and blocks[height - 2].header.epoch == blocks[height - 1].header.epoch
        )

    @property
    def block(self) -> Block:
        """The block that is struck."""
        return self.blocks[self.height]

    @property
    def source(self) -> ListSource:
        """What the audit gets to see."""
        entries = []
        for height in self.order:
            final = self.finals.get(height)
            encoded = None if final is None else final.encode()
            entries.append((self.raw.get(height, self.blocks[height].encoded), self.raw_finals.get(height, encoded)))
        return ListSource(self.genesis, entries, self.claimed_height)

    def find(self, kind: type) -> tuple[int, int]:
        """Height and index of the first operation of a kind above the height ``after``."""
        return next(
            (height, index)
            for height, block in self.blocks.items()
            if height > self.after
            for index, signed in enumerate(block.body.operations)
            if isinstance(signed.operation, kind)
        )

    def put(self, block: Block, height: int | None = None, *, certify: bool = True) -> None:
        """Replace a block, and by default its certificate if it has one."""
        height = self.height if height is None else height
        self.blocks[height] = block
        if certify and self.finals.get(height) is not None:
            self.finals[height] = self.chain.finality(block)

    def header(self, at: int | None = None, *, certify: bool = True, **fields: Any) -> None:
        """Change header fields, and sign as the proposer that the header names."""
        block = self.blocks[self.height if at is None else at]
        header = replace(block.header, **fields)
        key = self.chain.keys.get(header.proposer, make_key("stranger"))
        self.put(sign_block(key, header, block.body), at, certify=certify)

    def body(self, height: int | None = None, **fields: Any) -> None:
        """Change the body and its root."""
        block = self.blocks[self.height if height is None else height]
        body = replace(block.body, **fields)
        header = replace(block.header, body_root=body.root)
        self.put(sign_block(self.chain.keys[header.proposer], header, body), height)

    def operations(self, change: Callable[[list[SignedOperation]], Any], height: int | None = None) -> None:
        """Change the list of operations, and every root as far as it can be executed."""
        height = self.height if height is None else height
        block = self.blocks[height]
        operations = list(block.body.operations)
        change(operations)
        self.body(height, operations=tuple(operations))

    def operation(self, kind: type, signer: KeyPair | None = None, **fields: Any) -> None:
        """Change fields of the first operation of a kind, signed by its signer (or another key, under its name)."""
        height, index = self.find(kind)
        signed = self.blocks[height].body.operations[index]
        key = signer or self.chain.keys[signed.signer]
        forged = self.sign(key, replace(signed.operation, **fields))
        forged = replace(forged, signer=signed.signer)
        self.operations(lambda operations: operations.__setitem__(index, forged), height)

    def sign(self, key: KeyPair, operation: Operation) -> SignedOperation:
        """Sign any operation."""
        return sign_operation(key, self.genesis.chain_id, operation)

    def capture(self, **fields: Any) -> None:
        """Change fields of the first delivery that is captured with a receipt, which the payer signs again."""
        height, index = self.find(Capture)
        operation = self.blocks[height].body.operations[index].operation
        assert isinstance(operation, Capture)
        delivery = replace(operation.items[0].delivery, **fields)
        payer = self.chain.users[0]
        self.operation(Capture, items=(self.chain.receipt(payer, delivery),))

    def steal(self) -> None:
        """A state root with credit out of nothing, and everything else in order."""
        after, key = self.execute(), self.chain.users[0].public_key
        account = after.account(key)
        rich = after.update({b"a" + key: replace(account, available=account.available + 1)})
        self.header(state_root=rich.root)

    def spend_deposit(self) -> None:
        """A state root by which an account may spend its deposit, and everything else in order."""
        after = self.execute()
        key, account = next(found for found in after.accounts() if found[1].deposit)
        free = replace(account, available=account.available + account.deposit, deposit=0)
        self.header(state_root=after.update({b"a" + key: free}).root)

    def execute(self) -> State:
        """The state after the block, by the rules."""
        block, parent, state = self.block, self.blocks[self.height - 1].header, self.chain.states[self.height - 1]
        return execute(self.genesis, get_next_epoch(self.genesis, state), parent, state, block.header, block.body).state


def flip(raw: bytes, position: int = 10) -> bytes:
    """``raw`` with one bit changed."""
    changed = bytearray(raw)
    changed[position] ^= 1
    return bytes(changed)


def damage_file(path: Path, damage: str, rng: random.Random) -> None:
    """Do one of ``DAMAGES`` to a file."""
    if damage == "deleted":
        path.unlink()
        return
    raw = bytearray(path.read_bytes())
    spot = rng.randrange(len(raw) or 1)
    match damage:
        case "cut short":
            del raw[spot:]
        case "a bit flipped":
            raw[spot : spot + 1] = (byte ^ 1 << rng.randrange(8) for byte in raw[spot : spot + 1])
        case "a stretch of zeros":
            raw[spot : spot + 64] = bytes(len(raw[spot : spot + 64]))
    path.write_bytes(raw)


DAMAGES = ("deleted", "cut short", "a bit flipped", "a stretch of zeros")


@dataclass(frozen=True)
class Forgery:
    """One forgery: what is done, and the field and the height (counted from the forger's) that the audit must name."""

    name: str
    forge: Callable[[Forger], Any]
    field: str
    offset: int = 0
    kind: type | None = None
    """The fault is in the block of the first operation of this kind instead; ``field`` may name its ``{index}``."""

    def get_place(self, forger: Forger) -> tuple[int, str]:
        """Height and field of the fault on the chain of ``forger``, not yet forged."""
        if self.kind is None:
            return forger.height + self.offset, self.field
        height, index = forger.find(self.kind)
        return height + self.offset, self.field.format(index=index)


def _header(field: str, value: Callable[[Forger], Any]) -> Forgery:
    return Forgery(f"header: {field}", lambda forger: forger.header(**{field: value(forger)}), field)


def _get_later_view(forger: Forger) -> int:
    """A view above the struck block's that the same validator leads."""
    header = forger.block.header
    view = header.view + 1
    while forger.chain.leader(view, header.epoch).public_key != header.proposer:
        view += 1
    return view


def _get_other_validator(forger: Forger) -> bytes:
    proposer = forger.block.header.proposer
    return next(key.public_key for key in forger.chain.validators if key.public_key != proposer)


def _get_tip(forger: Forger) -> bytes:
    validator = forger.chain.states[forger.height - 1].validator_record(forger.block.header.proposer)
    assert validator is not None
    return validator.commitment


def _get_deeper(forger: Forger) -> bytes:
    """What lies under the right reveal."""
    key, state = forger.chain.keys[forger.block.header.proposer], forger.chain.states[forger.height]
    return find_reveal(key, forger.genesis, state)


HEADERS = [
    _header("version", lambda f: f.block.header.version + 1),
    _header("chain_id", lambda f: OTHER),
    _header("epoch", lambda f: f.block.header.epoch + 1),
    _header("height", lambda f: f.height + 1),
    _header("view", lambda f: f.blocks[f.height - 1].header.view),
    _header("parent_id", lambda f: OTHER),
    _header("timestamp", lambda f: f.blocks[f.height - 1].header.timestamp),
    _header("chain_time", lambda f: f.block.header.chain_time + 1),
    _header("proposer", _get_other_validator),
    _header("body_root", lambda f: OTHER),
    _header("state_root", lambda f: OTHER),
    _header("history_root", lambda f: OTHER),
    _header("validators_hash", lambda f: OTHER),
    _header("next_validators_hash", lambda f: OTHER),
    _header("beacon_reveal", lambda f: flip(f.block.header.beacon_reveal)),
    Forgery(
        "the next committee in place of this",
        lambda f: f.header(validators_hash=f.block.header.next_validators_hash),
        "validators_hash",
    ),
    Forgery(
        "this committee in place of the next",
        lambda f: f.header(next_validators_hash=f.block.header.validators_hash),
        "next_validators_hash",
    ),
    Forgery(
        "the committee of the epoch before",
        lambda f: f.header(validators_hash=f.blocks[f.height - 4].header.validators_hash),
        "validators_hash",
    ),
    Forgery("a reveal of nothing", lambda f: f.header(beacon_reveal=NO_REVEAL), "view"),
    Forgery("the tip as its own reveal", lambda f: f.header(beacon_reveal=_get_tip(f)), "beacon_reveal"),
    Forgery("a layer too deep", lambda f: f.header(beacon_reveal=_get_deeper(f)), "beacon_reveal"),
    Forgery(
        "the reveal of the block before",
        lambda f: f.header(beacon_reveal=f.blocks[f.height - 1].header.beacon_reveal),
        "beacon_reveal",
    ),
    Forgery("a stranger proposes", lambda f: f.header(proposer=make_key("stranger").public_key), "proposer"),
    Forgery("a later view", lambda f: f.header(view=_get_later_view(f)), "nullifications"),
    Forgery("a view without end", lambda f: f.header(view=2**62), "proposer"),
    Forgery("only the timestamp", lambda f: f.header(timestamp=f.block.header.timestamp + 1), "chain_time"),
    # Everybody signed this one, so that nothing is wrong with it but that the next block has another parent.
    Forgery(
        "history rewritten",
        lambda f: f.header(timestamp=f.block.header.timestamp + 1, chain_time=f.block.header.chain_time + 1),
        "parent_id",
        offset=1,
    ),
    Forgery("not certified", lambda f: f.header(state_root=OTHER, certify=False), "finality"),
    Forgery("signature", lambda f: f.put(replace(f.block, signature=flip(f.block.signature))), "signature"),
    Forgery(
        "signed by another",
        lambda f: f.put(sign_block(make_key("stranger"), f.block.header, f.block.body)),
        "signature",
    ),
    Forgery("credit out of nothing", Forger.steal, "state_root"),
    Forgery("a deposit that is spent", Forger.spend_deposit, "state_root"),
]


def _operation(kind: type, name: str, value: Any, field: str) -> Forgery:
    what = f"{kind.__name__}: {name} {value.hex()[:8] if isinstance(value, bytes) else value}"
    return Forgery(what, lambda forger: forger.operation(kind, **{name: value}), field, kind=kind)


def _stolen(kind: type, **fields: Any) -> Forgery:
    what = f"{kind.__name__}: {next(iter(fields))}, signed by another"
    return Forgery(what, lambda f: f.operation(kind, make_key("stranger"), **fields), "operations[{index}]", kind=kind)


def _capture(what: str, field: str, **fields: Any) -> Forgery:
    return Forgery(f"Capture: {what}", lambda forger: forger.capture(**fields), field, kind=Capture)


def _without_receipt(forger: Forger) -> None:
    height, index = forger.find(Capture)
    operation = forger.blocks[height].body.operations[index].operation
    assert isinstance(operation, Capture)
    forger.operation(Capture, items=(CaptureItem(operation.items[0].delivery, None),))


def _with_false_receipt(forger: Forger) -> None:
    height, index = forger.find(Capture)
    operation = forger.blocks[height].body.operations[index].operation
    assert isinstance(operation, Capture)
    forger.operation(Capture, items=(forger.chain.receipt(make_key("stranger"), operation.items[0].delivery),))


def _show(forger: Forger, change: Callable[[Vote, Vote], Any]) -> None:
    """Change the votes of the first evidence."""
    height, index = forger.find(Evidence)
    operation = forger.blocks[height].body.operations[index].operation
    assert isinstance(operation, Evidence)
    first, second = change(operation.first, operation.second)
    forger.operation(Evidence, first=first, second=second)


def _append(make: Callable[[Forger], SignedOperation]) -> Callable[[Forger], None]:
    return lambda forger: forger.operations(lambda operations: operations.append(make(forger)))


BODIES = [
    Forgery(
        "against its root",
        lambda f: f.put(replace(f.block, body=replace(f.block.body, operations=f.block.body.operations[1:]))),
        "body_root",
    ),
    Forgery("an operation left out", lambda f: f.operations(lambda operations: operations.pop()), "state_root"),
    Forgery("no operation", lambda f: f.operations(lambda operations: operations.clear()), "state_root"),
    Forgery("an operation twice", _append(lambda f: f.block.body.operations[0]), "operations"),
    Forgery("an old operation again", _append(lambda f: f.blocks[1].body.operations[1]), "operations"),
    Forgery("a poor account", _append(lambda f: f.sign(make_key("stranger"), Transfer(0, OTHER, 0))), "operations"),
    Forgery("no such hold", _append(lambda f: f.sign(f.chain.users[0], Release(OTHER))), "operations"),
    _stolen(Transfer, amount=6),
    _stolen(Transfer, memo=b"x"),
    _stolen(Hold, amount=1),
    _stolen(Release, hold=OTHER),
    _operation(Transfer, "amount", 6, "state_root"),
    _operation(Transfer, "amount", 2**62, "state_root"),  # fails, and that is another state
    _operation(Transfer, "nonce", 1, "operations"),
    _operation(Transfer, "recipient", make_key("other").public_key, "state_root"),
    _operation(Transfer, "recipient", bytes(32), "operations"),
    _operation(Transfer, "memo", b"x", "state_root"),  # by its fee
    _operation(Hold, "payee", make_key("other").public_key, "operations"),
    _operation(Hold, "amount", 4_999, "state_root"),
    _operation(Hold, "amount", 2**62, "operations"),
    _operation(Hold, "round", 1, "operations"),
    _operation(Hold, "seq", 256, "operations"),
    _operation(Hold, "attempt", 3, "operations"),
    _operation(Hold, "model", "unknown", "operations"),
    _operation(Hold, "request_digest", OTHER, "state_root"),
    _operation(Hold, "deadline", 0, "operations"),
    _capture("amount above the hold", "operations", amount=5_001),
    _capture("amount", "state_root", amount=1),
    _capture("no such hold", "operations", hold=OTHER),
    _operation(Enroll, "commitment", OTHER, "state_root"),
    _operation(Enroll, "hash_chain", 99, "state_root"),
    _operation(Enroll, "nonce", 99, "operations"),
    _operation(Retire, "nonce", 99, "operations"),
    _operation(Unjail, "nonce", 99, "operations"),
    _operation(Recommit, "commitment", OTHER, "state_root"),
    _operation(Recommit, "commitment", NO_COMMITMENT, "state_root"),  # fails, and that is another state
    _stolen(Recommit, commitment=OTHER),
    _stolen(Retire, nonce=99),
    Forgery("Evidence: in disorder", lambda f: _show(f, lambda a, b: (b, a)), "operations", kind=Evidence),
    Forgery("Evidence: one vote twice", lambda f: _show(f, lambda a, b: (a, a)), "operations", kind=Evidence),
    Forgery(
        "Evidence: a vote forged",
        lambda f: _show(f, lambda a, b: (a, replace(b, signature=flip(b.signature)))),
        "operations",
        kind=Evidence,
    ),
    Forgery(
        "Evidence: against another",
        lambda f: _show(f, lambda a, b: tuple(replace(vote, signer=_get_present(f)) for vote in (a, b))),
        "operations",
        kind=Evidence,
    ),
    Forgery(
        "Evidence: of another epoch",
        lambda f: _show(f, lambda a, b: tuple(replace(vote, epoch=vote.epoch + 1) for vote in (a, b))),
        "operations",
        kind=Evidence,
    ),
    Forgery(
        "Evidence: shown by another",
        lambda f: f.operation(Evidence, make_key("stranger")),
        "operations[{index}]",
        kind=Evidence,
    ),
    Forgery("Capture: no receipt", _without_receipt, "state_root", kind=Capture),
    Forgery("Capture: false receipt", _with_false_receipt, "operations", kind=Capture),
]


Change = Callable[[Certificate], dict[str, Any]]


def _without_quorum(certificate: Certificate) -> dict[str, Any]:
    return {"signers": certificate.signers[:2], "signatures": certificate.signatures[:2]}


def _with_bad_signature(certificate: Certificate) -> dict[str, Any]:
    *rest, last = certificate.signatures
    return {"signatures": (*rest, flip(last))}


CERTIFICATE_CHANGES: dict[str, Change] = {
    "epoch": lambda c: {"epoch": c.epoch + 1},
    "view": lambda c: {"view": c.view + 1},
    "a signature": _with_bad_signature,
    "a signature missing": lambda c: {"signatures": c.signatures[1:]},
    "no quorum": _without_quorum,
    "no signer": lambda c: {"signers": (), "signatures": ()},
    "signers in disorder": lambda c: {"signers": (1, 0, 2, 3, 4)},
    "a signer twice": lambda c: {"signers": (0, 0, 1, 2, 3)},
    "no such signer": lambda c: {"signers": (0, 1, 2, 3, 5)},
}
"""What can be wrong with a certificate of any kind."""


def _parent(what: str, change: Change) -> Forgery:
    def forge(forger: Forger) -> None:
        certificate = forger.block.body.parent_certificate
        assert certificate is not None
        forger.body(parent_certificate=replace(certificate, **change(certificate)))

    return Forgery(f"parent certificate: {what}", forge, "parent_certificate")


def _nullification(what: str, change: Change) -> Forgery:
    def forge(forger: Forger) -> None:
        first, *rest = forger.block.body.nullifications
        forger.body(nullifications=(replace(first, **change(first)), *rest))

    return Forgery(f"nullification: {what}", forge, "nullifications")


def _nullifications(what: str, change: Callable[[list[Certificate]], list[Certificate]]) -> Forgery:
    def forge(forger: Forger) -> None:
        forger.body(nullifications=tuple(change(list(forger.block.body.nullifications))))

    return Forgery(f"nullifications: {what}", forge, "nullifications")


def _finality(what: str, change: Change) -> Forgery:
    def forge(forger: Forger) -> None:
        certificate = forger.finals[forger.height]
        assert certificate is not None
        forger.finals[forger.height] = replace(certificate, **change(certificate))

    return Forgery(f"finality: {what}", forge, "finality")


def _finality_votes(what: str, kind: VoteKind, change: Callable[[Header], dict[str, Any]]) -> Forgery:
    """A certificate that everybody signed, of something else."""

    def forge(forger: Forger) -> None:
        header = forger.block.header
        fields = {"epoch": header.epoch, "view": header.view, "block_id": header.id, **change(header)}
        forger.finals[forger.height] = forger.chain.certify_id(kind, **fields)

    return Forgery(f"finality: {what}", forge, "finality")


def _finalize_by_next(forger: Forger) -> None:
    """A certificate that all of the next epoch's committee signed, in its own positions."""
    header = forger.block.header
    following = forger.chain.get_epoch(header.epoch).next_validators
    votes = [
        sign_vote(
            forger.chain.keys[each.public_key], forger.genesis.chain_id, VoteKind.FINALIZE,
            header.epoch, header.view, header.id,
        )
        for each in following
    ]  # fmt: skip
    forger.finals[forger.height] = make_certificate(votes, following)


def _finality_bytes(what: str, change: Callable[[bytes], bytes]) -> Forgery:
    def forge(forger: Forger) -> None:
        certificate = forger.finals[forger.height]
        assert certificate is not None
        forger.raw_finals[forger.height] = change(certificate.encode())

    return Forgery(f"finality: {what}", forge, "finality")


def _late(what: str, change: Callable[[Forger, Vote], Sequence[Vote]], field: str = "late_votes") -> Forgery:
    """Change the late votes of the struck block, which has one."""

    def forge(forger: Forger) -> None:
        (vote,) = forger.block.body.late_votes
        forger.body(late_votes=tuple(change(forger, vote)))

    return Forgery(f"late votes: {what}", forge, field)


def _vote_again(forger: Forger, vote: Vote, kind: VoteKind = VoteKind.NOTARIZE, **fields: Any) -> Vote:
    """The late vote with other content, signed by the validator that it names."""
    changed = replace(vote, **fields)
    key = forger.chain.keys.get(changed.signer, make_key("stranger"))
    return sign_vote(key, forger.genesis.chain_id, kind, changed.epoch, changed.view, changed.block_id)


def _get_present(forger: Forger) -> bytes:
    """A member whose vote is in the certificates."""
    return next(
        each.public_key
        for each in forger.chain.get_epoch(forger.block.header.epoch).validators
        if each.public_key != forger.chain.validators[3].public_key
    )


LATE_VOTES = [
    _late("left out", lambda f, vote: [], "state_root"),
    _late("twice", lambda f, vote: [vote, vote]),
    _late("signature", lambda f, vote: [replace(vote, signature=flip(vote.signature))]),
    _late("signer", lambda f, vote: [replace(vote, signer=_get_present(f))]),
    _late("of one counted already", lambda f, vote: [vote, _vote_again(f, vote, signer=_get_present(f))]),
    _late("of a stranger", lambda f, vote: [_vote_again(f, vote, signer=make_key("stranger").public_key)]),
    _late("to finalize", lambda f, vote: [_vote_again(f, vote, VoteKind.FINALIZE)]),
    _late("to nullify", lambda f, vote: [_vote_again(f, vote, VoteKind.NULLIFY, block_id=NO_BLOCK)]),
    _late("claiming another kind", lambda f, vote: [replace(vote, kind=int(VoteKind.FINALIZE))]),
    _late("view", lambda f, vote: [_vote_again(f, vote, view=vote.view + 1)]),
    _late("epoch", lambda f, vote: [_vote_again(f, vote, epoch=vote.epoch - 1)]),
    _late("block", lambda f, vote: [_vote_again(f, vote, block_id=OTHER)]),
    _late(
        "for the last block of the epoch before",
        lambda f, vote: [
            vote,
            f.chain.vote(f.chain.validators[3], f.blocks[4 * f.block.header.epoch]),
        ],
    ),
]


EVIDENCE = [
    Forgery("no parent certificate", lambda f: f.body(parent_certificate=None), "parent_certificate"),
    _parent("a finalization", lambda c: {"kind": 3}),
    _parent("a nullification", lambda c: {"kind": 2, "block_id": NO_BLOCK}),
    _parent("block", lambda c: {"block_id": OTHER}),
    _nullification("a notarization", lambda c: {"kind": 1, "block_id": OTHER}),
    _nullification("block", lambda c: {"block_id": OTHER}),
    _nullifications("none", lambda all: []),
    _nullifications("one missing", lambda all: all[1:]),
    _nullifications("one twice", lambda all: [all[0]] * len(all)),
    _nullifications("in disorder", lambda all: all[::-1]),
    _nullifications("one too many", lambda all: [*all, all[-1]]),
    _finality("kind", lambda c: {"kind": 1}),
    _finality("block", lambda c: {"block_id": OTHER}),
    _finality_votes("a notarization", VoteKind.NOTARIZE, lambda header: {}),
    _finality_votes("of another block", VoteKind.FINALIZE, lambda header: {"block_id": OTHER}),
    _finality_votes("in a later view", VoteKind.FINALIZE, lambda header: {"view": header.view + 1}),
    _finality_votes("in an earlier view", VoteKind.FINALIZE, lambda header: {"view": header.view - 1}),
    Forgery("finality: of another committee", lambda f: _finalize_by_next(f), "finality"),
    _finality_bytes("garbage", lambda raw: b"garbage"),
    _finality_bytes("a trailing byte", lambda raw: raw + b"\0"),
    _finality_bytes("cut short", lambda raw: raw[:-1]),
    *[_parent(what, change) for what, change in CERTIFICATE_CHANGES.items()],
    *[_nullification(what, change) for what, change in CERTIFICATE_CHANGES.items()],
    *[_finality(what, change) for what, change in CERTIFICATE_CHANGES.items()],
]


def _swap(forger: Forger) -> None:
    here = forger.height
    forger.order[here - 1], forger.order[here] = forger.order[here], forger.order[here - 1]


def _write_version_longer(forger: Forger) -> None:
    """The version as an integer of two bytes: the same value, but not its canonical encoding."""
    forger.raw[forger.height] = forger.block.encoded.replace(b"\x01", b"\xcc\x01", 1)


ENCODINGS = [
    Forgery("garbage", lambda f: f.raw.update({f.height: b"garbage"}), "encoding"),
    Forgery("empty", lambda f: f.raw.update({f.height: b""}), "encoding"),
    Forgery("cut short", lambda f: f.raw.update({f.height: f.block.encoded[:-1]}), "encoding"),
    Forgery("a trailing byte", lambda f: f.raw.update({f.height: f.block.encoded + b"\0"}), "encoding"),
    Forgery("not canonical", _write_version_longer, "encoding"),
    Forgery("another record", lambda f: f.raw.update({f.height: f.block.header.encode()}), "encoding"),
    Forgery("a block missing", lambda f: f.order.remove(f.height), "height"),
    Forgery("a block twice", lambda f: f.order.insert(f.height, f.height), "height", offset=1),
    Forgery("blocks swapped", _swap, "height"),
    Forgery("a block of another chain", lambda f: f.put(Chain(name="other").append(), f.height), "chain_id"),
]

FORGERIES = [*HEADERS, *BODIES, *EVIDENCE, *LATE_VOTES, *ENCODINGS]
