"""The connecting end: the same Routers, and a peer to hold in one's hand."""

from wsflow.client.connecting import Peer, connect
from wsflow.client.limits import ClientLimits
from wsflow.client.reconnecting import Reconnect
from wsflow.client.running import run_client

__all__ = ["ClientLimits", "Peer", "Reconnect", "connect", "run_client"]
