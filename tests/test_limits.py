"""What makes no sense is refused when it is made."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

import wsflow
from wsflow import ClientLimits, Limits, Reconnect, Router, run_client
from wsflow.server import Settings, serve
from wsflow.testing import connect


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("kind", [Limits, ClientLimits, Settings])
@pytest.mark.parametrize(
    ("values", "error", "why"),
    [
        ({"inbox_messages": 1.5}, TypeError, "inbox_messages is 1.5, a float: use an int"),
        ({"inbox_messages": True}, TypeError, "inbox_messages is True, a bool: use an int"),
        ({"inbox_messages": "8"}, TypeError, "inbox_messages is '8', a str: use an int"),
        ({"inbox_messages": -1}, ValueError, "inbox_messages is -1: it must be more than 0"),
        ({"open_timeout": float("nan")}, ValueError, "open_timeout is nan"),
        (
            {"open_timeout": float("inf")},
            ValueError,
            "open_timeout is inf: it must be",
        ),
        ({"open_timeout": 0}, ValueError, "open_timeout is 0: no client could connect"),
        ({"open_timeout": None}, TypeError, "open_timeout is None, a NoneType: use"),
        ({"origin": "https://a.example"}, TypeError, "origin is a str: use a tuple of str"),
        ({"origin": ("https://a.example", 5)}, TypeError, "origin is a tuple: use a tuple of str"),
    ],
)
def test_settings_of_every_kind(kind: Any, values: Any, error: Any, why: str) -> None:
    with pytest.raises(error, match=why):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "error", "why"),
    [
        (
            {"compression": "gzip"},
            ValueError,
            "compression is 'gzip': use one of",
        ),
        ({"loop": "curio"}, ValueError, "loop is 'curio': use one of 'auto', 'asyncio'"),
        ({"uds": "/tmp/x"}, TypeError, "uds is a str: use a pathlib.Path or None"),
        ({"fd": "3"}, TypeError, "fd is a str: use an int or None"),
        ({"fd": -1}, ValueError, "fd is -1"),
        ({"port": "8000"}, TypeError, "port is '8000', a str: use an int"),
        ({"host": 5}, TypeError, "host is a int: use a str"),
        ({"access_log": 1}, TypeError, "access_log is a int: use True or False"),
        (
            {"ssl_keyfile_password": b"secret"},
            TypeError,
            "ssl_keyfile_password is a bytes",
        ),
    ],
)
def test_settings_of_a_server(values: Any, error: Any, why: str) -> None:
    with pytest.raises(error, match=why) as raised:
        Settings(**values)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "error", "why"),
    [
        ({"initial_delay": float("inf")}, ValueError, "initial_delay is inf"),
        ({"max_delay": float("nan")}, ValueError, "max_delay is nan"),
        ({"stable_after": True}, TypeError, "stable_after is True, a bool"),
        ({"initial_delay": "1"}, TypeError, "initial_delay is '1', a str: use"),
        ({"when": 5}, TypeError, "when is a int: use a function of an End"),
    ],
)
def test_how_a_client_reconnects(values: Any, error: Any, why: str) -> None:
    with pytest.raises(error, match=why):
        Reconnect(**values)


@pytest.mark.parametrize("kind", [Limits, ClientLimits, Settings])
def test_help_has_each_option_with_its_default(kind: Any) -> None:
    told = " ".join((inspect.getdoc(kind) or "").split())
    for each in fields(kind):
        assert f" {each.name}: {each.metadata['help']} {each.default!r} by default." in told
    assert ("in a program: use wsflow run --workers." in told) == (kind is Settings)


async def test_arguments_of_another_class() -> None:
    app: Any = Router("/")
    with pytest.raises(TypeError, match="the app is a str: pass a Router"):
        async with serve("module:app"):  # type: ignore[arg-type]
            pass
    with pytest.raises(TypeError, match="settings is a int: pass a Settings"):
        async with serve(app, 5):  # type: ignore[arg-type]
            pass
    for limits in (5, Limits()):
        with pytest.raises(TypeError, match="pass a ClientLimits"):
            wsflow.connect("ws://127.0.0.1:1/", limits=limits)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="pass a ClientLimits"):
            await run_client(app, "ws://127.0.0.1:1/", limits=limits)  # type: ignore[arg-type]

    @app.consumer
    async def take(message: str) -> None: ...

    with pytest.raises(TypeError, match="limits is a int: pass a Limits"):
        async with connect(app, limits=5):  # type: ignore[arg-type]
            pass
