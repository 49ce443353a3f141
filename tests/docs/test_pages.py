"""What the documents tell a reader to do works as it stands there: every command, file and program of every page."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from chain.genesis import load_genesis
from chain.keyfile import load_identity
from chain.parameters.parameters import CREDIT, Parameters
from tests.docs.blocks import PAGES, SHELL, read_blocks
from tests.docs.excuses import find_excuse
from tests.docs.player import Direction, Player, read_alone
from tests.support.cluster import Cluster, run_cluster
from tests.support.commands import run_here
from tests.support.fake_backend import MODEL
from tests.support.ports import reserve_ports
from tests.support.waiting import wait_until

BEGINNING = ("The first answer",)
EPOCH = 20
PARAMETERS = Parameters(
    epoch_heights=EPOCH, round_heights=4, missed_lead_fee=0, register_grant=10 * CREDIT, register_difficulty=0
)
"""A chain that soon has a checkpoint, and grants newcomers a bond for next to no work."""
PURSE = 5_000 * CREDIT
"""What the operator of the network gives a reader who needs credit."""


def test_the_first_answer_comes_as_the_readme_says(tmp_path: Path) -> None:
    """With the model that comes with the node: init, run, ask, look, audit, and the program in Python."""
    with read_alone(tmp_path) as player:
        player.play("README.md", {}, BEGINNING)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The network that all pages speak of: one validator, beside a backend."""
    with run_cluster(tmp_path_factory.mktemp("network"), 1, users=1, parameters=PARAMETERS) as cluster:
        yield cluster


@pytest.fixture
def proxy() -> Iterator[str]:
    """Where a SOCKS5 proxy listens."""
    (port,) = reserve_ports(1)
    command = [sys.executable, "-m", "tests.nat.proxy", "127.0.0.1", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield f"127.0.0.1:{port}"
        process.kill()


@contextmanager
def read_in(network: Cluster, directory: Path, proxy: str) -> Iterator[Player]:
    """A reader to whom the operator of a network has given its genesis file and an invitation."""
    (node,) = network.nodes
    server = network.backend_url.removeprefix("http://")
    stand_ins = {
        "/ip4/…/p2p/12D3KooW…": node.multiaddress,
        "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooW…": node.multiaddress,
        "/ip4/192.168.1.10/tcp/4001/p2p/12D3KooW…": node.multiaddress,
        "12D3KooW…": node.address,
        "ADDRESS": network.users[0].address,
        "127.0.0.1:11434": server,
        "127.0.0.1:9000": server,
        "127.0.0.1:9050": proxy,
        "MODEL": MODEL,
        "NAME": MODEL,
        "show 37": "show 1",
    }
    while node.height < EPOCH:
        node.transfer(node, 1)
    stand_ins["12800:5f0c…"] = node.ask("/status")["checkpoint"]
    with read_alone(directory, stand_ins, [network.model_config]) as player:
        shutil.copy(node.directory / "genesis.json", directory)
        (directory / "invitation.txt").write_text(run_here("network", "invite", "-d", node.directory).output)
        yield player


def give_credit(network: Cluster, player: Player) -> None:
    """The operator of the network gives the reader's account credit."""
    account = load_identity(player.current / "key").address
    order = {"recipient": account, "amount": PURSE, "wait": 60}
    assert network.nodes[0].ask("/wallet/transfer", "POST", order)["failure"] is None
    shown = ["wwwserve", "wallet", "show", "-d", str(player.current)]
    wait_until(lambda: "5,000.000000" in player.run(shown), "no credit comes")


def make_directions(network: Cluster) -> dict[str, Mapping[str, Direction]]:
    """What happens between the lines of each page."""

    def invite(player: Player) -> None:
        shutil.copy(player.directory / "invitation.txt", player.directory / "market")

    def find_grant(player: Player) -> None:
        created = load_genesis(player.directory / "market" / "node1" / "genesis.json")
        assert created.parameters.register_grant, "the network that the page has made grants nothing"

    def fund(player: Player) -> None:
        give_credit(network, player)

    def forget_keys(player: Player) -> None:
        player.stop(player.current)
        shutil.rmtree(player.current / "keys")
        player.type(f"wwwserve run -d {player.current.name}")

    def make_known_node(player: Player) -> None:
        player.type("wwwserve init --genesis genesis.json")
        player.configure({"bootstrap": [network.nodes[0].multiaddress]})

    def change_places(player: Player) -> None:
        player.stop(player.default)  # made when the other node was not running, it has the same ports
        player.type("wwwserve run -d DIR")

    def make_node(player: Player) -> None:
        player.type("wwwserve init --genesis genesis.json")
        player.type("wwwserve run")

    return {
        "docs/api.md": {"The API of a node": make_node},
        "README.md": {
            "wwwserve join market/invitation.txt": invite,
            "wwwserve wallet register": find_grant,
        },
        "docs/operating.md": {
            "wwwserve wallet transfer -d DIR 12D3KooW… 100": fund,
            "Who answers a request": forget_keys,
            "Running anonymously": make_known_node,
            "Money": fund,
            "Duels": change_places,
        },
    }


def has_something_to_play(page: str) -> bool:
    """Whether a page has a block that the player does not pass over."""
    blocks = read_blocks(page)
    return any(
        find_excuse(command) is None for block in blocks if block.language == SHELL for command in block.commands
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl (Debian: apt-get install curl)")
@pytest.mark.long  # a dozen nodes are started, one after the other
@pytest.mark.parametrize("page", [page for page in PAGES if has_something_to_play(page)])
def test_a_page_works_from_top_to_bottom(page: str, network: Cluster, proxy: str, tmp_path: Path) -> None:
    with read_in(network, tmp_path, proxy) as player:
        player.play(page, make_directions(network)[page])
