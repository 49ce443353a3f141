"""The reference is what the code says, and the code says all of it: variables, routes; the man pages can be read."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from node import Node
from serving.admin.openapi import ROUTES, make_admin_document
from serving.cli.man_pages import write_pages
from serving.config.environment import VARIABLES
from tests.serving.admin.client import expect, with_admin

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_as_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("write", ROOT / "docs" / "reference" / "write.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.find_differences() == [], "run: make reference"


def test_every_variable_that_is_read_is_listed_and_every_listed_one_is_read() -> None:
    files = [
        ROOT / "node.py",
        *(path for part in ("chain", "consensus", "p2p", "serving") for path in (ROOT / part).rglob("*.py")),
    ]
    sources = [path.read_text() for path in files if path.name != "environment.py" or path.parent.name != "config"]
    listed = {name for names in VARIABLES for name in names.split(", ")}
    reading = [source for source in sources if "environ" in source]
    own = {name for source in sources for name in re.findall(r'"(WWWSERVE_[A-Z_]+)"', source)}
    direct = {name for source in reading for name in re.findall(r'environ(?:ment)?(?:\.get\(|\[)"([A-Z_]+)"', source)}
    assert own | direct <= listed
    assert {name for name in listed if not any(f'"{name}"' in source for source in reading)} == set()


@with_admin
async def test_the_document_of_the_admin_listener_has_all_of_its_routes(node: Node, client: httpx.AsyncClient) -> None:
    document = await expect(client, "GET", "/openapi.json")
    assert document == make_admin_document()
    for (method, path), described in ROUTES.items():
        if method == "GET" and "{" not in path:
            assert (await client.get(path)).status_code == 200, path
        answer = await client.request("DELETE", path.replace("{epoch}", "1"))
        assert answer.status_code == 405, (path, "is no route")
        assert described.summary.endswith(".")
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids)) == len(ROUTES)


def test_man_pages_and_completions_are_written_for_every_command(tmp_path: Path) -> None:
    written = {path.name for path in write_pages(tmp_path)}
    assert {"wwwserve.1", "wwwserve-status.1", "wwwserve-wallet-bond.1", "_wwwserve", "wwwserve.fish"} <= written
    page = (tmp_path / "man" / "man1" / "wwwserve-logs.1").read_text()
    assert page.startswith(".TH WWWSERVE\\-LOGS 1") and ".SH EXIT STATUS" in page and "\\-\\-follow" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff (Debian: apt-get install groff-base)")
def test_groff_has_nothing_to_say_of_the_man_pages(tmp_path: Path) -> None:
    pages = [str(path) for path in write_pages(tmp_path) if path.suffix == ".1"]
    outcome = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", *pages], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0 and outcome.stderr == ""
