from typing import Any

import msgspec

from wsflow import Call, Router


class Bare(msgspec.Struct):
    text: str


class Add(Call[int], tag="add"): ...


app = Router("/bare")


@app.consumer
async def bare(message: Bare) -> None: ...


@app.consumer
async def add(message: Add) -> int: ...


anything = Router("/anything")
app.include(anything)


@anything.consumer
async def take(message: Any) -> None: ...


anything.consumer(add)

texts = Router("/texts")
app.include(texts)


@texts.consumer
async def text(message: str) -> None: ...


texts.consumer(add)
