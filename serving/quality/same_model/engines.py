"""Which way of scoring a backend offers, found out by asking it."""

from __future__ import annotations

from serving.backends.backend import Backend
from serving.quality.same_model.one_token import LlamaCppScorer
from serving.quality.same_model.prompt_logprobs import SglangScorer, VllmScorer
from serving.quality.same_model.scoring import Scorer, ScoringError

SCORERS = (VllmScorer, SglangScorer, LlamaCppScorer)
"""In the order in which they are tried: what costs one prefill before what costs ten completions."""


async def find_scorer(backend: Backend, model: str) -> Scorer:
    """A scorer that asks ``backend`` for ``model``.

    Raises:
        ScoringError: it offers none of the ways.
        BackendError: it does not answer.
    """
    for kind in SCORERS:
        scorer = kind(backend, model)
        if await scorer.is_offered():
            return scorer
    raise ScoringError("the backend cannot score given tokens: it is not vLLM, SGLang or llama.cpp's server")
