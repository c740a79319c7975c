"""A declarative WebSocket framework: plain functions, typed messages, structured concurrency."""

from wsflow.addresses import Address
from wsflow.client import ClientLimits, Peer, Reconnect, connect, run_client
from wsflow.connection import Connection
from wsflow.credential import Credential
from wsflow.declare.markers import Cookie, Header, Message, Query, Requires, Sends, TopicName
from wsflow.declare.router import Router
from wsflow.end import Cause, End
from wsflow.errors import (
    BrokerError,
    CallError,
    Close,
    ConnectError,
    DeclarationError,
    Disconnected,
    Forbidden,
    InvalidMessage,
    Problem,
    Reject,
)
from wsflow.hosting.asgi import AsgiApp, asgi
from wsflow.limits import Limits
from wsflow.messages.calls import Call, Stream
from wsflow.messages.codec import Codec
from wsflow.messages.events import EventId
from wsflow.observer import ConnectionSummary, Observer
from wsflow.opening import Opening
from wsflow.publishing import BlockingPublisher, Publisher, blocking_publisher, publisher
from wsflow.request import Params, Request
from wsflow.response import Response
from wsflow.topics.iterators import TopicIterator
from wsflow.topics.members import MemberJoined, MemberLeft, TopicMember
from wsflow.topics.registry import Registry, RegistryUser, UserConnection
from wsflow.topics.topic import History, HistoryEvent, Joined, Topic, TopicCounters

__all__ = [
    "Address",
    "AsgiApp",
    "BlockingPublisher",
    "BrokerError",
    "Call",
    "CallError",
    "Cause",
    "ClientLimits",
    "Close",
    "Codec",
    "ConnectError",
    "Connection",
    "ConnectionSummary",
    "Cookie",
    "Credential",
    "DeclarationError",
    "Disconnected",
    "End",
    "EventId",
    "Forbidden",
    "Header",
    "History",
    "HistoryEvent",
    "InvalidMessage",
    "Joined",
    "Limits",
    "MemberJoined",
    "MemberLeft",
    "Message",
    "Observer",
    "Opening",
    "Params",
    "Peer",
    "Problem",
    "Publisher",
    "Query",
    "Reconnect",
    "Registry",
    "RegistryUser",
    "Reject",
    "Request",
    "Requires",
    "Response",
    "Router",
    "Sends",
    "Stream",
    "Topic",
    "TopicCounters",
    "TopicIterator",
    "TopicMember",
    "TopicName",
    "UserConnection",
    "asgi",
    "blocking_publisher",
    "connect",
    "publisher",
    "run_client",
]
