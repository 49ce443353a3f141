"""A chain whose last two validators of four are gone for good, and its restart."""

from __future__ import annotations

from typing import Any

from chain.transition.block import build_block, state_transition
from chain.transition.restart_file import RestartFile, accept, build_restart
from chain.types.blocks import Block
from chain.types.votes import Certificate
from tests.support.chain_builder import Chain, find_reveal


def make_halted(length: int = 6) -> Chain:
    """A chain of four, whose last two are gone for good."""
    chain = Chain()
    for _ in range(length):
        chain.append()
    return chain


def propose(chain: Chain, **changes: Any) -> RestartFile:
    arguments = {
        "key": chain.validators[0],
        "removed": [key.public_key for key in chain.validators[2:]],
        "timestamp": chain.head.timestamp + 5_000,
        **changes,
    }
    return build_restart(chain.genesis, parent=chain.head, state=chain.state, **arguments)


def certify(chain: Chain, file: RestartFile) -> Certificate:
    for key in chain.validators[:2]:
        file = file.add(file.make_vote(key))
    certificate = file.find_certificate(file.check(chain.genesis, chain.head, chain.state))
    assert certificate is not None
    return certificate


def go_on(chain: Chain, file: RestartFile) -> Certificate:
    """Everybody accepts; the chain of the builder is then that of the two that remain."""
    certificate = certify(chain, file)
    chain.genesis = accept(chain.genesis, file.block.id)
    transition = state_transition(chain.genesis, chain.head, chain.state, file.block)
    chain.accept(file.block, transition)
    return certificate


def append_after(chain: Chain, certificate: Certificate) -> Block:
    """The first block after a restart, on its finality."""
    header = chain.head
    view = certificate.view + 1 if header.epoch == chain.next_epoch else 1
    leader = chain.leader(view)
    block, transition, _ = build_block(
        chain.genesis,
        leader,
        header,
        chain.state,
        [],
        view=view,
        timestamp=header.timestamp + 1_000,
        reveal=find_reveal(leader, chain.genesis, chain.state),
        parent_certificate=certificate,
        nullifications=(),
    )
    chain.accept(block, transition)
    return block
