"""A ticket: a token for one connection, which an HTTP endpoint issues."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, final

import msgspec
from itsdangerous import BadData, URLSafeSerializer

from wsflow.auth.users import Users, answer_offer, offered, provides, refused, secret, sorted_json
from wsflow.brokers.base import MAX_CLAIM
from wsflow.connection import Connection
from wsflow.credential import Credential
from wsflow.errors import BrokerError, Reject
from wsflow.request import Request
from wsflow.topics.registry import Registry

U = TypeVar("U")

PREFIX = "ticket."

SKEW = 5.0
"""Seconds by which a ticket may be from the future: the clocks of two servers may differ."""

MARGIN = 60.0
"""Seconds for which a redeemed ticket is remembered after its end."""


class RedeemedStore(Protocol):
    """Remembers which tickets were redeemed, for a ``Ticket(…, store=…)``."""

    async def redeem(self, id: str, seconds: float) -> bool:
        """Note that a ticket is redeemed. It has to be atomic among all processes.

        Args:
            id: names the ticket: 32 hexadecimal digits.
            seconds: how long to remember it at least.

        Returns:
            Whether this is the first time.

        Raises:
            BrokerError: the store cannot be reached: the connection is answered with 503.
        """


@final
class Ticket(Generic[U]):
    """An ``on_connect`` function that takes a ticket, and provides a ``User``.

    A browser asks an HTTP endpoint for a ticket, which knows who it is, and shows it when it
    connects: in the query, ``?ticket=…``, or as a subprotocol, ``ticket.…``. A ticket is signed, is
    valid for ``max_age`` seconds, and opens one connection. So it is harmless in a log.

    Where it was redeemed is known to all processes of the app: on the broker, or in this process
    without one. A server whose broker cannot do that does not start.

    Args:
        user: the type of the user: a Struct, a dataclass or a model of pydantic.
        key: the secret key of whoever issues and redeems, at least 32 bytes; or several, the newest
            last, which issues.
        max_age: seconds that a ticket is valid: more than 0, and less than 30 days.
        store: where redeemed tickets are remembered, instead of on the broker.

    Raises:
        ValueError: the key is too short, or ``max_age`` is out of bounds.
        TypeError: a key is neither a str nor bytes, or the type of the user is none that msgspec
            converts to.
    """

    def __init__(
        self,
        user: type[U],
        *,
        key: str | bytes | Sequence[str | bytes],
        max_age: float = 30.0,
        store: RedeemedStore | None = None,
    ) -> None:
        self._users = Users("Ticket", user)
        if not isinstance(key, str | bytes | Sequence):
            raise TypeError(f"Ticket: the key is a {type(key).__name__}: use str or bytes")
        keys = [key] if isinstance(key, str | bytes) else [*key]
        if not keys:
            raise ValueError("Ticket: there is no key")
        if not 0 < max_age <= MAX_CLAIM - MARGIN:
            raise ValueError(f"Ticket: max_age is {max_age!r}: use seconds, more than 0")
        self._max_age = max_age
        self._store = store
        self._serializer = URLSafeSerializer(
            [secret("Ticket", each) for each in keys],
            salt="wsflow.ticket",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self.__signature__ = provides(user, ("connection", Connection), ("registry", Registry))

    def issue(self, user: U) -> str:
        """A ticket for a user, of letters, digits, ``-``, ``_`` and ``.``. Does not wait: call it
        from plain and from async functions.

        Raises:
            TypeError: it is not of the type of the user.
        """
        if not isinstance(user, self._users.kind):
            wanted = self._users.kind.__name__
            raise TypeError(f"Ticket: a ticket is for a {wanted}, not for a {type(user).__name__}")
        content = [os.urandom(16).hex(), time.time(), self._users.plain(user)]
        return str(self._serializer.dumps(content))

    async def __call__(self, connection: Connection, registry: Registry) -> U:
        """Redeem the ticket of a connection, and provide its user.

        Raises:
            Reject: with 401: there is none, or it is not accepted; with 400: there are several;
                with 503: whether it was redeemed cannot be found out.
        """
        id, user = self._read(_sent(connection.request))
        seconds = self._max_age + MARGIN
        try:
            if self._store is not None:
                first = await self._store.redeem(id, seconds)
            else:
                first = await registry.claim(f"ticket.{id}", seconds)
        except BrokerError:
            raise Reject(503, "tickets cannot be redeemed at the moment\n") from None
        if not first:
            raise refused("the ticket is redeemed already")
        answer_offer(connection, PREFIX)
        connection.set_credential(Credential(identity=sorted_json(user), user=user))
        return user

    @property
    def credential_options(self) -> Sequence[tuple[str, str]]:
        """The option of ``wsflow connect`` that sends a ticket."""
        return [("--subprotocol", f"{PREFIX}…")]

    @property
    def credential_places(self) -> Sequence[tuple[str, str]]:
        """Where clients put a ticket."""
        return [("subprotocol", PREFIX)]

    async def prepare(self, registry: Registry) -> None:
        """See that tickets can be redeemed, before the app serves.

        Raises:
            BrokerError: they cannot.
        """
        if self._store is None:
            await registry.claim(f"ticket.start.{os.urandom(16).hex()}", 1.0)

    def _read(self, ticket: str) -> tuple[str, U]:
        """The id and the user of a ticket.

        Raises:
            Reject: it is not accepted.
        """
        try:
            id, issued, value = self._serializer.loads(ticket)
            user = self._users.convert(value)
        except BadData:
            raise refused("the ticket is not valid") from None
        except msgspec.ValidationError:
            raise refused("the ticket is for another type of user") from None
        if not -SKEW <= time.time() - issued <= self._max_age:
            raise refused("the ticket has expired")
        return str(id), user


def _sent(request: Request) -> str:
    """The ticket of an opening request.

    Raises:
        Reject: there is none, or there are several.
    """
    found = request.query.get_all("ticket") + offered(request, PREFIX)
    if len(found) > 1:
        raise refused("send one ticket, in one way", "invalid_request", status=400)
    if not found:
        raise refused()
    return found[0]
