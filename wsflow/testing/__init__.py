"""Testing an app without a socket: the real runtime, in memory, on asyncio and on Trio.

::

    from wsflow.testing import connect

    async def test_say():
        async with connect(app, "/chat/lobby?name=ada") as ada:
            await ada.send(Say("hi"))
            assert await ada.receive(Said) == Said("ada", "hi")
"""

from wsflow.testing.broker import FakeBroker
from wsflow.testing.clock import FakeClock
from wsflow.testing.fakes import FakeConnection, FakeRegistry, FakeTopic
from wsflow.testing.link import Link
from wsflow.testing.linked import Linked
from wsflow.testing.peer import MemoryPeer, PeerEnd
from wsflow.testing.server import MemoryServer, connect, serve_in_memory
from wsflow.testing.sweep import (
    FAULTS,
    SweepError,
    SweepFault,
    SweepReport,
    Violation,
    sweep_cancellation,
)
from wsflow.transports.memory import Rejection

__all__ = [
    "FAULTS",
    "FakeBroker",
    "FakeClock",
    "FakeConnection",
    "FakeRegistry",
    "FakeTopic",
    "Link",
    "Linked",
    "MemoryPeer",
    "MemoryServer",
    "PeerEnd",
    "Rejection",
    "SweepError",
    "SweepFault",
    "SweepReport",
    "Violation",
    "connect",
    "serve_in_memory",
    "sweep_cancellation",
]
