"""The ``openai`` SDK on a backend of this node, of whatever kind, for what the node asks of it on its own account.

The backend keeps its key, its connections and its count of requests; the SDK makes the requests and reads the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from serving.backends.backend import Backend, BackendError
from serving.openai.content import MAX_UNSTREAMED_BYTES

if TYPE_CHECKING:
    import openai


class BackendTransport(httpx2.AsyncBaseTransport):
    """Carries the requests of an HTTP client to a backend. Answers come in one piece."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and read its whole answer. Raises httpx2.NetworkError if the backend does not answer."""
        body = await request.aread()
        content = bytearray()
        try:
            async with self._backend.complete(request.url.path, body, stream=False) as answer:
                async for piece in answer.body:
                    content += piece
                    if len(content) > MAX_UNSTREAMED_BYTES:
                        raise BackendError(f"the answer is longer than {MAX_UNSTREAMED_BYTES} bytes")
        except BackendError as error:
            raise httpx2.NetworkError(str(error), request=request) from error
        return httpx2.Response(
            answer.status, headers={"content-type": answer.content_type}, content=bytes(content), request=request
        )


def open_client(backend: Backend) -> openai.AsyncOpenAI:
    """A client of ``backend``, for as long as the backend runs. It never asks again by itself."""
    import openai  # slow, and only a judge needs it

    http = httpx2.AsyncClient(transport=BackendTransport(backend), timeout=None, trust_env=False)
    return openai.AsyncOpenAI(
        base_url="http://backend/v1", api_key="kept by the backend", http_client=http, max_retries=0, timeout=None
    )
