"""Messages that expect an answer, and the frames that are wsflow's own: those that carry calls and
answers, and that of credentials (docs/protocol.md).

A call is sent inside a call frame, which has its id; each peer numbers its own calls. Frames
are messages like others, distinguished by their tag. Tags that begin with ``$`` are reserved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

R = TypeVar("R")
T = TypeVar("T")

WINDOW = 64
"""How many items of a stream may be sent before its reader grants more."""


if TYPE_CHECKING:
    # Makes Call and Stream, like Struct, neither frozen nor not frozen (PEP 681), so that their
    # subclasses may be either.
    @dataclass_transform(field_specifiers=(msgspec.field,))
    class _Meta(msgspec.StructMeta): ...
else:
    _Meta = msgspec.StructMeta


class Call(msgspec.Struct, Generic[R], metaclass=_Meta, tag=True):
    """A message that expects an answer of type ``R``: ``class Add(Call[Sum], tag="add")``.

    Call with ``await connection.call(Add(1, 2))``; a consumer answers by returning. Without
    ``tag=``, the tag is the name of the class.
    """


class Stream(msgspec.Struct, Generic[T], metaclass=_Meta, tag=True):
    """A message that expects many answers of type ``T``: ``class Count(Stream[Tick])``.

    Call with ``async with connection.stream(Count(10)) as ticks``; a consumer answers by yielding.
    Without ``tag=``, the tag is the name of the class.
    """


EXPECT_ANSWERS = (Call, Stream)


def class_of(kind: Any) -> Any:
    """The class of a type, without its arguments and what is written beside it."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_origin(kind) or kind


def is_call(kind: Any) -> bool:
    """Whether messages of a type expect one answer, or many."""
    kind = class_of(kind)
    return isinstance(kind, type) and issubclass(kind, EXPECT_ANSWERS)


@functools.cache
def answer_type(kind: Any) -> Any:
    """The type of the answers to messages of a type: ``R`` of ``Call[R]``, ``T`` of
    ``Stream[T]``."""
    cls = class_of(kind)
    for each in cls.__mro__:
        for base in getattr(each, "__orig_bases__", ()):
            if get_origin(base) in EXPECT_ANSWERS:
                (found,) = get_args(base)
                if not isinstance(found, TypeVar):
                    return found
                named = dict(zip(cls.__parameters__, get_args(kind), strict=False))
                return named.get(found, Any)  # the argument of a generic class
    return Any


# -- frames


class Ask(msgspec.Struct, tag="$call", omit_defaults=True):
    """A call. ``items`` is how many items of a stream may be sent before ``$more``; ``context`` is
    what travels with it for traces."""

    id: int
    message: msgspec.Raw
    items: int = WINDOW
    context: dict[str, str] = {}


class Answer(msgspec.Struct, tag="$answer"):
    """The answer to a call."""

    id: int
    value: msgspec.Raw


class StreamItem(msgspec.Struct, tag="$item"):
    """One item of a stream."""

    id: int
    value: msgspec.Raw


class Done(msgspec.Struct, tag="$end"):
    """The end of a stream."""

    id: int


class Failed(msgspec.Struct, tag="$error", omit_defaults=True):
    """A call or a stream has failed."""

    id: int
    code: str
    message: str = ""


class Cancel(msgspec.Struct, tag="$cancel"):
    """The caller no longer waits for the answer."""

    id: int


class More(msgspec.Struct, tag="$more"):
    """Grants ``items`` more items of a stream."""

    id: int
    items: int


class Auth(msgspec.Struct, tag="$auth", omit_defaults=True):
    """A credential: from a client with its ``token``; from a server with the seconds until the
    credential of the connection ends, None if it does not end."""

    token: str = ""
    expires_in: float | None = None

    def __repr__(self) -> str:
        return f"Auth({'token=…, ' * bool(self.token)}expires_in={self.expires_in})"


class Ping(msgspec.Struct, tag="$ping"):
    """Asks whether the peer is there, of clients that cannot send a ping of RFC 6455: pages."""


class Pong(msgspec.Struct, tag="$pong"):
    """The answer to it."""


FRAMES = (Ask, Answer, StreamItem, Done, Failed, Cancel, More, Auth, Ping, Pong)


@functools.cache
def call_frames(tag_field: str) -> Mapping[Any, Any]:
    """The frames for messages with this tag field, by their class in this module."""
    if tag_field == "type":
        return {each: each for each in FRAMES}
    return {
        each: msgspec.defstruct(
            each.__name__,
            [],
            bases=(each,),
            tag=each.__struct_config__.tag,
            tag_field=tag_field,
            omit_defaults=True,
        )
        for each in FRAMES
    }


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return field.default


@functools.cache
def without_raw(frame: Any) -> Any:
    """What a frame is converted to from plain values, which have nothing raw; any other type
    itself."""
    config = getattr(frame, "__struct_config__", None)
    if config is None or not str(config.tag).startswith("$"):
        return frame
    return msgspec.defstruct(
        frame.__name__,
        [
            (each.name, Any if each.type is msgspec.Raw else each.type)
            if each.required
            else (each.name, each.type, _default(each))
            for each in msgspec.structs.fields(frame)
        ],
        tag=config.tag,
        tag_field=config.tag_field,
    )


def with_raw(frame: Any, plain: Any, encode: Callable[[Any], bytes]) -> Any:
    """A frame, of what it was converted to."""
    values = {
        each.name: msgspec.Raw(encode(value)) if each.type is msgspec.Raw else value
        for each in msgspec.structs.fields(frame)
        for value in [getattr(plain, each.name)]
    }
    return frame(**values)
