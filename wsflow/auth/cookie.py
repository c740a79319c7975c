"""The session cookie of a web application."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, final

from wsflow.auth.users import Users, provides, refused
from wsflow.connection import Connection
from wsflow.limits import Limits

U = TypeVar("U")


@final
class SessionCookie(Generic[U]):
    """An ``on_connect`` function that takes the session cookie of a web application, and provides a
    ``User``.

    Browsers send cookies with every connection, from whichever page it is opened. So it needs the
    check of the origin: an app that allows any, with ``--origin "*"``, does not start (cross-site
    WebSocket hijacking, RFC 6455 §10.2).

    Args:
        user: the type of the user: a Struct, a dataclass, or another class.
        read: a function, plain or async, from the value of the cookie to the user, or to None if
            there is no such session. It must not block. Verifying the value is its part.
        name: the name of the cookie.

    Raises:
        TypeError: ``read`` is no function, or the type of the user is none that msgspec knows.
        ValueError: the name is empty.
    """

    def __init__(
        self,
        user: type[U],
        *,
        read: Callable[[str], U | None] | Callable[[str], Awaitable[U | None]],
        name: str = "session",
    ) -> None:
        self._kind = Users("SessionCookie", user).kind
        if not callable(read):
            raise TypeError(f"SessionCookie: read is {read!r}: use a function")
        if not name:
            raise ValueError("SessionCookie: the name of the cookie is empty")
        self._read = read
        self._name = name
        self.__signature__ = provides(user, ("connection", Connection))

    async def __call__(self, connection: Connection) -> U:
        """Take the cookie of a connection, and provide its user.

        Raises:
            Reject: with 401: there is none, or it is not accepted.
            TypeError: ``read`` has returned something else.
        """
        value = connection.request.cookies.get(self._name)
        if value is None:
            raise refused()
        user = self._read(value)
        if inspect.isawaitable(user):
            user = await user
        if user is None:
            raise refused("the session is not valid")
        if not isinstance(user, self._kind):
            raise TypeError(
                f"SessionCookie: read has returned a {type(user).__name__}, and not a "
                f"{self._kind.__name__} or None"
            )
        return user

    @property
    def credential_options(self) -> Sequence[tuple[str, str]]:
        """The option of ``wsflow connect`` that sends the cookie."""
        return [("--header", f"Cookie: {self._name}=…")]

    @property
    def credential_places(self) -> Sequence[tuple[str, str]]:
        """Where clients have the cookie."""
        return [("cookie", self._name)]

    def check_limits(self, limits: Limits) -> tuple[str, str] | None:
        """Why it cannot be used with these limits, and what to do; None if it can."""
        if "*" not in limits.origin:
            return None
        return (
            'The origin "*" is allowed, so that a page of any site can use the cookie of its '
            "visitor.",
            "name the origins, as in --origin https://example.com.",
        )
