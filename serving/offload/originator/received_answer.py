"""The answer of an executor as it arrived: the amount owed, and faults in the executor's delivery. Pure.

The originator counts and hashes every byte itself, and signs a receipt for nothing else. An executor could gain by a
false delivery, so every field of it is compared.
"""

from __future__ import annotations

from collections.abc import Callable

from chain.types.operations import Usage, finish_digest, start_digest
from serving.backends.backend import BackendError
from serving.offload.protocol import MAX_ANSWER_BYTES, Completed, ResponseHead, is_signed_delivery
from serving.openai.answers import AnswerInspector
from serving.openai.requests import Request


class ReceivedAnswer:
    """The part of the answer to ``request`` that has come; ``amount`` micro-credits are held for it.

    ``compute_price`` gives the price of a number of completion bytes. If it ``is_kept``, the whole answer is stored.
    """

    def __init__(self, request: Request, amount: int, compute_price: Callable[[int], int], *, is_kept: bool) -> None:
        self.inspector = AnswerInspector(stream=False)
        """Has seen the bytes of the answer that were received."""
        self.salt = b""
        """Of the answer's digest."""
        self.size = 0
        """Bytes of the body."""
        self._request = request
        self._amount = amount
        self._compute_price = compute_price
        self._is_kept = is_kept
        self._status = 0
        self._digest = start_digest()
        self._body = bytearray()

    @property
    def body(self) -> bytes:
        """The body so far, if it is kept."""
        return bytes(self._body)

    def begin(self, head: ResponseHead, *, is_stream: bool) -> None:
        """The answer begins."""
        self._status, self.salt = head.status, head.salt
        self.inspector = AnswerInspector(
            is_stream,
            form=self._request.endpoint.form,
            choices=self._request.choices,
            has_tools=self._request.has_tools,
            withhold_usage=not self._request.wants_usage,
        )

    def take(self, data: bytes) -> bytes:
        """Take the next bytes of the body; returns those for the user: none after the end of a stream.

        Raises:
            BackendError: the answer is too long.
        """
        if self.size + len(data) > MAX_ANSWER_BYTES:
            raise BackendError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        self.size += len(data)
        self._digest.update(data)
        if self._is_kept:
            self._body += data
        if self.inspector.is_over:
            return b""
        return self.inspector.feed(data)

    def compute_owed(self, in_flight: int = 0) -> int:
        """Price of the content received so far, and of ``in_flight`` completion bytes more, in micro-credits."""
        return min(self._compute_price(self.inspector.completion_bytes + in_flight), self._amount)

    def find_fault(self, completed: Completed, executor: bytes, chain_id: bytes, hold_id: bytes) -> str | None:
        """What is wrong with the ``delivery`` of ``executor`` for a hold, or None."""
        delivery, status = completed.delivery, self._status
        owed = self.compute_owed() if status == 200 else 0
        if not is_signed_delivery(executor, chain_id, completed):
            return "not signed by the executor"
        if delivery.hold != hold_id:
            return "for another hold"
        if delivery.amount > owed:
            return f"asks {delivery.amount} micro-credits for what is worth {owed}"
        if delivery.amount and delivery.response_digest != finish_digest(self.salt, self._digest):
            return "the digest is not that of the answer"
        received = Usage(len(self._request.body), self.inspector.completion_bytes)
        if delivery.amount and delivery.usage != received:
            return f"counts {delivery.usage} in what is {received}"
        if status == 200 and not self.inspector.is_complete:
            return "the answer is not complete"
        return None
