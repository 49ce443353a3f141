"""The backends in a node's configuration file: an embedded model, or a server that speaks OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from chain.types.operations import MAX_MODELS
from serving.backends.load_metrics import LoadReader
from serving.config.fields import (
    Capacity,
    ConfigError,
    Digest,
    Label,
    ModelName,
    Seconds,
    Secret,
    Section,
    Text,
    Url,
    check_secret,
)
from serving.openai.number_formats import classify
from serving.quality.same_model.weights import hash_weights

_FIRST_TOKEN = "Longest wait for the first token of an answer, in seconds."
_STALL = "Longest pause between two tokens, in seconds."


class IdentityConfig(Section):
    """What is declared of a model, so that others who declare the same check its answers."""

    model: ModelName | None = Field(default=None, description="The model; null is the first of names.")
    weights: Digest | None = Field(
        default=None, description="BLAKE2b-256 of the weights, as 'wwwserve calibrate' prints it."
    )
    weight_files: Annotated[tuple[Text, ...], Strict(False)] = Field(
        default=(),
        description="Or their files, relative to this directory. They are read at each start, a second for each GB.",
    )
    quantization: Label = Field(
        description="Number formats of weights, activations and key-value cache, such as w4a16-kv16. Of vLLM it must "
        "name those of activations and cache."
    )
    engine: Literal["vllm", "llamacpp"] = Field(description="What runs the model: vllm or llamacpp.")

    @model_validator(mode="after")
    def _check_weights(self) -> IdentityConfig:
        if (self.weights is None) == (not self.weight_files):
            raise ValueError("takes either weights or weight_files")
        return self

    @model_validator(mode="after")
    def _check_quantization(self) -> IdentityConfig:
        """Refuse an identity under which two honest owners could answer otherwise: each would look like a cheat.

        The weights are known by their digest. In llama.cpp the kernels choose the rest.
        """
        formats = classify(self.quantization)
        open_parts = {"activations": not formats.activations, "key-value cache": not formats.cache}
        if self.engine == "vllm" and any(open_parts.values()):
            missing = " and ".join(part for part, is_open in open_parts.items() if is_open)
            raise ValueError(f"quantization leaves the format of {missing} open: name it, as in fp8-a16-kv16")
        return self

    def get_weights(self, directory: Path) -> bytes:
        """The digest of the weights.

        Raises:
            ConfigError: a file cannot be read.
        """
        if self.weights is not None:
            return bytes.fromhex(self.weights)
        try:
            return hash_weights([directory / name for name in self.weight_files])
        except (OSError, ValueError) as error:
            raise ConfigError(f"weight_files of an identity: {error}") from None


class EmbeddedModel(Section):
    """The small model that comes with the node, on this machine's processor."""

    kind: Literal["embedded"] = Field(default="embedded", description="The small model that comes with the node.")
    capacity: Capacity = Field(default=4, description="Requests that run at a time; further ones wait.")
    first_token_timeout_s: Seconds = Field(default=30.0, description=_FIRST_TOKEN)
    stall_timeout_s: Seconds = Field(default=15.0, description=_STALL)
    declare_identity: bool = Field(
        default=False,
        description="Whether to declare the weights on the ledger, so that others who do check the answers.",
    )


class OpenAIModel(Section):
    """Any server that speaks OpenAI's API."""

    kind: Literal["openai"] = Field(description="Any server that speaks OpenAI's API: vLLM, SGLang, llama.cpp, …")
    base_url: Url = Field(description="URL of the server, with or without /v1.")
    api_key: Secret | None = Field(default=None, repr=False, description="API key of the server, if it needs one.")
    api_key_env: Text | None = Field(default=None, description="Or the environment variable that holds the key.")
    command: Annotated[tuple[Text, ...], Strict(False)] = Field(
        default=(),
        description="Command that starts the server, word by word: the node runs it, watches it and starts it again. "
        "[] if something else runs it.",
    )
    names: Annotated[tuple[ModelName, ...], Strict(False)] = Field(
        default=(), max_length=MAX_MODELS, description="Models to serve; [] serves those that the server lists."
    )
    aliases: dict[ModelName, Text] = Field(
        default={},
        max_length=MAX_MODELS,
        description="Names by which models are known here and to other nodes, with what the server calls them: "
        "{Qwen/Qwen3-8B: 'qwen3:8b'}. So one model has one name, whatever serves it.",
    )
    capacity: Capacity = Field(default=32, description="Requests that run at a time; further ones wait.")
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="How many times as many requests it gets, for its capacity, as another server of the same model "
        "with weight 1.",
    )
    quantizations: dict[ModelName, Label] = Field(
        default={},
        max_length=MAX_MODELS,
        description="Number formats of weights, activations and key-value cache of models, by their names here: "
        "{Qwen/Qwen3-8B: w4a16-kv16}, {qwen: fp8-a16-kvfp8} or {llama-8b: Q4_K_M}, which leaves two open. Of what is "
        "left open, and of other models, it is believed what the server or the name says.",
    )
    context_length: int | None = Field(
        default=None,
        ge=1,
        lt=2**31,
        description="Most tokens of prompt and answer together; null asks the server (vLLM and SGLang tell it).",
    )
    features: Annotated[
        tuple[Literal["tools", "vision", "logprobs", "completions", "embeddings"], ...], Strict(False)
    ] = Field(
        default=("tools", "logprobs", "completions"),
        description="What requests may ask for beyond chats: tools, vision, logprobs, completions, embeddings.",
    )
    continues: bool | None = Field(
        default=None,
        description="Whether the server goes on with an answer that another has begun, so that one that is cut is "
        "finished here; null: if its metrics page is vLLM's or llama.cpp's.",
    )
    load: LoadReader = Field(
        default="auto", description="Format of its metrics page: auto, vllm, sglang, llamacpp or none."
    )
    first_token_timeout_s: Seconds = Field(default=30.0, description=_FIRST_TOKEN)
    stall_timeout_s: Seconds = Field(default=15.0, description=_STALL)

    identity: IdentityConfig | None = Field(
        default=None,
        description="What to declare of the weights on the ledger, so that others who declare the same check the "
        "answers: model, weights or weight_files, quantization and engine.",
    )

    @model_validator(mode="after")
    def _check_key(self) -> OpenAIModel:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("has both api_key and api_key_env, and takes one")
        return self

    @model_validator(mode="after")
    def _check_identity(self) -> OpenAIModel:
        if self.identity is None:
            return self
        if self.identity.model is None and not self.names:
            raise ValueError("identity does not name its model, and names is empty")
        if self.identity.model is not None and self.names and self.identity.model not in self.names:
            raise ValueError(f"identity is of {self.identity.model!r}, which is not in names")
        return self

    @property
    def identity_model(self) -> str | None:
        """The model that has an identity, if one has."""
        return None if self.identity is None else self.identity.model or self.names[0]

    def has_identity_of(self, other: OpenAIModel) -> bool:
        """Whether both have one identity, whatever model it is of."""
        if self.identity is None or other.identity is None:
            return self.identity is other.identity
        return self.identity.model_copy(update={"model": None}) == other.identity.model_copy(update={"model": None})

    def get_quantization(self, model: str) -> str | None:
        """The number formats that are declared of a model."""
        if self.identity is not None and model == self.identity_model:
            return self.identity.quantization
        return self.quantizations.get(model)

    def get_api_key(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The key of the server, from the file or the environment.

        Raises:
            ConfigError: the variable is not set, or holds no key.
        """
        if self.api_key_env is None:
            return self.api_key
        try:
            return check_secret(environment.get(self.api_key_env, ""))
        except ValueError as error:
            reason = str(error) if environment.get(self.api_key_env) else "is not set"
            raise ConfigError(f"api_key_env of {self.base_url}: {self.api_key_env} {reason}") from None


Model = Annotated[EmbeddedModel | OpenAIModel, Field(discriminator="kind")]
