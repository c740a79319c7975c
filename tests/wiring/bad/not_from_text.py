"""Parameters that no text can be converted to."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from wsflow import Cookie, Header, Query, Router


class Filter(msgspec.Struct):
    name: str
    limit: int = 10


app = Router("/{ids}/{by}/{many}")


@app.on_connect
async def enter(ids: list[int], by: Filter, many: Sequence[str] | None) -> None: ...


@app.producer
async def produce(
    filter: Annotated[Filter, Query()],
    header: Annotated[Filter | None, Header()],
    crumbs: Annotated[list[str], Cookie()],
    nested: Annotated[list[Filter], Query()],
    bound: Annotated[str, msgspec.Meta(ge=1), Query()],
) -> None: ...


class Count(msgspec.Struct, tag="count"):
    value: Annotated[str, msgspec.Meta(ge=1)]


@app.consumer
async def count(message: Count) -> None: ...
