"""The socket transport, at the level of bytes, on both event loops."""

from __future__ import annotations

import re
import socket
import time
import zlib
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct
from websockets.extensions.permessage_deflate import PerMessageDeflate

from tests.conformance.wires import connecting
from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, raw, request
from wsflow import Connection, Credential, End, Reject, Router, Topic
from wsflow.messages.encoded import EncodedMessage
from wsflow.server import Server, Settings, serve
from wsflow.tasks.loops import event_loop
from wsflow.transports.library import Library
from wsflow.transports.shared import READ_BYTES
from wsflow.transports.sockets import WRITE_BYTES


def settings(**values: Any) -> Settings:
    return Settings(port=0, **{"open_timeout": 5.0, "close_timeout": 1.0, **values})


def echo_app() -> Router:
    app = Router("/")

    @app.consumer
    async def text(message: str) -> str:
        return message

    @app.consumer
    async def binary(message: bytes) -> bytes:
        return message

    return app


async def all_gone(server: Server) -> None:
    while server._transports._open or server._app.sessions:
        await anyio.sleep(0.001)


async def test_a_handshake_byte_by_byte_and_frames_right_behind_it() -> None:
    async with serve(echo_app(), settings()) as server, raw(server) as client:
        for byte in request():
            client.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        assert (await client.head())[0] == 101
        client.send(frame(b"a"))
        assert await client.frame() == (1, b"a")
        async with raw(server) as eager:
            eager.send(request() + frame(b"b") + frame(b"c", 2) + frame(b"", 9))
            assert (await eager.head())[0] == 101
            got = [await eager.frame() for _ in range(3)]
            assert sorted(got) == [(1, b"b"), (2, b"c"), (10, b"")]


async def test_frames_wait_while_it_is_decided() -> None:
    gate = anyio.Event()
    app = echo_app()

    @app.on_connect
    async def slow() -> None:
        await gate.wait()

    async with serve(app, settings(write_buffer=1000)) as server, raw(server) as client:
        client.send(request() + frame(b"x" * 3000))
        await anyio.sleep(0.01)
        client.send(frame(b"y" * 3000))  # more than may be held: reading pauses
        gate.set()
        assert (await client.head())[0] == 101
        assert await client.frame() == (1, b"x" * 3000)
        assert await client.frame() == (1, b"y" * 3000)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 426),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"POST /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (request("/?a=%ff"), 400),
        (request("/", b"Sec-WebSocket-Key: again\r\n"), 400),
        (request("/", b"Origin: https://evil.example\r\n"), 403),
        (request("/", b"Origin: null\r\n"), 403),
        (request("/", b"Origin: http://127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"), 400),
        (request("/", b"Origin: http://127.0.0.1\r\n"), 101),
        (request("/", b"Origin: http://127.0.0.1:80\r\n"), 101),
        (request("/", b"Origin: http://127.0.0.1:81\r\n"), 403),
        (request("/", b"Origin: http://127.0.0.1:x\r\n"), 403),
        (request("/", b"Origin: https://trusted.example\r\n"), 101),
        (request("/nowhere"), 404),
        (request("http://127.0.0.1/"), 101),
        (request("http://127.0.0.1"), 101),
        (request("ftp://127.0.0.1/"), 400),
        (request("127.0.0.1"), 400),
        (request("/#top"), 400),
        (request("/", b"Host: 127.0.0.1\r\n"), 400),
        (request().replace(b"127.0.0.1", b"evil.example"), 403),
        (request("/", b"Content-Length: 0\r\n"), 101),
        (request("/", b"Content-Length: 5\r\n") + b"hello", 400),
        (request().replace(b"GET", b"PUT", 1), 405),
        (request().replace(b"13", b"12"), 400),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
async def test_opening_requests(
    fast: bool, sent: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr("wsflow.transports.server.common", lambda *_args, **_limits: None)
    options = settings(origin=("https://trusted.example",))
    async with serve(echo_app(), options) as server, raw(server) as client:
        client.send(sent)
        assert (await client.head())[0] == status
        if status != 101:
            await client.read()  # the text, and then the end of the stream


@pytest.mark.parametrize("fast", [True, False])
async def test_a_subprotocol_and_the_time_in_the_answer(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr("wsflow.transports.server.common", lambda *_args, **_limits: None)
    async with serve(echo_app(), settings()) as server, raw(server) as client:
        client.send(request(headers=b"Sec-WebSocket-Protocol: a, wsflow.msgpack\r\n"))
        status, head = await client.head()
        assert (status, b"\r\nSec-WebSocket-Protocol: wsflow.msgpack\r\n" in head) == (101, True)
        (date,) = re.findall(rb"\r\nDate: (.*?)\r\n", head)
        assert abs(parsedate_to_datetime(date.decode()).timestamp() - time.time()) < 60


async def test_any_origin() -> None:
    async with serve(echo_app(), settings(origin=("*",))) as server, raw(server) as client:
        await client.opened(headers=b"Origin: null\r\n")


async def test_a_request_that_is_too_large_on_the_whole() -> None:
    async with serve(echo_app(), settings(max_header_size=200)) as server, raw(server) as client:
        client.send(request("/", b"A: b\r\n" * 50))
        assert (await client.head())[0] == 431


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\r\n", b"hello\r\n\r\n"])
async def test_garbage_is_answered_and_hung_up_on(garbage: bytes) -> None:
    async with serve(echo_app(), settings()) as server, raw(server) as client:
        client.send(garbage)
        assert (await client.head())[0] == 400
        assert await client.read() == b"this is not a valid HTTP request\n"
        client.writer.close()
        await all_gone(server)


async def test_a_peer_that_says_nothing() -> None:
    async with serve(echo_app(), settings(open_timeout=0.01)) as server, raw(server) as client:
        assert await client.read() == b""
        await all_gone(server)


async def test_too_many_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    async with serve(echo_app(), settings(max_handshakes=1)) as server:
        async with raw(server) as first, raw(server) as second:
            first.send(b"GET")
            second.send(request())
            with anyio.fail_after(10):
                while "1 of them have not sent their opening request: further" not in caplog.text:
                    await anyio.lowlevel.checkpoint()
            assert len(server._transports._open) == 1
            first.send(request()[3:])
            assert (await first.head())[0] == 101
            assert (await second.head())[0] == 101


async def test_too_many_connections() -> None:
    async with serve(echo_app(), settings(max_connections=1)) as server:
        async with raw(server) as first, raw(server) as second:
            await first.opened()
            second.send(request())
            status, head = await second.head()
            assert (status, b"Retry-After: 5" in head) == (503, True)
        assert server.registry.counters()["refused"] == 1
    limited = settings(max_connections_per_client=1)
    async with serve(echo_app(), limited) as server, raw(server) as first:
        await first.opened()
        async with raw(server) as second:
            second.send(request())
            status, head = await second.head()
            assert (status, b"Retry-After: 5" in head) == (429, True)
        assert server.registry.counters()["refused"] == 1


async def test_too_many_handshakes_of_one_client(caplog: pytest.LogCaptureFixture) -> None:
    async with serve(echo_app(), settings(max_handshakes_per_client=1)) as server:
        async with raw(server) as first, raw(server) as second, raw(server) as third:
            first.send(b"GET")
            for each in (second, third):
                status, head = await each.head()
                assert (status, b"Retry-After: 5" in head) == (429, True)
            first.send(request()[3:])
            assert (await first.head())[0] == 101
        assert server.registry.counters()["refused"] == 2
        async with raw(server) as fourth:
            await fourth.opened()
    assert caplog.text.count("127.0.0.1 has 1 connections that have not sent") == 1


@pytest.mark.parametrize("leave", ["eof", "reset"])
@pytest.mark.parametrize("phase", ["requesting", "deciding", "open"])
async def test_leaving_in_every_phase(leave: str, phase: str) -> None:
    entered, left = anyio.Event(), anyio.Event()
    ends: list[End | None] = []
    app = echo_app()

    @app.on_connect
    async def scope(connection: Connection) -> AsyncIterator[None]:
        entered.set()
        try:
            if phase == "deciding":
                await anyio.sleep_forever()
            yield
        finally:
            ends.append(connection.end)
            left.set()

    async with serve(app, settings()) as server, raw(server) as client:
        if phase == "requesting":
            client.send(b"GET / HTTP/1.1\r\n")
            await anyio.sleep(0.01)
        else:
            client.send(request())
            await entered.wait()
            if phase == "open":
                assert (await client.head())[0] == 101
        if leave == "eof":
            client.writer.write_eof()
        else:
            client.reset()
        if phase != "requesting":
            await left.wait()
            assert ends[0] is not None
            assert (ends[0].cause, ends[0].code) == ("vanished", 1006)
        if leave == "eof":
            await client.read()
            client.writer.close()
        await all_gone(server)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x01a", 1002),  # not masked
        (frame(b"a", 3), 1002),  # an unknown opcode
        (frame(b"a", 1, rsv1=True), 1002),  # compressed, which was not agreed on
        (frame(b"a", 0), 1002),  # a continuation of nothing
        (frame(b"a", 1, fin=False) + frame(b"b", 1), 1002),
        (frame(b"a", 1, fin=False) + frame(b"\x03\xe8", 8), 1000),  # which it may (§5.4)
        (frame(b"x" * 126, 9), 1002),
        (frame(b"\x00", 8), 1002),
        (frame(b"\x03\xed", 8), 1002),  # 1005 on the wire
        (frame(b"\x03\xe8\xff", 8), 1007),
        (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + bytes(4), 1009),
        (frame(b"x" * 2000), 1009),
        (frame(b"x" * 600, 1, fin=False) + frame(b"x" * 600, 0), 1009),
        (frame(b"", 1, fin=False) + frame(b"", 0, fin=False) * 20, 1009),
    ],
)
async def test_broken_frames(sent: bytes, code: int) -> None:
    ends: list[End] = []
    app = echo_app()

    @app.on_disconnect
    async def gone(end: End) -> None:
        ends.append(end)

    limits = settings(max_message_size=1000, max_fragments=10)
    async with serve(app, limits) as server, raw(server) as client:
        await client.opened()
        client.send(sent)
        assert await client.close_code() == code
        client.writer.close()
        await all_gone(server)
    assert [end.code for end in ends] == [code]
    causes = {1000: "peer", 1002: "protocol", 1007: "invalid", 1009: "too_large"}
    assert ends[0].cause == causes[code]


async def test_a_close_that_is_not_answered_is_cut_off() -> None:
    app = Router("/")

    @app.producer
    async def once() -> AsyncIterator[str]:
        yield "done"

    async with serve(app, settings(close_timeout=0.05)) as server, raw(server) as client:
        await client.opened()
        assert await client.close_code() == 1000
        client.send(frame(b"a message in the closing handshake does not count"))
        await client.read()
        await all_gone(server)


async def test_keepalive_finds_who_is_gone_and_spares_who_answers() -> None:
    ends: list[End] = []
    app = echo_app()

    @app.on_disconnect
    async def gone(end: End) -> None:
        ends.append(end)

    limits = settings(ping_interval=0.02, ping_timeout=0.02)
    async with serve(app, limits) as server, raw(server) as mute:
        await mute.opened()
        async with connecting(f"ws://127.0.0.1:{server.port}/") as client:
            assert (await mute.frame())[0] == 9
            await mute.read()  # hung up on
            while not ends:
                await anyio.sleep(0.001)
            assert (ends[0].cause, ends[0].code) == ("vanished", 1006)
            await client.send("still here")
            assert await client.receive() == "still here"


async def test_the_ping_deadline_waits_while_reading_is_paused() -> None:
    gate = anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> str:
        await gate.wait()
        return message

    limits = settings(ping_interval=0.01, ping_timeout=0.01, inbox_messages=2)
    async with serve(app, limits) as server, raw(server) as client:
        await client.opened()
        for number in range(5):
            client.send(frame(str(number).encode()))
        for _ in range(5):  # pings that are not answered
            assert (await client.frame())[0] == 9
        gate.set()
        texts: list[bytes] = []
        while len(texts) < 5:
            opcode, payload = await client.frame()
            if opcode == 1:
                texts.append(payload)
        assert texts == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_flood_is_parsed_no_faster_than_it_is_handled() -> None:
    gate = anyio.Event()
    handled: list[int] = []
    most = 0
    app = Router("/")

    @app.consumer
    async def slow(message: bytes) -> None:
        await gate.wait()
        handled.append(len(message))

    async with serve(app, settings(inbox_messages=10)) as server, raw(server) as client:
        await client.opened()
        (session,) = server._app.sessions.values()
        client.send(frame(b"x", 2) * 20_000)
        for _ in range(50):
            await anyio.sleep(0.001)
            most = max(most, session.received)
        assert most < 1000
        gate.set()
        while len(handled) < 20_000:
            await anyio.sleep(0.001)


@pytest.mark.parametrize("last", [frame(b"\x03\xe8", 8), frame(b"a", 3), frame(b"end")])
async def test_a_read_that_fills_the_buffer(last: bytes) -> None:
    """What comes last in it may close the socket, or fail the connection."""
    first = bytes(READ_BYTES - len(last) - 8)
    async with serve(echo_app(), settings()) as server, raw(server) as client:
        await client.opened()
        errors: list[object] = []
        event_loop().set_exception_handler(lambda _, what: errors.append(what))
        client.send(frame(first, 2) + last)
        if last == frame(b"end"):
            assert await client.frame() == (2, first)
            assert await client.frame() == (1, b"end")
        else:
            await client.close_code()
        client.writer.close()
        await all_gone(server)
        assert errors == []


async def test_a_stalled_reader_costs_no_more_than_its_buffer() -> None:
    asked: list[int] = []
    app = Router("/")

    @app.producer
    async def push() -> AsyncIterator[bytes]:
        while True:
            asked.append(1)
            yield bytes(100_000)

    async with serve(app, settings()) as server, raw(server) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.opened()
        before = -1
        while len(asked) != before:
            before = len(asked)
            await anyio.sleep(0.05)
        (transport,) = server._transports._open
        assert transport._socket.get_write_buffer_size() < 300_000
        client.reset()
        await all_gone(server)


async def test_compression() -> None:
    async with serve(echo_app(), settings(compression="deflate")) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        async with connecting(uri, compression="deflate") as client:
            assert client.client.protocol.extensions
            for message in ("x" * 1000, b"y" * 1000):
                await client.send(message)
                assert await client.receive() == message


async def test_a_topic_reaches_peers_with_compression_and_without() -> None:
    app = Router("/")

    @app.on_connect
    async def enter(topic: Annotated[Topic[str], "all"]) -> None:
        await topic.join()

    @app.consumer
    async def tell(message: str, topic: Annotated[Topic[str], "all"]) -> None:
        await topic.publish(message)

    async with serve(app, settings(compression="deflate")) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        async with (
            connecting(uri, compression="deflate") as ada,
            connecting(uri, compression="deflate") as bob,
            connecting(uri) as eve,
        ):
            for size in (1000, WRITE_BYTES):
                await ada.send("x" * size)
                for client in (ada, bob, eve):
                    assert await client.receive() == "x" * size


async def test_a_producer_reaches_peers_with_compression_and_without() -> None:
    app = Router("/")
    items = ["a", "b" * 200, "c" * 70_000, "d"]

    @app.producer
    async def produce() -> AsyncIterator[str]:
        for item in items:
            yield item

    async with serve(app, settings(compression="deflate")) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        for compression in ("deflate", None):
            async with connecting(uri, compression=compression) as client:
                assert [await client.receive() for _ in items] == items


def test_one_compressed_frame_for_many() -> None:
    limits = settings(compression="deflate")
    message = EncodedMessage(b"x" * 1000, True)
    libraries = []
    for bits in (12, 12, 11):
        library = Library(limits)
        library.extensions = (PerMessageDeflate(True, True, 12, bits),)
        libraries.append(library)
    one, same, other = (library.shared(message) for library in libraries)
    assert one is same
    assert other is not one
    assert len(one) < 100


async def test_compression_bombs_are_taken_one_by_one() -> None:
    gate = anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: bytes) -> None:
        await gate.wait()

    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeeze.compress(bytes(1_000_000)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    data = frame(bomb[:-4], 2, rsv1=True)
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"
    async with serve(app, settings(compression="deflate")) as server, raw(server) as client:
        await client.opened(headers=offer)
        (session,) = server._app.sessions.values()
        client.send(data * 200)
        for _ in range(50):
            await anyio.sleep(0.001)
        assert session.received <= 8
        gate.set()


async def test_much_comes_while_it_is_decided() -> None:
    """More than may be held, split over many reads: reading goes on at accept."""
    go = anyio.Event()
    app = echo_app()

    @app.on_connect
    async def slow() -> None:
        await go.wait()

    async with serve(app, settings()) as server, raw(server) as client:
        client.send(request())
        await anyio.sleep(0.01)
        client.send(frame(b"", 10))  # a little
        await anyio.sleep(0.01)
        client.send(frame(b"x" * 70_000, 2))
        await anyio.sleep(0.05)
        go.set()
        assert (await client.head())[0] == 101
        assert (await client.frame())[1] == b"x" * 70_000
        client.send(frame(b"hello"))
        assert await client.frame() == (1, b"hello")
        client.send(frame(b"\x03\xe8", 8))
        assert await client.close_code() == 1000


async def test_a_flood_of_pings_that_nobody_reads_the_answers_of() -> None:
    patient = settings(write_buffer=10_000, ping_interval=0)
    async with serve(echo_app(), patient) as server, raw(server) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.opened()
        (transport,) = server._transports._open
        transport._socket.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 8192
        )
        most = 0
        sent = 0
        while sent < 15 or not transport._writing_paused:
            if client.writer.transport.get_write_buffer_size() < 1_000_000:
                client.send(frame(b"p" * 125, 9) * 2000)
                sent += 1
            await anyio.sleep(0.002)
            most = max(most, transport._socket.get_write_buffer_size())
        assert most < 40_000
        client.send(frame(b"last", 9))
        while (answer := await client.frame())[1] != b"last":
            assert answer == (10, b"p" * 125)


@pytest.mark.parametrize("close", [True, False])
async def test_what_came_before_the_end_of_the_stream_is_handled(close: bool) -> None:
    handled: list[str] = []
    ends: list[End] = []
    over = anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> None:
        await anyio.lowlevel.checkpoint()
        handled.append(message)

    @app.on_disconnect
    async def gone(end: End) -> None:
        ends.append(end)
        over.set()

    async with serve(app, settings(inbox_messages=5)) as server, raw(server) as client:
        await client.opened()
        client.send(frame(b"m") * 2000 + (frame(b"\x03\xe8", 8) if close else b""))
        client.writer.write_eof()
        await over.wait()
    assert len(handled) == 2000
    assert ends[0].code == (1000 if close else 1006)


@pytest.mark.parametrize("behind", [frame(b"\x03\xe8", 8), frame(b"", 5), frame(b"\xff")])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("part", ["consumer", "on_connect", "producer", "request", "fragments"])
async def test_messages_that_begin_a_connection_with_its_end_right_behind(
    part: str, count: int, behind: bytes, anyio_backend_name: str
) -> None:
    """Each is handled where it is read, as in a connection that has run before; on Trio, where a
    message waits for its consumer, the first is."""
    handled = 1 if anyio_backend_name == "trio" else count
    app = echo_app()
    if part == "on_connect":
        app.on_connect(anyio.lowlevel.checkpoint)
    elif part == "producer":

        @app.producer
        async def wait() -> AsyncIterator[str]:
            await anyio.sleep_forever()
            yield ""

    message = frame(b"m", fin=False) + frame(b"", 0) if part == "fragments" else frame(b"m")
    data = message * count + behind
    async with serve(app, settings()) as server, raw(server) as client:
        if part == "request":
            client.send(request() + data)
            await client.head()
        else:
            await client.opened()
            while part == "producer" and not server._app.sessions:
                await anyio.sleep(0.001)
            client.send(data)
        with anyio.fail_after(10):
            answers = [await client.frame() for _ in range(handled + 1)]
    assert answers[:-1] == [(1, b"m")] * handled
    assert answers[-1][0] == 8


async def test_messages_in_one_read_behind_a_renewal() -> None:
    """More than may wait: none is dropped, although it is the renewal that starts the host."""

    class Said(Struct, tag="said"):
        number: int

    async def renew(token: str) -> Credential:
        return Credential(identity="ada", expires_in=100, renew=renew)

    app, heard = Router("/"), list[int]()

    @app.on_connect
    async def enter(connection: Connection) -> None:
        connection.set_credential(Credential(identity="ada", expires_in=100, renew=renew))

    @app.consumer
    async def hear(message: Said) -> None:
        heard.append(message.number)

    said = b"".join(frame(b'{"type":"said","number":%d}' % number) for number in range(200))
    async with serve(app, settings(inbox_messages=5)) as server, raw(server) as client:
        await client.opened()
        client.send(frame(b'{"type":"$auth","token":"x"}') + said)
        with anyio.fail_after(10):
            while len(heard) < 200:
                await anyio.sleep(0.001)
    assert heard == [*range(200)]


async def test_who_resets_while_a_consumer_is_parked_is_found_gone() -> None:
    ends: list[End] = []
    over = anyio.Event()
    app = Router("/")

    @app.consumer
    async def park(message: str) -> None:
        await anyio.sleep_forever()

    @app.on_disconnect
    async def gone(end: End) -> None:
        ends.append(end)
        over.set()

    limits = settings(inbox_messages=5, close_timeout=0.05)
    async with serve(app, limits) as server, raw(server) as client:
        await client.opened()
        client.send(frame(b"m") * 20_000)
        await anyio.sleep(0.05)
        (transport,) = server._transports._open
        assert transport._held
        transport._socket.abort()  # as when a write fails
        await over.wait()
    assert ends == [End("vanished", 1006)]


async def test_nothing_is_delivered_after_the_limit_of_fragments() -> None:
    handled: list[str] = []
    app = Router("/")

    @app.consumer
    async def note(message: str) -> None:
        handled.append(message)

    late = frame(b"a", 1, fin=False) + frame(b"b", 0, fin=False) * 6 + frame(b"c", 0)
    async with serve(app, settings(max_fragments=4)) as server, raw(server) as client:
        await client.opened()
        client.send(late + frame(b"next"))
        assert await client.close_code() == 1009
    assert handled == []


NO_HTTP = b"this is not a valid HTTP request\n"


@pytest.mark.parametrize(
    ("sent", "status", "target"),
    [
        (b"GET /?token=secret HTTP/1.1\r\nHost: localhost\r\n\r\n", 426, "/"),
        (b"GET /page?token=secret HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "/page"),
        (b"GET /page?token=secret HTTP/1.1\r\nHost: x\r\n\r\n", 403, "/page"),
        (b"POST /healthz?token=secret HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "/healthz"),
        (b"GET /page?token=secret HTTP/1.0\r\nHost: localhost\r\n\r\n", 404, "/page"),
        (b"GET ?token=secret HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "-"),
        (b"GET /page#secret HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "/page#…"),
        (b"GET u:secret@h HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "-"),
        (request("/page?token=secret", b"Sec-WebSocket-Key: again\r\n"), 400, "/page?…"),
        (request("/nowhere?token=secret"), 404, "/nowhere"),
        (request("/page?token=secret&x=%ff"), 400, "/page?…"),
        (request("/?token=secret", b"Origin: https://evil.example\r\n"), 403, "/"),
        (request("/?token=secret", b"A: b\r\n" * 200), 431, "-"),
        (request("/?token=secret", b"A: b\r\n" * 9000), 431, "-"),
        (request("/?token=secret", b"A: " + b"x" * 9000 + b"\r\n"), 431, "-"),
        (b"GET /?token=secret" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "-"),
        (b"GET /?token=secret HTTP/1.1 x\r\nHost: x\r\n\r\n", 400, "-"),
        (request("/?token=secret", b"Transfer-Encoding: chunked\r\n"), 400, "/?…"),
        (request("/?token=secret", b"Content-Length: 5\r\n"), 400, "/?…"),
        (request("/?token=secret", b"Content-Length: secret\r\n"), 400, "-"),
        (request("/?token=secret", b"Content-Length: -5\r\n"), 400, "-"),
        (request("/?token=secret", b"Content-Length: 5\r\ncontent-length: 6\r\n"), 400, "-"),
        (request("/?token=secret", b"A: \x1bsecret\r\n"), 400, "-"),
        (request("/?token=secret", b"secret\r\n"), 400, "-"),
        (request("/?token=secret", b"A B: secret\r\n"), 400, "-"),
        (b"GET /\xff?token=secret HTTP/1.1\r\n\r\n", 400, "-"),
        (b"garbage secret\n", 400, "-"),
        (b"\n", 400, "-"),
    ],
)
async def test_a_refused_request_is_answered_and_logged_once(
    sent: bytes, status: int, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the status of the answer, and without what may be secret."""
    caplog.set_level("DEBUG")
    async with serve(echo_app(), settings()) as server, raw(server) as client:
        client.send(sent)
        assert (await client.head())[0] == status
        body = await client.read()  # up to the end of the stream
        unread = sent.startswith((b"GET ?", b"GET u:"))
        assert (body == NO_HTTP) == (status == 400 and target == "-" and not unread)
        client.writer.close()
        await all_gone(server)
    lines = [record.getMessage() for record in caplog.records if record.name == "wsflow.access"]
    assert len(lines) == 1
    assert lines[0].startswith(f"{target} peer=127.0.0.1:")
    assert lines[0].endswith(f" refused={status}")
    assert "secret" not in caplog.text


async def test_what_a_reject_sends() -> None:
    app = echo_app()

    @app.on_connect
    async def reject() -> None:
        raise Reject(499, "<p>nö</p>", {"Content-Type": "text/html", "X-Why": "no"})

    async with serve(app, settings()) as server, raw(server) as client:
        client.send(request())
        status, head = await client.head()
        assert status == 499
        assert b"Content-Type: text/html\r\n" in head
        assert b"X-Why: no\r\n" in head
        assert b"text/plain" not in head
        assert await client.read() == "<p>nö</p>".encode()
        client.writer.close()
        await all_gone(server)


async def test_a_reject_with_a_status_that_has_no_body() -> None:
    app = echo_app()

    @app.on_connect
    async def reject() -> None:
        raise Reject(304, "it would be no part of the answer")

    async with serve(app, settings()) as server, raw(server) as client:
        client.send(request())
        assert (await client.head())[0] == 304
        assert await client.read() == b""
        client.writer.close()
        await all_gone(server)


async def test_a_peer_that_resets_while_it_is_written_to() -> None:
    """What is sent to somebody who is gone is dropped, without a word in the log."""
    app = Router("/")

    @app.consumer
    async def answer(message: str, connection: Connection) -> AsyncIterator[str]:
        for number in range(100):
            yield str(number)
            await anyio.lowlevel.checkpoint()

    async with serve(app, settings()) as server, raw(server) as client:
        await client.opened()
        client.send(frame(b"go"))
        await client.frame()
        client.reset()
        await all_gone(server)


async def test_the_limits_of_a_running_server() -> None:
    async with serve(echo_app(), settings(max_message_size=77)) as server, raw(server) as client:
        await client.opened()
        (transport,) = server._transports._open
        assert transport._library.protocol.max_message_size == 77
        assert transport._library.protocol.extensions == []
        assert transport._limits.write_buffer == 65536


async def test_who_is_told_too_late_changes_nothing() -> None:
    """All that the runtime may say to a transport is ignored once it is closed."""
    async with serve(echo_app(), settings()) as server, raw(server) as client:
        await client.opened()
        (transport,) = server._transports._open
        transport.reject(500, (), b"late")
        client.reset()
        await all_gone(server)
        transport.accept(None)
        transport.reject(500, (), b"late")
        transport.send(b"late", True, True)
        assert not transport.send_all([(b"late", True, True)])
        transport.share(EncodedMessage(b"late", True))
        transport.close(1000, "late")
        transport.pause_reading()
        transport.resume_reading()
        transport._parse_held()


async def test_a_socket_that_is_lost_while_messages_wait() -> None:
    """What was read is handled, and asking the transport to write or read is harmless."""
    handled: list[str] = []
    over = anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str, connection: Connection) -> str:
        handled.append(message)
        await anyio.lowlevel.checkpoint()
        return message

    @app.on_disconnect
    async def gone() -> None:
        over.set()

    for compression in ("none", "deflate"):
        limits = settings(inbox_messages=4, compression=compression)
        async with serve(app, limits) as server, raw(server) as client:
            handled.clear()
            over = anyio.Event()
            await client.opened()
            (transport,) = server._transports._open
            client.send(frame(b"m") * 1000)
            while sum(each.received for each in server._app.sessions.values()) * 7 + len(
                transport._held
            ) < len(frame(b"m") * 1000):
                await anyio.lowlevel.checkpoint()
            transport._socket.abort()
            await over.wait()
            assert len(handled) == 1000


async def test_a_slow_reader_of_one_large_message_is_spared() -> None:
    app = Router("/")

    @app.consumer
    async def large(message: str) -> bytes:
        return bytes(8_000_000)

    limits = settings(ping_interval=0.05, ping_timeout=0.05)
    async with serve(app, limits) as server, raw(server) as client:
        client.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000
        )
        await client.opened()
        client.send(frame(b"go"))
        size = 0
        while size < 8_000_000:
            size += len(await client.read(200_000))
            await anyio.sleep(0.005)  # it reads slowly, and never says a word


async def test_a_ping_before_the_answer_of_the_last_one_is_read() -> None:
    async with serve(echo_app(), settings(write_buffer=0)) as server, raw(server) as client:
        await client.opened()
        client.send(frame(b"1", 9))
        assert await client.frame() == (10, b"1")


async def test_answers_without_any_write_buffer() -> None:
    async with serve(echo_app(), settings(write_buffer=0)) as server, raw(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.head())[0] == 426
        async with raw(server) as silent:
            silent.send(request())
            assert (await silent.head())[0] == 101
        async with raw(server) as half:
            half.send(b"GET ")
            while not server._transports._requesting:
                await anyio.lowlevel.checkpoint()
            (transport,) = server._transports._requesting
            transport.pause_writing()  # there is nobody yet to be told
            transport.resume_writing()
    quiet = settings(ping_interval=0)
    async with serve(echo_app(), quiet) as server, raw(server) as client:
        await client.opened()
        (transport,) = server._transports._open
        assert transport._ping_timer is None


async def test_the_request_and_its_end_at_once() -> None:
    """A peer that half-closes right behind its request has left."""
    go = anyio.Event()
    app = echo_app()

    @app.on_connect
    async def slow() -> None:
        await go.wait()

    async with serve(app, settings()) as server, raw(server) as client:
        client.send(request())
        client.writer.write_eof()
        assert await client.read() == b""
        client.writer.close()
        await all_gone(server)


async def test_a_message_that_is_not_taken_is_reported_again() -> None:
    """Whoever receives it may pause reading at the moment when it comes."""

    class NotNow:
        def __init__(self) -> None:
            self.asked = anyio.Event()

        def messages_received(self, messages: Any) -> int:
            transport.pause_reading()
            transport._receiver = receiver
            self.asked.set()
            return 0

    async with serve(echo_app(), settings()) as server, raw(server) as client:
        await client.opened()
        (transport,) = server._transports._open
        receiver, not_now = transport._receiver, NotNow()
        transport._receiver = not_now
        client.send(frame(b"a"))
        with anyio.fail_after(20):
            await not_now.asked.wait()
            transport.loop.call_soon_threadsafe(transport.resume_reading)
            assert await client.frame() == (1, b"a")
