"""The way into the log: nothing raises, no secret is shown, no control character gets through.

Everything that wsflow logs passes here. A line may show what a peer has sent. So characters that
are not printable are escaped, long values are cut, and URLs are shown without user, password and
query.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from typing import final

MAX_LENGTH = 1000
"""The most characters of one value in a line."""

_WORDS = re.compile(r"\S+")
_USER = re.compile(r"(?<=://)[^/\s?#]*@")
_NOT_PRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)


def shown(value: object) -> str:
    """A value as text for one line of a log: escaped, cut, and without secrets."""
    text = str(value)
    if len(text) > MAX_LENGTH:
        text = f"{text[:MAX_LENGTH]}…"
    return escaped(_WORDS.sub(_without_query, _USER.sub("…@", text)))


def escaped(text: str) -> str:
    """A text with its control characters escaped, those that change the writing direction, too."""
    return _NOT_PRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def _without_query(word: re.Match[str]) -> str:
    """A word without the query of the URL or path that it may be."""
    path, mark, query = word[0].partition("?")
    return f"{path}{mark}…" if query and "/" in path else word[0]


_often: dict[str, tuple[float, int]] = {}
"""By text: when it may be logged again, and how many lines were left out since it was."""


@final
class Log:
    """A logger.

    Its methods take a format and values, as those of ``logging`` do, and never raise: neither a
    logging handler nor the text of a value can harm the connection that a line is about.

    Args:
        name: the name of the logger in ``logging``.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def enabled(self, level: int) -> bool:
        """Whether lines of this level are logged."""
        return self._logger.isEnabledFor(level)

    def debug(self, text: str, *values: object) -> None:
        self._write(logging.DEBUG, text, values)

    def info(self, text: str, *values: object) -> None:
        self._write(logging.INFO, text, values)

    def warning(self, text: str, *values: object) -> None:
        self._write(logging.WARNING, text, values)

    def error(self, text: str, *values: object, exc_info: BaseException | None = None) -> None:
        self._write(logging.ERROR, text, values, exc_info)

    def log(
        self, level: int, text: str, *values: object, exc_info: BaseException | None = None
    ) -> None:
        self._write(level, text, values, exc_info)

    def often(self, level: int, text: str, *values: object) -> None:
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
        self._write(level, text, values)

    def _write(
        self,
        level: int,
        text: str,
        values: tuple[object, ...],
        exc_info: BaseException | None = None,
    ) -> None:
        try:
            if self._logger.isEnabledFor(level):
                safe = [each if isinstance(each, int | float) else shown(each) for each in values]
                self._logger.log(level, text, *safe, exc_info=exc_info, stacklevel=3)
        except Exception as exc:  # of a logging handler, or of a value's __str__
            _not_logged(exc)


def _not_logged(exc: Exception) -> None:
    """Say it on standard error, as ``logging`` does for a handler whose stream fails."""
    with contextlib.suppress(Exception):
        print(f"wsflow: a line could not be logged: {type(exc).__name__}: {exc}", file=sys.stderr)
