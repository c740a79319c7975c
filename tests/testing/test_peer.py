"""What a test is told when its connection ends, is refused, or has nothing more to do."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec
import pytest
import uvloop

from wsflow import Call, CallError, Disconnected, Query, Reject, Router, Stream, Topic
from wsflow.testing import MemoryPeer, connect, serve_in_memory


class Said(msgspec.Struct, tag="said"):
    text: str


class Came(msgspec.Struct, tag="came"):
    who: str


class Add(Call[int], tag="add"):
    a: int


class Count(Stream[int], tag="count"): ...


class Broken(RuntimeError):
    pass


def failing() -> Router:
    router = Router("/")

    @router.consumer
    async def heard(message: str) -> None:
        raise Broken("the handler")

    return router


async def receives(peer: MemoryPeer) -> None:
    await peer.receive()


async def sends(peer: MemoryPeer) -> None:
    await peer.wait_closed()
    await peer.send("again")


@pytest.mark.parametrize("does", [receives, sends])
async def test_what_ended_the_connection_is_the_cause(does: object) -> None:
    with pytest.raises(Disconnected) as caught:
        async with connect(failing(), "/") as peer:
            await peer.send("now")
            await does(peer)  # type: ignore[operator]
    assert isinstance(caught.value.__cause__, Broken)


def refusing(exc: BaseException) -> Router:
    router = failing()

    @router.on_connect
    async def enter() -> None:
        raise exc

    return router


async def test_a_refusal_has_its_cause() -> None:
    with pytest.raises(Reject) as caught:
        async with connect(refusing(Broken("enter")), "/") as peer:
            await peer.receive()
    assert caught.value.status == 500
    assert isinstance(caught.value.__cause__, Broken)


async def test_a_refusal_that_nobody_looks_at_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="refused with 403: not you; if that is expected"):
        async with connect(refusing(Reject(403, "not you")), "/"):
            pass
    with pytest.raises(AssertionError, match="refused with 404"):
        async with connect(failing(), "/elsewhere"):
            pass
    with pytest.raises(AssertionError, match="refused with 500") as caught:
        async with connect(refusing(Broken("enter")), "/"):
            pass
    assert isinstance(caught.value.__cause__, Broken)


async def test_why_a_path_was_not_found() -> None:
    app = Router("/")
    for path in ("/ws/{room}/{seat}", "/news"):
        inner = Router(path)
        app.include(inner)

        @inner.consumer
        async def heard(message: str) -> None: ...

        if "seat" in path:

            @inner.on_connect
            async def sit(room: str, seat: int, again: Annotated[int, Query()] = 1) -> None: ...

            @inner.on_disconnect
            async def leave(seat: int) -> None: ...

    async with serve_in_memory(app) as server:
        for target, status, body, why in (
            (
                "/wss/1",
                404,
                "Not Found\n",
                "no path matches /wss/1: the app has /news, /ws/{room}/{seat}",
            ),
            (
                "/ws/a/b",
                404,
                "not found\n",
                "/ws/{room}/{seat}: path parameter {seat} takes int, and not 'b'",
            ),
            (
                "/ws/a/1?again=x",
                400,
                "query 'again' is not valid: Expected `int`\n",
                "query 'again' is not valid: Expected `int`",
            ),
        ):
            with pytest.raises(AssertionError, match=re.escape(f"with {status}: {why}; if that")):
                async with server.connect(target):
                    pass
            async with server.connect(target) as peer:
                assert peer.rejected.body == body  # the wire says no more
                with pytest.raises(Reject) as caught:
                    await peer.receive()
                notes = getattr(caught.value, "__notes__", [])
                assert [caught.value.body.strip(), *notes][-1] == why


async def test_the_log_says_why_a_path_was_not_found(caplog: pytest.LogCaptureFixture) -> None:
    for level, said in ((logging.INFO, False), (logging.DEBUG, True)):
        caplog.clear()
        with caplog.at_level(level):
            async with connect(failing(), "/elsewhere") as peer:
                assert peer.rejected.status == 404
        assert (
            "refused with 404: no path matches /elsewhere: the app has /" in caplog.text
        ) is said


async def test_nothing_comes_of_a_refusal_that_nobody_looked_at() -> None:
    with pytest.raises(AssertionError, match="refused with 403"):
        async with connect(refusing(Reject(403)), "/") as peer:
            await peer.receive_nothing(within=0)


async def test_a_refusal_that_was_looked_at() -> None:
    app = refusing(Reject(403))
    async with connect(app, "/") as peer:
        assert peer.rejected.status == 403
        await peer.receive_nothing(within=0)
    async with connect(app, "/") as peer:
        await peer.wait_closed()
    async with connect(app, "/") as peer:
        assert peer.end is not None
    async with connect(app, "/") as peer:
        with pytest.raises(Reject):
            await peer.send("a")


async def test_nothing_of_a_type() -> None:
    router = Router("/")

    @router.producer
    async def tells() -> AsyncIterator[Said | Came]:
        yield Came("ada")
        await anyio.sleep_forever()

    async with connect(router, "/") as peer:
        await peer.receive_nothing(Said, within=0.01)
        with pytest.raises(AssertionError, match="a message came; unread: Came"):
            await peer.receive_nothing(Said, Came, within=0.01)
        with pytest.raises(AssertionError, match="a message came; unread: Came"):
            await peer.receive_nothing(within=0.01)
        with pytest.raises(TypeError, match="pass within as a keyword argument"):
            await peer.receive_nothing(0.1)  # type: ignore[arg-type]
        assert await peer.receive(Came) == Came("ada")
        await peer.receive_nothing(within=0)


async def test_the_registry_of_a_block() -> None:
    async with connect(failing(), "/") as peer:
        assert len(peer.registry) == 1
        await peer.registry.broadcast(Said("all"))
        assert await peer.receive(Said) == Said("all")


def counting(seen: list[int]) -> Router:
    router = Router("/")

    @router.consumer(concurrency=4)
    async def counts(message: int) -> None:
        for number in range(message):
            await anyio.lowlevel.checkpoint()
            seen.append(number)
        if not message:
            while True:
                await anyio.lowlevel.checkpoint()

    return router


async def test_idle() -> None:
    seen: list[int] = []
    async with serve_in_memory(counting(seen)) as server, server.connect("/") as peer:
        await peer.send(50)
        await peer.send(30)
        await server.idle()
        assert len(seen) == 80
        await peer.idle()
        async with anyio.create_task_group() as tasks:  # those who wait do not wait for each other
            tasks.start_soon(server.idle)
            tasks.start_soon(peer.idle)


def test_a_loop_that_does_not_say_what_is_ready() -> None:
    async def main() -> None:
        async with connect(failing()) as peer:
            with pytest.raises(RuntimeError, match="needs asyncio's own event loop, or Trio"):
                await peer.idle()

    uvloop.run(main())


async def test_what_is_never_idle() -> None:
    async with connect(counting([]), "/") as peer:
        await peer.send(0)
        with pytest.raises(AssertionError, match="something still goes on by itself after"):
            await peer.idle(0.01)


async def test_both_ends_are_idle() -> None:
    heard: list[str] = []
    client = Router("/")

    @client.consumer
    async def hears(message: str) -> None:
        heard.append(message)

    router = Router("/")

    @router.on_connect
    async def enter(topic: Annotated[Topic[str], "a"]) -> None:
        await topic.join()

    @router.producer
    async def stays() -> None:
        await anyio.sleep_forever()

    async with connect(router, "/", client=client) as linked:
        for text in ("a", "b"):
            await linked.registry.topic("a", str).publish(text)
        await linked.idle()
        assert heard == ["a", "b"]


def answering() -> Router:
    router = Router("/")

    @router.consumer
    async def add(message: Add) -> Any:
        return "no number"

    @router.consumer
    async def count(message: Count) -> AsyncIterator[Any]:
        yield 1
        yield "no number"

    return router


async def test_an_answer_that_does_not_fit() -> None:
    why = "^invalid: the answer is not valid: Expected `int`, got `str`$"
    got: list[int] = []
    async with connect(answering(), "/") as peer:
        with pytest.raises(CallError, match=why):
            await peer.call(Add(1))
        with pytest.raises(CallError, match=why):
            async with peer.stream(Count()) as items:
                async for item in items:
                    got.append(item)
    assert got == [1]


async def test_a_stream_is_left_early() -> None:
    """Nothing of it is left to be collected as garbage, which Trio would warn of."""
    async with connect(answering(), "/") as peer:
        async with peer.stream(Count()) as items:
            async for item in items:
                assert item == 1
                break
        assert [item async for item in items] == []


async def test_what_is_no_call() -> None:
    message: Any
    async with connect(answering(), "/") as peer:
        for message, why in (
            (Said("hi"), "Said is not a Call: the peer would not answer it"),
            ({"type": "add", "a": 1}, "dict is not a Call"),
            (Add, r"Add is a class: pass an instance, as in call\(Add"),
            (Count(), r"Count is a Stream: use stream\("),
        ):
            with pytest.raises(TypeError, match=why):
                await peer.call(message)
        for message, why in (
            (Said("hi"), "Said is not a Stream: the peer would not answer it"),
            (Add(1), r"Add is a Call: use call\("),
        ):
            with pytest.raises(TypeError, match=why):
                async with peer.stream(message):
                    pass
        await peer.receive_nothing()
