"""The transport over ASGI events, with a server that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from wsflow.limits import WireLimits
from wsflow.messages.encoded import EncodedMessage
from wsflow.transports import asgi
from wsflow.transports.asgi import AsgiTransport
from wsflow.transports.base import Transport

CONNECT = {"type": "websocket.connect"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1000}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Receiver:
    """Writes down what the transport reports."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.takes = True

    def messages_received(self, messages: Any) -> int:
        if self.takes:
            self.reports += [data for data, _, _ in messages]
        return len(messages) * self.takes

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.reports.append((name, *args))


class Server:
    """An ASGI server: ``come`` is what it says, ``said`` what it is told."""

    def __init__(self, limits: WireLimits | None = None, *, responds: bool = True) -> None:
        self.come: asyncio.Queue[Any] = asyncio.Queue()
        self.said: list[Any] = []
        self.slow = asyncio.Event()
        self.slow.set()
        self.failing: dict[str, Exception] = {}
        self.receiver = Receiver()
        self.transport = AsgiTransport(
            limits or WireLimits(close_timeout=0.1), self.receive, self.send, responds=responds
        )
        self.come.put_nowait(CONNECT)
        self.call: asyncio.Task[None] | None = None

    async def receive(self) -> Any:
        event = await self.come.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def send(self, event: Any) -> None:
        await self.slow.wait()
        if (exc := self.failing.pop(event["type"], None)) is not None:
            raise exc
        self.said.append(event)

    async def begin(self, *, accepts: bool = True) -> None:
        def begin(transport: Transport) -> Any:
            if accepts:
                transport.accept(None)
            return self.receiver

        self.call = asyncio.create_task(self.transport.serve(begin))
        await anyio.wait_all_tasks_blocked()

    async def ended(self) -> None:
        assert self.call is not None
        with anyio.fail_after(5):
            await self.call

    @property
    def types(self) -> list[str]:
        return [each["type"].removeprefix("websocket.") for each in self.said]


async def test_a_conversation() -> None:
    server = Server()
    await server.begin()
    server.come.put_nowait({"type": "websocket.receive", "text": "é"})
    server.come.put_nowait({"type": "websocket.receive", "bytes": b"x", "text": None})
    server.come.put_nowait({"type": "websocket.ping"})  # of a later version
    await anyio.wait_all_tasks_blocked()
    server.transport.send(b"1", True, False)
    server.transport.share(EncodedMessage(b"2", False))
    server.transport.close(4000, "bye")
    server.transport.close(4001, "again")
    assert not server.transport.send(b"3", True, False)
    server.come.put_nowait({"type": "websocket.receive", "text": "late"})
    server.come.put_nowait(DISCONNECT)
    await server.ended()
    assert server.receiver.reports == ["é".encode(), b"x"]
    assert server.said == [
        {"type": "websocket.accept", "subprotocol": None, "headers": []},
        {"type": "websocket.send", "text": "1"},
        {"type": "websocket.send", "bytes": b"2"},
        {"type": "websocket.close", "code": 4000, "reason": "bye"},
    ]


@pytest.mark.parametrize("responds", [True, False])
async def test_a_refusal(responds: bool) -> None:
    server = Server(responds=responds)
    await server.begin(accepts=False)
    twice = [("Retry-After", "5"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    server.transport.reject(429, twice, b"later\n")
    server.transport.reject(500, (), b"")
    server.transport.accept(None)
    await server.ended()
    if not responds:
        assert server.said == [{"type": "websocket.close"}]
        return
    head, body = server.said
    assert (head["status"], sorted(head["headers"])) == (
        429,
        [
            (b"content-length", b"6"),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"retry-after", b"5"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        ],
    )
    assert body == {"type": "websocket.http.response.body", "body": b"later\n"}


@pytest.mark.parametrize(
    ("event", "report"),
    [
        ({"code": 4000, "reason": "bye"}, ("peer_closed", 4000, "bye")),
        ({"code": 1001}, ("peer_closed", 1001, "")),
        ({"code": None, "reason": None}, ("peer_closed", 1005, "")),
        ({}, ("peer_closed", 1005, "")),
        ({"code": 1006}, ("peer_vanished",)),
        ({"code": 1009, "reason": "too big"}, ("peer_failed", 1009, "too big")),
    ],
)
async def test_what_the_server_says_of_the_end(event: Any, report: Any) -> None:
    server = Server()
    await server.begin()
    server.come.put_nowait({"type": "websocket.disconnect", **event})
    await server.ended()
    assert server.receiver.reports == [report]
    assert server.types == ["accept"]


async def test_the_peer_leaves_before_it_is_answered() -> None:
    server = Server()
    await server.begin(accepts=False)
    server.come.put_nowait(DISCONNECT)
    await server.ended()
    assert server.receiver.reports == [("peer_vanished",)]
    server.transport.accept(None)
    assert server.said == []


async def test_the_peer_leaves_before_it_begins() -> None:
    server = Server()
    server.come = asyncio.Queue()
    server.come.put_nowait(DISCONNECT)
    await server.begin()
    await server.ended()
    assert server.receiver.reports == server.said == []


async def test_a_message_that_is_too_large() -> None:
    server = Server(WireLimits(max_message_size=3, close_timeout=5))
    await server.begin()
    for text in ("abc", "éé", "more"):
        server.come.put_nowait({"type": "websocket.receive", "text": text})
    await anyio.wait_all_tasks_blocked()
    server.come.put_nowait(DISCONNECT)
    await server.ended()
    assert server.receiver.reports == [b"abc", ("peer_failed", 1009, "message too big")]
    assert server.said[-1] == {
        "type": "websocket.close",
        "code": 1009,
        "reason": "message too big",
    }


async def test_reading_pauses() -> None:
    server = Server()
    await server.begin()
    server.receiver.takes = False
    server.transport.pause_reading()
    for text in "ab":  # one is waited for already
        server.come.put_nowait({"type": "websocket.receive", "text": text})
    await anyio.wait_all_tasks_blocked()
    assert (server.receiver.reports, server.come.qsize()) == ([], 1)
    server.receiver.takes = True
    server.transport.resume_reading()
    server.come.put_nowait(DISCONNECT)
    await server.ended()
    assert server.receiver.reports == [b"a", b"b", ("peer_closed", 1000, "")]


async def test_writing_pauses() -> None:
    server = Server(WireLimits(write_buffer=10, close_timeout=0.1))
    await server.begin()
    server.slow.clear()
    assert not server.transport.send(b"x" * 10, True, False)
    assert server.transport.send(b"x" * 5, True, False)
    assert server.transport.send(b"x" * 5, True, False)
    await anyio.wait_all_tasks_blocked()
    assert server.receiver.reports == [("pause_writing",)]
    server.slow.set()
    await anyio.wait_all_tasks_blocked()
    assert server.receiver.reports == [("pause_writing",), ("resume_writing",)]
    server.slow.clear()
    server.transport.send(b"x", True, False)
    server.transport.close(1000, "")  # which cannot be said, as the peer does not read
    await server.ended()
    assert server.types == ["accept", "send", "send", "send"]
    assert len(server.receiver.reports) == 2


@pytest.mark.parametrize("where", ["send", "receive"])
async def test_a_server_that_fails(where: str) -> None:
    server = Server()
    await server.begin()
    if where == "send":
        server.failing["websocket.send"] = OSError("the peer is gone")
        server.transport.send(b"x", True, False)
    else:
        server.come.put_nowait(RuntimeError("no more"))
    await server.ended()
    assert server.receiver.reports == [("peer_vanished",)]


async def test_a_close_code_that_the_server_does_not_send() -> None:
    server = Server()
    await server.begin()
    server.failing["websocket.close"] = Exception("1000, or from 3000 to 4999")
    server.transport.close(1011, "")
    await anyio.wait_all_tasks_blocked()
    server.come.put_nowait(DISCONNECT)
    await server.ended()
    assert server.said[-1] == {"type": "websocket.close", "code": 4011, "reason": ""}


async def test_a_close_that_cannot_be_sent_at_all() -> None:
    server = Server()
    await server.begin()
    server.slow.clear()
    server.failing["websocket.close"] = OSError("gone")
    server.transport.close(1011, "")
    await anyio.wait_all_tasks_blocked()
    server.transport._left = True  # the server has said so meanwhile
    server.slow.set()
    await server.ended()
    assert server.types == ["accept"]


async def test_a_refusal_that_cannot_be_sent() -> None:
    server = Server(responds=False)
    server.failing["websocket.close"] = OSError("gone")
    await server.begin(accepts=False)
    server.transport.reject(404, (), b"")
    await server.ended()
    assert server.said == []


async def test_a_server_that_never_says_that_it_is_closed() -> None:
    server = Server()
    await server.begin()
    server.transport.close(1000, "")
    await server.ended()
    assert server.types == ["accept", "close"]


@pytest.mark.parametrize("more", [[], [DISCONNECT], [RuntimeError("stopped")]])
async def test_a_server_that_stops(more: list[Any]) -> None:
    """It may wait for what was not read."""
    server = Server()
    await server.begin()
    server.transport.pause_reading()
    server.come.put_nowait({"type": "websocket.receive", "text": "one"})
    server.receiver.takes = False
    await anyio.wait_all_tasks_blocked()
    for each in [{"type": "websocket.receive", "text": "more"}] * 3 + more:
        server.come.put_nowait(each)
    assert server.call is not None
    server.call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.ended()
    assert server.come.empty()
    assert server.receiver.reports == [("peer_vanished",)]


async def test_a_peer_that_reads_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "STALLED", 0.05)
    server = Server()
    await server.begin()
    for _ in range(3):  # what is taken in time is no stall
        server.transport.send(b"x", True, False)
        await anyio.sleep(0.03)
    assert server.receiver.reports == []
    server.slow.clear()
    server.transport.send(b"x", True, False)
    await server.ended()
    assert server.receiver.reports == [("peer_vanished",)]
