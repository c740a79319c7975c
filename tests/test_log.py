"""What is logged: escaped, without secrets, at a bounded rate; and nothing raises."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import wsflow.log
from wsflow.log import MAX_LENGTH, Log, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain text", "plain text"),
        ("größer", "größer"),
        ("a\x1b[31mred\x1b[0m", "a\\x1b[31mred\\x1b[0m"),
        ("two\r\nlines", "two\\r\\nlines"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("right\u202eto left\u2066\u200f", "right\\u202eto left\\u2066\\u200f"),
        ("lone \ud800", "lone \\ud800"),
        ("/chat?token=secret", "/chat?…"),
        ("/chat?", "/chat?"),
        ("really?", "really?"),
        ("/chat?a='secret", "/chat?…"),
        ("ws://me:secret@host/chat?token=secret", "ws://…@host/chat?…"),
        ("cannot reach redis://:secret@host:6379/0: refused", "cannot reach redis://…@host:6379/0: "
         "refused"),
        ("nats://a:secret@h1,nats://b:secret@h2", "nats://…@h1,nats://…@h2"),
        ("ws://host/a@b", "ws://host/a@b"),
        ("x" * 2000, "x" * MAX_LENGTH + "…"),
        (ValueError("wss://h/?t=secret"), "wss://h/?…"),
    ],
)  # fmt: skip
def test_how_values_are_shown(value: object, text: str) -> None:
    assert shown(value) == text
    assert "secret" not in text


def test_showing_takes_linear_time() -> None:
    """Long values are cut before they are looked at."""
    for text in ("/" * 10**6, "?" * 10**6, "://" * 10**6, "@" * 10**6, "\x1b" * 10**6):
        assert len(shown(text)) < 7 * MAX_LENGTH


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("no disk")


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_nothing_raises(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    log = Log("wsflow.tests.raising")
    logger, handler = logging.getLogger("wsflow.tests.raising"), Raising()
    logger.addHandler(handler)
    try:
        log.error("a line")
        log.log(logging.ERROR, "a line")
        log.often(logging.ERROR, "a line")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("could not be logged: RuntimeError: no disk\n") == 3
    log.error("%s", Unprintable())
    assert "could not be logged: RuntimeError: no text" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr", None)
    log.error("%s", Unprintable())


def test_levels(caplog: pytest.LogCaptureFixture) -> None:
    log = Log("wsflow.tests.levels")
    caplog.set_level(logging.INFO, "wsflow.tests.levels")
    assert log.enabled(logging.INFO)
    assert not log.enabled(logging.DEBUG)
    log.debug("no")
    log.info("%s %d %.1f", "/a?b", 1, 2.0)
    log.warning("warned")
    log.error("failed", exc_info=ValueError("x"))
    log.log(logging.ERROR, "%s", "\n")
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("INFO", "/a?… 1 2.0"),
        ("WARNING", "warned"),
        ("ERROR", "failed"),
        ("ERROR", "\\n"),
    ]
    assert {each.funcName for each in caplog.records} == {"test_levels"}  # and not the wrapper


def test_what_may_happen_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(wsflow.log.time, "monotonic", lambda: now)
    log = Log("wsflow.tests.often")
    for number in range(1000):
        log.often(logging.WARNING, "refused %s", number)
        log.often(logging.WARNING, "another")
    now += 1.0
    log.often(logging.WARNING, "refused %s", "later")
    now += 1.0
    log.often(logging.WARNING, "refused %s", "last")
    assert caplog.messages == [
        "refused 0",
        "another",
        "refused later (and 999 more)",
        "refused last",
    ]
