"""The body of an answer is, byte for byte, the backend's own; and the backend gets, byte for byte, what was asked.

The scripted backend names the digest of what it was asked in each answer, so one comparison shows both.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.clients.conftest import PARAMETERS, Endpoint
from tests.clients.scripted_chat import SCRIPTED
from tests.support.openai_answers import DONE

MESSAGES = [{"role": "user", "content": "Say 'Grüße' to 你好 in 3 ways."}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": PARAMETERS}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CHAT: dict[str, Any] = {"model": SCRIPTED, "messages": MESSAGES, "max_tokens": 50}
TEXT: dict[str, Any] = {"model": SCRIPTED, "prompt": ["One,", "two,"], "max_tokens": 50}
ASKED = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, **USAGE}),
    (
        "/v1/chat/completions",
        {**CHAT, "n": 3, "stop": ["say"], "seed": 7, "temperature": 0.5, "of_no_document": [None]},
    ),
    ("/v1/chat/completions", {**CHAT, **USAGE, "n": 2}),
    ("/v1/chat/completions", {**CHAT, "tools": TOOLS, "tool_choice": "required"}),
    ("/v1/chat/completions", {**CHAT, **USAGE, "tools": TOOLS}),
    ("/v1/chat/completions", {**CHAT, "response_format": FORM}),
    ("/v1/completions", TEXT),
    ("/v1/completions", {**TEXT, **USAGE}),
    ("/v1/embeddings", {"model": SCRIPTED, "input": ["cat", "dog"], "encoding_format": "base64"}),
]


def post(root: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(root + path, json=body, timeout=120)


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_answer_and_request_pass_byte_for_byte(scripted: Endpoint, path: str, body: dict[str, Any]) -> None:
    answer, direct = post(scripted.root, path, body), post(scripted.direct, path, body)
    assert (answer.headers["x-wwwserve-executor"] == "local") != scripted.is_offloaded
    assert answer.status_code == direct.status_code == 200
    assert answer.content == direct.content
    assert answer.headers["content-type"] == direct.headers["content-type"]


@pytest.mark.parametrize("changes", [{"temperature": "hot"}, {"messages": []}, {"messages": "hello"}])
def test_so_does_the_error_of_a_backend(scripted: Endpoint, changes: dict[str, Any]) -> None:
    answer, direct = (post(root, ASKED[0][0], {**CHAT, **changes}) for root in (scripted.root, scripted.direct))
    assert (answer.status_code, answer.content) == (direct.status_code, direct.content) and direct.status_code == 400


def test_the_documented_changes_are_the_only_ones(scripted: Endpoint) -> None:
    """A token limit where there is none, and the usage of a stream, which its user does not see."""
    stream = {**CHAT, "stream": True}
    answer, direct = (post(root, ASKED[0][0], stream) for root in (scripted.root, scripted.direct))
    told = {**stream, "stream_options": {"include_usage": True}}
    fingerprints = [read_events(each.content)[0].pop("system_fingerprint") for each in (answer, direct)]
    assert fingerprints[0] != fingerprints[1]
    assert drop_fingerprints(answer.content) == drop_fingerprints(direct.content)
    assert fingerprints[0] == read_events(post_compact(scripted.direct, told).content)[0]["system_fingerprint"]


def post_compact(root: str, body: dict[str, Any]) -> httpx.Response:
    """Ask with a body as a node writes it when it must change something."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return httpx.post(root + ASKED[0][0], content=content, headers={"content-type": "application/json"}, timeout=120)


def read_events(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(DONE)
    return [json.loads(event.removeprefix(b"data: ")) for event in body.removesuffix(DONE).split(b"\n\n") if event]


def drop_fingerprints(body: bytes) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if name != "system_fingerprint"} for each in read_events(body)]
