"""All of RFC 6455 that is not on the fast path, by the Sans-I/O protocol of ``websockets``.

The library receives complete frames, so that it and the fast path agree on where the next one
begins. A protocol object is created when a frame needs it. Between two messages of an open
connection it has no state, and is released: an idle connection has none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast, final

from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from wsflow.limits import SocketLimits
from wsflow.messages.encoded import EncodedMessage
from wsflow.transports.frames import Boundary, Found

# No context takeover: a connection keeps no state, and one compressed frame serves many peers.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=12,
    client_max_window_bits=12,
    compress_settings={"memLevel": 5},
)

# The library logs each connection, which the access log does already; and on the level DEBUG each
# header, with its token.
QUIET = logging.getLogger("wsflow.websockets")
QUIET.setLevel(logging.ERROR)


def server_protocol(limits: SocketLimits) -> ServerProtocol:
    """The protocol of a server's handshake."""
    return ServerProtocol(
        extensions=[_DEFLATE] if limits.compression == "deflate" else None,
        max_size=limits.max_message_size,
        logger=QUIET,
    )


def release(protocol: Protocol) -> None:
    """Break its reference cycles: it is not needed any more."""
    protocol.parser.close()  # it refers to the protocol, and holds the last message
    exc: BaseException | None = protocol.parser_exc or protocol.handshake_exc
    while exc is not None:  # their frames refer to it, too
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__


@final
class Library:
    """The library's part of one connection.

    Args:
        limits: the limits of received messages.
        client: whether this side is the client, which masks what it sends.

    Attributes:
        client: the same.
        partial: whether a frame or a message is incomplete.
        between: whether it is between two messages, so that the next may take the fast path.
        extensions: the negotiated extensions.
        ponged: called with the payload of each pong; None to ignore pongs.
    """

    # fmt: off
    __slots__ = (
        "_boundary", "_limits", "_parts", "_protocol", "_text", "between", "client", "extensions",
        "partial", "ponged",
    )
    # fmt: on

    def __init__(self, limits: SocketLimits, *, client: bool = False) -> None:
        self._limits = limits
        self._protocol: Protocol | None = None
        self._boundary: Boundary | None = None  # of a frame that is incomplete
        self._parts: list[bytes] | None = None  # fragments of a message
        self._text = False  # whether they are of a text message
        self.between = True
        self.partial = False
        self.client = client
        self.extensions: Sequence[Extension] = ()
        self.ponged: Callable[[bytes], None] | None = None

    @property
    def protocol(self) -> Protocol:
        """The protocol; created if there is none."""
        protocol = self._protocol
        if protocol is None:
            side = CLIENT if self.client else SERVER
            protocol = Protocol(side, max_size=self._limits.max_message_size, logger=QUIET)
            protocol.extensions = list(self.extensions)
            self._protocol = protocol
        return protocol

    def let_go(self) -> None:
        """Release the protocol if it has no state."""
        if self.between and self._protocol is not None and self._protocol.state is OPEN:
            self._release()

    def forget(self) -> None:
        """Release the protocol, and who is told of pongs: the socket is closed."""
        self._release()
        self.ponged = None

    def _release(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            release(protocol)

    def data_to_send(self) -> list[bytes]:
        """The data that the protocol sends; an empty item is the end of the stream."""
        return self._protocol.data_to_send() if self._protocol is not None else []

    def give(self, data: bytes, at: int) -> int:
        """Pass on what has come of the frame at ``at``. Returns where that ends."""
        if self._boundary is None and data[at] & 0x0F == Opcode.CLOSE:
            # It may come between fragments (RFC 6455 §5.4), which the library reports as an error.
            self.protocol.current_size = None
        boundary = self._boundary or Boundary()
        stop = boundary.take(data, at)
        self._boundary = None if boundary.reached else boundary
        self.protocol.receive_data(data[at:stop])
        self._update()
        return stop

    def _update(self) -> None:
        self.partial = self._boundary is not None or self._parts is not None
        self.between = not self.partial

    def messages(self) -> list[Found]:
        """The messages that are complete now. One with too many fragments fails the connection."""
        found: list[Found] = []
        for event in self.protocol.events_received():
            frame = cast(WireFrame, event)
            data = bytes(frame.data)
            if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
                self._text = frame.opcode is Opcode.TEXT
                if frame.fin:
                    found.append((data, self._text, 0))
                else:
                    self._parts = [data]
            elif frame.opcode is Opcode.CONT:
                parts = cast("list[bytes]", self._parts)
                parts.append(data)
                if len(parts) > self._limits.max_fragments:
                    self.protocol.fail(1009, "too many fragments")
                    break
                if frame.fin:
                    self._parts = None
                    found.append((b"".join(parts), self._text, 0))
            elif frame.opcode is Opcode.PONG and self.ponged is not None:
                self.ponged(data)
        self._update()
        return found

    def extended(self, payload: bytes, text: bool) -> bytes:
        """The frame of a message, encoded by the extensions, and masked in a client."""
        frame = WireFrame(Opcode.TEXT if text else Opcode.BINARY, payload)
        return frame.serialize(mask=self.client, extensions=self.extensions)

    def shared(self, message: EncodedMessage) -> bytes:
        """The frame of a message to many peers, built once for all with the same parameters."""
        # Without context takeover, the compressed bytes depend on no other parameter.
        form = cast(PerMessageDeflate, self.extensions[0]).local_max_window_bits
        if form not in message.forms:
            message.forms[form] = self.extended(message.payload, message.text)
        return message.forms[form]
