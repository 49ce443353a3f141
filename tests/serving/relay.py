"""The smallest gateway: the HTTP front in front of one backend, bytes passed on unparsed."""

from __future__ import annotations

import json

from serving.backends.backend import Backend, BackendError
from serving.http.connection import Handler
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.openai.errors import bad_gateway


def relay_to(backend: Backend) -> Handler:
    """A handler that passes every POST to ``backend`` and lists its models."""

    async def handle(request: HttpRequest, respond: Responder) -> None:
        if request.method == "GET":
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in backend.models]
            await respond.reply(200, json.dumps({"object": "list", "data": models}).encode())
            return
        try:
            stream = json.loads(request.body).get("stream") is True
            async with backend.complete(request.path, request.body, stream=stream) as answer:
                await respond.start(answer.status, [(b"content-type", answer.content_type.encode())])
                async for piece in answer.body:
                    await respond.send(piece)
                await respond.end()
        except BackendError as error:
            raise bad_gateway(str(error)) from error

    return handle
