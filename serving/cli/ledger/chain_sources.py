"""What only a node has for the ``chain`` commands: other nodes' chains, and the owner's checkpoint."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import trio

from chain.audit.export import ExportSource
from chain.audit.sources import ChainSource
from chain.cli.options import get_default_data_dir
from chain.crypto import KeyPair
from chain.exceptions import StoreError
from chain.genesis import load_genesis
from chain.light.client import Checkpoint
from p2p.addresses import get_endpoint, parse_peer_address, parse_proxy
from p2p.runtime import RealRuntime
from serving.config.data_directory import CONFIG_FILE, GENESIS_FILE
from serving.config.file import load_config


def open_remote(multiaddress: str, genesis: Path | None, socks5: str | None) -> ChainSource:
    """Fetch the whole chain of a running node into a temporary file, for the audit, which trusts none of it.

    Raises:
        StoreError: an address is malformed.
        NetworkError, LedgerError: the chain cannot be fetched.
    """
    from consensus.sync.download import download_chain
    from p2p.host.network import Libp2pNetwork
    from p2p.host.transport.tcp import DialRules

    try:
        peer, address = parse_peer_address(multiaddress)
    except ValueError as error:
        raise StoreError(str(error)) from error
    try:
        proxy = None if socks5 is None else parse_proxy(socks5)
        rules = DialRules(proxy=proxy, trusted=frozenset({get_endpoint(address)}))
    except ValueError as error:
        raise StoreError(f"--socks5: {error}") from error
    trusted = load_genesis(genesis or get_default_data_dir() / GENESIS_FILE)
    network = Libp2pNetwork(KeyPair(secrets.token_bytes(32)), (), RealRuntime(), rules=rules)
    with tempfile.TemporaryDirectory(prefix="wwwserve-verify-") as directory:
        file = Path(directory) / "chain.export"
        trio.run(download_chain, network, trusted, peer, address, file)
        return ExportSource(file)  # it keeps the file open, which may lose its name then


def find_checkpoint(data_dir: Path) -> Checkpoint | None:
    """The checkpoint in the configuration of a data directory, if there is one.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    path = data_dir / CONFIG_FILE
    return load_config(path).get_checkpoint() if path.exists() else None
