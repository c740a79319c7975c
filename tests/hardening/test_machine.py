"""Row 3: random steps on a real server, and whatever they were, nothing is left of them.

Hypothesis chooses the steps, and makes them fewer when one fails. The server and its raw clients
live in one event loop, which each step turns until the step is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import anyio
import hypothesis
import msgspec
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.test_limits import certificate
from tests.raw import frame, request
from wsflow import Call, Connection, Query, Registry, Reject, Router, Stream, Topic, TopicName
from wsflow.declare.router import Router as AnyRouter
from wsflow.server import Server, Settings
from wsflow.wiring.compile import compile_app

LIMIT = 10.0
"""Seconds in which a server has to stop, with all limits below one second."""


class Plain(msgspec.Struct, tag="plain"):
    number: int = 0


class Slow(msgspec.Struct, tag="slow"):
    number: int = 0


class Parallel(msgspec.Struct, tag="parallel"):
    number: int = 0


class Tell(msgspec.Struct, tag="tell"):
    size: int = 1


class Leave(msgspec.Struct, tag="leave"):
    code: int = 1000


class Fail(msgspec.Struct, tag="fail"):
    pass


class Asked(Call[int], tag="asked"):
    seconds: float = 0


class Streamed(Stream[int], tag="streamed"):
    items: int = 3


class Told(msgspec.Struct, tag="told"):
    text: str


News = Annotated[Topic[Told], TopicName("news", history=10, backlog=8, when_full="drop_oldest")]
Strict = Annotated[Topic[Told], TopicName("strict", backlog=4)]

SENT: dict[str, bytes] = {
    "plain": b'{"type":"plain"}',
    "slow": b'{"type":"slow"}',
    "parallel": b'{"type":"parallel"}',
    "tell": b'{"type":"tell","size":100}',
    "tell much": b'{"type":"tell","size":200000}',
    "leave": b'{"type":"leave","code":4000}',
    "fail": b'{"type":"fail"}',
    "call": b'{"type":"$call","id":1,"message":{"type":"asked"}}',
    "slow call": b'{"type":"$call","id":2,"message":{"type":"asked","seconds":60}}',
    "stream": b'{"type":"$call","id":3,"message":{"type":"streamed","items":1000},"items":2}',
    "cancel call": b'{"type":"$cancel","id":2}',
    "nonsense": b'{"type":',
    "unknown": b'{"type":"unknown"}',
}
PATHS = (
    "/plain",
    "/joined",
    "/joined?wait=0.02",
    "/joined?reject=403",
    "/joined?reject=late",
    "/joined?fail=1",
    "/ticking",
    "/ticking?items=3",
    "/hearing",
    "/nowhere",
)


class App:
    """The app under test, and what it knows of its own functions."""

    def __init__(self) -> None:
        self.scopes = Counter[str]()  # that are entered, and not left
        self.handlers = Counter[str]()  # that run
        self.tasks: dict[object, asyncio.Task[Any]] = {}
        self.router = Router("/")
        self.router.lifespan(self._lifespan())
        for path in ("plain", "joined", "ticking", "hearing"):
            self.router.include(self._path(path))

    @contextlib.contextmanager
    def at_work(self, name: str):  # type: ignore[no-untyped-def]
        task = asyncio.current_task()
        assert task is not None
        self.handlers[name] += 1
        key = object()
        self.tasks[key] = task
        try:
            yield
        finally:
            self.handlers[name] -= 1
            del self.tasks[key]

    def _lifespan(self):  # type: ignore[no-untyped-def]
        async def live() -> AsyncIterator[None]:
            self.scopes["lifespan"] += 1
            yield
            self.scopes["lifespan"] -= 1

        return live

    def _path(self, path: str) -> AnyRouter:
        router = Router(f"/{path}")
        work = self.at_work

        @router.consumer
        async def plain(message: Plain) -> Plain:
            return message

        @router.consumer
        async def slow(message: Slow) -> Slow:
            with work("slow"):
                await anyio.sleep(0.02)
            return message

        @router.consumer(concurrency=4)
        async def parallel(message: Parallel) -> Parallel:
            with work("parallel"):
                await anyio.sleep(0.02)
            return message

        @router.consumer
        async def tell(message: Tell, news: News, strict: Strict, registry: Registry) -> None:
            with work("tell"):
                await news.publish(Told("x" * message.size))
                await strict.publish(Told("y" * message.size))
                await registry.broadcast(Told("z"))

        @router.consumer
        async def leave(message: Leave, connection: Connection) -> None:
            await connection.close(message.code)

        @router.consumer
        async def fail(message: Fail) -> None:
            raise RuntimeError("as asked")

        @router.consumer
        async def answer(message: Asked) -> int:
            with work("answer"):
                await anyio.sleep(message.seconds)
            return 1

        @router.consumer
        async def stream(message: Streamed) -> AsyncIterator[int]:
            with work("stream"):
                for number in range(message.items):
                    yield number

        if path == "joined":

            @router.on_connect
            async def enter(
                news: News,
                strict: Strict,
                connection: Connection,
                wait: Annotated[float, Query()] = 0,
                reject: Annotated[str, Query()] = "",
                fail: Annotated[int, Query()] = 0,
            ) -> AsyncIterator[None]:
                self.scopes["enter"] += 1
                try:
                    await news.join(presence="somebody")
                    await strict.join()
                    await anyio.sleep(wait)
                    if reject == "late":
                        await connection.send(Told("welcome"))
                    if reject:
                        raise Reject(403, "no")
                    if fail:
                        raise RuntimeError("as asked")
                    yield
                finally:
                    self.scopes["enter"] -= 1

            @router.on_disconnect
            async def farewell(news: News) -> None:
                await news.publish(Told("somebody has left"))

        if path == "ticking":

            @router.producer
            async def tick(items: Annotated[int, Query()] = 10**9) -> AsyncIterator[Told]:
                with work("tick"):
                    for number in range(items):
                        yield Told(str(number))
                        await anyio.sleep(0.005)

        if path == "hearing":

            @router.producer(on_end="keep")
            async def hear(news: News) -> AsyncIterator[Told]:
                with work("hear"):
                    async for each in news:
                        yield each

        return router


GONE = (OSError, ValueError, RuntimeError)
"""What the loops raise for a client whose socket has been closed meanwhile."""


class Client:
    """A raw client; it remembers what it has done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.half_closed = False
        self.socket = writer.get_extra_info("socket")

    def send(self, names: Iterable[str], more: bytes = b"") -> None:
        """Send messages, if it still can."""
        with contextlib.suppress(*GONE):
            if self.half_closed or self.writer.is_closing():
                return
            self.writer.write(b"".join(frame(SENT[name]) for name in names) + more)

    def half_close(self) -> None:
        """Send nothing more; with TLS, that closes it."""
        self.half_closed = True
        with contextlib.suppress(*GONE):
            if self.writer.can_write_eof():
                self.writer.write_eof()
            else:
                self.writer.close()

    def reset(self) -> None:
        """Leave with a RST."""
        with contextlib.suppress(*GONE):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Bed:
    """A server, its app and its clients, and a loop for them."""

    def __init__(self, make_loop: Any, tls: Any, seed: int) -> None:
        self.runner = asyncio.Runner(loop_factory=make_loop)
        self.loop = self.runner.get_loop()
        self.chance = random.Random(seed)
        self.reports: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(context))
        self.app = App()
        options: dict[str, Any] = {}
        self.client_tls: ssl.SSLContext | None = None
        if tls:
            options = {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
            self.client_tls = ssl.create_default_context()
            self.client_tls.check_hostname, self.client_tls.verify_mode = False, ssl.CERT_NONE
        limits = Settings(
            port=0,
            open_timeout=0.5,
            close_timeout=0.3,
            grace=0.3,
            ping_interval=0.1,
            ping_timeout=0.3,
            inbox_messages=8,
            max_connections=30,
            max_connections_per_client=28,
            write_buffer=20_000,
            **options,
        )
        self.server = Server(compile_app(self.app.router), limits)
        self.running: Any = None
        self.clients: list[Client] = []

    def run(self, steps: Any) -> Any:
        return self.runner.run(steps)

    async def begin(self) -> None:
        self.running = asyncio.ensure_future(self.server.run())
        await self.server.started.wait()

    async def open(self, path: str, together: list[str], wait: bool) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.server.port, ssl=self.client_tls, limit=2**22
        )
        self.clients.append(Client(reader, writer))
        writer.write(request(path) + b"".join(frame(SENT[name]) for name in together))
        if wait:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)

    async def half(self, bytes_sent: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.clients.append(Client(reader, writer))
        writer.write(request("/plain")[:bytes_sent])

    async def end(self) -> list[str]:
        """Stop, and say what is left."""
        wrong: list[str] = []
        self.server.stop()
        try:
            await asyncio.wait_for(asyncio.shield(self.running), LIMIT)
        except TimeoutError:
            wrong.append(f"stop has not returned after {LIMIT:g} s: {self._left()}")
            self.server.stop(now=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.running), LIMIT)
        for client in self.clients:
            client.writer.transport.abort()
        for _ in range(20):
            await asyncio.sleep(0)
            await asyncio.sleep(0.001 if self._left() else 0)
        wrong += [f"left: {each}" for each in self._left()]
        wrong += [f"reported to the loop: {each}" for each in self.reports]
        return wrong

    def _left(self) -> list[str]:
        app, server = self.server._app, self.server
        left = {
            "sessions": [
                each.plan.template + f" {each.phase.name}" for each in app.sessions.values()
            ],
            "connections in the registry": list(app.directory.connections),
            "topics": len(app.directory.channels),
            "messages that wait": app.directory.channels.waiting,
            "admitted": app._admission._count,
            "clients counted": dict(app._admission._clients),
            "sockets": len(server._transports._open),
            "requesting": len(server._transports._requesting),
            "left behind": app.left_behind,
            "scopes": {name: count for name, count in self.app.scopes.items() if count},
            "handlers": {name: count for name, count in self.app.handlers.items() if count},
            "tasks": [
                task.get_name()
                for task in asyncio.all_tasks(self.loop)
                if task.get_name().startswith("wsflow")
            ],
        }
        return [f"{name}: {value}" for name, value in left.items() if value]


class Totals:
    def __init__(self) -> None:
        self.runs = 0
        self.steps = 0


def machine(make_loop: Any, tls: Any, seed: int, totals: Totals) -> type[RuleBasedStateMachine]:
    """The steps, on one kind of server."""
    names = st.sampled_from(sorted(SENT))
    which = st.integers(0, 1000)

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            totals.runs += 1
            self.bed = Bed(make_loop, tls, seed)
            self.stopped = False
            self.bed.run(self.bed.begin())

        def client(self, number: int) -> Client:
            totals.steps += 1
            return self.bed.clients[number % len(self.bed.clients)]

        def turn(self, seconds: float = 0.0) -> None:
            async def turn() -> None:
                for _ in range(4):
                    await asyncio.sleep(0)
                await asyncio.sleep(seconds)

            self.bed.run(turn())

        @precondition(lambda self: not self.stopped and len(self.bed.clients) < 40)
        @rule(path=st.sampled_from(PATHS), together=st.lists(names, max_size=4), wait=st.booleans())
        def connect(self, path: str, together: list[str], wait: bool) -> None:
            totals.steps += 1
            self.bed.run(self.bed.open(path, together, wait))

        @precondition(lambda self: not self.stopped and not tls)
        @rule(sent=st.integers(0, 150))
        def begin_to_connect(self, sent: int) -> None:
            totals.steps += 1
            self.bed.run(self.bed.half(sent))

        @precondition(lambda self: self.bed.clients)
        @rule(number=which, names=st.lists(names, min_size=1, max_size=6), turns=st.booleans())
        def send(self, number: int, names: list[str], turns: bool) -> None:
            self.client(number).send(names)
            if turns:
                self.turn()

        @precondition(lambda self: self.bed.clients)
        @rule(number=which, names=st.lists(names, max_size=3))
        def half_close(self, number: int, names: list[str]) -> None:
            client = self.client(number)
            client.send(names)
            client.half_close()

        @precondition(lambda self: self.bed.clients)
        @rule(number=which, names=st.lists(names, max_size=3), turns=st.booleans())
        def reset(self, number: int, names: list[str], turns: bool) -> None:
            client = self.client(number)
            client.send(names)
            if turns:
                self.turn()
            client.reset()

        @precondition(lambda self: self.bed.clients)
        @rule(number=which, names=st.lists(names, max_size=3), code=st.sampled_from([1000, 4001]))
        def close(self, number: int, names: list[str], code: int) -> None:
            data = frame(struct.pack("!H", code), 8) + frame(b"late")
            self.client(number).send(names, data)

        @rule(number=which)
        def cancel(self, number: int) -> None:
            """Natively, a handler's task, or the host in which the handler runs."""
            totals.steps += 1
            tasks = list(self.bed.app.tasks.values())
            if tasks:  # no precondition: that would depend on the time
                tasks[number % len(tasks)].cancel()

        @rule(size=st.sampled_from([1, 1000, 100_000]), times=st.integers(1, 20))
        def publish(self, size: int, times: int) -> None:
            totals.steps += 1

            async def publish() -> None:
                for name in ("news", "strict"):
                    topic = self.bed.server.registry.topic(name)
                    for _ in range(times):
                        await topic.publish(Told("x" * size))

            if not self.stopped:
                self.bed.run(publish())

        @precondition(lambda self: self.bed.clients)
        @rule(number=which)
        def read(self, number: int) -> None:
            client = self.client(number)

            async def read() -> None:
                with contextlib.suppress(TimeoutError, OSError, ssl.SSLError):
                    await asyncio.wait_for(client.reader.read(2**20), 0.01)

            self.bed.run(read())

        @rule(seconds=st.sampled_from([0.0, 0.005, 0.05]))
        def time(self, seconds: float) -> None:
            totals.steps += 1
            self.turn(seconds)

        @precondition(lambda self: not self.stopped)
        @rule(how=st.sampled_from(["drain", "restart", "now"]), again=st.integers(0, 9))
        def stop(self, how: str, again: int) -> None:
            if again:
                return  # not often: nothing else can happen afterwards
            totals.steps += 1
            self.stopped = True
            self.bed.server.stop(now=how == "now", restart=how == "restart")

        def teardown(self) -> None:
            try:
                wrong = self.bed.run(self.bed.end())
            finally:
                self.bed.runner.close()
            assert not wrong, "\n".join(wrong)

    return Machine


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _check(loop: str, tls: bool) -> Any:
    def measure(scale: Scale) -> Outcome:
        outcome, totals = Outcome(), Totals()
        examples, steps = scale.of(5, 150), scale.of(20, 30)
        with contextlib.ExitStack() as stack:
            files = stack.enter_context(certificate()) if tls else None
            kind = machine(LOOPS[loop], files, scale.seed, totals)
            limits = settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink] if scale.whole else [Phase.generate],
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )
            try:
                run_state_machine_as_test(hypothesis.seed(scale.seed)(kind), settings=limits)
            except Exception as exc:
                notes = "\n".join(getattr(exc, "__notes__", ()))
                outcome.wrong.append(f"{exc!r:.3000}\n{notes}")
        gc.collect()
        outcome.figures = (
            f"{loop}{' with TLS' * tls}: {totals.runs} runs, {totals.steps} steps, "
            f"{'nothing left' if outcome.reached else 'something left'}"
        )
        return outcome

    return measure


ROW = Row(
    3,
    "Hypothesis state machine over connect, send, half close, reset, cancel, join, publish, "
    "reject, stop, time, on real sockets, both loops, TLS too",
    "≥ 500 runs",
    "nothing left, stop returns",
    [
        Check(f"{loop}{' with TLS' * tls}", _check(loop, tls))
        for loop in LOOPS
        for tls in (False, True)
    ],
)
test_quick, test_whole = both_forms(ROW)
