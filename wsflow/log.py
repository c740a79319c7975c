"""The way into the log: nothing raises, no secret is shown, no control character gets through.

Everything that wsflow logs or says passes here. A line may show what a peer has sent. So characters
that are not printable are escaped, long values are cut, and URLs are shown without user, password,
query and fragment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import final

import anyio

from wsflow.output import stderr

MAX_LENGTH = 1000
"""The most characters of one value in a line."""

_NOT_PRINTABLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
)
_IN_LINE = re.compile(f"[\t\n{_NOT_PRINTABLE}]")
_IN_TEXT = re.compile(f"[{_NOT_PRINTABLE}]")

_QUERY = re.compile(r"\?|%3[fF]")
"""Where a query begins, also where that was escaped by mistake."""
_BEHIND = re.compile(r"[?#]|%3[fF]|%23")
"""Where a query or a fragment begins."""
_WORDS = re.compile(r"\S+")
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}://"
_URI = re.compile(rf"{_SCHEME}\S*")
_ODD_PORT = re.compile(rf"{_SCHEME}[^/@:\[\]]{{0,255}}:[^@]*")
_PLACE = re.compile(
    rf"(?P<scheme>{_SCHEME}|(?!{_SCHEME}))"
    r"(?P<user>(?:[^/]*@)?)"
    r"(?P<host>(?:\[[0-9A-Fa-f:.]*\]|[^/@:\[\]]{0,255})(?::\d{0,5}(?!\d))?[])}>'\",;:.]*)"
    r"(?P<path>(?:/.*)?)",
    re.DOTALL,
)


def shown(value: object) -> str:
    """A value as text for one line of a log: escaped, cut, and without secrets."""
    return escaped(without_secrets(_cut(str(value))))


def shown_uri(uri: str) -> str:
    """A URI, or what was meant to be one, or several of them between commas: for messages and logs.

    Nothing is left of user, password, query and fragment. What cannot be read as a URI may have
    them anywhere, and is not shown.
    """
    uri = _cut(uri)
    mark = found[0] if (found := _BEHIND.search(uri)) else ""
    places, _, rest = uri.partition(mark) if mark else (uri, "", "")
    text = ",".join(_without_user(each) for each in places.split(","))
    return escaped(f"{text}{mark}{'…' if rest else ''}")


def _without_user(uri: str) -> str:
    found = _PLACE.fullmatch(uri)
    if found is None:
        begin = re.match(rf"{_SCHEME}[^:]*:" if _ODD_PORT.fullmatch(uri) else _SCHEME, uri)
        return f"{begin[0] if begin else ''}…"
    scheme, user, host, path = found.groups()
    if "@" in path and (":" in path or not (scheme and host)):  # a slash too many, or too few
        path = "/…"
    return f"{scheme}{'…@' if user else ''}{host}{path}"


def without_secrets(text: str) -> str:
    """A text with each URL in it as ``shown_uri`` shows it, and paths without their query."""
    if "://" in text:
        text = _URI.sub(lambda found: shown_uri(found[0]), text)
    return _WORDS.sub(_without_query, text) if _QUERY.search(text) else text


def _without_query(word: re.Match[str]) -> str:
    """A word without the query of the path that it may be."""
    found = _QUERY.search(word[0])
    if found is None or "/" not in word[0][: found.start()]:
        return word[0]
    return f"{word[0][: found.end()]}{'…' if word[0][found.end() :] else ''}"


def escaped(text: str) -> str:
    """A text for one line: with its control characters escaped, those that change the writing
    direction, too."""
    return _IN_LINE.sub(_escape, text)


def escaped_lines(text: str) -> str:
    """The same for a text of several lines: line feeds and tabs stay."""
    return _IN_TEXT.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


_often: dict[str, tuple[float, int]] = {}
"""By text: when it may be logged again, and how many lines were left out since it was."""


Fields = Mapping[str, object]
"""What a line says, by name."""

FIELDS = "wsflow_fields"
"""The attribute of a record that has them."""


@final
class Log:
    """A logger.

    Its methods take a format and values, as those of ``logging`` do, and never raise: neither a
    logging handler nor the text of a value can harm the connection that a line is about. What a
    line says can have names, too: ``fields``, which a record has as ``wsflow_fields``.

    Args:
        name: the name of the logger in ``logging``.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def enabled(self, level: int) -> bool:
        """Whether lines of this level are logged."""
        return self._logger.isEnabledFor(level)

    def debug(self, text: str, *values: object, fields: Fields | None = None) -> None:
        self._write(logging.DEBUG, text, values, None, fields)

    def info(self, text: str, *values: object, fields: Fields | None = None) -> None:
        self._write(logging.INFO, text, values, None, fields)

    def warning(self, text: str, *values: object) -> None:
        self._write(logging.WARNING, text, values)

    def error(self, text: str, *values: object, exc_info: BaseException | None = None) -> None:
        self._write(logging.ERROR, text, values, exc_info)

    def log(
        self, level: int, text: str, *values: object, exc_info: BaseException | None = None
    ) -> None:
        self._write(level, text, values, exc_info)

    def often(
        self,
        level: int,
        text: str,
        *values: object,
        exc_info: BaseException | None = None,
        fields: Fields | None = None,
    ) -> None:
        """Log what may happen often: at most one line per second for each ``text``. The next line
        has the number of those that were left out."""
        now = time.monotonic()
        due, skipped = _often.get(text, (0.0, 0))
        if now < due:
            _often[text] = due, skipped + 1
            return
        _often[text] = now + 1.0, 0
        if skipped:
            text, values = f"{text} (and %d more)", (*values, skipped)
        self._write(level, text, values, exc_info, fields)

    def _write(
        self,
        level: int,
        text: str,
        values: tuple[object, ...],
        exc_info: BaseException | None = None,
        fields: Fields | None = None,
    ) -> None:
        try:
            if self._logger.isEnabledFor(level):
                extra = {FIELDS: {name: _field(each) for name, each in (fields or {}).items()}}
                safe = [_safe(each) for each in values]
                self._logger.log(level, text, *safe, exc_info=exc_info, stacklevel=3, extra=extra)
        except Exception as exc:  # of a logging handler, or of a value's __str__
            _not_logged(exc)


def _safe(value: object) -> object:
    return value if value is None or isinstance(value, int | float) else shown(value)


def _field(value: object) -> object:
    """The same for JSON, which has no infinite numbers."""
    safe = _safe(value)
    return safe if not isinstance(safe, float) or math.isfinite(safe) else str(safe)


def _not_logged(exc: Exception) -> None:
    """Say it on standard error, as ``logging`` does for a handler whose stream fails."""
    with contextlib.suppress(Exception):
        say(f"wsflow: a line could not be logged: {type(exc).__name__}: {exc}")


# -- in a command


def say(text: str) -> None:
    """Print what a command says of itself on standard error, without waiting for who reads it.

    Control characters are escaped, but for line feeds and tabs. URLs are not shortened, since a
    command names those to connect to: use ``shown`` or ``shown_uri`` for others.
    """
    stderr.put(escaped_lines(text))


def log_to_stderr(level: str, formatter: logging.Formatter) -> None:
    """Have ``logging`` write to standard error, if it has no handler yet.

    Args:
        level: the lowest level.
        formatter: makes the lines.
    """
    handler = _Handler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])


@final
class _Handler(logging.Handler):
    """Writes each record to standard error, without waiting."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stderr.put(self.format(record))
        except Exception as exc:  # of a record whose values do not fit its format
            _not_logged(exc)

    def flush(self) -> None:
        """Wait for what is still to be written; at the end of the process."""
        stderr.drain()


class TextFormatter(logging.Formatter):
    """Makes lines of text, without control characters and secrets, in records of other loggers and
    tracebacks, either.

    Args:
        format: of each line.
        own_frames: whether tracebacks begin at the first frame that is neither of wsflow nor of
            what runs it.
    """

    def __init__(self, format: str, *, own_frames: bool = False) -> None:
        super().__init__(format)
        self._own_frames = own_frames

    def format(self, record: logging.LogRecord) -> str:
        return escaped_lines(without_secrets(super().format(record)))

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        if ei[1] is None or not self._own_frames:
            return super().formatException(ei)
        shown = traceback.TracebackException.from_exception(ei[1])
        _begin_at_own(shown)
        return "".join(shown.format()).removesuffix("\n")


@final
class JSONFormatter(TextFormatter):
    """Makes a JSON object of each record, in one line: ``time`` (RFC 3339, in UTC), ``level``,
    ``logger``, ``message``, ``process``, the fields of the line, and a traceback as ``exception``.

    Args:
        own_frames: as that of ``TextFormatter``.
    """

    def __init__(self, *, own_frames: bool = False) -> None:
        super().__init__("%(message)s", own_frames=own_frames)

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": escaped_lines(without_secrets(record.getMessage())),
            "process": record.process,
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            said["exception"] = escaped_lines(without_secrets(trace))
        return json.dumps(said, default=shown)


_RUNNING = tuple(
    f"{each}{os.sep}" for each in (Path(__file__).parent, anyio.__path__[0], asyncio.__path__[0])
)


def _begin_at_own(failure: traceback.TracebackException) -> None:
    """For it and all that it was caused by: there may be thousands."""
    left = [failure]
    while left:
        shown = left.pop()
        files = [each.filename for each in shown.stack]
        own = [at for at, file in enumerate(files) if not file.startswith(_RUNNING)]
        if own:
            del shown.stack[: own[0]]
        others = (shown.__cause__, shown.__context__, *(shown.exceptions or ()))
        left += [each for each in others if each is not None]
