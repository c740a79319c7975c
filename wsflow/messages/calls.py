"""Messages that expect an answer, and the frames that carry calls and answers (docs/protocol.md).

A call travels inside a frame of ours, which gives it a number; each end counts its own calls. The
frames are messages like others, told apart by their tag. Tags that begin with ``$`` are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, get_args, get_origin

import msgspec

R = TypeVar("R")
T = TypeVar("T")

WINDOW = 64
"""How many items of a stream may come before its reader grants more."""


class Call(msgspec.Struct, Generic[R], tag=True):
    """A message that expects an answer of type ``R``: ``class Add(Call[Sum], tag="add")``.

    Ask with ``await connection.call(Add(1, 2))``; a consumer answers by returning. Without a
    ``tag`` of its own it has the name of its class.
    """


class Stream(msgspec.Struct, Generic[T], tag=True):
    """A message that is answered by many of type ``T``: ``class Count(Stream[Tick], tag="count")``.

    Read with ``async with connection.stream(Count(10)) as ticks``; a consumer answers by yielding.
    Without a ``tag`` of its own it has the name of its class.
    """


EXPECT_ANSWERS = (Call, Stream)


def is_call(kind: Any) -> bool:
    """Whether messages of a type expect an answer, or many."""
    kind = get_origin(kind) or kind
    return isinstance(kind, type) and issubclass(kind, EXPECT_ANSWERS)


@functools.cache
def answer_type(kind: Any) -> Any:
    """What answers messages of a type: ``R`` of its ``Call[R]``, ``T`` of its ``Stream[T]``."""
    cls = get_origin(kind) or kind
    for each in cls.__mro__:
        for base in getattr(each, "__orig_bases__", ()):
            if get_origin(base) in EXPECT_ANSWERS:
                (found,) = get_args(base)
                if not isinstance(found, TypeVar):
                    return found
                named = dict(zip(cls.__parameters__, get_args(kind), strict=False))
                return named.get(found, Any)  # of a generic class: what it was given
    return Any


# -- frames


class Ask(msgspec.Struct, tag="$call", omit_defaults=True):
    """A call. ``items`` is how many items of a stream may be sent for now."""

    id: int
    message: msgspec.Raw
    items: int = WINDOW


class Answer(msgspec.Struct, tag="$answer"):
    """The answer to a call."""

    id: int
    value: msgspec.Raw


class StreamItem(msgspec.Struct, tag="$item"):
    """One of a stream's items."""

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
    """Nobody waits for the answer any more."""

    id: int


class More(msgspec.Struct, tag="$more"):
    """So many more items of a stream may be sent."""

    id: int
    items: int


CallFrame = Ask | Answer | StreamItem | Done | Failed | Cancel | More
_FRAMES = (Ask, Answer, StreamItem, Done, Failed, Cancel, More)


@functools.cache
def call_frames(tag_field: str) -> Mapping[Any, Any]:
    """The frames for messages whose tag is in a field of this name, by their class here."""
    if tag_field == "type":
        return {each: each for each in _FRAMES}
    return {
        each: msgspec.defstruct(
            each.__name__,
            [],
            bases=(each,),
            tag=each.__struct_config__.tag,
            tag_field=tag_field,
            omit_defaults=True,
        )
        for each in _FRAMES
    }


def tag_field_of(kinds: tuple[Any, ...]) -> str:
    """The name of the field in which messages of these types carry their tag."""
    for kind in kinds:
        config = getattr(get_origin(kind) or kind, "__struct_config__", None)
        if config is not None and config.tag_field is not None:
            return str(config.tag_field)
    return "type"
