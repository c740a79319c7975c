"""The seam between the wire and the runtime: what a transport does, and what it reports.

A transport is one end of one connection. It speaks RFC 6455 (or stands in for it) and knows
nothing of handlers. All methods are synchronous and none of them raises: a transport whose peer is
gone ignores what it is told. It reports to one ``Receiver``, by callback, in the order of events.
During a callback there may be no current task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from wsflow.addresses import Address
from wsflow.messages.codec import Packed
from wsflow.messages.encoded import EncodedMessage
from wsflow.request import Request
from wsflow.tasks.waiting import Clock
from wsflow.transports.frames import Found


class Sends(Protocol):
    """What sends a message: ``Transport.send``."""

    def send(self, payload: bytes, text: bool, raw: bool) -> bool: ...


class Transport(Clock, Protocol):
    """What the runtime asks of a transport.

    Attributes:
        from_loop: whether it reports from the event loop itself, where no task is current.
        dials: whether it is a client's: ``accept`` begins to connect, and ``opened`` or ``refused``
            is reported once that is done.
    """

    from_loop: bool
    dials: bool

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent so far: on the wire, before TLS; those of the messages where
        there are no frames."""

    def accept(self, subprotocol: str | None) -> None:
        """Answer the handshake with 101. At most once, and not after ``reject``.

        A client's begins the handshake; the answer decides on the subprotocol.
        """

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Answer the handshake with an HTTP error. At most once, and not after ``accept``."""

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        """Write a message. It is buffered without bound: heed ``pause_writing``.

        It leaves when this iteration of the event loop ends, together with what else is sent in
        it, or once enough has been collected.

        Args:
            payload: its bytes.
            text: whether it goes as text or as binary.
            raw: whether it is a ``str`` or ``bytes`` as it is, and not encoded by a codec.

        Returns:
            Whether enough was collected: others should get their turn.
        """

    def send_all(self, messages: Sequence[Packed]) -> bool:
        """Write several messages, as ``send`` does."""

    def share(self, message: EncodedMessage) -> None:
        """Write a message that is sent to many peers, as ``send`` does."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, unless one went out, and close the wire once that is answered.

        ``code`` may be sent and ``reason`` fits: the caller has checked.
        """

    def pause_reading(self, *, briefly: bool = False) -> None:
        """Read and report no more until ``resume_reading``.

        The keepalive deadline waits meanwhile, and a peer that leaves may go unnoticed.

        Args:
            briefly: for some turns of the loop: what is behind a message in the same read waits
                until that is handled. Reading itself need not stop. Does nothing where each
                message comes by itself.
        """

    def resume_reading(self) -> None:
        """Report messages again."""


class OneByOne:
    """A transport that gains nothing by writing several messages at once."""

    __slots__ = ()

    def send_all(self: Sends, messages: Sequence[Packed]) -> bool:
        return True in [self.send(*each) for each in messages]


class DiallingTransport(Transport, Protocol):
    """The Transport of a client. It is made with what begins the connection: ``Begin``."""

    async def closed(self) -> None:
        """Wait until nothing of it is left: each step bounds itself."""


class Receiver(Protocol):
    """What a transport reports."""

    def opened(self, subprotocol: str | None) -> None:
        """The handshake that this client has begun is answered with 101."""

    def refused(self, error: BaseException) -> None:
        """It is not, or there is no connection at all: a ``ConnectError``, or what else has ended
        the attempt."""

    def messages_received(self, messages: Sequence[Found]) -> int:
        """Whole messages have come, in this order: the payload, and whether it is text.

        Returns:
            How many were taken; reading is paused then, and the others are reported again.
        """

    def peer_closed(self, code: int, reason: str) -> None:
        """The peer sent a close frame (1005 if it had no code). It has been answered."""

    def peer_vanished(self) -> None:
        """The wire ended without a close frame, or the peer no longer answers pings."""

    def peer_failed(self, code: int, reason: str) -> None:
        """The peer broke the protocol or a limit. The close frame with this code has gone out."""

    def pause_writing(self) -> None:
        """The buffer is above its high-water mark."""

    def resume_writing(self) -> None:
        """The buffer is below its low-water mark again."""


Begin = Callable[[Transport], Receiver]
"""Begins a client's connection on a transport; what the transport is to report to."""


class Nobody:
    """Stands where no connection has begun: takes nothing in, and says nothing."""

    def opened(self, subprotocol: str | None) -> None: ...
    def refused(self, error: BaseException) -> None: ...
    def messages_received(self, messages: Sequence[Found]) -> int:
        return len(messages)

    def peer_closed(self, code: int, reason: str) -> None: ...
    def peer_vanished(self) -> None: ...
    def peer_failed(self, code: int, reason: str) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


NOBODY: Receiver = Nobody()


def nothing() -> None:
    """Nobody is told when an answer was sent."""


class Exchange(Clock, Protocol):
    """A request that waits for its answer, as pages see it."""

    def answer(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        sent: Callable[[], None] = nothing,
    ) -> None:
        """Answer it. Without effect after the first time.

        ``sent`` is called once nothing of the answer waits here: it has gone out, or never will.
        """


class Acceptor(Protocol):
    """Who decides on opening requests: the app."""

    def open(self, request: Request, transport: Transport) -> Receiver | None:
        """Begin a connection, or reject it through the transport and return None."""

    def page(self, method: str, request: Request, exchange: Exchange) -> None:
        """Answer a request that is none for a WebSocket."""

    def refused(self, path: str, client: Address | None, status: int) -> None:
        """The transport has answered an opening request with an HTTP error itself."""
