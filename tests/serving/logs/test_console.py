"""Logs: one handler for everything, quiet libraries, and no tracebacks for what happens every day."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from p2p.network import NetworkError
from serving.backends.backend import BackendError
from serving.logs.console import configure_logs
from serving.logs.rate import MAX_LINES, WINDOW_S, LogRate
from tests.support.commands import keep_logs

Configure = Callable[..., Callable[[], str]]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Configures logging, and gives a function that reads what was written to stderr; afterwards all is as before."""
    # Once a host was made in this process the library is silent altogether (p2p.host.workarounds).
    library = logging.getLogger("libp2p")
    library_level, library_propagates = library.level, library.propagate
    library.setLevel(logging.NOTSET)
    library.propagate = True

    def start(level: Any = "info", format: Any = "text") -> Callable[[], str]:
        stderr = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stderr)
        configure_logs(level, format)
        return stderr.getvalue

    with keep_logs():
        yield start
    library.setLevel(library_level)
    library.propagate = library_propagates


def test_json_lines_from_both_ways_of_logging(configure: Configure) -> None:
    read = configure("info", "json")
    structlog.get_logger("serving.offload.originator").info("executor did not deliver", reason="a\nb", hold=b"\x01")
    logging.getLogger("p2p.discovery.service").warning("peer %s left", "x")
    first, second = [json.loads(line) for line in read().splitlines()]
    assert (first["event"], first["reason"], first["level"]) == ("executor did not deliver", "a\nb", "info")
    assert (first["logger"], second["logger"]) == ("serving.offload.originator", "p2p.discovery.service")
    assert (second["event"], second["level"]) == ("peer x left", "warning")
    assert first["timestamp"].endswith("Z")


def test_text_is_one_plain_line(configure: Configure) -> None:
    read = configure()
    structlog.get_logger("serving.x").info("policy changed", max_queue=5, reason="two\nlines")
    (line,) = read().splitlines()
    assert "policy changed" in line
    assert "max_queue=5" in line
    assert "\x1b" not in line


def test_level_and_quiet_libraries(configure: Configure) -> None:
    read = configure("warning")
    for name in ("serving.a", "p2p.b", "libp2p.c", "somelib"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "%s at %s", name, level)
    structlog.get_logger("serving.a").info("not this")
    said = {tuple(line.split("] ")[1].split()[:3:2]) for line in read().splitlines()}
    both = {(name, level) for name in ("serving.a", "p2p.b", "somelib") for level in ("30", "40")}
    assert said == both | {("libp2p.c", "40")}


def test_own_debug_without_that_of_libraries(configure: Configure) -> None:
    read = configure("debug")
    logging.getLogger("consensus.engine").debug("mine")
    structlog.get_logger("serving.a").debug("mine too")
    logging.getLogger("somelib").info("not mine")
    assert [line.split("] ")[1].split("  ")[0] for line in read().splitlines()] == ["mine", "mine too"]


def test_a_logger_cut_off_from_the_root_is_heard(configure: Configure) -> None:
    read = configure("info", "json")
    logger = logging.getLogger("libp2p.cut")
    logger.propagate = False
    try:
        logger.warning("chatter")
        logger.error("trouble")
    finally:
        logger.propagate = True
    assert [json.loads(line)["event"] for line in read().splitlines()] == ["trouble"]


def raise_and_log(error: BaseException, log: Callable[[], None]) -> None:
    secret_prompt = "local variable"
    try:
        raise error
    except BaseException:
        assert secret_prompt
        log()


@pytest.mark.parametrize("format", ["json", "text"])
def test_expected_errors_have_no_traceback(configure: Configure, format: str) -> None:
    read = configure("info", format)
    group = ExceptionGroup("g", [NetworkError("gone"), ExceptionGroup("h", [BackendError("broke")])])
    raise_and_log(group, lambda: structlog.get_logger("serving.a").exception("failed"))
    raise_and_log(NetworkError("no route"), lambda: logging.getLogger("p2p.a").exception("failed too"))
    text = read()
    assert len(text.splitlines()) == 2
    assert "gone; broke" in text
    assert "no route" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("format", ["json", "text"])
def test_unexpected_errors_have_one_without_local_variables(configure: Configure, format: str) -> None:
    read = configure("info", format)
    group = ExceptionGroup("g", [NetworkError("gone"), ValueError("a bug")])
    raise_and_log(group, lambda: structlog.get_logger("serving.a").exception("failed"))
    raise_and_log(ValueError("another"), lambda: logging.getLogger("p2p.a").exception("failed too"))
    text = read()
    assert text.count("Traceback") == 2
    assert "a bug" in text
    assert "local variable" not in text


def test_configured_twice_says_things_once(configure: Configure) -> None:
    configure("info", "text")
    read = configure("info", "json")
    logging.getLogger("serving.a").info("once")
    assert [json.loads(line)["event"] for line in read().splitlines()] == ["once"]


EVIL = "\x1b[2J\x1b[31mDISK-FAILURE\x1b[0m\x1b]0;owned\x07\x9b1m\u202egnp.exe\x7f"


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_control_character_of_a_peer_reaches_the_terminal(configure: Configure, format: str) -> None:
    read = configure("info", format)
    structlog.get_logger("serving.a").info("did not deliver", reason=EVIL, listed=[EVIL], key=EVIL.encode())
    structlog.get_logger("serving.a").error("failed", exception=f"Traceback\n  {EVIL}")
    logging.getLogger("p2p.a").warning("bad frame: %s\nroot: all is well", EVIL)
    raise_and_log(ValueError(EVIL), lambda: logging.getLogger("p2p.a").exception("failed %s", EVIL))
    raise_and_log(NetworkError(EVIL), lambda: logging.getLogger("p2p.a").exception("failed"))
    text = read()
    assert text.count("DISK-FAILURE") == 8
    assert all(character.isprintable() or character == "\n" for character in text)
    assert not any(line.startswith("root") for line in text.splitlines()), "no line of its own"


def test_json_keeps_the_value(configure: Configure) -> None:
    read = configure("info", "json")
    structlog.get_logger("serving.a").info("did not deliver", reason=EVIL)
    assert json.loads(read())["reason"] == EVIL


def test_lines_of_one_event_are_limited_and_those_left_out_are_counted(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = configure("info", "json")
    now = 1_000_000.0
    monkeypatch.setattr("time.time_ns", lambda: int(now * 10**9))
    monkeypatch.setattr("time.time", lambda: now)
    logger = logging.getLogger("p2p.discovery.sync_handler")
    for number in range(2_000):
        now = 1_000_000 + number * 0.02
        logger.info("announcement of %s refused", number)
        structlog.get_logger("serving.a").warning("no valid receipt", payer=number)
        logging.getLogger("libp2p.host").error(f"stream {number} failed")
    structlog.get_logger("serving.a").info("something else")
    lines = [json.loads(line) for line in read().splitlines()]
    assert len(lines) == 3 * MAX_LINES + 1
    now += WINDOW_S
    structlog.get_logger("serving.a").info("something else")
    lines = [json.loads(line) for line in read().splitlines()][len(lines) :]
    assert [(line["event"], line.get("of"), line.get("count")) for line in lines] == [
        ("lines left out", "announcement of %s refused", 2_000 - MAX_LINES),
        ("lines left out", "no valid receipt", 2_000 - MAX_LINES),
        ("lines left out", "libp2p.host", 2_000 - MAX_LINES),
        ("something else", None, None),
    ]


def test_a_flood_does_not_hide_other_lines_nor_debugging(configure: Configure) -> None:
    read = configure("debug")
    for _ in range(1_000):
        structlog.get_logger("serving.a").warning("no valid receipt")
        structlog.get_logger("serving.a").debug("detail")
    structlog.get_logger("serving.a").error("disk failed")
    text = read()
    assert text.count("no valid receipt") == MAX_LINES
    assert text.count("detail") == 1_000
    assert text.count("disk failed") == 1


def test_a_clock_set_back_ends_the_windows() -> None:
    rate = LogRate()
    for _ in range(MAX_LINES + 5):
        rate.admit("event", 5_000.0)
    assert rate.take_left_out(5_000.0 + WINDOW_S - 1) == []
    assert rate.take_left_out(4_000.0) == [("event", 5)]
    assert rate.admit("event", 4_000.0)
