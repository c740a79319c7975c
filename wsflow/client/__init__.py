"""The connecting end: the same Routers, and a peer to hold in one's hand."""

from wsflow.client.connecting import Peer, connect
from wsflow.client.reconnecting import Reconnect
from wsflow.client.running import run_client
from wsflow.client.settings import ClientLimits

__all__ = ["ClientLimits", "Peer", "Reconnect", "connect", "run_client"]
