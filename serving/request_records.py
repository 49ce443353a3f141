"""What is known of the requests of this node's users: where each was served, when, and what became of it (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from chain.crypto import format_address
from serving.http.responder import ClientGone
from serving.keys.charged_request import Work
from serving.openai.answers import AnswerInspector
from serving.openai.errors import ApiError
from serving.openai.number_formats import NOT_KNOWN, NumberFormats
from serving.prediction.predictor import Prediction
from serving.scheduling.backend_pool import ScheduledBackend
from serving.scheduling.policy import LoadSnapshot

FORMAT_HEADERS = {
    b"x-wwwserve-quantization": "weights",
    b"x-wwwserve-activation-quantization": "activations",
    b"x-wwwserve-kv-cache-quantization": "cache",
}
"""By which an answer says in which number formats the model was served that gave it."""


class Outcome(StrEnum):
    """What became of a request."""

    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    """A backend or an executor answered with a status other than 200, and that was passed on."""
    REFUSED = "refused"
    """This node refused it, before an answer began."""
    FAILED = "failed"
    """Its answer broke off."""
    CANCELLED = "cancelled"
    """Its user left."""


ENDS = tuple(outcome for outcome in Outcome if outcome is not Outcome.RUNNING)
"""What may become of a request in the end."""


@dataclass(slots=True)
class RequestRecord:
    """What became of one request, for the owner's eyes. Times in seconds of the node's monotonic clock."""

    id: str
    model: str
    started: float
    executor: bytes | None = None
    """None: this node. Of an answer that others continued, the last of them."""
    attempt: int = 0
    hold_id: bytes | None = None
    first_byte: float | None = None
    finished: float | None = None
    completion_tokens: int = 0
    is_estimated: bool = False
    """Whether ``completion_tokens`` were counted here, because the backend reported no usage."""
    prompt_tokens: int = 0
    """As whoever answered reports them; 0 if it does not."""
    is_stream: bool = False
    key: str = ""
    """The name of the API key that it came with, if there was one."""
    reason: str = ""
    """Why it was answered where it was."""
    load: LoadSnapshot | None = None
    """By what the policy decided whether to offload it; None if there was nothing to decide."""
    prediction: Prediction | None = None
    """What was expected of the node that answered."""
    predicted_at: float = 0.0
    """When the times of that count from."""
    work: Work | None = None
    """What is under way for its answer as long as nothing can be seen of that; None while nobody has begun."""
    unread_s: float = 0.0
    """Seconds in which the user did not take what was there."""
    number_formats: NumberFormats = NOT_KNOWN
    """Of the model that answered, by what its node says."""
    outcome: Outcome = Outcome.RUNNING
    backend: ScheduledBackend | None = None
    """The one of this node that serves it."""

    def note_left(self, work: Work) -> None:
        """Its user has left this ``work``, perhaps beside that of another executor: the longer one counts."""
        if self.work is None or work.since < self.work.since:
            self.work = work

    @property
    def served_by(self) -> str:
        """The address of the executor, or ``local``."""
        return "local" if self.executor is None else format_address(self.executor)

    def compare(self) -> tuple[float | None, float | None]:
        """Measured by predicted time of the first token (of a stream) and of the whole answer; None: not known."""
        if (
            self.outcome is not Outcome.COMPLETED
            or self.prediction is None
            or self.first_byte is None
            or self.finished is None
        ):
            return None, None
        time, since = self.prediction.time, self.predicted_at
        first = (self.first_byte - since) / time.first_token if self.is_stream and time.first_token else None
        return first, (self.finished - since - self.unread_s) / time.total if time.total else None


def get_refusal(failure: BaseException | None) -> Outcome:
    """What became of a request that ``failure`` ended before its answer began."""
    if isinstance(failure, ApiError):
        return Outcome.REFUSED
    return _judge_failure(failure)


def get_outcome(status: int, inspector: AnswerInspector, failure: BaseException | None) -> Outcome:
    """What became of a request whose answer began; ``failure`` ended it, or the user left in order."""
    if inspector.error is not None:
        return Outcome.FAILED
    if failure is None or inspector.is_over:  # a user who hangs up on the closing event has the whole answer
        return Outcome.COMPLETED if status == 200 else Outcome.ERROR
    return _judge_failure(failure)


def _judge_failure(failure: BaseException | None) -> Outcome:
    """What ended a request. A user who leaves may be noticed by what cannot be written, or by the end of what comes."""
    is_failed = isinstance(failure, Exception) and not isinstance(failure, ClientGone)
    return Outcome.FAILED if is_failed else Outcome.CANCELLED


def describe_request(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """The headers by which an answer names its request and who served it."""
    name = record.id.encode()  # as OpenAI's clients read it, and as Anthropic's do
    headers = [(b"x-request-id", name), (b"request-id", name), (b"x-wwwserve-executor", record.served_by.encode())]
    for header, part in FORMAT_HEADERS.items():
        if classes := getattr(record.number_formats, part):
            headers.append((header, ", ".join(sorted(classes)).encode()))
    return headers


@dataclass(slots=True)
class Counters:
    """Requests by where they were served, and those that ended by what became of them."""

    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    local: int = 0
    offloaded: int = 0
    continued: int = 0
    """Times that another went on with an answer."""
    completion_tokens: int = 0
    offloaded_tokens: int = 0
    """Those of them that other nodes made."""
    prompt_tokens: int = 0
    offloaded_prompt_tokens: int = 0
    """Those of them that other nodes read."""

    def note_ended(self, record: RequestRecord) -> None:
        """Count a request that has ended, once, whatever became of it."""
        self.ended[record.outcome] += 1
        self.completion_tokens += record.completion_tokens
        self.prompt_tokens += record.prompt_tokens
        if record.executor is not None:
            self.offloaded_tokens += record.completion_tokens
            self.offloaded_prompt_tokens += record.prompt_tokens
