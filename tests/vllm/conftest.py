"""Tests with a real vLLM, which takes gigabytes and minutes: only ``make test-vllm`` installs it and runs them.

``WWWSERVE_VLLM_URL`` may name the base URL of another vLLM without other users, on a GPU for example::

    python -m vllm.entrypoints.openai.api_server --model MODEL --port 8741 --max-num-seqs 2
    WWWSERVE_VLLM_URL=http://127.0.0.1:8741 python -m pytest tests/vllm

Its weights are not known, so that the tests that need the embedded model's are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.servers.vllm_server import is_installed, running_vllm

GIVEN = os.environ.get("WWWSERVE_VLLM_URL", "")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not GIVEN and not is_installed():
        pytest.exit("the tests with vLLM are skipped: it is not installed in .venv-vllm", returncode=0)


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vLLM."""
    if GIVEN:
        yield GIVEN
        return
    with running_vllm(tmp_path_factory.mktemp("vllm") / "vllm.log") as url:
        yield url


@pytest.fixture(scope="session")
def smollm2_url(vllm_url: str) -> str:
    """The base URL of a vLLM that has the embedded model's weights."""
    if GIVEN:
        pytest.skip("the vLLM that WWWSERVE_VLLM_URL names has other weights")
    return vllm_url
