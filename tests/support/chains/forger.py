"""Forges a chain at one place, so that nothing but one rule can catch it.

A :class:`Forger` holds all keys. It signs what it forges, and has it certified by everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from chain.crypto import KeyPair
from chain.state.state import State
from chain.transition.block import execute
from chain.transition.epochs import get_next_epoch
from chain.types.blocks import Block, sign_block
from chain.types.operations import Capture, Operation, SignedOperation, sign_operation
from chain.types.votes import Certificate
from tests.support.chain_builder import Chain
from tests.support.chains.chain_store import Finals, ListSource
from tests.support.keys import make_key


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
