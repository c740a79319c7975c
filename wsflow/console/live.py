"""What the processes of an app are doing, for the console: its WebSocket, and what each says.

A console asks once a second, on a topic that all processes listen to. Each answers on a topic that
the console alone has joined. So the workers of a server, and other servers with the same broker,
are seen together.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, final

import anyio
import msgspec
from anyio.abc import TaskGroup

from wsflow.connection import Connection
from wsflow.declare.markers import TopicName
from wsflow.declare.router import Router
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.messages.calls import Call
from wsflow.request import Request
from wsflow.runtime.session import Session
from wsflow.topics.registry import Registry
from wsflow.topics.topic import Topic

log = Log("wsflow.console")

PATH = "/_wsflow"
"""Where the console is."""

NAME = f"{socket.gethostname()}:{os.getpid()}"
"""The name of this process."""

EVERY = 1.0
"""Seconds between two questions."""
MOST = 200
"""How many connections and topics each process tells of, at most."""
GLANCE = 0.02
"""Seconds for which a process looks at its event loop, before it answers."""


class Ask(msgspec.Struct, tag="ask"):
    """A console asks what is going on.

    Attributes:
        to: the id of the console's connection.
        text: what connections are to have in their route, path, id or user.
    """

    to: str
    text: str


class Line(msgspec.Struct):
    """A connection.

    Attributes:
        seconds: since its opening request.
        received, sent: messages.
        waiting: messages of topics that wait because its peer lags.
        running: the names of the functions that run.
    """

    id: str
    route: str
    path: str
    user: str | None
    peer: str
    seconds: float
    received: int
    sent: int
    waiting: int
    running: list[str]


class TopicLine(msgspec.Struct):
    """A topic, in one process.

    Attributes:
        members: connections that have joined.
        waiting: messages for members that lag.
    """

    name: str
    members: int
    waiting: int


class Process(msgspec.Struct, tag="process"):
    """What a process is doing.

    Attributes:
        id: the name of its machine, and its process id.
        connections: how many are open, by route.
        lines: some of them: at most ``MOST``, those that lag most first.
        found: how many have the text that was asked for.
        topics: some topics: those with the most messages that wait, or members, first.
        all_topics: how many there are.
        broker: what carries topics: see ``Registry.broker``.
        connected: whether that can be reached.
        lag: seconds by which the event loop was late.
        counters: as those of ``Registry.counters``.
        every: seconds until the next one comes.
    """

    id: str
    connections: dict[str, int]
    lines: list[Line]
    found: int
    topics: list[TopicLine]
    all_topics: int
    broker: str
    connected: bool
    lag: float
    counters: dict[str, int]
    every: float = EVERY


class Watch(msgspec.Struct, tag="watch"):
    """From the page: what connections are to have in their route, path, id or user."""

    text: str


class Disconnect(Call[None], tag="disconnect"):
    """From the page: close a connection, in whatever process it is."""

    id: str


ASKED = TopicName("_wsflow.console", backlog=64, when_full="drop_oldest")
ANSWERS = TopicName("_wsflow.console.{to}", backlog=64, when_full="drop_oldest")


@final
class Watching:
    """What a console wants to see."""

    def __init__(self) -> None:
        self.text = ""
        self.changed = anyio.Event()


def live_router(
    check: Callable[[Request], None], app: Registry, sessions: Mapping[str, Session]
) -> Router:
    """The Router of the console's WebSocket.

    Args:
        check: raises Reject for who may not connect.
        app: the registry of the app that it shows.
        sessions: the app's connections in this process, by id.
    """
    router = Router(
        "/live",
        unknown="ignore",
        topics=[Annotated[Topic[Ask], ASKED], Annotated[Topic[Process], ANSWERS]],
    )

    @router.lifespan
    async def answer(registry: Registry, tasks: TaskGroup) -> None:
        tasks.start_soon(_answer, registry, app, sessions)

    @router.on_connect
    async def enter(request: Request, connection: Connection, registry: Registry) -> Watching:
        check(request)
        await registry.topic(ANSWERS, Process, to=connection.id).join()
        return Watching()

    @router.producer
    async def ask(watching: Watching, connection: Connection, registry: Registry) -> None:
        topic = registry.topic(ASKED, Ask)
        while True:
            with _unless_the_broker_is_away():
                await topic.publish(Ask(connection.id, watching.text))
            with anyio.move_on_after(EVERY):
                await watching.changed.wait()
            watching.changed = anyio.Event()

    @router.consumer
    async def watch(message: Watch, watching: Watching) -> None:
        watching.text = message.text
        watching.changed.set()

    @router.consumer
    async def disconnect(call: Disconnect) -> None:
        log.info("the console disconnects %s", call.id)
        await app.disconnect(call.id, 1000, "disconnected from the console")

    return router


async def _answer(registry: Registry, app: Registry, sessions: Mapping[str, Session]) -> None:
    """Answer all that consoles ask, as long as the console runs."""
    async for ask in registry.topic(ASKED, Ask):
        with _unless_the_broker_is_away():
            began = anyio.current_time()
            await anyio.sleep(GLANCE)
            lag = max(0.0, anyio.current_time() - began - GLANCE)
            told = now(app, sessions.values(), ask.text, lag)
            await registry.topic(ANSWERS, Process, to=ask.to).publish(told)


def now(registry: Registry, sessions: Iterable[Session], text: str, lag: float) -> Process:
    """What this process is doing.

    Args:
        registry: its topics.
        sessions: its connections.
        text: what connections are to have in their route, path, id or user.
        lag: seconds by which its event loop was late.
    """
    channels = registry._directory.channels
    there = [each for each in sessions if each.announced]
    lines = [line for each in there if text in _text(line := _line(each))]
    topics = [
        TopicLine(each.name, len(each.members), each.waiting) for each in channels if each.name
    ]
    return Process(
        id=NAME,
        connections=dict(Counter(each.plan.template for each in there)),
        lines=sorted(lines, key=lambda each: (-each.waiting, each.seconds))[:MOST],
        found=len(lines),
        topics=sorted(topics, key=lambda each: (-each.waiting, -each.members, each.name))[:MOST],
        all_topics=len(topics),
        broker=registry.broker,
        connected=channels.broker.connected,
        lag=lag,
        counters=registry.counters(),
    )


def _line(session: Session) -> Line:
    connection = session.connection
    request = connection.request
    return Line(
        id=connection.id,
        route=session.plan.template,
        path=request.path,
        user=connection.user,
        peer=str(request.client or ""),
        seconds=session.age,
        received=session.received,
        sent=session.outbox.sent,
        waiting=sum(len(each.waiting) for each in session.memberships.values()),
        running=session.running,
    )


def _text(line: Line) -> str:
    """What a connection is found by."""
    return "\n".join((line.route, line.path, line.id, line.user or ""))


@contextmanager
def _unless_the_broker_is_away() -> Iterator[None]:
    """A console sees no more, and goes on when the broker is back."""
    try:
        yield
    except BrokerError as exc:
        log.often(logging.WARNING, "the console is not told what goes on: %s", exc)
