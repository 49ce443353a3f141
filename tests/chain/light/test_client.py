"""The light client: which ends of epochs follow from a trusted header, and which checkpoints can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chain.exceptions import CheckpointError, InvalidBlock, InvalidCertificate
from chain.light.client import Checkpoint, LightClient, LightClientUpdate
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import apply_block
from chain.types.validators import ValidatorSet
from chain.types.votes import VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import Chain
from tests.support.chains.chain_store import fill_store
from tests.support.chains.restarted_chain import append_after, go_on, make_halted, propose
from tests.support.keys import make_keys


def make_chain() -> tuple[Chain, list[LightClientUpdate]]:
    """Seven epochs, in which one validator retires; the unbonding time is two."""
    chain = Chain()
    chain.append([chain.retire(chain.validators[0])])
    chain.append_epochs(7)
    blocks = ChainStore(MemoryStore(), chain.genesis)
    for block in chain.blocks:
        transition = apply_block(chain.genesis, blocks.header, blocks.state, block)
        blocks.append([(block, transition)], chain.finality(block))
    ends = [blocks.light_client_update(epoch) for epoch in range(7)]
    return chain, [end for end in ends if end is not None]


CHAIN, ENDS = make_chain()
GENESIS = CHAIN.genesis


def test_each_end_follows_from_the_one_before() -> None:
    light = LightClient(GENESIS, GENESIS.header, is_audit=True)
    for epoch, end in enumerate(ENDS):
        assert light.next_epoch == epoch
        light.add(LightClientUpdate.decode(end.encode()))
        assert light.header == CHAIN.blocks[4 * epoch + 3].header
    assert light.updates == ENDS and len(ENDS) == 7
    assert len(ENDS[0].validators) == 4 and len(ENDS[-1].validators) == 3


@pytest.mark.parametrize("height", [1, 7, 8, 9, 20])
def test_it_begins_at_any_header(height: int) -> None:
    """At the last of an epoch, that one itself comes first: its certificate and validators are needed too."""
    trusted = CHAIN.blocks[height - 1].header
    light = LightClient(GENESIS, trusted, is_audit=True)
    for end in ENDS[trusted.epoch :]:
        light.add(end)
    assert light.header == ENDS[-1].header


def of_minority(end: LightClientUpdate) -> LightClientUpdate:
    votes = CHAIN.finality(CHAIN.blocks[end.header.height - 1])
    assert len(votes.signers) > 2
    return replace(end, certificate=replace(votes, signers=votes.signers[:2], signatures=votes.signatures[:2]))


def by_others(end: LightClientUpdate) -> LightClientUpdate:
    others = ValidatorSet.of((key.public_key, 100_000) for key in make_keys(4, "other"))
    return replace(end, validators=others)


def signed_by_others(end: LightClientUpdate) -> LightClientUpdate:
    """All that is wrong is who they are."""
    keys = make_keys(4, "other")
    header = end.header
    votes = [sign_vote(key, GENESIS.chain_id, VoteKind.FINALIZE, header.epoch, header.view, header.id) for key in keys]
    others = ValidatorSet.of((key.public_key, 100_000) for key in keys)
    return replace(end, validators=others, certificate=make_certificate(votes, others))


def of_notarization(end: LightClientUpdate) -> LightClientUpdate:
    return replace(end, certificate=CHAIN.certify(end.header, VoteKind.NOTARIZE))


FORGERIES: dict[str, Callable[[LightClientUpdate], LightClientUpdate]] = {
    "the next end": lambda end: ENDS[4],
    "the end before": lambda end: ENDS[2],
    "within the epoch": lambda end: replace(end, header=CHAIN.blocks[14].header),
    "of another chain": lambda end: replace(end, header=replace(end.header, chain_id=bytes(32))),
    "of another version": lambda end: replace(end, header=replace(end.header, version=1)),
    "another state": lambda end: replace(end, header=replace(end.header, state_root=bytes(32))),
    "another committee": lambda end: replace(end, header=replace(end.header, validators_hash=bytes(32))),
    "by others": by_others,
    "signed by others": signed_by_others,
    "of a minority": of_minority,
    "only notarized": of_notarization,
    "a restart that was not accepted": lambda end: replace(end, restarts=(CHAIN.blocks[13].header,)),
    "a certificate of another block": lambda end: replace(end, certificate=ENDS[2].certificate),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_nothing_else_follows(forge: Callable[[LightClientUpdate], LightClientUpdate]) -> None:
    light = LightClient(GENESIS, GENESIS.header, is_audit=True)
    for end in ENDS[:3]:
        light.add(end)
    with pytest.raises(InvalidBlock):
        light.add(forge(ENDS[3]))
    assert light.header == ENDS[2].header and len(light.updates) == 3
    light.add(ENDS[3])


def test_a_trusted_header_has_a_last_use() -> None:
    light = LightClient(GENESIS, CHAIN.blocks[5].header)  # of epoch 1
    for end in ENDS[1:4]:
        light.add(end)
    with pytest.raises(CheckpointError, match=r"3 epochs past block 6.*unbonding time is 2.*HEIGHT:BLOCKID"):
        light.add(ENDS[4])
    assert light.header == ENDS[3].header
    # Only signatures that hold can say so: a forger cannot make a node give up.
    with pytest.raises(InvalidCertificate):
        light.add(of_minority(ENDS[4]))


def test_a_checkpoint_is_not_contradicted() -> None:
    wrong = Checkpoint(12, bytes(32))
    light = LightClient(GENESIS, GENESIS.header, wrong, is_audit=True)
    light.add(ENDS[0])
    light.add(ENDS[1])
    with pytest.raises(InvalidBlock, match="contradicts"):
        light.add(ENDS[2])


def test_a_restart_is_followed_by_a_client_that_accepts_it() -> None:
    """Half of the committee is struck off within the second epoch, and vouches for nothing from there on."""
    chain = make_halted(6)
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    finals[7] = go_on(chain, propose(chain))
    finals[8] = chain.finality(append_after(chain, finals[7]))
    chain.append_epochs(2)
    finals |= {height: chain.finality(chain.blocks[height - 1]) for height in (12, 16)}
    blocks = fill_store(MemoryStore(), chain, finals)
    ends = [end for epoch in range(4) if (end := blocks.light_client_update(epoch)) is not None]
    assert [len(end.restarts) for end in ends] == [0, 1, 0, 0] and [len(end.validators) for end in ends] == [4, 2, 2, 2]
    for trusted in (chain.genesis.header, chain.blocks[4].header, chain.blocks[6].header, chain.blocks[7].header):
        light = LightClient(chain.genesis, trusted, is_audit=True)
        for end in ends[trusted.epoch :]:
            light.add(LightClientUpdate.decode(end.encode()))
        assert light.header == chain.blocks[15].header
    doubting = LightClient(replace(chain.genesis, restarts=()), chain.genesis.header, is_audit=True)
    doubting.add(ends[0])
    for end in (ends[1], replace(ends[1], restarts=())):
        with pytest.raises(InvalidBlock):
            doubting.add(end)


def test_checkpoints_are_read_as_they_are_printed() -> None:
    checkpoint = Checkpoint(12, bytes(range(32)))
    assert Checkpoint.parse(str(checkpoint)) == checkpoint
    assert Checkpoint.parse(f"007:{'AB' * 32}") == Checkpoint(7, b"\xab" * 32)


@pytest.mark.parametrize(
    "text",
    ["", ":", "12", "12:", f":{'ab' * 32}", f"-1:{'ab' * 32}", f"1.0:{'ab' * 32}", f"12:{'ab' * 31}", f"12:{'ag' * 32}",
     f"0:{'ab' * 32}", f"²:{'ab' * 32}", f"{'9' * 30}:{'ab' * 32}", f"12:{'ab' * 32} ", f"12:0x{'ab' * 31}"],
)  # fmt: skip
def test_other_texts_are_no_checkpoints(text: str) -> None:
    with pytest.raises(ValueError, match=r"HEIGHT:BLOCKID|genesis"):
        Checkpoint.parse(text)
