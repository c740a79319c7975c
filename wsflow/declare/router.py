"""The Router: a path and the functions that serve connections to it.

A decorator registers its function and returns it unchanged. Only the arguments of the decorator are
checked at once; mistakes are recorded, and reported with all others before the app serves.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal, TypeVar, cast, get_origin, overload

from wsflow.declare.functions import checked, named, place
from wsflow.errors import Problem
from wsflow.http import is_token
from wsflow.messages.codec import Codec
from wsflow.messages.hooks import DecHook, EncHook
from wsflow.observer import HOOKS, Observer

F = TypeVar("F", bound=Callable[..., Awaitable[Any] | AsyncIterable[Any]])
"""A coroutine function or an async generator."""
C = TypeVar("C", bound=Callable[..., Awaitable[Any]])
"""A coroutine function."""

Kind = Literal[
    "lifespan",
    "on_connect",
    "on_message",
    "consumer",
    "producer",
    "on_disconnect",
    "on_error",
    "get",
]
WhenOver = Literal["close", "slow", "drop"]
Per = Literal["connection", "client", "user"]


@dataclass(frozen=True)
class RateLimit:
    """The rate limit of a Router or a consumer, as it was declared; none without ``rate``."""

    rate: str | None = None
    burst: int | None = None
    when_over: WhenOver = "slow"
    per: Per = "connection"


@dataclass(frozen=True, eq=False)
class Handler:
    """A decorated function, as registered with a Router.

    Attributes:
        kind: which decorator.
        fn: the function itself.
        frame: the frame of the function in which the decorator was applied, if any: annotations may
            name its locals.
        concurrency: of a consumer: how many messages at a time; None for the default.
        key: of a consumer: the field whose equal values keep their order.
        on_end: of a producer: whether its end closes the connection.
        limit: of a consumer: how many messages it takes.
        at: the file and line where the decorator was applied.
        path: of a page: its path, behind that of its Router.
    """

    kind: Kind
    fn: Callable[..., Any]
    frame: FrameType | None
    concurrency: int | None = None
    key: str | None = None
    on_end: Literal["close", "keep"] = "close"
    limit: RateLimit = RateLimit()
    at: str = ""
    path: str = ""

    @functools.cached_property
    def name(self) -> str:
        """The function's qualified name, without the functions around it."""
        fn = named(self.fn)
        return str(getattr(fn, "__qualname__", type(fn).__qualname__)).split("<locals>.")[-1]

    @property
    def where(self) -> str:
        """The file and line of the function; of a callable object, those of its registration."""
        return place(self.fn) if hasattr(named(self.fn), "__code__") else self.at or place(self.fn)

    @functools.cached_property
    def call(self) -> Callable[..., Any]:
        """The function to call. One that does not return what it has to raises a TypeError that
        names it."""
        return checked(self.fn, f"{self} ({self.where})")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class About:
    """What a Router says of itself, for the people on the other side."""

    title: str = ""
    description: str = ""
    version: str = ""
    deprecated: bool = False


@dataclass(frozen=True, eq=False)
class Included:
    """A Router that another one includes."""

    router: Router
    prefix: str


@dataclass(eq=False)
class Declared:
    """All that was declared on one Router.

    Attributes:
        served: by how many servers it is served now.
    """

    handlers: list[Handler] = field(default_factory=list)
    included: list[Included] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    observers: list[Observer] = field(default_factory=list)
    served: int = 0

    def check_open(self, what: str) -> None:
        """Check that something can still be declared.

        Raises:
            RuntimeError: it is being served, and was wired before.
        """
        if self.served:
            raise RuntimeError(
                f"{what} has no effect on a Router that is being served: declare it before"
            )


class Router:
    """A path and the functions that serve connections to it; includes other Routers.

    The decorators record a function and return it unchanged. Mistakes, in arguments too, are found
    together when the app is served, tested or checked: see ``DeclarationError``.

    Args:
        path: the path, with parameters as ``{name}``; each matches one segment that is not empty.
            A slash at the end makes no difference, here and in a request. A Router with neither a
            consumer nor a producer nor a page serves no path of its own.
        codec: how messages are encoded by default: ``"json"``, ``"msgpack"``, or a ``Codec`` of
            your own. A client chooses with the subprotocols ``wsflow.json`` and
            ``wsflow.msgpack``, and ``wsflow.<name>`` of the Router's own.
        subprotocols: more subprotocols that can be negotiated, in order of preference.
        unknown: what happens to a message with a tag that no consumer takes. ``"close"``: the
            connection is closed with 1007, as for any message that cannot be decoded; the default
            in a server. ``"ignore"``: it is dropped and counted as ``ignored``, and each such tag
            is logged once; the default in a client, so that a server may send new types. A Router
            that does not say has that of the Router around it.
        rate: how many messages the consumers of this Router, and of those that it includes, take
            together: ``"20/s"``, ``"20/min"`` or ``"20/h"``. No limit by default. A message counts
            for each Router around its consumer, and for the consumer itself. The frames of answers
            do not count.
        burst: how many messages may come at once; by default as many as the rate allows in a
            second, and at least 1. Afterwards they may come at the rate, evenly spaced.
        when_over: what happens when a message comes too early. ``"slow"``: it waits, and reading
            pauses until its time has come (backpressure); so do answers of the peer behind it.
            ``"drop"``: it is dropped; a call is answered with the CallError ``"rate_limited"``.
            ``"close"``: the connection is closed with 1008; while a limit per client or per user is
            used up, new handshakes are answered with 429.
        per: what is counted together: the messages of a ``"connection"``, of all connections of a
            ``"client"`` (its IPv4 address, or its IPv6 /64), or of all those of a ``"user"``, as
            ``Connection.identify`` has named it; without a name the client counts. Several
            processes count together through their broker.
        topics: topics that functions of this Router, and of those that it includes, name with
            ``Registry.topic``, by values that the path does not have:
            ``Annotated[Topic[Alert], TopicName("alerts.{kind}", history=100)]``. They have these
            types and options wherever they are named.
        title: a short name of what this is, for who reads its schema (``wsflow schema``).
        description: what it is for, as Markdown.
        version: the version of the app's contract; of the outermost Router.
        deprecated: whether clients should go elsewhere. It holds for Routers that are included,
            too.
        dec_hook: decodes types that neither msgspec nor pydantic knows, also within others:
            ``dec_hook(type, value)`` returns an instance. What it gets is a plain value. If it
            raises ValueError or TypeError, the message is invalid; NotImplementedError says that
            it does not know the type; any other exception is an error of the app (1011). It holds
            for Routers that are included, too, whose own are asked first.
        enc_hook: encodes such types: ``enc_hook(value)`` returns what is sent, anything that
            msgspec encodes. NotImplementedError says that it does not know the type.
    """

    def __init__(
        self,
        path: str = "/",
        *,
        codec: Literal["json", "msgpack"] | Codec = "json",
        subprotocols: Sequence[str] = (),
        unknown: Literal["close", "ignore"] | None = None,
        rate: str | None = None,
        burst: int | None = None,
        when_over: WhenOver = "slow",
        per: Per = "connection",
        topics: Sequence[Any] = (),
        title: str = "",
        description: str = "",
        version: str = "",
        deprecated: bool = False,
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
    ) -> None:
        self._declared = Declared()
        self._where = _frame_place(sys._getframe(1))
        self.path = self._path(self._where, "path", path)
        self.codec = codec
        self.subprotocols = self._several("subprotocols", subprotocols, "'chat.v2'")
        self.unknown = unknown
        self._about = About(title, description, version, deprecated)
        self._dec_hook = dec_hook
        self._enc_hook = enc_hook
        self._limit = RateLimit(rate, burst, when_over, per)
        self._topics = self._several("topics", topics, "Alerts")
        for each in self.subprotocols:
            if not is_token(each):
                self._problem(
                    self._where,
                    f"Router {self.path!r}",
                    f"subprotocols has {each!r}, which is no name of one.",
                    "use letters, digits, -, . and _, as in 'chat.v2'.",
                )

    def __repr__(self) -> str:
        return f"<Router {self.path} ({self._where})>"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """A Router is no ASGI application: ``wsflow.asgi`` makes one.

        Raises:
            TypeError: always.
        """
        why = (
            f"{self!r} is no ASGI application: write app = wsflow.asgi(router), and serve or mount "
            "that; or serve the Router itself with `wsflow run module:router`"
        )
        if scope["type"] == "lifespan":  # a server that hears of it here does not start
            await receive()
            await send({"type": "lifespan.startup.failed", "message": why})
        raise TypeError(why)

    def include(self, other: Router, prefix: str = "") -> None:
        """Serve another Router's paths too.

        Paths are joined: this Router's, the prefix, the other's. This Router's ``lifespan``,
        ``on_connect``, ``on_message``, ``on_disconnect`` and ``on_error`` functions apply to it as
        well.

        Args:
            other: the Router.
            prefix: what stands before its path, as in ``"/v1"``; it may have parameters.

        Raises:
            RuntimeError: this Router is being served.
        """
        self._declared.check_open("include")
        if isinstance(other, Router):
            prefix = self._path(_frame_place(sys._getframe(1)), "prefix", prefix)
            self._declared.included.append(Included(other, prefix))
            return
        called = "it is a function: call it" if callable(other) else "pass a Router"
        self._problem(
            _frame_place(sys._getframe(1)),
            f"include({_describe(other)})",
            f"{_describe(other)} is not a Router.",
            f"{called}, as in include({getattr(other, '__name__', 'router')}())."
            if callable(other)
            else f"{called}.",
        )

    def observe(self, observer: Observer) -> None:
        """Have an observer told what happens in the app that this Router is a part of: in all of
        it, also if another Router includes this one.

        Raises:
            RuntimeError: it is being served.
        """
        self._declared.check_open("observe")
        if isinstance(observer, type) or not any(
            callable(getattr(observer, name, None)) for name in HOOKS
        ):
            self._problem(
                _frame_place(sys._getframe(1)),
                f"observe({_describe(observer)})",
                f"{_describe(observer)} is not an Observer.",
                f"make an object of it: observe({observer.__name__}())."
                if isinstance(observer, type)
                else "derive its class from wsflow.Observer, and write the methods that you need.",
            )
            return
        self._declared.observers.append(observer)

    def _path(self, where: str, name: str, given: Any) -> str:
        """A path that was given; ``/`` in place of what is none."""
        if isinstance(given, str) and "://" not in given:
            return given
        what = "a URI" if isinstance(given, str) else f"of type {type(given).__name__}"
        self._problem(
            where,
            f"{name}={given!r}",
            f"The {name} is {what}, and not a path.",
            f'write the path alone, as in {name}="/chat/{{room}}".',
        )
        return "/"

    def _several(self, name: str, given: Any, example: str) -> tuple[Any, ...]:
        """The values of an argument that takes several."""
        # A generic alias like Topic[Said] can be iterated, too.
        if isinstance(given, Iterable) and not isinstance(given, str) and get_origin(given) is None:
            return tuple(given)
        self._problem(
            self._where,
            f"Router {self.path!r}",
            f"{name} is {given!r}, and not a list.",
            f"write a list, also of one: {name}=[{example}].",
        )
        return ()

    def _problem(self, where: str, subject: str, why: str, cure: str) -> None:
        self._declared.problems.append(Problem(where, subject, why, cure))

    def _record(self, kind: Kind, fn: object, frame: FrameType, **options: Any) -> Any:
        """Register ``fn``, or return the decorator that does.

        Raises:
            RuntimeError: it is being served.
        """
        self._declared.check_open(kind)
        if fn is None:
            return lambda fn: self._record(kind, fn, sys._getframe(1), **options)
        if callable(fn) and not isinstance(fn, type):
            # A module's names are the function's globals; a frame would keep more alive.
            local = None if frame.f_locals is frame.f_globals else frame
            self._declared.handlers.append(
                Handler(kind, fn, local, at=_frame_place(frame), **options)
            )
        elif inspect.iscoroutine(fn) or inspect.isasyncgen(fn):
            if inspect.iscoroutine(fn):
                fn.close()
            self._problem(
                _frame_place(frame),
                f"{kind} {fn.__qualname__}",
                f"{kind} was given what the function returns, not the function.",
                f"remove the parentheses: @router.{kind} above the function, or "
                f"router.{kind}({fn.__name__}).",
            )
        else:
            self._problem(
                _frame_place(frame),
                f"{kind}({_describe(fn)})",
                f"{kind} decorates a function, and {_describe(fn)} is not one.",
                f"write @router.{kind} or @router.{kind}(option=…) above a function; "
                "options are named.",
            )
            # The call was meant to return a decorator; the report is clearer than its failure.
            return lambda fn: fn
        return fn

    @overload
    def lifespan(self, fn: F, /) -> F: ...
    @overload
    def lifespan(self, /) -> Callable[[F], F]: ...
    def lifespan(self, fn: Any = None, /) -> Any:
        """Run once per process, before connections are served; its value is injected by type.

        A coroutine, or an async generator that yields once and is resumed when the process stops,
        whatever stopped it. What it raises before its ``yield`` keeps the server from starting.
        """
        return self._record("lifespan", fn, sys._getframe(1))

    @overload
    def on_connect(self, fn: F, /) -> F: ...
    @overload
    def on_connect(self, /) -> Callable[[F], F]: ...
    def on_connect(self, fn: Any = None, /) -> Any:
        """Run once per connection, before the handshake is answered; its value is injected by type.

        A coroutine, or an async generator that yields once and is resumed when the connection has
        ended, whatever ended it. ``raise Reject(…)`` answers with an HTTP error; after any other
        exception the answer is 500. It has ``open_timeout`` to set up, else the answer is 503, and
        ``close_timeout`` to tear down, in which it is not cancelled.
        """
        return self._record("on_connect", fn, sys._getframe(1))

    @overload
    def on_message(self, fn: F, /) -> F: ...
    @overload
    def on_message(self, /) -> Callable[[F], F]: ...
    def on_message(self, fn: Any = None, /) -> Any:
        """Run around every message that a consumer handles; its value is injected by type.

        A coroutine, or an async generator that yields once. What the consumer raises is raised at
        the ``yield``, its cancellation too: let it pass on.
        """
        return self._record("on_message", fn, sys._getframe(1))

    @overload
    def consumer(self, fn: F, /) -> F: ...
    @overload
    def consumer(
        self,
        /,
        *,
        concurrency: int | None = None,
        key: str | None = None,
        rate: str | None = None,
        burst: int | None = None,
        when_over: WhenOver = "slow",
        per: Per = "connection",
    ) -> Callable[[F], F]: ...
    def consumer(
        self,
        fn: Any = None,
        /,
        *,
        concurrency: int | None = None,
        key: str | None = None,
        rate: str | None = None,
        burst: int | None = None,
        when_over: WhenOver = "slow",
        per: Per = "connection",
    ) -> Any:
        """Handle messages of the type of the first parameter.

        What it returns, if not None, is sent to the peer; what a generator yields is sent, item by
        item. A ``Call`` is answered with what it returns, a ``Stream`` with what it yields. One
        whose first parameter is an ``AsyncIterator[M]`` runs once per connection and iterates its
        messages itself; when it returns, the connection is closed with 1000.

        What it raises closes the connection with 1011 and is logged, unless an ``on_error``
        function takes it; ``Close`` says another code. When the peer has left it may finish, within
        ``close_timeout``, and when the server stops, within ``grace``; any other end of the
        connection cancels it.

        Args:
            fn: the function, when used without parentheses.
            concurrency: how many messages are handled at a time, in slots of its own, which
                neither wait for other consumers nor hold them up; with 1, one by one and in order.
                By default, the messages of all such consumers of a connection share one lane, and
                are handled one by one in the order in which they came. Calls share 256 slots.
            key: with ``concurrency`` above 1: messages with equal ``message.<key>`` keep their
                order.
            rate: limits the messages that it takes, as that of ``Router`` limits the messages of
                all its consumers.
            burst: as that of ``Router``.
            when_over: as that of ``Router``.
            per: as that of ``Router``.
        """
        limit = RateLimit(rate, burst, when_over, per)
        return self._record(
            "consumer", fn, sys._getframe(1), concurrency=concurrency, key=key, limit=limit
        )

    @overload
    def producer(self, fn: F, /) -> F: ...
    @overload
    def producer(self, /, *, on_end: Literal["close", "keep"] = "close") -> Callable[[F], F]: ...
    def producer(self, fn: Any = None, /, *, on_end: Literal["close", "keep"] = "close") -> Any:
        """Produce messages for the peer, once per connection, concurrently with the consumers.

        An async generator: each item is sent. ``async def f() -> M``: called in a loop, each
        result is sent. ``async def f() -> None``: runs once and sends through its Connection.

        It waits while the peer does not read (backpressure). Items between which it does not wait
        are written together, up to 256 of them or about 8 KiB (on Trio each for itself). When the
        connection ends it is cancelled; what it raises closes the connection with 1011 and is
        logged.

        Args:
            fn: the function, when used without parentheses.
            on_end: ``"close"`` ends the connection with 1000 when it finishes; ``"keep"`` does not.
        """
        return self._record("producer", fn, sys._getframe(1), on_end=on_end)

    def get(self, path: str, /) -> Callable[[C], C]:
        """Answer plain HTTP requests with the method GET or HEAD, on the same port: for a page
        beside its WebSocket. ``@router.get("/page")``.

        It returns a ``str`` (HTML), ``bytes``, a ``Response``, or any other value, as JSON; with
        None the answer is 204. ``raise Reject(…)`` answers with an HTTP error, and any other
        exception with 500. It has ``open_timeout`` to answer. ``on_connect`` functions do not run
        for it.

        Args:
            path: its path, behind that of the Router.
        """
        if not isinstance(path, str):
            self._problem(
                _frame_place(sys._getframe(1)),
                f"get({_describe(path)})",
                "get needs a path.",
                'write @router.get("/page") above the function.',
            )
            return lambda fn: fn
        path = self._path(_frame_place(sys._getframe(1)), "path", path)
        return cast(Callable[[C], C], self._record("get", None, sys._getframe(1), path=path))

    @overload
    def on_disconnect(self, fn: C, /) -> C: ...
    @overload
    def on_disconnect(self, /) -> Callable[[C], C]: ...
    def on_disconnect(self, fn: Any = None, /) -> Any:
        """Run once per connection that was set up, after all its other tasks have stopped, and
        before its ``on_connect`` functions tear down. It may ask for the ``End``, has
        ``close_timeout``, and is not cancelled within that. What it raises is logged."""
        return self._record("on_disconnect", fn, sys._getframe(1))

    @overload
    def on_error(self, fn: C, /) -> C: ...
    @overload
    def on_error(self, /) -> Callable[[C], C]: ...
    def on_error(self, fn: Any = None, /) -> Any:
        """Run when a handler raises the exception type that its first parameter is annotated with,
        or an ``on_connect`` function does before its yield; for ``InvalidMessage``, when a message
        cannot be decoded. Of a group it is called for each exception.

        If it returns, the error is handled: a result that is not None is sent. After an error of a
        consumer of messages, and an ``InvalidMessage``, the connection goes on. After one of a
        producer or a consumer that iterates its messages it ends with 1011, since that has stopped;
        after one of ``on_connect`` it is refused with 500, or ends with 1011 if the handshake was
        answered before, without which the result is not sent. If it raises, the connection ends.
        """
        return self._record("on_error", fn, sys._getframe(1))


def _frame_place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return str(getattr(value, "__qualname__", repr(value)))
