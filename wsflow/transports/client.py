"""The transport of a client on a socket.

``websockets.connect`` makes the connection, with proxies, TLS, redirects and the timeout. It
creates wsflow's transport instead of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.protocol import OPEN

from wsflow.errors import ConnectError
from wsflow.http import check_headers
from wsflow.limits import SocketLimits
from wsflow.log import shown, shown_uri
from wsflow.messages.encoded import EncodedMessage
from wsflow.tasks.detached import start_task
from wsflow.tasks.waiting import Latch
from wsflow.transports.base import Begin, OneByOne, Receiver
from wsflow.transports.connect_errors import connect_error
from wsflow.transports.handshake import Head
from wsflow.transports.library import QUIET, Library, release
from wsflow.transports.shared import Shared
from wsflow.transports.sockets import Phase, SocketTransport


@dataclass(slots=True)
class Target:
    """Where to connect to, and how.

    Attributes:
        uri: a ``ws://`` or ``wss://`` URI.
        headers: more headers of the opening request.
        subprotocols: subprotocols to offer, in order of preference.
        options: more arguments of ``websockets.connect``.
    """

    uri: str
    headers: Headers = field(default_factory=Headers)
    subprotocols: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def aimed(target: Callable[[], Target]) -> Target:
    """Where to connect to, as it is to be sent.

    Raises:
        ConnectError: it cannot be sent: its query cannot be encoded, or a header is invalid.
    """
    try:
        where = target()
        check_headers(where.headers.raw_items())
    except Exception as exc:
        raise ConnectError(
            f"the opening request cannot be written: {shown(exc)}", retryable=False
        ) from exc
    return where


@final
class ClientTransport(OneByOne, SocketTransport):
    """One attempt to connect, and then the connection."""

    __slots__ = ("_answered", "_head", "_pings", "closed", "protocol")

    def __init__(self, protocol: ClientProtocol, limits: SocketLimits, shared: Shared) -> None:
        super().__init__(Library(limits, client=True), limits, shared)
        self._head = Head()
        self._answered = asyncio.Event()
        self._pings: dict[bytes, Latch] = {}
        self.closed = Latch()
        self.protocol = protocol

    # -- called by websockets.connect

    @property
    def transport(self) -> asyncio.Transport:
        """The socket."""
        return self._socket

    async def handshake(
        self, additional_headers: Headers, user_agent_header: str | None = None
    ) -> None:
        """Send the opening request, and wait for its answer.

        Raises:
            InvalidHandshake: the server refuses it.
        """
        protocol = self.protocol
        request = protocol.connect()
        request.headers.update(additional_headers)
        if user_agent_header is not None:
            request.headers.setdefault("User-Agent", user_agent_header)
        protocol.send_request(request)
        self._write(b"".join(protocol.data_to_send()))
        self.flush()
        await self._answered.wait()
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc

    def start_keepalive(self) -> None:
        """Does nothing: keepalive starts with ``begin``."""

    # -- the answer to the opening request

    def _read_head(self, data: bytes) -> None:
        protocol = self.protocol
        size = self._head.take(data)
        protocol.receive_data(data[:size])
        if protocol.state is OPEN:
            self._phase = Phase.DECIDING
            self._hold(data[size:])
        elif size < len(data):
            protocol.receive_data(data[size:])  # the body of a refusal
        self._look()

    def _look(self) -> None:
        protocol = self.protocol
        if protocol.events_received() or protocol.handshake_exc is not None:
            self._answered.set()

    def _ended(self) -> None:
        if not self._eof:
            self._eof = True
            self.protocol.receive_eof()
            self._look()

    def eof_received(self) -> bool:
        if self._phase is Phase.REQUESTING:
            self._ended()
            return False
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase is Phase.REQUESTING:
            self._ended()
        super().connection_lost(exc)
        release(self.protocol)
        self.closed.set()
        for pinged in self._pings.values():
            pinged.set()

    def begin(self, receiver: Receiver) -> None:
        """Report to ``receiver`` from now on."""
        self._receiver = receiver
        self._library.extensions = tuple(self.protocol.extensions)
        release(self.protocol)  # the handshake was all that it is for
        self._opened()

    # -- frames; a client masks each frame (RFC 6455 §5.3)

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        if self._phase is not Phase.OPEN:
            return False
        return self._write(self._library.extended(payload, text))

    def share(self, message: EncodedMessage) -> None:
        self.send(message.payload, message.text, message.raw)

    def _report_close(self, protocol: Any) -> None:
        super()._report_close(protocol)
        self._linger()  # the server closes the socket (RFC 6455 §7.1.1)

    async def ping(self) -> float | None:
        """Send a ping, and wait for its pong. Returns the round-trip time in seconds, None if the
        socket was closed before."""
        if self._phase is not Phase.OPEN:
            return None
        data = time.monotonic_ns().to_bytes(8, "big")
        pinged = self._pings[data] = Latch()
        began = self.loop.time()
        self._library.protocol.send_ping(data)
        self._flush_protocol()
        try:
            await pinged.wait()
            return self.loop.time() - began if data not in self._pings else None
        finally:
            self._pings.pop(data, None)

    def _pong_received(self, data: bytes) -> None:
        super()._pong_received(data)
        pinged = self._pings.pop(data, None)
        if pinged is not None:
            pinged.set()


@final
class Dialler(OneByOne):
    """The Transport of a client: connects when ``accept`` is called.

    Args:
        target: called when it connects; returns where to.
        begin: begins the connection; called once, by the constructor.
        limits: its limits.
        shared: the state of all transports of the event loop.

    Attributes:
        wire: the transport of the open connection, once there is one.
    """

    dials = True

    def __init__(
        self, target: Callable[[], Target], begin: Begin, limits: SocketLimits, shared: Shared
    ) -> None:
        self._target = target
        self._limits = limits
        self._shared = shared
        self.from_loop = shared.from_loop
        self._dialling: asyncio.Task[ClientTransport | BaseException] | None = None
        self._dialled = Latch()
        self._goodbye: tuple[int, str] | None = None
        self.wire: ClientTransport | None = None
        self._receiver = begin(self)

    @property
    def traffic(self) -> tuple[int, int]:
        return (0, 0) if self.wire is None else self.wire.traffic

    def now(self) -> float:
        return self._shared.loop.time()

    def after(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._shared.loop.call_later(seconds, call)

    def accept(self, subprotocol: str | None) -> None:
        self._dialling = start_task(self._dial(), self._shared.loop, name="wsflow connecting")
        self._dialling.add_done_callback(self._report)

    async def _dial(self) -> ClientTransport | BaseException:
        """Connect. Whatever that raises is reported: nobody else would see it."""
        try:
            return await self._connect()
        except BaseException as exc:
            return exc

    def _report(self, task: asyncio.Task[ClientTransport | BaseException]) -> None:
        """It has connected, or not; also if the task was cancelled before its first step."""
        self._dialled.set()
        made = asyncio.CancelledError() if task.cancelled() else task.result()
        if isinstance(made, asyncio.CancelledError):  # which is none for who runs on Trio
            made = RuntimeError("connecting was cancelled from outside")
        if isinstance(made, BaseException):
            self._receiver.refused(made)
            return
        self.wire = made
        self._receiver.opened(made.protocol.subprotocol)
        made.begin(self._receiver)
        if self._goodbye is not None:  # it was closed since the task has ended
            made.close(*self._goodbye)

    async def _connect(self) -> ClientTransport:
        target = aimed(self._target)
        limits = self._limits

        def create(protocol: ClientProtocol, **_: Any) -> ClientTransport:
            return ClientTransport(protocol, limits, self._shared)

        try:
            made: Any = await connect(
                target.uri,
                additional_headers=target.headers,
                subprotocols=cast(Any, list(target.subprotocols) or None),
                compression="deflate" if limits.compression == "deflate" else None,
                open_timeout=limits.open_timeout,
                logger=QUIET,
                max_size=limits.max_message_size,
                create_connection=cast(Any, create),
                **target.options,
            )
        except Exception as exc:
            raise connect_error(exc, shown_uri(target.uri), limits.open_timeout) from exc
        return cast(ClientTransport, made)

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Does nothing: a client that is rejected does not connect."""

    def close(self, code: int, reason: str) -> None:
        self._goodbye = code, reason
        if self.wire is not None:
            self.wire.close(code, reason)
        elif self._dialling is not None:
            self._dialling.cancel()

    # The following methods are called only on an open connection.

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        return cast(ClientTransport, self.wire).send(payload, text, raw)

    def share(self, message: EncodedMessage) -> None:
        cast(ClientTransport, self.wire).share(message)

    def pause_reading(self, *, briefly: bool = False) -> None:
        cast(ClientTransport, self.wire).pause_reading(briefly=briefly)

    def resume_reading(self) -> None:
        cast(ClientTransport, self.wire).resume_reading()

    async def closed(self) -> None:
        """Wait until the socket is closed; each step has a timeout."""
        if self._dialling is not None:
            await self._dialled.wait()
        if self.wire is not None:
            await self.wire.closed.wait()
