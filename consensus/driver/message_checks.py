"""Checks the signatures of incoming messages, often in worker threads, before the loop of agreement sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from chain import crypto
from chain.exceptions import InvalidCertificate
from chain.types.blocks import Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote
from consensus.exceptions import InvalidMessage
from consensus.network.compact_blocks import CompactPropose
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Message
from consensus.simplex.validation import MessageValidation, is_authentic
from consensus.verifier import SignatureVerifier


class MessageChecks:
    """Checks the same signatures as the core later does, so that the core finds the verdicts in the cache.

    ``find_instance`` returns the instance of an epoch, ``is_near`` says whether a block that nothing has asked for is
    worth a check.
    """

    def __init__(
        self,
        chain_id: bytes,
        verifier: SignatureVerifier,
        find_instance: Callable[[int], Simplex | None],
        is_near: Callable[[Block], bool],
    ) -> None:
        self._chain_id = chain_id
        self._verifier = verifier
        self._find_instance = find_instance
        self._is_near = is_near

    def is_old_news(self, message: Message | CompactPropose) -> bool:
        """Whether a message is a certificate that changes nothing and contains only known votes.

        Such a certificate never becomes useful later. Most certificates are of this kind: each member sends those that
        it gathers.
        """
        if not isinstance(message, Certificate):
            return False
        instance = self._find_instance(message.epoch)
        return instance is not None and not instance.is_relevant(message)

    async def verify(self, *messages: Message | CompactPropose) -> None:
        """Check the signatures of messages that an instance is going to check.

        Those of a few votes are left to it: they are checked on the event loop in any case.
        """
        if self._verifier.is_quick(len(messages)) and all(isinstance(message, Vote) for message in messages):
            return
        found = [(rules, message) for message in messages if (rules := self._find_rules(message)) is not None]
        if found:
            await self._verifier.check(_validate, found)

    async def verify_certificate(self, certificate: Certificate, validators: ValidatorSet) -> None:
        """Check form, quorum and signatures of a certificate.

        Raises:
            InvalidCertificate: any of them fails.
        """
        await self._verifier.check(_verify_certificate, certificate, self._chain_id, validators)

    async def verify_block(self, block: Block) -> None:
        """Check that a gossiped block is authentic, if the driver is going to ask."""
        if self._is_near(block):
            await self._verifier.check(_verify_block, block)

    def _find_rules(self, message: Message | CompactPropose) -> MessageValidation | None:
        """The rules for a message, if an instance is going to check its signatures."""
        instance = self._find_instance(message.epoch)
        if instance is None:
            return None
        is_relevant = isinstance(message, CompactPropose) or instance.is_relevant(message)
        return instance.validation if is_relevant else None


def _validate(verify: crypto.Verify, found: Sequence[tuple[MessageValidation, Message | CompactPropose]]) -> None:
    for rules, message in found:
        with suppress(InvalidMessage):
            if isinstance(message, CompactPropose):
                rules.verify_with(verify).validate_header(message.proposal, message.stripped_block.header)
            else:
                rules.verify_with(verify).validate(message)


def _verify_certificate(
    verify: crypto.Verify, certificate: Certificate, chain_id: bytes, validators: ValidatorSet
) -> None:
    if not verify(certificate.signature_checks(chain_id, validators)):
        raise InvalidCertificate("a signature does not hold")


def _verify_block(verify: crypto.Verify, block: Block) -> None:
    is_authentic(block, verify)
