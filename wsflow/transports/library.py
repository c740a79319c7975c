"""All of RFC 6455 that is not on the fast path, left to the Sans-I/O protocol of ``websockets``.

The library is given whole frames, so that both agree on where the next one begins. Between two
messages of an open connection it has nothing to remember: it is let go, and made anew when a frame
needs it. An idle connection has none.
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

# No context is taken over: a connection keeps none, and one compressed frame serves many peers.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=12,
    client_max_window_bits=12,
    compress_settings={"memLevel": 5},
)

# The library logs each connection; the app's access log does.
_quiet = logging.getLogger("wsflow.websockets")
_quiet.setLevel(logging.ERROR)


def server_protocol(limits: SocketLimits) -> ServerProtocol:
    """The protocol of a server's end."""
    return ServerProtocol(
        extensions=[_DEFLATE] if limits.compression == "deflate" else None,
        max_size=limits.max_message_size,
        logger=_quiet,
    )


@final
class Library:
    """The library's part in one connection, from its handshake on.

    Args:
        protocol: the protocol, for the handshake.
        limits: the bounds of what comes.

    Attributes:
        between: whether it is between two messages, so that the next may take the fast path.
        extensions: those that were agreed on.
        ponged: told of each pong, if somebody wants to know.
    """

    # fmt: off
    __slots__ = (
        "_boundary", "_limits", "_masks", "_parts", "_protocol", "_text", "between", "extensions",
        "ponged",
    )
    # fmt: on

    def __init__(self, protocol: Protocol, limits: SocketLimits) -> None:
        self._limits = limits
        self._protocol: Protocol | None = protocol
        self._masks = protocol.side is CLIENT  # and then it takes all that comes
        self._boundary: Boundary | None = None  # of the frame that it is being given
        self._parts: list[bytes] | None = None  # fragments of a message
        self._text = False  # whether they are of a text message
        self.between = not self._masks
        self.extensions: Sequence[Extension] = ()
        self.ponged: Callable[[bytes], None] | None = None

    @property
    def protocol(self) -> Protocol:
        """The protocol, between two frames if it was not kept."""
        protocol = self._protocol
        if protocol is None:
            protocol = Protocol(SERVER, max_size=self._limits.max_message_size, logger=_quiet)
            protocol.extensions = list(self.extensions)
            self._protocol = protocol
        return protocol

    def accepted(self) -> None:
        """The handshake is accepted."""
        self.extensions = tuple(self.protocol.extensions)

    def let_go(self) -> None:
        """Forget the protocol if it has nothing to remember."""
        if self.between and self._protocol is not None and self._protocol.state is OPEN:
            self._protocol = None

    def forget(self) -> None:
        """The socket is closed: it is not needed any more."""
        self._protocol = None

    def data_to_send(self) -> list[bytes]:
        """What it has to say; an empty item is the end of the stream."""
        return self._protocol.data_to_send() if self._protocol is not None else []

    def give(self, data: bytes, at: int) -> int:
        """Give it what has come of the frame that is at ``at``; where that ends."""
        if self._boundary is None and data[at] & 0x0F == Opcode.CLOSE:
            # It may come between fragments (RFC 6455 §5.4), which the library takes for an error.
            self.protocol.current_size = None
        boundary = self._boundary or Boundary()
        stop = boundary.take(data, at)
        self._boundary = None if boundary.reached else boundary
        self.protocol.receive_data(data[at:stop])
        self._update()
        return stop

    def _update(self) -> None:
        self.between = self._boundary is None and self._parts is None and not self._masks

    def messages(self) -> list[Found]:
        """The messages that are whole now. Too many fragments of one fail the connection."""
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
        """The frame of a message, as the extensions make it; masked if this is a client's end."""
        frame = WireFrame(Opcode.TEXT if text else Opcode.BINARY, payload)
        return frame.serialize(mask=self._masks, extensions=self.extensions)

    def shared(self, message: EncodedMessage) -> bytes:
        """The same for a message to many: made once for all whose extensions make the same."""
        # Of deflate without a context, only this makes one peer's bytes another's.
        form = cast(PerMessageDeflate, self.extensions[0]).local_max_window_bits
        if form not in message.forms:
            message.forms[form] = self.extended(message.payload, message.text)
        return message.forms[form]
