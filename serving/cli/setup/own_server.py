"""``wwwserve run --vllm MODEL`` and ``--llama-cpp MODEL``: a server of the model that the node runs itself."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from p2p.peers.announcement import is_model_name
from serving.cli.setup.ports import find_any_port
from serving.config.models import EmbeddedModel, OpenAIModel
from serving.config.schema import NodeConfig
from serving.openai.number_formats import is_label


def add_vllm(config: NodeConfig, model: str, arguments: Sequence[str]) -> NodeConfig:
    """``config`` with ``vllm serve`` for a model in place of the embedded one; ``arguments`` are more of its own."""
    port = find_any_port()
    command = ("vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port), *arguments)
    name = _find_argument(arguments, "--served-model-name") or model
    label = _find_argument(arguments, "--quantization", "-q")
    labels = {name: label} if is_label(label) and is_model_name(name) else {}
    url = _make_url(port)
    return _add(config, OpenAIModel(kind="openai", base_url=url, command=command, load="vllm", quantizations=labels))


def add_llama_cpp(config: NodeConfig, model: str, arguments: Sequence[str]) -> NodeConfig:
    """The same with ``llama-server``, for a GGUF file or a repository with one."""
    port, capacity = find_any_port(), EmbeddedModel().capacity
    source = ("--model", model) if Path(model).is_file() else ("--hf-repo", model)
    listen = ("--host", "127.0.0.1", "--port", str(port), "--metrics", "--jinja", "--parallel", str(capacity))
    entry = OpenAIModel(
        kind="openai",
        base_url=_make_url(port),
        command=("llama-server", *source, *listen, *arguments),
        load="llamacpp",
        capacity=capacity,
    )
    return _add(config, entry)


def _find_argument(arguments: Sequence[str], *names: str) -> str:
    """The value of an option of ``vllm serve``; empty if it is not given. The last one counts."""
    found = ""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, value = word.partition("=")
        if name in names:
            found = value or following
    return found


def _add(config: NodeConfig, entry: OpenAIModel) -> NodeConfig:
    """The server asks for a key, so that its users come through the node."""
    locked = entry.model_copy(update={"api_key": secrets.token_urlsafe(32)})
    others = tuple(model for model in config.models if not isinstance(model, EmbeddedModel))
    return config.model_copy(update={"models": (*others, locked)})


def _make_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
