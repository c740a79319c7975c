"""Functions that provide nearly what is asked for, and some that need each other."""

from wsflow import Router


class User: ...


class A: ...


class B: ...


class C: ...


class D: ...


app = Router("/")


@app.on_connect
async def user() -> User | None: ...


@app.on_connect
async def a(b: B) -> A: ...


@app.on_connect
async def b(c: C) -> B: ...


@app.on_connect
async def c(a: A, user: User | None) -> C: ...


@app.on_connect
async def d(d: D) -> D: ...


@app.consumer
async def say(message: str, user: User) -> None: ...
