"""Publishing from outside of a server: from a background job, a web request or a script."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from threading import Condition
from typing import Any, final

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from wsflow.brokers.carried import CarriedBroker
from wsflow.brokers.remote import RemoteBroker
from wsflow.brokers.select import engine, remote
from wsflow.declare.router import Router
from wsflow.messages.codec import CODECS
from wsflow.messages.events import TopicOptions, event_id_field
from wsflow.messages.families import is_class_with_fields
from wsflow.server.loading import LoadError, load
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.names import said
from wsflow.topics.type import TopicType
from wsflow.wiring.compile import compile_app


@final
class Publisher:
    """Publishes on topics of an app: ``await publish("room.{room}", Said("hi"), room="lobby")``.

    Created by ``publisher``, and called as a function: see ``__call__`` for what it takes, returns
    and raises. Safe to use from several tasks.
    """

    def __init__(
        self, broker: RemoteBroker | CarriedBroker, declared: DeclaredTopics | None
    ) -> None:
        self._broker = broker
        self._declared = declared

    async def __call__(self, topic: str, message: object, /, **values: str | int) -> str:
        """Send a message to all members of a topic, in all processes of the app.

        ``await publish("room.{room}", Said("hi"), room="my room")``. If the app declares the topic
        with ``history``, the message is kept. If this is cancelled, the message may have been
        published.

        Args:
            topic: the topic's template, or its complete name.
            message: of the topic's type, which is checked if the publisher has the app; else
                anything that msgspec encodes. ``str`` and ``bytes`` are sent as they are.
            values: a value for each parameter of the template, a ``str`` or an ``int``.

        Returns:
            The event's id on a topic with history, else ``""``.

        Raises:
            ValueError: a value is missing, empty, or one too many; the template is malformed; the
                complete name can be none of a declared topic, though it looks like one; or the app
                declares no such topic.
            TypeError: the message is not of the topic's type, or cannot be encoded; or, without the
                app, its topic's messages carry their event id, and this one has no field for it
                that is marked with ``EventId``.
            BrokerError: the broker was unreachable for longer than ``timeout``, or refused the
                message. Unless the error says otherwise, the message was not published.
        """
        if self._declared is not None:
            name, kind = declared_topic(self._declared, topic, values)
            message = kind.check(name, message)
        else:
            name, kind = await self._stored(topic, values)
            if _lacks_id(message, kind.options):
                raise TypeError(
                    f"messages on topic {name!r} carry their event id, and "
                    f"{type(message).__name__} has no field marked with EventId(): publish a "
                    "message of the topic's type, or name the app: publisher(…, app=…), "
                    "`wsflow publish --app`"
                )
        envelope = kind.envelope(message, frozenset())
        return await self._broker.publish(name, envelope, kind.options)

    async def _stored(self, topic: str, values: dict[str, str | int]) -> tuple[str, TopicType]:
        """A topic's name, and what the broker knows of it."""
        codecs = tuple(CODECS.values())
        stored = DeclaredTopics(
            {
                template: TopicType((object,), options, codecs)
                for template, options in (await self._broker.declared()).items()
            }
        )
        name, found = stored.name(topic, values, _cure)
        return name, found or TopicType((object,), TopicOptions(), codecs)


def _lacks_id(message: Any, options: TopicOptions) -> bool:
    """Whether a message should carry its event id, and has no known place for it. Where some of the
    types carry one, an instance of a class with fields may be of another type; all else may not."""
    kind: Any = type(message)
    if not options.event_id or event_id_field(kind) is not None:
        return False
    return options.event_id == "all" or not is_class_with_fields(kind)


def declared_topic(
    declared: DeclaredTopics, topic: str, values: dict[str, str | int]
) -> tuple[str, TopicType]:
    """The name and the type of a topic that an app declares.

    Raises:
        ValueError: it declares none of that name, or the name is wrong.
        TypeError: a value is neither a str nor an int.
    """
    name, kind = declared.name(topic, values, _cure)
    if kind is None:
        known = ", ".join(sorted(declared.types)) or "none"
        raise ValueError(f"the app declares no topic {topic!r}; it has: {known}")
    return name, kind


def _cure(template: str, values: Mapping[str, str]) -> str:
    params = " ".join(f"--param {name}={value!r}" for name, value in values.items())
    return (
        f"publish({template!r}, message, {said(values)}), or wsflow publish {template!r} {params}"
    )


@asynccontextmanager
async def publisher(
    url: str, *, app: Router | str | None = None, timeout: float = 10.0
) -> AsyncIterator[Publisher]:
    """Connect to an app's broker, to publish from outside of its servers. For asyncio and Trio.

    ``async with wsflow.publisher("redis://localhost") as publish: await publish("news", message)``

    With the app, messages are checked before they are published, and carry their event id. Without
    it, which topics have a history is read from the broker, where the app has stored it when it
    connected.

    Args:
        url: the broker, as ``wsflow run --broker`` takes it. ``workers://`` is the embedded broker
            of a ``wsflow run --workers`` that runs on this machine as the same user;
            ``workers://:8000`` names its port if several run, and ``workers:///run/x.sock`` its
            Unix socket.
        app: the app, or its name as ``wsflow run`` takes it: ``"module:app"``. It is not run.
        timeout: seconds that publishing waits for the broker; with 0 it fails at once while there
            is no connection. Connecting waits for at least 3 seconds.

    Raises:
        ValueError: the URL is invalid, or its client is not installed; or the app cannot be loaded.
        DeclarationError: the app's declarations are invalid.
        BrokerError: the broker cannot be reached.
    """
    broker = remote(None, engine(url), timeout, {})
    try:
        router = load(app) if isinstance(app, str) else app
    except LoadError as exc:
        raise ValueError(str(exc)) from None
    declared = compile_app(router).topics if router is not None else None
    await broker.start()
    try:
        yield Publisher(broker, declared)
    finally:
        with anyio.CancelScope(shield=True):  # which takes half a second at most
            await broker.stop()


@final
class BlockingPublisher:
    """Publishes on topics of an app: ``publish("room.{room}", Said("hi"), room="lobby")``.

    Created by ``blocking_publisher``, and called as a function: see ``__call__``. Safe to use from
    several threads.
    """

    def __init__(self, portal: BlockingPortal, publish: Publisher) -> None:
        self._portal = portal
        self._publish = publish
        self._process = os.getpid()
        self._calls = 0
        self._closed = False
        self._changed = Condition()

    def __call__(self, topic: str, message: object, /, **values: str | int) -> str:
        """Send a message to all members of a topic, and wait until the broker has it.

        Args, result and errors are those of ``Publisher``.

        Raises:
            RuntimeError: it is closed; or it was made before this process was forked.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "this publisher was made before the process was forked, and its thread is not in "
                "this one: make it afterwards, in the process that uses it"
            )
        with self._calling():
            return self._portal.call(partial(self._publish, topic, message, **values))

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with self._changed:
            if self._closed:
                raise RuntimeError("this publisher is closed: its `with` block has ended")
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _close(self) -> None:
        """Take no more messages, and wait for those of other threads."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._calls)


@contextmanager
def blocking_publisher(
    url: str, *, app: Router | str | None = None, timeout: float = 10.0
) -> Iterator[BlockingPublisher]:
    """Connect to an app's broker, to publish from code without an event loop, as a Django view, a
    worker of a task queue or a script.

    ``with wsflow.blocking_publisher("redis://localhost") as publish: publish("news", message)``

    The connection lives in a thread of its own, until the block ends: then what other threads are
    publishing is waited for. Make one per process and keep it, rather than one per message. Where
    the server forks (gunicorn, uWSGI, multiprocessing) make it after the fork, in the process that
    uses it: no thread is carried over. In a coroutine use ``publisher``, since this one blocks the
    event loop.

    Args:
        url: as ``publisher`` takes it.
        app: as ``publisher`` takes it.
        timeout: as ``publisher`` takes it.

    Raises:
        ValueError: as ``publisher``.
        DeclarationError: as ``publisher``.
        BrokerError: the broker cannot be reached.
    """
    with (
        start_blocking_portal("asyncio", name="wsflow publisher") as portal,
        portal.wrap_async_context_manager(publisher(url, app=app, timeout=timeout)) as publish,
    ):
        blocking = BlockingPublisher(portal, publish)
        try:
            yield blocking
        finally:
            blocking._close()
