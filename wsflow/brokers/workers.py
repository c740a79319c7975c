"""``workers://``: the broker that a running ``wsflow run --workers`` has started here."""

from __future__ import annotations

import logging
from typing import final

from wsflow.brokers.announced import Found, folders, log, running
from wsflow.brokers.engine import ConnectionLostError, Engine, EngineConnection, EngineListener
from wsflow.brokers.nats import NatsEngine
from wsflow.errors import BrokerError

SCHEME = "workers://"


@final
class WorkersEngine:
    """Connects to the broker of a running ``wsflow run --workers`` of the same user.

    The file is read whenever it connects, so that a publisher finds a server that was restarted.

    Args:
        url: ``workers://`` if one runs; else the port, as in ``workers://:8000``, its address, as
            in ``workers://127.0.0.1:8000``, or the path of its Unix socket:
            ``workers:///run/x.sock``.

    Raises:
        ValueError: the URL has something else.
    """

    def __init__(self, url: str) -> None:
        self._wanted = url[len(SCHEME) :]
        self.address = SCHEME + self._wanted
        port = self._wanted.rpartition(":")[2]
        if self._wanted and not self._wanted.startswith("/") and not port.isdecimal():
            raise ValueError(
                "name the port of the server, as in workers://:8000, or the path of its Unix "
                "socket, as in workers:///run/x.sock"
            )

    async def connect(self, listener: EngineListener, process: str) -> EngineConnection:
        engine: Engine = NatsEngine(self._find().url)
        return await engine.connect(listener, process)

    def _find(self) -> Found:
        """The server that is meant."""
        wrong: list[str] = []
        found = {each.address: each for each in running(wrong)}
        meant = [each for each in found.values() if self._is_meant(each.address)]
        passed_over = f"passed over: {'; '.join(wrong)}" if wrong else ""
        if len(meant) == 1:
            if wrong:
                log.often(logging.WARNING, "looking for the broker: %s", passed_over)
            return meant[0]
        if meant:
            urls = ", ".join(sorted(SCHEME + each.address for each in meant))
            raise BrokerError(f"several servers run here: name one of {urls}")
        others = f"there are {', '.join(sorted(found))}" if found else ""
        none = (
            "no `wsflow run --workers` with an embedded broker runs here "
            + (f"at {self._wanted} " if self._wanted else "")
            + f"as this user (looked in {', '.join(map(str, folders()))})"
        )
        raise ConnectionLostError("; ".join(filter(None, (none, others, passed_over))))

    def _is_meant(self, address: str) -> bool:
        wanted = self._wanted
        return wanted in ("", address) or (wanted.startswith(":") and address.endswith(wanted))
