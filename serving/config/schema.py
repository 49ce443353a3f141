"""The keys of a node's configuration file: their types, bounds, defaults and meaning.

These classes, with those in ``policy`` and ``models``, are the only definition of the file: their fields are its keys,
and their descriptions become the comments of the file that :mod:`serving.config.file` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from chain.light.client import Checkpoint
from p2p.addresses import is_ip_address, parse_peer_address, parse_proxy
from serving.config.fields import (
    ConfigError,
    DialableAddress,
    HostName,
    ListenAddress,
    LoopbackHost,
    ModelName,
    Origin,
    PeerAddress,
    Port,
    Proxy,
    Seconds,
    Secret,
    Section,
    Text,
    checked_by,
)
from serving.config.models import EmbeddedModel, Model, OpenAIModel
from serving.config.policy import PolicyConfig
from serving.http.access import is_loopback
from serving.http.client import BaseUrl
from serving.keys.records import ConfiguredKey
from serving.offload.settings import OriginatorSettings
from serving.quality.judging.prompt import MAX_PROMPT_BYTES, JudgePrompt, PromptError, load_default_prompt


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
        "of all attempts. The executor whose first content comes first gives the answer. It costs the fee of a second "
        "hold.",
    )
    max_hold_s: int = Field(
        default=OriginatorSettings().max_hold_time_ms // 1000,
        ge=OriginatorSettings().hold_time_ms // 1000,
        le=86_400,
        description="Most seconds for which the credits for one answer are set aside, within what the ledger allows. "
        "An answer that is predicted to take long gets as much time as it needs, and a margin; one that takes longer "
        "than this is cut. An executor that falls silent keeps the credits for that time.",
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
    checkpoint: Annotated[str, checked_by(Checkpoint.parse)] | None = Field(
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
