"""The public API as users write it: checked by mypy, and run once as a test."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal, assert_type

import msgspec
import pydantic

import wsflow
from wsflow import (
    Call,
    Close,
    Codec,
    Connection,
    Cookie,
    Credential,
    End,
    Forbidden,
    Header,
    Message,
    Opening,
    Query,
    Reconnect,
    Registry,
    Reject,
    Request,
    Requires,
    Router,
    Stream,
    Topic,
    TopicName,
)
from wsflow.auth import Bearer, SessionCookie, Ticket
from wsflow.testing import (
    FakeBroker,
    FakeClock,
    FakeConnection,
    FakeRegistry,
    FakeTopic,
    Link,
    Linked,
    MemoryPeer,
    connect,
    serve_in_memory,
)


class Say(msgspec.Struct, tag="say"):
    text: str


class Said(msgspec.Struct, tag="said"):
    text: str


class Length(Call[int], tag="length"):
    text: str


class Letters(Stream[str], tag="letters"):
    text: str


class Database:
    pass


Room = Annotated[Topic[Said], TopicName("typed.{room}", history=10, when_full="drop_oldest")]


class Plain:
    name = "plain"
    text = True

    def encode(self, value: object) -> bytes:
        return msgspec.json.encode(value)

    def decode(self, data: bytes) -> object:
        return msgspec.json.decode(data)


class Typed(pydantic.BaseModel):
    type: Literal["typed"] = "typed"
    text: str


def decode(kind: Any, value: Any) -> Any:
    raise NotImplementedError


def encode(value: Any) -> Any:
    raise NotImplementedError


codec: Codec = Plain()
app = Router("/typed/{room}", codec=codec, dec_hook=decode, enc_hook=encode)


@app.lifespan
async def database(registry: Registry) -> AsyncIterator[Database]:
    yield Database()


@app.on_connect()
async def enter(
    room: Room,
    request: Request,
    token: Annotated[str, Header("X-Token")] = "",
    session: Annotated[str | None, Cookie()] = None,
) -> None:
    joined = await room.join(presence=token, after=None)
    assert_type(joined.recovered, bool)
    if request.path == "/never":
        raise Reject(403, headers={"X-Why": "never"})


@app.on_message
async def around(message: Annotated[object, Message()]) -> AsyncIterator[None]:
    yield


@app.consumer
async def say(message: Say, room: Room, database: Database) -> Said:
    assert_type(await room.publish(Said(message.text)), str)
    return Said(message.text)


@app.consumer(concurrency=4, key=None)
async def raw(message: bytes, connection: Connection) -> None:
    await connection.send(message)
    assert_type(connection.user, str | None)


@app.on_connect
async def who(connection: Connection, registry: Registry) -> None:
    connection.identify("ada")
    assert_type(registry.of_user("ada"), list[Connection])


async def users(connection: Connection, registry: Registry) -> None:
    ada = registry.user("ada")
    assert_type(ada, wsflow.RegistryUser)
    await ada.send(Said("hi"), exclude=[connection])
    await ada.disconnect(4401, "logged out", exclude=connection)
    assert_type(await ada.connections(), list[wsflow.UserConnection])
    await registry.disconnect(connection.id, 4000, "enough")
    assert_type(await registry.topic("room").count(), int)


limited = Router("/limited", rate="20/s", burst=40, when_over="close", per="client")


@limited.consumer(rate="20/min", burst=1, when_over="drop", per="user")
async def seldom(message: str) -> None: ...


@app.consumer
async def length(call: Length) -> int:
    return len(call.text)


@app.consumer(concurrency=2)
async def letters(call: Letters) -> AsyncIterator[str]:
    for letter in call.text:
        yield letter


async def asks(connection: Connection, peer: MemoryPeer, held: wsflow.Peer) -> None:
    assert_type(await connection.call(Length("a")), int)
    assert_type(await peer.call(Length("a"), timeout=2), int)
    assert_type(await held.call(Length("a")), int)
    async with connection.stream(Letters("abc")) as found:
        assert_type(found, AsyncIterator[str])
        async for letter in found:
            assert_type(letter, str)
    async with peer.stream(Letters("abc")) as found:
        assert_type(await anext(found), str)
    async with held.stream(Letters("abc")) as found:
        assert_type(await anext(found), str)


client = Router("/typed/{room}")


@client.on_connect
async def sign_in(opening: Opening) -> None:
    assert_type(opening.last_event_id, str)
    opening.headers["X-Token"] = "secret"


@client.consumer
async def heard(message: Said) -> None: ...


class User(msgspec.Struct):
    sub: str
    roles: list[str] = []


KEY = "0123456789abcdef0123456789abcdef"
SESSIONS = {"a": User("ada")}


async def find_key(header: Mapping[str, object]) -> str:
    return KEY


async def find_user(value: str) -> User | None:
    return SESSIONS.get(value)


ticket = Ticket(User, key=KEY, max_age=10)
members = Router("/members")
members.on_connect(Bearer(User, key=find_key, audience="chat", sources=("header",)))
tickets = Router("/tickets")
tickets.on_connect(ticket)
cookies = Router("/cookies")
cookies.on_connect(SessionCookie(User, read=SESSIONS.get))
SessionCookie(User, read=find_user, name="sid")


@members.consumer
async def ban(message: Say, admin: Annotated[User, Requires("admin")]) -> None:
    if message.text == admin.sub:
        raise Forbidden("not yourself")


@members.on_error
async def forbidden(error: Forbidden) -> Said:
    return Said(str(error))


async def authenticates(connection: Connection, registry: Registry) -> None:
    assert_type(ticket.issue(User("ada")), str)
    assert_type(await ticket(connection, registry), User)
    assert_type(await Bearer(User, key=KEY)(connection), User)
    assert_type(await registry.claim("name", 5), bool)
    assert_type(await connection.ask_credential(), str)
    connection.set_credential(Credential(identity="ada", expires_in=5, user=User("ada")))


async def connects() -> None:
    async with wsflow.connect("ws://x/", credential=lambda: KEY) as peer:
        assert_type(peer, wsflow.Peer[str | bytes])
    async with wsflow.connect(
        "ws://x/", receives=(Said, Say), reconnect=True, unknown="close"
    ) as held:
        assert_type(held, wsflow.Peer[Said | Say])
        await held.send(Say("x"))
        assert_type(held.end, End | None)
    end = await wsflow.run_client(
        client, "ws://x/", reconnect=Reconnect(initial_delay=0.1), resume="after"
    )
    assert_type(end, End)


@app.consumer
async def typed(message: Typed, connection: Connection) -> Typed:
    await connection.send(Typed(text="before"))
    return message


async def models(peer: MemoryPeer) -> None:
    assert_type(await peer.receive(Typed), Typed)
    async with wsflow.connect(
        "ws://x/", receives=(Typed, Said), codec=Plain(), dec_hook=decode, enc_hook=encode
    ) as held:
        assert_type(held, wsflow.Peer[Typed | Said])
    FakeConnection(enc_hook=encode)
    FakeRegistry(dec_hook=decode)
    assert_type(FakeTopic[Typed](enc_hook=encode), FakeTopic[Typed])


@app.producer(on_end="keep")
async def greet(since: Annotated[int, Query()] = 0) -> AsyncIterator[Said]:
    yield Said(f"since {since}")


@app.on_error
async def bad(error: ValueError) -> Said:
    raise Close(4000, str(error))


@app.on_disconnect
async def gone(end: End) -> None:
    assert_type(end.code, int)


async def typed_peer(peer: MemoryPeer) -> None:
    assert_type(await peer.receive(Said), Said)
    assert_type(await peer.receive(Said, Say), Said | Say)
    assert_type(await peer.receive(Said, timeout=2), Said)


async def handlers_stay_functions() -> None:
    topic: FakeTopic[Said] = FakeTopic()
    assert_type(await say(Say("a"), topic, Database()), Said)
    connection = FakeConnection()
    await raw(b"x", connection)
    assert connection.sent == [b"x"]
    assert topic.published == [Said("a")]


async def several_processes() -> None:
    broker = FakeBroker()
    async with FakeClock() as clock, serve_in_memory(app, broker=broker) as server:
        assert_type(clock.time, float)
        assert_type(broker.link(server), Link)
        await clock.advance(1)


async def test_typed_app_runs() -> None:
    async with connect(app, "/typed/a?since=3") as peer:
        assert await peer.receive(Said) == Said("since 3")
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("hi")
        await peer.send(Typed(text="hi"))
        assert [await peer.receive(Typed) for _ in "ab"] == [Typed(text="before"), Typed(text="hi")]
        await peer.send(b"raw")
        assert await peer.receive(bytes) == b"raw"
        assert_type(peer, MemoryPeer)
        assert await peer.call(Length("abc")) == 3
    async with connect(app, "/typed/a", client=client) as linked:
        assert_type(linked, Linked)
        assert await linked.client.call(Length("ab")) == 2
    await handlers_stay_functions()
