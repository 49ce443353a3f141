"""The final chain on disk: blocks, certificates, indexes, and the state after the last block.

Layout of the store (numbers are 8 bytes, big-endian):

=====================  =====================================================
``b`` height           block
``f`` height           finality certificate of that very block, where one was seen
``x`` height           reasons of the operations that failed, where any did
``n`` block id         height
``o`` operation id     height, index
``s`` state key        state entry after the last block
``m`` name             chain id, genesis, height, journal mark
=====================  =====================================================

One batch per finality certificate carries all of it, so that a crash leaves the chain before or after, never between.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.blocks import Block, Header
from chain.codec import pack, unpack
from chain.exceptions import CodecError, StoreError
from chain.genesis import Genesis
from chain.state import State
from chain.store import Store
from chain.transition import Transition
from chain.votes import Certificate

FORMAT = b"1"
GENESIS_KEY = b"mgenesis"
_FORMAT_KEY = b"mformat"
_HEIGHT_KEY = b"mheight"
_JOURNAL_KEY = b"mjournal"

MAX_GENESIS = 8 << 20


class BlockStore:
    """The final blocks of one chain.

    ``header`` and ``state`` are those of the last final block (of genesis on a new chain).

    Raises:
        StoreError: the store is damaged, or belongs to another chain.
    """

    def __init__(self, store: Store, genesis: Genesis) -> None:
        self._store = store
        self.genesis = genesis
        stored = store.get(GENESIS_KEY)
        if stored is None:
            if next(store.items(b""), None) is not None:
                raise StoreError("the database holds something, but no genesis: it is damaged or not a chain")
            store.write(
                {
                    _FORMAT_KEY: FORMAT,
                    GENESIS_KEY: genesis.encode(),
                    _HEIGHT_KEY: _number(0),
                    **{b"s" + leaf.key: leaf.encoded for leaf in genesis.state.entries()},
                }
            )
        elif store.get(_FORMAT_KEY) != FORMAT:
            raise StoreError("the database was written by another version of this program")
        elif stored != genesis.encode():
            other = load_stored_genesis(store)
            raise StoreError(
                f"the database belongs to chain {other.name!r} ({other.chain_id.hex()[:8]}), "
                f"not {genesis.name!r} ({genesis.chain_id.hex()[:8]})"
            )
        self.header, self.state = self._load()

    def _load(self) -> tuple[Header, State]:
        height = self._read_number(_HEIGHT_KEY)
        if height == 0:
            header = self.genesis.header
        else:
            block = self.block(height)
            if block is None:
                raise StoreError(f"block {height} is missing")
            header = block.header
        try:
            state = State.load({key[1:]: value for key, value in self._store.items(b"s")})
        except CodecError as error:
            raise StoreError(f"a state entry is damaged: {error}") from error
        if state.root != header.state_root:
            raise StoreError(f"the state on disk is not the one after block {height}")
        return header, state

    @property
    def height(self) -> int:
        """Height of the last final block."""
        return self.header.height

    @property
    def journal_mark(self) -> tuple[int, bytes] | None:
        """Length and head hash of the vote journal at the last final batch, or None before the first."""
        raw = self._store.get(_JOURNAL_KEY)
        if raw is None:
            return None
        return int.from_bytes(raw[:8], "big"), raw[8:]

    def append(
        self,
        blocks: Sequence[tuple[Block, Transition]],
        certificate: Certificate,
        journal_mark: tuple[int, bytes] | None = None,
    ) -> None:
        """Add ``blocks``, a chain from the last final block on, made final by ``certificate`` of the last of them.

        The caller has checked them. Everything is on disk when this returns.
        """
        changes: dict[bytes, bytes | None] = {}
        parent = self.header
        for block, transition in blocks:
            if block.header.parent_id != parent.id:
                raise ValueError(f"block {block.height} does not follow block {parent.height}")
            parent, number = block.header, _number(block.height)
            changes[b"b" + number] = block.encoded
            changes[b"n" + block.id] = number
            for index, operation in enumerate(block.body.operations):
                changes[b"o" + operation.id] = number + _number(index)
            if any(failure is not None for failure in transition.failures):
                changes[b"x" + number] = pack(list(transition.failures))
            for key, record in transition.changes.items():
                changes[b"s" + key] = None if record is None else record.encode()
        changes[b"f" + _number(parent.height)] = certificate.encode()
        changes[_HEIGHT_KEY] = _number(parent.height)
        if journal_mark is not None:
            changes[_JOURNAL_KEY] = _number(journal_mark[0]) + journal_mark[1]
        self._store.write(changes)
        self.header, self.state = parent, blocks[-1][1].state

    def block(self, height: int) -> Block | None:
        """The final block at ``height``, or None above the last (and for genesis, which is only a header)."""
        raw = self.raw_block(height)
        try:
            return None if raw is None else Block.decode(raw)
        except CodecError as error:
            raise StoreError(f"block {height} is damaged: {error}") from error

    def raw_block(self, height: int) -> bytes | None:
        """The encoded block at ``height``, unchecked."""
        return self._store.get(b"b" + _number(height))

    def certificate(self, height: int) -> Certificate | None:
        """The finality certificate of the very block at ``height``; None where only a descendant's was seen."""
        raw = self.raw_certificate(height)
        try:
            return None if raw is None else Certificate.decode(raw)
        except CodecError as error:
            raise StoreError(f"the certificate of block {height} is damaged: {error}") from error

    def raw_certificate(self, height: int) -> bytes | None:
        """The encoded certificate at ``height``, unchecked."""
        return self._store.get(b"f" + _number(height))

    def nearest_certificate(self, height: int) -> tuple[int, Certificate] | None:
        """The certificate that made ``height`` final, and its own height; None above the last final block."""
        for candidate in range(max(1, height), self.height + 1):
            certificate = self.certificate(candidate)
            if certificate is not None:
                return candidate, certificate
        return None

    def failures(self, height: int) -> list[str | None]:
        """Why each operation of the block at ``height`` failed; empty if none did."""
        raw = self._store.get(b"x" + _number(height))
        return [] if raw is None else unpack(raw)

    def height_of_block(self, block_id: bytes) -> int | None:
        """Height of a final block, or None if it is not one."""
        raw = self._store.get(b"n" + block_id)
        return None if raw is None else int.from_bytes(raw, "big")

    def find_operation(self, operation_id: bytes) -> tuple[int, int] | None:
        """Height and index of a final operation, or None."""
        raw = self._store.get(b"o" + operation_id)
        return None if raw is None else (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big"))

    def stored_state(self) -> dict[bytes, bytes]:
        """The encoded state entries as they are on disk, for the audit."""
        return {key[1:]: value for key, value in self._store.items(b"s")}

    def close(self) -> None:
        """Release the store."""
        self._store.close()

    def _read_number(self, key: bytes) -> int:
        raw = self._store.get(key)
        if raw is None or len(raw) != 8:
            raise StoreError(f"entry {key.decode()} is missing or damaged")
        return int.from_bytes(raw, "big")


def load_stored_genesis(store: Store) -> Genesis:
    """The genesis that a store was made with.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    raw = store.get(GENESIS_KEY)
    if raw is None:
        raise StoreError("the database holds no chain")
    try:
        return Genesis.decode(raw, MAX_GENESIS)
    except CodecError as error:
        raise StoreError(f"the stored genesis is damaged: {error}") from error


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")
