"""A handler that is called where it is decorated, and options without a name."""

from wsflow import Router

app = Router("/")


async def say(message: str) -> None: ...


async def numbers():
    yield 1


app.consumer(say("hello"))
app.producer(numbers())
app.consumer(8)
app.consumer(str)
