"""A Router as an ASGI 3 application: alone under an ASGI server, or beside what is there already.

Each event loop has one running app: tests use several, one after the other, or at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from contextvars import Context
from functools import cached_property, partial
from typing import Any, final
from urllib.parse import quote, unquote
from weakref import WeakSet

import anyio
from websockets.datastructures import Headers

from wsflow.addresses import Address, address_of
from wsflow.brokers import select
from wsflow.declare.router import Router
from wsflow.errors import Reject
from wsflow.limits import Limits, check_is
from wsflow.log import Log
from wsflow.request import Request
from wsflow.runtime.access import ALONE
from wsflow.runtime.admission import LATER
from wsflow.runtime.app import App
from wsflow.runtime.ending import body_of, refuse
from wsflow.runtime.rates import retry_after
from wsflow.runtime.session import Session
from wsflow.tasks.background import Background
from wsflow.tasks.detached import on_trio
from wsflow.topics.registry import Registry
from wsflow.transports.asgi import (
    AsgiEvent,
    AsgiReceive,
    AsgiSend,
    AsgiTransport,
    answer_events,
)
from wsflow.transports.base import Transport, nothing
from wsflow.transports.handshake import ALLOW, EVERYTHING
from wsflow.transports.shared import Shared
from wsflow.wiring.compile import compile_app
from wsflow.wiring.plan import AppPlan
from wsflow.wiring.routes import join

log = Log("wsflow")

AsgiScope = MutableMapping[str, Any]

TAKEOVER = "wsflow.takeover"
"""The extension of a server that gives the socket of a connection to the app."""

AGAIN = 1.0
"""Seconds after which an app that has failed is started again, if a connection comes."""

NOT_NOW = Reject(503, headers=[retry_after(LATER)])
"""The answer while the app does not run."""

GRACE = 20.0
"""Seconds for consumers to handle what was received when the app stops."""

_IN_A_PATH = "/:@!$&'()*+,;=~-._"
"""What need not be encoded in the path of a request (RFC 3986 §3.3), beside letters and digits."""


def asgi(
    router: Router,
    limits: Limits | None = None,
    *,
    broker: str = select.MEMORY,
    mounted_at: str = "",
    grace: float = GRACE,
    override: Mapping[Any, Any] | None = None,
) -> AsgiApp:
    """A Router as an ASGI 3 application (https://asgi.readthedocs.io): to run under uvicorn,
    hypercorn, granian or daphne, or to mount in Starlette, FastAPI, Litestar, Quart or Django. For
    asyncio.

    Args:
        router: the app.
        limits: its limits. Those of the ASGI server come first.
        broker: URL of the broker that carries topics between processes, as ``wsflow run --broker``
            takes it. More than one process needs one.
        mounted_at: the path that it is mounted at, if that has parameters which the Router uses:
            ``"/t/{tenant}"``. Otherwise its paths begin behind that path.
        grace: seconds for consumers to handle what was received when the app stops.
        override: values by type that are injected instead of others.

    Raises:
        DeclarationError: the app's declarations are invalid.
        TypeError: the app is no Router, or the limits are no Limits.
        ValueError: the broker's URL is invalid, or its client is not installed.
    """
    check_is(router, Router, "the app")
    limits = Limits() if limits is None else limits
    check_is(limits, Limits, "limits")
    if mounted_at:
        outer = Router(mounted_at)
        outer.include(router)
        router = outer
    select.broker(broker, limits.publish_timeout, {})  # raises at once if it is invalid
    return AsgiApp(compile_app(router, override), limits, broker, join(mounted_at), grace)


@final
class AsgiApp:
    """A Router as an ASGI 3 application. Made by ``wsflow.asgi``.

    Its ``lifespan`` functions run once per event loop: from the server's lifespan events, from
    those of an outer app (``mount``, ``lifespan``), or else from its first connection to the end of
    the event loop.
    """

    def __init__(
        self, plan: AppPlan, limits: Limits, broker: str, mounted_at: str, grace: float
    ) -> None:
        self._plan = plan
        self._limits = limits
        self._broker = broker
        self._mounted_at = mounted_at
        self._grace = grace
        self._running: dict[asyncio.AbstractEventLoop, Running] = {}
        self._stopped: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    # -- for the program around it

    @property
    def registry(self) -> Registry:
        """The connections of the app, on this event loop; as long as it runs, also while it stops.

        Raises:
            RuntimeError: it does not run here: it was not started, has failed, or this is a thread.
        """
        try:
            running = self._running.get(asyncio.get_running_loop())
        except RuntimeError:
            raise RuntimeError(
                "registry needs the event loop of the app, and there is none here: in a thread, as "
                "in a view that is not async, publish with wsflow.blocking_publisher"
            ) from None
        if running is None:
            raise RuntimeError(
                "the app does not run on this event loop: mount it with its mount(app, path), or "
                "pass its lifespan to the outer app; in a test, enter that app's lifespan: "
                "`with TestClient(app) as client`"
            )
        if running.over:
            raise RuntimeError(
                "the app has failed, as the log says; it is started again when a connection comes"
            )
        return running.registry

    async def start(self) -> None:
        """Start the app on this event loop, unless it runs.

        Raises:
            Exception: what a lifespan raised, or a BrokerError if the broker cannot be reached.
        """
        loop = self._loop()
        self._stopped.discard(loop)
        running = self._running.get(loop)
        if running is None or running.over:
            running = self._begin(loop, None)
        await running.ready()

    async def stop(self, *, restart: bool = False) -> None:
        """Stop the app on this event loop: connections are closed, each with its grace period, and
        new ones are refused with 503, until ``start`` is called. Without effect if it does not run.

        If it is cancelled, connections are closed at once, and it still waits for the end.

        Args:
            restart: close with 1012 (service restart), not 1001 (going away).

        Raises:
            Exception: what made the app fail.
        """
        loop = asyncio.get_running_loop()
        running = self._running.get(loop)
        if running is not None:
            self._stopped.add(loop)
            try:
                await running.stop(restart)
            finally:
                if self._running.get(loop) is running:
                    del self._running[loop]

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the app as long as the block: ``FastAPI(lifespan=sockets.lifespan)``, or within a
        lifespan of one's own.

        Args:
            app: the outer app, which it is called with; it is not looked at.

        Raises:
            Exception: as ``start`` and ``stop``.
        """
        try:
            await self.start()
            yield
        finally:
            await self.stop()

    def mount(self, app: Any, path: str = "") -> None:
        """Mount it in a Starlette or FastAPI app, and run it with that: started behind the app's
        own lifespan, and stopped before it.

        Args:
            app: the outer app.
            path: where; ``mounted_at`` by default.

        Raises:
            TypeError: the app is of another kind: mount it in that one's own way, and run
                ``lifespan`` in that one's.
            ValueError: the path is not the one of ``mounted_at``.
        """
        around = getattr(getattr(app, "router", None), "lifespan_context", None)
        if around is None or not hasattr(app, "mount"):
            raise TypeError(
                f"mount takes a Starlette or FastAPI app, and not {type(app).__name__}: mount this "
                "application in that one's own way, and run its `lifespan` in that one's"
            )
        own = self._mounted_at.rstrip("/")
        if own and path and join(path) != own:
            raise ValueError(f"it is mounted at {path!r}, and mounted_at is {own!r}")
        app.mount(join(path).rstrip("/") if path else own, self)

        @asynccontextmanager
        async def lifespan(outer: Any) -> AsyncIterator[Any]:
            async with around(outer) as state, self.lifespan():
                yield state

        app.router.lifespan_context = lifespan

    # -- for the ASGI server

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Serve what an ASGI server has: a connection, its lifespan, or a request."""
        match scope["type"]:
            case "websocket":
                await self._websocket(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case "http":
                await self._http(scope, send)
            case other:
                raise ValueError(f"wsflow knows no ASGI scope of the type {other!r}")

    async def _lifespan(self, receive: AsgiReceive, send: AsgiSend) -> None:
        steps = {"startup": self.start, "shutdown": self.stop}
        for name, step in steps.items():
            await receive()
            try:
                await step()
            except Exception as exc:
                log.error("the app failed at its %s", name, exc_info=exc)
                await send({"type": f"lifespan.{name}.failed", "message": str(exc)})
                return
            await send({"type": f"lifespan.{name}.complete"})

    async def _websocket(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        responds = "websocket.http.response" in (scope.get("extensions") or {})
        transport = AsgiTransport(self._limits, receive, send, responds=responds)
        client = _client_of(scope)
        running = await self._for_connection()
        take = (scope.get("extensions") or {}).get(TAKEOVER)
        if take is not None and running is not None:
            await take(running, self._target(scope), client)
            return
        session: Session | None = None

        def begin(it: Transport) -> Session | None:
            nonlocal session
            try:
                request = Request.parse(self._target(scope), _headers_of(scope), client)
            except ValueError:
                refusal = Reject(400)
            else:
                if running is not None:
                    session = running.app.open(request, it)
                    return session
                refusal = NOT_NOW
            observers = ALONE if running is None else running.app.observers
            observers.refused(scope["path"], client, refusal.status)
            refuse(it, refusal)
            return None

        try:
            await transport.serve(begin)
        finally:
            if session is not None:
                await session.join()

    async def _http(self, scope: AsgiScope, send: AsgiSend) -> None:
        """Answer a request that is none for a WebSocket, as the pages of the app do."""
        running, exchange = await self._for_connection(), _Exchange()
        if (scope["method"], scope["path"]) == EVERYTHING:
            exchange.answer(204, [ALLOW], b"")
        elif running is None:
            exchange.answer(NOT_NOW.status, NOT_NOW.headers, body_of(NOT_NOW))
        else:
            self._ask(running, scope, exchange)
        await exchange.give(send)

    def _ask(self, running: Running, scope: AsgiScope, exchange: _Exchange) -> None:
        try:
            request = Request.parse(self._target(scope), _headers_of(scope), _client_of(scope))
        except ValueError:
            exchange.answer(400, (), b"the request target cannot be read\n")
        else:
            running.app.page(scope["method"], request, exchange)

    async def _for_connection(self) -> Running | None:
        """The app of a connection, started if need be; None if it does not run in time."""
        loop = self._loop()
        running = self._running.get(loop)
        if running is None and loop in self._stopped:
            return None
        if running is None or (running.over and loop.time() - running.ended > AGAIN):
            running = self._begin(loop, Context())  # and not in that of one connection
        try:
            async with asyncio.timeout(self._limits.open_timeout):
                await running.settled()
        except TimeoutError:
            return None
        return None if running.over else running

    def _begin(self, loop: asyncio.AbstractEventLoop, context: Context | None) -> Running:
        """Begin to run the app on an event loop."""
        for each in [each for each in self._running if each.is_closed()]:
            del self._running[each]
        app = App(self._plan, self._limits, self._broker)
        running = self._running[loop] = Running(app, self._grace, context)
        return running

    @staticmethod
    def _loop() -> asyncio.AbstractEventLoop:
        if on_trio():
            raise RuntimeError("wsflow.asgi is for asyncio, and this is Trio")
        return asyncio.get_running_loop()

    def _target(self, scope: AsgiScope) -> str:
        """The request target, from where it is mounted on; or, with ``mounted_at``, with that."""
        root = str(scope.get("root_path", "")).rstrip("/")
        segments = root.split("/")
        kept = max(len(segments) - self._mounted_at.rstrip("/").count("/"), 1)
        front, own = "/".join(segments[:kept]), "".join(f"/{each}" for each in segments[kept:])
        path = _path_of(scope)
        if unquote(path) == root or unquote(path).startswith(f"{root}/"):
            path = _behind(path, front)
        else:  # there are servers that give the path from where it is mounted on
            path = quote(own, _IN_A_PATH) + path
        return f"{path or '/'}?{scope.get('query_string', b'').decode('latin-1')}"


@final
class Running:
    """An app that runs, or begins to.

    Args:
        app: the app.
        grace: seconds for consumers to handle what was received when it stops.
        context: the context of its lifespans, if a connection has it started; else None, for that
            of who starts it.

    Attributes:
        app: the app.
        registry: its connections.
        grace: seconds for consumers to handle what was received when it stops.
        ended: when it has ended, by the clock of the event loop.
    """

    def __init__(self, app: App, grace: float, context: Context | None) -> None:
        self.app = app
        self.registry = Registry(app.directory)
        self.grace = grace
        self.ended = 0.0
        self._by_a_connection = context is not None
        self._loop = asyncio.get_running_loop()
        self._stop = anyio.Event()
        self._stopping: Background | None = None
        self._background = Background()
        self._background.begin(self._run, "wsflow app", self._has_ended, context)

    @cached_property
    def shared(self) -> Shared:
        """What its sockets share, if it has any of its own."""
        return Shared(asyncio.get_running_loop())

    @property
    def over(self) -> bool:
        """Whether it has ended, or could not start."""
        return self._background.over.is_set

    def _has_ended(self) -> None:
        self.ended = self._loop.time()

    async def _run(self, ready: Callable[[], None]) -> None:
        try:
            await self.app.run(partial(self._serve, ready))
        except Exception as exc:
            if self._background.settled.is_set and self._stopping is None:
                log.error("the app has stopped; it is started again when a connection comes")
            elif self._by_a_connection and self._stopping is None:
                log.error("the app cannot be started", exc_info=exc)
            raise

    async def _serve(self, ready: Callable[[], None]) -> None:
        ready()
        await self.app.wait_for(self._stop)

    async def settled(self) -> None:
        """Wait until it runs, or is over."""
        await self._background.settled.wait()

    async def ready(self) -> None:
        """Wait until it runs.

        Raises:
            Exception: why it cannot.
        """
        await self.settled()
        if self.over:
            self._background.result()

    async def stop(self, restart: bool) -> None:
        """Close its connections, and wait until it has ended; once for all who ask for it.

        Raises:
            Exception: what made it fail.
        """
        if self._stopping is None:
            self._stopping = Background()
            self._stopping.begin(partial(self._drain, restart), "wsflow app stops")
        await self._stopping.finished(self.app.cut_short)
        self._background.result()

    async def _drain(self, restart: bool, ready: Callable[[], None]) -> None:
        self.app.abort_start()
        await self.settled()
        if not self.over:
            await self.app.drain(self.grace, restart=restart)
        self._stop.set()
        await self._background.over.wait()


@final
class _Exchange:
    """A request that waits for its answer, under an ASGI server."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Future[Iterable[AsgiEvent]] = self._loop.create_future()
        self._told = nothing

    def now(self) -> float:
        return self._loop.time()

    def after(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, call)

    def answer(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        sent: Callable[[], None] = nothing,
    ) -> None:
        if self._events.done():  # also if it was cancelled: the client has left
            sent()
            return
        self._events.set_result(answer_events("http.response", status, headers, body))
        self._told = sent

    async def give(self, send: AsgiSend) -> None:
        """Wait for the answer, and give it to the server."""
        try:
            for event in await self._events:
                await send(event)
        finally:
            self._told()


def _client_of(scope: AsgiScope) -> Address | None:
    """The client's address; None if the server does not know it."""
    host, port = scope.get("client") or ("", 0)
    return address_of(host, port or 0) if host else None


def _headers_of(scope: AsgiScope) -> Headers:
    """The headers of the opening request."""
    headers = Headers()
    for name, value in scope["headers"]:
        headers[name.decode("latin-1")] = value.decode("latin-1")
    offered = scope.get("subprotocols")
    if offered and "sec-websocket-protocol" not in headers:
        headers["Sec-WebSocket-Protocol"] = ", ".join(offered)
    return headers


def _path_of(scope: AsgiScope) -> str:
    """The path of the scope, as it was sent: what the server tells of that, or the end of it, where
    something between has cut it off."""
    path: str = scope["path"]
    raw = (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    decoded = unquote(raw)
    if decoded == path:
        return raw
    # One slash more at the end is Litestar's.
    ends, wanted = decoded.rstrip("/"), path.rstrip("/")
    if ends.endswith(wanted) and wanted.startswith("/"):
        front = _behind(raw, ends.removesuffix(wanted))
        if unquote(front).rstrip("/") == wanted:
            return front
    return quote(path, _IN_A_PATH)


def _behind(path: str, front: str) -> str:
    """What comes behind a part of a path, which is encoded; empty if it does not begin with it."""
    at, left = 0, front
    while left:
        end = path.find("/", at + 1)
        segment = path[at : end if end >= 0 else len(path)]
        decoded = unquote(segment)
        if not segment or not left.startswith(decoded):
            return ""
        left, at = left[len(decoded) :], at + len(segment)
    return path[at:]
