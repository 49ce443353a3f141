"""The payment of one session: its hold arrives, is covered, and is captured or refunded in the end.

The hold is covered once it is final, or within the credit line of the payer. Until then nothing of the answer is sent.
"""

from __future__ import annotations

import trio

from chain.exceptions import InvalidOperation
from chain.types.operations import Delivery, SignedOperation
from p2p.streams.exchange import Exchange
from serving.accounting.credit_line import CreditExhausted, CreditLine
from serving.accounting.payee import make_refund
from serving.offload.context import OffloadContext, receive_message
from serving.offload.executor.job import Job
from serving.offload.protocol import Payment
from serving.offload.settings import ExecutorSettings


class PaymentFailed(Exception):
    """The hold did not come, is not what was offered, or did not become final in time."""


class SessionPayment:
    """What ``payer`` owes for one accepted offer."""

    def __init__(
        self, context: OffloadContext, settings: ExecutorSettings, credit_line: CreditLine, payer: bytes, job: Job
    ) -> None:
        self._context = context
        self._settings = settings
        self._credit_line = credit_line
        self._payer = payer
        self._job = job
        self._terms = job.offer.hold
        self._accepted_at = trio.current_time()
        self.hold: SignedOperation | None = None
        """None before it has come."""
        self.received = trio.Event()
        """Until then the next frame is the payment; afterwards it is the receipt."""
        self.covered = trio.Event()
        """Set once the hold is final, or within the credit line of the payer: until then nothing is sent."""

    async def secure(self, exchange: Exchange) -> None:
        """Receive the hold through ``exchange``, and wait until it is final.

        Raises:
            PaymentFailed: it does not come, is not what was offered, is not valid, or not final in time. NetworkError,
            CodecError, trio.TooSlowError: nothing readable comes.
        """
        message = await receive_message(exchange, self._settings.payment_timeout_s)
        if not isinstance(message, Payment):
            raise PaymentFailed("expected the payment")
        signed = message.hold
        if signed.operation != self._terms or signed.signer != self._payer:
            raise PaymentFailed("the payment is not the one that was offered")
        try:
            await self._context.engine.submit(signed)
        except InvalidOperation as error:
            raise PaymentFailed(f"the payment is refused: {error}") from error
        self.hold = signed
        self.received.set()
        if self._job.has_credit:
            self.covered.set()
        await self._wait_final(signed.id)
        self._job.unpaid.close()
        self.covered.set()

    async def _wait_final(self, operation_id: bytes) -> None:
        """Wait until the hold is final, for as long as blocks become final.

        When none does, the chain has halted or this node is cut off from it. Then the session goes on if there is
        credit.

        Raises:
            PaymentFailed: it is not final in time, or not valid, or there is no credit.
        """
        engine, settings, since = self._context.engine, self._settings, trio.current_time()
        patience, was_overdue = settings.hold_grace_s, False
        while True:
            try:
                _, failure = await engine.wait_final(operation_id, patience)
            except trio.TooSlowError:
                silence = engine.silence
                is_overdue = engine.is_overdue(operation_id, settings.hold_grace_s / 4)
                patience = settings.hold_grace_s
                if silence > settings.halt_after_s:
                    try:
                        self._borrow()
                    except CreditExhausted:
                        raise PaymentFailed("the chain is halted, and this payer's credit is used up") from None
                elif is_overdue or engine.last_final_at < since:  # this may be a halt
                    patience = settings.halt_after_s - silence + 0.1
                elif not was_overdue:
                    self._context.payments.payee.note_bounced(self._payer, self._job.hold_id)
                    raise PaymentFailed("the payment is not final in time") from None
                was_overdue = is_overdue
                continue
            if failure is not None:
                self._context.payments.payee.note_bounced(self._payer, self._job.hold_id)
                raise PaymentFailed(f"the payment failed: {failure}")
            return

    def _borrow(self) -> None:
        """Let the answer leave before the hold is final.

        Raises:
            CreditExhausted: the credit line of the payer does not cover the hold.
        """
        if not self.covered.is_set():
            self._job.unpaid.enter_context(self._credit_line.lend(self._payer, self._terms.amount))
            self.covered.set()

    def settle(
        self, delivery: Delivery | None, receipt: bytes | None, *, is_own_fault: bool, has_content: bool
    ) -> None:
        """Have the hold captured for ``delivery``, or refunded if that earned nothing.

        An answer that failed after there was content, or for its length, counts as an unpaid offer: a payer may choose
        requests whose answers fail at their end.
        """
        payee = self._context.payments.payee
        if self.hold is None or (is_own_fault and has_content):
            payee.history.note_unpaid(self._payer, trio.current_time(), self._accepted_at)
        if self.hold is None:
            payee.note_left(self._job.hold_id)
        elif delivery is not None and delivery.amount:
            payee.collect(self.hold, delivery, receipt)
        else:
            refund = delivery or make_refund(self._job.hold_id)
            payee.refund(self.hold, refund, is_own_fault and not has_content)
