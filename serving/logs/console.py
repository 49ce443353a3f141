"""Logs on stderr and in a file: one line per event, as text for people or as JSON for machines.

Events of this program and of its libraries, from structlog or from the standard library's ``logging``, all pass one
handler. Tracebacks show no local variables, because those may hold prompts or keys. What does not print is escaped,
because other nodes write some of the values. Of one event there are at most so many lines a minute
(:mod:`serving.logs.rate`), because other nodes cause some of the events.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog
import trio
from structlog.typing import ExcInfo, Processor

from chain.printable import escape_unprintable
from p2p.network import NetworkError
from serving.backends.backend import BackendError
from serving.http.responder import ClientGone
from serving.logs.events import Level
from serving.logs.file import LogFile
from serving.logs.rate import LogRate
from serving.logs.recent import RECENT, RecentEvents

Format = Literal["text", "json"]

log = structlog.get_logger(__name__)

LIBRARY_LEVELS = {"libp2p": logging.ERROR, "httpx": logging.WARNING, "": logging.WARNING}
"""Least level of a library's events, by the first part of the logger's name; ``""`` stands for any other library."""
OWN_LOGGERS = ("chain", "consensus", "p2p", "serving", "node")
"""First parts of the names of this program's loggers."""
HANDLER = "wwwserve"
"""Name of the handler, by which it is found when logs are configured again."""

EXPECTED_ERRORS = (
    NetworkError,
    BackendError,
    ClientGone,
    ConnectionError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
"""Errors that happen every day between machines. They are logged in one line, without a traceback."""


def configure_logs(level: Level = "info", format: Format = "text", file: LogFile | None = None) -> None:
    """Send the logs of this process to stderr, from ``level`` on, and to ``file``. May be called again.

    The latest are kept in :data:`serving.logs.recent.RECENT`.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    common: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        shorten_expected_errors,
    ]
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_make_formatter(common, format))
    kept = _KeepingHandler(RECENT, file)
    kept.setFormatter(_make_formatter(common, "json"))
    gate = _Gate()
    _install(_Handler([stderr, kept], gate), threshold)
    structlog.configure(
        processors=[
            gate,
            structlog.contextvars.merge_contextvars,
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _make_formatter(common: list[Processor], format: Format) -> logging.Formatter:
    """Writes events as ``format``, after ``common`` for those that did not come through structlog."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=common,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_get_renderers(format)],
    )


def _install(handler: logging.Handler, threshold: int) -> None:
    """Make ``handler`` the only one of this kind of the whole process."""
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.name == HANDLER]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(threshold)
    # libp2p cuts its loggers off the root when it is imported. Their events reach the handler of last resort.
    logging.lastResort = handler
    logging.captureWarnings(True)


def shorten_expected_errors(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the traceback of an expected error (or of a group of nothing else) by its text, as ``error``."""
    error = _get_exception(event.get("exc_info"))
    if error is not None and all(isinstance(leaf, EXPECTED_ERRORS) for leaf in _get_leaves(error)):
        del event["exc_info"]
        event.setdefault("error", "; ".join(str(leaf) or type(leaf).__name__ for leaf in _get_leaves(error)))
    return event


def escape_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what does not print in every text of an event. A traceback keeps its line breaks."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = escape_unprintable(value, keep="\n" if name == "exception" else "")
    return event  # other values are shown by repr(), which escapes by itself


class _Gate:
    """Leaves out events above their rate, and says how many. As a processor it does so before they cost anything."""

    def __init__(self) -> None:
        self._rate = LogRate()

    def __call__(self, _: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if level != "debug" and not self.admit(str(event["event"]), time.time()):
            raise structlog.DropEvent
        return event

    def admit(self, event: str, now: float) -> bool:
        """Whether to write a line of ``event``."""
        for other, count in self._rate.take_left_out(now):
            log.warning("lines left out", of=other, count=count)
        return self._rate.admit(event, now)


class _Handler(logging.Handler):
    """Gives records to ``sinks``, those of the standard library's ``logging`` only if the gate admits them."""

    def __init__(self, sinks: Sequence[logging.Handler], gate: _Gate) -> None:
        super().__init__()
        self.name = HANDLER
        self.addFilter(_LibraryFilter())
        self._sinks = sinks
        self._gate = gate

    def emit(self, record: logging.LogRecord) -> None:
        is_admitted = hasattr(record, "_logger")  # by structlog: it came through the gate already
        # What the owner looks for in detail is not left out.
        if is_admitted or record.levelno <= logging.DEBUG or self._gate.admit(_get_event(record), record.created):
            for sink in self._sinks:
                sink.handle(record)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        super().close()


class _KeepingHandler(logging.Handler):
    """Keeps the latest events in memory, and writes all to the log file, if there is one."""

    def __init__(self, recent: RecentEvents, file: LogFile | None) -> None:
        super().__init__()
        self._recent = recent
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._recent.add(text)
        if self._file is not None:
            with suppress(OSError):  # of a full disk, doctor tells; stderr has the event
                self._file.write(text)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


def _get_event(record: logging.LogRecord) -> str:
    """What lines are counted by: the event or unformatted message; for a library its logger, as its texts may vary."""
    if record.name.partition(".")[0] not in OWN_LOGGERS:
        return record.name
    return str(record.msg)


class _LibraryFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        family = record.name.partition(".")[0]
        return family in OWN_LOGGERS or record.levelno >= LIBRARY_LEVELS.get(family, LIBRARY_LEVELS[""])


def _get_renderers(format: Format) -> list[Processor]:
    if format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump)]
    return [
        escape_values,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback),
    ]


def _dump(event: object, **options: Any) -> str:
    """JSON in which what does not print is an escape of JSON, so that machines read the value as it was."""
    return escape_unprintable(json.dumps(event, ensure_ascii=False, **options))


def _write_traceback(stream: TextIO, error: ExcInfo) -> None:
    # structlog's default is rich's traceback, which shows local variables.
    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write(escape_unprintable(text.getvalue(), keep="\n"))


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
