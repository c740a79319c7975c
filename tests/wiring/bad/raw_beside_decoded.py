"""Raw messages beside messages decoded from the same frames."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct, tag="say"):
    text: str


app = Router("/")
packed = Router("/packed", codec="msgpack")
app.include(packed)


@app.consumer
async def say(message: Say) -> None: ...


@app.consumer
async def raw(message: str) -> None: ...


@packed.consumer
async def pack(message: Say | bytes) -> None: ...
