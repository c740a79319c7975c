"""The contract of an app: what each of its paths takes and sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Schema = Mapping[str, Any]
"""A JSON Schema, draft 2020-12; named types are ``{"$ref": "#/$defs/Name"}``."""

REF = "#/$defs/"

Place = Literal["path", "query", "header", "cookie"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of the opening request.

    Attributes:
        name: its name there.
        place: where it is.
        schema: what it is, as text.
        required: whether a request needs it.
        many: whether it may come several times.
        resumes: whether it is the id of the last event that the client has seen.
    """

    name: str
    place: Place
    schema: Schema
    required: bool
    many: bool = False
    resumes: bool = False


@dataclass(frozen=True)
class Message:
    """A type of messages in one direction.

    Attributes:
        name: unique among the messages of its path in its direction.
        title: the name of the type.
        description: of the type; ``""`` without one.
        schema: what is sent. Texts and binary messages as they are have none.
        raw: ``"text"`` or ``"binary"`` if it is one of those.
        tag: the field and the value by which it is told apart; None without one.
        event_id: the field with the id of the event, None if there is none.
        examples: values.
    """

    name: str
    title: str
    description: str
    schema: Schema
    raw: Literal["", "text", "binary"] = ""
    tag: tuple[str, Any] | None = None
    event_id: str | None = None
    examples: Sequence[Any] = ()


@dataclass(frozen=True)
class Asked:
    """A message that expects an answer.

    Attributes:
        message: what is asked.
        answer: the schema of the answer, or of each item of a stream.
        stream: whether there are many.
        description: of the function that answers; ``""`` without one.
    """

    message: Message
    answer: Schema
    stream: bool
    description: str = ""


@dataclass(frozen=True)
class Security:
    """How a client may say who it is.

    Attributes:
        place: where it says so.
        parameter: the name of the header or of the cookie, or the prefix of the subprotocol.
    """

    place: Literal["header", "cookie", "subprotocol", "message"]
    parameter: str = ""


@dataclass(frozen=True)
class Channel:
    """One path.

    Attributes:
        path: with its parameters as ``{name}``.
        title, description: of its Router.
        deprecated: whether clients should go elsewhere.
        codecs: the names of its codecs, the default first.
        subprotocols: others that can be negotiated.
        tag_field: the field by which call frames and messages are told apart.
        parameters: those of the opening request.
        takes: what a client may send.
        sends: what it receives.
        answers: what a client may ask.
        asks: what it is asked.
        security: the ways in which it may say who it is; empty if it need not.
        ignores_unknown: whether messages with an unknown tag are ignored, and do not end it.
        frames: whether there are frames of calls: they can be told apart from its messages.
    """

    path: str
    title: str
    description: str
    deprecated: bool
    codecs: Sequence[str]
    subprotocols: Sequence[str]
    tag_field: str
    parameters: Sequence[Parameter]
    takes: Sequence[Message]
    sends: Sequence[Message]
    answers: Sequence[Asked]
    asks: Sequence[Asked]
    security: Sequence[Security]
    ignores_unknown: bool
    frames: bool = True


@dataclass(frozen=True)
class Contract:
    """The contract of an app.

    Attributes:
        title, version, description: of the app.
        channels: its paths, sorted.
        schemas: the named types, by name. A type whose fields have defaults has two: as it is sent,
            with all of them, it is ``NameSent``.
    """

    title: str
    version: str
    description: str
    channels: Sequence[Channel]
    schemas: Mapping[str, Schema] = field(default_factory=dict)
