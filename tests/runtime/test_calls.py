"""Calls and streams, from either end, over a link in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Annotated, Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import (
    Call,
    CallError,
    Close,
    Connection,
    Disconnected,
    End,
    Message,
    Router,
    Stream,
)
from wsflow.limits import Limits
from wsflow.messages.codec import JSON
from wsflow.runtime import calls
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.turns import Turns
from wsflow.testing import connect, serve_in_memory
from wsflow.transports.deadline import look

T = TypeVar("T")


class Sum(msgspec.Struct):
    total: int


class Add(Call[Sum], tag="add"):
    a: int
    b: int


class Tick(msgspec.Struct):
    number: int


class Count(Stream[Tick], tag="count"):
    upto: int
    fails_at: int = -1


class Work(Call[None], tag="work"):
    name: str = ""


class Who(Call[str]):
    """Its tag is its name."""


class Say(msgspec.Struct, tag="say"):
    text: str


class Get(Call[T], Generic[T], tag="get"):
    key: str


class Life:
    """What the consumers did, and what they wait for."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.go = anyio.Event()
        self._news = anyio.Event()

    def note(self, event: str) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, event: str, times: int = 1) -> None:
        with anyio.fail_after(5):
            while self.events.count(event) < times:
                self._news = anyio.Event()
                await self._news.wait()


def both(life: Life) -> Router:
    """A Router that can be either end."""
    router = Router()

    @router.consumer
    async def add(call: Add) -> Sum:
        if call.a < 0:
            raise CallError("negative", f"{call.a} is less than 0")
        if call.a == 13:
            raise ZeroDivisionError("a secret")
        return Sum(call.a + call.b)

    @router.consumer
    async def count(call: Count) -> AsyncIterator[Tick]:
        try:
            for number in range(call.upto):
                if number == call.fails_at:
                    raise CallError("broken", "at last")
                life.note("item")
                yield Tick(number)
        finally:
            life.note("counted")

    @router.consumer
    async def work(call: Work) -> None:
        life.note(f"begun {call.name}")
        try:
            await life.go.wait()
        finally:
            life.note(f"over {call.name}")

    @router.consumer
    async def who(call: Who, connection: Connection) -> str:
        return connection.id

    @router.consumer
    async def say(message: Say) -> None:
        life.note(message.text)

    return router


@pytest.fixture
def life() -> Life:
    return Life()


async def test_either_end_asks(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        assert await linked.client.call(Add(1, 2)) == Sum(3)
        assert await linked.server.call(Add(3, 4)) == Sum(7)
        assert await linked.server.call(Who()) == linked.client.id
        life.go.set()
        assert await linked.client.call(Work(), timeout=5) is None


async def test_an_answer_of_any_type() -> None:
    class Anything(Call[Any], tag="anything"): ...

    router, client = Router(), Router()

    @router.consumer
    async def anything(call: Anything) -> dict[str, int]:
        return {"a": 1}

    @client.consumer
    async def hear(message: Say) -> None: ...

    async with connect(router, client=client) as linked:
        assert await linked.client.call(Anything()) == {"a": 1}


async def test_messagepack(life: Life) -> None:
    server, client = Router(codec="msgpack"), Router(codec="msgpack")
    for router in (server, client):
        router._declared = both(life)._declared
    async with connect(server, client=client) as linked:
        assert linked.client.subprotocol == "wsflow.msgpack"
        assert await linked.client.call(Add(1, 2)) == Sum(3)
        async with linked.server.stream(Count(2)) as ticks:
            assert [tick async for tick in ticks] == [Tick(0), Tick(1)]


async def test_answers_in_any_order(life: Life) -> None:
    answers: list[object] = []
    async with connect(both(life), client=both(life)) as linked:
        async with anyio.create_task_group() as tasks:

            async def slow() -> None:
                answers.append(await linked.client.call(Work("slow")))

            tasks.start_soon(slow)
            await life.until("begun slow")
            answers.append(await linked.client.call(Add(1, 1)))
            life.go.set()
    assert answers == [Sum(2), None]


async def test_failures_are_typed(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        with pytest.raises(CallError, match="negative: -1 is less than 0") as raised:
            await linked.client.call(Add(-1, 0))
        assert (raised.value.code, raised.value.message) == ("negative", "-1 is less than 0")
        with pytest.raises(TimeoutError, match=r"no answer to Work within 0\.01 s"):
            await linked.client.call(Work("late"), timeout=0.01)
        await life.until("over late")
        with pytest.raises(TypeError, match="Say is not a Call: the peer would not answer it"):
            await linked.client.call(Say("x"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"Add is a Call: use call\(…\)"):
            linked.client.stream(Add(1, 2))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"Count is a Stream: use stream\(…\)"):
            await linked.client.call(Count(1))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"Add is a class: pass an instance, as in call\(Add"):
            await linked.client.call(Add)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"Add expects an answer: send it with call\(…\)"):
            await linked.client.send(Add(1, 2))
        with pytest.raises(TypeError):
            await linked.client.call(Add(object(), 1))  # type: ignore[arg-type]


async def test_an_error_is_of_one_call(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    """The caller hears no word of it; the log has all; the connection goes on."""
    async with connect(both(life), client=both(life)) as linked:
        with pytest.raises(CallError) as raised:
            await linked.client.call(Add(13, 0))
        assert (raised.value.code, raised.value.message) == ("internal", "")
        assert "consumer add raised ZeroDivisionError" in caplog.text
        assert await linked.client.call(Add(1, 2)) == Sum(3)
        await linked.server.close()
        await linked.ended()
        assert linked.server_end is not None
        assert linked.server_end.error is None  # and it is seen


async def test_an_error_that_nobody_looks_at(life: Life) -> None:
    with pytest.raises(AssertionError, match="raised ZeroDivisionError: a secret"):
        async with connect(both(life), client=both(life)) as linked:
            with pytest.raises(CallError):
                await linked.client.call(Add(13, 0))


async def test_on_error_may_answer(life: Life) -> None:
    server = both(life)

    @server.on_error
    async def refuse(error: ZeroDivisionError) -> None:
        raise CallError("math", "not by zero")

    async with connect(server, client=both(life)) as linked:
        with pytest.raises(CallError, match="math: not by zero"):
            await linked.client.call(Add(13, 0))


async def test_what_on_error_returns_is_a_message(life: Life) -> None:
    server = both(life)

    @server.on_error
    async def say(error: ZeroDivisionError) -> Say:
        return Say("sorry")

    async with connect(server, client=both(life)) as linked:
        with pytest.raises(CallError, match="internal"):
            await linked.client.call(Add(13, 0))
        await life.until("sorry")


async def test_close_ends_the_connection_as_ever(life: Life) -> None:
    server = both(life)

    class Leave(Call[int], tag="leave"): ...

    @server.consumer
    async def leave(call: Leave) -> int:
        raise Close(4000, "enough")

    async with connect(server, client=both(life)) as linked:
        with pytest.raises(Disconnected) as raised:
            await linked.client.call(Leave())
        assert raised.value.end is not None
        assert (raised.value.end.code, raised.value.end.reason) == (4000, "enough")
        with pytest.raises(Disconnected):
            await linked.client.call(Leave())


async def test_cancelling_the_caller_cancels_the_work(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(linked.client.call, Work("a"))
            await life.until("begun a")
            tasks.cancel_scope.cancel()
        await life.until("over a")
        assert await linked.client.call(Add(1, 2)) == Sum(3)


async def test_a_call_that_was_cancelled_before_its_turn() -> None:
    """It waits behind others of its consumer, and is never begun."""
    life = Life()
    server = Router()

    @server.consumer(concurrency=1)
    async def work(call: Work) -> None:
        life.note(f"begun {call.name}")
        await life.go.wait()

    @server.consumer
    async def who(call: Who) -> str:
        return "it comes behind the cancel"

    async with connect(server, client=both(life)) as linked:
        async with anyio.create_task_group() as first:
            first.start_soon(linked.client.call, Work("1"))
            await life.until("begun 1")
            with anyio.move_on_after(0.02):
                await linked.client.call(Work("2"))
            assert await linked.client.call(Who()) == "it comes behind the cancel"
            life.go.set()
        await linked.client.call(Work("3"))
    assert [event for event in life.events if event.startswith("begun")] == ["begun 1", "begun 3"]


async def test_keys_keep_their_order() -> None:
    life = Life()
    server = Router()

    @server.consumer(concurrency=2, key="name")
    async def work(call: Work) -> None:
        life.note(f"begun {call.name}")
        if call.name == "a":
            await life.go.wait()

    async with connect(server, client=both(life)) as linked, anyio.create_task_group() as tasks:
        for name in ("a", "a", "b"):
            tasks.start_soon(linked.client.call, Work(name))
        await life.until("begun b")
        assert life.events.count("begun a") == 1
        life.go.set()
    assert life.events.count("begun a") == 2


async def test_a_consumer_that_asks_does_not_wait_for_itself(life: Life) -> None:
    """Its own lane is busy with it, and the answer comes past that."""
    server = Router()
    answers: list[Sum] = []

    @server.consumer
    async def say(message: Say, connection: Connection) -> Say:
        answers.append(await connection.call(Add(len(message.text), 1)))
        return Say(f"done {message.text}")

    async with connect(server, client=both(life)) as linked:
        for text in ("a", "bb", "ccc"):
            await linked.client.send(Say(text))
        await life.until("done ccc")
    assert answers == [Sum(2), Sum(3), Sum(4)]


# -- streams


async def test_a_stream(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        async with linked.client.stream(Count(200)) as ticks:
            assert [tick.number async for tick in ticks] == list(range(200))
        async with linked.server.stream(Count(0)) as ticks:
            assert [tick async for tick in ticks] == []


async def test_leaving_a_stream_cancels_it(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        async with linked.client.stream(Count(10**9)) as ticks:
            async for tick in ticks:
                if tick.number == 100:
                    break
        await life.until("counted")
        assert life.events.count("item") <= 101 + 64 + 1  # what was granted ahead, and one made


async def test_a_stream_waits_for_its_reader(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        async with linked.client.stream(Count(1000)):
            await life.until("item", 64)
            assert await linked.client.call(Add(1, 2)) == Sum(3)
            assert life.events.count("item") == 64


async def test_a_stream_after_its_block(life: Life) -> None:
    async with connect(both(life), client=both(life)) as linked:
        async with linked.client.stream(Count(5)) as ticks:
            await life.until("counted")
            await linked.client.call(Add(1, 1))  # all items are there before its answer
        assert [tick.number async for tick in ticks] == list(range(5))
        async with linked.client.stream(Count(10**9)) as ticks:
            pass
        with anyio.fail_after(5):
            async for _ in ticks:
                pass
        entered = linked.client.stream(Count(1))
        with pytest.raises(RuntimeError, match="enter the stream: async with"):
            async for _ in entered:  # type: ignore[attr-defined]
                pass
        await entered.__aexit__(None, None, None)


async def test_two_read_one_stream(life: Life) -> None:
    numbers: list[int] = []
    async with connect(both(life), client=both(life)) as linked:
        async with linked.client.stream(Count(200)) as ticks, anyio.create_task_group() as tasks:

            async def read() -> None:
                async for tick in ticks:
                    numbers.append(tick.number)

            tasks.start_soon(read)
            tasks.start_soon(read)
    assert sorted(numbers) == list(range(200))


async def test_a_stream_fails(life: Life) -> None:
    numbers: list[int] = []
    async with connect(both(life), client=both(life)) as linked:
        with pytest.raises(CallError, match="broken: at last"):
            async with linked.client.stream(Count(10, fails_at=3)) as ticks:
                async for tick in ticks:
                    numbers.append(tick.number)
    assert numbers == [0, 1, 2]


async def test_a_lost_connection(life: Life) -> None:
    outcomes: list[str] = []
    async with connect(both(life), client=both(life)) as linked:

        async def call() -> None:
            try:
                await linked.client.call(Work("w"))
            except Disconnected as exc:
                outcomes.append(f"call {exc}")

        async def read() -> None:
            try:
                async with linked.client.stream(Count(10**9)) as ticks:
                    async for _ in ticks:
                        linked.link.stall()
            except Disconnected as exc:
                outcomes.append(f"stream {exc}")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(read)
            await life.until("begun w")
            await life.until("item", 64)
            linked.link.cut()
        await life.until("counted")  # a stream ends with its reader
        life.go.set()
        await life.until("over w")  # a call is finished, as other messages are
    assert sorted(outcomes) == ["call ended: vanished (1006)", "stream ended: vanished (1006)"]


async def test_a_drain_answers_calls_and_ends_streams(life: Life) -> None:
    answers: list[object] = []

    async with serve_in_memory(both(life)) as server:
        async with server.link(both(life), "/") as linked:

            async def call() -> None:
                answers.append(await linked.client.call(Work("w")))

            async def read() -> None:
                try:
                    async with linked.client.stream(Count(10**9)) as ticks:
                        async for _ in ticks:
                            life.note("read")
                except Disconnected as exc:
                    answers.append(str(exc))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                tasks.start_soon(read)
                await life.until("begun w")
                await life.until("read", 10)
                tasks.start_soon(server.drain, 5)
                await life.until("counted")
                life.go.set()
    assert sorted(map(str, answers)) == ["None", "ended: peer (1001)"]


async def test_a_consumer_gets_its_answer_during_a_drain(life: Life) -> None:
    """Reading goes on for the answer, and for nothing else."""

    server, got = Router(), []

    @server.consumer
    async def say(message: Say, connection: Connection) -> None:
        got.append(await connection.call(Work(message.text)))

    async with serve_in_memory(server) as serving:
        async with serving.link(both(life), "/") as linked, anyio.create_task_group() as tasks:
            await linked.client.send(Say("w"))
            await life.until("begun w")
            tasks.start_soon(serving.drain, 5)
            while len(serving.registry) and not serving._app._admission.closed:
                await anyio.lowlevel.checkpoint()
            await linked.client.send(Say("too late"))
            await linked.client.send(Raw(b'{"type":"$call","id":9,"message":{"type":"x"}}'))
            life.go.set()
    assert got == [None]


async def test_who_asks_more_than_fits_waits(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_ASKED", 2)
    outcomes: list[str] = []
    async with connect(both(life), client=both(life)) as linked:

        async def ask(call: Call[Any]) -> None:
            try:
                outcomes.append(str(await linked.client.call(call)))
            except Disconnected:
                outcomes.append("lost")

        async with anyio.create_task_group() as tasks:
            for name in "ab":
                tasks.start_soon(ask, Work(name))
                await life.until(f"begun {name}")
            for name in "cde":
                tasks.start_soon(ask, Work(name))
            tasks.start_soon(ask, Add(1, 2))
            await linked.idle()
            assert not any(f"begun {name}" in life.events for name in "cde")
            life.go.set()
            await life.until("over e")
            with anyio.fail_after(5):
                while len(outcomes) < 6:
                    await anyio.lowlevel.checkpoint()
        life.go = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for name in "xy":
                tasks.start_soon(ask, Work(name))
                await life.until(f"begun {name}")
            tasks.start_soon(ask, Work("z"))
            await linked.idle()
            linked.link.cut()
            life.go.set()
    assert sorted(outcomes) == ["None"] * 5 + ["Sum(total=3)"] + ["lost"] * 3


# -- around calls


async def test_on_message_is_around_a_call(life: Life) -> None:
    server = both(life)

    @server.on_message
    async def transaction(message: Annotated[object, Message()]) -> AsyncIterator[None]:
        try:
            yield
        except CallError:
            life.note("rolled back")
            raise
        life.note(f"committed {type(message).__name__}")

    async with connect(server, client=both(life)) as linked:
        assert await linked.client.call(Add(1, 2)) == Sum(3)
        assert life.events == ["committed Add"]
        with pytest.raises(CallError, match="negative"):
            await linked.client.call(Add(-1, 2))
        assert life.events[1:] == ["rolled back"]
        async with linked.client.stream(Count(1)) as ticks:
            assert len([tick async for tick in ticks]) == 1
        assert life.events[-1] == "committed Count"


async def test_a_failing_commit_is_no_answer(life: Life) -> None:
    server = both(life)

    @server.on_message
    async def transaction() -> AsyncIterator[None]:
        yield
        raise CallError("conflict")

    async with connect(server, client=both(life)) as linked:
        with pytest.raises(CallError, match="conflict"):
            await linked.client.call(Add(1, 2))


async def test_asking_in_on_connect(life: Life) -> None:
    server = both(life)

    @server.on_connect
    async def ask(connection: Connection) -> None:
        life.note(f"got {(await connection.call(Add(1, 2))).total}")

    async with connect(server, client=both(life)) as linked:
        await life.until("got 3")
        assert await linked.client.call(Add(1, 1)) == Sum(2)


# -- what a peer may get wrong


Raw = msgspec.Raw


def answer_to(asked: dict[str, Any]) -> Raw:
    return Raw(f'{{"type":"$answer","id":{asked["id"]},"value":{{"total":3}}}}'.encode())


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ('{"type":"nope"}', ("unknown", "no consumer takes such calls")),
        ('{"type":"add","a":1}', ("invalid", "Object missing required field `b`")),
        ("7", ("invalid", "Expected `object`, got `int`")),
    ],
)
async def test_a_call_that_is_none(life: Life, sent: str, answer: tuple[str, str]) -> None:
    async with connect(both(life)) as peer:
        await peer.send(Raw(f'{{"type":"$call","id":1,"message":{sent}}}'.encode()))
        code, message = answer
        expected = {"type": "$error", "id": 1, "code": code, "message": message}
        assert await peer.receive() == expected


class Named(Call[int], tag="named", tag_field="kind"): ...


@pytest.mark.parametrize("beside", [None, Say, str], ids=["alone", "others", "raw"])
async def test_a_call_outside_of_a_call_frame(life: Life, beside: Any) -> None:
    router = Router("/", codec="msgpack" if beside is str else "json")

    @router.consumer
    async def add(message: Add) -> Sum:
        return Sum(message.a + message.b)

    if beside is not None:

        @router.consumer
        async def other(message: beside) -> None: ...

    async with connect(router) as peer:
        await peer.send(peer._codec.untyped(peer._codec.encode(Add(1, 2))))
        end = await peer.wait_closed()
        assert end.code in (1003, 1007)
        assert end.reason.startswith(
            """'add' is a call: send it as {"type":"$call","id":1,"message":…}"""
        )


async def test_a_call_with_another_tag_field_outside_of_a_call_frame() -> None:
    router = Router("/")

    @router.consumer
    async def named(message: Named) -> int:
        return 1

    async with connect(router) as peer:
        await peer.send({"kind": "named"})
        end = await peer.wait_closed()
        assert """'named' is a call: send it as {"kind":"$call","id":1,"message":…}""" in end.reason


async def test_a_path_without_calls_says_so() -> None:
    router = Router()

    @router.producer(on_end="keep")
    async def nothing() -> None: ...

    async with connect(router) as peer:
        await peer.send(Raw(b'{"type":"$call","id":1,"message":{"type":"add"}}'))
        assert (await peer.receive())["code"] == "unknown"
        await peer.send(Say("x"))
        await peer.wait_closed()
        assert peer.close_code == 1003


async def test_frames_that_come_too_late_are_nothing(life: Life) -> None:
    async with connect(both(life)) as peer:
        for frame in ("$cancel", "$end", '$more","items":"1', '$error","code":"x'):
            frame = frame.replace('"1', "1") if "more" in frame else frame
            closing = "" if frame.endswith("1") else '"'
            await peer.send(Raw(f'{{"id":9,"type":"{frame}{closing}}}'.encode()))
        for frame in ("$answer", "$item"):
            await peer.send(Raw(f'{{"type":"{frame}","id":9,"value":1}}'.encode()))
        assert await peer.call(Add(1, 2)) == Sum(3)


async def test_items_after_the_end(life: Life) -> None:
    server = Router()

    @server.producer(on_end="keep")
    async def read(connection: Connection) -> None:
        async with connection.stream(Count(3)) as ticks:
            await life.go.wait()
            async for tick in ticks:
                life.note(f"tick {tick.number}")
        life.note("over")

    async with connect(server) as peer:
        await peer.receive()
        item = b'{"type":"$item","id":1,"value":{"number":7}}'
        for frame in (item, b'{"type":"$end","id":1}', item, b'{"type":"$end","id":1}'):
            await peer.send(Raw(frame))
        life.go.set()
        await life.until("over")
    assert life.events == ["tick 7", "over"]


async def test_a_peer_that_asks_nonsense_and_does_not_read(life: Life) -> None:
    """The errors that it is owed do not pile up."""
    async with connect(both(life)) as peer:
        nonsense = Raw(b'{"type":"$call","id":1,"message":"' + b"x" * 100 + b'"}')
        with pytest.raises(Disconnected):
            for _ in range(30_000):
                await peer.send(nonsense)
        await peer.wait_closed()
        assert peer.close_code == 1013


async def test_grants_that_are_none(life: Life) -> None:
    async with connect(both(life)) as peer:
        await peer.send(
            Raw(b'{"type":"$call","id":9,"items":-5,"message":{"type":"count","upto":9}}')
        )
        await peer.send(Raw(b'{"type":"$more","id":9,"items":6}'))
        assert (await peer.receive())["value"] == {"number": 0}
        assert await peer.call(Add(1, 2)) == Sum(3)
        await peer.receive_nothing()


async def test_a_peer_that_asks_in_vain(life: Life) -> None:
    server = both(life)

    class Leave(Call[int], tag="leave"): ...

    @server.consumer
    async def leave(call: Leave) -> int:
        raise Close(4000)

    async with connect(server) as peer:
        with pytest.raises(Disconnected):
            await peer.call(Leave())


def test_urging_after_the_end() -> None:
    sent: list[bytes] = []
    transport: Any = SimpleNamespace(send=lambda payload, text, raw: sent.append(payload))
    lagging: list[str] = []
    outbox = Outbox(transport, JSON, 100, lagging.append, Turns(), 65536)
    outbox.urge(b"not open yet")
    outbox.open()
    outbox.urge(b"open")
    outbox.pause()
    outbox.urge(b"past a full buffer")
    outbox.urge(bytes(2**20))
    assert lagging == ["calls"]
    assert sent.pop() == b"past a full buffer"
    outbox.resume()
    outbox.refuse(End("closed", 1000))
    outbox.urge(b"over")
    assert sent == [b"open"]


async def test_a_number_that_is_in_use(life: Life) -> None:
    async with connect(both(life)) as peer:
        call = Raw(b'{"type":"$call","id":1,"message":{"type":"work"}}')
        await peer.send(call)
        await life.until("begun ")
        await peer.send(call)
        await peer.wait_closed()
        assert (peer.close_code, peer.close_reason) == (1008, "call 1 is being answered already")


async def test_more_items_than_were_granted(life: Life) -> None:
    server = Router()

    @server.producer(on_end="keep")
    async def read(connection: Connection) -> None:
        async with connection.stream(Count(1000)) as ticks:
            async for _ in ticks:
                await life.go.wait()

    async with connect(server) as peer:
        asked = await peer.receive()
        assert asked["type"] == "$call"
        assert asked["message"] == {"type": "count", "upto": 1000, "fails_at": -1}
        for number in range(66):
            await peer.send(
                Raw(f'{{"type":"$item","id":1,"value":{{"number":{number}}}}}'.encode())
            )
        await peer.wait_closed()
        assert peer.close_code == 1008
        assert peer.close_reason == "more items of call 1 than were granted"


async def test_an_answer_of_another_type(life: Life) -> None:
    server, errors = Router(), []

    @server.producer(on_end="keep")
    async def ask(connection: Connection) -> None:
        try:
            await connection.call(Add(1, 2))
        except CallError as exc:
            errors.append(str(exc))
        await connection.send("done")

    async with connect(server) as peer:
        await peer.receive()
        await peer.send(Raw(b'{"type":"$answer","id":1,"value":{"total":"x"}}'))
        assert await peer.receive(str) == "done"
    assert errors == ["invalid: the answer is not valid: Expected `int`, got `str` - at `$.total`"]


async def test_a_path_whose_messages_have_no_tags() -> None:
    class Bare(msgspec.Struct):
        text: str

    errors: list[str] = []
    for kind in (Bare, Bare | list[int]):
        router = Router()

        async def take(message: Any, connection: Connection) -> None:
            try:
                await connection.call(Add(1, 2))
            except TypeError as exc:
                errors.append(str(exc))

        take.__annotations__["message"] = kind
        router.consumer(take)
        async with connect(router) as peer:
            await peer.send(Raw(b'{"text":"x"}'))
            await peer.close()
            await peer.wait_closed()
    assert len(errors) == 2
    assert errors[0].startswith("this path's messages cannot be told apart from answers: give")


async def test_a_call_that_cannot_be_sent_in_time() -> None:
    """The peer does not read: the time passes before the call is on its way."""
    router, raised = Router(), list[Exception]()

    @router.consumer
    async def start(message: Say, connection: Connection) -> None:
        try:
            await connection.call(Add(1, 2), timeout=0.01)
        except TimeoutError as exc:
            raised.append(exc)

    async with connect(router) as peer:
        session: Any = peer._session
        session.outbox.pause()
        await peer.send(Say("go"))
        while not raised:
            await anyio.lowlevel.checkpoint()
        session.outbox.resume()
        assert not session.calls._asked


@pytest.mark.parametrize("answered", [False, True])
async def test_a_flood_when_the_time_is_over(
    answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as messages come the answer may be behind them, but not for ever."""
    monkeypatch.setattr(calls, "LOOKS", 3)
    router, results = Router(), list[Any]()
    looks = 0

    @router.consumer(concurrency=100)
    async def start(message: Say, connection: Connection) -> None:
        if message.text == "go":
            try:
                results.append(await connection.call(Work(), timeout=0))
            except TimeoutError as exc:
                results.append(exc)

    async with connect(router) as peer:

        async def flooded() -> None:
            nonlocal looks
            looks += 1
            if answered and looks == 2:
                await peer.send({"type": "$answer", "id": 1, "value": None})
            await peer.send(Say("more"))
            await look()

        monkeypatch.setattr(calls, "look", flooded)
        await peer.send(Say("go"))
        while not results:
            await anyio.lowlevel.checkpoint()
    if answered:
        assert (results, looks) == ([None], 2)
    else:
        assert isinstance(results[0], TimeoutError)
        assert looks == 3


async def test_tags_in_another_field() -> None:
    class Ask(Call[int], tag="ask", tag_field="kind"):
        number: int

    class Other(msgspec.Struct, tag="other", tag_field="kind"): ...

    server, client = Router(), Router()

    @server.consumer
    async def ask(call: Ask) -> int:
        return 2 * call.number

    @server.consumer
    async def other(message: Other) -> None: ...

    @client.consumer
    async def others(message: Other) -> None: ...

    async with connect(server, client=client) as linked:
        assert await linked.client.call(Ask(21)) == 42


# -- the inbox


async def test_reading_goes_on_while_an_answer_is_awaited(life: Life) -> None:
    """256 messages fill the inbox, and the answer stands behind more of them."""
    server = Router()

    @server.consumer
    async def say(message: Say, connection: Connection) -> None:
        if message.text == "first":
            life.note("asking")
            life.note(f"got {(await connection.call(Add(1, 2))).total}")

    async with connect(server) as peer:
        await peer.send(Say("first"))
        asked = await peer.receive()
        for _ in range(300):
            await peer.send(Say("more"))
        await peer.send(
            Raw(f'{{"type":"$answer","id":{asked["id"]},"value":{{"total":3}}}}'.encode())
        )
        await life.until("got 3")


async def test_asking_while_reading_is_paused(life: Life) -> None:
    """It was paused before somebody asked: it goes on then."""
    server = Router()

    @server.consumer
    async def say(message: Say, connection: Connection) -> None:
        if message.text == "first":
            await life.go.wait()
            life.note(f"got {(await connection.call(Add(1, 2))).total}")

    async with connect(server) as peer:
        await peer.send(Say("first"))
        for _ in range(300):
            await peer.send(Say("more"))
        life.go.set()
        asked = await peer.receive()
        await peer.send(
            Raw(f'{{"type":"$answer","id":{asked["id"]},"value":{{"total":3}}}}'.encode())
        )
        await life.until("got 3")


async def test_the_hard_limit(life: Life) -> None:
    server = Router()

    @server.consumer
    async def say(message: Say, connection: Connection) -> None:
        await connection.call(Add(1, 2))

    limits = Limits(inbox_messages=2, inbox_hard_messages=5, close_timeout=1)
    async with connect(server, limits=limits) as peer:
        for _ in range(8):
            await peer.send(Say("x"))
        await peer.wait_closed()
        assert peer.close_code == 1008
        assert peer.close_reason == "too many messages are waiting while a call is pending"


async def test_reading_pauses_again_once_nothing_is_awaited(life: Life) -> None:
    server = Router()

    @server.consumer
    async def say(message: Say, connection: Connection) -> None:
        if message.text == "first":
            await connection.call(Add(1, 2))
        await life.go.wait()

    limits = Limits(inbox_messages=4, close_timeout=1)
    async with connect(server, limits=limits) as peer:
        await peer.send(Say("first"))
        asked = await peer.receive()
        for _ in range(10):
            await peer.send(Say("more"))
        await peer.send(
            Raw(f'{{"type":"$answer","id":{asked["id"]},"value":{{"total":3}}}}'.encode())
        )
        session: Any = peer._session
        try:
            with anyio.fail_after(2):
                while not session._inbox.full:
                    await anyio.lowlevel.checkpoint()
        finally:
            life.go.set()


async def a_call(asks: Connection, life: Life) -> None:
    await asks.call(Add(1, 2))


async def a_call_that_fails(asks: Connection, life: Life) -> None:
    with pytest.raises(CallError):
        await asks.call(Add(-1, 2))


async def a_call_that_is_refused(asks: Connection, life: Life) -> None:
    with pytest.raises(CallError, match="no consumer"):
        await asks.call(Unknown())


async def a_call_that_is_invalid(asks: Connection, life: Life) -> None:
    with pytest.raises(CallError, match="invalid"):
        await asks.call(Odd("no number"))


async def a_call_that_takes_too_long(asks: Connection, life: Life) -> None:
    with pytest.raises(TimeoutError):
        await asks.call(Work("late"), timeout=0.01)
    await life.until("over late")


async def a_call_that_is_cancelled(asks: Connection, life: Life) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asks.call, Work("dear"))
        await life.until("begun dear")
        tasks.cancel_scope.cancel()
    await life.until("over dear")


async def a_call_that_cannot_be_sent(asks: Connection, life: Life) -> None:
    with pytest.raises(TypeError):
        await asks.call(Odd(object()))


async def a_stream(asks: Connection, life: Life) -> None:
    async with asks.stream(Count(3)) as ticks:
        assert len([tick async for tick in ticks]) == 3


async def a_stream_that_fails(asks: Connection, life: Life) -> None:
    with pytest.raises(CallError, match="broken"):
        async with asks.stream(Count(3, fails_at=1)) as ticks:
            assert [tick async for tick in ticks]


async def a_stream_that_is_left(asks: Connection, life: Life) -> None:
    async with asks.stream(Count(10**9)) as ticks:
        async for _ in ticks:
            break
    await life.until("counted")


class Unknown(Call[None], tag="unknown"): ...


class Odd(Call[Sum], tag="add"):
    a: Any
    b: int = 0


@pytest.mark.parametrize(
    "ends",
    [
        a_call,
        a_call_that_fails,
        a_call_that_is_refused,
        a_call_that_is_invalid,
        a_call_that_takes_too_long,
        a_call_that_is_cancelled,
        a_call_that_cannot_be_sent,
        a_stream,
        a_stream_that_fails,
        a_stream_that_is_left,
    ],
)
@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_call_that_has_ended_holds_reading_open_no_longer(
    ends: Any, end: str, life: Life
) -> None:
    """However it has ended, on either side of it."""
    async with connect(both(life), client=both(life)) as linked:
        sessions = [_session(linked.client), _session(linked.server)]
        with anyio.fail_after(5):
            for _ in range(3):
                life.events.clear()
                await ends(getattr(linked, end), life)
            while any(session._inbox.expecting for session in sessions):
                await anyio.lowlevel.checkpoint()
        for session in sessions:
            assert not session.calls._asked
            assert not session.calls._answering


def _session(connection: Any) -> Any:
    return connection._driver


async def test_what_is_asked_of_a_peer_in_a_test(life: Life) -> None:
    async with connect(both(life)) as peer:
        await peer.send(Say("before"))
        assert await peer.call(Add(1, 2)) == Sum(3)
        with pytest.raises(CallError, match="negative"):
            await peer.call(Add(-1, 2))
        async with peer.stream(Count(100)) as ticks:
            assert [tick.number async for tick in ticks] == list(range(100))
        with pytest.raises(CallError, match="broken"):
            async with peer.stream(Count(100, fails_at=1)) as ticks:
                assert [tick.number async for tick in ticks] == [0]
        async with peer.stream(Count(10**9)) as ticks:
            async for _ in ticks:
                break
        await life.until("counted", 3)
        with pytest.raises(AssertionError, match=r"no answer to Work came within 0\.01 s"):
            await peer.call(Work("never"), timeout=0.01)
        await life.until("over never")


def test_what_answers(life: Life) -> None:
    from wsflow.messages.apart import tag_field
    from wsflow.messages.calls import answer_type, call_frames, is_call

    assert answer_type(Add) is Sum
    assert answer_type(Call) is Any
    assert answer_type(Get) is Any
    assert answer_type(Get[int]) is int
    assert is_call(Add)
    assert is_call(Call[int])
    assert not is_call(Say)
    assert not is_call(str)
    assert tag_field((str, Add)) == "type"
    assert call_frames("type") is call_frames("type")
