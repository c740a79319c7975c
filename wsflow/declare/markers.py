"""Markers for ``Annotated[…]``: where a parameter's value comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final, get_args

import msgspec

from wsflow.credential import same
from wsflow.errors import Forbidden
from wsflow.messages.events import HISTORY_BYTES, TopicOptions, WhenFull
from wsflow.messages.hooks import Hooks


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter: ``Annotated[int, Query()]``. It is converted to its type;
    ``Annotated[list[T], Query()]`` collects all of its values. One that is missing and has no
    default, or that cannot be converted, is answered with 400, which names it.

    Args:
        name: its name in the URL; the parameter's own by default.
        resumes: whether it is the id of the last event that the client has seen, for
            ``topic.join(after=…)``: generated clients send it when they come back.
    """

    name: str | None = None
    resumes: bool = field(default=False, kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the opening request: ``Annotated[str, Header()]``. One that is missing and has no
    default, or that cannot be converted to its type, is answered with 400, which names it.

    Args:
        name: its name; by default the parameter's own with ``_`` replaced by ``-``.
    """

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie of the opening request: ``Annotated[str, Cookie()]``. One that is missing and has no
    default, or that cannot be converted to its type, is answered with 400, which names it.

    Args:
        name: its name; the parameter's own by default.
    """

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """The message that is being handled, in ``on_message``: ``Annotated[object, Message()]``."""


TEN_YEARS = 10 * 365 * 24 * 3600


class TopicName:
    """The name and the options of a topic.

    ``Annotated[Topic[Said], TopicName("room.{room}", history=100)]``; a plain string is the name
    with default options. ``registry.topic(TopicName(…), Said, room=room)`` takes one, too. Options
    that are out of bounds are a mistake in a declaration, and a ValueError of ``Registry.topic``.

    Args:
        template: the name; ``{param}`` is replaced by a path parameter, or by the value that is
            given with the name, percent-encoded outside of ``[A-Za-z0-9_-]``.
        history: how many of the last events the broker keeps for ``join(after=…)`` and
            ``join(last=…)``; 0, the default, for none.
        max_age: how many seconds an event is kept at most, up to ten years; 0, the default, for no
            limit in time. It needs ``history``.
        idle: how many seconds after its last event a history is forgotten as a whole, up to ten
            years; 0, the default, for never.
            For topics that come and go, such as rooms that somebody opens: what nobody writes to
            any more takes no room. It needs ``history``.
        history_bytes: how many bytes of events are kept at most, 16 MiB by default; beyond that the
            oldest are dropped. 0 for no limit in bytes. It needs ``history``.
        backlog: how many messages one peer may lag behind: at least 1, 1,024 by default.
        when_full: what happens beyond that: ``"close"`` with 1013, the default, ``"drop_oldest"``,
            ``"drop_newest"``, or keep only the ``"latest"``.
        presence: the type of the members' presence: ``members`` returns values of that type, for
            members in other processes too. Without it, a presence from another process is decoded
            to the type that connections of this process have joined with.
        gap: a message that the members in a process are sent when they may have missed messages,
            because the broker was away, or a history has lost some: ``gap=Reload()``. It comes in
            the place of what is missing, and is published to nobody else.
    """

    __slots__ = ("_bounds_bytes", "_options", "template")

    def __init__(
        self,
        template: str,
        *,
        history: int = 0,
        max_age: float = 0,
        history_bytes: int | None = None,
        backlog: int = 1024,
        when_full: WhenFull = "close",
        presence: Any = None,
        gap: Any = None,
        idle: float = 0,
    ) -> None:
        self.template = template
        self._bounds_bytes = history_bytes is not None
        self._options = TopicOptions(
            history,
            max_age,
            HISTORY_BYTES if history_bytes is None else history_bytes,
            backlog,
            when_full,
            presence,
            gap,
            idle=idle,
        )

    def __repr__(self) -> str:
        return f"TopicName({self.template!r})"

    def _problem(self, hooks: Hooks) -> tuple[str, str] | None:
        """Why a topic cannot have these options, and the fix; None if it can."""
        options = self._options
        for name, value in (
            ("history", options.history),
            ("history_bytes", options.history_bytes),
            ("backlog", options.backlog),
        ):
            least = 1 if name == "backlog" else 0
            if not _is_count(value, least):
                return f"{name} is {value!r}.", f"use a whole number of at least {least}."
        for name, seconds in (("max_age", options.max_age), ("idle", options.idle)):
            if not _is_seconds(seconds):
                return (
                    f"{name} is {seconds!r}.",
                    "use seconds, at least 0 and at most ten years; 0 is no limit.",
                )
            if seconds and not options.history:
                return (
                    f"{name} is a limit of a history in seconds, and there is none.",
                    f"set the number of events, too: history=100, {name}=3600.",
                )
        if self._bounds_bytes and not options.history:
            return (
                "history_bytes is the limit of a history in bytes, and there is none.",
                "set the number of events, too: history=100, history_bytes=1_000_000.",
            )
        if options.when_full not in get_args(WhenFull):
            return (
                f"when_full is {options.when_full!r}.",
                'use "close", "drop_oldest", "drop_newest" or "latest".',
            )
        return _gap_problem(options.gap, hooks)


def _gap_problem(gap: Any, hooks: Hooks) -> tuple[str, str] | None:
    """Why a message cannot be sent where some are missing, and the fix; None if it can."""
    if isinstance(gap, type):
        return f"gap is the class {gap.__name__}.", f"write the message: gap={gap.__name__}()."
    try:
        msgspec.json.encode(gap, enc_hook=hooks.encode)
    except Exception as exc:  # whatever its own code raises
        return f"gap cannot be encoded: {exc}.", "use a type that other messages have, too."
    return None


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value == 0 or 0.001 <= value <= TEN_YEARS


@final
class Requires:
    """Who may: ``Annotated[User, Requires("admin")]`` on a parameter, or on that of a topic:
    ``Annotated[Topic[News], "news", Requires("admin")]``.

    It is asked each time that the function is called. Without the role, the function is not called
    and ``Forbidden`` is raised in its place: 403 before the handshake is answered. Several of them
    must all hold.

    Args:
        role: a member of the ``roles`` of the user: a collection of str, or one str. Or a plain
            function of the user that returns True or False.
        of: beside a topic, the type of the user, as a scope function provides it. By default it is
            the only type that is provided there and has ``roles``; for a function, the only type.

    Raises:
        TypeError: the role is neither a str nor a plain function.
        ValueError: the role is empty.
    """

    __slots__ = ("of", "role")

    def __init__(self, role: str | Callable[[Any], bool], *, of: Any = None) -> None:
        if isinstance(role, str):
            if not role:
                raise ValueError("Requires: the role is empty")
        elif not callable(role) or inspect.iscoroutinefunction(role):
            raise TypeError(f"Requires({role!r}): use the name of a role, or a plain function")
        self.role = role
        self.of = of

    @property
    def name(self) -> str:
        """The role, or the name of the function."""
        if isinstance(self.role, str):
            return repr(self.role)
        return str(getattr(self.role, "__name__", type(self.role).__name__))

    def check(self, user: Any) -> None:
        """Check a user; nobody, None, may nothing. Roles are compared in constant time.

        Raises:
            Forbidden: it may not.
            TypeError: the function has not returned a bool, or a role is not a str.
        """
        if user is None:
            raise Forbidden("forbidden")
        if not isinstance(self.role, str):
            granted: Any = self.role(user)
            if not isinstance(granted, bool):
                if inspect.iscoroutine(granted):
                    granted.close()
                raise TypeError(
                    f"Requires({self.name}): it returned a {type(granted).__name__}, and not True "
                    "or False"
                )
        else:
            granted = self._among(user.roles, self.role)
        if not granted:
            raise Forbidden("forbidden")

    def _among(self, roles: Any, role: str) -> bool:
        found = False
        for each in (roles,) if isinstance(roles, str) else roles:
            if not isinstance(each, str):
                raise TypeError(
                    f"Requires({self.name}): a role of the user is a {type(each).__name__}: use str"
                )
            found |= same(each, role)
        return found


@final
class Sends:
    """What a function sends through its Connection: ``Annotated[Connection, Sends(Board, Won)]``.

    ``wsflow routes`` and ``wsflow check`` show these types with those that consumers return,
    producers yield and topics carry. At run time it changes nothing.

    Args:
        types: the types of the messages, as a consumer's annotation would have them.
    """

    __slots__ = ("types",)

    def __init__(self, *types: Any) -> None:
        self.types = types


REQUEST_MARKERS = (Query, Header, Cookie)
MARKERS = (*REQUEST_MARKERS, Message, Requires, TopicName, Sends)

PLACES = {
    Query: "Annotated[str, Query()]",
    Header: "Annotated[str, Header()]",
    Cookie: "Annotated[str, Cookie()]",
    Message: "Annotated[object, Message()]",
    Requires: 'Annotated[User, Requires("role")]',
    TopicName: 'Annotated[Topic[Said], TopicName("name")]',
    Sends: "Annotated[Connection, Sends(Said)]",
}
"""How each marker is written."""
