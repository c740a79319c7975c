"""What is logged: escaped, without secrets, at a bounded rate; and nothing raises."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import wsflow.log
from wsflow.log import (
    MAX_LENGTH,
    JSONFormatter,
    Log,
    TextFormatter,
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
    handler.setFormatter(TextFormatter("%(name)s: %(message)s"))
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


def test_lines_as_json(caplog: pytest.LogCaptureFixture) -> None:
    """A line is an object: with what it says by name, escaped, and without secrets."""
    log, form = Log("wsflow.tests"), JSONFormatter()
    caplog.set_level(logging.DEBUG)
    log.info("%s of %s", "a\x1b[0m", 2, fields={"path": "/x?token=secret", "count": 2, "no": None})
    log.info("odd", fields={"seconds": float("inf"), "path": "/"})
    log.debug("bare")
    log.often(logging.WARNING, "%s", "later", fields={"what": Exception("\u202e")})
    try:
        raise ValueError("/x?secret")
    except ValueError as exc:
        log.error("failed", exc_info=exc)
    logging.getLogger("other").info("%s\n", "wss://h/?secret")
    one, odd, two, three, four, five = [json.loads(form.format(each)) for each in caplog.records]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one.pop("time"))
    assert one == {
        "level": "INFO",
        "logger": "wsflow.tests",
        "message": "a\\x1b[0m of 2",
        "process": os.getpid(),
        "path": "/x?…",
        "count": 2,
        "no": None,
    }
    assert odd["seconds"] == "inf"
    assert two["message"] == "bare"
    assert three["what"] == "\\u202e"
    assert four["exception"].startswith("Traceback (most recent call last):\n")
    assert four["exception"].endswith("ValueError: /x?…")
    assert five["message"] == "wss://h/?…\n"


def test_what_a_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\n  two\x1b[2J ws://h/?a=b")
    stderr.drain()
    assert capsys.readouterr().err == "one\n  two\\x1b[2J ws://h/?a=b\n"
    assert escaped_lines("\u202e\t") == "\\u202e\t"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tracebacks_that_begin_at_the_own_frame(anyio_backend: str) -> None:
    """Also those of what an exception was caused by, and of groups; foreign ones stay whole."""

    def own() -> None:
        try:
            raise KeyError("first")
        except KeyError as exc:
            raise ValueError("second") from exc

    failure = await caught(own)
    assert begins(failure) == ["own", "own"]

    def group() -> None:
        raise ExceptionGroup("two", [failure, failure])

    assert begins(await caught(group)) == ["group", "own", "own", "own"]  # the cause once
    assert begins(await caught(int, "x"))[0] not in ("caught", "int")
    own_frames = TextFormatter("%(message)s", own_frames=True)
    assert own_frames.formatException((None, None, None)) == "NoneType: None"


def test_a_long_chain_of_causes() -> None:
    """As long as what an app has tried again and again."""
    failure: Exception | None = None
    for number in range(3000):
        try:
            raise KeyError(number) from failure
        except KeyError as exc:
            failure = exc
    assert isinstance(failure, KeyError)
    assert len(begins(failure)) == 3000


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_package_whose_name_begins_as_that_of_wsflow(anyio_backend: str) -> None:
    """Its frames are the app's."""
    folder = Path(wsflow.log.__file__).parent

    def own() -> None:
        raise KeyError

    def inner() -> None:
        own()

    own.__code__ = own.__code__.replace(co_filename=f"{folder}_app/mine.py")
    inner.__code__ = inner.__code__.replace(co_filename=f"{folder}/mine.py")
    assert begins(await caught(inner)) == ["own"]


async def caught(function: Any, *values: Any) -> Exception:
    """What a function raises that others have called."""
    with pytest.raises(Exception) as raised:
        await anyio.to_thread.run_sync(function, *values)
    assert raised.value.__traceback__ is not None
    return raised.value.with_traceback(raised.value.__traceback__.tb_next)


def begins(failure: Exception) -> list[str]:
    """The function that each traceback begins in."""
    own_frames = TextFormatter("%(message)s", own_frames=True)
    text = own_frames.formatException((type(failure), failure, None))
    return re.findall(r"Traceback.*\n.*File .* in (\w+)", text)
