"""The module in Python that is written for an app, as a service uses it that has no code of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import msgspec
import pytest

import wsflow
from tests.contract.apps import app_of
from tests.contract.test_typescript import EXAMPLES
from tests.server.test_serve import quick
from tests.typing.test_checkers import CHECKERS, marked
from wsflow import Call, Connection, Cookie, Header, Query, Router
from wsflow.contract.describe import describe
from wsflow.contract.python import python
from wsflow.server import serve
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app

pytestmark = pytest.mark.anyio

SERVED = [f"examples.{each}" for each in EXAMPLES] + ["tests.contract.served"]


def code_of(app: Router) -> str:
    return python(describe(compile_app(app)))


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Imports the module that is written for an app."""
    names: list[str] = []

    def load(app: Router) -> Any:
        names.append(f"written_api_{len(names)}")
        module = sys.modules[names[-1]] = ModuleType(names[-1])  # where msgspec looks for names
        exec(compile(code_of(app), names[-1], "exec"), vars(module))
        return module

    yield load
    for each in names:
        del sys.modules[each]


@pytest.mark.long
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("checker", CHECKERS)
async def test_checkers_have_nothing_to_say(
    checker: str, tmp_path: Path, anyio_backend: str
) -> None:
    apps = {each.replace(".", "_"): import_module(each).app for each in SERVED}
    for name, app in {**apps, "all_of_it": app_of(), "odd": odd()}.items():
        (tmp_path / f"{name}.py").write_text(code_of(app))
    assert await marked(checker, tmp_path) == []
    code = code_of(apps["examples_chat"])
    (tmp_path / "wrong.py").write_text(f"{code}\n\nChatRoom.uri(1)\nSaid(text='a')\n")
    lines = len(code.splitlines())
    assert await marked(checker, tmp_path) == [lines + 3, lines + 4]


async def test_a_client_router(written: Any) -> None:
    """In both directions, against the app whose code it does not have."""
    from examples.chat import app

    api = written(app)
    bot, heard = api.ChatRoom.router(), []

    @bot.consumer
    async def hear(message: api.ChatRoom.Received) -> AsyncIterator[api.ChatRoom.Sent]:  # type: ignore[name-defined]
        heard.append(message)
        if isinstance(message, api.Came):
            yield api.Say(text="hello")

    path = api.ChatRoom.uri("", room="the lobby", name="ada")
    assert path == "/chat/the%20lobby?name=ada"
    async with connect(app, path, client=bot) as linked:
        await linked.idle()
    assert heard[-1] == api.Said(who="ada", text="hello")


async def test_a_peer_on_a_socket(written: Any) -> None:
    from examples.calls import app

    api = written(app)
    async with serve(app, quick()) as server:
        uri = api.Root.uri(f"ws://127.0.0.1:{server.port}/")
        async with wsflow.connect(uri, receives=api.Root.RECEIVES) as peer:
            assert await peer.call(api.Divide(a=1, b=4)) == api.Result(value=0.25)
            async with peer.stream(api.Primes(upto=8)) as primes:
                assert [each async for each in primes] == [2, 3, 5, 7]


async def test_what_a_client_is_asked(written: Any) -> None:
    from examples.calls import app

    api = written(app)
    client = api.Root.router()

    @client.consumer
    async def digits(call: api.Digits) -> int:  # type: ignore[name-defined]
        return 2

    async with connect(app, "/", client=client) as linked:
        assert await linked.client.call(api.Divide(a=1, b=3)) == api.Result(value=0.33)


class Rest(msgspec.Struct):
    of: int = 0


class First(Call[Rest], tag="first"): ...


class Second(Call[First], tag="second"):
    text: str


def odd() -> Router:
    app = Router("/odd/{list}", codec="msgpack", subprotocols=["v1"], deprecated=True)

    @app.on_connect
    async def enter(
        agent: Annotated[str, Header("User-Agent")],
        session: Annotated[str, Cookie("session")] = "",
        level: Annotated[int, Header("X-Level")] = 1,
        tags: Annotated[list[str], Query("tag")] = [],  # noqa: B006
        base: Annotated[bool, Query()] = False,
        after: Annotated[str, Query(resumes=True)] = "",
    ) -> None: ...

    @app.consumer
    async def first(call: First) -> Rest:
        return Rest()

    @app.consumer
    async def second(call: Second) -> First:
        return First()

    raw, own = Router("/raw"), Router("/own", codec=Plain())

    @raw.consumer
    async def echo(message: str | bytes) -> str | bytes:
        return message

    @own.consumer
    async def take(message: Rest, connection: Connection) -> None: ...

    whole = Router("/")
    for each in (app, raw, own):
        whole.include(each)
    return whole


class Plain:
    """A codec of the app's own."""

    name, text = "plain", True

    def encode(self, message: object) -> bytes:
        return msgspec.json.encode(message)

    def decode(self, data: bytes | str) -> Any:
        return msgspec.json.decode(data)


def test_parameters(written: Any) -> None:
    api = written(odd())
    path = api.OddList
    assert path.uri("wss://h/api/", list_="a/b") == "wss://h/api/odd/a%2Fb"
    assert path.uri("", list_=1, tag=["x", "y&"], base_=True, after="1") == (
        "/odd/1?tag=x&tag=y%26&base=true&after=1"
    )
    assert path.headers(user_agent="me") == {"User-Agent": "me"}
    assert path.headers(user_agent="me", session="s", x_level=2) == {
        "User-Agent": "me",
        "X-Level": "2",
        "Cookie": "session=s",
    }
    with pytest.raises(ValueError, match="the cookie session cannot have a semicolon: 'a; b=1'"):
        path.headers(user_agent="me", session="a; b=1")
    assert path.router("/api").path == "/api/odd/{list}"
    assert (path.router().codec, path.router().unknown) == ("msgpack", "ignore")
    codec = Plain()
    assert api.Own.router(codec=codec).codec is codec
    assert (str, bytes) == api.Raw.RECEIVES
    assert api.Own.RECEIVES == ()


def test_what_a_path_says() -> None:
    code = code_of(odd())
    assert (
        '''
    """``/odd/{list}``

    Deprecated.

    Answers ``First``, ``Second``.

    Resumes with ``after``.

    Speaks ``v1``.
    """
'''
        in code
    )
    assert "class Second(Call[Any], " in code  # First comes with it
    assert "class First(Call[Rest], " in code


def test_all_that_a_contract_can_have(written: Any) -> None:
    module = written(app_of())
    for name, each in vars(module).items():
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and name[0] != "_":
            msgspec.json.Decoder(each)


def test_only_what_is_needed() -> None:
    app = Router("/")

    @app.consumer
    async def take(message: str) -> None: ...

    code = code_of(app)
    assert "import uuid" not in code
    assert "def _headers" not in code
    assert "def _part" not in code
    compile(code, "x", "exec")
