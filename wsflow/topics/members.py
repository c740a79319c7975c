"""Who has joined a topic, and who comes and goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TopicMember:
    """A connection that has joined a topic.

    Attributes:
        id: the connection's id.
        presence: what it joined with, None if nothing.
    """

    id: str
    presence: Any


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A connection has joined a topic, or has joined it again with another presence.

    Attributes:
        member: who, and with which presence.
        earlier: whether that was before the loop over ``Topic.watch_members`` began.
    """

    member: TopicMember
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A connection has left a topic, or has ended.

    Attributes:
        member: who, with the presence that was last.
    """

    member: TopicMember
