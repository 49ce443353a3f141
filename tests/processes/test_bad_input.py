"""What users, peers and disks do wrong: a status or exit code, a message that says what to do, and nothing lost.

One node runs through all of it. After every row of the tables it must be healthy and its account as before, and its log
must hold no traceback; at the end its ledger must hold everything that was final before. Directories that cannot be run
are copies of its own, as ``kill -9`` left it.

Of the commands those in :data:`FORKED` are processes, one for each exit code and way to end; others are called here.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from chain.audit.sources import StoreSource
from chain.crypto import KeyPair
from chain.files import short_path
from chain.genesis import GenesisAccount, make_genesis
from chain.keyfile import create_identity
from chain.parameters.parameters import CREDIT
from chain.store.kv import LevelStore
from serving.cli.demo.node_process import HTTP
from tests.support.cluster import Cluster, ClusterNode, chat, run_cluster
from tests.support.commands import run_here
from tests.support.fake_backend import MODEL
from tests.support.forked import run_command
from tests.support.ledgers import fetch_ledger, read_ledger
from tests.support.ports import reserve_ports
from tests.support.waiting import PATIENCE, wait_until

FORKED = {
    "peer port in use",  # the network and its tasks have begun
    "garbage for a genesis",
    "wwwserve serve",
    "wwwserve wallet bond 1000000 -d {node}",
    "wwwserve status -d {stale}",
    "chain verify {bent}",
    "chain verify {multiaddress} --genesis {other}",
}
"""Rows whose command is a process of its own."""


@dataclass
class Place:
    """The node that runs, and what it had when it was last stopped."""

    cluster: Cluster
    node: ClusterNode
    snapshot: Path
    """Its directory, as ``kill -9`` left it."""
    final: dict[int, bytes]
    """Block ids that were final then."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("bad")
    with run_cluster(directory, 1, users=1) as cluster:
        (node,) = cluster.nodes
        for _ in range(8):
            order = {"recipient": cluster.users[0].address, "amount": CREDIT, "wait": 60}
            height = node.ask("/wallet/transfer", "POST", order)["height"]
            assert height is not None
        node.kill()
        snapshot = directory / "snapshot"
        shutil.copytree(node.directory, snapshot, ignore=shutil.ignore_patterns("*.sock"))
        copy = shutil.copytree(node.directory / "chain", directory / "chain")
        ledger = read_ledger(StoreSource(LevelStore(copy)))
        assert ledger.head.height >= height
        node.start()  # at once: nothing of the killed process may be in its way
        cluster.wait_ready()
        yield Place(cluster, node, snapshot, {height: header.id for height, header in ledger.blocks.items()})


@pytest.fixture
def place(running: Place) -> Iterator[Place]:
    """The running node, which must be unharmed afterwards."""
    before, height = running.node.ask("/wallet"), running.node.height
    yield running
    assert running.node.is_healthy()
    assert running.node.ask("/wallet") == before
    assert running.node.height >= height
    assert "Traceback" not in running.node.log


# A directory that cannot be run.


def rewrite(name: str, change: Callable[[str], str]) -> Callable[[Path, Place], object]:
    """Change the text of a file."""
    return lambda home, place: (home / name).write_text(change((home / name).read_text()))


def configure(**changes: object) -> Callable[[Path, Place], object]:
    """Change keys of the configuration."""
    return rewrite("config.yaml", lambda text: yaml.safe_dump({**yaml.safe_load(text), **changes}))


def take_port(section: str) -> Callable[[Path, Place], object]:
    """Configure a port on which the running node listens."""

    def take(home: Path, place: Place) -> None:
        node = place.node
        changes: dict[str, dict[str, object]] = {
            "api": {"api": {"port": node.api_port}},
            "admin": {"admin": {"port": node.admin_port}},
            "listen": {"listen": [f"/ip4/127.0.0.1/tcp/{node.peer_port}"]},
        }
        configure(**changes[section])(home, place)

    return take


def remove(name: str) -> Callable[[Path, Place], object]:
    return lambda home, place: (home / name).unlink()


def protect_key(home: Path, place: Place) -> None:
    (home / "key").unlink()
    create_identity(home / "key", "a passphrase")


def replace_key(home: Path, place: Place) -> None:
    """The seed of another node under this node's address."""
    other = KeyPair(os.urandom(32)).seed.hex()
    rewrite("key", lambda text: re.sub("seed: .*", f"seed: {other}", text))(home, place)


def replace_genesis(home: Path, place: Place) -> None:
    key = place.node.key.public_key
    other = make_genesis("other", 0, bytes(32), [GenesisAccount(key, CREDIT, 1_000 * CREDIT, (), b"t" * 32)])
    (home / "genesis.json").write_text(other.to_json())


BROKEN_DIRECTORIES: list[tuple[str, Callable[[Path, Place], object], str]] = [
    ("unknown YAML key", configure(polcy={}), r"config\.yaml:\d+: polcy: .*policy"),
    ("wrong YAML value", configure(admin={"port": "many"}), r"config\.yaml:\d+: admin\.port: "),
    ("bad YAML", lambda home, place: (home / "config.yaml").write_text("api: ["), r"config\.yaml:\d+: not valid YAML"),
    ("binary YAML", lambda home, place: (home / "config.yaml").write_bytes(b"\xff\xfe\0"), r"config\.yaml:1: "),
    ("no configuration", remove("config.yaml"), r"config\.yaml: cannot be read: No such file.*an empty file"),
    ("unknown policy", configure(policy={"name": "greedy"}), "policy.name: .*'greedy'.*known: adaptive, paper"),
    (
        "API key of the backend not set",
        configure(models=[{"kind": "openai", "base_url": "http://127.0.0.1:1", "api_key_env": "WWWSERVE_NO_SUCH"}]),
        "WWWSERVE_NO_SUCH is not set",
    ),
    ("API port in use", take_port("api"), r"cannot listen on 127\.0\.0\.1:\d+: .*in use.*api\.port"),
    ("admin port in use", take_port("admin"), r"cannot listen on 127\.0\.0\.1:\d+: .*in use.*admin\.port"),
    (
        "peer port in use",
        take_port("listen"),
        r"cannot listen on /ip4/127\.0\.0\.1/tcp/\d+: the port is in use.*listen in config\.yaml",
    ),
    ("no key", remove("key"), "the key of the node in .* is gone: put .* back"),
    ("garbage for a key", rewrite("key", lambda text: "garbage"), "key is not a key file"),
    ("half a key", rewrite("key", lambda text: text[:40]), "key is damaged.*restore it from a copy"),
    ("key of another node", replace_key, "the address is not that of the seed.*restore it from a copy"),
    (
        "an API for other machines without keys",
        configure(api={"host": "0.0.0.0"}),
        r"config\.yaml: api\.host: '0\.0\.0\.0' lets other machines in, which takes keys",
    ),
    ("key open to others", lambda home, place: (home / "key").chmod(0o644), "run chmod 600 .*key"),
    ("key with passphrase", protect_key, "passphrase is needed.*WWWSERVE_PASSPHRASE"),
    ("no genesis", remove("genesis.json"), r"no genesis file .*genesis\.json; copy it from another node"),
    ("garbage for a genesis", rewrite("genesis.json", lambda text: "garbage"), r"genesis\.json is not JSON"),
    ("altered genesis", rewrite("genesis.json", lambda text: text.replace('"name"', '"nam"')), "unknown field 'nam'"),
    ("genesis of another chain", replace_genesis, "belongs to chain 'test' .*not 'other' .*put back the genesis file"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BROKEN_DIRECTORIES, ids=[row[0] for row in BROKEN_DIRECTORIES])
def test_a_directory_that_cannot_be_run(
    place: Place, tmp_path: Path, name: str, spoil: Callable[[Path, Place], object], message: str
) -> None:
    home = shutil.copytree(place.snapshot, tmp_path / "node")
    peer_port, api_port, admin_port = reserve_ports(3)
    configure(
        listen=[f"/ip4/127.0.0.1/tcp/{peer_port}"], bootstrap=[], api={"port": api_port}, admin={"port": admin_port}
    )(home, place)
    spoil(home, place)
    kept = {name: read_if_there(home / name) for name in ("key", "config.yaml", "genesis.json", "votes.journal")}
    stored = {path.name for path in (home / "chain").glob("*.ldb")}
    result = (run_command if name in FORKED else run_here)("run", "-d", home)
    assert result.code == 1, result
    assert re.search(message, result.stderr, re.DOTALL), result.stderr
    assert "Traceback" not in result.stderr and result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert kept == {name: read_if_there(home / name) for name in kept}
    assert stored <= {path.name for path in (home / "chain").glob("*.ldb")}


def read_if_there(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_a_directory_in_use(place: Place) -> None:
    result = run_here("run", "-d", place.node.directory)
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr == f"error: {place.node.directory} is in use by another node process; stop it first\n"


def test_a_damaged_block_is_found_where_it_is(place: Place, tmp_path: Path) -> None:
    """A node needs no old block to start; the audit names the first bad one."""
    home = shutil.copytree(place.snapshot, tmp_path / "node")
    store = LevelStore(home / "chain")
    key = b"b" + (3).to_bytes(8, "big")
    block = store.get(key)
    assert block is not None
    store.write({key: block[:-1] + bytes([block[-1] ^ 1])})
    store.close()
    result = run_here("verify", home, command="chain")
    assert (result.code, result.stderr) == (5, "")
    assert re.match(r"FAULT at height 3, \w+: ", result.stdout)
    assert "sound below" in result.stdout


# What users send.

BIG = 5 * 1024 * 1024


def post(body: bytes, headers: str = "", path: str = "/v1/chat/completions", host: str = "localhost") -> bytes:
    if "Content-Type" not in headers:
        headers += "Content-Type: application/json\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + body


BAD_REQUESTS: list[tuple[str, bytes, int, str]] = [
    ("no HTTP", b"EHLO example.org\r\n\r\n", 400, "Malformed HTTP"),
    ("TLS", bytes.fromhex("16030100c8010000c40303") + bytes(200), 400, "Malformed HTTP"),
    ("two lengths", post(b"{}", "Content-Length: 3\r\n"), 400, "Malformed HTTP"),
    ("negative length", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "Malformed HTTP"),
    ("headers too large", post(b"", "X: " + 40_000 * "x" + "\r\n"), 431, "larger than"),
    ("announced body too large", post(b"")[:-2].replace(b": 0", b": %d" % BIG) + b"\r\n", 413, "larger than"),
    ("body too large", post(bytes(BIG)), 413, "larger than"),
    ("unknown path", post(b"{}", path="/v1/images"), 404, "Unknown path /v1/images"),
    ("wrong method", b"GET /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "GET"),
    ("a page of another site", post(b"{}", "Origin: https://evil.example\r\n"), 403, "may not use this listener"),
    ("another name for this machine", post(b"{}", host="evil.example:8000"), 403, "does not answer as"),
    ("not said to be JSON", post(b"{}", "Content-Type: text/plain\r\n"), 415, "Content-Type: application/json"),
    ("a length beside chunks", post(b"{}", "Transfer-Encoding: chunked\r\n"), 400, "present with content-length"),
    ("no JSON", post(b"prompt"), 400, "not valid JSON"),
    ("no UTF-8", post(b'{"model": "\xff"}'), 400, "not valid JSON"),
    ("deep JSON", post(60_000 * b"["), 400, "not valid JSON"),
    ("much JSON", post(100_000 * b"["), 400, "more than 65536 strings, commas and brackets"),
    ("no object", post(b"[]"), 400, "must be a JSON object"),
    ("no model", post(b'{"messages": []}'), 400, "Name a model"),
    ("unknown model", post(b'{"model": "gpt-none", "messages": []}'), 404, "'gpt-none' does not exist"),
    ("no number", post(b'{"model": "fake-model", "max_tokens": "many"}'), 400, "'max_tokens' must be a positive"),
]


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"), [row[1:] for row in BAD_REQUESTS], ids=[row[0] for row in BAD_REQUESTS]
)
def test_a_bad_request(place: Place, request_bytes: bytes, status: int, message: str) -> None:
    answer = exchange(place.node.api_port, request_bytes).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} "), answer
    error = json.loads(body)["error"]
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"]


BAD_ORDERS: list[tuple[str, str, str, dict[str, object], int, str]] = [
    ("no token", "GET", "/wallet", {"headers": {}}, 401, "token"),
    ("wrong token", "GET", "/wallet", {"headers": {"Authorization": "Bearer x"}}, 401, "token"),
    ("no JSON", "POST", "/wallet/transfer", {"content": b"all"}, 415, "must be JSON"),
    ("body too large", "POST", "/wallet/transfer", {"content": bytes(1 << 17)}, 413, "larger than"),
    ("no recipient", "POST", "/wallet/transfer", {"json": {"amount": 1}}, 400, "recipient"),
    ("too much", "POST", "/wallet/unbond", {"json": {"amount": 2**62}}, 409, "bonded"),
    ("unknown number", "PUT", "/policy", {"json": {"max_cue": 1}}, 400, "max_cue"),
    ("number out of bounds", "PUT", "/policy", {"json": {"accept_frequency": 2}}, 400, "accept_frequency"),
    ("unknown path", "GET", "/balance", {}, 404, "Not Found"),
]


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "message"),
    [row[1:] for row in BAD_ORDERS],
    ids=[row[0] for row in BAD_ORDERS],
)
def test_a_bad_order(
    place: Place, method: str, path: str, arguments: dict[str, Any], status: int, message: str
) -> None:
    token = (place.node.directory / "admin.token").read_text().strip()
    arguments = {"headers": {"Authorization": f"Bearer {token}"}, **arguments}
    response = HTTP.request(method, f"http://127.0.0.1:{place.node.admin_port}{path}", **arguments)
    assert response.status_code == status
    assert message in response.json()["error"]


# What comes to the port for peers.

MULTISTREAM = b"\x13/multistream/1.0.0\n"

GARBAGE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("random bytes", random.Random(7).randbytes(4096)),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("half a greeting", MULTISTREAM[:9]),
    ("a greeting and nothing", MULTISTREAM),
    ("a greeting of a megabyte", b"\x80\x80\x40" + bytes(4096)),
    ("an endless length", 64 * b"\xff"),
    ("an unknown protocol", MULTISTREAM + b"\x0b/plaintext\n" + bytes(64)),
    ("noise without a handshake", MULTISTREAM + b"\x07/noise\n" + random.Random(7).randbytes(512)),
    ("half a noise frame", MULTISTREAM + b"\x07/noise\n" + b"\xff\xff" + bytes(16)),
]


def test_garbage_on_the_peer_port(place: Place) -> None:
    """Every connection is closed by the node, many half-open ones too, and the next real peer is served."""
    connections = [(name, connect(place.node.peer_port)) for name, _ in GARBAGE]
    for (_, content), (_, connection) in zip(GARBAGE, connections, strict=True):
        with suppress(ConnectionError):  # closed before all of it was read
            connection.sendall(content)
    connections += [(f"half-open {number}", connect(place.node.peer_port)) for number in range(50)]
    for name, connection in connections:
        with connection:
            assert is_closed(connection), f"{name}: still open"
    ledger = fetch_ledger(place.node, place.cluster.genesis, place.cluster.directory)
    assert {height: ledger.blocks[height].id for height in place.final} == place.final


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(PATIENCE)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end closes the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def exchange(port: int, content: bytes) -> bytes:
    """Everything that comes back for ``content``."""
    answer = b""
    with connect(port) as connection:
        with suppress(ConnectionError):  # refused before all of it was read; the answer is there
            connection.sendall(content)
        while data := connection.recv(65536):
            answer += data
    return answer


# What is typed.


def test_an_account_that_cannot_pay(place: Place) -> None:
    gateway = place.cluster.add_guest("gateway", {"models": []})
    gateway.start()
    wait_until(lambda: gateway.is_healthy() and MODEL in get_models(gateway), "the gateway does not see the model")
    for stream in (True, False):
        response = HTTP.post(gateway.completions_url, json=chat("for nothing", stream))
        assert response.status_code == 402
        error = response.json()["error"]
        assert error["code"] == "insufficient_quota" and "0 are available" in error["message"]
    refused = run_command("wallet", "transfer", place.node.address, "1", "-d", gateway.directory)
    assert refused.code == 4 and "0.000000 are available" in refused.stderr
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log


def get_models(node: ClusterNode) -> list[str]:
    return [entry["id"] for entry in HTTP.get(f"{node.api_url}/models").json()["data"]]


COMMANDS: list[tuple[str, int, str]] = [
    ("wwwserve run --fast", 2, "No such option"),
    ("wwwserve serve", 2, "No such command"),
    ("wwwserve wallet transfer", 2, "Missing argument"),
    ("wwwserve wallet transfer 12D3KooWstranger 1 -d {node}", 2, "is not the address.*expected 12D3KooW"),
    ("wwwserve wallet transfer {address} lots -d {node}", 2, "'lots' is not an amount"),
    ("wwwserve wallet transfer {address} 0 -d {node}", 2, "cannot be moved"),
    ("wwwserve wallet transfer {address} 1000000 -d {node}", 4, "available"),
    ("wwwserve wallet bond 1000000 -d {node}", 4, "available"),
    ("wwwserve wallet withdraw -d {node}", 4, "nothing has finished unbonding"),
    ("wwwserve policy set max_queue -d {node}", 1, "name=value"),
    ("wwwserve policy set max_cue=1 -d {node}", 1, "max_cue"),
    ("wwwserve policy set accept_frequency=2 -d {node}", 1, "accept_frequency"),
    ("wwwserve status -d {tmp}", 3, "no node runs in .*there is none: make one with: wwwserve init"),
    ("wwwserve status -d {stale}", 3, "no node runs in .*make one with: wwwserve init"),
    ("wwwserve init -d {tmp}/new", 1, "--genesis FILE .*--new-chain NAME"),
    ("wwwserve init -d {tmp}/new --genesis {tmp}/none", 1, "cannot read the genesis file"),
    ("wwwserve init -d {tmp}/new --genesis {garbage}", 1, "is not JSON"),
    ("wwwserve init -d {node} --new-chain mine", 1, "exists already; choose another directory"),
    ("wwwserve init -d {garbage}/new --new-chain mine", 1, "cannot write .*new: Not a directory; choose another"),
    ("chain verify {garbage}", 1, "is not a chain export"),
    ("chain verify {cut}", 5, "FAULT at height .* cut short"),
    ("chain verify {bent}", 5, "FAULT at height"),
    ("chain verify {tmp}/none", 1, "no chain in .*expected"),
    ("chain verify {tmp}", 1, "no chain in .*expected"),
    ("chain verify /ip4/127.0.0.1/tcp/1 --genesis {genesis}", 1, "must end with /p2p/"),
    ("chain verify /ip4/127.0.0.1/tcp/1/p2p/{address} --genesis {genesis}", 1, "cannot reach "),
    ("chain verify {genesis} --socks5 127.0.0.1:9", 1, "is for a node at a multiaddress"),
    ("chain prove balance {address} --socks5 127.0.0.1:9", 1, "is for a node at a multiaddress"),
    ("chain verify {multiaddress} --genesis {genesis} --socks5 nonsense", 1, "expected HOST:PORT"),
    ("chain verify {multiaddress} --genesis {genesis} --socks5 127.0.0.1:9", 1, "proxy"),
    ("chain verify {multiaddress} --genesis {garbage}", 1, "is not JSON"),
    ("chain verify {multiaddress} --genesis {other}", 1, "another chain|chain_id"),
    ("chain show 999999 -d {snapshot}", 1, "no final block or operation 999999 .*the last final block is"),
    ("chain show nonsense -d {snapshot}", 1, "neither a height nor a block or operation id"),
    ("chain account nonsense -d {snapshot}", 1, "is not the address.*expected 12D3KooW"),
    ("chain export {garbage} -d {snapshot}", 1, "exists already; choose another name"),
    ("chain audit", 2, "No such command"),
]


@pytest.fixture(scope="module")
def words(running: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the names in braces stand for."""
    tmp, stale = tmp_path_factory.mktemp("words"), tmp_path_factory.mktemp("stale")
    (tmp / "garbage").write_bytes(random.Random(7).randbytes(5000))
    assert run_here("export", tmp / "whole", "-d", running.snapshot, command="chain").code == 0
    (tmp / "cut").write_bytes((tmp / "whole").read_bytes()[:-10])
    bent = bytearray((tmp / "whole").read_bytes())
    bent[-1000] ^= 1
    (tmp / "bent").write_bytes(bent)
    with socket.socket(socket.AF_UNIX) as left, short_path(stale / "admin.sock") as path:  # by a node that was killed
        left.bind(path)
    other = make_genesis(
        "other", 0, bytes(32), [GenesisAccount(running.node.key.public_key, 1, 1_000 * CREDIT, (), b"t" * 32)]
    )
    (tmp / "other").write_text(other.to_json())
    return {
        "tmp": tmp,
        **{name: tmp / name for name in ("garbage", "cut", "bent", "other")},
        "stale": stale,
        "snapshot": running.snapshot,
        "node": running.node.directory,
        "genesis": running.node.directory / "genesis.json",
        "address": running.node.address,
        "multiaddress": running.node.multiaddress,
    }


@pytest.mark.parametrize(("line", "code", "message"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_a_wrong_command(place: Place, words: dict[str, object], line: str, code: int, message: str) -> None:
    command, *arguments = line.split()
    run = run_command if line in FORKED else run_here
    result = run(*(argument.format(**words) for argument in arguments), command=command)
    assert result.code == code, result
    said = result.stdout if "FAULT" in message else result.stderr
    assert re.search(message, said, re.DOTALL), result
    assert "Traceback" not in result.stderr
    assert code == 2 or "FAULT" in message or result.stderr.startswith("error: ")


def test_nothing_was_lost(running: Place) -> None:
    """Runs last: what was final before ``kill -9`` and all the rest still is, and the whole chain holds."""
    assert running.cluster.stop() == [0]
    with running.node.blocks() as blocks:
        ledger = read_ledger(StoreSource(blocks._store))
    assert {height: ledger.blocks[height].id for height in running.final} == running.final
    assert ledger.state.account(running.cluster.users[0].public_key).available == 1_008 * CREDIT
