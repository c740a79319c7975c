"""The exceptions that handlers raise and catch, and the report of bad declarations.

``Reject`` and ``Close`` are how a handler ends its own connection on purpose. ``Disconnected`` is
what a send raises once the connection has ended. ``DeclarationError`` lists all mistakes in an app,
before it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsflow.end import End, check_close_code, comes_first, cut_reason
from wsflow.http import HeaderItems, check_own_headers, check_text, header_pairs


class Close(Exception):
    """Raise it anywhere in a handler to end the connection with a close code.

    Args:
        code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4); 1000 by default.
        reason: shown to the peer; cut to 123 bytes at a character.

    Raises:
        ValueError: the code may not be sent.
        TypeError: the reason is not a str.
    """

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        super().__init__(code, reason)
        check_text("the reason of a Close", reason)
        self.code = check_close_code(code)
        self.reason = cut_reason(reason)


class Reject(Exception):
    """Raise it in ``on_connect`` to answer the opening handshake with an HTTP error.

    Once the handshake is accepted, it closes with 1008 (policy violation) instead.

    Args:
        status: an HTTP status from 300 to 599.
        body: the text of the answer, sent as UTF-8.
        headers: more headers, a mapping or pairs; names are tokens (RFC 9110 §5.6.2).

    Raises:
        ValueError: the status or a header may not be sent.
        TypeError: the body is not a str, or the headers are not pairs of str.
    """

    def __init__(
        self,
        status: int,
        body: str = "",
        headers: HeaderItems = (),
    ) -> None:
        super().__init__(f"{status}: {body}".strip().removesuffix(":"))
        if not (isinstance(status, int) and 300 <= status <= 599):
            raise ValueError(
                f"{status!r} cannot reject a handshake: use a status from 300 to 599"
                + comes_first("status", "Reject(403", status)
            )
        check_text("the body of a Reject", body)
        self.status = int(status)
        self.body = body
        self.headers = tuple(header_pairs(headers))
        check_own_headers(self.headers)


class Forbidden(Exception):
    """A function asks for a user that may do more than this connection's: see ``Requires``.

    Before the handshake is answered it is answered with 403. After that it ends one call with
    ``CallError("forbidden")``, and any other message by closing with 4403, unless an ``on_error``
    function takes it. Functions may raise it themselves.

    Args:
        why: what is missing, for people: it is shown to the peer, cut to 123 bytes in a close
            frame.

    Raises:
        TypeError: it is not a str.
    """

    def __init__(self, why: str = "forbidden") -> None:
        super().__init__(why)
        check_text("the reason of a Forbidden", why)


class Disconnected(Exception):
    """The connection has ended. If it leaves a handler, that is not an error.

    Attributes:
        end: how the connection ended, None if that is not known.
    """

    def __init__(self, end: End | None = None) -> None:
        super().__init__("the connection has ended" if end is None else f"ended: {end}")
        self.end = end


class InvalidMessage(Exception):
    """The peer has sent a message that cannot be decoded.

    An ``on_error`` function that takes it is called in the message's place, after the handlers of
    the messages before it; then the connection goes on. Without one the connection is closed with
    1007, and the log says why.

    Attributes:
        reason: what is wrong.
        where: where in the message, as a JSONPath: ``$`` for all of it.
        tag: its tag, None if none could be read.
        payload: the message as it came.
    """

    def __init__(
        self, reason: str, where: str = "$", tag: str | int | None = None, payload: bytes = b""
    ) -> None:
        super().__init__(reason if where == "$" else f"{reason} - at `{where}`")
        self.reason = reason
        self.where = where
        self.tag = tag
        self.payload = payload


class CallError(Exception):
    """A call has failed. Raise it in a consumer to answer a call with an error; ``call`` raises it
    in the caller.

    Args:
        code: the error for programs: an identifier of your own, as in ``"not_found"``. wsflow
            itself uses ``"unknown"`` (no consumer takes such calls), ``"invalid"`` (the call, or
            its answer, is not of its type), ``"forbidden"`` (the user may not make it: see
            ``Requires``), ``"rate_limited"`` (the call came too early for a rate limit, and was
            dropped) and ``"internal"`` (the consumer raised another exception).
        message: the error for people.

    Raises:
        TypeError: one of them is not a str.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        check_text("the code of a CallError", code)
        check_text("the message of a CallError", message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class ConnectError(ConnectionError):
    """A server cannot be reached, or refuses the connection.

    Attributes:
        status: the HTTP status of its answer; None if there was no answer.
        headers: the headers of the answer.
        body: the text of the answer.
        retryable: whether a later attempt may succeed: the reason is the network, or a temporary
            condition of the server.
        retry_after: seconds to wait before that, from ``Retry-After`` (RFC 9110 §10.2.3); None
            without the header.
    """

    def __init__(
        self,
        why: str,
        *,
        status: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: str = "",
        retryable: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(why)
        self.status = status
        self.headers = tuple(headers)
        self.body = body
        self.retryable = retryable
        self.retry_after = retry_after


class BrokerError(Exception):
    """The broker that carries topics between processes is unreachable, or refuses an operation.

    The message says which, and whether a message that was being published may still arrive.
    """


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a declaration: where it is, its subject, the reason, and the fix."""

    where: str
    subject: str
    why: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.subject}\n    {self.why}\n    Fix: {self.cure}"


class DeclarationError(Exception):
    """All mistakes in an app's declarations, found before it serves.

    Attributes:
        problems: each with the place (file:line), the function and parameter, the reason, and the
            fix.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = f"{count} problem{'s' * (count != 1)} in the app's declarations"
        super().__init__("\n\n".join([title, *map(str, self.problems)]))


def leaves(exc: BaseException) -> list[BaseException]:
    """The errors in a group, or the one exception; without ``Disconnected``, which is no error."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for part in exc.exceptions for leaf in leaves(part)]
    return [] if isinstance(exc, Disconnected) else [exc]


def unwrap(exc: BaseException) -> BaseException:
    """The only error of a group; ``Disconnected`` if it has none, the group if it has several."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    found = leaves(exc)
    if len(found) == 1:
        return found[0]
    return exc if found else Disconnected()


def let_go(exc: BaseException) -> None:
    """Let go of the frames that an exception has passed, which nobody will look at: one that is
    made once and raised again and again would collect them."""
    exc.__traceback__ = None
