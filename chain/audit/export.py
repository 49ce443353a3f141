"""Export files: a whole chain in one file, to be audited anywhere.

After a magic line and the number of blocks (8 bytes) come records, each a length (4 bytes, big-endian) and that many
bytes: the genesis, then for each height the block and its finality certificate (empty where it has none of its own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from chain.audit.sources import ChainSource
from chain.exceptions import CodecError, StoreError
from chain.genesis import MAX_GENESIS_BYTES, Genesis
from chain.light.client import LightClientUpdate
from chain.state.state import State
from chain.transition.block import Transition
from chain.types.blocks import Block, Header

MAGIC = b"wwwserve chain 1\n"
"""First bytes of an export file, with its version."""


class ExportWriter:
    """Writes an export; a context manager. The file must not exist, and is removed on an error."""

    def __init__(self, path: Path, genesis: Genesis) -> None:
        self._path = path
        self._count = 0
        self._file = path.open("xb")
        self._file.write(MAGIC + bytes(8))
        self._write(genesis.encode())

    def add(self, block: bytes, certificate: bytes | None) -> None:
        """Append the encoded block of the next height."""
        self._write(block)
        self._write(certificate or b"")
        self._count += 1

    def _write(self, raw: bytes) -> None:
        self._file.write(len(raw).to_bytes(4, "big") + raw)

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._file.seek(len(MAGIC))
            self._file.write(self._count.to_bytes(8, "big"))
        self._file.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)


class ExportSource:
    """The chain in an export file, which stays open: it may lose its name meanwhile.

    Raises:
        StoreError: not such a file, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        if self._file.read(len(MAGIC)) != MAGIC:
            raise StoreError(f"{path} is not a chain export")
        self.height = int.from_bytes(self._take(8), "big")
        try:
            self.genesis = Genesis.decode(self._read(), MAX_GENESIS_BYTES)
        except CodecError as error:
            raise StoreError(f"the genesis in {path} is damaged: {error}") from error
        self.base = self.genesis.header
        self._start = self._file.tell()

    def _read(self) -> bytes:
        size = int.from_bytes(self._take(4), "big")
        if size > MAX_GENESIS_BYTES:
            raise StoreError(f"{self._path} is damaged near byte {self._file.tell()}")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        raw = self._file.read(size)
        if len(raw) != size:
            raise StoreError(f"{self._path} is cut short: it ends at byte {self._file.tell()}")
        return raw

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read_base(self) -> State:
        """See :class:`chain.audit.sources.ChainSource`."""
        return self.genesis.state

    def light_client_updates(self) -> Iterator[LightClientUpdate]:
        """An export has none: the certificates of the blocks say as much."""
        return iter(())

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See :class:`chain.audit.sources.ChainSource`."""
        self._file.seek(self._start)
        for _ in range(self.height):
            yield self._read(), self._read() or None
        if self._file.read(1):
            raise StoreError(f"{self._path} has something after its last block")

    def check_block(self, block: Block, before: State, transition: Transition) -> None:
        """An export says nothing about a block but what is in it."""

    def check(self, state: State, header: Header) -> None:
        """An export holds no state to compare with."""


def export_chain(source: ChainSource, path: Path, on_progress: Callable[[int], None] = lambda height: None) -> int:
    """Write the chain of ``source`` to a new file. Returns the number of blocks.

    Raises:
        StoreError: not all of its blocks are there.
    """
    if source.base.height:
        raise StoreError(
            f"the blocks up to {source.base.height} are not here any more, and an export begins with the first; export "
            "the chain of a node that keeps everything"
        )
    with ExportWriter(path, source.genesis) as writer:
        for height, (block, certificate) in enumerate(source.entries(), start=1):
            writer.add(block, certificate)
            on_progress(height)
    return source.height
