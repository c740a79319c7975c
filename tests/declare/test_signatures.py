"""What signatures say."""

from __future__ import annotations

from typing import Annotated

import msgspec
from typing_extensions import TypeAliasType

from wsflow.declare.signatures import members, type_name
from wsflow.messages.shapes import runtime_classes


def test_types_seen_through() -> None:
    alias = TypeAliasType("alias", int | str)
    assert members(alias) == (int, str)
    assert members(Annotated[int | bytes, "x"]) == (int, bytes)
    assert members(Annotated[int, "x"]) == (int,)
    limited = Annotated[int, msgspec.Meta(ge=1)]
    assert members(Annotated[int, "x", msgspec.Meta(ge=1)]) == (limited,)
    assert type_name(tuple[int, ...]) == "tuple[int, ...]"
    assert set(runtime_classes(Annotated[int, msgspec.Meta(title="x")])) == {int}
