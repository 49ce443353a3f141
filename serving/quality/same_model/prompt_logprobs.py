"""Scoring by prompt log-probabilities: prompt and answer go to the backend as one prompt, in one prefill.

vLLM lists the likeliest tokens at each position of a prompt (``prompt_logprobs``), SGLang does so through its own
``/generate``. Both render a chat request into tokens when they are asked to return them (``return_token_ids``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.backends.backend import Backend
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.scoring import ScoringError, ask, ask_for_text, make_question
from serving.quality.same_model.statistics import SCORED_TOKENS, Distribution

COMPLETIONS = "/v1/completions"
GENERATE = "/generate"


class VllmScorer:
    """Scores with vLLM."""

    engine = "vllm"

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    async def is_offered(self) -> bool:
        """See :meth:`serving.quality.same_model.scoring.Scorer.is_offered`."""
        question = {"model": self._model, "prompt": "one two", "max_tokens": 1, "prompt_logprobs": 1}
        answer = await ask(self._backend, COMPLETIONS, question)
        try:
            return answer is not None and isinstance(answer["choices"][0]["prompt_logprobs"], list)
        except (KeyError, IndexError, TypeError):
            return False

    async def score(self, request: bytes, tokens: Sequence[int], positions: Sequence[int]) -> dict[int, Distribution]:
        """See :meth:`serving.quality.same_model.scoring.Scorer.score`."""
        prompt = await _render(self._backend, self._model, request)
        question = {
            "model": self._model,
            "prompt": [*prompt, *tokens[: max(positions) + 1]],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": SCORED_TOKENS,
        }
        answer = await ask(self._backend, COMPLETIONS, question)
        if answer is None:
            raise ScoringError(f"vLLM refuses {SCORED_TOKENS} prompt log-probabilities (--max-logprobs)")
        try:
            listed = answer["choices"][0]["prompt_logprobs"]
            return {position: _read_vllm(listed[len(prompt) + position]) for position in positions}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ScoringError("the prompt log-probabilities of vLLM cannot be read") from error

    async def write_out(self, tokens: Sequence[int]) -> str:
        """See :meth:`serving.quality.same_model.scoring.Scorer.write_out`."""
        return await ask_for_text(self._backend, self._model, tokens, "prompt")


class SglangScorer:
    """Scores with SGLang."""

    engine = "sglang"

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    async def is_offered(self) -> bool:
        """See :meth:`serving.quality.same_model.scoring.Scorer.is_offered`."""
        answer = await ask(self._backend, GENERATE, {"text": "one two", **_make_sglang_fields(0)})
        try:
            return answer is not None and isinstance(answer["meta_info"]["input_token_logprobs"], list)
        except (KeyError, TypeError):
            return False

    async def score(self, request: bytes, tokens: Sequence[int], positions: Sequence[int]) -> dict[int, Distribution]:
        """See :meth:`serving.quality.same_model.scoring.Scorer.score`."""
        prompt = await _render(self._backend, self._model, request)
        start = len(prompt) - 1
        ids = [*prompt, *tokens[: max(positions) + 1]]
        answer = await ask(self._backend, GENERATE, {"input_ids": ids, **_make_sglang_fields(start)})
        if answer is None:
            raise ScoringError("SGLang refuses to score the tokens of a prompt")
        try:
            listed = answer["meta_info"]["input_top_logprobs"]
            # Its first entry is that of ``logprob_start_len``, whose token has nothing before it that counts.
            return {position: _read_sglang(listed[1 + position]) for position in positions}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ScoringError("the log-probabilities of SGLang cannot be read") from error

    async def write_out(self, tokens: Sequence[int]) -> str:
        """See :meth:`serving.quality.same_model.scoring.Scorer.write_out`."""
        return await ask_for_text(self._backend, self._model, tokens, "text")


async def _render(backend: Backend, model: str, request: bytes) -> list[int]:
    """The tokens of the prompt of a chat completion.

    Raises:
        ScoringError: the backend does not say them.
    """
    question = make_question(request, model=model, max_tokens=1, temperature=0, stream=False, return_token_ids=True)
    answer = await ask(backend, CHAT_COMPLETIONS, question)
    if answer is None:
        raise ScoringError("the backend refuses the request of the answer that it is to score")
    choices = answer.get("choices")
    found = answer.get("prompt_token_ids")  # where vLLM says it; SGLang says it in the choice
    if found is None and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        found = choices[0].get("prompt_token_ids")
    if not isinstance(found, list) or not found or not all(type(token) is int for token in found):
        raise ScoringError("the backend does not say the tokens of a prompt (return_token_ids): it is too old")
    return found


def _read_vllm(listed: dict[str, dict[str, Any]]) -> Distribution:
    """The likeliest at one position. The token that stands there is listed even if it is none of them."""
    return {int(token): float(entry["logprob"]) for token, entry in listed.items() if entry["rank"] <= SCORED_TOKENS}


def _read_sglang(listed: list[list[Any]]) -> Distribution:
    return {int(token): float(logprob) for logprob, token, *_ in listed}


def _make_sglang_fields(start: int) -> dict[str, Any]:
    return {
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": start,
        "top_logprobs_num": SCORED_TOKENS,
    }
