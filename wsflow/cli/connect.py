"""``wsflow connect``: send and receive messages in the terminal, or in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import sys
import threading
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wsflow.cli.client import HeaderLines, Subprotocols, Uri, headers_of, outcome
from wsflow.cli.typed import MistypedError, Typed, route, shown
from wsflow.client import ClientLimits, Peer, Reconnect
from wsflow.client import connect as open_peer
from wsflow.errors import Disconnected
from wsflow.log import TextFormatter, escaped_lines, log_to_stderr, say
from wsflow.messages.codec import BoundCodec, bound
from wsflow.messages.hooks import NO_HOOKS
from wsflow.server.exits import Exit, UsageError
from wsflow.server.loading import wired


def connect(
    uri: Uri,
    /,
    *,
    app: Annotated[
        str | None,
        Parameter(
            help="The server's app: module:attribute. With it, messages are completed, and "
            "validated before they are sent: say text=hello"
        ),
    ] = None,
    codec: Annotated[
        Literal["json", "msgpack"],
        Parameter(help="How messages are encoded. msgpack is shown and typed as JSON."),
    ] = "json",
    header: HeaderLines = (),
    subprotocol: Subprotocols = (),
    origin: Annotated[str | None, Parameter(help="The Origin header to send.")] = None,
    reconnect: Annotated[bool, Parameter(help="Reconnect when the connection is lost.")] = False,
    wait: Annotated[
        float,
        Parameter(
            help="At the end of piped input: close once all calls are answered and no message has "
            "come for this many seconds; inf to wait until the server closes."
        ),
    ] = 1.0,
    timeout: Annotated[float, Parameter(help="Seconds to wait for the connection.")] = 10.0,
) -> int:
    """Connect to a WebSocket server, and send and receive messages.

    In a terminal: type messages, and see what is received, with time and direction; /help lists the
    commands. In a pipe: each input line is sent, and each received message is written as a line.
    Exit codes: 0 the connection ended normally, 2 usage error, or a line that is not a valid
    message, 3 the app cannot be loaded, 6 the server cannot be reached or refuses the connection,
    7 it closed with a code other than 1000 or 1001, or the connection was lost.
    """
    log_to_stderr("warning", TextFormatter("%(levelname)s %(name)s: %(message)s"))
    try:
        plan = route(wired(app), uri) if app is not None else None
    except LookupError as exc:
        raise UsageError(exc.args[0]) from None
    codecs = bound(codec, plan.codecs[0].hooks if plan else NO_HOOKS)
    typed = Typed(codecs, plan)
    offered = subprotocol if codec == "json" else (*subprotocol, codecs.subprotocol)
    peer = open_peer(
        uri,
        headers=headers_of(header),
        subprotocols=offered,
        reconnect=Reconnect() if reconnect else False,
        limits=ClientLimits(open_timeout=timeout),
        origin=origin,
    )
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            if importlib.util.find_spec("prompt_toolkit") is not None:
                shell: Any = importlib.import_module("wsflow.cli.shell")
                return outcome(asyncio.run(shell.talk(peer, uri, typed, codecs)))
            say("for history and completion: pip install 'wsflow[connect]'")
        return asyncio.run(_pipe(peer, typed, codecs, wait))
    except KeyboardInterrupt:
        return Exit.STOPPED


# -- from a pipe


async def _pipe(connecting: open_peer, typed: Typed, codec: BoundCodec, wait: float) -> int:
    heard = asyncio.Event()

    async def write(peer: Peer) -> None:
        while True:
            message = await peer.receive()
            text = shown(message, codec)
            print(escaped_lines(text) if sys.stdout.isatty() else text, flush=True)
            heard.set()
            if (reply := typed.heard(message)) is not None:
                await peer.send(reply)

    async with connecting as peer:
        writing = asyncio.create_task(write(peer))
        sending = asyncio.create_task(_send_lines(peer, typed, Lines(sys.stdin.fileno())))
        try:
            await asyncio.wait([writing, sending], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            while not writing.done():
                heard.clear()
                quiet = asyncio.create_task(heard.wait())
                done, _ = await asyncio.wait(
                    [quiet, writing],
                    timeout=None if typed.asked or wait == float("inf") else wait,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                quiet.cancel()
                if not done:
                    break
            if writing.done():
                writing.result()
            end = peer.end
        except MistypedError as exc:
            say(f"wsflow: {exc}")
            return Exit.USAGE
        except Disconnected as exc:
            end = exc.end
        finally:
            sending.cancel()
            writing.cancel()
            await asyncio.wait([sending, writing])
    return outcome(end)


async def _send_lines(peer: Peer, typed: Typed, lines: Lines) -> None:
    number = 0
    while (line := await lines.next()) is not None:
        number += 1
        if line.strip():
            try:
                message = typed.read(line)
            except MistypedError as exc:
                raise MistypedError(f"line {number}: {exc}") from None
            await peer.send(message)


class Lines:
    """The lines of a file that may block: a daemon thread reads them, which is never joined."""

    def __init__(self, fd: int) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        # Not by sys.stdin, whose lock the thread would hold when the process ends.
        threading.Thread(target=self._read, args=(fd,), daemon=True).start()

    def _read(self, fd: int) -> None:
        rest = b""
        with contextlib.suppress(OSError):  # the descriptor was closed, or its terminal is gone
            while data := os.read(fd, 64 * 1024):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    self._put(line)
        if rest:
            self._put(rest)
        self._put(None)

    def _put(self, line: bytes | None) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r") if line is not None else None
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is no reader
            self._loop.call_soon_threadsafe(self._queue.put_nowait, text)

    async def next(self) -> str | None:
        """The next line, None at the end."""
        return await self._queue.get()
