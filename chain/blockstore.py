"""The final chain on disk: blocks, certificates, indexes, and the state after the last block.

Layout of the store (numbers are 8 bytes, big-endian):

=====================  =====================================================
``b`` height           block
``f`` height           finality certificate of that very block, where one was seen
``x`` height           reasons of the operations that failed, where any did
``n`` block id         height
``o`` operation id     height, index
``s`` state key        state entry after the last block
``m`` name             format, genesis, height, journal mark
``e`` …                the node's own votes and what they rest on; no part of the chain
``w`` …                the node's own payments; no part of the chain
=====================  =====================================================

One batch per finality certificate carries all of it, so that a crash leaves the chain before or after, never between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chain.blocks import Block, Header
from chain.codec import pack, unpack
from chain.exceptions import CodecError, StoreDamaged, StoreError
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


class StoredChain:
    """What a store holds of a chain, as it stands there: nothing is checked beyond its form.

    ``height`` is that of the last final block, 0 on a new chain.

    Raises:
        StoreError: there is no chain, or in another format; from every method, when what it reads is damaged.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.genesis = load_stored_genesis(store)
        self.height = self._read_number(_HEIGHT_KEY)

    @property
    def journal_mark(self) -> tuple[int, bytes] | None:
        """Length and head hash of the vote journal at the last final batch, or None before the first."""
        raw = self._store.get(_JOURNAL_KEY)
        if raw is None:
            return None
        return int.from_bytes(raw[:8], "big"), raw[8:]

    def block(self, height: int) -> Block | None:
        """The final block at ``height``, or None above the last (and for genesis, which is only a header)."""
        raw = self.raw_block(height)
        try:
            return None if raw is None else Block.decode(raw)
        except CodecError as error:
            raise StoreDamaged(f"block {height} is damaged: {error}") from error

    def raw_block(self, height: int) -> bytes | None:
        """The encoded block at ``height``, unchecked."""
        return self._store.get(b"b" + _number(height))

    def certificate(self, height: int) -> Certificate | None:
        """The finality certificate of the very block at ``height``; None where only a descendant's was seen."""
        raw = self.raw_certificate(height)
        try:
            return None if raw is None else Certificate.decode(raw)
        except CodecError as error:
            raise StoreDamaged(f"the certificate of block {height} is damaged: {error}") from error

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
        """Why each operation of the block at ``height`` failed (None where it did not); empty if none did."""
        raw = self._store.get(b"x" + _number(height))
        try:
            failures: object = [] if raw is None else unpack(raw)
        except CodecError as error:
            raise StoreDamaged(f"the failures of block {height} are damaged: {error}") from error
        if not isinstance(failures, list) or not all(failure is None or type(failure) is str for failure in failures):
            raise StoreDamaged(f"the failures of block {height} are damaged")
        return failures

    def height_of_block(self, block_id: bytes) -> int | None:
        """Height of a final block, or None if it is not one."""
        raw = self._store.get(b"n" + block_id)
        return None if raw is None else int.from_bytes(raw, "big")

    def find_operation(self, operation_id: bytes) -> tuple[int, int] | None:
        """Height and index of a final operation, or None."""
        raw = self._store.get(b"o" + operation_id)
        return None if raw is None else (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big"))

    def stored_state(self) -> dict[bytes, bytes]:
        """The encoded entries of the state after the last final block."""
        return {key[1:]: value for key, value in self._store.items(b"s")}

    def count_entries(self) -> Counter[bytes]:
        """How many entries there are of each kind (first byte of the key)."""
        return Counter(key[:1] for key, _ in self._store.items(b""))

    def close(self) -> None:
        """Release the store."""
        self._store.close()

    def _read_number(self, key: bytes) -> int:
        raw = self._store.get(key)
        if raw is None or len(raw) != 8:
            raise StoreDamaged(f"entry {key.decode()} is missing or damaged")
        return int.from_bytes(raw, "big")


class BlockStore(StoredChain):
    """The final blocks of one chain, to read and to add to.

    ``header`` and ``state`` are those of the last final block (of genesis on a new chain).

    Raises:
        StoreError: the store is damaged, or belongs to another chain.
    """

    def __init__(self, store: Store, genesis: Genesis) -> None:
        if store.get(GENESIS_KEY) is None:
            if next(store.items(b""), None) is not None:
                raise StoreDamaged("the database holds something, but no genesis: it is damaged or not a chain")
            store.write(
                {
                    _FORMAT_KEY: FORMAT,
                    GENESIS_KEY: genesis.encode(),
                    _HEIGHT_KEY: _number(0),
                    **{b"s" + leaf.key: leaf.encoded for leaf in genesis.state.entries()},
                }
            )
        super().__init__(store)
        if self.genesis != genesis:
            raise StoreError(
                f"the database belongs to chain {self.genesis.name!r} ({self.genesis.chain_id.hex()[:8]}), "
                f"not {genesis.name!r} ({genesis.chain_id.hex()[:8]}); "
                "put back the genesis file of the one, or use another data directory for the other"
            )
        self.genesis = genesis
        self.header, self.state = self._load()

    def _load(self) -> tuple[Header, State]:
        if self.height == 0:
            header = self.genesis.header
        else:
            block = self.block(self.height)
            if block is None:
                raise StoreDamaged(f"block {self.height} is missing")
            header = block.header
        try:
            state = State.load(self.stored_state())
        except CodecError as error:
            raise StoreDamaged(f"a state entry is damaged: {error}") from error
        if state.root != header.state_root:
            raise StoreDamaged(f"the state on disk is not the one after block {self.height}")
        return header, state

    def append(
        self,
        blocks: Sequence[tuple[Block, Transition]],
        certificate: Certificate,
        journal_mark: tuple[int, bytes] | None = None,
    ) -> None:
        """Add ``blocks``, a chain from the last final block on, made final by ``certificate`` of the last of them.

        The caller has checked them. Everything is on disk when this returns.

        Raises:
            ValueError: they do not follow one another, or the certificate is not of the last.
            StoreError: the store fails; nothing was added.
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
        if not blocks or certificate.block_id != parent.id:
            raise ValueError("the certificate is not of the last block")
        changes[b"f" + _number(parent.height)] = certificate.encode()
        changes[_HEIGHT_KEY] = _number(parent.height)
        if journal_mark is not None:
            changes[_JOURNAL_KEY] = _number(journal_mark[0]) + journal_mark[1]
        self._store.write(changes)
        self.header, self.state, self.height = parent, blocks[-1][1].state, parent.height


def load_stored_genesis(store: Store) -> Genesis:
    """The genesis that a store was made with.

    Raises:
        StoreError: there is none, it is damaged, or the store has another format.
    """
    raw = store.get(GENESIS_KEY)
    if raw is None:
        raise StoreError("the database holds no chain")
    if store.get(_FORMAT_KEY) != FORMAT:
        raise StoreError("the database was written by another version of this program")
    try:
        return Genesis.decode(raw, MAX_GENESIS)
    except CodecError as error:
        raise StoreDamaged(f"the stored genesis is damaged: {error}") from error


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")
