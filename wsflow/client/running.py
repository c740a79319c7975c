"""A client: one connection at a time, with reconnects, on the same runtime as the server."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, final

import anyio
from websockets.datastructures import Headers
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from wsflow.brokers import select
from wsflow.client.limits import ClientLimits
from wsflow.client.options import check_options
from wsflow.client.reconnecting import Pauses, Reconnect
from wsflow.declare.router import Router
from wsflow.end import End
from wsflow.errors import ConnectError
from wsflow.http import HeaderItems, check_headers, header_pairs, split_uri
from wsflow.limits import Limits, check_is
from wsflow.log import Log, shown_uri
from wsflow.opening import Opening
from wsflow.runtime.admission import prepare
from wsflow.runtime.app import App
from wsflow.runtime.credentials import Ask
from wsflow.runtime.ending import SHUTDOWN
from wsflow.runtime.session import Dialling, Session
from wsflow.tasks.background import Background
from wsflow.tasks.loops import event_loop
from wsflow.transports.base import Begin, DiallingTransport, Transport
from wsflow.transports.client import Dialler, Target
from wsflow.transports.shared import Shared
from wsflow.wiring.compile import compile_app
from wsflow.wiring.plan import AppPlan

log = Log("wsflow.client")

AskCredential = Callable[[], str] | Callable[[], Awaitable[str]]
"""A callback that returns a token."""

Dial = Callable[[Callable[[], Target], Begin], DiallingTransport]
"""Creates a transport that connects to a target, and begins a connection on it."""


@final
class LastEvents:
    """Remembers the event ids of the messages that a client has handled."""

    def __init__(self) -> None:
        self.ids: dict[type, str] = {}

    def note(self, message: Any, id: str) -> None:
        """A message is being handled. The ids are kept in order, the latest one last."""
        if id:
            self.ids.pop(type(message), None)
            self.ids[type(message)] = id


@final
class Client:
    """Keeps a connection to a server, and reconnects when it is lost.

    Args:
        plan: the wired Router.
        uri: where to connect to.
        dial: creates the transport of each attempt.
        reconnect: how to reconnect; None to connect once.
        headers: headers of each opening request.
        subprotocols: subprotocols to offer, in addition to the Router's own.
        resume: the name of the query parameter that takes the last event id; ``""`` to send none.
        limits: limits of the runtime and of the connection.
        broker: the broker of the client's own topics, as ``wsflow run --broker`` takes it.
        options: more arguments of ``websockets.connect``.
        credential: returns the token of each connection, plain or async; None to send none.
        changed: called on each attempt, when it is connected, and when the client has ended.

    Attributes:
        end: how the last connection ended.
        session: the current connection or attempt.
    """

    def __init__(
        self,
        plan: AppPlan,
        uri: str,
        dial: Dial,
        *,
        reconnect: Reconnect | None = None,
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        resume: str = "",
        limits: Limits,
        broker: str = select.MEMORY,
        options: Mapping[str, Any] | None = None,
        credential: AskCredential | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._uri = uri
        self._dial = dial
        self._reconnect = reconnect
        self._headers = checked_headers(headers)
        if isinstance(subprotocols, str):
            raise TypeError(f"subprotocols is {subprotocols!r}: use a list of names")
        self._subprotocols = tuple(subprotocols)
        self._resume = resume
        self._options = check_options(options or {})
        self._ask = None if credential is None else asking(credential)
        self._asking: anyio.CancelScope | None = None
        self._last = LastEvents()
        self._stop = anyio.Event()
        self._background = Background()
        self.app = App(plan, limits, broker)
        self._admitted = prepare(plan.routes, uri, self._headers)
        self.end: End | None = None
        self.session: Session | None = None

    # -- lifecycle

    def start(self) -> None:
        """Start, in a task of its own."""
        self._background.begin(self._run, "wsflow client", self._changed)

    async def wait(self) -> End:
        """Wait until the client has ended. Cancelling it stops the client and waits for that.

        Raises:
            ConnectError: the server could not be reached, or refused the connection.
            Exception: what a handler or a lifespan raised, if that ended the client.
        """
        await self._background.finished(self.stop)
        assert self.end is not None  # there was an attempt, unless something failed
        if self.end.error is not None:
            raise self.end.error
        return self.end

    @property
    def was_open(self) -> bool:
        """Whether the current or the last connection has been open."""
        return self.session is not None and self.session.was_open

    @property
    def over(self) -> bool:
        """Whether the client has ended: it does not reconnect."""
        return self._background.over.is_set

    async def wait_shielded(self) -> None:
        """Wait until the client has ended, even if the caller is cancelled. Raises no error of the
        client."""
        await self._background.over.wait_shielded()

    def come_back_no_more(self) -> None:
        """Do not reconnect after the current connection."""
        self._stop.set()
        if self._asking is not None:
            self._asking.cancel()

    def stop(self) -> None:
        """End the connection, and do not reconnect. Does not wait."""
        self.come_back_no_more()
        self.app.abort_start()
        if self.session is not None:
            self.session.finish(SHUTDOWN)

    async def drain(self, grace: float) -> None:
        """Stop after consumers have finished what was received, for at most ``grace`` seconds."""
        self.come_back_no_more()
        self.app.abort_start()
        await self.app.drain(grace)

    async def _run(self, ready: Callable[[], None]) -> None:
        await self.app.run(self._live)

    async def _live(self) -> None:
        async with anyio.create_task_group() as tasks:

            async def app_fails() -> None:
                await self.app.must_stop.wait()
                self.stop()

            tasks.start_soon(app_fails)
            try:
                await self._connect_again_and_again()
            except BaseException as exc:  # as it is, and not in a group of this scope
                self.app.fail(exc)
            tasks.cancel_scope.cancel()

    async def _connect_again_and_again(self) -> None:
        pauses = Pauses(self._reconnect or Reconnect(), renews=self._ask is not None)
        while not self._stop.is_set():
            end, seconds = await self._connect_once(pauses.attempt)
            self.end = end
            if self._reconnect is None or self._stop.is_set() or not pauses.again(end, seconds):
                break
            pause = pauses.after(end, seconds)
            why = str(end.error)
            if not isinstance(end.error, ConnectError):
                why = f"{shown_uri(self._uri)} ended: {end}"
            log.warning("%s; reconnecting in %.1f s", why, pause)
            with anyio.move_on_after(pause):
                await self._stop.wait()

    async def _connect_once(self, attempt: int) -> tuple[End, float]:
        """Connect, and wait for the end. Returns the end, and for how many seconds the connection
        was open."""
        opening = Opening(self._uri, Headers(self._headers), self._last.ids, attempt, self.end)
        if self._ask is not None:
            failed = await self._authorise(opening, self._ask)
            if failed is not None:
                return failed, 0.0
        if self._resume and opening.last_event_id:
            opening.query[self._resume] = opening.last_event_id
        dialling = Dialling(opening, self._last.note, self._opened, self._ask)
        sessions: list[Session] = []

        def begin(transport: Transport) -> Session:
            sessions.append(self.app.begin(self._admitted, transport, dialling))
            return sessions[0]

        transport = self._dial(partial(self._target, opening), begin)
        self.session = session = sessions[0]
        self._changed()
        await session.over.wait()
        await transport.closed()
        assert session.end is not None  # it is over
        return session.end, session.duration if session.was_open else 0.0

    async def _authorise(self, opening: Opening, ask: Ask) -> End | None:
        """Add a new credential to an opening request. Returns how that has failed, if it has."""
        try:
            with anyio.CancelScope() as scope:
                self._asking = scope
                with anyio.fail_after(self.app.limits.open_timeout):
                    token = await ask()
                bearer = ("Authorization", f"Bearer {token}")
                check_headers([bearer])  # whose error does not show the token
                opening.headers[bearer[0]] = bearer[1]
        except (Exception, anyio.get_cancelled_exc_class()) as exc:
            error = exc
            if not isinstance(exc, Exception):
                error = RuntimeError("the credential callback was cancelled from outside")
            log.error("there is no credential: the callback failed", exc_info=exc)
            return End("error", 1011, "", error)
        finally:
            self._asking = None
        return SHUTDOWN if scope.cancelled_caught else None

    def _opened(self) -> None:
        log.info("connected to %s", shown_uri(self._uri))
        self._changed()

    def _target(self, opening: Opening) -> Target:
        plan = self._admitted.plan
        codec = plan.codecs[0]
        # It says that frames are understood, so that the server tells when the credential ends.
        speaks = self._ask is not None and plan.decodings[codec.name].calls
        own = () if codec.name == "json" and not speaks else (codec.subprotocol,)
        offered = dict.fromkeys((*plan.subprotocols, *self._subprotocols, *own))
        return Target(opening.uri, opening.headers, tuple(offered), self._options)


def asking(credential: AskCredential) -> Ask:
    """What asks a callback for a token.

    Raises:
        TypeError: it is no function.
    """
    if not callable(credential):
        raise TypeError("credential is no function: pass one that returns the token")

    async def ask() -> str:
        token = credential()
        if inspect.isawaitable(token):
            token = await token
        if not isinstance(token, str):
            raise TypeError(
                f"the credential callback has returned a {type(token).__name__}, and not a str"
            )
        return token

    return ask


def dial_sockets(limits: ClientLimits) -> Dial:
    """What creates transports on sockets.

    Raises:
        RuntimeError: neither asyncio nor Trio runs.
    """
    try:
        shared = Shared(event_loop())
    except RuntimeError:
        raise RuntimeError(
            "clients need asyncio or Trio: run them in asyncio.run(…) or trio.run(…)"
        ) from None
    return lambda target, begin: Dialler(target, begin, limits, shared)


def check_uri(uri: str) -> str:
    """Return ``uri`` if it is a valid WebSocket URI.

    Raises:
        ValueError: it is not; the message says why.
    """
    try:
        if uri.partition("://")[0].lower() not in ("ws", "wss"):
            raise ValueError("use ws:// or wss://")
        split_uri(uri)
        parse_uri(uri)
    except InvalidURI as exc:
        why = exc.msg
    except ValueError as exc:
        why = str(exc)
    else:
        return uri
    raise ValueError(f"{shown_uri(uri)!r} is not a WebSocket URI: {why}")


def checked_headers(headers: HeaderItems) -> Headers:
    """The headers, checked.

    Raises:
        ValueError: a header cannot be sent.
    """
    if isinstance(headers, Headers):
        return headers
    pairs = header_pairs(headers)
    check_headers(pairs)
    return Headers(pairs)


def reconnecting(reconnect: Reconnect | bool) -> Reconnect | None:
    """The settings for a ``reconnect`` argument; None to connect once."""
    if isinstance(reconnect, bool):
        return Reconnect() if reconnect else None
    if not isinstance(reconnect, Reconnect):
        raise TypeError(f"reconnect is {reconnect!r}: use True, False or Reconnect(…)")
    return reconnect


async def run_client(
    router: Router,
    uri: str,
    *,
    reconnect: Reconnect | bool = True,
    resume: str = "",
    headers: HeaderItems = (),
    subprotocols: Iterable[str] = (),
    override: Mapping[Any, Any] | None = None,
    limits: ClientLimits | None = None,
    broker: str = select.MEMORY,
    credential: AskCredential | None = None,
    **options: Any,
) -> End:
    """Connect to a server, and serve the connection by a Router, whose functions work as in a
    server. For asyncio and Trio.

    ``lifespan`` functions run once. ``on_connect`` functions run for each attempt, before the
    opening request is sent: they may ask for the ``Opening`` and change it. ``on_disconnect``
    functions run after a connection that was open. Consumers and producers start again with each
    connection. The Router's path is matched with that of the URI; ``/`` matches any URI.
    Cancelling it ends the connection with 1001 and waits for that.

    Args:
        router: what the client does.
        uri: a ``ws://`` or ``wss://`` URI. ``Query()`` parameters are those of its query.
        reconnect: whether and how to reconnect; see ``wsflow.client.reconnecting`` for when.
        resume: the name of the query parameter in which the server takes the last event id: each
            new connection then resumes after the last message that was handled. To send the id in
            another way, ask for the ``Opening``.
        headers: headers of the opening request.
        subprotocols: subprotocols to offer, after the Router's own.
        override: values by type that are injected instead of others.
        limits: limits of the runtime and of the connection.
        broker: the broker of the client's own topics.
        credential: a function, plain or async, that returns a token. It is asked anew for each
            connection, which sends ``Authorization: Bearer …``, and again before the server's
            credential ends, to renew it by a message. It has ``open_timeout`` to return; what it
            raises is logged, and ends the attempt as an error (1011) does.
        options: more arguments of ``websockets.connect``: ``ssl``, ``proxy``, ``origin``,
            ``user_agent_header``, ``server_hostname``, ``host``, ``port``, ``sock``, …

    Returns:
        How the last connection ended, once the client does not reconnect.

    Raises:
        ConnectError: the server could not be reached, or refused the connection, and a retry would
            not help or is not wanted.
        DeclarationError: the Router's declarations are invalid.
        ValueError: the URI is invalid, the Router has no path for it, or a header cannot be sent.
        TypeError: there is no such option.
        Exception: what a handler raised, if the client does not reconnect after that; what a
            lifespan raised.
    """
    limits = ClientLimits() if limits is None else limits
    check_is(limits, ClientLimits, "limits")
    client = Client(
        compile_app(router, override, client=True),
        check_uri(uri),
        dial_sockets(limits),
        reconnect=reconnecting(reconnect),
        headers=headers,
        subprotocols=subprotocols,
        resume=resume,
        limits=limits,
        broker=broker,
        credential=credential,
        options=options,
    )
    client.start()
    return await client.wait()
