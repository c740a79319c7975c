"""Redis and Valkey: topics over PUBLISH, history in a stream per topic.

An event of a topic with history is published by a Lua script that adds it to the stream and
publishes it atomically, so that both have the same order. Each stream has a hash with its epoch and
its last id: an id in the hash that is not in the stream shows that events were lost.

There are two connections of redis-py, each driven by tasks: one for commands, which are pipelined
and answered in order, and one for subscriptions.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import re
import ssl
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, final
from urllib.parse import unquote

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from wsflow.brokers import urls
from wsflow.brokers.base import Mark
from wsflow.brokers.engine import (
    PAGE,
    PAGE_BYTES,
    Attempt,
    ConnectionLostError,
    EngineListener,
    Failure,
    NoRoomError,
    Stamp,
    Stored,
    settle,
)
from wsflow.brokers.sentinel import PORT, Fixed, Master, Sentinels, pairs, without_words
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.messages.events import CARRIES, HISTORY_BYTES, Carries, TopicOptions, UnreadableError
from wsflow.tasks.detached import start_task

log = Log("wsflow.broker")

QUIET = 7 * 24 * 3600
"""Seconds after its last event for which it is known, once its history is too old: nothing was
missed by who has it."""

LATE = 600
"""Seconds for which what was sent again is known: the first attempt may come that late."""

# An entry has the key of its message, the message, and how many bytes the topic has had with it: so
# those of the oldest entry tell the bytes of all entries, whoever else removes or adds some.
_PUBLISH = """
local stream, meta, sent = KEYS[1], KEYS[2], KEYS[3]
local channel, data, key, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local keep, max_age, age = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local room, lifetime = tonumber(ARGV[8]), tonumber(ARGV[9])
local known = redis.call('HMGET', meta, 'epoch', 'last', 'bytes')
if not (known[1] and string.match(known[1], '^[0-9a-f]+$') and #known[1] <= 32
    and known[2] and string.match(known[2], '^%d+%-%d+$')) then
  known = {}
end
if not known[1] and redis.call('TYPE', stream).ok == 'stream' then
  redis.call('DEL', stream) -- nobody knows what is missing in it
end
local bytes = tonumber(known[3] or '') or 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local twice = redis.call('GET', sent)
if twice then return {string.match(twice, '^(%S+) (%S+)$')} end
if age >= 0 and known[1] then
  local entries = redis.call('XREVRANGE', stream, '+', '-')
  for _, entry in ipairs(entries) do
    if entry[2][2] == key then return {known[1], entry[1]} end
  end
  local cleared = redis.call('HGET', meta, 'cleared')
  if cleared and tonumber(string.match(cleared, '^%d+')) > now - age - 1000 then
    return redis.error_reply('WSFLOW UNKNOWN')
  end
  if #entries >= keep or (room > 0 and bytes > room) then
    local oldest = now
    if #entries > 0 then oldest = tonumber(string.match(entries[#entries][1], '^%d+')) end
    if oldest > now - age - 1000 then return redis.error_reply('WSFLOW UNKNOWN') end
  end
end
local function add()
  bytes = bytes + #data
  return redis.pcall('XADD', stream, 'MAXLEN', keep, '*', 'k', key, 'd', data,
    'b', string.format('%.0f', bytes))
end
local id = add()
if type(id) == 'table' and string.find(id.err, 'last possible ID', 1, true) then
  redis.call('DEL', stream, meta)
  known, bytes = {}, 0
  id = add()
end
if type(id) == 'table' then return id end
local previous = known[2] or ''
epoch = known[1] or epoch
redis.call('HSET', meta, 'epoch', epoch, 'last', id, 'bytes', string.format('%.0f', bytes))
while room > 0 and bytes > room do
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not oldest then break end
  local before = (tonumber(oldest[2][6] or '') or 0) - #(oldest[2][4] or '')
  if before <= bytes and bytes - before <= room then break end
  redis.call('XDEL', stream, oldest[1])
end
if max_age > 0 then redis.call('XTRIM', stream, 'MINID', now - max_age) end
if lifetime > 0 then
  redis.call('PEXPIRE', stream, lifetime)
  redis.call('PEXPIRE', meta, lifetime + tonumber(ARGV[10]))
else
  redis.call('PERSIST', stream) -- it may have been declared with other options
  redis.call('PERSIST', meta)
end
if age >= 0 then -- the first attempt may still come, over a connection that was given up
  redis.call('SET', sent, epoch .. ' ' .. id, 'EX', ARGV[11])
end
redis.call('PUBLISH', channel, epoch .. ' ' .. id .. ' ' .. previous .. '\\n' .. data)
return {epoch, id}
"""

_READ = """
local stream, max_age = KEYS[1], tonumber(ARGV[4])
if max_age > 0 then
  local time = redis.call('TIME')
  redis.call('XTRIM', stream, 'MINID', time[1] * 1000 + math.floor(time[2] / 1000) - max_age)
end
local there = #redis.call('XRANGE', stream, ARGV[1], ARGV[1])
local most, room = tonumber(ARGV[3]), tonumber(ARGV[5])
local entries, start, over = {}, ARGV[1], 0
repeat
  local page = redis.call('XRANGE', stream, '(' .. start, ARGV[2], 'COUNT', 8)
  if #page < 8 then over = 1 end
  for _, entry in ipairs(page) do
    entries[#entries + 1], start = entry, entry[1]
    room = room - #(entry[2][4] or '')
  end
until over == 1 or #entries >= most or room <= 0
return {there, over, entries}
"""

_LATEST = """
local stream, meta, max_age = KEYS[1], KEYS[2], tonumber(ARGV[4])
if redis.call('HGET', meta, 'epoch') ~= ARGV[1] then return {} end
if max_age > 0 then
  local time = redis.call('TIME')
  redis.call('XTRIM', stream, 'MINID', time[1] * 1000 + math.floor(time[2] / 1000) - max_age)
end
return redis.call('XREVRANGE', stream, ARGV[2], '-', 'COUNT', ARGV[3])
"""

_CLAIM = """
local key, claim, time = KEYS[1], ARGV[1], ARGV[2]
if redis.call('SET', key, claim, 'NX', 'PX', time) then return 1 end
if redis.call('GET', key) == claim then return 1 end
return 0
"""


KINDS: urls.Kinds = {
    "prefix": urls.text,
    "db": urls.whole,
    "client_name": urls.text,
    "protocol": urls.one_of({"2": 2, "3": 3}),
    "socket_connect_timeout": urls.seconds,
    "socket_keepalive": urls.switch,
}
"""The options that a URL may have, but for those of TLS: ``prefix``, and those of redis-py that
change nothing in how the connections are used."""

SENTINEL_KINDS: urls.Kinds = {"sentinel_username": urls.text, "sentinel_password": urls.text}

_BEFORE = "it stands before the host, as in redis://user:password@host"
_PINGS = "wsflow pings the server every second, and gives up a connection that is silent for three"
_READS = "wsflow reads what comes in its own way"
REFUSED = {
    "username": _BEFORE,
    "password": _BEFORE,
    "host": "it stands behind ://",
    "port": "it stands behind the host, as in redis://host:6379",
    "ssl": "use rediss://",
    "ssl_ca_data": "use ssl_ca_certs, which names a file",
    "socket_timeout": _PINGS,
    "health_check_interval": _PINGS,
    "timeout": f"{_PINGS}; --publish-timeout is how long publishing waits",
    "max_connections": "a process has two connections",
    "retry_on_timeout": "wsflow reconnects by itself",
    "decode_responses": _READS,
    "encoding": _READS,
    "encoding_errors": _READS,
    "legacy_responses": _READS,
    "socket_read_size": _READS,
}
"""Options of redis-py that a URL has not, and why."""


@final
class RedisEngine:
    """Connects to Redis.

    Args:
        url: ``redis://`` or ``rediss://``, then user, password, host, port and the number of the
            database; or ``redis+sentinel://`` or ``rediss+sentinel://``, then the user and the
            password for the master, the Sentinels between commas, and the name of the master.
            ``?prefix=`` is what all keys and channels begin with, ``wsflow`` by default; ``KINDS``
            has the other options.

    Raises:
        ValueError: the URL is none of these. The message has none of its values.
    """

    def __init__(self, url: str) -> None:
        scheme, plus, sentinel = url.partition("://")[0].lower().partition("+")
        kinds: urls.Kinds = {**KINDS, **urls.TLS_OPTIONS}
        refused = REFUSED
        if scheme == "redis":
            kinds, refused = KINDS, {**REFUSED, **urls.no_tls(f"rediss{plus}{sentinel}")}
        read = urls.read_url(url, {**kinds, **SENTINEL_KINDS} if sentinel else kinds, refused)
        self._options = read.options
        self._tls = scheme == "rediss"
        self._read_files()
        options = {name: each for name, each in read.options.items() if name in KINDS}
        self.prefix: str = options.pop("prefix", urls.PREFIX)
        self.address = str(read)
        self._servers = read.servers
        self._service = ""
        path = read.path
        if sentinel:
            found = re.fullmatch(r"/([^/]+)(/.*)?", path)
            if found is None:
                raise ValueError(
                    "it does not name the master: redis+sentinel://host1,host2/name-of-the-master"
                )
            self._service, path = unquote(found[1]), found[2] or ""
        elif len(read.servers) > 1:
            raise ValueError("it names several servers: those of Sentinel need redis+sentinel://")
        if not re.fullmatch(r"(/[0-9]{0,9})?", path):
            raise ValueError(
                "its path is the number of a database: "
                + ("redis+sentinel://host/name-of-the-master/0" if sentinel else "redis://host/0")
            )
        if path.strip("/"):
            if "db" in options:
                raise ValueError("it has two numbers of a database: in its path, and as db")
            options["db"] = int(path.strip("/"))
        self._db: int = options.get("db", 0)
        first = read.servers[0]
        always = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "socket_timeout": None}
        user = {"username": first.user or None, "password": first.password or None}
        asked = {name: read.options.get(f"sentinel_{name}") for name in user}
        self._server = {**always, **options, **user}
        self._sentinel = {**always, **options, **asked, "db": 0}

    def _read_files(self) -> ssl.SSLContext | None:
        """What TLS is spoken with, as the files are now.

        Raises:
            ValueError: one of them cannot be used.
        """
        return urls.tls_context(self._options) if self._tls else None

    def _master(self, tls: ssl.SSLContext | None) -> Master:
        places = [(each.host, each.port) for each in self._servers]
        if not self._service:
            return Fixed(places[0][0], places[0][1] or 6379)
        asked = [
            _make(tls, host=host, port=port or PORT, **self._sentinel) for host, port in places
        ]
        return Sentinels(asked, self._service)

    async def connect(self, listener: EngineListener, process: str) -> RedisConnection:
        try:
            tls = self._read_files()
        except ValueError as exc:  # they have changed
            raise ConnectionLostError(str(exc)) from None
        master = self._master(tls)
        try:
            host, port = await master.place()
        except BaseException:
            await master.close()
            raise
        commands, events = (_make(tls, host=host, port=port, **self._server) for _ in range(2))
        connection = RedisConnection(
            commands, events, master, listener, self.prefix, self._db, process
        )
        try:
            await commands.connect()
            await events.connect()
            await connection.begin()
        except (AuthenticationError, AuthorizationError) as exc:
            await connection.close()
            why = without_words(str(exc))
            raise BrokerError(f"it refuses the user or the password: {why}") from None
        except ResponseError as exc:
            await connection.close()
            raise _refusal(exc) from None
        except (RedisError, OSError) as exc:
            await connection.close()
            raise ConnectionLostError(str(exc)) from None
        except BaseException:
            await connection.close()
            raise
        return connection


def _make(tls: ssl.SSLContext | None, **options: Any) -> Any:
    """A connection of redis-py, with a context for TLS that does not depend on what its version
    knows."""
    if tls is None:
        return Connection(**options)
    connection = SSLConnection(**options)
    connection.ssl_context.context = tls
    return connection


class _Pipe:
    """One connection: outgoing commands, and the futures of their answers, in order.

    Args:
        connection: the connection.
        pushed: whether it is read for messages: RESP3 does not count them as answers.
    """

    def __init__(self, connection: Connection, pushed: bool = False) -> None:
        self.connection = connection
        self.pushed = pushed
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self._outgoing: list[bytes] = []
        self._more = asyncio.Event()

    def send(self, *words: Any) -> None:
        """Send a command, in order."""
        self._outgoing += self.connection.pack_command(*words)
        self._more.set()

    def call(self, *words: Any) -> asyncio.Future[Any]:
        """Send a command. Returns the future of its answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        self.send(*words)
        return answer

    async def write(self) -> None:
        """Write what was sent, as long as the connection lasts."""
        while True:
            await self._more.wait()
            self._more.clear()
            outgoing, self._outgoing = self._outgoing, []
            await self.connection.send_packed_command(b"".join(outgoing), check_health=False)

    async def read(self) -> Any:
        """Read the next answer or message; an error of the server is returned as an exception."""
        try:
            return await self.connection.read_response(push_request=self.pushed)
        except ResponseError as exc:
            return exc

    def answer(self, value: Any) -> None:
        """Set the result of the oldest pending command."""
        settle(self.waiting.popleft(), value)

    def fail(self, exc: Exception) -> None:
        """Fail all pending commands: no more answers will come."""
        for waiting in self.waiting:
            settle(waiting, exc)
        self.waiting.clear()


@final
class RedisConnection:
    """Topics on two connections to Redis."""

    def __init__(
        self,
        commands: Connection,
        events: Connection,
        master: Master,
        listener: EngineListener,
        prefix: str,
        db: int,
        process: str,
    ) -> None:
        self._commands = _Pipe(commands)
        self._events = _Pipe(events, pushed=True)
        self._master = master
        self._listener = listener
        self._prefix = prefix
        # Channels are those of all databases: but for the first, they have its number.
        self._channels = f"{prefix}:db{db}" if db else prefix
        self._topics = f"{self._channels}:t:".encode()
        self._process = process
        self._tells_role = True
        self._failure = Failure()
        self.heard = 0
        self.lost = self._failure.wait
        self._tasks: list[asyncio.Task[None]] = []

    # -- lifecycle

    async def begin(self) -> None:
        """Start the tasks, and wait until the server answers."""
        jobs = (
            self._commands.write(),
            self._events.write(),
            self._answers(),
            self._messages(),
            self._master.replaced(),
        )
        self._tasks = [start_task(self._run(job), name="wsflow redis") for job in jobs]
        self._events.send("SUBSCRIBE", self._control(""), self._control(self._process))
        await self.ping()

    async def _run(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except (RedisError, OSError, EOFError) as exc:
            self._fail(ConnectionLostError(str(exc)))
        except Exception as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        lost = self._failure.set(exc)
        self._commands.fail(lost)
        self._events.fail(lost)

    async def close(self) -> None:
        self._fail(ConnectionLostError("closed"))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pipe in (self._commands, self._events):
            await pipe.connection.disconnect(nowait=True)
        await self._master.close()

    async def ping(self) -> None:
        await asyncio.gather(self._see_role(), self._events.call("PING"))

    async def _see_role(self) -> None:
        """See that the server is a master still: a replica hears nothing of what is published at
        others, and does not say so.

        Raises:
            ConnectionLostError: it is a replica.
            BrokerError: it is a server that wsflow cannot use.
        """
        if not self._tells_role:
            await self._commands.call("PING")
            return
        try:
            said = pairs(await self._commands.call("HELLO"))
        except ResponseError:  # the user may not, or what is between knows no HELLO
            self._tells_role = False
            return
        if said.get(b"mode") == b"cluster":
            raise BrokerError(
                "it is a node of a Redis Cluster, which wsflow does not support: use one Redis "
                "server, with Sentinel for failover (redis+sentinel://), or NATS"
            )
        if said.get(b"mode") == b"sentinel":
            raise BrokerError(
                "it is a Sentinel: name it as in redis+sentinel://host:26379/name-of-the-master"
            )
        if said.get(b"role") == b"replica":
            raise ConnectionLostError(
                "it is a replica: name the master, or the Sentinels (redis+sentinel://)"
            )

    async def _answers(self) -> None:
        while True:
            self._commands.answer(await self._commands.read())
            self.heard += 1

    async def _messages(self) -> None:
        refused: BrokerError | None = None
        while True:
            came = await self._events.read()
            self.heard += 1
            if isinstance(came, ResponseError):  # of SUBSCRIBE: no other command can fail here
                refused = BrokerError(f"it refuses: {came}")
            elif came[0] == b"message":
                self._message(came[1], came[2])
            elif (
                came == b"PONG" or came[0] == b"pong"
            ):  # RESP3, RESP2; to the PING that follows on it
                self._events.answer(refused)
                refused = None

    def _message(self, channel: bytes, data: bytes) -> None:
        if not channel.startswith(self._topics):
            self._listener.told(data)
            return
        topic = channel[len(self._topics) :].decode()
        head, _, body = data.partition(b"\n")
        try:
            stamp = _stamp(head)
        except UnreadableError as exc:
            self._listener.unreadable(f"topic {topic!r}", exc)
        else:
            self._listener.arrived(topic, stamp, body)

    # -- topics

    def _control(self, process: str) -> str:
        return f"{self._channels}:c:{process}"

    def _channel(self, topic: str) -> str:
        return f"{self._channels}:t:{topic}"

    def _keys(self, topic: str) -> tuple[str, str]:
        """The keys of a topic's stream and of its hash; both in one slot of a cluster."""
        return f"{self._prefix}:h:{{{topic}}}", f"{self._prefix}:m:{{{topic}}}"

    async def subscribe(self, topics: Mapping[str, TopicOptions]) -> None:
        self._events.send("SUBSCRIBE", *map(self._channel, topics))
        await self._events.call("PING")  # answered after all that was sent before it

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._events.send("UNSUBSCRIBE", *map(self._channel, topics))

    def tell(self, process: str, data: bytes) -> None:
        self._commands.call("PUBLISH", self._control(process), data)

    async def publish(
        self, topic: str, data: bytes, options: TopicOptions, attempt: Attempt
    ) -> str:
        if not options.history:
            await self._call("PUBLISH", self._channel(topic), b"\n" + data)
            return ""
        epoch, id = await self._run_script(
            _PUBLISH,
            (*self._keys(topic), f"{self._prefix}:s:{{{topic}}}:{attempt.key}"),
            self._channel(topic),
            data,
            attempt.key,
            os.urandom(4).hex(),
            options.history + 1,  # one more, to prove that no event is missing before the oldest
            int(options.max_age * 1000),
            int(attempt.age * 1000) if attempt.again else -1,
            options.history_bytes,
            int(options.lifetime * 1000),
            QUIET * 1000,
            LATE,
        )
        return str(_mark(epoch, id))

    async def last(self, topic: str, options: TopicOptions) -> Mark:
        epoch, id = await self._call("HMGET", self._keys(topic)[1], "epoch", "last")
        if epoch is None and id is None:
            return Mark()
        try:
            return _mark(epoch or b"", id or b"")
        except UnreadableError as exc:  # the next who publishes begins a new history
            self._listener.unreadable(f"the history of topic {topic!r}", exc)
            return Mark()

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        there, over, page = await self._run_script(
            _READ,
            self._keys(topic)[:1],
            _id(after),
            _id(upto),
            PAGE,
            int(options.max_age * 1000),
            PAGE_BYTES,
        )
        end = upto if over else _mark(upto.epoch.encode(), page[-1][0])
        return Stored(bool(there), list(self._entries(topic, upto.epoch, page)), end)

    async def latest(
        self, topic: str, options: TopicOptions, upto: Mark, count: int
    ) -> Sequence[tuple[Mark, bytes]]:
        end, entries = _id(upto), list[tuple[Mark, bytes]]()
        while True:
            most = min(PAGE, count - len(entries))
            page = await self._run_script(
                _LATEST, self._keys(topic), upto.epoch, end, most, int(options.max_age * 1000)
            )
            entries += self._entries(topic, upto.epoch, page)
            if len(page) < most or len(entries) >= count:
                return entries[::-1]
            end = f"({page[-1][0].decode()}"

    async def remove(self, topic: str, options: TopicOptions, before: Mark) -> None:
        stream, meta = self._keys(topic)
        await self._call("HSET", meta, "cleared", _id(before))
        await self._call("XTRIM", stream, "MINID", _id(before))

    def _entries(self, topic: str, epoch: str, page: Any) -> Iterator[tuple[Mark, bytes]]:
        """The events of a part of a topic's stream."""
        for id, fields in page:
            try:
                yield _mark(epoch.encode(), id), _data(fields)
            except UnreadableError as exc:
                self._listener.unreadable(f"the history of topic {topic!r}", exc)

    async def claim(self, name: str, seconds: float, attempt: Attempt) -> bool:
        keys = (f"{self._prefix}:o:{name}",)
        first = await self._run_script(_CLAIM, keys, attempt.key, max(int(seconds * 1000), 1))
        return bool(first)

    async def declare(self, topics: Mapping[str, TopicOptions]) -> None:
        for template, options in topics.items():
            value = f"{options.history} {options.max_age!r} {options.history_bytes}"
            value += f" {options.event_id or '-'} {options.idle!r}"
            try:
                await self._call("HSET", f"{self._prefix}:declared", template, value)
            except AlienKeyError as exc:
                log.often(logging.ERROR, "publishers find no topic with history: %s", exc)

    async def declared(self) -> Mapping[str, TopicOptions]:
        found = pairs(await self._call("HGETALL", f"{self._prefix}:declared"))
        declared = {}
        for template, value in found.items():
            try:
                declared[template.decode()] = _options(value.decode())
            except ValueError:
                self._listener.unreadable("the topics with history", "it is not a declaration")
        return declared

    async def forget_idle(self, topics: Mapping[str, TopicOptions]) -> None:
        """Does nothing: keys expire."""

    # -- commands

    async def _call(self, *words: Any) -> Any:
        try:
            return await self._commands.call(*words)
        except ResponseError as exc:
            raise _refusal(exc) from None

    async def _run_script(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        words = (len(keys), *keys, *arguments)
        try:
            return await self._commands.call("EVALSHA", _digest(script), *words)
        except NoScriptError:
            return await self._call("EVAL", script, *words)
        except ResponseError as exc:
            raise _refusal(exc) from None


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class AlienKeyError(BrokerError):
    """A key with the name of one of wsflow's is something else."""


def _refusal(exc: ResponseError) -> Exception:
    """The exception for an error that the server answers with."""
    if "WSFLOW UNKNOWN" in str(exc):
        return BrokerError(
            "the connection to the broker was lost while publishing, and the topic's history is "
            "too short to tell whether the message arrived"
        )
    if "WRONGTYPE" in str(exc):
        return AlienKeyError(
            "a key at the broker that has the name of one of wsflow's is not of its type: delete "
            "it, or set another ?prefix="
        )
    if isinstance(exc, ReadOnlyError | MasterDownError):
        return ConnectionLostError(str(exc))  # a failover: reconnect
    if isinstance(exc, OutOfMemoryError) or str(exc).startswith(("OOM", "MISCONF", "NOREPLICAS")):
        return NoRoomError(f"the broker refuses: {exc}")
    return BrokerError(f"the broker refuses: {without_words(str(exc))}")


_EPOCH = re.compile(rb"[0-9a-f]{1,32}")
_ID = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")


def _mark(epoch: bytes, id: bytes) -> Mark:
    """The mark of an epoch and an id in a stream.

    Raises:
        UnreadableError: these are not what wsflow has stored.
    """
    found = _ID.fullmatch(id)
    if found is None or _EPOCH.fullmatch(epoch) is None:
        raise UnreadableError("it has no place in a history")
    return Mark(epoch.decode(), (int(found[1]), int(found[2])))


def _id(mark: Mark) -> str:
    """A mark's id in the stream; 0-0 for the mark before the first event."""
    return "-".join(map(str, mark.order)) or "0-0"


def _stamp(head: bytes) -> Stamp | None:
    """Parse the header of a message: epoch, id and the id before it; empty without history.

    Raises:
        UnreadableError: the header is malformed.
    """
    if not head:
        return None
    words = head.split(b" ")
    if len(words) != 3:
        raise UnreadableError("its header is not one of wsflow's")
    epoch, id, previous = words
    return Stamp(_mark(epoch, id), _mark(epoch, previous).order if previous else ())


def _data(fields: Sequence[bytes] | None) -> bytes:
    """The message of an entry in a stream.

    Raises:
        UnreadableError: its fields are not those of wsflow's entries.
    """
    if not fields or len(fields) < 4 or fields[0] != b"k" or fields[2] != b"d":
        raise UnreadableError("it is an entry with other fields")
    return fields[3]


def _options(value: str) -> TopicOptions:
    """The options that a topic was declared with.

    Raises:
        ValueError: it is not a declaration.
    """
    words = value.split()
    defaults = ["", "", str(HISTORY_BYTES), "-", "0"]
    history, max_age, history_bytes, carried, idle = [*words, *defaults[len(words) :]][:5]
    carries: dict[str, Carries] = {each: each for each in CARRIES}
    return TopicOptions(
        int(history),
        float(max_age),
        int(history_bytes),
        event_id=carries.get(carried, ""),
        idle=float(idle),
    )
