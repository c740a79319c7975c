"""A connection of nats-py, whose pending requests fail at once when it is lost.

nats-py leaves them to their timeout. Here each answer is expected under a number in the
connection's inbox, and tasks that wait for the server to have processed everything share one
message.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar, final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from wsflow.brokers.engine import ConnectionLostError, Failure, NoAnswerError, settle
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.messages.events import UNREADABLE
from wsflow.tasks.detached import start_task

T = TypeVar("T")
log = Log("wsflow.broker")

ANSWER = 2.0
"""Seconds that a request waits for the next part of its answer."""

MOST_DENIED = 1000
"""Subjects that are remembered because they may not be used."""

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)')

NO_LIMIT = 24 * 3600
"""A timeout for nats-py where wsflow has its own: seconds."""

HEADERS = 16
"""Bytes of a message's headers, beside themselves."""

CLOSE = 0.5
"""Seconds to close the connection to a server in order."""

ALIEN = "what the broker answers cannot be read: something else may answer in its place"

PORT = 4222

_REFUSAL = re.compile(
    "authorization (violation|failed)|authentication (expired|revoked)", re.IGNORECASE
)

to_json = msgspec.json.encode


class Refusal(msgspec.Struct):
    """An error of JetStream."""

    err_code: int = 0
    description: str = "no reason given"


class Answer(msgspec.Struct):
    """An answer of JetStream, as far as all have it."""

    error: Refusal | None = None


class RefusedError(BrokerError):
    """JetStream answers with an error.

    Attributes:
        code: its code.
    """

    NO_STREAM = 10059
    NO_MESSAGE = 10037
    NOT_FIRST = frozenset({10071, 10164})  # the subject has a message; the number of NATS 2.12, too

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"the broker refuses: {why}")
        self.code = code


class _Client(Client):
    """nats-py, but for three of its ways: it has each message wait for a task of its subscription,
    never reads again after one whose headers it cannot parse, and sends the password in plain text
    to a server that does not demand TLS.

    Args:
        secure: whether nothing is sent without TLS.
        failed: told what a handler raises.
    """

    def __init__(self, secure: bool, failed: Callable[[Exception], None]) -> None:
        super().__init__()
        self._secure = secure
        self._failed = failed
        self._handlers: dict[int, Callable[[Msg], None]] = {}

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._secure and initial_connection:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise Error("the server does not speak TLS, which tls:// demands")
            info["tls_required"] = True  # it is what nats-py looks at next
        await super()._process_info(info, initial_connection)

    async def _process_headers(self, headers: Any) -> Any:
        try:
            return await super()._process_headers(headers)
        except Exception:  # whatever its parsers raise
            return None

    async def listen(self, subject: str, handle: Callable[[Msg], None]) -> Subscription:
        """Have ``handle`` called with each message on a subject, as it is read."""
        self._handlers[self._sid + 1] = handle  # the number that nats-py gives next
        return await self.subscribe(subject)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self.stats["in_msgs"] += 1
        handle = self._handlers.get(sid)
        if handle is not None:
            found = await self._process_headers(headers) if headers else None
            try:
                handle(Msg(self, subject.decode(), reply.decode(), data, found))
            except Exception as exc:  # nats-py would read no more, and not say so
                self._failed(exc)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._handlers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)


@final
class NatsClient:
    """One connection. Its coroutines raise ConnectionLostError, and ``send`` BrokerError.

    Args:
        tls: what TLS is spoken with; without it, TLS is spoken if the server demands it.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._client = _Client(tls is not None, self._fail)
        self._failure = Failure()
        self.lost = self._failure.wait
        self._inbox = self._client.new_inbox()
        self._numbers = itertools.count()
        self._answers: dict[str, Callable[[Msg | Exception], None]] = {}
        self._asked: dict[str, set[str]] = {}  # per subject, the tokens of requests
        self._denied: dict[tuple[str, str], BrokerError] = {}  # by what, and the subject
        self.refused: Callable[[str, BrokerError], None] = lambda subject, exc: None
        self._unconfirmed: list[asyncio.Future[None]] = []
        self._transport: Any = None
        self._connecting: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._notes: list[tuple[str, bytes]] = []
        self._telling: asyncio.Task[None] | None = None

    # -- lifecycle

    async def connect(self, server: str, **options: Any) -> None:
        """Connect.

        Args:
            server: its URL, without a user.
            options: the user and the like, for nats-py.

        Raises:
            ConnectionLostError: connecting failed; a retry may succeed.
            BrokerError: the server refuses the user.
        """
        connecting = self._client.connect(
            server,
            name="wsflow",
            allow_reconnect=False,
            connect_timeout=NO_LIMIT,
            error_cb=self._error,
            closed_cb=self._closed,
            tls=self._tls,
            **options,
        )
        self._connecting = start_task(connecting, name="wsflow nats")
        # nats-py goes on trying, however often it has reported why it cannot connect.
        lost = start_task(self.lost(), name="wsflow nats")
        try:
            await asyncio.wait({self._connecting, lost}, return_when=asyncio.FIRST_COMPLETED)
            await (self._connecting if self._connecting.done() else lost)
        except (Error, OSError, EOFError) as exc:
            raise _why(exc) from None
        finally:
            await cancel_all({lost})
        self._transport = getattr(self._client, "_transport", None)
        await self.subscribe(f"{self._inbox}.*", self._answered)

    @property
    def heard(self) -> int:
        """How many messages have come."""
        return self._client.stats["in_msgs"]

    async def _error(self, exc: Exception) -> None:
        if (denied := _DENIED.search(str(exc).lower())) is not None:
            self._deny(denied[1], denied[2], BrokerError(f"it refuses: {exc}"))
        elif not self._client.is_connected:
            self._fail(_why(exc))

    def _deny(self, what: str, subject: str, exc: BrokerError) -> None:
        """The server does not allow to publish on a subject, or to subscribe to it. It says that
        after the fact, in lower case."""
        log.often(logging.ERROR, "the broker %s", str(exc).removeprefix("it "))
        if subject.startswith(self._inbox.lower()):
            self._fail(exc)
        if len(self._denied) >= MOST_DENIED:
            self._denied.clear()
        self._denied[what, subject] = exc
        if what == "subscription":
            self.refused(subject, exc)
        if what == "publish":
            for token in self._asked.get(subject, ()):
                self._answers[token](exc)

    def check(self, what: str, subject: str) -> None:
        """Check that the server has allowed what was done on a subject, before a ``ping``.

        Raises:
            BrokerError: it has not.
        """
        if (exc := self._denied.get((what, subject.lower()))) is not None:
            raise BrokerError(str(exc))

    async def _closed(self) -> None:
        self._fail(_why(self._client.last_error or Error("the connection was closed")))

    def _fail(self, exc: Exception) -> None:
        lost = self._failure.set(exc)
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(lost)
        for waiting in self._unconfirmed:
            settle(waiting, lost)
        self._unconfirmed = []

    async def close(self) -> None:
        """Close it, in whatever state it is."""
        self._fail(ConnectionLostError("closed"))
        tasks = {each for each in (self._connecting, self._flushing, self._telling) if each}
        await cancel_all(tasks)
        closing = start_task(self._close(), name="wsflow nats")
        await asyncio.wait([closing], timeout=CLOSE)
        await cancel_all({closing, *self._left_behind()})
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)  # the event loop may be closed next: its socket has its turn

    def _left_behind(self) -> set[asyncio.Task[None]]:
        """Tasks of nats-py. If its close fails, it leaves them and its socket behind."""
        names = ("_flusher_task", "_reading_task", "_ping_interval_task")
        tasks = [getattr(self._client, name, None) for name in names]
        return {task for task in tasks if task is not None}

    async def _close(self) -> None:
        with contextlib.suppress(Error, OSError):
            await self._client.close()

    # -- subscribing and publishing

    async def subscribe(self, subject: str, handle: Callable[[Msg], None]) -> Subscription:
        """Subscribe; the server has processed it when a later ``ping`` returns. See ``check``."""
        self._denied.pop(("subscription", subject.lower()), None)
        return await self._through(self._client.listen(subject, handle))

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Unsubscribe."""
        await self._through(subscription.unsubscribe())

    async def send(
        self, subject: str, data: bytes, reply: str = "", headers: dict[str, Any] | None = None
    ) -> None:
        """Send; the server has processed it when a later ``ping`` returns. See ``check``.

        Raises:
            BrokerError: it is larger than the server accepts, who would end the connection.
        """
        size = len(data) + sum(
            len(name) + len(value) + 4 for name, value in (headers or {}).items()
        )
        if size + HEADERS > self._client.max_payload:
            raise BrokerError(
                f"a message of {len(data)} bytes is larger than the broker accepts: raise its "
                "max_payload"
            )
        self._denied.pop(("publish", subject.lower()), None)
        await self._through(self._client.publish(subject, data, reply=reply, headers=headers))

    async def _through(self, call: Awaitable[T]) -> T:
        """Call nats-py, and translate its errors."""
        try:
            return await call
        except (Error, OSError) as exc:
            raise ConnectionLostError(str(exc)) from None

    def note(self, subject: str, data: bytes) -> None:
        """Send, in the order of the notes; they may be lost."""
        self._notes.append((subject, data))
        if self._telling is None:
            self._telling = start_task(self._tell(), name="wsflow nats")

    async def _tell(self) -> None:
        try:
            while self._notes:
                notes, self._notes = self._notes, []
                for subject, data in notes:
                    try:
                        await self.send(subject, data)
                    except BrokerError as exc:
                        log.often(logging.ERROR, "other processes are not told something: %s", exc)
        except ConnectionLostError as exc:
            self._fail(exc)
        finally:
            self._telling = None

    async def ping(self) -> None:
        """Wait until the server has processed all that was sent before."""
        self._failure.check()
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed.append(confirmed)
        if self._flushing is None:
            self._flushing = start_task(self._flush(), name="wsflow nats")
        await confirmed

    async def _flush(self) -> None:
        """Send one message to this connection itself for all that wait at that moment.

        It arrives after all that was sent before. The PING of nats-py would overtake messages that
        were published before it and are not written yet.
        """
        try:
            while self._unconfirmed:
                count = len(self._unconfirmed)
                await self.ask("", b"")
                done, self._unconfirmed = self._unconfirmed[:count], self._unconfirmed[count:]
                for waiting in done:
                    settle(waiting, None)
        except (ConnectionLostError, BrokerError) as exc:
            self._fail(exc)
        finally:
            self._flushing = None

    # -- requests

    def _answered(self, message: Msg) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None:
            answer(message)

    async def gather(
        self,
        subject: str,
        data: bytes,
        take: Callable[[Msg], bool],
        headers: dict[str, Any] | None = None,
    ) -> None:
        """Send a request, and call ``take`` with its answers until it returns True.

        Without a subject, the request is sent to its own inbox, and is its own answer.

        Args:
            subject: what to send it to.
            data: the request.
            take: takes an answer, and returns whether it was the last one. What it raises is raised
                here.
            headers: those of the request.

        Raises:
            NoAnswerError: nothing comes for ``ANSWER`` seconds.
            BrokerError: it may not be asked, or is too large.
        """
        with self._expect(take, subject) as answers:
            inbox = f"{self._inbox}.{answers.token}"
            await self.send(subject or inbox, data, inbox, headers)
            await answers.wait()

    @contextlib.contextmanager
    def _expect(self, take: Callable[[Msg], bool], subject: str) -> Iterator[Answers]:
        """Have ``take`` called with the answers to a request."""
        self._failure.check()
        answers = Answers(f"{next(self._numbers):x}", take, subject)
        self._answers[answers.token] = answers.came
        asked = self._asked.setdefault(subject.lower(), set())
        asked.add(answers.token)
        try:
            yield answers
        finally:
            self._answers.pop(answers.token, None)
            asked.discard(answers.token)
            if not asked:
                self._asked.pop(subject.lower(), None)

    async def consume(
        self, stream: str, config: Mapping[str, Any], take: Callable[[Msg], bool]
    ) -> None:
        """Call ``take`` with the messages of a stream, by a consumer that ends with this call,
        until it returns True. The first call may be with the answer of JetStream to the consumer.

        Args:
            stream: the name of the stream.
            config: that of the consumer, without its name and its subject.
            take: as in ``gather``.
        """
        create = f"$JS.API.CONSUMER.CREATE.{stream}"
        with self._expect(take, create) as answers:
            # What a consumer delivers has the subject that it was published on.
            inbox = self._client.new_inbox()
            subscription = await self.subscribe(inbox, answers.came)
            name = inbox.rpartition(".")[2]
            request = {
                "stream_name": stream,
                "config": {**config, "name": name, "deliver_subject": inbox},
            }
            try:
                create += f".{name}.{config['filter_subject']}"
                await self.send(create, to_json(request), inbox)
                await answers.wait()
            finally:
                self.note(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"")
                await self.unsubscribe(subscription)

    async def ask(self, subject: str, data: bytes, headers: dict[str, Any] | None = None) -> Msg:
        """Send a request, and return its answer."""
        answers: list[Msg] = []

        def take(answer: Msg) -> bool:
            answers.append(answer)
            return True

        await self.gather(subject, data, take, headers)
        return answers[0]

    async def api(self, what: str, request: dict[str, Any] | None = None) -> Any:
        """Send a request to JetStream, and return its answer.

        Raises:
            BrokerError: JetStream refuses, or is not enabled.
        """
        data = to_json(request) if request is not None else b""
        return read_answer(await self.ask(f"$JS.API.{what}", data))


@final
class Answers:
    """What comes in answer to one request.

    Args:
        token: under which they come.
        take: takes an answer, and returns whether it was the last one.
        subject: what was asked.
    """

    def __init__(self, token: str, take: Callable[[Msg], bool], subject: str) -> None:
        self.token = token
        self._take = take
        self._subject = subject
        self._count = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def came(self, answer: Msg | Exception) -> None:
        """An answer has come, or the reason why none will."""
        self._count += 1
        if isinstance(answer, Exception):
            settle(self._done, answer)
            return
        try:
            if self._take(answer):
                settle(self._done, None)
        except BrokerError as exc:
            settle(self._done, exc)
        except (LookupError, ValueError):  # something else has answered
            settle(self._done, BrokerError(ALIEN))

    async def wait(self) -> None:
        """Wait until the last one was taken.

        Raises:
            NoAnswerError: nothing comes any more.
        """
        while not self._done.done():
            count = self._count
            await asyncio.wait([self._done], timeout=ANSWER)
            if self._count == count:
                raise NoAnswerError(
                    f"the broker does not answer within {ANSWER:g} s when it is asked for "
                    f"{self._subject or 'a ping'}"
                )
        self._done.result()


def _why(exc: Exception) -> ConnectionLostError | BrokerError:
    """The exception for one of nats-py with which a connection ends."""
    text = str(exc) or type(exc).__name__
    if _REFUSAL.search(text):
        return BrokerError(f"it refuses the user or the password: {text}")
    return ConnectionLostError(text)


async def cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks that run functions of nats-py, which can swallow a cancellation.

    Tasks that still run after ten attempts are abandoned: their connection is closed. Their
    exceptions are ignored.
    """
    for task in tasks:
        task.add_done_callback(_retrieve)
    for _ in range(10):
        tasks = {task for task in tasks if not task.done()}
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.05)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def status(answer: Msg) -> str:
    """The status of an answer without content, else ``""``."""
    return (answer.headers or {}).get("Status", "")


def read_answer(answer: Msg, kind: Any = Any) -> Any:
    """The content of an answer of JetStream.

    Args:
        answer: the answer.
        kind: its type, if it is no error.

    Raises:
        BrokerError: JetStream refuses, or is not enabled, or it is not an answer of JetStream.
    """
    if status(answer) == "503":
        raise BrokerError(
            "topics with history, and claims, need JetStream, which is not enabled on this NATS "
            "server: start it with nats-server -js"
        )
    try:
        error = msgspec.json.decode(answer.data, type=Answer).error
        if error is None:
            return msgspec.json.decode(answer.data, type=kind)
    except UNREADABLE:
        raise BrokerError(ALIEN) from None
    raise RefusedError(error.err_code, error.description)
