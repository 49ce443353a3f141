"""Scoring by one-token completions, for llama.cpp's server, which has no log-probabilities of a prompt.

For each position the prompt and the answer up to it go to the backend, which completes them by one token and lists the
likeliest. The positions come in order: since the server caches the common beginning, each completion costs only the
tokens since the last one. A bias forces the token that the backend then writes, and changes none of the listed
probabilities: for a token that is part of a character, the server would list nothing.

A server that scores its own answer takes it from its cache, and agrees with itself to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.backends.backend import Backend
from serving.quality.same_model.scoring import ScoringError, ask, ask_for_text, make_question
from serving.quality.same_model.statistics import SCORED_TOKENS, Distribution

APPLY_TEMPLATE = "/apply-template"
TOKENIZE = "/tokenize"
COMPLETIONS = "/v1/completions"
FORCED_TEXT = "a"
"""What the backend writes in each completion: any text of whole characters."""
FORCING_BIAS = 1000.0
"""Bias, in nats, that makes a token certain."""


class LlamaCppScorer:
    """Scores with llama.cpp's server, the embedded one included."""

    engine = "llamacpp"

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model
        self._forced: int | None = None

    async def is_offered(self) -> bool:
        """See :meth:`serving.quality.same_model.scoring.Scorer.is_offered`."""
        question = {"messages": [{"role": "user", "content": "one"}]}
        answer = await ask(self._backend, APPLY_TEMPLATE, question)
        return answer is not None and isinstance(answer.get("prompt"), str)

    async def score(self, request: bytes, tokens: Sequence[int], positions: Sequence[int]) -> dict[int, Distribution]:
        """See :meth:`serving.quality.same_model.scoring.Scorer.score`."""
        if self._forced is None:
            self._forced = (await self._tokenize(FORCED_TEXT, is_prompt=False))[-1]
        prompt = await self._render(request)
        return {position: await self._score(prompt, tokens, position) for position in sorted(positions)}

    async def write_out(self, tokens: Sequence[int]) -> str:
        """See :meth:`serving.quality.same_model.scoring.Scorer.write_out`."""
        return await ask_for_text(self._backend, self._model, tokens, "content")

    async def _render(self, request: bytes) -> list[int]:
        """The tokens of the prompt of a chat completion."""
        rendered = await ask(self._backend, APPLY_TEMPLATE, make_question(request, model=self._model))
        text = None if rendered is None else rendered.get("prompt")
        if not isinstance(text, str):
            raise ScoringError("llama.cpp refuses the request of the answer that it is to score")
        return await self._tokenize(text, is_prompt=True)

    async def _tokenize(self, text: str, *, is_prompt: bool) -> list[int]:
        question = {"content": text, "add_special": is_prompt, "parse_special": is_prompt}
        answer = await ask(self._backend, TOKENIZE, question)
        found = None if answer is None else answer.get("tokens")
        if not isinstance(found, list) or not found or not all(type(token) is int for token in found):
            raise ScoringError("llama.cpp does not say the tokens of a text")
        return found

    async def _score(self, prompt: Sequence[int], tokens: Sequence[int], position: int) -> Distribution:
        question = {
            "model": self._model,
            "prompt": [*prompt, *tokens[:position]],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": SCORED_TOKENS,
            "logit_bias": [[self._forced, FORCING_BIAS]],
        }
        answer = await ask(self._backend, COMPLETIONS, question)
        if answer is None:
            raise ScoringError("llama.cpp refuses a prompt of tokens, or the answer is too long for its context")
        try:
            listed = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            return {int(each["id"]): float(each["logprob"]) for each in listed[:SCORED_TOKENS]}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ScoringError("the log-probabilities of llama.cpp cannot be read") from error
