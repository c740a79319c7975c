"""NATS: topics are subjects, history is kept by JetStream.

All topics with the same bounds of their history share a stream, which republishes what it has
stored, with the sequence number of each event and of the one before it. Live events are received
from there, by core NATS subscriptions, without a JetStream consumer. Missed events are read with
direct gets from the stream.

Whoever joins a topic hears all that is published on it, whatever history the publisher believes it
to have: two versions of an app hear each other while one replaces the other. What is not in the
history of the process that hears it has no place there.

JetStream bounds the bytes of a stream, not those of a topic in it. So who publishes looks after
them, now and then by chance: the more often the larger its messages are. No process need know what
others have published.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import logging
import math
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, final

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from wsflow.brokers import urls
from wsflow.brokers.base import MAX_CLAIM, Mark
from wsflow.brokers.engine import (
    PAGE,
    PAGE_BYTES,
    Attempt,
    ConnectionLostError,
    EngineListener,
    NoAnswerError,
    Stamp,
    Stored,
    loop_time,
)
from wsflow.brokers.nats_client import (
    PORT,
    NatsClient,
    RefusedError,
    read_answer,
    status,
    to_json,
)
from wsflow.brokers.nats_keys import read_keys
from wsflow.brokers.urls import Server
from wsflow.brokers.wire import MAX_SIZE
from wsflow.errors import BrokerError
from wsflow.http import percent_encode
from wsflow.log import Log
from wsflow.messages.events import HISTORY_BYTES, UNREADABLE, Carries, TopicOptions

log = Log("wsflow.broker")

LATE = 64
"""Events that are read one by one from the leader of a stream, at most, where another server of the
cluster did not have them yet."""

SHARE = 16
"""How many times ``history_bytes`` a stream has, which the topics with the same bounds share."""

LOOKS = 4
"""How often a topic is looked after while ``history_bytes`` are published on it, on average."""

MAX_TOKEN = 1024
"""Characters of the longest name of a topic that is a subject as it stands."""


NO_HISTORY = "0"
"""The part of a subject for topics without history."""

ALIEN_LIVE = "it was not republished by the stream"

MOST_KNOWN = 10_000
"""Topics of which it is known when this process has published on them."""

IDLE_LOOKS = 4
"""How often in the time of ``idle`` it is looked which topics are."""

Numbered = tuple[int, bytes]
"""A sequence number and an event."""


class Put(msgspec.Struct):
    """The answer of JetStream to a message that it has stored."""

    stream: str
    seq: int


class Created(msgspec.Struct):
    """The answer of JetStream to a consumer."""

    num_pending: int


class _Opened(NamedTuple):
    """A stream that is there.

    Attributes:
        beginning: the place before all events.
        now: the time of its server, in seconds since 1970.
    """

    beginning: Mark
    now: float


class Place(NamedTuple):
    """Where a message that a consumer delivers stands in its stream.

    Attributes:
        number: its sequence number.
        time: when it was stored, in nanoseconds since 1970, as the server tells the time.
        pending: how many follow.
    """

    number: int
    time: int
    pending: int

    @staticmethod
    def parse(reply: str) -> Place:
        """That of a message, by the subject that it is acknowledged on:
        $JS.ACK.<stream>.<consumer>.<deliveries>.<number>.<in the consumer>.<time>.<pending>; of a
        later version with two words before the stream, and maybe one at the end."""
        words = reply.split(".")
        first = 2 if len(words) == 9 else 4
        return Place(int(words[first + 3]), int(words[first + 5]), int(words[first + 6]))


class Declared(msgspec.Struct, array_like=True):
    """A topic with history, as it is stored."""

    template: str
    history: int
    max_age: float
    history_bytes: int = HISTORY_BYTES
    event_id: Carries = ""
    idle: float = 0

    @property
    def options(self) -> TopicOptions:
        return TopicOptions(
            self.history,
            self.max_age,
            self.history_bytes,
            event_id=self.event_id,
            idle=self.idle,
        )


KINDS: urls.Kinds = {
    "prefix": urls.text,
    "replicas": urls.one_of({str(number): number for number in range(1, 6)}),
    "credentials": urls.file,
    "nkey": urls.file,
}
"""The options that a URL may have, but for those of TLS."""

TLS_KINDS: urls.Kinds = {"handshake_first": urls.switch, **urls.TLS_OPTIONS}

_BEFORE = "it stands before the host, as in nats://user:password@host, or nats://token@host"
REFUSED = {
    "user": _BEFORE,
    "username": _BEFORE,
    "password": _BEFORE,
    "token": _BEFORE,
    "creds": "use credentials",
    "user_credentials": "use credentials",
    "nkeys_seed": "use nkey",
    "nkeys_seed_str": "use nkey, which names a file",
    "tls": "use tls:// in place of nats://",
    "tlsca": "use ssl_ca_certs",
    "tls_ca": "use ssl_ca_certs",
    "tlscert": "use ssl_certfile",
    "tls_cert": "use ssl_certfile",
    "tlskey": "use ssl_keyfile",
    "tls_key": "use ssl_keyfile",
    "tlsfirst": "use handshake_first",
    "tls_first": "use handshake_first",
}
"""Options that other clients of NATS have, and what to use."""
_NO_TLS = {**urls.no_tls("tls"), "handshake_first": "it needs tls://"}

PATIENCE = 1.0
"""Seconds that one of several servers has to accept a connection, before the next one is tried."""


@final
class NatsEngine:
    """Connects to NATS.

    Args:
        url: ``nats://`` or ``tls://``, or several of them, separated by commas, for a cluster. Each
            has the user that stands before its host. ``?prefix=`` is what all subjects begin with,
            ``wsflow`` by default, and ``?replicas=`` how many servers of a cluster keep each
            history, 1 by default; ``KINDS`` has the other options.

    Raises:
        ValueError: the URL is invalid. The message has none of its values but the prefix.
    """

    def __init__(self, url: str) -> None:
        self._tls = url.partition("://")[0].lower() == "tls"
        kinds = {**KINDS, **TLS_KINDS} if self._tls else KINDS
        read = urls.read_list(url, kinds, REFUSED if self._tls else {**REFUSED, **_NO_TLS})
        options = self._options = read.options
        self._servers = read.servers
        self.address = str(read)
        self.prefix: str = options.get("prefix", urls.PREFIX)
        self.replicas: int = options.get("replicas", 1)
        if percent_encode(self.prefix) != self.prefix:
            raise ValueError(f"prefix is {self.prefix!r}: use letters, digits, _ and -")
        ways = [
            "credentials" in options,
            "nkey" in options,
            any(each.user for each in self._servers),
        ]
        if sum(ways) > 1:
            raise ValueError("use one of a user before the host, credentials, and nkey")
        self._read_files()

    def _read_files(self) -> tuple[ssl.SSLContext | None, dict[str, Any]]:
        """What TLS is spoken with, and what is in the files of the credentials, as of now.

        Raises:
            ValueError: one of the files cannot be used.
        """
        tls = urls.tls_context(self._options) if self._tls else None
        return tls, read_keys(self._options)

    async def connect(self, listener: EngineListener, process: str) -> NatsConnection:
        """Connect to one of the servers, chosen at random; if it does not let this process in, to
        another one."""
        try:
            tls, keys = self._read_files()
        except ValueError as exc:  # they have changed
            raise ConnectionLostError(str(exc)) from None
        failures: dict[str, ConnectionLostError | BrokerError] = {}
        for server in random.sample(self._servers, len(self._servers)):
            client = NatsClient(tls)
            connection = NatsConnection(client, listener, self.prefix, self.replicas)
            try:
                async with asyncio.timeout(PATIENCE if len(self._servers) > 1 else None):
                    await client.connect(
                        f"nats://{server.at(PORT)}",
                        tls_handshake_first=self._options.get("handshake_first", False),
                        **credentials_of(server),
                        **keys,
                    )
                await connection.begin(process)
            except TimeoutError:
                await client.close()
                failures[server.at(PORT)] = ConnectionLostError(f"no answer within {PATIENCE:g} s")
            except (ConnectionLostError, BrokerError) as exc:
                await client.close()
                failures[server.at(PORT)] = exc
            except BaseException:
                await client.close()
                raise
            else:
                return connection
        raise _all_of(failures)


def _all_of(
    failures: Mapping[str, ConnectionLostError | BrokerError],
) -> ConnectionLostError | BrokerError:
    """The exception for those of all servers."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    why = "; ".join(f"{server}: {failures[server]}" for server in sorted(failures))
    if all(isinstance(each, BrokerError) for each in failures.values()):
        return BrokerError(why)
    return ConnectionLostError(why)


def credentials_of(server: Server) -> dict[str, str]:
    """The user of a server, for nats-py."""
    if server.user is None:
        return {}
    if server.password is None:
        return {"token": server.user}
    return {"user": server.user, "password": server.password}


@final
class NatsConnection:
    """Topics on a connection to NATS."""

    def __init__(
        self, client: NatsClient, listener: EngineListener, prefix: str, replicas: int
    ) -> None:
        self._client = client
        self._listener = listener
        self._prefix = prefix
        self._replicas = replicas
        self._subscriptions: dict[str, Subscription] = {}
        self._epochs: dict[str, str] = {}  # by stream
        self._claims = ""  # the stream of claims, once it is there
        self._published: dict[str, float] = {}  # when it was published on topics that may be idle
        client.refused = self._refused
        self.lost = client.lost
        self.close = client.close
        self.ping = client.ping

    @property
    def heard(self) -> int:
        return self._client.heard

    async def begin(self, process: str) -> None:
        """Subscribe to the notes between processes."""
        subjects = (f"{self._prefix}.c", f"{self._prefix}.c.{process}")
        for subject in subjects:
            await self._client.subscribe(subject, self._told)
        await self.ping()
        for subject in subjects:
            self._client.check("subscription", subject)

    def _refused(self, subject: str, exc: BrokerError) -> None:
        """The server sends nothing of a subject, which it names in lower case."""
        for topic, subscription in list(self._subscriptions.items()):
            if subscription.subject.lower() == subject:
                self._listener.refused(topic, exc)

    def _told(self, message: Msg) -> None:
        self._listener.told(message.data)

    def tell(self, process: str, data: bytes) -> None:
        subject = f"{self._prefix}.c.{process}" if process else f"{self._prefix}.c"
        self._client.note(subject, data)

    # -- topics

    def _subject(self, kind: str, topic: str, options: TopicOptions) -> str:
        """The subject of a topic. Its kind: ``s`` to be stored, ``l`` live."""
        return f"{self._prefix}.{kind}.{_class(options)}.{_token(topic)}"

    def _stream(self, options: TopicOptions) -> str:
        return f"{self._prefix}_{_class(options)}"

    async def subscribe(self, topics: Mapping[str, TopicOptions]) -> None:
        subjects: dict[str, str] = {}
        for topic, options in topics.items():
            subjects[topic] = f"{self._prefix}.l.*.{_token(topic)}"
            if topic not in self._subscriptions:
                here = f"{self._prefix}.l.{_class(options)}." if options.history else ""
                handle = partial(self._came, topic, here, self._stream(options))
                self._subscriptions[topic] = await self._client.subscribe(subjects[topic], handle)
        await self.ping()
        for topic, subject in subjects.items():
            try:
                self._client.check("subscription", subject)
            except BrokerError:
                await self.unsubscribe([topic])
                raise

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        for topic in topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is not None:
                await self._client.unsubscribe(subscription)

    def _came(self, topic: str, here: str, stream: str, message: Msg) -> None:
        """A message on a topic; ``here`` is how its subject begins if the history of this process
        has it, in a stream."""
        headers = message.headers or {}
        stored_in = headers.get("Nats-Stream")
        if message.subject.startswith(f"{self._prefix}.l.{NO_HISTORY}."):
            self._listener.arrived(topic, None, message.data)
        elif not here or not message.subject.startswith(here):
            if stored_in is None:
                self._listener.unreadable(f"topic {topic!r}", ALIEN_LIVE)
            else:
                self._listener.arrived(topic, None, message.data)
        else:
            order = previous = None
            with contextlib.suppress(ValueError):
                order = int(headers.get("Nats-Sequence", ""))
                previous = int(headers.get("Nats-Last-Sequence", ""))
            if order is None or previous is None or stored_in != stream:
                self._listener.unreadable(f"topic {topic!r}", ALIEN_LIVE)
            elif (epoch := self._epochs.get(stream)) is not None:
                stamp = Stamp(Mark(epoch, (order,)), (previous,) if previous else ())
                self._listener.arrived(topic, stamp, message.data)
            # Else ``last`` follows, which finds the stream, and then what is in it is read.

    async def publish(
        self, topic: str, data: bytes, options: TopicOptions, attempt: Attempt
    ) -> str:
        subject = self._subject("s" if options.history else "l", topic, options)
        if not options.history:
            await self._client.send(subject, data)
            await self.ping()
            self._client.check("publish", subject)
            return ""
        await self._ensure_stream(options)
        if options.idle:
            await self._forget_if_idle(topic, options)
        headers = {"Nats-Msg-Id": attempt.key}

        async def reopen() -> None:
            self._epochs.pop(self._stream(options), None)
            await self._ensure_stream(options)

        answer = await self._store(subject, data, headers, reopen)
        stored = read_answer(answer, Put)
        room = options.history_bytes
        if room and random.random() * room < len(data) * LOOKS:
            await self._trim(self._stream(options), subject, room)
        return str(Mark(self._epochs.get(stored.stream, ""), (stored.seq,)))

    async def _store(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, Any],
        reopen: Callable[[], Awaitable[None]],
    ) -> Msg:
        """Store a message in the stream of its subject; ``reopen`` makes the stream anew if it was
        lost. Returns the server's answer."""
        answer = await self._client.ask(subject, data, headers)
        if status(answer) == "503":  # it was lost meanwhile
            await reopen()
            answer = await self._client.ask(subject, data, headers)
        return answer

    async def _last(self, stream: str, subject: str) -> Any:
        """The last message of a subject; None if there is none."""
        found = await self._find(
            f"STREAM.MSG.GET.{stream}", RefusedError.NO_MESSAGE, {"last_by_subj": subject}
        )
        return None if found is None else found["message"]

    async def _trim(self, stream: str, subject: str, room: int) -> None:
        """Delete the oldest events of a topic that are too many bytes."""
        sizes: list[tuple[int, int]] = []
        try:
            for each, message in await self._headers(stream, subject, "all"):
                sizes.append((each.number, int((message.headers or {})["Nats-Msg-Size"])))
            over, upto = sum(size for _, size in sizes) - room, 0
            for number, size in sizes:
                if over <= 0:
                    break
                over -= size
                upto = number + 1
            if upto:
                await self._purge(stream, subject, upto)
        except BrokerError as exc:  # the event is stored, all the same
            log.often(logging.WARNING, "a history cannot be held within its bytes: %s", exc)

    async def _headers(self, stream: str, subject: str, policy: str) -> list[tuple[Place, Msg]]:
        """The messages of a stream without what is in them: all of a subject, or the last ones of
        several, as the policy of a consumer says."""
        found: list[tuple[Place, Msg]] = []
        config = {
            "filter_subject": subject,
            "deliver_policy": policy,
            "ack_policy": "none",
            "headers_only": True,
            "mem_storage": True,
            "inactive_threshold": 5_000_000_000,
        }

        def take(answer: Msg) -> bool:
            if not answer.reply:  # the answer to the request itself
                return not read_answer(answer, Created).num_pending
            place = Place.parse(answer.reply)
            found.append((place, answer))
            return not place.pending

        await self._client.consume(stream, config, take)
        return found

    async def _purge(self, stream: str, subject: str, upto: int) -> None:
        """Delete the events of a topic before a sequence number."""
        await self._client.api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": upto})

    # -- history

    async def _ensure_stream(self, options: TopicOptions) -> None:
        """Create the stream for topics with these options, unless this connection has found it."""
        if self._stream(options) not in self._epochs:
            await self._open_stream(options)

    async def _open_stream(self, options: TopicOptions) -> _Opened:
        """Find or create the stream for topics with these options."""
        name = self._stream(options)
        stream = await self._find_or_make(
            name,
            subjects=[f"{self._prefix}.s.{_class(options)}.>"],
            # One more, to prove that no event is missing before the oldest.
            max_msgs_per_subject=options.history + 1,
            max_age=int(options.max_age * 1e9),
            max_bytes=_stream_bytes(options),
            republish={
                "src": f"{self._prefix}.s.{_class(options)}.>",
                "dest": f"{self._prefix}.l.{_class(options)}.>",
            },
        )
        epoch = self._epochs[name] = f"{int(_time(stream['created']) * 1e6):x}"
        return _Opened(Mark(epoch), _time(stream["ts"]))

    async def _find_or_make(self, name: str, **config: Any) -> Any:
        """The description of a stream by JetStream."""
        config = {
            "name": name,
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "num_replicas": self._replicas,
            "allow_direct": True,
            **config,
        }
        found = await self._find(f"STREAM.INFO.{name}", RefusedError.NO_STREAM)
        if found is None:
            return await self._client.api(f"STREAM.CREATE.{name}", config)
        there, most = found["config"], config.get("max_bytes", -1)
        if there.get("max_bytes", -1) == most:
            return found
        try:
            return await self._client.api(f"STREAM.UPDATE.{name}", {**there, "max_bytes": most})
        except RefusedError as exc:
            log.warning("the stream %s stays without its limit of %d bytes: %s", name, most, exc)
            return found

    async def _find(self, what: str, absent: int, request: dict[str, Any] | None = None) -> Any:
        """Send a request to JetStream; None if it answers with the error code ``absent``."""
        try:
            return await self._client.api(what, request)
        except RefusedError as exc:
            if exc.code != absent:
                raise
            return None

    async def last(self, topic: str, options: TopicOptions) -> Mark:
        stream, subject = self._stream(options), self._subject("s", topic, options)
        opened = await self._open_stream(options)  # it may have been replaced meanwhile
        found = await self._last(stream, subject)
        is_idle = options.idle and found and _time(found["time"]) < opened.now - options.idle
        if is_idle:
            await self._purge(stream, subject, found["seq"] + 1)
        order = () if is_idle or found is None else (found["seq"],)
        return Mark(opened.beginning.epoch, order)

    async def _forget_if_idle(self, topic: str, options: TopicOptions) -> None:
        """Look whether a topic is idle that this process has not published on lately, before it is
        not any more."""
        now = loop_time()
        if now - self._published.get(topic, -math.inf) > options.idle / IDLE_LOOKS:
            await self.last(topic, options)
        if len(self._published) > MOST_KNOWN:
            self._published.clear()
        self._published[topic] = now

    async def forget_idle(self, topics: Mapping[str, TopicOptions]) -> None:
        """JetStream has no such limit of its own. One process at a time looks after each stream."""
        for options in {_class(each): each for each in topics.values() if each.idle}.values():
            stream = self._stream(options)
            every = min(options.idle / IDLE_LOOKS, MAX_CLAIM)
            if not await self.claim(f"idle {stream}", every, Attempt(os.urandom(16).hex())):
                continue
            now = (await self._open_stream(options)).now
            everything = f"{self._prefix}.s.{_class(options)}.>"
            last = await self._headers(stream, everything, "last_per_subject")
            for place, message in last:
                if place.time / 1e9 < now - options.idle:
                    await self._purge(stream, message.subject, place.number + 1)

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        start = after.order[0] if after.order else 0
        entries, end = await self._part(topic, options, start, upto)
        complete = bool(entries) and entries[0][0] == after
        entries = entries[1:] if complete else entries
        while not entries and end != upto:  # the page had ``after`` itself, which is large
            entries, end = await self._part(topic, options, end.order[0] + 1, upto)
        return Stored(complete, entries, end)

    async def latest(
        self, topic: str, options: TopicOptions, upto: Mark, count: int
    ) -> Sequence[tuple[Mark, bytes]]:
        """None of JetStream's requests reads backwards: it is read from further and further before,
        until there are enough."""
        if (await self._open_stream(options)).beginning.epoch != upto.epoch:
            return []
        span = count
        while True:
            start = max(upto.order[0] - span + 1, 0)
            entries = await self._events(topic, options, start, upto)
            if len(entries) >= count or not start:
                return entries[-count:]
            span *= 8

    async def remove(self, topic: str, options: TopicOptions, before: Mark) -> None:
        await self._purge(
            self._stream(options), self._subject("s", topic, options), before.order[0]
        )

    async def _events(
        self, topic: str, options: TopicOptions, start: int, upto: Mark
    ) -> list[tuple[Mark, bytes]]:
        """The events of a topic from a sequence number on, not later than ``upto``."""
        entries: list[tuple[Mark, bytes]] = []
        while True:
            part, end = await self._part(topic, options, start, upto)
            entries += part
            if end == upto:
                return entries
            start = end.order[0] + 1

    async def _part(
        self, topic: str, options: TopicOptions, start: int, upto: Mark
    ) -> tuple[list[tuple[Mark, bytes]], Mark]:
        """The first events of a topic from a sequence number on, not later than ``upto``, and the
        place up to which they are all."""
        stream, subject, last = self._stream(options), self._subject("s", topic, options), 0
        page, pending = await self._page(stream, subject, start)
        if page:
            last = page[-1][0]
        if last < upto.order[0] and not pending:
            # The last one has expired; or a server of a cluster has answered that lags behind.
            late = await self._late(stream, subject, max(start, last + 1), upto.order[0])
            page += late
            pending = len(late) == LATE
        entries = [
            (Mark(upto.epoch, (number,)), data) for number, data in page if number <= upto.order[0]
        ]
        all_read = not pending or page[-1][0] >= upto.order[0]
        return entries, upto if all_read else Mark(upto.epoch, (page[-1][0],))

    async def _page(self, stream: str, subject: str, start: int) -> tuple[list[Numbered], int]:
        """Read some events from a sequence number on, by one request with many answers. Returns
        them, and how many follow."""
        page: list[Numbered] = []
        pending = 0

        def take(answer: Msg) -> bool:
            nonlocal pending
            headers = answer.headers or {}
            pending = int(headers.get("Nats-Num-Pending", 0))
            number = headers.get("Nats-Sequence")
            if number is None:  # the last answer; a stored message may have a status, too
                return bool(status(answer))
            page.append((int(number), answer.data))
            return False

        # Without its bytes, a page would end where the server likes it.
        request = {"seq": start, "next_by_subj": subject, "batch": PAGE, "max_bytes": PAGE_BYTES}
        await self._client.gather(f"$JS.API.DIRECT.GET.{stream}", to_json(request), take)
        return page, pending

    async def _late(self, stream: str, subject: str, start: int, upto: int) -> list[Numbered]:
        """Read events one by one from the leader of the stream, which has all; at most ``LATE``."""
        late: list[Numbered] = []
        while start <= upto and len(late) < LATE:
            found = await self._find(
                f"STREAM.MSG.GET.{stream}",
                RefusedError.NO_MESSAGE,
                {"seq": start, "next_by_subj": subject},
            )
            if found is None:
                break
            message = found["message"]
            late.append((message["seq"], base64.b64decode(message.get("data", ""))))
            start = message["seq"] + 1
        return late

    # -- claims

    async def claim(self, name: str, seconds: float, attempt: Attempt) -> bool:
        subject = f"{self._prefix}.o.{_token(name, '')}"
        headers = {
            "Nats-Expected-Last-Subject-Sequence": "0",  # there is no message yet
            "Nats-TTL": str(max(math.ceil(seconds), 1)),
        }
        if not self._claims:
            await self._open_claims()
        key = attempt.key.encode()
        answer = await self._store(subject, key, headers, self._open_claims)
        try:
            read_answer(answer)
        except RefusedError as exc:
            if exc.code not in RefusedError.NOT_FIRST:
                raise
        else:
            return True
        if not attempt.again:
            return False
        found = await self._last(self._claims, subject)
        return found is not None and base64.b64decode(found.get("data", "")) == key

    async def _open_claims(self) -> None:
        """Find or create the stream of claims."""
        name = f"{self._prefix}_once"
        await self._find_or_make(
            name,
            subjects=[f"{self._prefix}.o.*"],
            max_msgs_per_subject=1,
            max_age=MAX_CLAIM * 1_000_000_000,  # a server before NATS 2.11 does not know each one's
            allow_msg_ttl=True,
        )
        self._claims = name

    # -- declarations

    async def declare(self, topics: Mapping[str, TopicOptions]) -> None:
        if not topics:
            return
        name = f"{self._prefix}_declared"
        await self._find_or_make(name, subjects=[f"{self._prefix}.d.*"], max_msgs_per_subject=1)
        for template, options in topics.items():
            value = to_json(
                Declared(
                    template,
                    options.history,
                    options.max_age,
                    options.history_bytes,
                    options.event_id,
                    options.idle,
                )
            )
            read_answer(await self._client.ask(f"{self._prefix}.d.{_token(template, '')}", value))

    async def declared(self) -> Mapping[str, TopicOptions]:
        name, subject = f"{self._prefix}_declared", f"{self._prefix}.d.*"
        try:
            await self._client.api(f"STREAM.INFO.{name}")
        except NoAnswerError:
            raise
        except BrokerError:
            return {}  # without JetStream, or without topics with history
        found = {}
        page, pending = await self._page(name, subject, 0)
        while pending:
            more, pending = await self._page(name, subject, page[-1][0] + 1)
            page += more
        for _, data in page:
            try:
                each = msgspec.json.decode(data, type=Declared)
            except UNREADABLE as exc:
                self._listener.unreadable("the topics with history", exc)
            else:
                found[each.template] = each.options
        return found


def _time(text: str) -> float:
    """A time that JetStream tells, in seconds since 1970."""
    return datetime.datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()


def _class(options: TopicOptions) -> str:
    """The part of a subject that topics with the same history options share."""
    if not options.history:
        return NO_HISTORY
    bounds = [str(options.history), str(int(options.max_age * 1000))]
    if options.history_bytes != HISTORY_BYTES:
        bounds.append(str(options.history_bytes))
    if options.idle:
        bounds.append(f"idle{int(options.idle * 1000)}")
    return "_".join(bounds)


def _stream_bytes(options: TopicOptions) -> int:
    """How many bytes a stream may have, -1 for no limit. It is more than one message, for which
    JetStream makes room whatever it costs the others."""
    return max(SHARE * options.history_bytes, 2 * MAX_SIZE) if options.history_bytes else -1


def _token(name: str, between: str = ".") -> str:
    """A topic's name as a subject: no wildcard, no empty token, distinct for distinct names. A long
    name is there as its digest: a server closes the connection on which a line of more than 4,096
    bytes comes."""
    parts = name.split(".") if between else [name]
    token = ".".join(percent_encode(part) or "%" for part in parts)
    if len(token) <= MAX_TOKEN:
        return token
    return f"~{hashlib.sha256(name.encode()).hexdigest()}"
