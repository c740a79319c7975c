"""The members of a topic, and their changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TopicMember:
    """A connection that has joined a topic.

    Attributes:
        id: the connection's id.
        presence: the value that it has joined with, None without one.
    """

    id: str
    presence: Any


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A connection has joined a topic, or has joined it again with another presence.

    Attributes:
        member: the member, with its presence.
        earlier: whether it had joined before the loop over ``Topic.watch_members`` began.
    """

    member: TopicMember
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A connection has left a topic, or has ended.

    Attributes:
        member: the member, with its last presence.
    """

    member: TopicMember
