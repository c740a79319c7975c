"""The exceptions that handlers raise and catch, and the report of bad declarations.

``Reject`` and ``Close`` are how a handler ends its own connection on purpose. ``Disconnected`` is
what a send raises once the connection has ended. ``DeclarationError`` lists all that is wrong with
an app, before it serves anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsflow.end import End, check_close_code, cut_reason
from wsflow.http import HeaderItems, check_headers, header_pairs


class Close(Exception):
    """Raise it anywhere in a handler to end the connection with a close code.

    Args:
        code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4); 1000 by default.
        reason: shown to the peer; cut to 123 bytes at a character.

    Raises:
        ValueError: the code may not be sent.
    """

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        super().__init__(code, reason)
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
    """

    def __init__(
        self,
        status: int,
        body: str = "",
        headers: HeaderItems = (),
    ) -> None:
        super().__init__(f"{status}: {body}".strip().removesuffix(":"))
        if not (isinstance(status, int) and 300 <= status <= 599):
            raise ValueError(f"{status!r} cannot reject a handshake: use a status from 300 to 599")
        self.status = int(status)
        self.body = body
        self.headers = tuple(header_pairs(headers))
        check_headers(self.headers)


class Disconnected(Exception):
    """The connection has ended. Leaving a handler, it is no error.

    Attributes:
        end: how the connection ended, where that is known.
    """

    def __init__(self, end: End | None = None) -> None:
        super().__init__("the connection has ended" if end is None else f"ended: {end}")
        self.end = end


class CallError(Exception):
    """A call has failed. Raise it in a consumer to tell the caller why; ``call`` raises it there.

    Args:
        code: what went wrong, for the program: a word of your own, as in ``"not_found"``. wsflow
            itself uses ``"unknown"`` (nobody takes such calls), ``"invalid"`` (the call, or its
            answer, is not of its type) and ``"internal"`` (the consumer raised something else).
        message: the same for people.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class ConnectError(ConnectionError):
    """A server cannot be connected to, or does not take the connection.

    Attributes:
        status: the HTTP status of its answer; None if there was none.
        headers: the headers of the answer.
        body: its text.
        retryable: whether trying later may help: the network, or the server for now, is the reason.
        retry_after: seconds that the server asks to wait before that (RFC 9110 §10.2.3); None if it
            does not say.
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
    """The broker that carries topics between processes cannot do what was asked.

    Either it was away for longer than ``publish_timeout``, or it refused. It says which, and
    whether what was published may have arrived nonetheless.
    """


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a declaration: where, what about, why, and what to do."""

    where: str
    subject: str
    why: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.subject}\n    {self.why}\n    Fix: {self.cure}"


class DeclarationError(Exception):
    """All that is wrong with an app's declarations, found before it serves.

    Attributes:
        problems: each with the place (file:line), the function and parameter, why, and a cure.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = f"{count} problem{'s' * (count != 1)} in the app's declarations"
        super().__init__("\n\n".join([title, *map(str, self.problems)]))


def leaves(exc: BaseException) -> list[BaseException]:
    """The exceptions in a group, or the one exception; without ``Disconnected``, which is none."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for part in exc.exceptions for leaf in leaves(part)]
    return [] if isinstance(exc, Disconnected) else [exc]


def unwrap(exc: BaseException) -> BaseException:
    """What matters in a group: the one exception, a ``Disconnected`` if there is nothing else."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    found = leaves(exc)
    if len(found) == 1:
        return found[0]
    return exc if found else Disconnected()
