"""Row 4: what is almost right: frames, opening requests, payloads.

Valid ones are changed at random, and given to the transports of a real server: most of them on a
socket that is only a buffer, for speed, some of them on real sockets. Whatever comes, the answer is
one that stands in the table of close codes or of HTTP statuses, and the log has no traceback.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import decimal
import logging
import random
import struct
import uuid
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
import uvloop

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.raw import frame, request
from wsflow import Call, Router, Stream
from wsflow.server import Server, Settings, serve
from wsflow.transports.server import ServerTransport
from wsflow.transports.shared import READ_BYTES
from wsflow.transports.sockets import Phase

STATUSES = {101, 400, 403, 404, 405, 414, 426, 431, 501, 503, 505}
SENDABLE = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
MSGPACK = b"Sec-WebSocket-Protocol: wsflow.msgpack\r\n"

Mutate = Callable[[bytes], bytes]


class Point(msgspec.Struct):
    x: int
    y: float | None = None


class Shape(msgspec.Struct, tag="shape"):
    name: Annotated[str, msgspec.Meta(max_length=20, pattern="^[a-z]*$")]
    points: list[Point]
    at: datetime.datetime
    price: decimal.Decimal
    id: uuid.UUID
    some: dict[str, set[int]] = {}
    raw: bytes = b""
    pair: tuple[int, str] = (0, "")


class Picky(msgspec.Struct, tag="picky"):
    value: Any

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            raise ValueError("no text")


class Asked(Call[int], tag="asked"):
    number: int


class Streamed(Stream[int], tag="streamed"):
    number: int


def app() -> Router:
    router, typed = Router("/"), Router("/typed/{name}")

    @router.consumer
    async def text(message: str) -> str:
        return message

    @router.consumer
    async def binary(message: bytes) -> bytes:
        return message

    @typed.consumer
    async def take(message: Shape | Picky) -> None: ...

    @typed.consumer
    async def answer(message: Asked) -> int:
        return message.number

    @typed.consumer
    async def stream(message: Streamed) -> AsyncIterator[int]:
        for number in range(min(message.number, 3)):
            yield number

    router.include(typed)
    return router


# -- what is valid, and how it is changed


def _deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _masked(data: bytes, key: bytes = b"\x12\x34\x56\x78") -> bytes:
    """The same frame with another mask."""
    size = {0xFE: 4, 0xFF: 10}.get(data[1], 2)
    payload = data[size + 4 :]
    return data[:size] + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


FRAMES = [
    frame(b""),
    frame(b"hello"),
    frame("€é😀".encode()),
    _masked(frame(b"masked")),
    frame(b"x" * 125),
    frame(b"x" * 126),
    _masked(frame(b"long" * 100)),
    frame(b"y" * 70_000, 2),
    frame(b"bin\x00\xff", 2),
    frame(b"frag", fin=False),
    frame(b"frag", 2, fin=False),
    frame(b"more", 0, fin=False),
    frame(b"end", 0),
    frame(b"a", fin=False) + frame(b"", 9) + frame(b"b", 0),
    frame(b"ping", 9),
    frame(b"", 10),
    frame(_deflated(b"squeezed" * 20), rsv1=True),
    frame(_deflated(b"part" * 9)[:5], rsv1=True, fin=False) + frame(_deflated(b"part" * 9)[5:], 0),
    frame(struct.pack("!H", 1000), 8),
    frame(struct.pack("!H", 3000) + b"bye", 8),
    frame(b"", 8),
]
LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 2**31, 2**32, 2**62, 2**63, 2**64 - 1]


HTTP_WORDS = [
    b"\r\n",
    b"\n",
    b"\x00",
    b":",
    b" ",
    b"\t",
    b"\xff",
    b"HTTP/1.1",
    b"websocket",
    b"%ff",
    b"\r\n ",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Upgrade: h2c\r\n",
    b"A" * 9000,
    b"Transfer-Encoding: chunked\r\n",
    b"Cookie: a=b; c\r\n",
    b"Origin: null\r\n",
    b"Sec-WebSocket-Version: 8\r\n",
    b"X: y\r\n" * 150,
    b"?a=b&c=%00",
    b"#",
    b"//",
    b"..",
]
PAYLOAD_WORDS = [
    b"null",
    b"true",
    b"1e999",
    b"9" * 40,
    b"-0",
    b"NaN",
    b'"',
    b"\\ud800",
    b"\xff",
    b"{",
    b"[" * 2000,
    b"}",
    b"]",
    b",",
    b":",
    b'"type":',
    b'"$call"',
    b'"$cancel"',
    b"\xdf\xff",
    b"\xc1",
    b"\xd9\xff",
    b"\xc7\x08\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xcf" + b"\xff" * 8,
]


class Mutations:
    """Changes at random.

    Args:
        chance: where they come from.
        corpus: what is changed.
        words: what has a meaning in it, and is put in; without them, lengths of frames are changed.
    """

    def __init__(
        self, chance: random.Random, corpus: list[bytes], words: Sequence[bytes] = ()
    ) -> None:
        self.chance = chance
        self.corpus = corpus
        self.words = words

    def next(self) -> bytes:
        """A valid one that was changed, mostly once; one of five is left as it is."""
        data = bytearray(self.chance.choice(self.corpus))
        while self.chance.random() < 0.8 if data else False:
            self._change(data)
            if self.chance.random() < 0.6:
                break
        return bytes(data)

    def _change(self, data: bytearray) -> None:
        chance = self.chance
        # Most changes hit the head, where they have the most consequences.
        at = min(int(chance.expovariate(1 / 6)), len(data) - 1)
        if chance.random() < 0.3:
            at = chance.randrange(len(data))
        match chance.randrange(8):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                del data[at : at + chance.randrange(1, 5)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 5))
            case 4:
                del data[chance.randrange(len(data)) :]
            case 5:
                data[at:at] = data[chance.randrange(len(data)) :][:50]
            case 6:
                data += chance.choice(self.corpus)[:200]
            case 7 if self.words:
                data[at:at] = chance.choice(self.words)
            case 7:
                self._lie(data)

    def _lie(self, data: bytearray) -> None:
        """A frame's length that is not its payload's."""
        if len(data) > 1:
            size = self.chance.choice(LENGTHS)
            data[1:2] = (
                b"\xff" + size.to_bytes(8, "big")
                if size > 65535
                else (b"\xfe" + size.to_bytes(2, "big"))
            )


HANDSHAKES = [
    request(),
    request("/typed/a?b=c&d=%20"),
    request("/", OFFER),
    request("/typed/x", MSGPACK),
    request("/", b"Origin: http://127.0.0.1\r\nCookie: a=b; c=d\r\nX-Forwarded-For: 1.2.3.4\r\n"),
    request("/", b"Sec-WebSocket-Protocol: a, json\r\nUser-Agent: x\r\nAccept: */*\r\n"),
    request("/nowhere"),
]

VALUES: list[Any] = [
    {
        "type": "shape",
        "name": "abc",
        "points": [{"x": 1, "y": 2.5}, {"x": -1, "y": None}],
        "at": "2024-01-02T03:04:05Z",
        "price": "12.50",
        "id": "6f2b6c1e-3c0e-4a53-8b30-0d6f9f0d5a11",
        "some": {"a": [1, 2]},
        "raw": base64.b64encode(b"bytes").decode(),
        "pair": [1, "a"],
    },
    {"type": "picky", "value": 1},
    {"type": "picky", "value": {"deep": [[[[1]]]]}},
    {"type": "picky", "value": "text"},
    {"type": "$call", "id": 1, "message": {"type": "asked", "number": 5}},
    {"type": "$call", "id": 2, "message": {"type": "streamed", "number": 2}, "items": 1},
    {"type": "$more", "id": 2, "items": 5},
    {"type": "$cancel", "id": 2},
    {"type": "$answer", "id": 3, "value": 1},
    {"type": "$item", "id": 3, "value": 1},
    {"type": "$end", "id": 3},
    {"type": "$error", "id": 3, "code": "x"},
]


# -- a socket that is only a buffer


class Buffer:
    """The socket of a transport: it keeps what is written."""

    def __init__(self, transport: ServerTransport, loop: Any, number: int) -> None:
        self.transport = transport
        self.loop = loop
        self.written = b""
        self.closed = self.ended = self.paused = False
        self._name = ("127.0.0.1", 1 + number % 65535)

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> Any:
        return self._name if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self, *, briefly: bool = False) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self.closed:
            self.closed = self.ended = True
            self.loop.call_soon(self.transport.connection_lost, None)

    abort = close

    async def feed(self, data: bytes) -> None:
        for at in range(0, len(data), READ_BYTES):
            while self.paused and not self.closed:
                await asyncio.sleep(0)
            if self.closed:
                return
            self.loop.call_soon(self._read, data[at : at + READ_BYTES])
            await asyncio.sleep(0)

    def _read(self, part: bytes) -> None:
        if not self.closed:
            self.transport.get_buffer(-1)[: len(part)] = part
            self.transport.buffer_updated(len(part))

    @property
    def over(self) -> bool:
        """Whether the transport takes no more messages."""
        return self.closed or self.transport._phase >= Phase.CLOSING


class Log(logging.Handler):
    """Keeps what must not be logged."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome
        self.what = ""

    def emit(self, record: logging.LogRecord) -> None:
        allowed = record.exc_info is None and record.levelno < logging.ERROR
        self.outcome.expect(allowed, f"logged: {record.getMessage()} {record.exc_info} {self.what}")


Answered = Callable[[bytes, bytes], None]


class Bench:
    """A server, and what its answers were."""

    def __init__(self, server: Server, outcome: Outcome, log: Log) -> None:
        self.server = server
        self.outcome = outcome
        self.log = log
        self.codes = Counter[int]()
        self.statuses = Counter[int]()
        self.number = 0

    def expect(self, condition: object, what: str, sent: bytes) -> None:
        if not condition:
            self.outcome.wrong.append(f"{what}, after {sent[-300:]!r}")

    def judge_frames(self, sent: bytes, answered: bytes) -> None:
        """Whole frames, at most one close, no message after it, and a code that may be sent."""
        at, closed = 0, False
        while at < len(answered):
            # A ping is answered until the peer's close frame has come (RFC 6455 §5.5.2).
            after = closed and answered[at] != 0x8A
            self.expect(not after, "a frame follows the close frame", sent)
            size, begin = answered[at + 1], at + 2
            if size in (126, 127):
                begin = at + (4 if size == 126 else 10)
                size = int.from_bytes(answered[at + 2 : begin], "big")
            self.expect(size >= 0 and begin + size <= len(answered), "a cut frame", sent)
            opcode, payload = answered[at] & 15, answered[begin : begin + size]
            self.expect(opcode in (1, 2, 8, 10), f"opcode {opcode}", sent)
            if opcode == 8:
                closed = True
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.codes[code] += 1
                self.expect(code in SENDABLE or not payload, f"close code {code}", sent)
            at = begin + size

    def judge_head(self, sent: bytes, answered: bytes) -> int:
        """An HTTP answer of the table, or none at all; its status."""
        if not answered:
            self.statuses[0] += 1
            return 0
        head, _, _ = answered.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        self.statuses[status] += 1
        self.expect(status in STATUSES, f"status {status}", sent)
        self.expect(head.startswith(b"HTTP/1.1 "), f"answer {head!r}", sent)
        return status

    async def connection(self, opening: bytes) -> Buffer:
        """A connection on a buffer, whose opening request has been read."""
        loop = asyncio.get_running_loop()
        transport = self.server._transports.accepted(None)
        assert transport is not None
        self.number += 1
        socket = Buffer(transport, loop, self.number)
        transport.connection_made(socket)  # type: ignore[arg-type]
        await socket.feed(opening)
        await asyncio.sleep(0)
        return socket

    async def leave(self, socket: Buffer) -> None:
        if not socket.closed:
            asyncio.get_running_loop().call_soon(socket.transport.eof_received)
            await asyncio.sleep(0)
            for _ in range(3):
                await asyncio.sleep(0)
        socket.close()
        await asyncio.sleep(0)

    async def nothing_left(self) -> None:
        """Nothing of the connections is left when they have ended."""
        for _ in range(2000):
            if not (self.server._app.sessions or self.server._transports._open):
                break
            await asyncio.sleep(0.005)
        self.outcome.expect(not self.server._app.sessions, "sessions are left")
        self.outcome.expect(not self.server._transports._open, "transports are left")
        self.outcome.expect(not self.server._app._admission._count, "the cap still counts some")


async def frames_on_buffers(bench: Bench, chance: random.Random, count: int) -> None:
    """So many frames, each on a connection that is still open."""
    frames, tried = Mutations(chance, FRAMES), 0
    while tried < count:
        socket = await bench.connection(request("/", chance.choice([b"", OFFER])))
        assert socket.written.startswith(b"HTTP/1.1 101")
        socket.written, sent = b"", b""
        for _ in range(40):
            data = frames.next()
            sent = (sent + data)[-100_000:]
            bench.log.what = f"after {sent[-300:]!r}"
            tried += 1
            await socket.feed(data)
            if socket.over or tried >= count:
                break
        await asyncio.sleep(0)
        await bench.leave(socket)
        bench.judge_frames(sent, socket.written)


async def handshakes_on_buffers(bench: Bench, chance: random.Random, count: int) -> None:
    openings = Mutations(chance, HANDSHAKES, HTTP_WORDS)
    for _ in range(count):
        data = openings.next()
        bench.log.what = f"after {data[-300:]!r}"
        socket = await bench.connection(data)
        await asyncio.sleep(0)
        whole = socket.ended
        await bench.leave(socket)
        if bench.judge_head(data, socket.written) == 101:
            bench.judge_frames(data, socket.written.partition(b"\r\n\r\n")[2])
        elif not socket.written and whole:
            bench.statuses[-1] += 1


async def payloads_on_buffers(bench: Bench, chance: random.Random, count: int) -> None:
    """So many payloads in valid frames, half of them JSON, half of them MessagePack."""
    json = [msgspec.json.encode(value) for value in VALUES]
    msgpack = [msgspec.msgpack.encode(value) for value in VALUES]
    kinds = [
        (b"", 1, Mutations(chance, json, PAYLOAD_WORDS)),
        (MSGPACK, 2, Mutations(chance, msgpack, PAYLOAD_WORDS)),
    ]
    tried = 0
    while tried < count:
        headers, opcode, payloads = kinds[bench.number % 2]
        socket = await bench.connection(request("/typed/a", headers))
        assert socket.written.startswith(b"HTTP/1.1 101")
        socket.written, sent = b"", b""
        for _ in range(20):
            data = payloads.next()
            sent = (sent + data)[-100_000:]
            bench.log.what = f"after {sent[-300:]!r}"
            tried += 1
            await socket.feed(frame(data, opcode))
            if socket.over:
                break
        await asyncio.sleep(0)
        await bench.leave(socket)
        bench.judge_frames(sent, socket.written)


async def on_sockets(bench: Bench, chance: random.Random, count: int) -> None:
    """A sample of all that on real sockets."""
    frames, openings = Mutations(chance, FRAMES), Mutations(chance, HANDSHAKES, HTTP_WORDS)

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
        data, fuzzed = request(), chance.random() < 0.5
        if fuzzed:
            data = openings.next()
        data += b"".join(frames.next() for _ in range(10))
        try:
            writer.write(data)
            if chance.random() < 0.7:
                writer.write_eof()
            reading = asyncio.ensure_future(reader.read())
            await asyncio.wait([reading], timeout=0.5)
            if not reading.done():
                writer.write_eof()
            answered = await asyncio.wait_for(reading, 15)
        except ConnectionError:
            return
        finally:
            writer.transport.abort()
        status = bench.judge_head(data, answered)
        if status == 101:
            bench.judge_frames(data, answered.partition(b"\r\n\r\n")[2])

    for _ in range(0, count, 50):
        await asyncio.gather(*(one() for _ in range(50)))


Fuzz = Callable[[Bench, random.Random, int], Awaitable[None]]


def _check(fuzz: Fuzz, quick: int, whole: int, *loops: Any) -> Callable[[Scale], Outcome]:
    def measure(scale: Scale) -> Outcome:
        outcome, log = Outcome(), Log(Outcome())
        log.outcome = outcome
        chance, count = scale.random(), scale.of(quick, whole)
        settings = Settings(
            port=0,
            compression="deflate",
            max_message_size=100_000,
            close_timeout=2.0,
            ping_interval=0,
            max_handshakes=100_000,
            max_connections=0,
        )
        codes, statuses = Counter[int](), Counter[int]()

        async def run(times: int) -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(
                lambda _, context: outcome.wrong.append(f"to the loop: {context} {log.what}")
            )
            async with serve(app(), settings) as server:
                bench = Bench(server, outcome, log)
                await fuzz(bench, chance, times)
                await bench.nothing_left()
                codes.update(bench.codes)
                statuses.update(bench.statuses)

        logger = logging.getLogger("wsflow")
        level, propagate = logger.level, logger.propagate
        logger.addHandler(log)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logging.getLogger("wsflow.access").disabled = True
        try:
            for loop in loops:
                with asyncio.Runner(loop_factory=loop) as runner:
                    runner.run(run(count // len(loops)))
        finally:
            logger.removeHandler(log)
            logger.setLevel(level)
            logger.propagate = propagate
            logging.getLogger("wsflow.access").disabled = False
        answers = [
            f"{code} ×{times}" for code, times in sorted(codes.items()) if times > count // 5000
        ]
        answers += [
            f"HTTP {each or 'none'} ×{times}"
            for each, times in sorted(statuses.items())
            if each >= 0
        ]
        outcome.figures = f"{count:,}, {len(outcome.wrong)} wrong; {', '.join(answers)}"
        return outcome

    return measure


LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)
ROW = Row(
    4,
    "malformed frames, handshakes, payloads (JSON and MessagePack)",
    "10^6, 2·10^5, 10^5, seeded",
    "0 crashes, 0 tracebacks, every answer in the table",
    [
        Check("frames", _check(frames_on_buffers, 20_000, 1_000_000, LOOPS[0])),
        Check("handshakes", _check(handshakes_on_buffers, 6_000, 200_000, LOOPS[0])),
        Check("payloads", _check(payloads_on_buffers, 6_000, 100_000, LOOPS[0])),
        Check("on sockets", _check(on_sockets, 200, 10_000, *LOOPS)),
    ],
)
test_quick, test_whole = both_forms(ROW)
