"""What must hold in every simulation, each claim by itself: one chain, no slashable pair, durable before sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from chain.types.blocks import Block
from chain.types.votes import Vote, VoteKind


@dataclass
class AgreementChecker:
    """No two final blocks at one height."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def on_final(self, name: str, block: Block) -> None:
        known = self.blocks.setdefault(block.height, block.id)
        if known != block.id:
            self.violations.append(f"{name} has {block.id.hex()[:8]} at {block.height}, others {known.hex()[:8]}")


@dataclass
class VoteChecker:
    """No signer of what it is shown ever signed a slashable pair, and nothing is sent that was not durable."""

    votes: dict[tuple[bytes, int, int], dict[int, bytes]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    durable: set[Vote] = field(default_factory=set)

    def on_durable(self, vote: Vote) -> None:
        self.durable.add(vote)

    def on_sent(self, vote: Vote) -> None:
        if vote not in self.durable:
            self.violations.append(f"{describe(vote)} was sent before it was durable")
        before = self.votes.setdefault((vote.signer, vote.epoch, vote.view), {})
        if before.setdefault(vote.kind, vote.block_id) != vote.block_id:
            self.violations.append(f"{describe(vote)} contradicts one for {before[vote.kind].hex()[:8]}")
        if VoteKind.NULLIFY in before and VoteKind.FINALIZE in before:
            self.violations.append(f"{describe(vote)}: nullify and finalize in one view")


def describe(vote: Vote) -> str:
    return (
        f"{VoteKind(vote.kind).domain} of {vote.block_id.hex()[:8]} in {vote.epoch}/{vote.view}"
        f" by {vote.signer.hex()[:8]}"
    )
