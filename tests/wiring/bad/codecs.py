"""Codecs and hooks that a Router cannot have."""

from __future__ import annotations

from typing import Any

import msgspec

from wsflow import Router


class Codec:
    name: Any = "own"
    text: Any = False

    def encode(self, value: Any) -> bytes:
        return b""

    def decode(self, data: bytes) -> Any:
        return None


class Other(Codec):
    pass


class Json(Codec):
    name = "json"


class Spaced(Codec):
    name = "a codec"


class Wordy(Codec):
    name = "wordy"
    text = "yes"


class Holds(msgspec.Struct, tag="holds"):
    rest: msgspec.Raw


async def hook(value: Any) -> Any:
    return value


app = Router()
for number, codec in enumerate(
    (Codec(), Codec(), Other(), Codec, Json(), Spaced(), Wordy(), "xml", 5)
):
    router = Router(f"/{number}", codec=codec)

    @router.consumer
    async def take(message: Any) -> None: ...

    app.include(router)

raw = Router("/raw", codec=Codec())


@raw.consumer
async def holds(message: Holds) -> None: ...


app.include(raw)
app.include(Router("/hooks", dec_hook="hook", enc_hook=hook))
