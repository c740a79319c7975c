from collections.abc import AsyncIterator

import msgspec

from wsflow import Call, Opening, Router, Stream


class Say(msgspec.Struct, tag="say"):
    text: str


class Add(Call[int], tag="add"): ...


class Count(Stream[int], tag="count"): ...


class Strange(Call[Router], tag="strange"): ...


app = Router("/calls")


@app.consumer
async def mixed(message: Say | Add) -> int:
    return 1


@app.consumer
async def both(message: Count | Add) -> int:
    return 1


@app.consumer
async def yields(message: Add) -> AsyncIterator[int]:
    yield 1


@app.consumer
async def returns(message: Count) -> int:
    return 1


@app.consumer
async def other_type(message: Add) -> str:
    return "1"


@app.consumer
async def other_items(message: Count) -> AsyncIterator[str]:
    yield "1"


@app.consumer
async def iterates(messages: AsyncIterator[Add]) -> None: ...


@app.consumer
async def unknown_answer(message: Strange) -> Router: ...


@app.consumer
async def opening(message: Say, opening: Opening) -> None: ...


class Other(Call[str], tag="other"): ...


class Reserved(Call[int], tag="$call"): ...


@app.consumer
async def two_answers(message: Add | Other) -> int:
    return 1


@app.consumer
async def unsaid(message: Add):
    return 1


@app.consumer
async def reserved(message: Reserved) -> int:
    return 1


@app.consumer
async def unsaid_items(message: Count):
    yield 1
