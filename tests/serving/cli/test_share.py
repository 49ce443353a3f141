"""``wwwserve share``: a server that runs already becomes the backend of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serving.backends.detection import FoundModel, FoundServer
from serving.backends.load_metrics import LoadReader
from serving.cli.app import build_wwwserve_app
from serving.cli.errors import CommandError
from serving.cli.setup.share import describe_entry, plan_changes
from serving.config.data_directory import lock_data_dir
from serving.config.file import format_config, load_config, parse_config
from serving.config.models import OpenAIModel
from serving.config.schema import NodeConfig
from tests.serving.cli.recorded_server import LLAMACPP, LM_STUDIO, serve


def run(*arguments: str) -> tuple[str, list[NodeConfig]]:
    """What a command prints, and the configurations that it runs a node with."""
    ran: list[NodeConfig] = []

    async def run_node(directory: Path, config: NodeConfig, *_: Any) -> None:
        ran.append(config)

    result = CliRunner().invoke(build_wwwserve_app(run_node), arguments)
    if isinstance(result.exception, CommandError):
        raise result.exception
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout, ran


def get_backends(config: NodeConfig) -> list[OpenAIModel]:
    return [entry for entry in config.models if isinstance(entry, OpenAIModel)]


def test_a_server_becomes_the_backend_of_a_new_node_that_is_then_run(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    with serve(LLAMACPP) as url:
        with pytest.raises(CommandError, match="say which chain"):
            run("share", url, "-d", home)
        output, (config,) = run("share", url + "/v1", "-d", home, "--new-chain", "test")
        assert "llama.cpp b0-unknown" in output and "Q4_1" in output and "2,048" in output
        (entry,) = config.models
        assert isinstance(entry, OpenAIModel) and entry.names == ("smollm2-135m",)
        assert (entry.capacity, entry.context_length, entry.features, entry.load) == (
            4,
            2048,
            ("logprobs",),
            "llamacpp",
        )
        assert entry.quantizations == {"smollm2-135m": "Q4_1"}
        # Once more: the same server takes its own place.
        output, ran = run("share", url, "-d", home, "--no-run")
        assert ran == [] and load_config(tmp_path / "home" / "config.yaml").models == (
            entry.model_copy(update={"base_url": url}),
        )


@pytest.mark.parametrize(("kind", "load", "says"), [("llamacpp", "none", True), ("vllm", "vllm", None)])
def test_it_is_noted_where_no_metrics_page_tells_that_a_server_goes_on_with_answers(
    kind: str, load: LoadReader, says: bool | None
) -> None:
    model = FoundModel("m")
    assert describe_entry("http://h", FoundServer(kind, "", (model,), load), [model], None).get("continues") is says


def test_servers_stand_beside_one_another_unless_only_one_is_wanted(tmp_path: Path) -> None:
    there = ("-d", str(tmp_path / "home"))
    with serve(LLAMACPP) as first, serve(LM_STUDIO) as second:
        run("share", first, *there, "--new-chain", "test", "--no-run")
        output, _ = run("share", second, *there, "--no-run")
        assert "LM Studio" in output and "of which 1 are shared" in output
        config = load_config(tmp_path / "home" / "config.yaml")
        assert [entry.base_url for entry in get_backends(config)] == [first, second]
        assert get_backends(config)[1].names == ("meta-llama-3.1-8b-instruct",), "the one that is loaded"
        with pytest.raises(CommandError, match="does not list 'gpt-4'"):
            run("share", second, *there, "--model", "gpt-4")
        run("share", second, *there, "--model", "qwen2-vl-7b-instruct", "--only", "--no-run")
        (entry,) = load_config(tmp_path / "home" / "config.yaml").models
        assert isinstance(entry, OpenAIModel)
        assert (entry.names, entry.features) == (("qwen2-vl-7b-instruct",), ("vision",))


def test_a_model_is_shared_by_the_name_of_its_market(tmp_path: Path) -> None:
    arguments = ("-d", str(tmp_path / "home"), "--new-chain", "test", "--no-run", "--as", "HuggingFaceTB/SmolLM2-135M")
    with serve(LLAMACPP) as url:
        run("share", url, *arguments)
    (entry,) = get_backends(load_config(tmp_path / "home" / "config.yaml"))
    assert entry.names == ("HuggingFaceTB/SmolLM2-135M",) and entry.aliases == {entry.names[0]: "smollm2-135m"}
    assert entry.quantizations == {entry.names[0]: "Q4_1"}
    assert parse_config(format_config(NodeConfig(models=(entry,)))).models == (entry,)
    with serve(LM_STUDIO) as url, pytest.raises(CommandError, match="choose it with --model"):
        models = ("--model", "qwen2-vl-7b-instruct", "--model", "meta-llama-3.1-8b-instruct")
        run("share", url, *models, "-d", str(tmp_path / "other"), *arguments[2:])


def test_a_server_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("-d", str(tmp_path / "home"), "--new-chain", "test", "--no-run")
    with serve(LLAMACPP, key="sesame") as url:
        with pytest.raises(CommandError, match="wants an API key"):
            run("share", url, *arguments)
        with pytest.raises(CommandError, match="BACKEND_KEY is not set"):
            run("share", url, *arguments, "--api-key-env", "BACKEND_KEY")
        monkeypatch.setenv("BACKEND_KEY", "sesame")
        run("share", url, *arguments, "--api-key-env", "BACKEND_KEY")
    (entry,) = get_backends(load_config(tmp_path / "home" / "config.yaml"))
    assert entry.api_key is None and entry.api_key_env == "BACKEND_KEY"
    assert "sesame" not in (tmp_path / "home" / "config.yaml").read_text()


def test_nothing_is_made_where_nothing_answers(tmp_path: Path) -> None:
    with serve({}) as url:
        pass
    for wrong in (url, "ftp://x", "nonsense"):
        with pytest.raises(CommandError):
            run("share", wrong, "-d", str(tmp_path / "home"), "--new-chain", "test")
    assert not (tmp_path / "home").exists()


def test_the_configuration_of_a_running_node_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run("init", "-d", str(home), "--new-chain", "test")
    before = (home / "config.yaml").read_text()
    with serve(LLAMACPP) as url, lock_data_dir(home):
        result = CliRunner().invoke(build_wwwserve_app(lambda *_: None), ["share", url, "-d", str(home)])  # type: ignore[arg-type, return-value]
        assert "in use by another node process" in str(result.exception)
    assert (home / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("url", "moved"),
    [
        ("http://127.0.0.1:8000", {("api", "port"): 8010}),
        ("http://localhost:8001/v1", {("admin", "port"): 8010}),
        ("http://192.0.2.7:8000", {}),
        ("http://127.0.0.1:11434", {}),
    ],
)
def test_a_listener_gives_way_to_the_server(url: str, moved: dict[tuple[str, str], int]) -> None:
    entry = {"kind": "openai", "base_url": url}
    changes = plan_changes("", parse_config(""), entry, only=False)
    assert changes == {("models",): [entry], **moved}
