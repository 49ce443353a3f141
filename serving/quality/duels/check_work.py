"""What a check asks of this node's own backends: to score the transcript of another node's answer.

As for a duel (:mod:`serving.quality.duels.backend_work`), a backend works for it only in a slot that no request waits
for.
"""

from __future__ import annotations

from chain.exceptions import CodecError
from chain.types.checks import NO_TRANSCRIPT, NOT_CHECKABLE, CheckReport, make_measured_report
from p2p.runtime import Runtime
from serving.backends.backend import BackendError
from serving.quality.duels.backend_work import WorkFailed
from serving.quality.duels.check_duties import ScoreTranscript
from serving.quality.duels.identities import Identities
from serving.quality.same_model.checking import NotCheckable, NoTranscript, check_answer
from serving.quality.same_model.scoring import ScoringError
from serving.quality.same_model.transcript import decode_transcript
from serving.scheduling.admission import SlotLost
from serving.scheduling.backend_pool import BackendPool


async def score_transcript(
    pool: BackendPool, identities: Identities, runtime: Runtime, work: ScoreTranscript
) -> CheckReport:
    """What a backend of this node with the identity of the check finds.

    Raises:
        WorkFailed: it cannot say.
    """
    check, transcript = work.check, None
    identity = identities.get(check.model)
    if identity is None or identity.digest != check.identity:
        raise WorkFailed("this node declares another identity than it did when it was drawn", is_final=True)
    scheduled = pool.find(check.model)
    if scheduled is None:
        raise WorkFailed("the model is not served here at the moment")
    try:
        if work.transcript is not None:
            transcript = await runtime.run_sync(decode_transcript, work.transcript)
        async with scheduled.admission.lend_slot():
            scorer = await identities.find_scorer(scheduled, identity)
            found = await check_answer(scorer, work.request, work.answer, transcript, check.seed)
    except NotCheckable:
        return CheckReport(NOT_CHECKABLE)
    except (NoTranscript, CodecError):
        return CheckReport(NO_TRANSCRIPT)
    except ScoringError as error:
        raise WorkFailed(str(error), is_final=True) from error
    except SlotLost as error:
        raise WorkFailed(str(error)) from None
    except BackendError as error:
        raise WorkFailed(f"the backend failed: {error}") from error
    return make_measured_report(found.shortfall, found.distance)
