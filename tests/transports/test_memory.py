"""The wire of a test."""

from __future__ import annotations

from wsflow.limits import WireLimits
from wsflow.transports.memory import MemoryTransport


async def test_a_memory_transport_that_is_closed_sends_nothing() -> None:
    changed: list[int] = []
    transport = MemoryTransport(WireLimits(), lambda: changed.append(1), lambda _transport: None)
    transport.close(1000, "")
    transport.send(b"late", True, True)
    assert transport.peer_unread() == []
    assert transport.peer_can_send
