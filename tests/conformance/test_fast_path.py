"""The fast path does what the library's own parser does: the same messages, answers and ends."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from tests.raw import request
from wsflow.server.settings import Settings
from wsflow.transports import library
from wsflow.transports.client import ClientTransport
from wsflow.transports.frames import Found
from wsflow.transports.server import ServerTransport
from wsflow.transports.shared import READ_BYTES, Shared
from wsflow.transports.sockets import SMALL

LARGEST = 70_000
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


class Outcome:
    """What a peer's bytes led to."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bool]] = []
        self.answered = b""
        self.end: tuple[Any, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"{self.messages!r:.300} {self.answered!r:.300} {self.end}"


# -- the library alone


class Patient(Protocol):
    """A close may come between fragments (RFC 6455 §5.4), which the library takes for an error."""

    def recv_frame(self, frame: WireFrame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class PatientServer(Patient, ServerProtocol):
    pass


class PatientClient(Patient, ClientProtocol):
    pass


def server_of_the_library(*, deflate: bool) -> Protocol:
    protocol = PatientServer(extensions=[library._DEFLATE] if deflate else None, max_size=LARGEST)
    protocol.logger.setLevel("CRITICAL")
    protocol.receive_data(request(headers=OFFER if deflate else b""))
    (handshake,) = protocol.events_received()
    protocol.send_response(protocol.accept(handshake))  # type: ignore[arg-type]
    protocol.data_to_send()
    return protocol


def client_of_the_library(*, deflate: bool) -> ClientProtocol:
    """It has not sent its request yet."""
    extensions = [ClientPerMessageDeflateFactory()] if deflate else None
    uri = parse_uri("ws://a.example/")
    return PatientClient(uri, extensions=extensions, max_size=LARGEST, logger=library.QUIET)


def response(protocol: ClientProtocol, *, deflate: bool) -> bytes:
    """The answer of a server."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Accept": accept_key(protocol.key),
    }
    if deflate:
        headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
    return Response(101, "Switching Protocols", Headers(headers)).serialize()


def open_client_of_the_library(*, deflate: bool) -> Protocol:
    protocol = client_of_the_library(deflate=deflate)
    protocol.send_request(protocol.connect())
    protocol.receive_data(response(protocol, deflate=deflate))
    assert len(protocol.events_received()) == 1
    protocol.data_to_send()
    return protocol


def by_the_library(protocol: Protocol, chunks: Sequence[bytes], *, eof: bool) -> Outcome:
    outcome = Outcome()
    parts: list[bytes] = []
    text = False
    steps: list[Callable[[], None]] = [
        lambda chunk=chunk: protocol.receive_data(chunk) for chunk in chunks
    ]  # type: ignore[misc]
    if eof:
        steps.append(protocol.receive_eof)
    for step in steps:
        step()
        for event in protocol.events_received():
            assert isinstance(event, WireFrame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                parts, text = [], event.opcode is Opcode.TEXT
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                parts.append(bytes(event.data))
                if event.fin:
                    outcome.messages.append((b"".join(parts), text))
        outcome.answered += b"".join(protocol.data_to_send())
        if protocol.state is not OPEN and outcome.end is None:
            sent, got = protocol.close_sent, protocol.close_rcvd
            if sent is None:
                outcome.end = ("vanished",)
            elif got is not None and protocol.parser_exc is None:
                outcome.end = ("closed", int(got.code), got.reason)
            else:
                outcome.end = ("failed", int(sent.code), sent.reason)
    return outcome


# -- our transport, on a loop and a socket that do nothing by themselves


class Timer:
    def cancel(self) -> None: ...


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        self.soon.append(call)

    def time(self) -> float:
        return 0.0

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        return Timer()

    def turn(self) -> None:
        while self.soon:
            self.soon.pop(0)()


class Socket:
    def __init__(self, *, half_closes: bool = True, unread: int = 0) -> None:
        self.written = b""
        self.ended = ""
        self.half_closes = half_closes
        self.unread = unread

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...
    def pause_reading(self, *, briefly: bool = False) -> None: ...
    def resume_reading(self) -> None: ...
    def write_eof(self) -> None:
        self.ended = "half"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None: ...

    def can_write_eof(self) -> bool:
        return self.half_closes

    def get_write_buffer_size(self) -> int:
        return self.unread


class Taker:
    """A receiver. It takes ``patience`` messages, then pauses reading."""

    transport: Any

    def __init__(self, patience: int) -> None:
        self.loop: Any = Loop()
        self.shared = Shared(self.loop)
        self.outcome = Outcome()
        self.patience = self.left = patience
        self.paused = False

    def messages_received(self, messages: Sequence[Found]) -> int:
        taken = 0
        for data, text, _ in messages:
            if self.paused:
                break
            self.outcome.messages.append((data, text))
            taken += 1
            self.left -= 1
            if self.left == 0:
                self.paused = True
                self.transport.pause_reading()
        return taken

    def resume(self) -> None:
        self.left, self.paused = self.patience, False
        self.transport.resume_reading()

    def peer_closed(self, code: int, reason: str) -> None:
        self.outcome.end = ("closed", code, reason)

    def peer_failed(self, code: int, reason: str) -> None:
        self.outcome.end = ("failed", code, reason)

    def peer_vanished(self) -> None:
        self.outcome.end = ("vanished",)

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Server(Taker):
    """Host and acceptor, too."""

    def __init__(self, limits: Settings, patience: int) -> None:
        super().__init__(patience)
        self.limits = limits
        self.acceptor = self

    def requested(self, transport: Any) -> None: ...
    def closing(self, transport: Any) -> None: ...
    def closed(self, transport: Any) -> None: ...
    def refused(self, address: Any, target: str, status: int) -> None: ...
    def client(self, address: Any, headers: Any) -> None: ...

    def open(self, request: Any, transport: Any) -> Any:
        self.loop.call_soon(lambda: transport.accept(None))
        return self


class Sender:
    """A peer of our transport, on a loop and a socket of its own."""

    def __init__(self, taker: Taker, transport: Any, socket: Any) -> None:
        self.taker = taker
        self.socket = socket
        self.transport = taker.transport = transport
        transport.connection_made(socket)

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), READ_BYTES):
            part = data[at : at + READ_BYTES]
            self.transport.get_buffer(-1)[: len(part)] = part
            self.transport.buffer_updated(len(part))
            self.taker.loop.turn()
            while self.taker.paused:
                self.taker.resume()
                self.taker.loop.turn()

    def outcome(self, chunks: Sequence[bytes], *, eof: bool) -> Outcome:
        for chunk in chunks:
            self.send(chunk)
        if eof:
            self.transport.eof_received()
            self.taker.loop.turn()
        self.taker.outcome.answered = self.socket.written
        return self.taker.outcome


class Client(Sender):
    """Of a server of ours."""

    def __init__(self, limits: Settings, patience: int, socket: Any, headers: bytes = b"") -> None:
        server = Server(limits, patience)
        super().__init__(server, ServerTransport(server, None), socket)
        self.send(request(headers=headers))
        socket.written = b""


class Answering(Socket):
    """Its first bytes are answered."""

    answer: Callable[[], None] | None

    def write(self, data: bytes) -> None:
        answer, self.answer = self.answer, None
        if answer is None:
            super().write(data)
        else:
            answer()


class ServerOfOurs(Sender):
    """Of a client of ours."""

    def __init__(self, limits: Settings, patience: int) -> None:
        deflate = limits.compression == "deflate"
        socket, taker = Answering(), Taker(patience)
        protocol = client_of_the_library(deflate=deflate)
        transport = ClientTransport(protocol, limits, taker.shared)
        super().__init__(taker, transport, socket)
        socket.answer = lambda: self.send(response(protocol, deflate=deflate))
        with pytest.raises(StopIteration):
            transport.handshake(Headers()).send(None)
        transport.begin(cast(Any, taker))
        taker.loop.turn()


def limits_of(*, deflate: bool) -> Settings:
    return Settings(
        max_message_size=LARGEST, compression="deflate" if deflate else "none", max_fragments=10_000
    )


def by_the_transport(
    chunks: Sequence[bytes], *, deflate: bool, eof: bool, patience: int
) -> Outcome:
    headers = OFFER if deflate else b""
    client = Client(limits_of(deflate=deflate), patience, Socket(), headers)
    return client.outcome(chunks, eof=eof)


# -- what peers send


def raw_frame(
    payload: bytes,
    *,
    opcode: int = 1,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = b"\x01\x02\x03\x04",
    form: int | None = None,
) -> bytes:
    """A frame, well-formed or not. ``form`` is how its length is written: 7, 16 or 64 bits."""
    size = len(payload)
    form = form or (7 if size < 126 else 16 if size < 65536 else 64)
    if (form == 7 and size > 125) or (form == 16 and size > 65535):
        form = 64
    mask = 0x80 if key else 0
    length = {
        7: lambda: bytes([mask | size]),
        16: lambda: bytes([mask | 126]) + struct.pack("!H", size),
        64: lambda: bytes([mask | 127]) + struct.pack("!Q", size),
    }[form]()
    if key:
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return bytes([(0x80 if fin else 0) | rsv << 4 | opcode]) + length + (key or b"") + payload


def squeezed(payload: bytes) -> bytes:
    press = zlib.compressobj(6, zlib.DEFLATED, -12)
    return (press.compress(payload) + press.flush(zlib.Z_SYNC_FLUSH))[:-4]


payloads = st.one_of(
    st.binary(max_size=130),
    st.text(max_size=40).map(str.encode),
    st.sampled_from(
        [
            0,
            125,
            126,
            127,
            128,
            255,
            256,
            4000,
            SMALL - 1,
            SMALL,
            SMALL + 1,
            65535,
            65536,
            LARGEST,
            LARGEST + 1,
        ]
    ).map(bytes),
)


def pieces(keys: st.SearchStrategy[bytes | None], malformed: st.SearchStrategy[bytes]) -> Any:
    """What comes at a time: from a client with keys, from a server without."""
    frame = partial(st.builds, raw_frame, key=keys)
    messages = frame(payloads, opcode=st.sampled_from([1, 2]), form=st.sampled_from([None, 16, 64]))
    controls = st.one_of(
        frame(st.binary(max_size=125), opcode=st.sampled_from([9, 10])),
        frame(
            st.builds(
                lambda code, reason: struct.pack("!H", code) + reason.encode(),
                st.sampled_from([999, 1000, 1001, 1005, 1011, 3000, 4999, 5000]),
                st.text(max_size=20),
            ),
            opcode=st.just(8),
        ),
        frame(st.sampled_from([b"", b"\x03"]), opcode=st.just(8)),
    )
    compressed = frame(payloads.map(squeezed), opcode=st.sampled_from([1, 2]), rsv=st.just(4))

    @st.composite
    def fragmented(draw: st.DrawFn) -> bytes:
        parts = draw(st.lists(st.binary(max_size=40), min_size=2, max_size=5))
        key = draw(keys)
        sent = raw_frame(parts[0], opcode=draw(st.sampled_from([1, 2])), fin=False, key=key)
        for index, part in enumerate(parts[1:], 2):
            if draw(st.booleans()):
                sent += draw(st.one_of(controls, messages) if draw(st.booleans()) else controls)
            sent += raw_frame(part, opcode=0, fin=index == len(parts), key=key)
        return sent

    broken = st.one_of(
        frame(st.binary(max_size=20), rsv=st.integers(1, 7)),
        frame(st.binary(max_size=20), opcode=st.sampled_from([0, 3, 7, 11, 15])),
        frame(st.binary(max_size=20), opcode=st.sampled_from([8, 9, 10]), fin=st.just(False)),
        frame(st.binary(min_size=126, max_size=140), opcode=st.sampled_from([8, 9])),
        st.binary(max_size=30),
        malformed,
    )
    return st.one_of(messages, messages, controls, fragmented(), compressed, broken)


from_clients = pieces(
    st.binary(min_size=4, max_size=4),
    st.one_of(
        st.builds(raw_frame, payloads, key=st.none(), opcode=st.sampled_from([1, 2, 8, 9, 10])),
        st.just(b"\x81\xff" + struct.pack("!Q", 2**62) + b"1234"),
        st.just(b"\x82\xff" + struct.pack("!Q", 2**63 + 5) + b"1234"),
    ),
)
from_servers = pieces(
    st.none(),
    st.one_of(
        st.builds(raw_frame, payloads, opcode=st.sampled_from([1, 2, 8, 9, 10])),
        st.just(b"\x81\x7f" + struct.pack("!Q", 2**62)),
        st.just(b"\x82\x7f" + struct.pack("!Q", 2**63 + 5)),
    ),
)


@st.composite
def conversations(draw: st.DrawFn, peer: st.SearchStrategy[bytes]) -> list[bytes]:
    """What a peer sends, in the chunks in which it comes."""
    sent = b"".join(draw(st.lists(peer, max_size=6)))
    if draw(st.booleans()):
        sent = sent[: draw(st.integers(0, len(sent)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    if len(sent) < 100 and draw(st.booleans()):
        cuts = list(range(len(sent)))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True) if a < b]


@settings(max_examples=400, deadline=None)
@given(conversations(from_clients), st.booleans(), st.booleans(), st.sampled_from([1, 2, 5, 10**9]))
@example([raw_frame(b"a") * 3000], False, True, 7)
@example([raw_frame(b"a" * 10)[:9]], False, True, 1)
@example([raw_frame(b"a", fin=False), raw_frame(b"b")], False, False, 1)
def test_the_same_as_the_library(
    chunks: list[bytes], deflate: bool, eof: bool, patience: int
) -> None:
    expected = by_the_library(server_of_the_library(deflate=deflate), chunks, eof=eof)
    assert by_the_transport(chunks, deflate=deflate, eof=eof, patience=patience) == expected


@settings(max_examples=400, deadline=None)
@given(conversations(from_servers), st.booleans(), st.booleans(), st.sampled_from([1, 2, 5, 10**9]))
@example([raw_frame(b"a", key=None) * 3000], False, True, 7)
@example([raw_frame(b"a" * 10, key=None)[:9]], False, True, 1)
@example([raw_frame(b"a", fin=False, key=None), raw_frame(b"b", key=None)], False, False, 1)
@example([raw_frame(b"", opcode=9)], False, False, 1)
@example([raw_frame(b"", opcode=10)], False, False, 1)
@example([raw_frame(struct.pack("!H", 1000), opcode=8)], False, False, 1)
def test_a_client_does_the_same_as_the_library(
    chunks: list[bytes], deflate: bool, eof: bool, patience: int
) -> None:
    with patch("websockets.frames.secrets.token_bytes", lambda size: b"\x05" * size):
        expected = by_the_library(open_client_of_the_library(deflate=deflate), chunks, eof=eof)
        server = ServerOfOurs(limits_of(deflate=deflate), patience)
        assert server.outcome(chunks, eof=eof) == expected


def test_messages_of_a_server_are_not_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerOfOurs(Settings(), 10**9)
    monkeypatch.setattr(library.Library, "give", None)
    chunks = [raw_frame(bytes(size), key=None) for size in (0, 126, SMALL)]
    outcome = server.outcome(chunks, eof=False)
    assert [len(data) for data, _ in outcome.messages] == [0, 126, SMALL]


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
def test_a_long_conversation_in_pieces_of_every_size(size: int, deflate: bool) -> None:
    sent = b"".join(
        [
            *(raw_frame(bytes([65 + i % 26]) * i, opcode=1 + i % 2) for i in range(200)),
            raw_frame(b"ping", opcode=9),
            raw_frame(b"x", fin=False) + raw_frame(b"", opcode=9) + raw_frame(b"y", opcode=0),
            raw_frame(squeezed(b"z" * 1000), rsv=4) if deflate else b"",
            *(raw_frame(b"again") for _ in range(50)),
            raw_frame(struct.pack("!H", 1001) + b"bye", opcode=8),
            raw_frame(b"too late"),
        ]
    )
    chunks = [sent[at : at + size] for at in range(0, len(sent), size)]
    expected = by_the_library(server_of_the_library(deflate=deflate), chunks, eof=True)
    assert len(expected.messages) == 251 + deflate
    assert expected.end == ("closed", 1001, "bye")
    assert by_the_transport(chunks, deflate=deflate, eof=True, patience=10**9) == expected


@pytest.mark.parametrize(
    ("sent", "half_closes", "unread", "ended"),
    [
        (raw_frame(b"", opcode=8), True, 0, "closed"),  # both sides have said all
        (raw_frame(b"", opcode=8), True, 9, "closed"),  # when it has been read
        (raw_frame(b"", opcode=3), True, 0, "half"),  # the peer may still be sending
        (raw_frame(b"", opcode=3), False, 0, "closed"),  # TLS cannot be closed by half
    ],
)
def test_how_the_socket_is_closed(sent: bytes, half_closes: bool, unread: int, ended: str) -> None:
    client = Client(Settings(), 10**9, Socket(half_closes=half_closes, unread=unread))
    client.send(sent)
    assert client.socket.ended == ended


def test_a_socket_that_is_lost_while_reading_is_paused() -> None:
    client = Client(Settings(), 10**9, Socket())
    client.transport.pause_reading()
    data = raw_frame(b"a") * 3
    client.transport.get_buffer(-1)[: len(data)] = data
    client.transport.buffer_updated(len(data))
    client.transport.connection_lost(None)
    assert client.taker.outcome.messages == []
    client.transport.resume_reading()
    client.taker.loop.turn()
    assert client.taker.outcome.messages == [(b"a", True)] * 3
    assert client.taker.outcome.end == ("vanished",)


def test_a_close_where_the_socket_is_lost_already() -> None:
    """Messages were waiting still, so that nobody has been told of it."""
    client = Client(Settings(), 10**9, Socket())
    client.transport.pause_reading()
    data = raw_frame(b"a")
    client.transport.get_buffer(-1)[: len(data)] = data
    client.transport.buffer_updated(len(data))
    client.transport.connection_lost(None)
    client.transport.close(1001, "")
    client.taker.loop.turn()
    assert client.socket.written == b""
    assert client.taker.outcome.messages == []
    assert client.taker.outcome.end is None
