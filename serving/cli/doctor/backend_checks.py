"""What ``wwwserve doctor`` asks backends: whether each answers, takes the key, lists its models, and gives a token.

A server may still list its models although its engine hangs or has died. So one token is asked for: through the node if
it runs, as a user would ask, or from the server itself.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from chain.cli.contract import CommandError, ExitCode
from serving.admin.health.self_checks import Finding, find
from serving.cli.running.admin_client import open_answer
from serving.config.fields import ConfigError
from serving.config.models import OpenAIModel
from serving.openai.endpoints import CHAT
from serving.openai.requests import LOCAL_ONLY

LIST_TIMEOUT_S = 2.0
"""Patience with a list of models."""
TOKEN_TIMEOUT_S = 15.0
"""Patience with a token: a server may have to load its model first."""
MAX_ANSWER_BYTES = 1 << 20
"""Most of an answer that is read."""
BUSY = (429, 503)
"""Statuses of a node or a server that has no slot for the request now."""


class Reply(NamedTuple):
    """What a backend, or the node, answered."""

    status: int
    body: bytes

    def describe(self) -> str:
        """The message of an error, or else its status."""
        try:
            return str(json.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"answers {self.status}"


def list_models(number: int, entry: OpenAIModel) -> tuple[Finding, list[str]]:
    """How a server is, and the models that it lists; none if something is wrong with it."""
    name = f"backend {number}"
    try:
        reply = _ask_server(entry, "GET", "/v1/models", None, LIST_TIMEOUT_S)
    except ConfigError as error:
        return find("backend_key_missing", of=name, reason=error, variable=entry.api_key_env), []
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error or "does not answer"
        port = urlsplit(str(entry.base_url)).port or 80
        return find("backend_down", of=name, url=entry.base_url, reason=reason, port=port), []
    if reply.status in (401, 403):
        return find("backend_key_refused", of=name, url=entry.base_url), []
    if reply.status != 200:
        return find("backend_fails", of=name, url=entry.base_url, status=reply.status), []
    try:
        listed = [str(each["id"]) for each in json.loads(reply.body)["data"]]
    except (ValueError, KeyError, TypeError):
        return find("backend_foreign", of=name, url=entry.base_url), []
    missing = [model for model in _name_there(entry) if model not in listed]
    if missing:
        shown = {"missing": ", ".join(missing), "listed": ", ".join(listed) or "nothing"}
        return find("backend_lacks_model", of=name, url=entry.base_url, **shown), []
    return Finding(name, f"{entry.base_url}: {', '.join(listed) or 'no model'}"), listed


def probe_server(number: int, entry: OpenAIModel, listed: list[str], directory: Path) -> Iterator[Finding]:
    """The finding of a request for one token to a server; nothing if it has no model."""
    chosen = _name_there(entry) or listed
    if chosen:
        probe = _Probe(number, str(entry.base_url), chosen[0], directory, "embeddings" in entry.features)
        yield probe.run(lambda content: _ask_server(entry, "POST", CHAT.path, content, TOKEN_TIMEOUT_S))


def probe_node(
    directory: Path, backends: list[dict[str, Any]], entries: Mapping[int, OpenAIModel]
) -> Iterator[Finding]:
    """The findings of requests for one token, as a user's, to the backends that a running node reports.

    A model is asked for once, and of each backend the first. ``entries`` are those of the configuration, by number.
    """
    asked: set[str] = set()
    for number, backend in enumerate(backends, start=1):
        model = next(iter(backend["models"]), None)
        if not backend["is_alive"] or model is None or model in asked:
            continue
        asked.add(model)
        entry = entries.get(number)
        takes_texts = entry is not None and "embeddings" in entry.features
        probe = _Probe(number, backend["place"], model, directory, takes_texts)
        yield probe.run(lambda content: _ask_node(directory, content))


def _name_there(entry: OpenAIModel) -> list[str]:
    """The configured models, as the server calls them."""
    return [entry.aliases.get(model, model) for model in entry.names]


class _Probe(NamedTuple):
    """A request for one token to the backend with a number; ``is_for_texts``: the backend may not take chats."""

    number: int
    place: str
    model: str
    directory: Path
    is_for_texts: bool

    def run(self, ask: Callable[[dict[str, Any]], Reply]) -> Finding:
        """Send it by ``ask``, and say how long the token took, or what is wrong."""
        content = {"model": self.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        name = f"backend {self.number}"
        shown = {"place": self.place, "model": self.model, "name": quote(self.model), "directory": self.directory}
        started = time.monotonic()
        try:
            reply = ask(content)
        except TimeoutError:
            return find("probe_silent", of=name, seconds=TOKEN_TIMEOUT_S, **shown)
        except (OSError, http.client.HTTPException, CommandError) as error:
            return find("probe_fails", of=name, reason=error, **shown)
        if reply.status == 200:
            took = 1000 * (time.monotonic() - started)
            return Finding(name, f"{self.model}: a token in {took:,.0f} ms")
        if reply.status in BUSY:
            return find("probe_busy", of=name, reason=reply.describe(), **shown)
        if self.is_for_texts and reply.status < 500:
            return Finding(name, f"{self.model}: takes no chat")
        return find("probe_fails", of=name, reason=reply.describe(), **shown)


def _ask_node(directory: Path, content: dict[str, Any]) -> Reply:
    """The answer of the node, by a backend of its own.

    Raises:
        TimeoutError: it gives none in time.
        CommandError: it gives none.
    """
    try:
        headers = {LOCAL_ONLY: "true"}
        with open_answer(directory, "POST", CHAT.path, content, TOKEN_TIMEOUT_S, headers) as response:
            return Reply(response.status, response.read(MAX_ANSWER_BYTES))
    except CommandError as error:
        if error.failure.code is ExitCode.TIMEOUT:
            raise TimeoutError from error
        raise


def _ask_server(entry: OpenAIModel, method: str, path: str, content: Any, timeout: float) -> Reply:
    """The answer of a server.

    Raises:
        ConfigError: its key is not set.
        OSError, HTTPException: it gives none.
    """
    url, key = urlsplit(str(entry.base_url)), entry.get_api_key()
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=timeout)
    headers = {} if content is None else {"Content-Type": "application/json"}
    body = None if content is None else json.dumps(content)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request(method, f"{url.path.rstrip('/').removesuffix('/v1')}{path}", body, headers)
        response = connection.getresponse()
        return Reply(response.status, response.read(MAX_ANSWER_BYTES))
    finally:
        connection.close()
