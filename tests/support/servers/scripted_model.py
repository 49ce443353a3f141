"""A language model of thirty tokens behind the HTTP APIs of three engines, for what is checked of an answer's tokens.

What comes next is drawn from the hash of the tokens before, so that two servers with equal ``weights`` agree to the
last digit, and two with different ones differ by ``noise`` nats. ``flavour`` says whose API the server speaks:
``vllm``, ``sglang``, ``llamacpp``, or ``plain`` for one without log-probabilities.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

import trio

from p2p.runtime import RealRuntime
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.errors import bad_request, not_found
from tests.support.openai_answers import DONE, make_event

Flavour = Literal["vllm", "sglang", "llamacpp", "plain"]

MODEL = "scripted"
VOCABULARY = 30
END = 0
"""The token that ends an answer."""


class ScriptedModel:
    """The handler of such a server. ``paths`` are those of the POST requests that it has seen."""

    def __init__(self, flavour: Flavour, weights: str = "declared", noise: float = 0.0) -> None:
        self.flavour = flavour
        self.weights = weights
        self.noise = noise
        self.lost_tokens = 0
        """Tokens at the end of an answer that are not listed, as llama.cpp leaves out parts of characters."""
        self.paths: list[str] = []

    # The model

    def compute(self, before: Sequence[int]) -> dict[int, float]:
        """Log-probabilities of what comes after some tokens."""
        shared = random.Random(repr(tuple(before)))
        own = random.Random(f"{self.weights} {tuple(before)}")
        logits = [shared.gauss(0, 2) + self.noise * own.gauss(0, 1) for _ in range(VOCABULARY)]
        total = math.log(math.fsum(map(math.exp, logits)))
        return {token: logit - total for token, logit in enumerate(logits)}

    def write(self, prompt: Sequence[int], most: int, temperature: float, seed: int) -> list[int]:
        """An answer: tokens, of which the last may be the one that ends it."""
        chance = random.Random(seed)
        tokens: list[int] = []
        while len(tokens) < most and END not in tokens:
            logprobs = self.compute([*prompt, *tokens])
            weights = [math.exp(logprob / temperature) if temperature else 0 for logprob in logprobs.values()]
            likeliest = max(logprobs, key=lambda token: logprobs[token])
            tokens.append(chance.choices(list(logprobs), weights)[0] if temperature else likeliest)
        return tokens

    def write_for(self, content: dict[str, Any]) -> list[int]:
        """The answer to a chat completion."""
        return self._answer(content)[1]

    @staticmethod
    def tell(tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return _say(tokens)

    # The server

    async def handle(self, request: HttpRequest, respond: Responder) -> None:
        """Answer one request."""
        if request.method == "GET":
            if request.path != "/v1/models":
                raise not_found(f"no {request.path} here")
            await respond.reply(200, json.dumps({"data": [{"id": MODEL}]}).encode())
            return
        answer = self.answer(request.path, request.body)
        if isinstance(answer, bytes):
            await respond.reply(200, answer)
            return
        await respond.start(200, [(b"content-type", b"text/event-stream")])
        for event in answer:
            await respond.send(event)
        await respond.end()

    def answer(self, path: str, body: bytes) -> bytes | list[bytes]:
        """The body of the answer to a request, or the events of it.

        Raises:
            ApiError: there is no such path.
        """
        self.paths.append(path)
        content = json.loads(body)
        answer = {
            ("/v1/chat/completions", None): self._chat,
            ("/v1/completions", None): self._complete,
            ("/generate", "sglang"): self._generate,
            ("/apply-template", "llamacpp"): self._apply_template,
            ("/tokenize", "llamacpp"): self._tokenize,
            ("/detokenize", None): self._detokenize,
        }
        found = answer.get((path, None)) or answer.get((path, self.flavour))
        if found is None:
            raise not_found(f"no {path} here")
        if content.get("stream") and path == "/v1/chat/completions":
            return self._stream(content)
        return json.dumps(found(content)).encode()

    def _chat(self, content: dict[str, Any]) -> dict[str, Any]:
        prompt, tokens = self._answer(content)
        message = {"role": "assistant", "content": _say(tokens)}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        whole: dict[str, Any] = {"model": MODEL, "object": "chat.completion", "choices": [choice]}
        if content.get("logprobs") and self.flavour != "plain":
            choice["logprobs"] = {"content": self._list(content, prompt, tokens)}
        if content.get("return_token_ids") and self.flavour == "vllm":
            whole["prompt_token_ids"] = prompt
        if content.get("return_token_ids") and self.flavour == "sglang":
            choice["prompt_token_ids"] = prompt
        return {**whole, "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}}

    def _stream(self, content: dict[str, Any]) -> list[bytes]:
        prompt, tokens = self._answer(content)
        listed = self._list(content, prompt, tokens)
        events = []
        for number, token in enumerate(tokens):
            choice: dict[str, Any] = {"index": 0, "delta": {"content": _say([token])}, "finish_reason": None}
            if content.get("logprobs") and self.flavour != "plain":
                choice["logprobs"] = {"content": listed[number : number + 1]}
            events.append(make_event({"model": MODEL, "choices": [choice]}))
        events.append(make_event({"model": MODEL, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        events.append(make_event({"choices": [], "usage": {"completion_tokens": len(tokens)}}))
        return [*events, DONE]

    def _answer(self, content: dict[str, Any]) -> tuple[list[int], list[int]]:
        prompt = tokenize(render(content["messages"]))
        return prompt, self.write(
            prompt, content.get("max_tokens", 16), content.get("temperature", 1.0), content.get("seed", 0)
        )

    def _list(self, content: dict[str, Any], prompt: list[int], tokens: list[int]) -> list[dict[str, Any]]:
        """The entries of ``logprobs.content``."""
        count = content.get("top_logprobs", 0)
        entries = []
        for position in range(len(tokens) - self.lost_tokens):
            logprobs = self.compute([*prompt, *tokens[:position]])
            entries.append(
                {
                    **self._name(tokens[position], logprobs, content),
                    "top_logprobs": [self._name(token, logprobs, content) for token in _rank(logprobs)[:count]],
                }
            )
        return entries

    def _name(self, token: int, logprobs: dict[int, float], content: dict[str, Any]) -> dict[str, Any]:
        text = _say([token])
        if self.flavour == "vllm" and content.get("return_tokens_as_token_ids"):
            text = f"token_id:{token}"
        entry = {"token": text, "bytes": list(text.encode()), "logprob": logprobs[token]}
        return {"id": token, **entry} if self.flavour == "llamacpp" else entry

    def _complete(self, content: dict[str, Any]) -> dict[str, Any]:
        prompt = content["prompt"] if isinstance(content["prompt"], list) else tokenize(content["prompt"])
        choice: dict[str, Any] = {"index": 0, "text": "x", "logprobs": None, "finish_reason": "length"}
        if self.flavour == "vllm" and content.get("prompt_logprobs"):
            listed: list[dict[str, Any] | None] = [None]
            for position in range(1, len(prompt)):
                logprobs = self.compute(prompt[:position])
                ranked = _rank(logprobs)
                shown = {*ranked[: content["prompt_logprobs"]], prompt[position]} & set(ranked)
                listed.append({str(t): {"logprob": logprobs[t], "rank": ranked.index(t) + 1} for t in shown})
            choice["prompt_logprobs"] = listed
        if self.flavour == "llamacpp" and content.get("logprobs"):
            logprobs = self.compute(prompt)
            top = [self._name(token, logprobs, content) for token in _rank(logprobs)[: content["logprobs"]]]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]} if content.get("logit_bias") else None
        return {"choices": [choice]}

    def _generate(self, content: dict[str, Any]) -> dict[str, Any]:
        ids = content.get("input_ids") or tokenize(content["text"])
        start = content["logprob_start_len"]
        top: list[list[list[Any]] | None] = [None]
        for position in range(start + 1, len(ids)):
            logprobs = self.compute(ids[:position])
            top.append([[logprobs[token], token, None] for token in _rank(logprobs)[: content["top_logprobs_num"]]])
        first = [[None, ids[start], None]]
        return {"text": "x", "meta_info": {"input_token_logprobs": first, "input_top_logprobs": top}}

    def _apply_template(self, content: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": render(content["messages"])}

    def _tokenize(self, content: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(content.get("content"), str):
            raise bad_request("no content")
        return {"tokens": tokenize(content["content"])}

    def _detokenize(self, content: dict[str, Any]) -> dict[str, Any]:
        if self.flavour == "plain":
            raise not_found("no /detokenize here")
        if any(token >= VOCABULARY + 256 for token in content["tokens"]):
            raise bad_request("no such token")
        field = {"llamacpp": "content", "vllm": "prompt", "sglang": "text"}[self.flavour]
        return {field: _say(content["tokens"]) + "<|end|>" * (END in content["tokens"])}


def render(messages: list[dict[str, Any]]) -> str:
    return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"


def tokenize(text: str) -> list[int]:
    return [VOCABULARY + byte for byte in text.encode()]


def _say(tokens: Sequence[int]) -> str:
    return "".join("" if token == END else chr(ord("a") + token % 26) for token in tokens)


def _rank(logprobs: dict[int, float]) -> list[int]:
    return sorted(logprobs, key=lambda token: (-logprobs[token], token))


def serve_model_forked(started: Connection, model: ScriptedModel) -> None:
    """Serve until killed, in a process forked for it; the URL is sent to ``started``."""

    async def serve() -> None:
        server = await HttpServer.open(model.handle, "127.0.0.1", 0, RealRuntime())
        started.send(f"http://{server.address[0]}:{server.address[1]}")
        await server.run()

    trio.run(serve)
