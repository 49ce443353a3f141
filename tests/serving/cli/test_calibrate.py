"""``wwwserve calibrate``: what it proposes, and that each wrong use is one line."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest
import trio
from typer.testing import CliRunner, Result

from serving.cli.app import build_wwwserve_app
from serving.cli.errors import CommandError
from serving.cli.quality import calibrate
from serving.quality.same_model.identity import ModelIdentity
from serving.quality.same_model.weights import hash_weights
from tests.support.http_front import run_front
from tests.support.servers.scripted_model import MODEL, ScriptedModel
from tests.support.waiting import PATIENCE


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


@contextmanager
def serve(model: ScriptedModel) -> Iterator[str]:
    """The URL of a server on a thread of its own."""
    started: Queue[tuple[str, trio.lowlevel.TrioToken, trio.Event]] = Queue()

    async def main() -> None:
        async with run_front(model.handle) as server:
            host, port = server.address
            stop = trio.Event()
            started.put((f"http://{host}:{port}", trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    url, token, stop = started.get(timeout=PATIENCE)
    try:
        yield url
    finally:
        trio.from_thread.run_sync(stop.set, trio_token=token)
        thread.join()


def run(directory: Path, url: str | None, *arguments: str, identity: str = "null") -> Result:
    """The command, with a server as the only model of a configuration."""
    models = "[]" if url is None else f"[{{kind: openai, base_url: '{url}', identity: {identity}}}]"
    (directory / "config.yaml").write_text(f"models: {models}\n")
    command = ["calibrate", "-d", str(directory), "--prompts", "24", "--tokens", "12", *arguments]
    return CliRunner().invoke(build_wwwserve_app(run_nothing), command)


def get_error(result: Result) -> str:
    """The one line that the owner sees."""
    assert isinstance(result.exception, CommandError), result.exception
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_backend_against_itself_gives_limits_and_a_file(tmp_path: Path) -> None:
    with serve(ScriptedModel("vllm")) as url:
        result = run(tmp_path, url, "--out", str(tmp_path / "limits.json"))
    assert result.exception is None, result.exception
    assert "24 honest checks by vllm" in result.output and "shortfall" in result.output
    limits = json.loads((tmp_path / "limits.json").read_text())
    assert (limits["model"], limits["engine"], limits["checks"]) == (MODEL, "vllm", 24)
    assert limits["distance"]["threshold"] == 0.005
    assert 0 < limits["distance"]["honest_ppm"] < limits["shortfall"]["honest_ppm"] < 500_000


def test_an_identity_is_shown_with_the_digest_of_the_weights_and_its_engine_must_be_that_of_the_backend(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"weights")
    identity = f"{{model: {MODEL}, weight_files: [m.gguf], quantization: w8a16-kv16, engine: %s}}"
    with serve(ScriptedModel("vllm")) as url:
        result = run(tmp_path, url, "--out", str(tmp_path / "limits.json"), identity=identity % "vllm")
        assert result.exception is None, result.exception
        weights = hash_weights([tmp_path / "m.gguf"])
        digest = ModelIdentity(MODEL, weights, "w8a16-kv16", "vllm").digest.hex()
        assert f"identity {digest} of {MODEL}: weights {weights.hex()}" in result.output
        assert json.loads((tmp_path / "limits.json").read_text())["identity"] == digest
        error = get_error(run(tmp_path, url, identity=identity % "llamacpp"))
    assert "names llamacpp, and the engine is vllm" in error


def test_it_says_whether_the_limits_of_the_network_hold(tmp_path: Path) -> None:
    chain = ["init", "-d", str(tmp_path / "home"), "--new-chain", "test", "--duel-rate", "100"]
    assert CliRunner().invoke(build_wwwserve_app(run_nothing), chain).exit_code == 0
    shutil.copy(tmp_path / "home" / "genesis.json", tmp_path)
    with serve(ScriptedModel("vllm")) as url, serve(ScriptedModel("vllm", "other", noise=2.0)) as other:
        result = run(tmp_path, url)
        assert result.exception is None, result.exception
        assert "distance, 0.05, is not known to hold: 0 of 24 honest checks are above it" in result.output
        result = run(tmp_path, url, "--against", other)
        assert result.exception is None, result.exception
    assert "distance, 0.05, does not hold: 24 of 24 honest checks are above it" in result.output


def test_a_second_backend_answers_and_the_own_one_scores(tmp_path: Path) -> None:
    own, other = ScriptedModel("llamacpp"), ScriptedModel("llamacpp", "other kernels", noise=0.1)
    with serve(own) as url, serve(other) as against:
        result = run(tmp_path, url, "--against", against, "--out", str(tmp_path / "limits.json"))
    assert result.exception is None, result.exception
    assert json.loads((tmp_path / "limits.json").read_text())["distance"]["threshold"] > 0.005
    assert set(other.paths) == {"/v1/chat/completions"} and "/v1/chat/completions" not in own.paths


def test_llamacpp_against_itself_takes_a_second_server(tmp_path: Path) -> None:
    with serve(ScriptedModel("llamacpp")) as url:
        assert "name a second server (--against)" in get_error(run(tmp_path, url))


def test_a_backend_without_a_way_of_scoring_is_one_line(tmp_path: Path) -> None:
    with serve(ScriptedModel("plain")) as url:
        assert "cannot score given tokens" in get_error(run(tmp_path, url))


def test_a_second_backend_without_log_probabilities_is_one_line(tmp_path: Path) -> None:
    with serve(ScriptedModel("vllm")) as url, serve(ScriptedModel("plain")) as against:
        error = get_error(run(tmp_path, url, "--against", against))
    assert "0 of 24 answers could be checked" in error and "no log-probabilities" in error


def test_sglang_names_no_tokens_of_its_own_answers(tmp_path: Path) -> None:
    with serve(ScriptedModel("sglang")) as url:
        assert "by their text, not by their ids" in get_error(run(tmp_path, url))


def test_a_backend_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "START_TIMEOUT_S", 0.5)
    assert "the own backend does not answer" in get_error(run(tmp_path, "http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against-key-env", "KEY"], "--against names"),
        (["--against", "http://127.0.0.1:1", "--against-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["--against", "ftp://host"], "--against: not the base URL"),
    ],
)
def test_options_that_make_no_sense_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in get_error(run(tmp_path, "http://127.0.0.1:1", *arguments))


def test_a_model_that_is_not_served_is_one_line(tmp_path: Path) -> None:
    with serve(ScriptedModel("vllm")) as url, serve(ScriptedModel("vllm")) as against:
        assert "names no backend" in get_error(run(tmp_path, None))
        result = run(tmp_path, url, "--against", against, "--model", "other")
    assert "no model 'other'" in get_error(result)
