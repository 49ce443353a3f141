"""The endpoints of OpenAI's API that a backend answers and that requests are offloaded to: the paths on the wire.

Requests of other APIs (``serving.translation``) are translated to one of these on the node that the user asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.openai.content import MESSAGES, TEXTS, VECTORS, AnswerForm


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """One endpoint: its path, how its answers are written, and the feature that a node with it announces, if any."""

    path: str
    form: AnswerForm
    feature: str | None = None

    @property
    def is_priced_by_prompt(self) -> bool:
        """Whether an answer costs what its prompt costs, and no more."""
        return self.form is VECTORS


CHAT = ApiEndpoint("/v1/chat/completions", MESSAGES)
"""Chat completions, which every node has."""
COMPLETIONS = ApiEndpoint("/v1/completions", TEXTS, "completions")
"""The older completions of a text."""
EMBEDDINGS = ApiEndpoint("/v1/embeddings", VECTORS, "embeddings")
"""Embeddings."""
ENDPOINTS = {endpoint.path: endpoint for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)}
"""All of them, by path."""
