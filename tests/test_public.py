"""The public surface: what is exported is documented, and nothing else is exported."""

from __future__ import annotations

import inspect
from typing import get_origin

import pytest

import wsflow
import wsflow.auth
import wsflow.server
import wsflow.testing

PROMISED = {
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
}


def test_the_names_are_the_promised_ones() -> None:
    assert set(wsflow.__all__) == PROMISED
    public = {name for name, value in vars(wsflow).items() if not name.startswith("_")}
    assert {name for name in public if not inspect.ismodule(getattr(wsflow, name))} == PROMISED


@pytest.mark.parametrize("module", [wsflow, wsflow.auth, wsflow.server, wsflow.testing])
def test_every_public_thing_says_what_it_promises(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        thing = getattr(module, name)
        if get_origin(thing) is None:  # not of an alias
            assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                if callable(value) and not attribute.startswith("_"):
                    assert inspect.getdoc(value), f"{name}.{attribute}"
