"""LangChain's standard tests of chat models and embeddings, on its client for OpenAI's API.

Runs in the environment of the clients, not in the node's: ``tests/clients/test_langchain.py`` starts it, and says by
the environment where the node is and what its model is called.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

BASE_URL, MODEL = os.environ["BASE_URL"], os.environ["MODEL"]
MAX_TOKENS = 64
"""Of an answer: the small model ends few of them by itself."""


class TestChat(ChatModelIntegrationTests):
    """Chat completions."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": BASE_URL,
            "api_key": "any",
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "stream_usage": True,
            "timeout": 120,
            "max_retries": 1,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False


class TestResponses(TestChat):
    """The same, by the Responses API."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True, "store": False}


class TestEmbeddings(EmbeddingsIntegrationTests):
    """Embeddings."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": BASE_URL, "api_key": "any", "check_embedding_ctx_length": False}
