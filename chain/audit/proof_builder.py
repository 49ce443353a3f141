"""Making proofs (:mod:`chain.light.proofs`) from a chain: in a node's store, or rebuilt from an export or another node.

Every proof is checked before it is handed out, so that a damaged store cannot make one that a stranger would refuse.
"""

from __future__ import annotations

from collections.abc import Callable

from chain.audit.sources import ChainSource
from chain.exceptions import ProofError, StoreError
from chain.light.client import Checkpoint
from chain.light.proofs import (
    MAX_LINKS,
    PROOF_VERSION,
    HeaderLink,
    PastBlock,
    Proof,
    ProvenAccount,
    ProvenOperation,
    check_age,
    check_proof,
)
from chain.merkle.list import prove_list_leaf
from chain.merkle.mountain_range import prove_mountain_range_leaf
from chain.state.keys import account_key
from chain.store.kv import MemoryStore
from chain.store.reader import ChainReader
from chain.store.writer import ChainStore
from chain.transition.block import Transition, apply_block, get_signature_checks
from chain.transition.epochs import get_epoch, get_last_height
from chain.transition.restart import get_block_epoch
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header
from chain.types.votes import Certificate


def prove_balance(chain: ChainStore, public_key: bytes, checkpoint: Checkpoint | None = None) -> Proof:
    """Prove what an account has after the last final block, or that there is none, from ``checkpoint``.

    Raises:
        ProofError: the checkpoint is not of this chain, or too old, or the chain lacks what it takes.
        StoreError: the chain cannot be read.
    """
    start = _find_checkpoint(chain, checkpoint)
    key = account_key(public_key)
    account = chain.state.account(public_key) if chain.state.get(key) is not None else None
    statement = ProvenAccount(public_key, account, chain.state.prove(key))
    return _finish(chain, start, chain.height, statement)


def prove_operation(chain: ChainReader, operation_id: bytes, checkpoint: Checkpoint | None = None) -> Proof:
    """Prove that a final block has an operation, from ``checkpoint``.

    Raises:
        ProofError: there is no such final operation, the checkpoint is not of this chain, or too old, or the chain
            lacks what it takes.
        StoreError: the chain cannot be read.
    """
    start = _find_checkpoint(chain, checkpoint)
    found = chain.find_operation(operation_id)
    if found is None:
        raise ProofError(f"no final operation {operation_id.hex()} (the last final block is {chain.height})")
    height, index = found
    body = _get_block(chain, height).body
    anchor = start.height
    if height > start.height:
        anchor = _find_anchor(chain, height)
    past = None
    if height < anchor:
        block_ids = chain.block_ids()[:anchor]
        if len(block_ids) != anchor:
            raise ProofError("not all earlier blocks are here: this takes a chain from its beginning")
        past = PastBlock(_get_header(chain, height), prove_mountain_range_leaf(block_ids, height))
    path = prove_list_leaf([operation.encoded for operation in body.operations], index)
    statement = ProvenOperation(body.operations[index], path, body.compute_justification_hash(), past)
    return _finish(chain, start, anchor, statement)


def _find_anchor(chain: ChainReader, height: int) -> int:
    """The next block from a height on that is final by a certificate of its own."""
    nearest = chain.nearest_certificate(height)
    while nearest is not None:
        header = _get_header(chain, nearest[0])
        validators = chain.validators(header.epoch)
        if validators is not None and validators.hash == header.validators_hash:
            return header.height
        nearest = chain.nearest_certificate(header.height + 1)  # that was before a restart in the same epoch
    raise ProofError(f"there is no finality certificate of block {height} or a later one")


def _finish(chain: ChainReader, start: Header, anchor: int, statement: ProvenAccount | ProvenOperation) -> Proof:
    """The proof of a claim about the block at the height ``anchor``, checked before it is handed out."""
    proof = Proof(PROOF_VERSION, start, _make_links(chain, start, anchor), statement)
    check_proof(chain.genesis, Checkpoint(start.height, start.id), proof)
    return proof


def _make_links(chain: ChainReader, start: Header, anchor: int) -> tuple[HeaderLink, ...]:
    """The steps from a header to the block at a height that is final by its own certificate."""
    if anchor == start.height:
        return ()
    parameters = chain.genesis.parameters
    last = get_epoch(parameters, anchor)
    check_age(chain.genesis, start, last)
    accepted = chain.genesis.restarts
    found = (restart for epoch in range(start.epoch, last + 1) for restart in chain.restarts(epoch))
    restarts = {each.header.height: each for each in found if each.header.id in accepted}
    heights = sorted(
        {
            *(get_last_height(parameters, epoch) for epoch in range(start.epoch + 1, last)),
            *(height for height in restarts if start.height < height <= anchor),
            anchor,
        }
    )
    if len(heights) > MAX_LINKS:
        raise ProofError(f"a proof has {MAX_LINKS} steps at most, and there are {len(heights)}: use a later checkpoint")
    links, known = [], chain.genesis.validators
    for height in heights:
        header = _get_header(chain, height)
        # Those of an epoch stand at its end; a restart block before others leaves others.
        validators = restarts[height].validators if height in restarts else chain.validators(header.epoch)
        certificate = chain.certificate(height)
        if validators is None or certificate is None:
            raise ProofError(f"the validators of block {height} or their certificate are not here")
        links.append(HeaderLink(header, None if validators == known else validators, certificate))
        known = validators
    return tuple(links)


def _find_checkpoint(chain: ChainReader, checkpoint: Checkpoint | None) -> Header:
    genesis = chain.genesis.header
    if checkpoint is None:
        return genesis
    if checkpoint.height > chain.height:
        raise ProofError(f"the checkpoint {checkpoint.height} is above the last final block here, {chain.height}")
    header = _get_header(chain, checkpoint.height) if checkpoint.height else genesis
    if header.id != checkpoint.block_id:
        raise ProofError(f"the checkpoint {checkpoint} is not a final block of this chain")
    return header


def _get_block(chain: ChainReader, height: int) -> Block:
    block = chain.block(height)
    if block is None:
        raise ProofError(f"block {height} is not here (a node may be set to keep only recent ones)")
    return block


def _get_header(chain: ChainReader, height: int) -> Header:
    header = chain.find_header(height)
    if header is None:
        raise ProofError(f"block {height} is not here (a node may be set to keep only recent ones)")
    return header


def rebuild_chain(source: ChainSource, on_progress: Callable[[int], None] = lambda height: None) -> ChainStore:
    """The chain of an export or of another node, in memory, with the state after its last block.

    Executes every block and checks no signature: :func:`chain.audit.audit.audit_chain` audits.

    Raises:
        StoreError: the source cannot be read, or does not end in a final block.
        LedgerError: a block cannot be executed.
    """
    genesis = source.genesis
    chain = ChainStore(MemoryStore(), genesis)
    header, state = chain.header, chain.state
    pending: list[tuple[Block, Transition]] = []
    for raw, certificate in source.entries():
        block = Block.decode(raw, MAX_BLOCK_BYTES)
        get_signature_checks(
            genesis, get_block_epoch(genesis, state, block.body), header, block
        )  # the form of its certificates
        pending.append((block, apply_block(genesis, header, state, block)))
        header, state = block.header, pending[-1][1].state
        if certificate is not None:
            chain.append(pending, Certificate.decode(certificate))
            pending = []
        on_progress(header.height)
    if pending:
        raise StoreError(f"no finality certificate covers the blocks after {chain.height}")
    return chain
