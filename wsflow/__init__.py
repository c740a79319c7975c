"""A declarative WebSocket framework: plain functions, typed messages, structured concurrency."""

from wsflow.calls import Call, Stream
from wsflow.connection import Connection, End
from wsflow.declare.markers import Cookie, EventId, Header, Message, Query, TopicName
from wsflow.declare.router import Router
from wsflow.errors import BrokerError, CallError, Close, DeclarationError, Disconnected, Reject
from wsflow.loops import MemberJoined, MemberLeft, TopicMember
from wsflow.publisher import Publisher, publisher
from wsflow.registry import Registry
from wsflow.request import Request
from wsflow.topics import Joined, Topic, TopicCounters

__all__ = [
    "BrokerError",
    "Call",
    "CallError",
    "Close",
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
    "Publisher",
    "Query",
    "Registry",
    "Reject",
    "Request",
    "Router",
    "Stream",
    "Topic",
    "TopicCounters",
    "TopicMember",
    "TopicName",
    "publisher",
]
