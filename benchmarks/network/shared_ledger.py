"""One execution of each block for all nodes of a simulation, whose ledgers are the same.

What a block does is a pure function of the state before it, and so is whether an operation could be included. Nodes
that have come to the same state share both, as they share verdicts on signatures
(:mod:`p2p.simulation.runtime`). Each still checks headers, signatures and votes, keeps its own mempool, and stores its
own chain. Executing is thus no part of what a simulation costs for each node: ``benchmarks.blockchain`` measures that.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from chain.collections import BoundedDict
from chain.exceptions import InvalidOperation
from chain.genesis import Genesis
from chain.state.state import State, StateOverlay
from chain.transition.block import Transition
from chain.transition.context import BlockContext
from chain.transition.epochs import Epoch
from chain.types.blocks import Block, Header
from chain.types.operations import NoncedOperation, SignedOperation
from p2p.simulation.runtime import run_simulation

T = TypeVar("T")

SHARED_TRANSITIONS = 64
"""Blocks that were executed, remembered: nodes are a few blocks apart."""
SHARED_VERDICTS = 1 << 14
"""Operations that were judged on a state, remembered."""
_BLOCKS: Any = importlib.import_module("chain.transition.block")
_POOL: Any = importlib.import_module("consensus.mempool.pool")


def _share_transitions(apply: Callable[..., Transition]) -> Callable[..., Transition]:
    """Execute a block once on states of one root. One that is invalid is executed by each."""
    known: BoundedDict[tuple[Any, ...], Transition] = BoundedDict(SHARED_TRANSITIONS)

    def shared(genesis: Genesis, epoch: Epoch, parent: Header, state: State, block: Block) -> Transition:
        key = genesis.restarts, genesis.chain_id, state.root, block.encoded
        transition = known.get(key)
        if transition is None:
            transition = known[key] = apply(genesis, epoch, parent, state, block)
        return transition

    return shared


def _share_verdicts(process: Callable[..., str | None]) -> Callable[..., str | None]:
    """Judge an operation without a nonce once on states of one root. The pool wants the verdict alone, no effect."""
    known: BoundedDict[tuple[Any, ...], InvalidOperation | None] = BoundedDict(SHARED_VERDICTS)

    def shared(overlay: StateOverlay, context: BlockContext, signed: SignedOperation) -> str | None:
        if isinstance(signed.operation, NoncedOperation):  # what this depends on is more than the state
            return process(overlay, context, signed)
        state = overlay.parent
        assert isinstance(state, State) and not overlay.changes
        key = context.genesis.chain_id, state.root, context.height, context.chain_time, signed.encoded
        if key not in known:
            try:
                process(overlay, context, signed)
                known[key] = None
            except InvalidOperation as error:
                known[key] = type(error)(*error.args)  # without the frames that it was raised in, which hold states
        fault = known[key]
        if fault is not None:
            raise type(fault)(*fault.args)
        return None

    return shared


@contextmanager
def share_ledger() -> Iterator[None]:
    """Have all nodes of this process that are at one state share what follows from it."""
    apply, process = _BLOCKS._apply, _POOL.process_operation
    _BLOCKS._apply, _POOL.process_operation = _share_transitions(apply), _share_verdicts(process)
    try:
        yield
    finally:
        _BLOCKS._apply, _POOL.process_operation = apply, process


def run_nodes(seed: str | int, main: Callable[[], Awaitable[T]]) -> T:
    """:func:`p2p.simulation.runtime.run_simulation` of whole nodes."""
    with share_ledger():
        return run_simulation(seed, main)
