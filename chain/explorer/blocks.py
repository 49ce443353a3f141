"""Blocks and operations of a stored chain, as JSON."""

from __future__ import annotations

from typing import Any

from chain.crypto import format_address, parse_address
from chain.exceptions import KeyFormatError, NotFound, StoreDamaged, StoreError
from chain.explorer.plain import header_to_plain, operation_to_plain
from chain.json_form import to_plain
from chain.store.reader import ChainReader
from chain.store.writer import ChainStore
from chain.transition.fees import compute_fee
from chain.types.blocks import Block, Header
from chain.types.votes import Certificate

MAX_PAGE = 200
"""Most entries of one page."""
MAX_PAGE_OPERATIONS = 2_048
"""Operations that a page reads. It ends with the block in which it reaches them: full blocks take long to read."""


def show_head(chain: ChainStore) -> dict[str, Any]:
    """The last final block, and what the chain is.

    ``first_block`` is the first height whose block is here, ``indexed_height`` up to where the operations of accounts
    are indexed (None: they are not).
    """
    genesis, totals = chain.genesis, chain.state.totals
    return {
        "name": genesis.name,
        "chain_id": genesis.chain_id.hex(),
        **header_to_plain(chain.header),
        "epoch_heights": genesis.parameters.epoch_heights,
        "first_block": chain.base.height + 1,
        "indexed_height": chain.indexed_height,
        "supply": totals.supply,
        "treasury": totals.treasury,
        "validators": len(_get_committee(chain)),
    }


def _get_committee(chain: ChainStore) -> list[Any]:
    return list(chain.validators(chain.header.epoch) or ())


def list_blocks(chain: ChainReader, before: int | None = None, limit: int = 50) -> dict[str, Any]:
    """A page of blocks, the latest first: up to ``limit`` of those below the height ``before``.

    ``next`` is the ``before`` of the next page, None on the last one.
    """
    top = chain.height if before is None else min(before - 1, chain.height)
    rows, operations = [], 0
    for height in range(top, max(chain.base.height, top - min(limit, MAX_PAGE)), -1):
        rows.append(_summarize(chain, get_block(chain, height)))
        operations += rows[-1]["operations"]
        if operations >= MAX_PAGE_OPERATIONS:
            break
    last = rows[-1]["height"] if rows else 0
    return {"blocks": rows, "next": last if last > chain.base.height + 1 else None}


def _summarize(chain: ChainReader, block: Block) -> dict[str, Any]:
    header = block.header
    return {
        **header_to_plain(header),
        "view": header.view,
        "proposer": format_address(header.proposer),
        "operations": len(block.body.operations),
        "failed": sum(failure is not None for failure in chain.failures(header.height)),
        "share": compute_share(chain, header, chain.certificate(header.height)),
    }


def show(chain: ChainReader, what: str) -> dict[str, Any]:
    """The block or operation that a text names: a height, the id of a block or an operation, or ``head``.

    Raises:
        NotFound: no final one is named so.
        StoreError: the text can name none, or the block is not here any more.
    """
    if what == "head":
        return show_block(chain, chain.height)
    if is_height(what):
        return show_block(chain, int(what))
    try:
        wanted = bytes.fromhex(what)
    except ValueError:
        raise StoreError(f"{what!r} is neither a height nor a block or operation id") from None
    found = chain.find_operation(wanted)
    if found is not None:
        return _describe_found(chain, *found)
    height = chain.height_of_block(wanted)
    if height is None:
        raise _not_found(chain, what)
    return show_block(chain, height)


def is_height(text: str) -> bool:
    """Whether a text is a number that a height can be."""
    return text.isascii() and text.isdigit() and len(text) < 20


def show_block(chain: ChainReader, height: int) -> dict[str, Any]:
    """A final block with its operations, and by whose votes it is final.

    Raises:
        NotFound: it is above the last final block.
        StoreError: it is not here any more.
    """
    if height > chain.height:
        raise _not_found(chain, str(height))
    if height == 0:
        header = chain.genesis.header
        return {"id": header.id.hex(), "header": to_plain(header), "final_by": None, "operations": []}
    block = get_block(chain, height)
    nearest, failures = chain.nearest_certificate(block.height), read_failures(chain, block)
    return {
        "id": block.id.hex(),
        "header": to_plain(block.header),
        "final_by": None if nearest is None else _describe_certificate(chain, *nearest),
        "operations": [describe_operation(chain, block, index, failures) for index in range(len(failures))],
    }


def show_operation(chain: ChainReader, operation_id: str) -> dict[str, Any]:
    """A final operation.

    Raises:
        NotFound: there is none with this id.
        StoreError: its block is not here any more.
    """
    try:
        found = chain.find_operation(bytes.fromhex(operation_id))
    except ValueError:
        found = None
    if found is None:
        raise _not_found(chain, operation_id)
    return _describe_found(chain, *found)


def _describe_found(chain: ChainReader, height: int, index: int) -> dict[str, Any]:
    block = get_block(chain, height)
    return describe_operation(chain, block, index, read_failures(chain, block))


def search(chain: ChainReader, text: str) -> dict[str, Any]:
    """What a text names: ``kind`` is ``block``, ``operation``, ``account`` or None, ``id`` what to ask for."""
    text = text.strip()
    kind: str | None = None
    if is_height(text):
        kind = "block" if int(text) <= chain.height else None
    elif len(text) == 64 and not set(text.lower()) - set("0123456789abcdef"):
        wanted = bytes.fromhex(text)
        if chain.find_operation(wanted) is not None:
            kind = "operation"
        elif chain.height_of_block(wanted) is not None:
            kind = "block"
    else:
        try:
            text, kind = format_address(parse_address(text)), "account"
        except KeyFormatError:
            kind = None
    return {"kind": kind, "id": text if kind else None}


def get_block(chain: ChainReader, height: int) -> Block:
    """The final block at a height that is not above the last.

    Raises:
        StoreError: it is not here any more, or missing.
    """
    block = chain.block(height)
    if block is None and height <= chain.base.height:
        raise NotFound(f"block {height} is not here any more: this node keeps those after {chain.base.height}")
    if block is None:
        raise StoreDamaged(f"block {height} is missing")
    return block


def read_failures(chain: ChainReader, block: Block) -> list[str | None]:
    """Why each operation of a block failed, None where it did not. They are read once for all of a block.

    Raises:
        StoreDamaged: they are not those of the block.
    """
    failures = chain.failures(block.height) or [None] * len(block.body.operations)
    if len(failures) != len(block.body.operations):
        raise StoreDamaged(f"what is said about the operations of block {block.height} does not fit them")
    return failures


def describe_operation(chain: ChainReader, block: Block, index: int, failures: list[str | None]) -> dict[str, Any]:
    """Number ``index`` of the operations of a block, with its fee, its place and why it failed, if it did.

    Raises:
        StoreDamaged: the block has no such operation.
    """
    if index >= len(failures):
        raise StoreDamaged(f"block {block.height} has no operation number {index}")
    signed = block.body.operations[index]
    return {
        **operation_to_plain(signed),
        "fee": compute_fee(chain.genesis, signed),
        "height": block.height,
        "index": index,
        "failure": failures[index],
    }


def _describe_certificate(chain: ChainReader, height: int, certificate: Certificate) -> dict[str, Any]:
    content: dict[str, Any] = {"height": height, "signers": len(certificate.signers)}
    header = chain.find_header(height)
    validators = None if header is None else chain.validators(header.epoch)
    if header is None or validators is None or validators.hash != header.validators_hash:  # before a restart
        return {**content, "share": None, "votes": []}
    votes = [validators[position] for position in certificate.signers]
    return {
        **content,
        "share": compute_share(chain, header, certificate),
        "votes": [
            {"address": format_address(each.public_key), "share": each.stake / validators.total_stake} for each in votes
        ],
    }


def compute_share(chain: ChainReader, header: Header, certificate: Certificate | None) -> float | None:
    """The share of stake (0 to 1) that signed a certificate; None where that cannot be told, as before a restart."""
    validators = chain.validators(header.epoch)
    if certificate is None or validators is None or validators.hash != header.validators_hash:
        return None
    return sum(validators[position].stake for position in certificate.signers) / validators.total_stake


def _not_found(chain: ChainReader, what: str) -> NotFound:
    return NotFound(f"no final block or operation {what} (the last final block is {chain.height})")
