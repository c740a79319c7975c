"""Clients: the same Routers, or a ``Peer`` object."""

from wsflow.client.connecting import Peer, connect
from wsflow.client.limits import ClientLimits
from wsflow.client.reconnecting import Reconnect
from wsflow.client.running import run_client

__all__ = ["ClientLimits", "Peer", "Reconnect", "connect", "run_client"]
