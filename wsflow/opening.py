"""The opening request of a client, before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import final
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from websockets.datastructures import Headers

from wsflow.end import End
from wsflow.log import shown_uri


@final
class Opening:
    """The opening request, which a client's ``on_connect`` functions may change; it is injected by
    its type.

    They run before the opening request is sent, again for every attempt: set a token that expires,
    or resume where the last connection ended.

    Attributes:
        query: the query of the URI, by name; a list is a name with several values.
        headers: more headers to send. Setting one adds to those of the same name.
        attempt: 1 for the first attempt since a connection was stable, then 2, and so on.
        previous: how the previous connection or attempt ended; None for the first one.
    """

    def __init__(
        self,
        uri: str,
        headers: Headers,
        last_event_ids: Mapping[type, str],
        attempt: int = 1,
        previous: End | None = None,
    ) -> None:
        self._parts = urlsplit(uri)
        given = parse_qs(self._parts.query, keep_blank_values=True)
        self.query: dict[str, str | list[str]] = {
            name: values[0] if len(values) == 1 else values for name, values in given.items()
        }
        self.headers = headers
        self.attempt = attempt
        self.previous = previous
        self._last_event_ids = last_event_ids

    @property
    def uri(self) -> str:
        """The URI, with the query as it is now."""
        query = urlencode(self.query, doseq=True)
        return urlunsplit(self._parts._replace(query=query, fragment=""))

    @property
    def last_event_id(self) -> str:
        """The id of the last event that was handled, ``""`` if there was none. It is read from
        messages with an ``EventId()`` field; ``topic.join(after=…)`` in the server resumes after
        it."""
        return next(reversed(list(self._last_event_ids.values())), "")

    @property
    def last_event_ids(self) -> Mapping[type, str]:
        """The last event id by message type, for a connection that receives several topics."""
        return MappingProxyType(dict(self._last_event_ids))

    def __repr__(self) -> str:
        return f"<Opening {shown_uri(self.uri)} attempt {self.attempt}>"
