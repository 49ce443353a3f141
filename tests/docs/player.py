"""A reader who does what a page of the documents says, from top to bottom, at a shell in a directory of their own.

Commands run in bash as they stand, with the program of this checkout. What the page leaves to the reader is done as a
reader would: a node that runs is left running, as in another terminal, and stopped before it is started again; a part
of ``config.yaml`` goes into that of the node that the page speaks of; and where a page begins again with a directory
that it has made before, as for a second machine, the former one is moved away.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from serving.config.edit import edit_config
from serving.config.file import load_config
from tests.docs.blocks import ROOT, SHELL, STAND_INS, Block, fill_in, is_program, read_blocks, split_words
from tests.docs.excuses import REFUSED, find_excuse
from tests.support.waiting import PATIENCE, wait_until

PROGRAM = """#!{python} -P
import sys
sys.path.insert(0, {root!r})
from {module} import {function}
{function}()
"""
PROGRAMS = {
    "wwwserve": ("serving.cli.main", "main"),
    "chain": ("serving.cli.main", "chain_main"),
    "vllm": ("tests.support.servers.fake_vllm", "main"),
    "llama-server": ("tests.support.servers.fake_vllm", "main"),
}
"""What the reader has installed: module and function."""
READY = "Stop with Ctrl-C"
"""What a node says when it has started."""
LOOK_S = "10"
"""Seconds after which a command that has no end gets its Ctrl-C, as an argument."""
FAILING_CURL = 'fail-with-body\nsilent\nshow-error\nnoproxy = "*"\n'
"""The reader's ``.curlrc``: a status that is none of success is a failure."""

Direction = Callable[["Player"], None]
"""What happens in the world at some place of a page, before a command or the first block below a heading."""


class Player:
    """The reader. ``stand_ins`` is what they have in place of the documents', beside the ports of their node."""

    def __init__(self, directory: Path, stand_ins: Mapping[str, str], models: Sequence[dict[str, Any]] = ()) -> None:
        """``models``: the servers that this reader's nodes serve, in place of the model that comes with a node."""
        self.directory = directory
        self._models = list(models)
        self.home = directory / "home"
        self.default = self.home / ".local" / "share" / "wwwserve"
        self.current = self.default
        """The data directory that was named last."""
        self.stand_ins = dict(stand_ins)
        self._nodes: dict[Path, subprocess.Popen[bytes]] = {}
        self._exports: list[str] = []
        programs = directory / ".venv" / "bin"  # where the README has it
        programs.mkdir(parents=True)
        self.home.mkdir()
        for name, (module, function) in PROGRAMS.items():
            text = PROGRAM.format(python=sys.executable, root=str(ROOT), module=module, function=function)
            (programs / name).write_text(text)
            (programs / name).chmod(0o700)
        (self.home / ".curlrc").write_text(FAILING_CURL)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WWWSERVE_", "XDG_", "SSH_"))}
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONDONTWRITEBYTECODE"):
            kept.pop(name, None)
        self.environment = {**kept, "HOME": str(self.home), "NO_PROXY": "*", "no_proxy": "*"}
        self.environment["PATH"] = f"{programs}:{kept['PATH']}"

    def play(self, page: str, directions: Mapping[str, Direction], headings: tuple[str, ...] = ()) -> None:
        """Do what a page says, or what it says below some of its headings.

        Raises:
            AssertionError: something did not work as the page says it does.
        """
        heading = ""
        for block in read_blocks(page):
            if headings and block.heading not in headings:
                continue
            if block.heading != heading:
                heading = block.heading
                directions.get(heading, _do_nothing)(self)
            for part in block.commands if block.language == SHELL else (block.text,):
                try:
                    directions.get(part, _do_nothing)(self)
                    self._play(block, part)
                except AssertionError as fault:
                    raise AssertionError(f"{block}: {part}\n{fault}") from None

    def _play(self, block: Block, part: str) -> None:
        match block.language:
            case "bash":
                if find_excuse(part) is None:
                    self.type(part, REFUSED.get(part, 0))
            case "yaml":
                self.configure(yaml.safe_load(self.fill_in(block.text)))
            case "json":
                self.post(json.loads(self.fill_in(block.text)))
            case "python" if is_program(block):
                assert self.run([sys.executable, "-c", self.fill_in(block.text)]).strip(), "it prints nothing"

    def fill_in(self, text: str) -> str:
        """``text`` with what this reader has in place of the stand-ins, and where the node listens."""
        listening = {}
        if (self.current / "config.yaml").exists():
            config = load_config(self.current / "config.yaml")
            listening = {"127.0.0.1:8000": f"127.0.0.1:{config.api.port}", "port: 8000": f"port: {config.api.port}"}
            listening["127.0.0.1:8001"] = f"127.0.0.1:{config.admin.port}"
        return fill_in(text, {**STAND_INS, **listening, **self.stand_ins})

    def type(self, command: str, code: int = 0) -> str:
        """Type a command of a document. Returns what it printed, as far as it has ended or the node is ready."""
        if command.startswith("export "):
            self._exports.append(command)
            return ""
        command = self.fill_in(command)
        program, *words = split_words(command)
        own = words[: words.index("--")] if "--" in words else words
        if program in ("wwwserve", "chain") and words[0] != "network":
            self.current = self.directory / own[own.index("-d") + 1] if "-d" in own else self.default
        elif program == "curl" and "DIR/" in command:
            self.current = self.directory / "DIR"
        if program == "wwwserve" and makes_directory(words):
            self._move_away(self.directory / words[2] if words[0] == "network" else self.current)
        if program == "wwwserve" and words[0] in ("run", "join", "share") and "--no-run" not in own:
            return self._start(command)
        output = self.run(["bash", "-c", "\n".join([*self._exports, command])], code, "--follow" in words)
        if words[0] == "init" and self._models:
            self.configure({"models": self._models})
        return output

    def run(self, command: list[str], code: int = 0, is_endless: bool = False) -> str:
        """Run a command to its end, or to the Ctrl-C that ends one that is endless, and return what it printed."""
        look = ["timeout", "--foreground", "--preserve-status", "--signal=INT", LOOK_S] if is_endless else []
        done = subprocess.run(
            [*look, *command],
            cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=6 * PATIENCE, check=False,  # it may run a model
        )  # fmt: skip
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def _start(self, command: str) -> str:
        """Start a node and wait until it says that it is ready. The one that ran in its directory is stopped before."""
        self.stop(self.current)
        output = self.directory / f"node{len(list(self.directory.glob('node*.out')))}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", "\n".join([*self._exports, f"exec {command}"])],
                cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        self._nodes[self.current] = process

        def is_ready() -> bool:
            assert process.poll() is None, output.read_text()
            return READY in output.read_text()

        wait_until(is_ready, "the node is not ready")
        return output.read_text()

    def stop(self, directory: Path) -> None:
        """Stop the node of a data directory in order, if one runs."""
        process = self._nodes.pop(directory, None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, "the node does not end in order"

    def stop_all(self) -> None:
        """End all nodes, whatever happened."""
        for process in self._nodes.values():
            process.kill()
            process.wait()

    def _move_away(self, directory: Path) -> None:
        """Have a directory be as on another machine: not there."""
        if directory.exists():
            self.stop(directory)
            directory.rename(directory.with_name(f"{directory.name}.{len(list(directory.parent.iterdir()))}"))

    def configure(self, part: dict[str, Any]) -> None:
        """Put a part into ``config.yaml`` of the node that was spoken of last."""
        path = self.current / "config.yaml"
        path.write_text(edit_config(path.read_text(), {(key,): value for key, value in part.items()}))

    def post(self, body: dict[str, Any]) -> None:
        """Send a request to the node that was spoken of last. AssertionError unless it is answered."""
        url = self.fill_in("http://127.0.0.1:8000/v1/chat/completions")
        response = httpx.post(url, json=body, timeout=PATIENCE, trust_env=False)
        assert response.is_success, response.text


def makes_directory(words: list[str]) -> bool:
    """Whether ``wwwserve`` with these words makes a directory that must not be there."""
    is_of_new_node = words[0] == "share" and "--genesis" in words
    return words[0] in ("init", "join", "restore") or words[:2] == ["network", "create"] or is_of_new_node


def _do_nothing(player: Player) -> None:
    """What happens at most places."""


@contextmanager
def read_alone(
    directory: Path, stand_ins: Mapping[str, str] | None = None, models: Sequence[dict[str, Any]] = ()
) -> Iterator[Player]:
    """A reader whose nodes end with the context."""
    player = Player(directory, stand_ins or {}, models)
    try:
        yield player
    finally:
        player.stop_all()
