"""What is logged: escaped, without secrets, at a bounded rate; and nothing raises."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import wsflow.log
from wsflow.log import (
    MAX_LENGTH,
    Log,
    _Formatter,
    _Handler,
    escaped_lines,
    say,
    shown,
    shown_uri,
)
from wsflow.output import stderr


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
        ("(wss://h/x#secret)", "(wss://h/x#…"),
        ("ws://me:sec/ret@h", "ws://…"),
        ("'ws://me:secret@h:80', refused", "'ws://…@h:80', refused"),
        ("ws://me:secret" + "t" * 2000 + "@h", "ws://me:…"),
    ],
)  # fmt: skip
def test_how_values_are_shown(value: object, text: str) -> None:
    assert shown(value) == text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("ws://h", "ws://h"),
        ("WSS://h:80/a/b", "WSS://h:80/a/b"),
        ("ws://[::1]:80/", "ws://[::1]:80/"),
        ("ws://user:secret@[::1]:80/", "ws://…@[::1]:80/"),
        ("ws://user:secret@h:80/a?secret#secret", "ws://…@h:80/a?…"),
        ("ws://secret@h/#secret", "ws://…@h/#…"),
        ("ws://user:sec@ret@h/", "ws://…@h/"),
        ("ws://user:se@cret@/", "ws://…@/"),
        ("ws://user:sec/ret@h/", "ws://…"),
        ("ws://user:sec?ret@h/", "ws://user:…?…"),
        ("ws://user:sec#ret@h/", "ws://user:…#…"),
        ("ws://user:sec ret@h/a?t=a secret", "ws://…@h/a?…"),
        ("ws://user:secret@h:port/", "ws://…"),
        ("ws://h:secret/", "ws://h:…"),
        ("ws://h:123456/", "ws://h:…"),
        ("ws://[secret/", "ws://…"),
        ("user:secret@h", "…@h"),
        ("user:secret", "…"),
        ("h/?t=secret", "h/?…"),
        ("h/?t=secret&next=ws://secret", "h/?…"),
        ("http:/user:secret@h", "http:/…"),
        ("http:/secret@h", "http:/…"),
        ("http:///secret@h", "http:///…"),
        ("ws://ws://user:secret@h", "ws://ws:/…"),
        ("redis:///0", "redis:///0"),
        ("redis://:sec,ret@h/0", "redis://:…,…@h/0"),
        ("nats://u:secret@h1:1,u:secret@h2,h3", "nats://…@h1:1,…@h2,h3"),
        ("nats://h1?a=secret,secret", "nats://h1?…"),
        ("ws://h/@name", "ws://h/@name"),
        ("ws://h/\x1b[31m", "ws://h/\\x1b[31m"),
        ("/chat?secret", "/chat?…"),
        ("/chat#secret", "/chat#…"),
        ("/chat%3Ft=secret", "/chat%3F…"),
        ("/chat%3ft=secret?t=secret", "/chat%3f…"),
        ("ws://h/chat%23secret", "ws://h/chat%23…"),
        ("?secret", "?…"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_how_uris_are_shown(uri: str, text: str) -> None:
    assert shown_uri(uri) == text
    assert not any(part in text for part in ("secret", "sec", "ret@", "cret"))
    assert shown(text) == text  # once is enough


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
    stderr.drain()
    assert capsys.readouterr().err.count("could not be logged: RuntimeError: no disk\n") == 3
    log.error("%s", Unprintable())
    stderr.drain()
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


def test_records_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    """Records and tracebacks of other loggers have no secrets and drive no terminal, either."""
    handler = _Handler()
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("other.tests")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning("GET %s", "https://me:secret@h/x?token=secret")
        logger.warning("\x1b]0;title\x07 \x9b31m\ttab\nline\r")
        try:
            raise ValueError("\x1b[2J /x?secret")
        except ValueError:
            logger.exception("failed")
        logger.warning("%d", "no number")
        handler.flush()
        logging.Handler.close(handler)
    finally:
        logger.removeHandler(handler)
    text = capsys.readouterr().err
    assert "other.tests: GET https://…@h/x?…\n" in text
    assert "\\x1b]0;title\\x07 \\x9b31m\ttab\nline\\r\n" in text
    assert "\nValueError: \\x1b[2J /x?…\n" in text
    assert "a line could not be logged: TypeError: %d format" in text
    assert not {"\x1b", "\x9b", "\x07", "\r"} & set(text)
    assert "secret" not in text.replace("?secret", "", 1)  # once, in the line of code


def test_what_a_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\n  two\x1b[2J ws://h/?a=b")
    stderr.drain()
    assert capsys.readouterr().err == "one\n  two\\x1b[2J ws://h/?a=b\n"
    assert escaped_lines("\u202e\t") == "\\u202e\t"
