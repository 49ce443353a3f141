"""Validators that keep to themselves what others wait for: blocks, votes, certificates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chain.types.votes import Certificate, Vote
from consensus.simplex.messages import Effect, Send
from tests.adversarial.leaders.block_withholder import BlockWithholder
from tests.support.agreement.conspirator import Conspirator, get_said
from tests.support.agreement.scenarios import fight


class VoteWithholder(Conspirator):
    """Lets itself be counted on for nothing: no vote leaves it."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        if not isinstance(get_said(effect), Vote):
            yield effect


class CertificateWithholder(Conspirator):
    """Gathers certificates, which it may be the only one to know, and passes on none."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        if not isinstance(get_said(effect), Certificate):
            yield effect


class Whisperer(Conspirator):
    """Says everything to one other validator alone, in each view to the next."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        message = get_said(effect)
        if message is None:
            yield effect
        else:
            yield Send(self.others[self.view % len(self.others)], message)


class Mute(Conspirator):
    """Listens."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        if get_said(effect) is None:
            yield effect


@pytest.mark.parametrize("adversary", [BlockWithholder, VoteWithholder, CertificateWithholder, Whisperer, Mute])
def test_what_is_withheld_is_not_needed(adversary: type[Conspirator]) -> None:
    for seed in range(6):
        simulation = fight(seed, adversary, count=4 + seed % 4, epoch_heights=(5, 1000)[seed % 2], calm=seed % 3 == 0)
        assert not simulation.conflicts, "keeping silent contradicts nothing"
