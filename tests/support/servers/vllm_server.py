"""A real vLLM on the processor, with the weights of the embedded model in bfloat16.

``make test-vllm`` installs it in ``.venv-vllm``: it takes 2.4 GB there, 3.4 GB of memory, and a minute to start.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from serving.backends.embedded import MODEL, find_smollm2
from tests.support.ports import reserve_ports

PYTHON = Path(__file__).resolve().parents[3] / ".venv-vllm" / "bin" / "python"
"""vLLM's own Python."""
INSTALLED = PYTHON.parents[1] / ".installed"
"""What ``make test-vllm`` leaves once all is installed."""
START_TIMEOUT_S = 600.0
"""Seconds until it has to answer: it compiles some kernels first."""
STOP_TIMEOUT_S = 30.0
"""Seconds that it has to end by itself."""
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}
OPTIONS = ("--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "32", "--enforce-eager")


SLOW_S = 300.0
"""How long what takes a second on an idle machine may take on one that computes tokens."""


def has_content(line: str) -> bool:
    """Whether a line of a stream has some of the text."""
    return '"content":"' in line and '"content":""' not in line


def is_installed() -> bool:
    """Whether there is a vLLM to run."""
    return INSTALLED.exists()


@contextmanager
def running_vllm(log: Path) -> Iterator[str]:
    """A server that has no other users: its base URL. What it prints goes to ``log``.

    Raises:
        RuntimeError: it ends, or does not answer.
    """
    folder = get_weights()
    port = reserve_ports(1)[0]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    where = ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *where, *OPTIONS], env=os.environ | SETTINGS, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, f"{url}/health", log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def write_command(directory: Path) -> None:
    """Make a command ``vllm`` in ``directory`` that does what ``vllm serve MODEL …`` does.

    The one of the build for processors ends with an error before it reads its arguments; the server does not need it.
    """
    command = directory / "vllm"
    server = f"{PYTHON} -m vllm.entrypoints.openai.api_server"
    command.write_text(f'#!/bin/sh\nmodel=$2\nshift 2\nexec {server} --model "$model" "$@"\n')
    command.chmod(0o755)


def get_weights() -> Path:
    """The weights in the form that vLLM loads, made once."""
    source = find_smollm2()
    folder = Path(platformdirs.user_cache_dir("wwwserve")) / "model-variants" / f"{source.stem}-bf16"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("make_safetensors.py")
        subprocess.run([PYTHON, script, source, folder], check=True, env=os.environ | SETTINGS)
    return folder


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once the server answers."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM has ended with {process.returncode}: see {log}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # it does not listen yet
            time.sleep(0.5)
    raise RuntimeError(f"vLLM does not answer: see {log}")
