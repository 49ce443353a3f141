"""``wwwserve init`` at a terminal: three questions at most, each with an answer that an option gives as well."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from chain.crypto import KeyPair, format_address
from chain.genesis import load_genesis
from serving.cli.app import build_wwwserve_app
from serving.cli.setup import init, local_servers
from serving.cli.setup.init import ChainChoice, choose_by_number, read_network
from serving.cli.setup.local_servers import USUAL_PORTS, find_local_servers
from serving.config.file import load_config
from serving.config.invitation import make_invitation
from serving.config.models import EmbeddedModel, OpenAIModel
from serving.config.schema import NodeConfig
from tests.serving.cli.recorded_server import LLAMACPP, LM_STUDIO, serve
from tests.support.ports import reserve_ports

NETWORK, SHARE, OPEN = "Network [home]:", "Share which?", "May other machines use the API"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody can be asked, and nothing runs on this machine."""
    monkeypatch.setattr(init, "is_terminal", lambda as_json: True)
    find_on(monkeypatch, ())


def find_on(monkeypatch: pytest.MonkeyPatch, ports: tuple[int, ...]) -> None:
    """Look for servers on these ports and not on the usual ones."""
    monkeypatch.setattr(local_servers, "find_local_servers", lambda: find_local_servers(ports))


def run(home: Path, *arguments: object, answers: str = "") -> str:
    """What is printed, questions included."""
    command = ["init", "-d", str(home), *map(str, arguments)]
    result = CliRunner().invoke(build_wwwserve_app(), command, input=answers)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def get_port(url: str) -> int:
    return int(url.rpartition(":")[2])


def get_urls(config: NodeConfig) -> list[str]:
    return [str(each.base_url).rstrip("/") for each in config.models if isinstance(each, OpenAIModel)]


def read(home: Path) -> NodeConfig:
    return load_config(home / "config.yaml")


def test_servers_are_found_where_they_usually_are() -> None:
    assert USUAL_PORTS == (8000, 11434, 30000, 8080, 1234)
    (closed,) = reserve_ports(1)
    with serve(LLAMACPP) as one, serve(LM_STUDIO) as other, serve({}) as no_server, serve(LLAMACPP, "key") as locked:
        found = find_local_servers([closed, *map(get_port, (other, no_server, locked, one))])
    assert {url: server.kind for url, server in found.items()} == {other: "lmstudio", one: "llamacpp"}
    assert list(found) == [other, one], "in the order of the ports"


def test_what_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_servers, "SEARCH_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert find_local_servers([silent.getsockname()[1]]) == {}


def test_a_node_is_no_server_to_share(tmp_path: Path) -> None:
    page = {"data": [{"id": "m", "object": "model", "owned_by": "wwwserve"}]}
    (tmp_path / "models.json").write_text(yaml.safe_dump(page, default_flow_style=True))
    with serve({"/v1/models": str(tmp_path / "models.json")}) as url:
        assert find_local_servers([get_port(url)]) == {}


def test_the_proposed_answers_make_the_file_that_yes_makes(
    terminal: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(LLAMACPP) as url:
        find_on(monkeypatch, (get_port(url),))
        asked = run(tmp_path / "asked", answers="\n\n\n")
        told = run(tmp_path / "told", "--yes")
    assert all(asked.count(question) == 1 for question in (NETWORK, SHARE, OPEN))
    assert f"1  llama.cpp at {url}: smollm2-135m" in asked
    assert not any(question in told for question in (NETWORK, SHARE, OPEN))
    assert (tmp_path / "asked" / "config.yaml").read_text() == (tmp_path / "told" / "config.yaml").read_text()
    config = read(tmp_path / "told")
    assert get_urls(config) == [url] and config.api.host == "127.0.0.1" and not config.api.keys
    assert load_genesis(tmp_path / "told" / "genesis.json").name == "home"
    assert f"shares   {url}: smollm2-135m" in told


def test_each_answer_can_be_another(terminal: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(LLAMACPP) as one, serve(LM_STUDIO) as other:
        find_on(monkeypatch, (get_port(one), get_port(other)))
        output = run(tmp_path / "home", answers="no/such/file\nmine\n3\n2\ny\n")
    assert "there is no file no/such/file" in output and "numbers from 1 to 2" in output
    config = read(tmp_path / "home")
    assert get_urls(config) == [other] and config.api.host == "0.0.0.0" and len(config.api.keys) == 1
    assert re.search(r"^api key  \S+", output, re.MULTILINE)
    assert load_genesis(tmp_path / "home" / "genesis.json").name == "mine"


def test_nothing_is_asked_that_an_option_has_answered(
    terminal: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run(tmp_path / "a", "--new-chain", "mine")
    assert not any(question in output for question in (NETWORK, SHARE, OPEN))
    with serve(LLAMACPP) as url:
        output = run(tmp_path / "b", "--share", url, "--open-api", answers="\n")
    assert NETWORK in output and SHARE not in output and OPEN not in output
    assert get_urls(read(tmp_path / "b")) == [url] and read(tmp_path / "b").api.host == "0.0.0.0"
    output = run(tmp_path / "c", "--api-key", answers="\n")
    assert OPEN not in output and read(tmp_path / "c").api.host == "127.0.0.1"
    (model,) = read(tmp_path / "c").models
    assert isinstance(model, EmbeddedModel), "nothing was found, so that nothing is asked"


def test_nobody_is_asked_without_a_terminal(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_wwwserve_app(), ["init", "-d", str(tmp_path / "home")], input="\n\n\n")
    assert "say which chain" in str(result.exception) and not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["", "ü" * 33])
def test_a_name_that_no_chain_may_have_leaves_no_half_of_a_node(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(build_wwwserve_app(), ["init", "-d", str(tmp_path / "home"), "--new-chain", name])
    assert str(result.exception).startswith("--new-chain: a name has 1 to 64 bytes")
    assert not (tmp_path / "home").exists()


def test_a_directory_with_a_node_is_refused_before_any_question(terminal: None, tmp_path: Path) -> None:
    run(tmp_path, "--new-chain", "mine")
    result = CliRunner().invoke(build_wwwserve_app(), ["init", "-d", str(tmp_path)], input="\n")
    assert "exists already" in str(result.exception) and NETWORK not in result.output


def test_run_offers_to_make_a_node(terminal: None, tmp_path: Path) -> None:
    ran = []

    async def run_node(directory: Path, *_: object) -> None:
        ran.append(directory)

    home = tmp_path / "home"
    runner, app = CliRunner(), build_wwwserve_app(run_node)
    assert runner.invoke(app, ["run", "-d", str(home)], input="n\n").exit_code == 1 and ran == []
    output = runner.invoke(app, ["run", "-d", str(home)], input="y\n\n\n").output
    assert ran == [home] and NETWORK in output and read(home)


def test_a_network_is_an_invitation_a_file_or_a_name(tmp_path: Path) -> None:
    run(tmp_path / "one", "--new-chain", "mine")
    file = tmp_path / "one" / "genesis.json"
    genesis = load_genesis(file)
    bootstrap = f"/ip4/192.0.2.1/tcp/4001/p2p/{format_address(KeyPair(bytes(32)).public_key)}"
    invitation = make_invitation(genesis, [bootstrap]).format()
    (tmp_path / "invitation.txt").write_text(f"{invitation}\n")
    joined = ChainChoice(genesis, None, (bootstrap,), None)
    assert read_network(invitation) == read_network(str(tmp_path / "invitation.txt")) == joined
    assert read_network(str(file)) == ChainChoice(genesis)
    assert read_network("other") == ChainChoice(new_chain="other")


@pytest.mark.parametrize(
    ("answer", "chosen"), [("all", "abc"), ("none", ""), ("2", "b"), ("3, 1", "ac"), ("1 1", "a"), ("ALL", "abc")]
)
def test_servers_are_chosen_by_number(answer: str, chosen: str) -> None:
    assert choose_by_number(answer, "abc") == list(chosen)


@pytest.mark.parametrize("answer", ["", "0", "4", "1 4", "-1", "one", "all 1", "²"])
def test_what_names_no_server_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="from 1 to 3"):
        choose_by_number(answer, "abc")
