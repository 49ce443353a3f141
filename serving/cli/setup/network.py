"""``wwwserve network``: a network of one's own from nothing, and invitations to one."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.amounts import format_credits
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.tree import Entry, build_group
from chain.crypto import KeyPair
from chain.genesis import make_genesis, make_validator
from chain.keyfile import create_identity
from chain.parameters.check_economics import check_checks
from chain.parameters.duel_economics import check_duels
from chain.parameters.parameters import Parameters, choose_parameters
from p2p.addresses import is_ip_address, is_local_address, parse_peer_address
from p2p.runtime import RealRuntime
from serving.cli.ledger.stopped_node import get_passphrase, load_own_genesis
from serving.cli.running.admin_client import ask_node
from serving.cli.running.wallet import parse_credits
from serving.cli.setup.ports import find_free_port
from serving.cli.setup.start import DEFAULTS, DuelRate, write_node
from serving.config.data_directory import CONFIG_FILE, KEY_FILE, create_private, make_data_dir
from serving.config.file import load_config
from serving.config.invitation import make_invitation
from serving.config.schema import NodeConfig

INVITATION_FILE = "invitation.txt"
"""The invitation to a new network, beside the directories of its nodes."""
PEER_PORT, API_PORT, ADMIN_PORT = 4001, 8000, 8001
"""Ports of a node that has its machine for itself."""
PORTS_APART = 10
"""Between the ports of two nodes on one machine."""
MAX_VALIDATORS = 20
"""Validators of a network that is made at once."""
LOOPBACK = "127.0.0.1"


def build_network_app() -> typer.Typer:
    """The commands of ``wwwserve network``."""
    entries = {
        "create": Entry(
            "Make the data directories of a new network: keys, genesis and configuration of its validators.",
            lambda: create,
            (
                "wwwserve network create market",
                "wwwserve network create market --host 192.0.2.1 --host 192.0.2.2 --host 192.0.2.3 --host 192.0.2.4",
            ),
        ),
        "invite": Entry(
            "Print an invitation to the network of a node, for 'wwwserve join'.",
            lambda: invite,
            ("wwwserve network invite", "wwwserve network invite -d market/node1"),
        ),
    }
    return build_group(entries, "Networks of one's own, and invitations to them.")


def create(
    directory: Annotated[Path, typer.Argument(help="Directory to make, with one in it for each node.")],
    name: Annotated[str, typer.Option(help="Name of the chain (default: that of the directory).")] = "",
    validators: Annotated[
        int | None, typer.Option(min=1, max=MAX_VALIDATORS, help="How many (default: 4, or one for each --host).")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Where others reach the nodes, repeatable: one for all of them, or one for each."),
    ] = None,
    stake: Annotated[str, typer.Option(metavar="CREDITS", help="Bond of each validator.")] = "1000",
    credit: Annotated[str, typer.Option(metavar="CREDITS", help="What each has beside it.")] = "10000",
    grant: Annotated[
        str, typer.Option(metavar="CREDITS", help="What an account gets that registers ('wallet register').")
    ] = "0",
    duel_rate: DuelRate = 0,
    as_json: AsJson = False,
) -> None:
    """Make the data directories of a new network: keys, genesis and configuration of its validators."""
    places = plan_places(validators, host or [LOOPBACK])
    amounts = [0 if text == "0" else parse_credits(text) for text in (stake, credit, grant)]
    parameters = choose_parameters(duel_rate, Parameters(register_grant=amounts[2]))
    check_duels(parameters)
    check_checks(parameters)
    if amounts[0] < parameters.min_validator_bond:
        raise CommandError(
            f"--stake: a validator bonds {format_credits(parameters.min_validator_bond)} credits at least",
            code=ExitCode.USAGE,
        )
    chain = name or directory.resolve().name
    try:
        if directory.exists() and any(directory.iterdir()):
            raise CommandError(f"{directory} is not empty; name another directory")
        directory.mkdir(parents=True, exist_ok=True)
        nodes = [_Node(directory / f"node{number}", place) for number, place in enumerate(places, 1)]
        keys: list[KeyPair] = []
        with create_private():
            for node in nodes:
                make_data_dir(node.directory)
                keys.append(create_identity(node.directory / KEY_FILE, get_passphrase()))
            beacon = secrets.token_bytes(32)
            accounts = [make_validator(key, beacon, parameters, amounts[1], amounts[0]) for key in keys]
            genesis = make_genesis(chain, RealRuntime().now(), beacon, accounts, parameters)
            peers = [node.place.get_peer_address(key) for node, key in zip(nodes, keys, strict=True)]
            for node, key, peer in zip(nodes, keys, peers, strict=True):
                others = tuple(other for other in peers if other != peer)
                write_node(node.directory, key, genesis, node.place.make_config(others))
            invitation = make_invitation(genesis, peers).format()
            (directory / INVITATION_FILE).write_text(invitation + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {directory}: {error.strerror}; name another directory") from error
    content: dict[str, Any] = {
        "chain": chain,
        "chain_id": genesis.chain_id.hex(),
        "nodes": [
            {"directory": str(node.directory), "address": key.address, "peers": peer, "api": node.place.api_url}
            for node, key, peer in zip(nodes, keys, peers, strict=True)
        ],
        "invitation": invitation,
    }
    quorum = 2 * len(nodes) // 3 + 1
    print_result(
        content, as_json,
        f"chain {chain} ({genesis.chain_id.hex()[:8]}): {len(nodes)} validators with {format_credits(amounts[0])} "
        f"credits of stake each; {quorum} of them must run",
        *(f"  {each['directory']}  {each['address']}  {each['api']}" for each in content["nodes"]),
        "start each where it belongs: wwwserve run -d " + str(nodes[0].directory),
        f"others join with: wwwserve join {directory / INVITATION_FILE}   (the file, or the line in it)",
    )  # fmt: skip


def invite(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print an invitation to the network of a node, for 'wwwserve join'. It names a recent block if the node runs."""
    directory = data_dir or get_default_data_dir()
    if not (directory / KEY_FILE).exists():
        raise CommandError(f"no node in {directory}; name its data directory with -d")
    genesis, config = load_own_genesis(directory), load_config(directory / CONFIG_FILE)
    address, listening, checkpoint = _find_self(data_dir, directory)
    own = [f"{each}/p2p/{address}" for each in config.announce] or listening
    if not own and not config.anonymous:
        own = [f"{each}/p2p/{address}" for each in config.get_listen()]
    known = [each for each in (*own, *config.bootstrap) if _can_be_dialled(each)]
    away = [each for each in known if not is_local_address(each.rpartition("/p2p/")[0])]
    invitation = make_invitation(genesis, away or known, checkpoint).format()
    content = {
        "invitation": invitation,
        "chain": genesis.name,
        "chain_id": genesis.chain_id.hex(),
        "bootstrap": away or known,
        "checkpoint": checkpoint or None,
    }
    print_result(content, as_json, invitation)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node of a new network is: the host by which others reach it, and its ports."""

    host: str
    peer_port: int = PEER_PORT
    api_port: int = API_PORT
    admin_port: int = ADMIN_PORT

    @property
    def multiaddress(self) -> str:
        """The address that others dial."""
        kind = "dns" if not is_ip_address(self.host) else f"ip{ipaddress.ip_address(self.host).version}"
        return f"/{kind}/{self.host}/tcp/{self.peer_port}"

    @property
    def api_url(self) -> str:
        """Base URL of the API, on the machine of the node."""
        return f"http://{LOOPBACK}:{self.api_port}/v1"

    def get_peer_address(self, key: KeyPair) -> str:
        """The address with the key that must be found there."""
        return f"{self.multiaddress}/p2p/{key.address}"

    def make_config(self, bootstrap: tuple[str, ...]) -> NodeConfig:
        """The configuration of the node."""
        is_loopback = is_ip_address(self.host) and ipaddress.ip_address(self.host).is_loopback
        listen = self.multiaddress if is_loopback else f"/ip4/0.0.0.0/tcp/{self.peer_port}"
        return DEFAULTS.model_copy(
            update={
                "listen": (listen,),
                "announce": () if is_loopback else (self.multiaddress,),
                "bootstrap": bootstrap,
                "api": DEFAULTS.api.model_copy(update={"port": self.api_port}),
                "admin": DEFAULTS.admin.model_copy(update={"port": self.admin_port}),
            }
        )


def plan_places(count: int | None, hosts: list[str]) -> list[Place]:
    """Where each validator is: on a machine of its own, or all on one with other ports for each.

    Raises:
        CommandError: there are neither one host nor one for each.
    """
    number = count if count is not None else len(hosts) if len(hosts) > 1 else 4
    if len(hosts) not in (1, number):
        raise CommandError(
            f"{len(hosts)} hosts for {number} validators: name one host for all, or one for each", code=ExitCode.USAGE
        )
    if len(hosts) > 1 or number == 1:
        places = [Place(host) for host in hosts]
    else:
        taken: set[int] = set()
        places = [
            Place(hosts[0], *(find_free_port(port + step, taken) for port in (PEER_PORT, API_PORT, ADMIN_PORT)))
            for step in range(0, PORTS_APART * number, PORTS_APART)
        ]
    for place in places:
        try:
            parse_peer_address(place.get_peer_address(KeyPair(bytes(32))))
        except ValueError as error:
            raise CommandError(f"--host: {error}", code=ExitCode.USAGE) from None
    return places


@dataclass(frozen=True, slots=True)
class _Node:
    directory: Path
    place: Place


def _find_self(data_dir: Path | None, directory: Path) -> tuple[str, list[str], str]:
    """A node's address, where it listens, and a recent final block; the last two are empty if it does not run."""
    try:
        status = ask_node(data_dir, "GET", "/status")
    except CommandError as error:
        if error.failure.code != ExitCode.NO_NODE:
            raise
        from chain.keyfile import read_address

        return read_address((directory / KEY_FILE).read_bytes(), str(directory / KEY_FILE)), [], ""
    return status["address"], status["listening"], status["checkpoint"]


def _can_be_dialled(address: str) -> bool:
    try:
        parse_peer_address(address)
    except ValueError:
        return False
    return True
