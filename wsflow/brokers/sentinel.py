"""Redis Sentinel: which server is the master now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, final

from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from wsflow.brokers.engine import ConnectionLostError
from wsflow.errors import BrokerError

PORT = 26379
PATIENCE = 1.0
"""Seconds that a Sentinel has to answer."""
LOOK = 1.0
"""Seconds between two looks at whether there is another master."""


PROMOTES = {b"send_slaveof_noone", b"wait_promotion", b"reconf_slaves", b"update_config"}
"""The states of a failover in which one server may be the master already, and Sentinel still names
the one before."""


class PromotesError(ConnectionLostError):
    """A failover is going on, and nobody should write to the server that is still named."""


class Master(Protocol):
    """Which server is the master."""

    async def place(self) -> tuple[str, int]:
        """Its host and port."""

    async def replaced(self) -> None:
        """Wait until it is another one.

        Raises:
            ConnectionLostError: it is.
        """

    async def close(self) -> None: ...


@final
class Fixed:
    """The server that a URL names."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)

    async def place(self) -> tuple[str, int]:
        return self._place

    async def replaced(self) -> None:
        """It never is."""

    async def close(self) -> None:
        """There is nothing to close."""


class Named(NamedTuple):
    """A master, as a Sentinel names it: the later the epoch, the later the failover."""

    epoch: int
    host: str
    port: int


@final
class Sentinels:
    """The master that Sentinels name.

    Args:
        connections: one of redis-py to each of them, parts of which have no types.
        service: the name of the master.
    """

    def __init__(self, connections: Sequence[Any], service: str) -> None:
        self._connections = connections
        self._service = service
        self._place = ("", 0)

    async def place(self) -> tuple[str, int]:
        """The master. All Sentinels are asked: one that was cut off from the others may name the
        one before the last failover.

        Raises:
            ConnectionLostError: none of them answers, or one of them makes another server the
                master; a retry may succeed.
            BrokerError: none of them knows the master, or they refuse the user.
        """
        answers = await asyncio.gather(*map(self._ask, self._connections))
        for each in answers:
            if isinstance(each, PromotesError):
                raise each
        named = [each for each in answers if isinstance(each, Named)]
        if named:
            self._place = max(named)[1:]
            return self._place
        failures = [each for each in answers if isinstance(each, Exception)]
        refusals = [each for each in failures if isinstance(each, BrokerError)]
        if len(refusals) == len(failures):
            raise refusals[0]
        raise ConnectionLostError(f"no Sentinel answers: {'; '.join(map(str, failures))}")

    async def _ask(self, connection: Any) -> Named | Exception:
        try:
            async with asyncio.timeout(PATIENCE):
                await connection.connect()
                await connection.send_command("SENTINEL", "MASTER", self._service)
                said = pairs(await connection.read_response())
            if said.get(b"failover-state") in PROMOTES:
                return PromotesError("a failover is going on")
            return Named(
                int(said[b"config-epoch"]), said[b"ip"].decode(), int(said[b"port"].decode())
            )
        except (AuthenticationError, AuthorizationError):
            return BrokerError(
                "Sentinel refuses the user or the password: those for Sentinel itself are the "
                "options sentinel_username and sentinel_password"
            )
        except ResponseError as exc:
            if "no such master" in str(exc).lower():
                return BrokerError(f"Sentinel knows no master with the name {self._service!r}")
            return BrokerError(f"Sentinel refuses: {without_words(str(exc))}")
        except TimeoutError:
            await connection.disconnect(nowait=True)
            return ConnectionLostError(f"no answer within {PATIENCE:g} s")
        except (RedisError, OSError) as exc:
            return ConnectionLostError(str(exc))
        except (LookupError, TypeError, ValueError):
            return ConnectionLostError("what answers is no Sentinel")

    async def replaced(self) -> None:
        """Wait until there is another master. Sentinels that do not answer change nothing."""
        before = self._place
        while True:
            await asyncio.sleep(LOOK)
            try:
                host, port = await self.place()
            except (ConnectionLostError, BrokerError):
                continue
            if (host, port) != before:
                raise ConnectionLostError(f"the master is {host}:{port} now")

    async def close(self) -> None:
        for each in self._connections:
            await each.disconnect(nowait=True)


def pairs(answer: Any) -> dict[bytes, Any]:
    """The answer of a command that answers with fields: a list in RESP2, a map in RESP3."""
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2], strict=True))


def without_words(refusal: str) -> str:
    """What a server refuses a command with, without the words of that: a server that has no AUTH
    repeats the password."""
    return refusal.partition(", with args beginning with")[0]
