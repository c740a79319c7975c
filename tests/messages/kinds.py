"""The same messages in each family of types, and a codec that is not wsflow's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import attrs
import cbor2
import msgspec
import pydantic


class CBOR:
    name = "cbor"
    text = False

    def encode(self, value: Any) -> bytes:
        return cbor2.dumps(value)

    def decode(self, data: bytes) -> Any:
        return cbor2.loads(data)


class Lines:
    """A codec in text frames: a value as Python writes it."""

    name = "lines"
    text = True

    def encode(self, value: Any) -> bytes:
        return repr(value).encode()

    def decode(self, data: bytes) -> Any:
        return eval(data.decode(), {"__builtins__": {}})


@dataclass(frozen=True)
class Family:
    """Types of one family, and what makes a message of each."""

    name: str
    say: Any
    move: Any
    said: Any

    def make(self, kind: Any, **fields: Any) -> Any:
        if self.name == "typed_dict":
            fields = {"type": kind.__name__.lower(), **fields}
        return kind(**fields)

    def __str__(self) -> str:
        return self.name


def structs() -> Family:
    class Say(msgspec.Struct, tag="say"):
        text: str

    class Move(msgspec.Struct, tag="move"):
        by: int

    class Said(msgspec.Struct, tag="said"):
        text: str

    return Family("struct", Say, Move, Said)


def literal_structs() -> Family:
    class Say(msgspec.Struct, kw_only=True):
        type: Literal["say"] = "say"
        text: str

    class Move(msgspec.Struct, kw_only=True):
        type: Literal["move"] = "move"
        by: int

    class Said(msgspec.Struct, kw_only=True):
        type: Literal["said"] = "said"
        text: str

    return Family("literal_struct", Say, Move, Said)


def models() -> Family:
    class Say(pydantic.BaseModel):
        type: Literal["say"] = "say"
        text: str

    class Move(pydantic.BaseModel):
        type: Literal["move"] = "move"
        by: int

    class Said(pydantic.BaseModel):
        type: Literal["said"] = "said"
        text: str

    return Family("model", Say, Move, Said)


def dataclasses() -> Family:
    @dataclass(kw_only=True)
    class Say:
        type: Literal["say"] = "say"
        text: str

    @dataclass(kw_only=True)
    class Move:
        type: Literal["move"] = "move"
        by: int

    @dataclass(kw_only=True)
    class Said:
        type: Literal["said"] = "said"
        text: str

    return Family("dataclass", Say, Move, Said)


def attrs_classes() -> Family:
    @attrs.define(kw_only=True)
    class Say:
        type: Literal["say"] = "say"
        text: str

    @attrs.define(kw_only=True)
    class Move:
        type: Literal["move"] = "move"
        by: int

    @attrs.define(kw_only=True)
    class Said:
        type: Literal["said"] = "said"
        text: str

    return Family("attrs", Say, Move, Said)


def typed_dicts() -> Family:
    class Say(TypedDict):
        type: Literal["say"]
        text: str

    class Move(TypedDict):
        type: Literal["move"]
        by: int

    class Said(TypedDict):
        type: Literal["said"]
        text: str

    return Family("typed_dict", Say, Move, Said)


def mixed() -> Family:
    return Family("mixed", structs().say, models().move, attrs_classes().said)


MAKERS: tuple[Callable[[], Family], ...] = (
    structs,
    literal_structs,
    models,
    dataclasses,
    attrs_classes,
    typed_dicts,
    mixed,
)
FAMILIES = tuple(make() for make in MAKERS)
CODECS = ("json", "msgpack", CBOR(), Lines())
