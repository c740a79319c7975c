"""A client Router and a server Router, with a link in memory between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from wsflow.client.reconnecting import Reconnect
from wsflow.client.running import AskCredential, Client, reconnecting
from wsflow.connection import Connection
from wsflow.declare.router import Router
from wsflow.end import End
from wsflow.http import HeaderItems
from wsflow.limits import Limits
from wsflow.runtime.session import Session
from wsflow.tasks.waiting import Condition
from wsflow.testing.idle import wait_idle
from wsflow.testing.link import Link, MemoryDialler, Open
from wsflow.testing.peer import PeerEnd, check
from wsflow.topics.registry import Registry
from wsflow.wiring.compile import compile_app


@final
class Linked:
    """A client and a server under test, and the link between them.

    Attributes:
        link: the link: ``cut()``, ``stall()``, ``resume()``, ``delay`` in seconds, and ``down`` to
            refuse new connections.
        registry: the server's connections and topics.
        client_registry: the client's connections and topics.
    """

    def __init__(
        self,
        client: Router,
        target: str,
        open: Open,
        sessions: list[Session],
        registry: Registry,
        *,
        reconnect: Reconnect | bool,
        resume: str,
        headers: HeaderItems,
        subprotocols: Iterable[str],
        override: Mapping[Any, Any] | None,
        limits: Limits,
        credential: AskCredential | None,
    ) -> None:
        self.link = Link()
        self._servers = sessions
        self._clients: list[Session] = []
        self._seen: dict[Session, int] = {}
        self._client = Client(
            compile_app(client, override, client=True),
            f"ws://testserver{target}",
            lambda where, begin: MemoryDialler(where, begin, open, self.link, limits),
            reconnect=reconnecting(reconnect),
            resume=resume,
            headers=headers,
            subprotocols=subprotocols,
            limits=limits,
            credential=credential,
            changed=self._changed,
        )
        self.registry = registry
        self.client_registry = Registry(self._client.app.directory)
        self._condition = Condition()

    def _changed(self) -> None:
        session = self._client.session
        if session is not None and session not in self._clients:
            self._clients.append(session)
        self._condition.notify_all()

    async def _opened(self) -> None:
        """Connect.

        Raises:
            Exception: what a lifespan of the client raised.
        """
        self._client.start()
        await self.connected()
        if self._client.session is None:  # the client has failed before its first attempt
            await self._client.wait()

    async def connected(self, times: int = 1) -> None:
        """Wait until the client has been connected ``times`` times, or has ended."""
        await self._condition.wait_for(
            lambda: self._client.over or sum(each.was_open for each in self._clients) >= times
        )

    async def ended(self) -> None:
        """Wait until the client has ended, and does not reconnect."""
        await self._condition.wait_for(lambda: self._client.over)

    @property
    def client(self) -> Connection:
        """The client's current or last connection."""
        return self._clients[-1].connection

    @property
    def server(self) -> Connection:
        """The server's current or last connection."""
        return self._servers[-1].connection

    @property
    def end(self) -> PeerEnd | None:
        """How the connection ended for the client, None while it is open."""
        return self._end_of(self._clients)

    @property
    def server_end(self) -> PeerEnd | None:
        """How it ended for the server, None while it is open."""
        return self._end_of(self._servers)

    def _end_of(self, sessions: list[Session]) -> PeerEnd | None:
        end = sessions[-1].end
        if end is None:
            return None

        def seen() -> None:
            for each in sessions:
                self._seen[each] = len(each.ending.errors)

        return PeerEnd(end, seen)

    async def idle(self, timeout: float = 1) -> None:
        """Wait until nothing in both can go on by itself: see ``MemoryServer.idle``."""
        await wait_idle(timeout)

    # -- leaving

    async def _leave(self) -> None:
        """Close, and wait for the end of the client and of all connections."""
        self._client.come_back_no_more()
        if self._client.session is not None:
            self._client.session.finish(End("closed", 1000))
        await self._client.wait_shielded()
        self.link.cut()
        for each in self._servers:
            await each.join()

    def _check(self, known: Callable[[str], bool]) -> None:
        """Fail if the client or the server has left anything behind.

        Raises:
            AssertionError: a task, a registry entry, a membership, or an error that was not read.
        """
        for session in self._servers:
            check(session, known, self._seen.get(session, 0))
        for session in self._clients:
            check(session, self._knows, self._seen.get(session, 0))

    def _knows(self, id: str) -> bool:
        return self.client_registry.get(id) is not None
