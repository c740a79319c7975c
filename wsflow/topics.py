"""Topics: named, typed streams of messages that connections join."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import anyio
import msgspec

from wsflow.brokers.base import Envelope, Event
from wsflow.channels import Channels, Listener, Membership, Subscriber
from wsflow.codec import CODECS, Codec, decode_or_refuse, runtime_classes
from wsflow.connection import Connection
from wsflow.declare.markers import EventId, TopicOptions
from wsflow.errors import Disconnected

M = TypeVar("M")

# What stands in an encoded payload until the broker has given the event its id. Random, so that no
# message can hold it by accident or on purpose.
_ID_TOKEN = os.urandom(12).hex()


@dataclass(frozen=True, slots=True)
class TopicMember:
    """Somebody who has joined a topic.

    Attributes:
        id: the connection's id.
        presence: what it joined with, None if nothing.
    """

    id: str
    presence: Any


@dataclass(frozen=True, slots=True)
class Joined:
    """What ``join`` tells.

    Attributes:
        recovered: whether all events after the given one were replayed. False if none was given,
            or if the history no longer reaches back to it.
    """

    recovered: bool


@dataclass(frozen=True, slots=True)
class TopicType:
    """What a topic carries, and how; worked out once.

    Attributes:
        types: the message types.
        options: history and lag.
        codecs: the codecs that events are encoded in.
    """

    types: tuple[Any, ...]
    options: TopicOptions
    codecs: tuple[Codec, ...]

    @property
    def classes(self) -> tuple[type, ...]:
        return _classes(self.types)

    def envelope(self, message: object, exclude: frozenset[str]) -> Envelope:
        """Encode a message, once per codec."""
        token = None
        kind: Any = type(message)
        if self.options.history and (field := event_id_field(kind)):
            token = _ID_TOKEN
            change: Any = (
                msgspec.structs.replace
                if isinstance(message, msgspec.Struct)
                else dataclasses.replace
            )
            message = change(message, **{field: token})
        frames = {codec.name: codec.frame(message) for codec in self.codecs}
        return Envelope(frames, exclude, token)

    def decode(self, event: Event) -> Any:
        """The message of an event, for those who iterate the topic in the process."""
        codec = self.codecs[0]
        frame = event.frame(codec.name)
        if frame.raw:
            return frame.payload.decode() if frame.text else frame.payload
        return decode_or_refuse(_decoder(codec.name, self.types), frame.payload)


@lru_cache(maxsize=1024)
def _classes(types: tuple[Any, ...]) -> tuple[type, ...]:
    found = tuple({cls for kind in types for cls in runtime_classes(kind)})
    return (object,) if float in found and int not in found and len(found) == 1 else found


@lru_cache(maxsize=1024)
def _decoder(codec: str, types: tuple[Any, ...]) -> Callable[[bytes], Any]:
    return CODECS[codec].decoder(Union[types])  # noqa: UP007


@lru_cache(maxsize=1024)
def event_id_field(kind: Any) -> str | None:
    """The field of a Struct or dataclass that is marked with ``EventId()``."""
    if not (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)):
        return None
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated and any(
            isinstance(mark, EventId) for mark in get_args(hint)[1:]
        ):
            return name
    return None


class Topic(Generic[M]):
    """A named stream of messages of type ``M``.

    Ask for one by ``Annotated[Topic[Said], "room.{room}"]``, or by ``Registry.topic``.

    Attributes:
        name: the topic's name, with path parameters filled in.
    """

    __slots__ = ("_channels", "_listener", "_subscriber", "_type", "name")

    def __init__(
        self,
        name: str,
        type: TopicType,
        channels: Channels,
        subscriber: Subscriber | None,
        *,
        listen: bool = False,
    ) -> None:
        self.name = name
        self._type = type
        self._channels = channels
        self._subscriber = subscriber
        self._listener = self._listen() if listen else None

    def _listen(self) -> Listener:
        return Listener(self._channels.use(self.name, self._type.options), self._subscriber)

    async def join(self, presence: object = None, after: str | None = None) -> Joined:
        """Have what is published sent to this connection, until it leaves or ends.

        Joining again changes the presence and nothing else: nothing is replayed to a member.
        Before the handshake is accepted, messages wait, bounded by the topic's backlog.

        Args:
            presence: what ``members`` tells of this connection.
            after: an event id: what came after it is replayed first, then it goes live, with no
                gap and nothing twice. Needs a topic with ``history``.

        Raises:
            RuntimeError: there is no connection here (in a ``lifespan``, in ``Registry.topic`` of
                a ``lifespan``): only a connection can join.
            Disconnected: the connection has ended.
        """
        subscriber = self._connected("join")
        if subscriber.end is not None:
            raise Disconnected(subscriber.end)
        membership = self._channels.join(self.name, self._type.options, subscriber, presence)
        if membership is None or not after:
            return Joined(recovered=False)
        return await self._replay(membership, after)

    async def _replay(self, membership: Membership, after: str) -> Joined:
        membership.held = []
        seen: set[str] = set()
        try:
            replay = await self._channels.broker.replay(self.name, after)
            codec = membership.subscriber.codec.name
            for event in replay.events:
                seen.add(event.id)
                membership.subscriber.outbox.deliver(membership, event.frame(codec), replayed=True)
        finally:
            held, membership.held = membership.held, None
            for event in held:
                if event.id not in seen:
                    membership.receive(event)
        return Joined(replay.recovered)

    async def leave(self) -> None:
        """Stop receiving. Leaving what was not joined changes nothing.

        Raises:
            RuntimeError: there is no connection here.
        """
        subscriber = self._connected("leave")
        if membership := subscriber.memberships.get(self.name):
            membership.channel.leave(membership)

    def _connected(self, verb: str) -> Subscriber:
        if self._subscriber is None:
            raise RuntimeError(
                f"{verb} needs a connection, and topic {self.name!r} was injected where there is "
                f"none: {verb} it in on_connect or in a handler of the connection"
            )
        return self._subscriber

    async def publish(
        self, message: M, exclude: Connection | Iterable[Connection] | None = None
    ) -> str:
        """Send a message to all who have joined, in every process.

        It is encoded once, and no peer that reads slowly delays it.

        Args:
            message: of the topic's type.
            exclude: connections that do not get it.

        Returns:
            The event's id on a topic with history, else ``""``.

        Raises:
            TypeError: the message is not of the topic's type, or cannot be encoded.
        """
        if not isinstance(message, self._type.classes):
            names = " | ".join(getattr(kind, "__name__", str(kind)) for kind in self._type.types)
            raise TypeError(f"topic {self.name!r} carries {names}, not {type(message).__name__}")
        envelope = self._type.envelope(message, excluded_ids(exclude))
        return await self._channels.broker.publish(self.name, envelope, self._type.options.history)

    async def members(self) -> list[TopicMember]:
        """Who has joined, in every process: connections whose handshake is accepted."""
        channel = self._channels.get(self.name)
        if channel is None:
            return []
        return [TopicMember(each.subscriber.id, each.presence) for each in channel.present()]

    def __aiter__(self) -> AsyncIterator[M]:
        """Iterate what is published: from the moment the producer starts, elsewhere from here on.

        Each loop hears every message. What it has not taken yet is bounded by ``backlog``; beyond
        that ``when_full`` holds, as for a peer. Cancelling it is safe.

        Raises:
            RuntimeError: outside of a connection, the loop lags more than ``backlog`` behind and
                the topic is not one that drops.
        """
        listener = self._listener
        if listener is None or listener.looping:
            return _Loop(self.name, self._type, self._listen(), keep=False)
        return _Loop(self.name, self._type, listener, keep=True)

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"


class _Loop(AsyncIterator[M]):
    """One ``async for`` over a topic: it listens as long as it exists, or the connection does.

    What a producer was given listens between its loops too: ``keep``.
    """

    def __init__(self, name: str, type: TopicType, listener: Listener, *, keep: bool) -> None:
        self._name = name
        self._type = type
        self._listener = listener
        self._keep = keep
        listener.looping = True

    async def __anext__(self) -> M:
        listener = self._listener
        while not listener.events:
            if listener.lagged:
                raise RuntimeError(
                    f"this loop over topic {self._name!r} lags more than "
                    f"{self._type.options.backlog} messages behind: raise backlog, or choose "
                    "what to drop with when_full"
                )
            more = anyio.Event()
            listener.wake = more.set
            await more.wait()
        message: M = self._type.decode(listener.events.popleft())
        return message

    def __del__(self) -> None:
        self._listener.looping = False
        if not self._keep:
            self._listener.stop()


def excluded_ids(exclude: Connection | Iterable[Connection] | None) -> frozenset[str]:
    """The ids of the connections to leave out."""
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection):
        return frozenset({exclude.id})
    return frozenset(connection.id for connection in exclude)


def fill_name(template: str, path_params: Mapping[str, str]) -> str:
    """A topic's name, with path parameters percent-encoded outside ``[A-Za-z0-9_-]``."""
    filled = {name: _quote(value) for name, value in path_params.items()}
    return template.format_map(filled)


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def _quote(value: str) -> str:
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in value.encode("utf-8"))
