"""Markers for ``Annotated[…]``: where a parameter's value comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsflow.messages.events import TopicOptions, WhenFull


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. ``Annotated[list[T], Query()]`` collects all of its values.

    Args:
        name: its name in the URL; the parameter's own by default.
    """

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the opening request.

    Args:
        name: its name; by default the parameter's own with ``_`` replaced by ``-``.
    """

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie of the opening request.

    Args:
        name: its name; the parameter's own by default.
    """

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """The message that is being handled, in ``on_message``: ``Annotated[object, Message()]``."""


class TopicName:
    """The name and the options of an injected topic.

    ``Annotated[Topic[Said], TopicName("room.{room}", history=100)]``; a plain string is the name
    with default options.

    Args:
        template: the name; ``{param}`` is replaced by a path parameter.
        history: how many of the last events the broker keeps for ``join(after=…)``.
        max_age: how many seconds an event is kept at most; 0 for no limit but ``history``.
        backlog: how many messages one peer may lag behind.
        when_full: what happens beyond that: ``"close"`` with 1013, ``"drop_oldest"``,
            ``"drop_newest"``, or keep only the ``"latest"``.
        presence: the type of the members' presence: ``members`` returns values of that type, for
            members in other processes too. Without it, a presence from another process is decoded
            to the type that connections of this process have joined with.
    """

    __slots__ = ("_options", "template")

    def __init__(
        self,
        template: str,
        *,
        history: int = 0,
        max_age: float = 0,
        backlog: int = 1024,
        when_full: WhenFull = "close",
        presence: Any = None,
    ) -> None:
        self.template = template
        self._options = TopicOptions(history, max_age, backlog, when_full, presence)


REQUEST_MARKERS = (Query, Header, Cookie)
