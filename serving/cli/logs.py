"""Logs: one line per event, as text for people or JSON for machines, from this program and its libraries alike.

Everything passes one handler of the standard library's ``logging``, whether it came through structlog or not. Nothing
that a log line may hold (prompts, keys) is shown by way of local variables: tracebacks are plain.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

import structlog
import trio
from structlog.typing import Processor

from p2p.network import NetworkError
from serving.backends.backend import BackendError
from serving.http.server import ClientGone

LIBRARIES = {"libp2p": logging.ERROR, "hypercorn": logging.WARNING, "httpx": logging.WARNING, "": logging.WARNING}
"""Least level of what libraries say, by the first part of a logger's name; ``""`` is any other library."""
OWN = ("chain", "consensus", "p2p", "serving", "node")
HANDLER = "wwwserve"
FILE_SIZE, FILES = 10 << 20, 5
"""Size in bytes at which a log file is put aside, and how many of those are kept."""

EXPECTED = (
    NetworkError,
    BackendError,
    ClientGone,
    ConnectionError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
"""What happens every day between machines: worth a line, not a traceback."""


def configure_logs(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["text", "json"] = "text",
    path: Path | None = None,
) -> None:
    """Send the logs of this process to stderr, or to the file ``path``, from ``level`` on. May be called again.

    Raises:
        OSError: the file cannot be written.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = RotatingFileHandler(path, maxBytes=FILE_SIZE, backupCount=FILES, encoding="utf-8")
    handler.addFilter(_LibraryFilter())
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        shorten_expected_errors,
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_get_renderers(format, path is None),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.name == HANDLER]:
        root.removeHandler(old)
        old.close()
    handler.name = HANDLER
    root.addHandler(handler)
    root.setLevel(threshold)
    # libp2p, whenever it is imported, cuts its loggers off the root: what they say then ends here.
    logging.lastResort = handler
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def shorten_expected_errors(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the traceback of an expected error (or of a group of nothing else) by its text, as ``error``."""
    error = _get_exception(event.get("exc_info"))
    if error is not None and all(isinstance(leaf, EXPECTED) for leaf in _get_leaves(error)):
        del event["exc_info"]
        event.setdefault("error", "; ".join(str(leaf) or type(leaf).__name__ for leaf in _get_leaves(error)))
    return event


class _LibraryFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        family = record.name.partition(".")[0]
        return family in OWN or record.levelno >= LIBRARIES.get(family, LIBRARIES[""])


def _get_renderers(format: str, is_stderr: bool) -> list[Processor]:
    if format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    # Not the default of structlog, which is rich's tracebacks with local variables.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=is_stderr and sys.stderr.isatty(), exception_formatter=plain)]


def _get_exception(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _get_leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _get_leaves(part)
    else:
        yield error
