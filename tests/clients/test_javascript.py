"""The clients for JavaScript: OpenAI's, and the AI SDK."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Endpoint
from tests.clients.installed import needs_node, run_script


@needs_node
@pytest.mark.parametrize("name", ["openai.test.mjs", "ai.test.mjs"])
def test_a_client_for_javascript_gets_what_it_asks_for(name: str, endpoint: Endpoint) -> None:
    run_script(name, endpoint)
