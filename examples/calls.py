"""A small calculator: each end asks the other.

Serve it: ``wsflow run examples.calls:app``. Ask it: ``python -m examples.calls``, or
``wsflow connect ws://127.0.0.1:8000/ --app examples.calls:app`` and type ``divide a=1 b=3``.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

import wsflow
from wsflow import Call, CallError, Connection, Router, Sends, Stream


class Result(msgspec.Struct):
    value: float


class Divide(Call[Result], tag="divide"):  # expects one Result
    a: float
    b: float


class Primes(Stream[int], tag="primes"):  # expects many numbers
    upto: int


class Digits(Call[int], tag="digits"):  # what the server asks the client
    """How many digits does the user want to see?"""


app = Router("/")


@app.consumer
async def divide(call: Divide, connection: Annotated[Connection, Sends(Digits)]) -> Result:
    if call.b == 0:
        raise CallError("division", "nothing can be divided by 0")
    try:
        digits = await connection.call(Digits(), timeout=1)  # while the client waits for us
    except (CallError, TimeoutError):
        digits = 6  # it does not say
    return Result(round(call.a / call.b, digits))


@app.consumer
async def primes(call: Primes) -> AsyncIterator[int]:
    for number in range(2, call.upto):
        if all(number % each for each in range(2, int(number**0.5) + 1)):
            yield number


client = Router("/")


@client.consumer
async def digits(call: Digits) -> int:
    return 3


@client.producer  # its end closes the connection
async def ask(connection: Connection) -> None:
    print("1 / 3 =", (await connection.call(Divide(1, 3))).value)
    try:
        await connection.call(Divide(1, 0))
    except CallError as exc:
        print("1 / 0:", exc.message)
    async with connection.stream(Primes(1_000_000)) as numbers:
        async for number in numbers:
            if number > 20:
                break  # leaving the block stops the work at the other end
            print(number, "is a prime")


if __name__ == "__main__":
    asyncio.run(wsflow.run_client(client, "ws://127.0.0.1:8000/"))
