"""Rate limits that cannot be."""

import msgspec

from wsflow import Router

app = Router("/", rate="20/sec")
inner = Router("/inner", per="user")
twice = Router("/twice", rate="1/s", burst=0)
app.include(inner)
app.include(twice)
app.include(twice, "/again")


class A(msgspec.Struct, tag="a"):
    pass


class B(msgspec.Struct, tag="b"):
    pass


class C(msgspec.Struct, tag="c"):
    pass


class D(msgspec.Struct, tag="d"):
    pass


class E(msgspec.Struct, tag="e"):
    pass


@app.consumer(rate="0/s")
async def none_at_all(message: A) -> None: ...


@app.consumer(rate=20)
async def a_number(message: B) -> None: ...


@app.consumer(burst=5)
async def no_rate(message: C) -> None: ...


@app.consumer(rate="20/min", when_over="wait")
async def unknown_policy(message: D) -> None: ...


@app.consumer(rate="20/h", per="address")
async def unknown_scope(message: E) -> None: ...


@inner.consumer
async def say(message: str) -> None: ...


@twice.consumer(rate="20/s", burst=True)
async def again(message: str) -> None: ...
