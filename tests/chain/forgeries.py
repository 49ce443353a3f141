"""Chains to audit, and every single way to forge one: material for the tests of the audit.

A :class:`Forger` holds all keys. It signs what it forges, and has it certified by everybody, so that nothing but the
rule in question can catch it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chain.blocks import NO_REVEAL, Block, Body, Header, sign_block
from chain.blockstore import BlockStore
from chain.codec import pack
from chain.crypto import KeyPair, hash_bytes
from chain.genesis import Genesis
from chain.operations import Capture, Delivery, Hold, SignedOperation, Transfer, Usage, compute_hold_id, sign_operation
from chain.state import State
from chain.store import Store
from chain.transition import Transition, apply_block, execute
from chain.votes import NO_BLOCK, Certificate, VoteKind
from tests.chain.builders import MODEL, Chain, make_key

STAKES = (30_000, 25_000, 20_000, 15_000, 10_000)
OTHER = hash_bytes("test other")

Finals = dict[int, Certificate]
"""Finality certificates by height; a block without one is final by a descendant's."""


def make_busy_chain(length: int) -> tuple[Chain, Finals]:
    """A chain on which everything happens again and again, with the certificates that made it final.

    All kinds of operations, some of them failing; holds that are captured with and without receipt, refunded, disputed
    and released; nullified views; one, three and two blocks under one certificate, in turn.
    """
    chain = Chain(len(STAKES), stakes=STAKES)
    first, second = chain.users
    worker, server = chain.validators[0], chain.validators[1]
    for index in range(length):
        cycle, step = divmod(index, 8)
        seq, operations, elapsed = 2 * cycle, [], 1_000
        match step:
            case 0:
                operations = [chain.hold(first, seq), chain.transfer(first, second, 5), chain.transfer(worker, first, 7)]
                if cycle:  # a hold of the last round that nobody captured
                    operations.append(chain.sign_release(server, first, seq - 1))
            case 1:
                delivery = chain.delivery(first, seq, amount=0 if cycle % 3 == 2 else 900)
                operations = [chain.capture(chain.payee(first, seq), chain.receipt(first, delivery))]
            case 2:
                operations = [chain.hold(second, seq, 1 + cycle % 2), chain.bond(worker, 500)]
            case 3:
                delivery = chain.delivery(second, seq, 1 + cycle % 2)
                operations = [chain.capture(chain.payee(second, seq, 1 + cycle % 2), delivery)]
                operations.append(chain.transfer(first, second, 10_000_000))  # fails
            case 4:
                operations = [chain.unbond(worker, 300)]
                if cycle % 2:
                    operations.append(chain.sign_dispute(second, seq, 1 + cycle % 2))
            case 5:
                operations = [chain.hold(first, seq + 1, lifetime=2_500), chain.serve(server, MODEL)]
            case 6:
                operations = [chain.withdraw(worker)]  # fails while nothing has finished unbonding
            case 7:
                elapsed = 3_000
        chain.append(operations, elapsed=elapsed, skipped=2 if index % 5 == 3 else 0)
    finals, ends = {}, 0
    for number in range(length):
        ends += (1, 3, 2)[number % 3]
        if ends >= length:
            break
        finals[ends] = chain.finality(chain.blocks[ends - 1])
    finals[length] = chain.finality(chain.blocks[-1])
    return chain, finals


def get_transitions(chain: Chain) -> list[tuple[Block, Transition]]:
    """The blocks of a chain, each with what it leads to."""
    headers = [chain.genesis.header, *(block.header for block in chain.blocks)]
    return [
        (block, apply_block(chain.genesis, headers[index], chain.states[index], block))
        for index, block in enumerate(chain.blocks)
    ]


def fill_store(store: Store, chain: Chain, finals: Finals) -> BlockStore:
    """Write a chain to a store, one batch per certificate, as a node would."""
    blocks = BlockStore(store, chain.genesis)
    transitions = get_transitions(chain)
    start = 0
    for height in sorted(finals):
        blocks.append(transitions[start:height], finals[height], (height, OTHER))
        start = height
    return blocks


class ListSource:
    """A chain in memory, as a source for the audit."""

    def __init__(self, genesis: Genesis, entries: Sequence[tuple[bytes, bytes | None]], height: int) -> None:
        self.genesis = genesis
        self.height = height
        self._entries = entries

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See :class:`chain.verify.Source`."""
        yield from self._entries

    def check_block(self, block: Block, failures: Sequence[str | None]) -> None:
        """See :class:`chain.verify.Source`."""

    def check(self, state: State, header: Header) -> None:
        """See :class:`chain.verify.Source`."""


class Forger:
    """A chain being forged.

    ``height`` is that of the block that most forgeries strike: one with nullified views before it, several operations,
    a notarized parent, and a certificate of its own.
    """

    def __init__(self, chain: Chain, finals: Finals) -> None:
        self.chain = chain
        self.genesis = chain.genesis
        self.blocks = dict(enumerate(chain.blocks, start=1))
        self.finals: dict[int, Certificate | None] = dict(finals)
        self.raw: dict[int, bytes] = {}
        self.raw_finals: dict[int, bytes] = {}
        self.order = list(self.blocks)
        self.claimed_height = len(self.blocks)
        self.height = next(
            height
            for height in sorted(finals)
            if height > 8
            and chain.blocks[height - 1].body.nullifications
            and len(chain.blocks[height - 1].body.operations) > 1
            and chain.blocks[height - 2].header.epoch == chain.blocks[height - 1].header.epoch
            and height < len(chain.blocks)
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
            entries.append(
                (self.raw.get(height, self.blocks[height].encoded), self.raw_finals.get(height, encoded))
            )
        return ListSource(self.genesis, entries, self.claimed_height)

    def find(self, kind: type, *, after: int = 0) -> tuple[int, int]:
        """Height and index of the first operation of a kind above a height."""
        return next(
            (height, index)
            for height, block in self.blocks.items()
            if height > after
            for index, signed in enumerate(block.body.operations)
            if isinstance(signed.operation, kind)
        )

    def put(self, block: Block, height: int | None = None, *, certify: bool = True) -> None:
        """Replace a block, and by default its certificate if it has one."""
        height = self.height if height is None else height
        self.blocks[height] = block
        if certify and self.finals.get(height) is not None:
            self.finals[height] = self.chain.finality(block)

    def header(self, height: int | None = None, *, certify: bool = True, **fields: Any) -> None:
        """Change header fields, and sign as the proposer that the header names."""
        block = self.blocks[self.height if height is None else height]
        header = replace(block.header, **fields)
        key = self.chain.keys.get(header.proposer, make_key("stranger"))
        self.put(sign_block(key, header, block.body), height, certify=certify)

    def body(self, height: int | None = None, **fields: Any) -> None:
        """Change the body and its root."""
        block = self.blocks[self.height if height is None else height]
        body = replace(block.body, **fields)
        header = replace(block.header, body_root=body.compute_root())
        self.put(sign_block(self.chain.keys[header.proposer], header, body), height)

    def operations(self, change: Callable[[list[SignedOperation]], Any], height: int | None = None) -> None:
        """Change the list of operations, and every root as far as it can be executed."""
        height = self.height if height is None else height
        block = self.blocks[height]
        operations = list(block.body.operations)
        change(operations)
        self.body(height, operations=tuple(operations))

    def operation(self, kind: type, signer: KeyPair | None = None, **fields: Any) -> tuple[int, int]:
        """Change fields of the first operation of a kind, signed by its signer (or another key, under its name)."""
        height, index = self.find(kind)
        signed = self.blocks[height].body.operations[index]
        changed = replace(signed.operation, **fields)
        key = signer or self.chain.keys[signed.signer]
        forged = replace(sign_operation(key, self.genesis.chain_id, changed), signer=signed.signer)
        self.operations(lambda operations: operations.__setitem__(index, forged), height)
        return height, index

    def evidence(self, **fields: Any) -> None:
        """Change fields of the parent's certificate."""
        certificate = self.block.body.parent_certificate
        assert certificate is not None
        self.body(parent_certificate=replace(certificate, **fields))

    def nullification(self, **fields: Any) -> None:
        """Change fields of the first nullification."""
        first, *rest = self.block.body.nullifications
        self.body(nullifications=(replace(first, **fields), *rest))

    def finality(self, **fields: Any) -> None:
        """Change fields of the finality certificate."""
        certificate = self.finals[self.height]
        assert certificate is not None
        self.finals[self.height] = replace(certificate, **fields)

    def steal(self) -> None:
        """A state root with credit out of nothing, and everything else in order."""
        block = self.block
        key = self.chain.users[0].public_key
        after = execute(
            self.genesis,
            self.blocks[self.height - 1].header,
            self.chain.states[self.height - 1],
            block.header,
            block.body.operations,
        ).state
        account = after.account(key)
        rich = after.update({b"a" + key: replace(account, available=account.available + 1)})
        self.header(state_root=rich.root)

    def few(self, certificate: Certificate | None, count: int) -> dict[str, Any]:
        """The first signers of a certificate only."""
        assert certificate is not None
        return {"signers": certificate.signers[:count], "signatures": certificate.signatures[:count]}

    def broken(self, certificate: Certificate | None) -> dict[str, Any]:
        """The signatures of a certificate with the last one damaged."""
        assert certificate is not None
        *rest, last = certificate.signatures
        return {"signatures": (*rest, flip(last))}


def flip(raw: bytes, position: int = 10) -> bytes:
    """``raw`` with one bit changed."""
    changed = bytearray(raw)
    changed[position] ^= 1
    return bytes(changed)


@dataclass(frozen=True)
class Forgery:
    """One forgery: what is done, and the field and the height (counted from the forger's) that the audit must name."""

    name: str
    forge: Callable[[Forger], Any]
    field: str
    offset: int = 0
    kind: type | None = None
    """The fault is in the block of the first operation of this kind; ``field`` may hold its ``{index}``."""

    def __str__(self) -> str:
        return self.name


def _headers() -> Iterator[Forgery]:
    """Every field of the header, signed again by the proposer and certified again by all."""

    def changed(field: str, value: Callable[[Forger], Any], caught: str | None = None) -> Forgery:
        return Forgery(f"header {field}", lambda f: f.header(**{field: value(f)}), caught or field)

    yield changed("version", lambda f: 2)
    yield changed("chain_id", lambda f: OTHER)
    yield changed("epoch", lambda f: f.block.header.epoch + 1)
    yield changed("height", lambda f: f.height + 1)
    yield changed("view", lambda f: f.blocks[f.height - 1].header.view)
    yield changed("parent_id", lambda f: OTHER)
    yield changed("timestamp", lambda f: f.blocks[f.height - 1].header.timestamp)
    yield changed("chain_time", lambda f: f.block.header.chain_time + 1)
    yield changed("proposer", lambda f: next(k.public_key for k in f.chain.validators if k is not f.chain.keys[f.block.header.proposer]))
    yield changed("body_root", lambda f: OTHER)
    yield changed("state_root", lambda f: OTHER)
    yield changed("history_root", lambda f: OTHER)
    yield changed("validators_hash", lambda f: OTHER)
    yield changed("next_validators_hash", lambda f: OTHER)
    yield changed("beacon_reveal", lambda f: flip(NO_REVEAL))
    yield Forgery("header chain_time left behind", lambda f: f.header(timestamp=f.block.header.timestamp + 1), "chain_time")
    yield Forgery(
        "header timestamp moved, all keys",
        lambda f: f.header(timestamp=f.block.header.timestamp + 1, chain_time=f.block.header.chain_time + 1),
        "parent_id",
        offset=1,
    )
    yield Forgery("header view skipped", lambda f: f.header(view=later_view(f)), "nullifications")
    yield Forgery("header of a stranger", lambda f: f.header(proposer=make_key("stranger").public_key), "proposer")
    yield Forgery("header not certified again", lambda f: f.header(state_root=OTHER, certify=False), "finality")
    yield Forgery("signature", lambda f: f.put(replace(f.block, signature=flip(f.block.signature))), "signature")
    yield Forgery(
        "signature of another",
        lambda f: f.put(sign_block(make_key("stranger"), f.block.header, f.block.body)),
        "signature",
    )
    yield Forgery("credit out of nothing", Forger.steal, "state_root")


def later_view(forger: Forger) -> int:
    """A view above the struck block's that the same validator leads."""
    header = forger.block.header
    view = header.view + 1
    while forger.chain.leader(view, header.epoch).public_key != header.proposer:
        view += 1
    return view


def _bodies() -> Iterator[Forgery]:
    """The body, with the root that belongs to it."""
    yield Forgery(
        "body against its root",
        lambda f: f.put(replace(f.block, body=replace(f.block.body, operations=f.block.body.operations[1:]))),
        "body_root",
    )
    yield Forgery("operation left out", lambda f: f.operations(lambda o: o.pop()), "state_root")
    yield Forgery("operation twice", lambda f: f.operations(lambda o: o.append(o[0])), "operations")
    yield Forgery(
        "operation of another block",
        lambda f: f.operations(lambda o: o.append(f.blocks[1].body.operations[1])),
        "operations",
    )
    yield Forgery("nothing happened", lambda f: f.operations(lambda o: o.clear()), "state_root")
    yield Forgery(
        "operation without an account",
        lambda f: f.operations(lambda o: o.append(sign(f, make_key("stranger"), Transfer(0, OTHER_KEY, 0)))),
        "operations",
    )
    yield Forgery(
        "operation of another chain",
        lambda f: f.operations(lambda o: o.append(sign_operation(f.chain.users[0], OTHER, Transfer(0, OTHER_KEY, 0)))),
        "operations[{count}]",
    )
    for kind, fields in (
        (Transfer, {"amount": 6}),
        (Transfer, {"nonce": 1}),
        (Transfer, {"recipient": make_key("stranger").public_key}),
        (Transfer, {"memo": b"x"}),
        (Hold, {"amount": 1}),
        (Hold, {"deadline": 1}),
    ):
        name = f"{kind.__name__} with another {next(iter(fields))}"
        yield Forgery(
            f"{name}, by a stranger",
            lambda f, kind=kind, fields=fields: f.operation(kind, make_key("stranger"), **fields),
            "operations[{index}]",
            kind=kind,
        )
    for kind, field, value, caught in (
        (Transfer, "amount", lambda f: 6, "state_root"),
        (Transfer, "nonce", lambda f: 1, "operations"),
        (Transfer, "recipient", lambda f: make_key("stranger").public_key, "state_root"),
        (Transfer, "recipient", lambda f: bytes(32), "operations"),
        (Hold, "payee", lambda f: f.chain.users[1].public_key, "operations"),
        (Hold, "amount", lambda f: 2**62, "operations"),
        (Hold, "epoch", lambda f: 1, "operations"),
        (Hold, "seq", lambda f: 256, "operations"),
        (Hold, "attempt", lambda f: 3, "operations"),
        (Hold, "model", lambda f: "unknown", "operations"),
        (Hold, "request_digest", lambda f: OTHER, "state_root"),
        (Hold, "deadline", lambda f: 0, "operations"),
        (Capture, "items", lambda f: dearer(f), "operations"),
        (Capture, "items", lambda f: unreceipted(f), "state_root"),
        (Capture, "items", lambda f: forged_receipt(f), "operations"),
    ):
        yield Forgery(
            f"{kind.__name__} with {value.__code__.co_consts[-1] if field != 'items' else value.__code__.co_names[-1]!r} as {field}",
            lambda f, kind=kind, field=field, value=value: f.operation(kind, **{field: value(f)}),
            caught,
            kind=kind,
        )


OTHER_KEY = make_key("other").public_key


def sign(forger: Forger, key: KeyPair, operation: Any) -> SignedOperation:
    """An operation signed on the forger's chain."""
    return sign_operation(key, forger.genesis.chain_id, operation)
