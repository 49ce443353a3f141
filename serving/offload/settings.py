"""What the two sides of an offload may choose for themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OriginatorSettings:
    """Patience of the payer's side (:mod:`serving.offload.originator.patience`), and how it chooses executors."""

    accept_timeout_s: float = 5.0
    """For the answer to an offer."""
    first_chunk_timeout_s: float = 30.0
    """For the first content of a stream."""
    queue_timeout_s: float = 120.0
    """The same while keep-alives say that the request is queued, and for an answer that is not streamed."""
    max_queue_timeout_s: float = 330.0
    """Most for the same, if twice the predicted time to the first token is longer."""
    token_timeout_s: float = 0.05
    """Added for an answer that is not streamed, per token that it may have."""
    stall_timeout_s: float = 15.0
    """For each next message."""
    pause_timeout_s: float = 60.0
    """For the next content of a stream while keep-alives come."""
    resume_s: float = 45.0
    """For finding an executor again that was lost in the middle of a stream."""
    hold_time_ms: int = 600_000
    """Least chain time for which a hold is good (:mod:`serving.offload.originator.hold_time`)."""
    max_hold_time_ms: int = 1_800_000
    """Most chain time for which a hold is good: an executor that falls silent keeps the payer's credits for so long."""
    enabled: bool = True
    """Whether any request is offloaded; if not, no other node is an executor for this one."""
    choices: int = 4
    """Number of candidates of which the one with the least predicted time is asked first; 1: the order of the draw."""
    attempts: int = 8
    """Most executors that are asked for one request, as far as the chain allows; 1: a failed one is not replaced."""
    hedging: bool = False
    """Whether another executor is asked too if the first content is late (``serving.offload.originator.hedging``)."""
    exploration: float = 0.05
    """Probability of asking another candidate first, drawn evenly from those that are not predicted to be far
    slower."""
    corrects: bool = True
    """Whether predictions are corrected by what was measured."""
    keeps_conversations: bool = True
    """Whether a conversation stays with the node that has it in its cache."""


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Patience and credit of the payee's side."""

    hold_grace_s: float = 8.0
    """For the hold to become final."""
    body_timeout_s: float = 10.0
    """For the body of the request."""
    body_bytes: int = 64 << 20
    """Bytes of bodies that have arrived and are not read, at a time."""
    payment_timeout_s: float = 2.0
    """For the signed hold, after the offer was accepted: a round trip."""
    receipt_timeout_s: float = 10.0
    """For the receipt."""
    send_timeout_s: float = 60.0
    """For an originator that reads nothing."""
    resume_timeout_s: float = 60.0
    """For an originator that was lost in the middle of an answer, all times together."""
    min_hold_time_s: float = 300.0
    """Least time for which a hold must be good."""
    capture_time_s: float = 60.0
    """Time before the deadline of the hold at which an answer is stopped, so that it can still be captured."""
    coalescing_s: float = 0.03
    """Longest time for which a piece of an answer waits to go out with others."""
    keep_alive_interval_s: float = 5.0
    """Between two keep-alives."""
    max_queue_wait_s: float = 300.0
    """For a slot of the backend: less than the patience of an originator whose request is queued."""
    halt_after_s: float = 10.0
    """Time without a final block after which the chain counts as halted. A hold then needs credit, not finality."""
    buffer_bytes: int = 1 << 20
    """Bytes of an answer that the backend may write ahead of what is sent."""
    paid_share: int = 10
    """The credit of a payer before a hold is final is one part in so many of what it has paid this node."""
