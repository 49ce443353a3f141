"""A server that the node runs itself: started, started again, and ended with the node, whatever ends that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2p.runtime import RealRuntime
from serving.backends import process_guard
from serving.backends.supervised import SupervisedBackend
from serving.cli.setup.own_server import add_llama_cpp, add_vllm
from serving.cli.setup.ports import find_any_port
from serving.config.build import build_backend
from serving.config.fields import ConfigError
from serving.config.models import OpenAIModel
from serving.config.schema import NodeConfig
from tests.support.waiting import PATIENCE, eventually, wait_until

ROOT = Path(__file__).resolve().parents[3]
VLLM = [sys.executable, "-m", "tests.support.servers.fake_vllm"]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def read_starts(notes: Path) -> list[list[int]]:
    return [[int(pid) for pid in line.split()] for line in notes.read_text().splitlines()] if notes.exists() else []


def test_a_server_is_started_again_and_ends_with_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(ROOT)
    notes, port = tmp_path / "notes", find_any_port()
    command = [*VLLM, "serve", "tiny", "--host", "127.0.0.1", "--port", str(port), "--notes", str(notes)]

    async def main() -> None:
        backend = SupervisedBackend(f"http://127.0.0.1:{port}", command, api_key="only-through-the-node")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            assert not backend.is_alive()
            with trio.fail_after(PATIENCE):
                await backend.wait_alive()
            assert backend.models == ("tiny",) and backend.starts == 1
            os.kill(read_starts(notes)[0][0], signal.SIGKILL)
            await eventually(lambda: len(read_starts(notes)) == 2)
            await eventually(lambda: backend.is_alive() and backend.starts == 2)
            nursery.cancel_scope.cancel()
        started = [pid for pids in read_starts(notes) for pid in pids]
        assert len(started) == 4
        await eventually(lambda: not any(map(is_running, started)), message="its processes ended before run() did")

    trio.run(main)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_server_ends_with_its_guard_when_the_node_is_killed(tmp_path: Path, stubborn: bool) -> None:
    notes = tmp_path / "notes"
    trap = "trap '' TERM; " if stubborn else ""
    script = f"{trap}sleep 1000 & echo $$ $! > {notes}; while true; do wait; sleep 0.1; done"
    command = [sys.executable, "-I", process_guard.__file__, "0.3", "sh", "-c", script]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE)
    wait_until(lambda: bool(read_starts(notes)), "it has not started")
    (pids,) = read_starts(notes)
    guard.send_signal(signal.SIGINT)  # a Ctrl-C at the terminal is the node's to answer
    assert all(map(is_running, pids)) and guard.poll() is None
    assert guard.stdin is not None
    guard.stdin.close()  # as the system does when the node is killed
    assert guard.wait(PATIENCE) != 0
    wait_until(lambda: not any(map(is_running, pids)), "its processes have not ended")


def test_the_guard_passes_on_how_a_command_ended() -> None:
    def run(*command: str) -> int:
        guard = [sys.executable, "-I", process_guard.__file__, "1", *command]
        with subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            return process.wait(PATIENCE)

    assert run("sh", "-c", "exit 3") == 3
    assert run("sh", "-c", "kill -9 $$") == 128 + 9
    assert run("/nonexistent/vllm") == 127


def test_options_become_a_server_in_place_of_the_embedded_model(tmp_path: Path) -> None:
    weights = tmp_path / "m.gguf"
    weights.touch()
    for config, beginning in (
        (add_vllm(NodeConfig(), "Qwen/Qwen3-8B", ["--max-model-len", "8192"]), ("vllm", "serve", "Qwen/Qwen3-8B")),
        (add_llama_cpp(NodeConfig(), str(weights), []), ("llama-server", "--model", str(weights))),
        (add_llama_cpp(NodeConfig(), "owner/model-GGUF", []), ("llama-server", "--hf-repo", "owner/model-GGUF")),
    ):
        (entry,) = config.models
        assert isinstance(entry, OpenAIModel) and entry.command[:3] == beginning
        assert entry.base_url == f"http://127.0.0.1:{entry.command[entry.command.index('--port') + 1]}"
        assert entry.api_key is not None and entry.api_key not in entry.command
    both = add_vllm(config, "x", ["--max-model-len", "8192"])
    assert len(both.models) == 2
    assert isinstance(both.models[1], OpenAIModel) and both.models[1].command[-2:] == ("--max-model-len", "8192")


def test_a_quantization_that_vllm_is_told_is_declared() -> None:
    for arguments, declared in (
        (["--quantization", "fp8"], {"x": "fp8"}),
        (["-q=fp8", "--served-model-name", "y"], {"y": "fp8"}),
        (["--quantization"], {}),
        ([], {}),
    ):
        (entry,) = add_vllm(NodeConfig(), "x", arguments).models
        assert isinstance(entry, OpenAIModel) and entry.quantizations == declared


def test_a_command_that_is_not_installed_is_an_error_of_the_configuration() -> None:
    entry = OpenAIModel(kind="openai", base_url="http://127.0.0.1:1", command=("no-such-vllm", "serve"))
    with pytest.raises(ConfigError, match="no-such-vllm is not installed"):
        build_backend(entry, RealRuntime())
