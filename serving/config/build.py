"""What a configuration describes, built: the backends, the policy and the network of a node.

libp2p is imported only when a network is built, because the commands that need none should start fast.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chain.crypto import KeyPair
from p2p.addresses import get_endpoint
from p2p.network import PeerDirectory
from p2p.runtime import Runtime
from serving.backends.backend import Backend, BackendError, ModelLimits
from serving.config.data_directory import CONFIG_FILE
from serving.config.fields import ConfigError
from serving.config.models import EmbeddedModel, OpenAIModel
from serving.config.schema import NodeConfig
from serving.http.access import is_loopback
from serving.http.tls import CertificateError, ServerCertificate
from serving.offload.settings import OriginatorSettings
from serving.quality.duels.backend_work import DuelJudgeSettings
from serving.quality.judging.ballot import ReplyForm
from serving.quality.same_model.identity import ModelIdentity
from serving.quality.same_model.one_token import LlamaCppScorer
from serving.quality.same_model.weights import hash_weights
from serving.scheduling.policy import Policy, load_policy

if TYPE_CHECKING:
    from p2p.host.network import Libp2pNetwork


def build_backends(config: NodeConfig, runtime: Runtime) -> list[tuple[Backend, int]]:
    """Every backend of the configuration, with the number of requests that it may run at a time.

    Raises:
        ConfigError: the API key of one is missing from the environment.
    """
    return [(build_backend(entry, runtime), entry.capacity) for entry in config.models]


def build_backend(entry: EmbeddedModel | OpenAIModel, runtime: Runtime) -> Backend:
    """The backend that one entry of ``models`` describes.

    Raises:
        ConfigError: its API key is missing from the environment, or its command is not installed.
    """
    from serving.backends.embedded import EmbeddedBackend
    from serving.backends.openai_compatible import BackendTimeouts, OpenAICompatibleBackend
    from serving.backends.supervised import SupervisedBackend

    timeouts = BackendTimeouts(first_byte_s=entry.first_token_timeout_s, stall_s=entry.stall_timeout_s)
    if isinstance(entry, EmbeddedModel):
        return EmbeddedBackend(runtime, parallel=entry.capacity, timeouts=timeouts, ends_with_process=True)
    make: Callable[..., OpenAICompatibleBackend] = OpenAICompatibleBackend
    if entry.command:
        if shutil.which(entry.command[0]) is None:
            hint = "; install it with: pip install 'wwwserve[vllm]'" if entry.command[0] == "vllm" else ""
            raise ConfigError(f"command of {entry.base_url}: {entry.command[0]} is not installed{hint}")
        make = partial(SupervisedBackend, command=entry.command)
    return make(
        entry.base_url,
        api_key=entry.get_api_key(),
        models=entry.names,
        load_reader=entry.load,
        capacity=entry.capacity,
        timeouts=timeouts,
        limits=ModelLimits(entry.context_length or 0, frozenset(entry.features)),
        aliases=entry.aliases,
        quantizations=_get_quantizations(entry),
        weight=entry.weight,
        continues=entry.continues,
    )


def _get_quantizations(entry: OpenAIModel) -> dict[str, str]:
    """The number formats that are declared of models, in an identity or alone."""
    names = {*entry.quantizations, *([entry.identity_model] if entry.identity_model is not None else [])}
    return {name: label for name in names if (label := entry.get_quantization(name)) is not None}


def build_identities(config: NodeConfig, directory: Path) -> list[ModelIdentity]:
    """The identities of the models of the node in ``directory``, one of each model. Reads weight files.

    Raises:
        ConfigError: some cannot be read.
    """
    identities: dict[str, ModelIdentity] = {}
    for entry in config.models:
        identity = build_identity(entry, directory)
        if identity is not None:
            identities.setdefault(identity.model, identity)
    return list(identities.values())


def build_identity(entry: EmbeddedModel | OpenAIModel, directory: Path) -> ModelIdentity | None:
    """The identity that one entry of ``models`` declares, if it does.

    Raises:
        ConfigError: the weights cannot be read.
    """
    if isinstance(entry, OpenAIModel):
        name, identity = entry.identity_model, entry.identity
        if name is None or identity is None:
            return None
        return ModelIdentity(name, identity.get_weights(directory), identity.quantization, identity.engine)
    if not entry.declare_identity:
        return None
    from serving.backends.embedded import MODEL, QUANTIZATION, find_smollm2

    try:
        return ModelIdentity(MODEL, hash_weights([find_smollm2()]), QUANTIZATION, LlamaCppScorer.engine)
    except (BackendError, OSError) as error:
        raise ConfigError(f"declare_identity: {error}") from None


def build_policy(config: NodeConfig) -> Policy:
    """The policy that the configuration names.

    Raises:
        ConfigError: no policy of that name is installed.
    """
    try:
        return load_policy(config.policy.get_name(), config.policy.get_parameters())
    except ValueError as error:
        raise ConfigError(f"policy.name: {error}") from None


def check_api_keys(config: NodeConfig, has_keys: bool) -> None:
    """Refuse an API that lets other machines in without a key.

    Raises:
        ConfigError: it does.
    """
    host = config.api.host
    if not has_keys and not is_loopback(host):
        raise ConfigError(
            f"{CONFIG_FILE}: api.host: {host!r} lets other machines in, which takes keys: make one with "
            "'wwwserve keys create NAME', or listen on 127.0.0.1"
        )


def build_certificate(config: NodeConfig, directory: Path) -> ServerCertificate | None:
    """The certificate of the API of the node in ``directory``; None if it speaks no TLS.

    Raises:
        ConfigError: its files cannot be used.
    """
    api = config.api
    if api.tls_certificate is None or api.tls_key is None:
        return None
    try:
        return ServerCertificate(directory / api.tls_certificate, directory / api.tls_key)
    except CertificateError as error:
        raise ConfigError(f"api.tls_certificate: {error}") from None


def build_originator_settings(config: NodeConfig) -> OriginatorSettings:
    """How the node offloads."""
    return OriginatorSettings(
        enabled=config.offload.enabled,
        choices=config.offload.choices,
        hedging=config.offload.hedging,
        max_hold_time_ms=1000 * config.offload.max_hold_s,
    )


def build_judge(config: NodeConfig, directory: Path) -> DuelJudgeSettings | None:
    """How the node in ``directory`` judges duels; None if it does not.

    Raises:
        ConfigError: its judging prompt cannot be used.
    """
    judge = config.judge
    if not judge.enabled:
        return None
    return DuelJudgeSettings(
        prompt=judge.load_prompt(directory),
        model=judge.model,
        form=None if judge.form == "auto" else ReplyForm(judge.form),
        timeout_s=judge.timeout_s,
        reasoning_tokens=judge.reasoning_tokens,
        is_weak=judge.both_orders,
    )


def build_network(config: NodeConfig, key: KeyPair, runtime: Runtime, directory: PeerDirectory) -> Libp2pNetwork:
    """The libp2p network of a public, a private or an anonymous node."""
    from p2p.host.connection_gater import ConnectionLimits
    from p2p.host.network import Libp2pNetwork
    from p2p.host.transport.tcp import DialRules
    from p2p.nat.relay_server import RelayLimits

    named = (*config.get_bootstrap(), *(config.get_dht_servers() or ()))
    rules = DialRules(proxy=config.get_proxy(), trusted=frozenset(get_endpoint(address) for _, address in named))
    if config.anonymous:
        rules = DialRules.only([address for _, address in config.get_bootstrap()], config.get_proxy())
    relays = config.relay.serve and config.get_listen() and config.reachability != "private"
    limits = RelayLimits(config.relay.max_reservations, config.relay.max_circuits) if relays else None
    return Libp2pNetwork(
        key,
        config.get_listen(),
        runtime,
        directory=directory,
        announce=config.announce,
        rules=rules,
        relay=limits,
        public={"public": True, "private": False, "auto": None}[config.reachability],
        upnp=config.upnp,
        hole_punching=config.hole_punching and not config.anonymous,
        limits=ConnectionLimits(
            max_connections=config.limits.max_connections,
            max_per_address=config.limits.max_per_address,
            exempt_loopback=config.limits.exempt_loopback,
        ),
    )
