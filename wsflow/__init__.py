"""A declarative WebSocket framework: plain functions, typed messages, structured concurrency."""

from wsflow.calls import Call, Stream
from wsflow.client import ClientLimits, Peer, Reconnect, connect, run_client
from wsflow.connection import Connection, End
from wsflow.declare.markers import Cookie, EventId, Header, Message, Query, TopicName
from wsflow.declare.router import Router
from wsflow.errors import (
    BrokerError,
    CallError,
    Close,
    ConnectError,
    DeclarationError,
    Disconnected,
    Reject,
)
from wsflow.loops import MemberJoined, MemberLeft, TopicMember
from wsflow.opening import Opening
from wsflow.publisher import Publisher, publisher
from wsflow.registry import Registry
from wsflow.request import Request
from wsflow.topics import Joined, Topic, TopicCounters

__all__ = [
    "BrokerError",
    "Call",
    "CallError",
    "ClientLimits",
    "Close",
    "ConnectError",
    "Connection",
    "Cookie",
    "DeclarationError",
    "Disconnected",
    "End",
    "EventId",
    "Header",
    "Joined",
    "MemberJoined",
    "MemberLeft",
    "Message",
    "Opening",
    "Peer",
    "Publisher",
    "Query",
    "Reconnect",
    "Registry",
    "Reject",
    "Request",
    "Router",
    "Stream",
    "Topic",
    "TopicCounters",
    "TopicMember",
    "TopicName",
    "connect",
    "publisher",
    "run_client",
]
