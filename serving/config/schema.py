"""The keys of a node's configuration file: their types, bounds, defaults and meaning.

The classes below are the only definition of the file: their fields are its keys, and their descriptions become the
comments of the file that :mod:`serving.config.file` writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    field_validator,
    model_validator,
)

from chain.amounts import CREDIT
from chain.codec import MAX_MODEL_NAME_BYTES, is_printable_ascii
from chain.light.client import Checkpoint
from chain.types.operations import MAX_MODELS
from p2p.addresses import check_dialable_address, check_listen_address, is_ip_address, parse_peer_address, parse_proxy
from serving.backends.load_metrics import LoadReader
from serving.http.access import is_loopback
from serving.http.client import BaseUrl
from serving.keys.records import ConfiguredKey
from serving.offload.settings import OriginatorSettings
from serving.quality.judging.prompt import MAX_PROMPT_BYTES, JudgePrompt, PromptError, load_default_prompt
from serving.quality.same_model.weights import hash_weights
from serving.scheduling.policy import DEFAULT_POLICY, PARAMETERS_OF, ModelQuota, PolicyParameters
from serving.scheduling.weekly_schedule import MAX_SPANS, find_zone, parse_entry

MAX_QUOTAS = 256
"""Models that may have a quota."""
MAX_AMOUNT = 2**63 - 1
"""Largest amount on the ledger, in micro-credits."""


class ConfigError(Exception):
    """The configuration cannot be used. The message has a line per fault: file, line, key, and what is wrong."""


# Values


def _checked_by(parse: Callable[[str], object]) -> AfterValidator:
    """A validator that leaves a text as it is, unless ``parse`` raises ``ValueError``."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def _check_secret(secret: str) -> str:
    if not re.fullmatch(r"[!-~]+", secret):
        raise ValueError("must consist of visible ASCII characters, at least one")
    return secret


def _check_model_name(name: str) -> str:
    if not is_printable_ascii(name):
        raise ValueError(f"must consist of printable ASCII characters, got {name!r}")
    return name


def _check_host(host: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+", host):
        raise ValueError(f"must be a host name or address without a port, such as api.example.org, got {host!r}")
    return host


def _check_origin(origin: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin, re.ASCII | re.IGNORECASE):
        raise ValueError(f"must be an origin such as https://chat.example.org (no path), got {origin!r}")
    return origin


def _check_loopback(host: str) -> str:
    if not is_loopback(host):
        raise ValueError(
            f"must be a loopback address such as 127.0.0.1, got {host!r}: anyone who reaches this listener and has "
            "its token can spend the node's credits (use a tunnel to reach it from elsewhere)"
        )
    return host


def _check_digest(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"must be 64 hexadecimal digits, got {digest!r}")
    return digest


def _check_label(label: str) -> str:
    if not is_printable_ascii(label):
        raise ValueError(f"must consist of printable ASCII characters, got {label!r}")
    return label


Port = Annotated[int, Field(ge=0, le=65535)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Capacity = Annotated[int, Field(ge=1, le=100_000)]
Text = Annotated[str, Field(min_length=1)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME_BYTES), AfterValidator(_check_model_name)]
Digest = Annotated[str, AfterValidator(_check_digest)]
Label = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_label)]
HostName = Annotated[str, AfterValidator(_check_host)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Secret = Annotated[str, AfterValidator(_check_secret)]
LoopbackHost = Annotated[str, AfterValidator(_check_loopback)]
ListenAddress = Annotated[str, AfterValidator(check_listen_address)]
DialableAddress = Annotated[str, AfterValidator(check_dialable_address)]
PeerAddress = Annotated[str, _checked_by(parse_peer_address)]
Url = Annotated[str, _checked_by(BaseUrl.parse)]
Proxy = Annotated[str, _checked_by(parse_proxy)]
ScheduleEntry = Annotated[str, _checked_by(parse_entry)]
TimeZone = Annotated[str, _checked_by(find_zone)]

# Sections


class Section(BaseModel):
    """Base of every section. A key without a value (``null``) stands for its default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {info.alias or name for name, info in cls.model_fields.items()}
        return {key: value for key, value in data.items() if value is not None or key not in known}


class ApiKeyConfig(Section):
    """A key of the OpenAI API."""

    key: Secret = Field(repr=False, description="What users send as 'Authorization: Bearer …'.")
    requests_per_minute: int = Field(default=0, ge=0, le=10**9, description="0: no limit.")


class ApiConfig(Section):
    """The OpenAI API, for users."""

    host: Text = Field(default="127.0.0.1", description="0.0.0.0 lets other machines in; everybody needs a key then.")
    port: Port = Field(default=8000, description="0: any free port. (The default of vLLM is 8000 too.)")
    keys: Annotated[tuple[ApiKeyConfig, ...], Strict(False)] = Field(
        default=(),
        description="Keys with a rate; 'wwwserve keys create' makes others, with more limits, and keeps no more than "
        "their hash. As long as there is no key, all programs of this machine may use the API, and no other machine.",
    )
    allowed_hosts: Annotated[tuple[HostName, ...], Strict(False)] = Field(
        default=(),
        description="Names by which users reach the API, such as that of a reverse proxy: api.example.org. On a "
        "loopback address, localhost and the like always are; on another address, [] allows any name.",
    )
    allowed_origins: Annotated[tuple[Origin, ...], Strict(False)] = Field(
        default=(),
        description="Web pages that may use the API from a browser: https://chat.example.org. Others are refused.",
    )
    max_per_address: int = Field(
        default=64,
        ge=1,
        le=100_000,
        description="Connections from one IPv4 address, or from one IPv6 subnet (/64). Loopback has no such limit.",
    )
    tls_certificate: Text | None = Field(
        default=None,
        description="File with the certificate and those above it (PEM), relative to this directory: the API then "
        "speaks TLS alone.",
    )
    tls_key: Text | None = Field(default=None, description="File with the key of the certificate (PEM).")

    @model_validator(mode="after")
    def _check_tls(self) -> ApiConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("takes both tls_certificate and tls_key, or neither")
        return self

    def get_keys(self) -> tuple[ConfiguredKey, ...]:
        """The keys, as a keyring takes them."""
        return tuple(ConfiguredKey(entry.key, entry.requests_per_minute) for entry in self.keys)


class AdminConfig(Section):
    """The admin listener, for the owner: status, wallet, policy, metrics."""

    host: LoopbackHost = Field(default="127.0.0.1", description="An address of this machine only.")
    port: Port = Field(default=8001, description="0: any free port.")


class DashboardConfig(Section):
    """What anybody may see of this node in a browser, at an address of its own."""

    public: bool = Field(
        default=False,
        description="Whether to show chain, network and models to anybody, but nothing of yours. (Your own is at the "
        "admin listener: 'wwwserve dashboard' opens it.)",
    )
    host: Text = Field(default="0.0.0.0", description="127.0.0.1 behind a reverse proxy of this machine.")
    port: Port = Field(default=8002, description="0: any free port.")
    allowed_hosts: Annotated[tuple[HostName, ...], Strict(False)] = Field(
        default=(),
        description="Names by which it is reached: explorer.example.org. [] allows any, but not on loopback.",
    )


_POLICY = PolicyParameters()


class ModelQuotaConfig(Section):
    """What one model may take of each of its backends."""

    max_own: int | None = Field(
        default=None, ge=1, le=100_000, description="Requests of your users that run at a time; null: all slots."
    )
    max_delegated: int | None = Field(
        default=None, ge=1, le=100_000, description="Requests of other nodes that run at a time; null: all slots."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=10**7, description="Most completion tokens of an answer; null: those of the policy."
    )
    accept: bool = Field(default=True, description="Whether to accept requests of other nodes.")

    def get_quota(self) -> ModelQuota:
        """The quota, as a policy takes it."""
        return ModelQuota(self.max_own, self.max_delegated, self.max_tokens, self.accept)


def _fill_nulls(models: object) -> object:
    """``models`` with the defaults for those that have no value."""
    if not isinstance(models, dict):
        return models
    return {name: {} if quota is None else quota for name, quota in models.items()}


class PolicyBounds(Section):
    """The numbers of the policy, which all of a node's decisions follow."""

    offload_frequency: Probability = Field(
        default=_POLICY.offload_frequency,
        description="Policy 'paper': probability of offloading a request of your users when busy.",
    )
    accept_frequency: Probability = Field(
        default=_POLICY.accept_frequency,
        description="Policy 'paper': probability of accepting another node's request when not busy.",
    )
    queue_frequency: Probability = Field(
        default=_POLICY.queue_frequency,
        description="Policy 'paper': probability of queueing another node's request, not declining, when busy.",
    )
    target_utilization: Probability = Field(
        default=_POLICY.target_utilization,
        description="Policy 'paper': fraction of its capacity from which a backend counts as busy.",
    )
    credit_price_s: float = Field(
        default=_POLICY.credit_price_s,
        ge=0,
        le=10**6,
        description="How many seconds sooner an answer must come for each credit that it costs to offload it.",
    )
    max_offer_wait_s: float = Field(
        default=_POLICY.max_offer_wait_s,
        ge=0,
        le=10**6,
        description="Longest predicted wait for which another node's request is accepted, in seconds.",
    )
    max_queue: int = Field(
        default=_POLICY.max_queue,
        ge=0,
        le=100_000,
        description="Requests that may wait in each queue: your users' and other nodes'.",
    )
    prioritize_own: bool = Field(default=_POLICY.prioritize_own, description="Whether your users' queue goes first.")
    max_tokens: int = Field(
        default=_POLICY.max_tokens,
        ge=1,
        le=10**7,
        description="Most completion tokens of an answer, yours or another node's. Credit for 8 bytes of each is held.",
    )

    max_wait_s: float = Field(
        default=_POLICY.max_wait_s,
        gt=0,
        le=86_400,
        description="Longest wait for a slot, in seconds. A request that would wait longer is refused at once.",
    )
    models: Annotated[dict[ModelName, ModelQuotaConfig], BeforeValidator(_fill_nulls)] = Field(
        default={},
        max_length=MAX_QUOTAS,
        description="Quotas of single models by name: max_own, max_delegated, max_tokens, accept.",
    )

    serve_others: Literal["always", "idle", "never"] = Field(
        default="always", description="When to serve other nodes: always, never, or idle: while your users are quiet."
    )
    idle_after_minutes: float = Field(
        default=_POLICY.idle_after_minutes,
        ge=0,
        le=10_080,
        description="Minutes after the last request of your users from which on the node counts as idle.",
    )
    schedule: Annotated[tuple[ScheduleEntry, ...], Strict(False)] = Field(
        default=(),
        max_length=MAX_SPANS,
        description="Hours in which to serve other nodes, such as ['Mon-Fri 18:00-08:00', 'Sat-Sun']; [] is always.",
    )
    time_zone: TimeZone = Field(default="UTC", description="Time zone of the schedule, such as Europe/Berlin.")

    def get_parameters(self) -> PolicyParameters:
        """The numbers, as a policy takes them."""
        values = {field.name: getattr(self, field.name) for field in fields(PolicyParameters)}
        models = {name: section.get_quota() for name, section in self.models.items()}
        return PolicyParameters(**{**values, "models": models})


class LivePolicy(PolicyBounds):
    """All of the policy that may change while the node runs."""

    stake: float | None = Field(
        default=None,
        ge=0,
        le=MAX_AMOUNT // CREDIT,
        description="Credits to keep bonded behind the models, with at most six decimals; null leaves the bond as it "
        "is.",
    )

    @field_validator("stake")
    @classmethod
    def _check_decimals(cls, stake: float | None) -> float | None:
        if stake is not None and Decimal(repr(stake)) * CREDIT % 1:
            raise ValueError("has at most six decimals")
        return stake

    def get_stake(self) -> int | None:
        """:attr:`stake` in micro-credits."""
        return None if self.stake is None else int(Decimal(repr(self.stake)) * CREDIT)


class PolicyConfig(LivePolicy):
    """Which requests this node serves, offloads, accepts, queues or declines."""

    name: Text = Field(
        default="default",
        description="adaptive, paper, or a policy that is installed as an entry point. 'default' is adaptive, or paper "
        "if one of the numbers that are only its own is not the default.",
    )

    def get_name(self) -> str:
        """The policy that is meant."""
        if self.name != "default":
            return self.name
        return "paper" if next(self._find_changed("paper"), None) else DEFAULT_POLICY

    def find_conflicts(self) -> Iterator[tuple[str, str]]:
        """Numbers that mean nothing to the policy that is named, each with the reason."""
        for other in PARAMETERS_OF:
            if self.get_name() in PARAMETERS_OF and other != self.get_name():
                for key in self._find_changed(other):
                    yield key, f"is for the policy {other!r}, and {self._explain_name()}"

    def _explain_name(self) -> str:
        """Why the policy is the one that :meth:`get_name` says."""
        if self.name != "default":
            return f"name is {self.name!r}"
        return f"{next(self._find_changed('paper'))} makes this one 'paper'; set name to say which is meant"

    def _find_changed(self, name: str) -> Iterator[str]:
        """The numbers that only the policy ``name`` reads and that are not the default."""
        return (key for key in PARAMETERS_OF[name] if getattr(self, key) != getattr(_POLICY, key))


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
        description="Number formats of weights, activations and key-value cache, such as w4a16-kv16."
    )
    engine: Literal["vllm", "llamacpp"] = Field(description="What runs the model: vllm or llamacpp.")

    @model_validator(mode="after")
    def _check_weights(self) -> IdentityConfig:
        if (self.weights is None) == (not self.weight_files):
            raise ValueError("takes either weights or weight_files")
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
            return _check_secret(environment.get(self.api_key_env, ""))
        except ValueError as error:
            reason = str(error) if environment.get(self.api_key_env) else "is not set"
            raise ConfigError(f"api_key_env of {self.base_url}: {self.api_key_env} {reason}") from None


Model = Annotated[EmbeddedModel | OpenAIModel, Field(discriminator="kind")]


class JudgeConfig(Section):
    """How this node compares answers of other nodes; 'wwwserve judge test' says how well."""

    enabled: bool = Field(
        default=False,
        description="Whether to judge duels, and to say so on the ledger. A judge earns by it, and pays if it is drawn "
        "and gives no ballot.",
    )
    model: ModelName | None = Field(
        default=None, description="The model that judges, of those above; null is the first."
    )
    prompt_file: Text | None = Field(
        default=None,
        description="A judging prompt of your own, relative to this directory ('wwwserve judge prompt' prints one to "
        "begin with); null is the one that comes with the program.",
    )
    form: Literal["auto", "json", "letter"] = Field(
        default="auto",
        description="How it replies: json by a schema that the backend enforces, letter without, or auto, which finds "
        "out.",
    )
    timeout_s: Seconds = Field(default=120.0, description="Longest wait for a ballot, in seconds.")
    reasoning_tokens: int = Field(
        default=0, ge=0, le=10**6, description="Most tokens of reasoning before a ballot, for models that reason."
    )
    both_orders: bool = Field(
        default=False, description="Whether to compare in both orders: for a judge that the command calls weak."
    )

    def load_prompt(self, directory: Path) -> JudgePrompt:
        """The judging prompt, from its file or from the program.

        Raises:
            ConfigError: the file cannot be read or used.
        """
        try:
            return JudgePrompt.parse(self.read_prompt(directory))
        except PromptError as error:
            raise ConfigError(f"{directory / (self.prompt_file or '')}: {error}") from None

    def read_prompt(self, directory: Path) -> bytes:
        """The bytes of the judging prompt. Raises ConfigError if its file cannot be read."""
        if self.prompt_file is None:
            return load_default_prompt()
        path = directory / self.prompt_file
        try:
            with path.open("rb") as file:
                return file.read(MAX_PROMPT_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


class LogConfig(Section):
    """What the node writes about itself."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )
    format: Literal["text", "json"] = Field(default="text", description="text for people, json for machines.")
    file_mib: int = Field(
        default=16, ge=0, le=65_536, description="Size of node.log and its older part, in MiB; 0: no such file."
    )


class RelayConfig(Section):
    """Relaying connections to nodes that cannot be dialled; docs/operating.md says what a relay can know."""

    serve: bool = Field(default=True, description="Whether to relay, if others can dial this node.")
    max_reservations: int = Field(default=256, ge=1, le=100_000, description="Nodes to relay for.")
    max_circuits: int = Field(
        default=64, ge=1, le=10_000, description="Relayed connections at a time; no node gets over a quarter."
    )


class DhtConfig(Section):
    """Finding the first peers through libp2p's DHT; its servers may belong to this network or to any other."""

    enabled: bool = Field(
        default=True,
        description="Whether to look peers up when too few are connected, and to be found there. Anonymous nodes and "
        "nodes with a proxy take no part.",
    )
    bootstrap: Annotated[tuple[PeerAddress, ...], Strict(False)] = Field(
        default=(),
        description="DHT servers to ask first, beside the bootstrap peers: any that speak /ipfs/kad/1.0.0.",
    )


class LimitsConfig(Section):
    """What peers may use before this node knows who they are."""

    max_connections: int = Field(
        default=1000, ge=1, le=100_000, description="Connections that others may make to this node."
    )
    max_per_address: int = Field(
        default=64, ge=1, le=100_000, description="Connections from one IPv4 address, or from one IPv6 subnet (/64)."
    )
    exempt_loopback: bool = Field(
        default=False,
        description="Do not apply max_per_address to loopback addresses: for several nodes on one machine.",
    )


class OffloadConfig(Section):
    """Whom this node asks to answer the requests that it offloads."""

    enabled: bool = Field(
        default=OriginatorSettings().enabled,
        description="Whether requests of your users may go to other nodes. With false each stays here, also when the "
        "queue is full or a backend fails.",
    )
    choices: int = Field(
        default=OriginatorSettings().choices,
        ge=1,
        le=8,
        description="Of so many executors, in the order in which stake draws them, the one predicted to be the fastest "
        "is asked; 1 leaves it to the draw.",
    )
    hedging: bool = Field(
        default=OriginatorSettings().hedging,
        description="Whether a second executor is asked as well where the first content of one is late: in at most 5 % "
        "of all attempts. Whoever is first gives the answer. It costs the fee of a second hold.",
    )


class NodeConfig(Section):
    """Everything that a node's owner decides."""

    listen: Annotated[tuple[ListenAddress, ...], Strict(False)] = Field(
        default=("/ip4/0.0.0.0/tcp/4001",), description="Where other nodes reach this one; [] only dials out."
    )
    announce: Annotated[tuple[DialableAddress, ...], Strict(False)] = Field(
        default=(),
        description="What to tell others instead, such as /ip4/<public address>/tcp/4001 behind a forwarded port.",
    )
    bootstrap: Annotated[tuple[PeerAddress, ...], Strict(False)] = Field(
        default=(), description="Nodes for the first contact: /ip4/<address>/tcp/<port>/p2p/12D3KooW…"
    )
    dht: DhtConfig = Field(
        default=DhtConfig(), description="Finding the first peers without a bootstrap peer, through the DHT."
    )
    reachability: Literal["auto", "public", "private"] = Field(
        default="auto",
        description="Whether others can dial this node: public, private, or auto, which asks others to try.",
    )
    upnp: bool = Field(default=False, description="Whether to ask the home router to forward the port (UPnP).")
    hole_punching: bool = Field(
        default=True,
        description="Whether to replace connections through relays by direct ones where the routers allow. It tells "
        "the peer at the other end this node's address. It needs a node that listens, and no proxy.",
    )
    relay: RelayConfig = Field(
        default=RelayConfig(), description="Relaying connections to nodes that cannot be dialled."
    )
    limits: LimitsConfig = Field(
        default=LimitsConfig(), description="What peers may use before this node knows who they are."
    )
    anonymous: bool = Field(
        default=False,
        description="Listen nowhere, announce no address, and connect to the bootstrap peers alone, which relay the "
        "rest. Needs 'listen: []'.",
    )
    socks5: Proxy | None = Field(
        default=None,
        description="HOST:PORT of a SOCKS5 proxy, such as Tor's 127.0.0.1:9050, through which every peer is dialled.",
    )
    api: ApiConfig = Field(default=ApiConfig(), description="The OpenAI API, for users.")
    admin: AdminConfig = Field(default=AdminConfig(), description="For the owner: status, wallet, policy, metrics.")
    dashboard: DashboardConfig = Field(
        default=DashboardConfig(), description="What anybody may see of this node in a browser."
    )
    policy: PolicyConfig = Field(
        default=PolicyConfig(), description="Which requests this node serves, offloads, accepts, queues or declines."
    )
    offload: OffloadConfig = Field(default=OffloadConfig(), description="Whom this node asks to answer its requests.")
    models: Annotated[tuple[Model, ...], Strict(False)] = Field(
        default=(EmbeddedModel(),), description="Backends; [] makes a gateway, which offloads every request."
    )
    judge: JudgeConfig = Field(default=JudgeConfig(), description="Comparing answers of other nodes.")
    votes: bool = Field(
        default=True,
        alias="validate",
        description="Whether to vote on blocks while this key is a validator's; false only follows the chain.",
    )
    block_spacing_ms: int = Field(
        default=250,
        ge=0,
        le=60_000,
        description="Least time between two blocks that this node proposes, in milliseconds.",
    )
    checkpoint: Annotated[str, _checked_by(Checkpoint.parse)] | None = Field(
        default=None,
        description="A recent block that you trust, HEIGHT:BLOCKID ('wwwserve status' of another node prints one). A "
        "new node begins near it, and refuses every chain without it. Replace it after long absence.",
    )
    keep_epochs: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="Past epochs whose blocks to keep; 0 keeps everything, for others to audit and catch up from.",
    )
    index_accounts: bool = Field(
        default=True,
        description="Keep an index of the operations of each account, for 'chain history' and the admin listener.",
    )
    drain_timeout_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="When the node is told to end: how long it finishes what is under way, in seconds. It takes "
        "nothing new then. A second signal (Ctrl-C) ends it at once.",
    )
    log: LogConfig = Field(default=LogConfig(), description="What the node writes about itself.")

    def get_checkpoint(self) -> Checkpoint | None:
        """The trusted block, if there is one."""
        return None if self.checkpoint is None else Checkpoint.parse(self.checkpoint)

    def get_bootstrap(self) -> list[tuple[bytes, str]]:
        """Public key and multiaddress of every bootstrap peer."""
        return [parse_peer_address(address) for address in self.bootstrap]

    def get_dht_servers(self) -> list[tuple[bytes, str]] | None:
        """Public key and multiaddress of DHT servers to ask first; None if this node takes no part in the DHT."""
        if not self.dht.enabled or self.anonymous or self.socks5 is not None:
            return None
        return [parse_peer_address(address) for address in (*self.dht.bootstrap, *self.bootstrap)]

    def get_listen(self) -> tuple[str, ...]:
        """The addresses to listen on."""
        return () if self.anonymous else self.listen

    def get_proxy(self) -> tuple[str, int] | None:
        """Host and port of the SOCKS5 proxy, if there is one."""
        return None if self.socks5 is None else parse_proxy(self.socks5)

    def as_anonymous(self) -> NodeConfig:
        """This configuration with the mode switched on and what it excludes left out.

        Raises:
            ConfigError: it does not go together with the rest.
        """
        chosen = self.model_copy(
            update={
                "anonymous": True,
                "listen": (),
                "announce": (),
                "upnp": False,
                "hole_punching": False,
                "dht": DhtConfig(enabled=False),
            }
        )
        for path, reason in chosen._find_anonymity_conflicts():
            raise ConfigError(f"{path[0]}: {reason}")
        return chosen

    def _find_anonymity_conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if not self.anonymous:
            return
        if self.listen and "listen" in self.model_fields_set:
            yield ("listen",), "an anonymous node does not listen: set it to []"
        if self.announce:
            yield ("announce",), "an anonymous node announces no address: set it to []"
        if self.dht.bootstrap:
            yield ("dht", "bootstrap"), "an anonymous node takes no part in the DHT: set it to []"
        if self.upnp:
            yield ("upnp",), "an anonymous node has no port to forward: set it to false"
        if self.hole_punching and "hole_punching" in self.model_fields_set:
            yield ("hole_punching",), "hole punching tells the peer this node's address: set it to false"
        if not self.bootstrap:
            yield (
                ("bootstrap",),
                "an anonymous node connects to its bootstrap peers alone: name one at least, better three",
            )
        for index, (_, address) in enumerate(self.get_bootstrap()):
            if self.socks5 is None and address.startswith("/dns"):
                reason = "looking up a name tells others about this node: give the IP address, or use a proxy (socks5)"
                yield ("bootstrap", index), reason
        proxy = self.get_proxy()
        if proxy is not None and not is_ip_address(proxy[0]):
            yield ("socks5",), "looking up a name tells others about this node: give the proxy's IP address"

    def _find_identity_conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Backends of one model have one identity, because either may answer."""
        entries = {index: model for index, model in enumerate(self.models) if isinstance(model, OpenAIModel)}
        for index, entry in entries.items():
            name = entry.identity_model
            for other in entries.values():
                if name in other.names and not entry.has_identity_of(other):
                    yield ("models", index, "identity"), f"another backend of {name!r} has another identity, or none"
            for model in entry.quantizations:
                if model == name and entry.quantizations[model] != entry.get_quantization(model):
                    yield ("models", index, "quantizations"), f"the identity of {model!r} says something else"

    def find_conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What is wrong between sections: path of the key and reason."""
        yield from self._find_anonymity_conflicts()
        for key, reason in self.policy.find_conflicts():
            yield ("policy", key), reason
        keys = [entry.key for entry in self.api.keys]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                yield ("api", "keys", index, "key"), "appears twice"
        listeners = {("api", self.api.port): self.api.host, ("admin", self.admin.port): self.admin.host}
        for index, model in enumerate(self.models):
            if isinstance(model, OpenAIModel):
                url = BaseUrl.parse(model.base_url)
                for (section, port), host in listeners.items():
                    if url.port == port and (is_loopback(url.host) or url.host == host):
                        yield ("models", index, "base_url"), f"is this node itself (see {section}.port)"
        yield from self._find_identity_conflicts()
        if self.judge.enabled and not self.models:
            yield ("judge", "enabled"), "there is no backend to judge with: set it to false"
        if self.api.port and self.api.port == self.admin.port:
            yield ("admin", "port"), "is the port of the API"
        if self.dashboard.public and self.dashboard.port and self.dashboard.port in (self.api.port, self.admin.port):
            yield ("dashboard", "port"), "is the port of another listener of this node"
