"""Serving an app in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast, final, overload
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token
from websockets.datastructures import Headers

from wsflow.brokers import select
from wsflow.client.reconnecting import Reconnect
from wsflow.client.running import AskCredential
from wsflow.declare.router import Router
from wsflow.http import HeaderItems, header_pairs
from wsflow.limits import Limits, check_is
from wsflow.log import Log
from wsflow.request import Request
from wsflow.runtime.app import App
from wsflow.runtime.session import Session
from wsflow.tasks.background import Background
from wsflow.tasks.waiting import Condition
from wsflow.testing.broker import FakeBroker
from wsflow.testing.idle import wait_idle
from wsflow.testing.linked import Linked
from wsflow.testing.peer import MemoryPeer
from wsflow.topics.registry import Registry
from wsflow.transports.base import Transport
from wsflow.transports.client import Target
from wsflow.transports.memory import MemoryTransport
from wsflow.wiring.compile import compile_app

LIMITS = Limits(open_timeout=5, close_timeout=1)
"""Limits of tests, with short timeouts."""

log = Log("wsflow")


@final
class MemoryServer:
    """A running app without a socket. Created by ``serve_in_memory``.

    Attributes:
        registry: the connections of the app.
    """

    def __init__(self, app: App, override: Mapping[Any, Any]) -> None:
        self._app = app
        self._override = override
        self.registry = Registry(app.directory)
        self._background = Background()
        self._stopped = anyio.Event()

    async def _start(self) -> None:
        """Enter the lifespans.

        Raises:
            Exception: what a lifespan raised.
        """
        self._background.begin(self._run, "wsflow test server")
        await self._background.ready(self._abort)

    async def _run(self, ready: Callable[[], None]) -> None:
        async def serve() -> None:
            ready()
            await self._stopped.wait()

        await self._app.run(serve)

    def _abort(self) -> None:
        self._app.abort_start()
        self._stopped.set()

    async def _stop(self) -> None:
        """End all connections and leave the lifespans, even if the caller is cancelled.

        Raises:
            Exception: an error of the app outside of its connections.
        """
        self._stopped.set()
        await self._background.over.wait_shielded()
        self._background.result()

    async def drain(self, grace: float = 1, *, over: float = 0, restart: bool = False) -> None:
        """Drain, as on ``SIGTERM``: let consumers handle what was received for at most ``grace``
        seconds, then close with 1001, or with 1012 on a restart. Connections are drained one after
        another, in random order, spread over ``over`` seconds."""
        await self._app.drain(grace, over=over, restart=restart)

    async def idle(self, timeout: float = 1) -> None:
        """Wait until nothing in the app can go on by itself: each task, those of the test too,
        waits for a message, for time to pass, or for another task. In memory: a socket or a
        thread is not waited for, and of brokers only a ``FakeBroker``.

        Args:
            timeout: seconds of the processor's time.

        Raises:
            AssertionError: something still goes on after that time.
            RuntimeError: it runs on uvloop, which does not say what is ready.
        """
        await wait_idle(timeout)

    def connect(
        self, target: str, *, headers: HeaderItems = (), subprotocols: Iterable[str] = ()
    ) -> AbstractAsyncContextManager[MemoryPeer]:
        """Connect to a path: ``async with server.connect("/chat/lobby?name=ada") as peer``."""
        return Connecting(lambda: self._open(target, headers, subprotocols), self._knows)

    def link(
        self,
        client: Router,
        target: str,
        *,
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        reconnect: Reconnect | bool = False,
        resume: str = "",
        override: Mapping[Any, Any] | None = None,
        credential: AskCredential | None = None,
    ) -> AbstractAsyncContextManager[Linked]:
        """Connect a client Router to a path: ``async with server.link(bot, "/chat") as both``.

        Args:
            client: the client.
            target: the path, with its query.
            headers: headers of the opening request.
            subprotocols: subprotocols to offer, in addition to those of the client's Router.
            reconnect: whether and how the client reconnects.
            resume: the name of the query parameter that takes the last event id.
            override: values by type that are injected in the client instead of others.
            credential: a function that returns the client's token: see ``wsflow.run_client``.
        """
        sessions: list[Session] = []

        def open(where: Target, changed: Callable[[], None]) -> MemoryTransport:
            path = where.uri.removeprefix("ws://testserver")
            transport, session = self._begin(
                changed, path, where.headers.raw_items(), where.subprotocols
            )
            if session is not None:
                sessions.append(session)
            return transport

        check_target(target)
        linked = Linked(
            client,
            target,
            open,
            sessions,
            self.registry,
            reconnect=reconnect,
            resume=resume,
            headers=headers,
            subprotocols=subprotocols,
            override=override,
            limits=self._app.limits,
            credential=credential,
        )
        return Connecting(lambda: linked, self._knows)

    def _open(self, target: str, headers: HeaderItems, subprotocols: Iterable[str]) -> MemoryPeer:
        """Begin a connection.

        Raises:
            ValueError: the target is not a path.
        """
        condition = Condition()
        transport, session = self._begin(condition.notify_all, target, headers, subprotocols)
        request = Request.parse(target, opening_headers(headers))
        why = partial(self._app.why_refused, request)
        return MemoryPeer(transport, session, condition, self.registry, why)

    def _begin(
        self,
        changed: Callable[[], None],
        target: str,
        headers: HeaderItems,
        subprotocols: Iterable[str],
    ) -> tuple[MemoryTransport, Session | None]:
        """Begin a connection. Returns its transport and its session; None if it is refused.

        Raises:
            ValueError: the target is not a path.
        """
        check_target(target)
        sent = opening_headers(headers)
        if offered := ", ".join(subprotocols):
            sent["Sec-WebSocket-Protocol"] = offered
        sessions: list[Session | None] = []

        def begin(transport: Transport) -> Session | None:
            sessions.append(self._app.open(Request.parse(target, sent), transport))
            return sessions[0]

        transport = MemoryTransport(self._app.limits, changed, begin)
        return transport, sessions[0]

    def _knows(self, id: str) -> bool:
        """Whether the registry has a connection with that id."""
        return self.registry.get(id) is not None


def _check_router(router: object) -> None:
    """Check that an app is a Router.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(router, Router):
        raise TypeError(f"{router!r} is not a Router")


def opening_headers(headers: HeaderItems) -> Headers:
    """The headers of an opening request, with a Host if they have none."""
    sent = Headers(header_pairs(headers))
    if "Host" not in sent:
        sent["Host"] = "testserver"
    return sent


def check_target(target: str) -> None:
    """Check that a target is a path.

    Raises:
        ValueError: it is not.
    """
    if not target.startswith("/"):
        raise ValueError(f"{target!r} is not a path: a target begins with /, as in '/chat/lobby'")


class Held(Protocol):
    """The object that a block of a test gets for a connection."""

    async def _opened(self) -> None: ...
    async def _leave(self) -> None: ...
    def _check(self, known: Callable[[str], bool]) -> None: ...


P = TypeVar("P", bound=Held)


@final
class Connecting(Generic[P]):
    """A connection that is opened when it is entered."""

    def __init__(self, open: Callable[[], P], known: Callable[[str], bool]) -> None:
        self._open = open
        self._known = known

    async def __aenter__(self) -> P:
        self._end = self._open()
        try:
            await self._end._opened()
        except BaseException:
            await self._end._leave()
            raise
        return self._end

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end._leave()
        if exc is None:
            self._end._check(self._known)


@final
class serve_in_memory:  # noqa: N801
    """Serve an app without a socket: ``async with serve_in_memory(app) as server``.

    Args:
        router: the app.
        override: values by type that are injected instead of others; a scope function whose value
            is overridden does not run.
        limits: limits of the runtime; short timeouts by default.
        broker: the broker that carries topics: a ``FakeBroker``, or a URL, as ``wsflow run
            --broker`` takes it. Blocks with the same broker behave like processes of one app.

    Raises:
        DeclarationError: the app's declarations are invalid.
        ValueError: the broker's URL is invalid, or its client is not installed.
        Exception: on entering: what a lifespan raised, or a BrokerError if the broker cannot be
            reached; on leaving: an error of the app outside of its connections.
    """

    def __init__(
        self,
        router: Router,
        *,
        override: Mapping[Any, Any] | None = None,
        limits: Limits = LIMITS,
        broker: str | FakeBroker = select.MEMORY,
    ) -> None:
        _check_router(router)
        check_is(limits, Limits, "limits")
        self._plan = compile_app(router, override)
        self._override = override or {}
        self._limits = limits
        self._broker = broker  # kept, so that its URL holds
        self._url = broker.url if isinstance(broker, FakeBroker) else broker
        select.broker(self._url, limits.publish_timeout, {})  # raises at once if it is invalid

    async def __aenter__(self) -> MemoryServer:
        self._server = MemoryServer(App(self._plan, self._limits, self._url), self._override)
        await self._server._start()
        return self._server

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._server._stop()
        except Exception as error:
            if exc is None:
                raise
            log.error("an error while leaving the block", exc_info=error)


class _Shared:
    """One running app, and how many ``connect`` blocks use it."""

    def __init__(self, serving: serve_in_memory) -> None:
        self._serving = serving
        self._server: MemoryServer | None = None
        self._starting: anyio.Event | None = None
        self.users = 0

    async def running(self) -> MemoryServer:
        """The running app; the first block starts it."""
        if self._starting is None:
            self._starting = anyio.Event()
            try:
                self._server = await self._serving.__aenter__()
            finally:
                self._starting.set()
        await self._starting.wait()
        if self._server is None:
            raise RuntimeError("the app that this connection shares could not be started")
        return self._server

    async def stop(self) -> None:
        if self._server is not None:
            await self._serving.__aexit__(None, None, None)


_shared: WeakKeyDictionary[Router, dict[object, _Shared]] = WeakKeyDictionary()
"""The running apps, by event loop."""


@final
class connect(Generic[P]):  # noqa: N801
    """Connect to an app without a socket: ``async with connect(app, "/chat/lobby") as peer``.

    Blocks that are open at the same time share one running app. The first one starts it, the last
    one stops it.

    Args:
        router: the app.
        target: the path, with its query.
        headers: headers of the opening request.
        subprotocols: what the peer offers.
        override: values by type that are injected instead of others; a scope function whose value
            is overridden does not run.
        limits: limits of the runtime; short timeouts by default.
        client: a client Router to connect with, instead of a peer that the test drives: the block
            then gets a ``Linked`` with the connections of both.
        reconnect: whether and how the client reconnects.
        resume: the name of the query parameter that takes the client's last event id.
        client_override: values by type that are injected in the client instead of others.
        credential: a function that returns the client's token: see ``wsflow.run_client``.

    Raises:
        DeclarationError: the app's declarations are invalid.
        AssertionError: on leaving: the connection has left behind a task, a registry entry, a
            membership or an error that was not read. An exception of the block itself takes
            precedence.
        ValueError: the app runs already, with another ``override`` or other ``limits``; or the
            target is not a path.
    """

    @overload
    def __init__(
        self: connect[MemoryPeer],
        router: Router,
        target: str = "/",
        *,
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        override: Mapping[Any, Any] | None = None,
        limits: Limits | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: connect[Linked],
        router: Router,
        target: str = "/",
        *,
        client: Router,
        reconnect: Reconnect | bool = False,
        resume: str = "",
        client_override: Mapping[Any, Any] | None = None,
        credential: AskCredential | None = None,
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        override: Mapping[Any, Any] | None = None,
        limits: Limits | None = None,
    ) -> None: ...
    def __init__(
        self,
        router: Router,
        target: str = "/",
        *,
        client: Router | None = None,
        reconnect: Reconnect | bool = False,
        resume: str = "",
        client_override: Mapping[Any, Any] | None = None,
        credential: AskCredential | None = None,
        headers: HeaderItems = (),
        subprotocols: Iterable[str] = (),
        override: Mapping[Any, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        _check_router(router)
        self._client = client
        self._client_settings: dict[str, Any] = {
            "reconnect": reconnect,
            "resume": resume,
            "override": client_override,
            "credential": credential,
        }
        self._router = router
        self._target = target
        self._headers = headers
        self._subprotocols = subprotocols
        self._override = override
        self._limits = limits

    async def __aenter__(self) -> P:
        self._loop = current_token()
        self._use = _shared.setdefault(self._router, {}).get(self._loop) or self._share()
        self._use.users += 1
        try:
            server = await self._use.running()
            self._check_same(server)
            offered: dict[str, Any] = {"headers": self._headers, "subprotocols": self._subprotocols}
            self._connecting: AbstractAsyncContextManager[MemoryPeer | Linked] = (
                server.connect(self._target, **offered)
                if self._client is None
                else server.link(self._client, self._target, **offered, **self._client_settings)
            )
            return cast(P, await self._connecting.__aenter__())
        except BaseException:
            await self._release()
            raise

    def _share(self) -> _Shared:
        serving = serve_in_memory(
            self._router,
            override=self._override,
            limits=LIMITS if self._limits is None else self._limits,
        )
        use = _shared[self._router][self._loop] = _Shared(serving)
        return use

    def _check_same(self, server: MemoryServer) -> None:
        for name, mine, running in [
            ("override", self._override, server._override),
            ("limits", self._limits, server._app.limits),
        ]:
            if mine is not None and mine != running:
                raise ValueError(
                    f"the app runs already with another {name}: connections that are open at the "
                    "same time share one app; pass the same one to all, or use serve_in_memory"
                )

    async def _release(self) -> None:
        self._use.users -= 1
        if not self._use.users:
            del _shared[self._router][self._loop]  # the next block starts the app again
            await self._use.stop()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._connecting.__aexit__(kind, exc, trace)
        finally:
            try:
                await self._release()
            except Exception as error:
                if exc is None:
                    raise
                log.error("an error while leaving the block", exc_info=error)
