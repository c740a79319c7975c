"""Brokers that a stage can play on: one server that can be made full, forbidding, or strict with
slow readers while it runs; three servers of NATS; a master with Sentinels."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.brokers.proxy import Proxy, proxy
from tests.brokers.servers import BrokerServer, SentinelServer
from tests.brokers.test_versions import emptied
from tests.processes import free_port

SLOW = 1024 * 1024
"""Bytes that may wait for a client before the server cuts it off, where it is strict."""


@dataclass(frozen=True)
class Login:
    """A user of the broker, and the password."""

    user: str
    password: str


@dataclass
class Rules:
    """What a server demands at the moment.

    Attributes:
        logins: who is let in.
        forbids: whether nobody may use topics whose room is "denied".
        full: whether it has no room.
        strict: whether a client that does not read is cut off early.
    """

    logins: list[Login] = field(default_factory=list)
    forbids: bool = False
    full: bool = False
    strict: bool = False


class OneServer(BrokerServer):
    """A durable server, whose rules can be changed while it runs.

    Attributes:
        rules: ``apply`` puts them into force; so does a start.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind, durable=True)  # type: ignore[arg-type]
        self.rules = Rules([self.new_login()])

    def new_login(self) -> Login:
        """A user with a new password; Valkey has several passwords for one user."""
        secret = secrets.token_hex(8)
        return Login(f"app{secret[:2]}" if self.kind == "nats" else "app", secret)

    def url_for(self, port: int, login: Login) -> str:
        """The URL for a process that reaches the server at this port."""
        scheme = "nats" if self.kind == "nats" else "redis"
        return f"{scheme}://{login.user}:{login.password}@127.0.0.1:{port}"

    def empty(self) -> None:
        """While it is killed: forget all that was stored."""
        shutil.rmtree(self._folder.name)
        Path(self._folder.name).mkdir()

    @property
    def said(self) -> str:
        return Path(f"{self._folder.name}.log").read_text()

    async def apply(self) -> None:
        """Have the rules as they are now. Returns when the server goes by them."""
        raise NotImplementedError

    async def cut_off(self) -> int:
        """How many clients it has cut off since they did not read."""
        raise NotImplementedError


class Valkey(OneServer):
    """A server of Valkey."""

    def __init__(self) -> None:
        super().__init__("valkey")

    @property
    def command(self) -> list[str]:
        rules = self.rules
        words = [*super().command, "--user", "app", *self._user()]
        words += ["--client-output-buffer-limit", "pubsub", *self._limits()]
        return [*words, "--maxmemory", str(int(rules.full))]

    def _user(self) -> list[str]:
        may = ["~*", "&*"]
        if self.rules.forbids:
            may = ["&wsflow:c:*", "&wsflow:t:", "&wsflow:t:*.[^d]*"]
            may += ["~wsflow:declared", "~wsflow:?:{*.[^d]*"]
        return ["on", *(f">{each.password}" for each in self.rules.logins), "+@all", *may]

    def _limits(self) -> list[str]:
        return [str(SLOW), "0", "0"] if self.rules.strict else ["32mb", "8mb", "60"]

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        client = Redis.from_url(self.url)
        yield client
        await client.aclose()

    async def apply(self) -> None:
        async with self._client() as client:
            reset = ("resetpass", "resetkeys", "resetchannels")
            await client.execute_command("ACL", "SETUSER", "app", *reset, *self._user())
            await client.config_set("maxmemory", str(int(self.rules.full)))
            limits = " ".join(["pubsub", *self._limits()])
            await client.config_set("client-output-buffer-limit", limits)

    async def cut_off(self) -> int:
        async with self._client() as client:
            return int((await client.info("stats"))["client_output_buffer_limit_disconnections"])


class Nats(OneServer):
    """A server of NATS, with JetStream."""

    def __init__(self) -> None:
        super().__init__("nats")
        self._config = Path(f"{self._folder.name}.conf")

    @property
    def url(self) -> str:
        return f"nats://admin:admin@127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        self._write()
        return [super().command[0], "-c", str(self._config)]

    def _write(self) -> None:
        rules = self.rules
        users: list[dict[str, Any]] = [{"user": "admin", "password": "admin"}]
        for each in rules.logins:
            users.append({"user": each.user, "password": each.password})
            if rules.forbids:
                deny = {"deny": ["wsflow.l.*.*.denied", "wsflow.s.*.*.denied"]}
                users[-1]["permissions"] = {"publish": deny, "subscribe": deny}
        room = {"max_file": 1, "max_memory": -1} if rules.full else "enabled"
        config = {
            "host": "127.0.0.1",
            "port": self.port,
            "jetstream": {"store_dir": self._folder.name},
            "max_pending": SLOW,  # it cannot be changed while the server runs
            "accounts": {"app": {"jetstream": room, "users": users}},
        }
        self._config.write_text(json.dumps(config))

    async def apply(self) -> None:
        self._write()
        before = self.said.count("Reloaded server configuration")
        self.signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while self.said.count("Reloaded server configuration") == before:
                await asyncio.sleep(0.01)

    async def cut_off(self) -> int:
        return self.said.count("Slow Consumer Detected")

    def stop(self) -> None:
        super().stop()
        self._config.unlink(missing_ok=True)


ONE: dict[str, Callable[[], OneServer]] = {"valkey": Valkey, "nats": Nats}


class Site:
    """What a stage's processes publish at.

    Attributes:
        kind: of which engine.
        url: for who publishes from outside.
        urls: for each of the processes.
        proxies: those between each of the processes and the broker, if there are any.
        secrets: what no log may show.
    """

    def __init__(self, kind: str, url: str, urls: list[str]) -> None:
        self.kind = kind
        self.url = url
        self.urls = urls
        self.proxies: list[Proxy] = []
        self.secrets: set[str] = set()


class OneSite(Site):
    """One server, and a proxy for each process.

    Attributes:
        server: the server.
    """

    def __init__(self, server: OneServer, proxies: list[Proxy]) -> None:
        super().__init__(server.kind, server.url, [])
        self.server = server
        self.proxies = proxies
        self.log_in()

    def log_in(self) -> None:
        """From now on, processes are started with the latest login."""
        login = self.server.rules.logins[-1]
        self.secrets.add(login.password)
        self.urls = [self.server.url_for(each.port, login) for each in self.proxies]

    async def flush(self) -> None:
        """Lose all that is stored, while it runs."""
        await emptied(self.server)


class ThreeSite(Site):
    """A cluster of three servers of NATS. Each history is on all of them."""

    def __init__(self, servers: list[BrokerServer]) -> None:
        url = ",".join(each.url for each in servers) + "?replicas=3"
        super().__init__("nats", url, [url, url])
        self.servers = servers

    async def leader(self) -> int:
        """Which server leads the stream of the histories."""
        found: list[int] = []

        async def led() -> bool:
            names = await self._infos()
            leaders = {each["cluster"].get("leader") for each in names}
            found[:] = [int(each[1:]) for each in leaders if each]
            return bool(found)

        await until(led)
        return found[0]

    async def in_sync(self) -> None:
        """Wait until each server has all that is stored."""

        async def synced() -> bool:
            streams = await self._infos()
            return bool(streams) and all(
                each["cluster"].get("leader")
                and len(each["cluster"].get("replicas") or ()) == 2
                and all(
                    replica["current"] and not replica.get("offline")
                    for replica in each["cluster"]["replicas"]
                )
                for each in streams
            )

        await until(synced)

    async def _infos(self) -> list[Any]:
        async def silent(exc: Exception) -> None: ...

        options: Any = {"allow_reconnect": False, "connect_timeout": 1, "error_cb": silent}
        urls = [each.url for each in self.servers if each.runs]
        client = await nats.connect(urls, **options)
        try:
            answer = await client.request("$JS.API.STREAM.LIST", b"", timeout=2)
            return list(json.loads(answer.data).get("streams") or ())
        finally:
            await client.close()


class SentinelSite(Site):
    """A master, its replica, and three Sentinels."""

    def __init__(
        self, master: BrokerServer, replica: BrokerServer, sentinels: list[SentinelServer]
    ) -> None:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        url = f"redis+sentinel://{hosts}/app"
        super().__init__("valkey", url, [url, url])
        self.master = master
        self.replica = replica

    @staticmethod
    async def role(server: BrokerServer) -> dict[str, Any]:
        client = Redis.from_url(server.url)
        try:
            return dict(await client.info("replication"))
        finally:
            await client.aclose()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until it returns True, of servers that may be about to begin anew."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(RedisError, NatsError, OSError, TimeoutError):
                if await condition():
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def one(kind: str) -> AsyncIterator[OneSite]:
    server = ONE[kind]()
    try:
        server.start()
        async with proxy(server.port) as first, proxy(server.port) as second:
            yield OneSite(server, [first, second])
    finally:
        server.stop()


@asynccontextmanager
async def three(kind: str) -> AsyncIterator[ThreeSite]:
    routes = [free_port() for _ in range(3)]
    all_routes = ",".join(f"nats://127.0.0.1:{each}" for each in routes)
    servers = []
    for number, route in enumerate(routes):
        more = ["-n", f"n{number}", "--cluster_name", "faults", "--routes", all_routes]
        more += ["--cluster", f"nats://127.0.0.1:{route}"]
        servers.append(BrokerServer("nats", durable=True, more=more))
    try:
        for each in servers:
            each.start()
        site = ThreeSite(servers)

        async def ready() -> bool:
            await site._infos()
            return True

        await until(ready)
        yield site
    finally:
        for each in servers:
            each.stop()


@asynccontextmanager
async def sentinel(kind: str) -> AsyncIterator[SentinelSite]:
    quick = ("--repl-diskless-sync-delay", "0")
    master = BrokerServer("valkey", durable=True, more=quick)
    master.start()
    follows = (*quick, "--replicaof", "127.0.0.1", str(master.port))
    replica = BrokerServer("valkey", durable=True, more=follows)
    servers = [master, replica]
    try:
        replica.start()

        async def synced() -> bool:
            return bool((await SentinelSite.role(replica))["master_link_status"] == "up")

        await until(synced)
        sentinels = [SentinelServer(master.port, 2) for _ in range(3)]
        servers += sentinels
        for each in sentinels:
            each.start()
        for each in sentinels:
            await until(lambda each=each: _knows_all(each))
        yield SentinelSite(master, replica, sentinels)
    finally:
        for each in servers:
            each.stop()


async def _knows_all(server: BrokerServer) -> bool:
    """Whether a Sentinel knows the others and the replica."""
    client = Redis.from_url(server.url)
    try:
        words = await client.execute_command("SENTINEL", "MASTER", "app")
    finally:
        await client.aclose()
    said = words if isinstance(words, dict) else dict(zip(words[::2], words[1::2], strict=True))
    named = {_text(name): _text(value) for name, value in said.items()}
    return (named["num-other-sentinels"], named["num-slaves"]) == ("2", "1")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


SITES: dict[str, Callable[[str], Any]] = {"one": one, "three": three, "sentinel": sentinel}
