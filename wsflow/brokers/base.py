"""What carries topics, and what it carries.

A broker gives each event of a topic with history an id, keeps the last ones, and hands every event
to the process's ``deliver``, in one order per topic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

from wsflow.codec import CODECS
from wsflow.transports.frames import Frame


@dataclass(frozen=True, slots=True)
class Envelope:
    """A published message on its way: a payload per codec.

    Attributes:
        frames: per codec name, the payload as it goes to the peers.
        exclude: ids of connections that do not get it.
        id_token: what stands in the payloads where the event's id belongs, None if nowhere.
    """

    frames: Mapping[str, Frame]
    exclude: frozenset[str] = frozenset()
    id_token: str | None = None


@final
class Event:
    """An envelope with the id that the broker gave it; ``""`` on a topic without history."""

    __slots__ = ("_frames", "envelope", "id")

    def __init__(self, id: str, envelope: Envelope) -> None:
        self.id = id
        self.envelope = envelope
        token = envelope.id_token
        self._frames: dict[str, Frame] | Mapping[str, Frame]
        self._frames = envelope.frames if token is None else {}

    def frame(self, codec: str) -> Frame:
        """The frame for peers of this codec, built once, with the id in its place."""
        frame = self._frames.get(codec)
        if frame is None:
            encode = CODECS[codec].encode
            raw = self.envelope.frames[codec]
            payload = raw.payload.replace(encode(self.envelope.id_token), encode(self.id), 1)
            frame = Frame(payload, raw.text)
            self._frames = {**self._frames, codec: frame}
        return frame


class Replay(NamedTuple):
    """What a topic's history has after an event.

    Attributes:
        recovered: whether ``events`` is all that was missed.
        events: what came after, oldest first.
    """

    recovered: bool
    events: Sequence[Event]


Deliver = Callable[[str, Event], None]
"""Takes a topic's name and an event to this process's joined connections; never waits."""


class Broker(Protocol):
    """Carries topics between the processes of an app."""

    async def publish(self, topic: str, envelope: Envelope, history: int) -> str:
        """Send to all processes, keep the last ``history``; return the id, "" without history."""

    async def replay(self, topic: str, after: str) -> Replay:
        """What the history of ``topic`` holds after the event ``after``."""

    def subscribe(self, topic: str) -> None:
        """The first connection of this process has joined ``topic``."""

    def unsubscribe(self, topic: str) -> None:
        """The last connection of this process has left ``topic``."""
