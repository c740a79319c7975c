"""``Requires`` on every kind of function, before the handshake and after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from tests.auth.users import KEY, Ban, Said, Say, User, bearer, token
from wsflow import (
    Call,
    CallError,
    Connection,
    Forbidden,
    Message,
    Requires,
    Router,
    Stream,
    Topic,
)
from wsflow.auth import Bearer
from wsflow.testing import connect

Admin = Annotated[User, Requires("admin")]


class Count(Call[int], tag="count"): ...


class Names(Stream[str], tag="names"): ...


class Swap(msgspec.Struct, tag="swap"): ...


def user(*roles: str) -> dict[str, Any]:
    return {"headers": bearer(token(roles=list(roles)))}


def router() -> Router:
    app = Router("/")
    app.on_connect(Bearer(User, key=KEY))
    return app


async def ended(app: Router, *roles: str, send: Any = None) -> tuple[str, int, str]:
    """How a connection ends, after a message; None for a connection that stays open."""
    async with connect(app, **user(*roles)) as peer:
        if send is not None:
            await peer.send(send)
        await peer.wait_closed()
        assert peer.end is not None
        return peer.end.cause, peer.end.code, peer.end.reason


FORBIDDEN = ("policy", 4403, "forbidden")


async def test_before_the_handshake() -> None:
    app = router()

    @app.on_connect
    async def enter(user: Admin) -> None: ...

    @app.consumer
    async def say(message: Say) -> Said:
        return Said(message.text)

    async with connect(app, **user("editor")) as peer:
        assert (peer.rejected.status, peer.rejected.body) == (403, "forbidden\n")
    async with connect(app, **user("admin")) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("hi")


async def test_in_on_connect_after_the_handshake() -> None:
    app = router()

    @app.on_connect
    async def greet(connection: Connection) -> None:
        await connection.send(Said("hi"))

    @app.on_connect
    async def enter(user: Admin) -> AsyncIterator[None]:
        yield

    @app.consumer
    async def say(message: Say) -> None: ...

    assert await ended(app) == FORBIDDEN


async def test_a_function_may_raise_it_itself() -> None:
    app = router()

    @app.on_connect
    async def enter(user: User) -> None:
        raise Forbidden("not on Sundays")

    @app.consumer
    async def say(message: Say) -> None: ...

    async with connect(app, **user()) as peer:
        assert (peer.rejected.status, peer.rejected.body) == (403, "not on Sundays\n")


class Broken(Forbidden):
    def __init__(self) -> None:
        """Leaves out its own reason."""

    def __str__(self) -> str:
        raise RuntimeError("broken")


async def test_one_whose_text_cannot_be_had() -> None:
    app = router()

    @app.on_connect
    async def enter(user: User) -> None:
        raise Broken

    @app.consumer
    async def say(message: Say) -> None: ...

    async with connect(app, **user()) as peer:
        assert peer.rejected.status == 500
        assert peer.end is not None
        assert str(peer.end.error) == "broken"


async def test_in_a_consumer() -> None:
    done: list[str] = []
    app = router()

    @app.consumer
    async def ban(message: Ban, user: Admin) -> None:
        done.append(message.name)

    @app.consumer
    async def say(message: Say) -> Said:
        return Said(message.text)

    @app.consumer(concurrency=2)
    async def swap(message: Swap, user: Admin) -> None:
        done.append("swap")

    assert await ended(app, send=Ban("eve")) == FORBIDDEN
    assert await ended(app, send=Swap()) == FORBIDDEN
    assert done == []
    async with connect(app, **user("admin")) as peer:
        await peer.send(Ban("eve"))
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("hi")
    assert done == ["eve"]


async def test_on_error_may_take_it() -> None:
    app = router()

    @app.consumer
    async def ban(message: Ban, user: Admin) -> None:
        raise AssertionError

    @app.consumer
    async def say(message: Say) -> Said:
        return Said(message.text)

    @app.on_error
    async def refuse(error: Forbidden, user: User) -> Said:
        return Said(f"{user.sub}: {error}")

    async with connect(app, **user()) as peer:
        for _ in range(2):
            await peer.send(Ban("eve"))
            assert await peer.receive(Said) == Said("ada: forbidden")
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("hi")


async def test_each_message_is_asked() -> None:
    """A user that changes is refused from the next message on."""
    app = router()

    @app.consumer
    async def ban(message: Ban, user: Admin) -> Said:
        user.roles.remove("admin")
        return Said(message.name)

    async with connect(app, **user("admin")) as peer:
        await peer.send(Ban("eve"))
        assert await peer.receive(Said) == Said("eve")
        await peer.send(Ban("eve"))
        assert (await peer.wait_closed()).code == 4403


async def test_calls_and_streams() -> None:
    app = router()

    @app.consumer
    async def count(call: Count, *, user: Admin) -> int:
        return 5

    @app.consumer
    async def names(call: Names, user: Admin) -> AsyncIterator[str]:
        yield "ada"

    async with connect(app, **user()) as peer:
        for _ in range(2):
            with pytest.raises(CallError) as raised:
                await peer.call(Count())
            assert (raised.value.code, raised.value.message) == ("forbidden", "forbidden")
        with pytest.raises(CallError, match="forbidden"):
            async with peer.stream(Names()) as items:
                async for _ in items:
                    raise AssertionError
        assert peer.end is None
    async with connect(app, **user("admin")) as peer:
        assert await peer.call(Count()) == 5


async def test_a_call_whose_task_group_raises_it() -> None:
    app = router()

    @app.consumer
    async def count(call: Count, user: User) -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refuse)
        return 5

    async def refuse() -> None:
        raise Forbidden("no")

    @app.consumer
    async def say(message: Say) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refuse)
            tasks.start_soon(refuse)

    async with connect(app, **user()) as peer:
        with pytest.raises(CallError, match="forbidden: no"):
            await peer.call(Count())
    assert await ended(app, send=Say("")) == ("policy", 4403, "no")


async def test_a_call_that_on_error_answers() -> None:
    app = router()

    @app.consumer
    async def count(call: Count, user: Admin) -> int:
        return 5

    @app.on_error
    async def refuse(error: Forbidden) -> None:
        raise CallError("admins_only")

    async with connect(app, **user()) as peer:
        with pytest.raises(CallError, match="admins_only"):
            await peer.call(Count())


async def test_in_producers_and_consumers_that_iterate() -> None:
    app = router()

    @app.producer
    async def produce(user: Admin) -> AsyncIterator[Said]:
        yield Said("secret")

    assert await ended(app) == FORBIDDEN
    for_ever = router()

    @for_ever.producer(on_end="keep")
    async def poll(user: Admin) -> None:
        raise AssertionError

    assert await ended(for_ever) == FORBIDDEN
    iterates = router()

    @iterates.consumer
    async def take(messages: AsyncIterator[Say], user: Admin) -> None:
        raise AssertionError

    assert await ended(iterates) == FORBIDDEN


async def test_around_messages() -> None:
    app = router()

    @app.on_message
    async def who(message: Annotated[object, Message()], user: User) -> Annotated[User, "now"]:
        return User(user.sub, user.roles if not isinstance(message, Ban) else [])

    @app.on_message
    async def checked(
        user: Annotated[User, "now", Requires("editor")], them: Annotated[User, Requires("editor")]
    ) -> AsyncIterator[None]:
        yield

    @app.consumer
    async def say(message: Say, user: Annotated[User, "now", Requires("editor")]) -> Said:
        return Said(user.sub)

    @app.consumer
    async def ban(message: Ban) -> None: ...

    async with connect(app, **user("editor")) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("ada")
        await peer.send(Ban("eve"))
        assert (await peer.wait_closed()).code == 4403


async def test_several_must_all_hold() -> None:
    app = router()

    @app.consumer
    async def ban(
        message: Ban, user: Annotated[User, Requires("admin"), Requires(lambda u: u.sub == "ada")]
    ) -> Said:
        return Said(message.name)

    async with connect(app, **user("admin")) as peer:
        await peer.send(Ban("eve"))
        assert await peer.receive(Said) == Said("eve")
    async with connect(app, headers=bearer(token("bob", roles=["admin"]))) as peer:
        await peer.send(Ban("eve"))
        assert (await peer.wait_closed()).code == 4403


News = Annotated[Topic[Said], "news", Requires("admin")]


async def test_a_topic_is_asked_before_it_is_joined() -> None:
    app = router()

    @app.consumer
    async def hear(message: Say, news: News) -> None:
        await news.join()

    async with connect(app, **user()) as peer:
        await peer.send(Say("hi"))
        assert (await peer.wait_closed()).code == 4403
    async with connect(app, **user("admin")) as peer:
        await peer.send(Say("hi"))
    at_once = router()

    @at_once.on_connect
    async def enter(news: News, all: Annotated[Topic[Say], "all"]) -> None:
        await news.join()

    @at_once.consumer
    async def say(message: Say) -> None: ...

    async with connect(at_once, **user()) as peer:
        assert peer.rejected.status == 403


class Team(msgspec.Struct):
    roles: list[str]


async def test_the_user_that_a_topic_asks_may_be_named() -> None:
    app = router()

    @app.on_connect
    async def team(user: User) -> Team:
        return Team(["red"])

    @app.on_message
    async def role() -> Annotated[Team, "now"]:
        return Team(["blue"])

    @app.consumer
    async def hear(
        message: Say,
        one: Annotated[Topic[Said], "one", Requires("admin", of=User)],
        two: Annotated[Topic[Said], "two", Requires(lambda team: True, of=Team)],
        three: Annotated[Topic[Said], "three", Requires("blue", of=Annotated[Team, "now"])],
    ) -> Said:
        return Said(f"{one.name} {two.name} {three.name}")

    async with connect(app, **user("admin")) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("one two three")
    async with connect(app, **user("red")) as peer:
        await peer.send(Say("hi"))
        assert (await peer.wait_closed()).code == 4403


async def test_an_override_is_asked_too() -> None:
    app = router()

    @app.consumer
    async def ban(message: Ban, user: Admin, news: News) -> Said:
        return Said(user.sub)

    for roles, code in (([], 4403), (["admin"], None)):
        async with connect(app, override={User: User("fake", roles)}) as peer:
            await peer.send(Ban("eve"))
            if code is None:
                assert await peer.receive(Said) == Said("fake")
            else:
                assert (await peer.wait_closed()).code == code


class Person:
    def __init__(self, *roles: str) -> None:
        self.roles = roles


async def test_a_class_whose_attributes_are_not_declared() -> None:
    app = Router("/")

    @app.on_connect
    async def enter() -> Person | None:
        return Person("admin")

    @app.consumer
    async def say(message: Say, person: Annotated[Person | None, Requires("admin")]) -> Said:
        return Said("yes")

    async with connect(app) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("yes")
