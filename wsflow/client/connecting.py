"""A client connection as an object: ``async with wsflow.connect(uri) as peer``."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Union, cast, final, overload

import anyio

from wsflow.client.limits import ClientLimits
from wsflow.client.options import check_options
from wsflow.client.reconnecting import DONE, Reconnect
from wsflow.client.running import (
    AskCredential,
    Client,
    check_uri,
    checked_headers,
    dial_sockets,
    reconnecting,
)
from wsflow.connection import Connection
from wsflow.declare.router import Router
from wsflow.end import End
from wsflow.errors import DeclarationError, Disconnected
from wsflow.http import HeaderItems
from wsflow.limits import check_is
from wsflow.messages.calls import Call, Stream
from wsflow.messages.codec import Codec
from wsflow.messages.hooks import DecHook, EncHook
from wsflow.runtime.session import Session
from wsflow.tasks.waiting import Condition
from wsflow.transports.client import ClientTransport, Dialler
from wsflow.transports.deadline import look
from wsflow.wiring.compile import compile_app
from wsflow.wiring.plan import AppPlan

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    M = TypeVarWithDefault("M", default=Any)
else:
    M = TypeVar("M")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")


@final
class _Mailbox:
    """The messages that a peer has received, and its connection.

    Attributes:
        connection: the current connection; None while there is none.
        messages: what was received and not read yet.
        condition: notified of changes of both.
        asks: whether answers to calls can be told apart from other messages.
    """

    def __init__(self, *, asks: bool) -> None:
        self.connection: Connection | None = None
        self.messages: deque[Any] = deque()
        self.condition = Condition()
        self.asks = asks

    async def take(self, messages: AsyncIterator[Any], connection: Connection) -> None:
        """The consumer: hand over one message after the other. What was received before the
        connection ended can still be read."""
        self._connected(connection)
        try:
            async for message in messages:
                self._put(message)
                await self.condition.wait_for(lambda: not self.messages)
        finally:
            self.connection = None
            with anyio.CancelScope(shield=True):
                async for message in messages:  # the inbox is closed: this ends
                    self._put(message)
            self.condition.notify_all()

    async def hold(self, connection: Connection) -> None:
        """The producer, where only answers to calls are received: keep the connection open."""
        self._connected(connection)
        try:
            await anyio.sleep_forever()
        finally:
            self.connection = None
            self.condition.notify_all()

    def _connected(self, connection: Connection) -> None:
        self.connection = connection
        self.condition.notify_all()

    def _put(self, message: Any) -> None:
        self.messages.append(message)
        self.condition.notify_all()


@final
class Peer(Generic[M]):
    """The server, as the peer of a client: ``async with connect(…) as peer``. Safe to use from
    several tasks.

    ``async for message in peer`` iterates the messages of the server. It ends when the connection
    ends normally for good (1000, 1001, or without a code), and raises Disconnected after any other
    end. A wait that exceeds its timeout raises TimeoutError.
    """

    def __init__(self, client: Client, mailbox: _Mailbox) -> None:
        self._client = client
        self._mailbox = mailbox

    @property
    def connection(self) -> Connection | None:
        """The current connection; None while there is none."""
        return self._mailbox.connection

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, None without one."""
        connection = self.connection
        return connection.subprotocol if connection is not None else None

    @property
    def end(self) -> End | None:
        """How the last connection ended, once the client does not reconnect; None before that."""
        return self._client.end if self._client.over else None

    async def _wait_for(self, predicate: Callable[[], object]) -> None:
        await self._mailbox.condition.wait_for(predicate)

    async def _connected(self) -> Connection:
        await self._wait_for(lambda: self.connection or self.end)
        if (connection := self.connection) is None:
            raise Disconnected(self.end)
        return connection

    async def _gone(self, connection: Connection) -> None:
        await self._wait_for(lambda: self.connection is not connection)

    def _check_asks(self) -> None:
        if not self._mailbox.asks:
            raise TypeError(
                "raw messages cannot be told apart from answers: name the message types that the "
                "server sends, as in connect(uri, receives=(Said, Came)), or receives=() for none"
            )

    async def send(self, message: object) -> None:
        """Send a message, as ``Connection.send``. With ``reconnect`` it waits for a connection;
        what was sent shortly before a connection is lost may be lost with it.

        Raises:
            Disconnected: the connection has ended, and the client does not reconnect.
            TypeError: msgspec cannot encode the message.
        """
        while True:
            connection = await self._connected()
            try:
                await connection.send(message)
            except Disconnected:
                await self._gone(connection)
            else:
                return

    async def call(self, message: Call[R], *, timeout: float | None = None) -> R:
        """Call the server, and wait for its answer: see ``Connection.call``."""
        self._check_asks()
        return await (await self._connected()).call(message, timeout=timeout)

    def stream(self, message: Stream[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Call the server for a stream: see ``Connection.stream``.

        Raises:
            Disconnected: there is no connection at the moment.
        """
        self._check_asks()
        if (connection := self.connection) is None:
            raise Disconnected(self.end)
        return connection.stream(message)

    async def receive(self, *, timeout: float | None = None) -> M:
        """Wait for the next message, and return it. Cancelling it loses no message.

        Args:
            timeout: seconds; None to wait without a limit.

        Raises:
            TimeoutError: no message came within ``timeout``.
            Disconnected: the connection has ended, the client does not reconnect, and all messages
                were read.
            ConnectError: the connection was lost, and reconnecting failed for good.
        """
        messages = self._mailbox.messages
        with anyio.move_on_after(timeout):
            await self._wait_for(lambda: messages or self.end)
        if not (messages or self.end):
            await look()  # it may have come and not be read yet
        if messages:
            message: M = messages.popleft()
            self._mailbox.condition.notify_all()
            return message
        end = self.end
        if end is None:
            raise TimeoutError(f"no message came within {timeout:g} s")
        raise end.error or Disconnected(end)

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    async def __anext__(self) -> M:
        """The next message. The iteration ends after a close with 1000, 1001 or without a code.

        Raises:
            Disconnected: the connection ended in another way.
        """
        try:
            return await self.receive()
        except Disconnected as exc:
            if exc.end is None or exc.end.code in DONE:
                raise StopAsyncIteration from None
            raise

    async def ping(self) -> float:
        """Send a ping (RFC 6455 §5.5.2) and wait for its pong. Returns the round-trip time in
        seconds. It has no timeout of its own: a server that does not answer is found by the
        keepalive. Cancelling it is safe.

        Raises:
            Disconnected: the connection has ended, or ends meanwhile.
        """
        await self._connected()
        session = cast(Session, self._client.session)
        wire = cast(ClientTransport, cast(Dialler, session.transport).wire)
        seconds = await wire.ping()
        if seconds is None:
            raise Disconnected(session.end)
        return seconds

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, as ``Connection.close``. The client does not reconnect."""
        self._client.come_back_no_more()
        if (connection := self.connection) is not None:
            await connection.close(code, reason)


@final
class connect(Generic[M]):  # noqa: N801
    """Connect to a server: ``async with wsflow.connect("wss://…", receives=(Said,)) as peer``.

    For asyncio and Trio. Leaving the block closes the connection, with 1000, or with 1011 if the
    block raised.

    Args:
        uri: a ``ws://`` or ``wss://`` URI.
        receives: the types of the messages that the server sends: one, or a tuple of them; ``()``
            if it only answers calls. Without it messages are raw ``str`` and ``bytes``, and calls
            are not available.
        reconnect: whether and how to reconnect; see ``wsflow.client.reconnecting`` for when.
        resume: the name of the query parameter in which the server takes the last event id.
        codec: how messages are written: ``"json"``, ``"msgpack"`` or a ``Codec``.
        dec_hook: decodes types of your own, as that of ``Router``.
        enc_hook: encodes them.
        unknown: what happens to a message with a tag that no type of ``receives`` has, as
            ``Router`` takes it: ``"ignore"`` it, so that a server may send new types, or
            ``"close"`` the connection, as for any message that cannot be decoded.
        headers: headers of the opening request.
        subprotocols: subprotocols to offer.
        limits: limits of the runtime and of the connection.
        credential: a function, plain or async, that returns a token: see ``run_client``. With raw
            messages it is not renewed by a message; the client comes back with a new one.
        options: more arguments of ``websockets.connect``: ``ssl``, ``proxy``, ``origin``,
            ``user_agent_header``, ``server_hostname``, ``host``, ``port``, ``sock``, …

    Raises:
        ValueError: the URI is invalid, a header cannot be sent, or ``unknown`` is neither of both.
        TypeError: ``receives`` has a type that msgspec cannot decode, or types that it cannot tell
            apart; ``credential`` is no function; or there is no such option.
        ConnectError: on entering: the server cannot be reached, or refuses the connection.
    """

    @overload
    def __init__(
        self: connect[A],
        uri: str,
        *,
        receives: type[A] | tuple[type[A]],
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: connect[A | B],
        uri: str,
        *,
        receives: tuple[type[A], type[B]],
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: connect[A | B | C],
        uri: str,
        *,
        receives: tuple[type[A], type[B], type[C]],
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: connect[A | B | C | D],
        uri: str,
        *,
        receives: tuple[type[A], type[B], type[C], type[D]],
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: connect[Any],
        uri: str,
        *,
        receives: Any,
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: connect[str | bytes],
        uri: str,
        *,
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None: ...
    def __init__(
        self,
        uri: str,
        *,
        receives: Any = (str, bytes),
        reconnect: Reconnect | bool = False,
        resume: str = "",
        codec: Literal["json", "msgpack"] | Codec = "json",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        unknown: Literal["close", "ignore"] = "ignore",
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        limits: ClientLimits | None = None,
        credential: AskCredential | None = None,
        **options: Any,
    ) -> None:
        kinds = tuple(receives) if isinstance(receives, tuple | list) else (receives,)
        self._mailbox = _Mailbox(asks=not {str, bytes} & set(kinds))
        if unknown not in ("close", "ignore"):
            raise ValueError(f'unknown is {unknown!r}: use "close" or "ignore"')
        router = Router(codec=codec, unknown=unknown, dec_hook=dec_hook, enc_hook=enc_hook)
        self._plan = _plan(self._mailbox, kinds, router)
        self._uri = check_uri(uri)
        self._limits = ClientLimits() if limits is None else limits
        check_is(self._limits, ClientLimits, "limits")
        self._settings: dict[str, Any] = {
            "reconnect": reconnecting(reconnect),
            "resume": resume,
            "headers": checked_headers(headers),
            "subprotocols": subprotocols,
            "credential": credential,
            "options": check_options(options),
        }

    async def __aenter__(self) -> Peer[M]:
        condition = self._mailbox.condition
        client = Client(
            self._plan,
            self._uri,
            dial_sockets(self._limits),
            limits=self._limits,
            changed=condition.notify_all,
            **self._settings,
        )
        self._client = client
        self._peer: Peer[M] = Peer(client, self._mailbox)
        client.start()
        try:
            await condition.wait_for(lambda: self._mailbox.connection or client.over)
        except BaseException:
            client.stop()
            await client.wait_shielded()
            raise
        if not client.was_open:
            await client.wait()  # raises the reason
        return self._peer

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._peer.close(1011 if isinstance(exc, Exception) else 1000)
        self._client.stop()
        await self._client.wait_shielded()


def _plan(
    mailbox: _Mailbox,
    kinds: tuple[Any, ...],
    router: Router,
) -> AppPlan:
    """The plan of a Router that hands all messages to a mailbox."""

    async def hold(connection: Connection) -> None:
        await mailbox.hold(connection)

    async def take(messages: Any, connection: Connection) -> None:
        await mailbox.take(messages, connection)

    if kinds:
        take.__annotations__["messages"] = AsyncIterator[Union[kinds]]  # type: ignore[valid-type]  # noqa: UP007
        router.consumer(take)
    else:
        router.producer(hold)
    try:
        return compile_app(router, client=True)
    except DeclarationError as exc:
        wrong = exc.problems[0]
        if wrong.where == router._where:  # its codec, or a hook
            raise TypeError(f"{wrong.why} Fix: {wrong.cure}") from None
        raise TypeError(f"receives: {wrong.why}") from None
