"""The routes of the dashboard: the page, live data, sessions, and chat."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chain.files import SECRET_MODE, write_atomically
from serving.admin.levels import Level, PageRoute
from serving.admin.node_view import NodeView
from serving.admin.orders.bodies import make_answer, read_object, read_section
from serving.admin.orders.policy_orders import plan_policy
from serving.config.fields import Section as BodySection
from serving.dashboard.block_log import BlockLog
from serving.dashboard.chat import ChatAnswer, read_chat
from serving.dashboard.ended_sessions import EndedSessions
from serving.dashboard.events import EventHub, EventStream, Feed
from serving.dashboard.files import INDEX, StaticFile, load_files
from serving.dashboard.history import History
from serving.dashboard.replay import count_offloads
from serving.dashboard.sessions import CODE_LIFETIME_S, SESSION_LIFETIME_S, Sessions
from serving.dashboard.views import SAMPLED, make_sections, take_sample
from serving.http.messages import is_json
from serving.logs.recent import RECENT
from serving.openai.answers import EVENT_STREAM
from serving.openai.endpoints import CHAT
from serving.openai.errors import ApiError
from serving.openai.requests import LOCAL_ONLY, is_local_only

SECRET_BYTES = 32
"""Random bytes of a code."""
KEY = "x-wwwserve-session-key"
"""Header in which a page names the key of its session."""
SAFE_METHODS = ("GET", "HEAD")
"""Methods of requests that change nothing and spend nothing."""
MAX_CHAT_BYTES = 1024 * 1024
"""Largest body of a chat completion."""
SAMPLE_INTERVAL_S = 1.0
"""Seconds between two samples of the history."""


class LoginOrder(BodySection):
    """A one-time code to exchange."""

    code: str = Field(max_length=256)


class Dashboard:
    """The pages of one node. ``secret`` is the token of its owner, of which sessions are derived.

    ``api_url`` is the base URL of its API, which the page puts into examples. ``ended_file`` keeps which sessions were
    ended; if it cannot be read, all that there may be are.
    """

    def __init__(
        self, node: NodeView, secret: str, api_url: str = "http://127.0.0.1:8000/v1", ended_file: Path | None = None
    ) -> None:
        self._node = node
        self._api_url = api_url
        self._ended_file = ended_file
        ended = _load_ended(ended_file, self._now)
        self._sessions = Sessions(secret, partial(secrets.token_urlsafe, SECRET_BYTES), ended)
        self._writing = trio.Lock()
        self._history = History(SAMPLED)
        self._blocks = BlockLog(node.engine, node.runtime.now)
        feeds = {
            "blocks": Feed(Level.PUBLIC, self._blocks.get_since),
            "log": Feed(Level.READING, RECENT.get_since),
        }
        self._hub = EventHub(make_sections(node, self._blocks, self._history), feeds, node.runtime.now)
        self._files = load_files()

    async def run(self) -> None:
        """Sample, follow the ledger and feed viewers until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._blocks.run)
            nursery.start_soon(self._hub.run)
            while True:
                self._history.add(take_sample(self._node))
                await trio.sleep(SAMPLE_INTERVAL_S)

    def get_level(self, request: Request) -> Level:
        """What the session in a request's cookie may do: without its key, nothing but look."""
        session = _get_session(request)
        if request.method not in SAFE_METHODS and not self._sessions.is_key(session, request.headers.get(KEY, "")):
            return Level.PUBLIC
        return self._sessions.get_level(session, self._now)

    def get_routes(self) -> Iterator[PageRoute]:
        """Method, path, least level and endpoint of every route."""
        public, reading, acting = Level
        for path, file in self._files.items():
            yield PageRoute("GET", "/" if path == INDEX else f"/static/{path}", public, partial(_serve_file, file))
        yield PageRoute("GET", "/dashboard/events", public, self._stream_events)
        yield PageRoute("GET", "/dashboard/session", public, self._describe_session)
        yield PageRoute("POST", "/dashboard/login", public, self._log_in)
        yield PageRoute("POST", "/dashboard/logout", public, self._log_out)
        yield PageRoute("POST", "/dashboard/code", acting, self._make_code)
        yield PageRoute("POST", "/dashboard/unlock", reading, self._unlock)
        yield PageRoute("POST", "/dashboard/lock", reading, self._lock)
        yield PageRoute("GET", "/dashboard/history", reading, self._get_history)
        yield PageRoute("POST", "/dashboard/replay", reading, self._replay)
        yield PageRoute("POST", CHAT.path, reading, self._chat)

    @property
    def _now(self) -> float:
        return self._node.runtime.now() / 1000

    # Live data

    async def _stream_events(self, request: Request) -> Response:
        if request.method == "HEAD":  # whose response has no body that could end
            return Response(media_type=EVENT_STREAM)
        return _Streamed(EventStream(self._hub, request.state.level_of))

    async def _get_history(self, request: Request) -> Response:
        coarse = request.query_params.get("span", "") == "day"
        return make_answer(self._history.to_columns(coarse=coarse))

    async def _replay(self, request: Request) -> Response:
        """The effect that a change of the policy would have had on the last requests that could be served or
        offloaded."""
        policy, changes = self._node.policy, await read_object(request)
        planned = plan_policy(self._node, changes).get_parameters()
        loads = [record.load for record in self._node.dispatcher.records if record.load is not None]
        now, then = (count_offloads(policy, each, loads) for each in (policy.parameters, planned))
        return make_answer({"requests": len(loads), "offloaded": now, "would_offload": then})

    # Sessions

    async def _describe_session(self, request: Request) -> Response:
        locked_at = self._sessions.get_locked_at(_get_session(request), self._now)
        left = None if locked_at is None else round(locked_at - self._now)
        level = request.state.level_of()
        about = {"level": level.name.lower(), "locked_in_s": left}
        return make_answer(about if level is Level.PUBLIC else {**about, "api_url": self._api_url})

    async def _make_code(self, request: Request) -> Response:
        return make_answer({"code": self._sessions.make_code(self._now), "expires_in_s": int(CODE_LIFETIME_S)})

    async def _log_in(self, request: Request) -> Response:
        order = await read_section(request, LoginOrder)
        session = self._sessions.redeem(order.code, self._now)
        if session is None:
            raise HTTPException(403, "this link was used already, or is older than a minute: run wwwserve dashboard")
        answer = make_answer({"level": Level.READING.name.lower(), "key": self._sessions.make_key(session)})
        _set_cookie(answer, request, session, int(SESSION_LIFETIME_S))
        return answer

    async def _log_out(self, request: Request) -> Response:
        if self._sessions.end(_get_session(request), self._now) and self._ended_file is not None:
            await self._keep_ended(self._ended_file)
        answer = make_answer({"level": Level.PUBLIC.name.lower()})
        _set_cookie(answer, request, "", 0)
        return answer

    async def _keep_ended(self, path: Path) -> None:
        """Write which sessions were ended, the latest last."""
        async with self._writing:
            write = partial(write_atomically, path, self._sessions.ended.encode(), mode=SECRET_MODE)
            try:
                await self._node.runtime.run_sync(write)
            except OSError as error:
                message = f"logged out until the node is started again, because {path} cannot be written"
                raise HTTPException(500, f"{message}: {error.strerror}") from error

    async def _unlock(self, request: Request) -> Response:
        self._sessions.unlock(_get_session(request), self._now)
        return await self._describe_session(request)

    async def _lock(self, request: Request) -> Response:
        self._sessions.lock(_get_session(request), self._now)
        return await self._describe_session(request)

    # Chat

    async def _chat(self, request: Request) -> Response:
        if not is_json(request.scope["headers"]):
            raise HTTPException(415, "the body must be JSON: send it with Content-Type: application/json")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_CHAT_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_CHAT_BYTES} bytes")
        local_only = is_local_only(request.headers.get(LOCAL_ONLY, ""))
        try:
            parsed = read_chat(self._node.dispatcher, bytes(body), local_only=local_only)
        except ApiError as error:
            return Response(error.body(), error.status, media_type="application/json")
        return _Streamed(ChatAnswer(self._node.dispatcher, parsed))


class _Streamed(Response):
    """A response that an ASGI application gives."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


def _load_ended(path: Path | None, now: float) -> EndedSessions:
    """The sessions that were ended, as ``path`` says; if it cannot be read, all that were begun before."""
    try:
        return EndedSessions() if path is None else EndedSessions.decode(path.read_bytes())
    except FileNotFoundError:
        return EndedSessions()
    except (OSError, ValueError):
        return EndedSessions(int(now + SESSION_LIFETIME_S))


async def _serve_file(file: StaticFile, request: Request) -> Response:
    headers = {"etag": file.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = file.compressed, "gzip"
    return Response(content, headers=headers, media_type=file.media_type)


def _get_cookie_name(request: Request) -> str:
    """The cookie's name has the port, since browsers send a host's cookies to all of its ports."""
    server = request.scope["server"]
    return f"wwwserve-{server[1] if server else ''}"


def _get_session(request: Request) -> str:
    return request.cookies.get(_get_cookie_name(request), "")


def _set_cookie(answer: Response, request: Request, session: str, age: int) -> None:
    answer.set_cookie(_get_cookie_name(request), session, max_age=age, httponly=True, samesite="strict", path="/")
