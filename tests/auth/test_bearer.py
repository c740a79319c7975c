from __future__ import annotations

import base64
import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import aiohttp
import anyio
import jwt
import msgspec
import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

import wsflow
from tests.auth.users import (
    KEY,
    OTHER,
    Person,
    Said,
    Say,
    User,
    bearer,
    bearer_app,
    token,
)
from tests.clocks import InFakeTime
from wsflow import Close, Connection, Reject, Router
from wsflow.auth import Bearer
from wsflow.limits import Limits
from wsflow.messages.calls import Auth, call_frames
from wsflow.server import Settings, serve
from wsflow.testing import FakeConnection, connect, serve_in_memory
from wsflow.wiring.compile import compile_app

PUBLIC = f"-----BEGIN PUBLIC KEY-----\n{'x' * 40}\n-----END PUBLIC KEY-----\n"
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
HEADER_ONLY = bearer_app(sources=("header",))
APP = bearer_app()


async def refused(app: Router, **options: Any) -> tuple[int, str, str]:
    """The status, the challenge and the body of a refusal."""
    async with connect(app, **options) as peer:
        rejected = peer.rejected
        return rejected.status, dict(rejected.headers)["WWW-Authenticate"], rejected.body


# -- where a token comes from


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_in_a_header(scheme: str) -> None:
    async with connect(APP, headers={"Authorization": f"{scheme} {token()}"}) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("ada: hi")


async def test_as_a_subprotocol_which_is_never_the_answer() -> None:
    for offered in (["wsflow.json", f"bearer.{token()}"], [f"bearer.{token()}", "wsflow.json"]):
        async with connect(APP, subprotocols=offered) as peer:
            assert peer.subprotocol == "wsflow.json"
            await peer.send(Say("hi"))
            assert await peer.receive(Said) == Said("ada: hi")


async def test_alone_it_is_the_answer_since_browsers_want_one() -> None:
    """The app does not see it."""
    app = Router("/")
    app.on_connect(Bearer(User, key=KEY))

    @app.consumer
    async def which(message: str, connection: Connection) -> str:
        return str(connection.subprotocol)

    for head in ("bearer", "Bearer"):
        offered = f"{head}.{token()}"
        async with connect(app, subprotocols=[offered]) as peer:
            assert peer.subprotocol == offered
            await peer.send("?")
            assert await peer.receive() == "None"
    async with connect(app, subprotocols=["other", f"bearer.{token()}"]) as peer:
        assert peer.subprotocol is None


async def test_alone_it_answers_a_close_before_the_handshake() -> None:
    app = bearer_app()

    @app.on_connect
    async def leave(user: User) -> None:
        raise Close(4000)

    offered = f"bearer.{token()}"
    async with connect(app, subprotocols=[offered]) as peer:
        assert (await peer.wait_closed()).code == 4000
        assert peer.subprotocol == offered


@pytest.mark.parametrize("codec", ["wsflow.json", "wsflow.msgpack"])
async def test_in_the_first_message(codec: str) -> None:
    async with connect(APP, subprotocols=[codec]) as peer:
        await peer.send({"type": "$auth", "token": token()})
        assert await peer.receive() == {"type": "$auth"}  # it does not end
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("ada: hi")


async def test_in_the_first_message_of_raw_messages() -> None:
    app = Router("/")
    app.on_connect(Bearer(User, key=KEY))

    @app.consumer
    async def echo(message: str, user: User) -> str:
        return f"{user.sub}: {message}"

    async with connect(app) as peer:
        await peer.send(json.dumps({"type": "$auth", "token": token()}))
        await peer.send('{"type": "$auth"}')  # a message like others: they cannot be told apart
        assert await peer.receive() == 'ada: {"type": "$auth"}'


async def test_in_the_first_message_with_another_tag_field() -> None:
    class Hear(msgspec.Struct, tag="hear", tag_field="kind"):
        text: str

    app = Router("/")
    app.on_connect(Bearer(User, key=KEY))

    async def hear(message: Any, user: User) -> Said:
        return Said(user.sub)

    hear.__annotations__["message"] = Hear
    app.consumer(hear)
    async with connect(app) as peer:
        await peer.send({"kind": "$auth", "token": token(seconds=100)})
        told = await peer.receive()
        assert told["kind"] == "$auth"
        assert 90 < told["expires_in"] <= 100
        await peer.send(Hear("hi"))
        assert await peer.receive(Said) == Said("ada")


async def test_what_comes_with_the_first_message_waits() -> None:
    """All of it was read at once; nothing is handled before the credential is accepted."""
    seen: list[str] = []
    release = anyio.Event()

    async def key(header: Mapping[str, Any]) -> str:
        await release.wait()
        return KEY

    app = Router("/")
    app.on_connect(Bearer(User, key=key))

    @app.consumer
    async def hear(message: Say, user: User) -> Said:
        seen.append(user.sub)
        return Said(message.text)

    async with connect(app) as peer:
        wire, session = peer._transport, peer._session
        assert session is not None
        first = msgspec.json.encode({"type": "$auth", "token": token()})
        rest = msgspec.json.encode(Say("a"))
        assert session.messages_received([(first, True, 0), (rest, True, 0)]) == 2
        await anyio.lowlevel.checkpoint()
        assert seen == []
        release.set()
        assert await peer.receive(Said) == Said("a")
        assert seen == ["ada"]
        assert wire.accepted


@pytest.mark.parametrize(
    "first",
    [
        Say("hi"),
        {"type": "$auth"},
        {"type": "$auth", "token": 5},
        {"type": "$auth", "token": ""},
        {"type": "$call", "id": 1, "message": {"type": "say", "text": "hi"}},
        [],
        "no JSON",
        b"\x00",
        msgspec.msgpack.encode({"type": "$auth", "token": "x"}),
    ],
)
async def test_a_first_message_that_is_none(first: Any) -> None:
    async with connect(APP) as peer:
        await peer.send(first)
        end = await peer.wait_closed()
        assert (end.code, end.reason) == (4401, "the first message is no credential")


async def test_a_first_message_that_is_not_accepted() -> None:
    async with connect(APP) as peer:
        await peer.send({"type": "$auth", "token": token(key=OTHER)})
        end = await peer.wait_closed()
        assert end.code == 4401
        assert end.reason == "the signature of the token is not valid"


class TestTheFirstMessageHasATime(InFakeTime):
    async def test_open_timeout(self) -> None:
        async with connect(APP, limits=Limits(open_timeout=7)) as peer:
            began = anyio.current_time()
            end = await peer.wait_closed(timeout=60)
            assert (end.code, end.reason) == (4401, "no credential has come in time")
            assert anyio.current_time() - began == pytest.approx(7, abs=0.01)

    async def test_an_earlier_function_does_not_shorten_it(self) -> None:
        async def slow(header: Mapping[str, Any]) -> str:
            await anyio.sleep(6)
            return KEY

        app = bearer_app(key=slow)
        async with connect(app, limits=Limits(open_timeout=7)) as peer:
            await anyio.sleep(6)
            await peer.send({"type": "$auth", "token": token()})
            assert await peer.receive(timeout=60) == {"type": "$auth"}

    async def test_verifying_has_its_own(self) -> None:
        async def never(header: Mapping[str, Any]) -> str:
            await anyio.sleep_forever()
            raise AssertionError

        async with connect(bearer_app(key=never), limits=Limits(open_timeout=7)) as peer:
            await peer.send({"type": "$auth", "token": token()})
            assert (await peer.wait_closed(timeout=60)).code == 1008


async def test_who_leaves_before_the_first_message_leaves_nothing() -> None:
    async with connect(APP) as peer:
        await peer.close()


async def test_a_restart_while_the_first_message_is_awaited() -> None:
    async with serve_in_memory(APP) as server, server.connect("/") as peer:
        await server.drain(1, restart=True)
        assert (await peer.wait_closed()).code == 1012


async def test_nobody_knows_a_connection_before_its_first_message() -> None:
    async with serve_in_memory(APP) as server, server.connect("/") as peer:
        assert len(server.registry) == 0
        await server.registry.broadcast(Said("secret"))
        await peer.send({"type": "$auth", "token": token()})
        assert await peer.receive() == {"type": "$auth"}
        assert len(server.registry) == 1
        await server.registry.broadcast(Said("for all"))
        assert await peer.receive(Said) == Said("for all")


async def test_a_first_message_can_only_be_asked_for_in_on_connect() -> None:
    app = Router("/")

    @app.consumer
    async def late(message: str, connection: Connection) -> str:
        try:
            return await connection.ask_credential()
        except RuntimeError as exc:
            return str(exc)

    async with connect(app) as peer:
        await peer.send("?")
        assert "only if an on_connect function" in await peer.receive()


async def test_a_function_may_send_before_a_message_is_asked_for() -> None:
    app = bearer_app()
    outer = Router("/")

    @outer.on_connect
    async def greet(connection: Connection) -> None:
        await connection.send(Said("welcome"))

    outer.include(app)
    async with connect(outer) as peer:
        assert await peer.receive(Said) == Said("welcome")
        assert (await peer.wait_closed()).code == 1011
        assert "ask_credential" in str(peer.end and peer.end.error)


# -- what is not accepted


async def test_none() -> None:
    assert await refused(HEADER_ONLY) == (401, "Bearer", "a credential is needed\n")
    basic = {"Authorization": "Basic YTpi"}
    assert await refused(HEADER_ONLY, headers=basic) == (401, "Bearer", "a credential is needed\n")


async def test_not_from_another_source() -> None:
    app = bearer_app(sources=("subprotocol",))
    assert (await refused(app, headers=bearer(token())))[0] == 401
    async with connect(app, subprotocols=[f"bearer.{token()}"]) as peer:
        assert peer.end is None


async def test_not_in_the_query() -> None:
    assert (await refused(HEADER_ONLY, target=f"/?token={token()}&access_token={token()}"))[
        0
    ] == 401


async def test_two() -> None:
    twice = [("Authorization", f"Bearer {token()}")] * 2
    for options in (
        {"headers": twice},
        {"headers": bearer(token()), "subprotocols": [f"bearer.{token()}"]},
        {"subprotocols": [f"bearer.{token()}", f"bearer.{token()}"]},
    ):
        status, challenge, _ = await refused(APP, **options)
        assert status == 400
        assert challenge.startswith('Bearer error="invalid_request"')


def unsigned(header: Any, claims: Any) -> str:
    def part(value: Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}."


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "the token is malformed"),
        ("a.b.c", "the token is malformed"),
        ("é", "the token is malformed"),
        ("." * 5000, "the token is malformed"),
        (unsigned({"alg": "none"}, {"sub": "ada"}), "the algorithm of the token is not accepted"),
        (unsigned({"alg": "HS256"}, {"sub": "ada"}), "the signature of the token is not valid"),
        (unsigned(b"[" * 5000, {"sub": "ada"}), "the token is malformed"),
        (token(key=OTHER), "the signature of the token is not valid"),
        (token(key=KEY * 2, alg="HS512"), "the algorithm of the token is not accepted"),
        (token(seconds=-1), "the token has expired"),
        (token(nbf=time.time() + 1_000_000), "the token is not valid yet"),
        (token(aud="elsewhere"), "the token is for another audience"),
        (token(None), "the claims of the token do not fit: Object missing required field `sub`"),
        (
            token(roles=[5]),
            "the claims of the token do not fit: Expected `str`, got `int` - at `$.roles[0]`",
        ),
        (token(exp="soon"), "the token is malformed"),
        (token(exp=float("inf")), "the token is malformed"),
    ],
)
async def test_what_is_not_accepted(value: str, why: str) -> None:
    for options in (
        {"headers": bearer(value)},
        {"subprotocols": ["wsflow.json", f"bearer.{value}"]},
    ):
        if not value and "subprotocols" in options:
            continue
        status, challenge, body = await refused(APP, **options)
        assert (status, body) == (401, f"{why}\n")
        assert challenge.startswith('Bearer error="invalid_token", error_description="')
        assert not value or value not in challenge + body


async def test_audience_issuer_and_leeway() -> None:
    app = bearer_app(
        audience="chat", issuer=["https://a.example", "b"], leeway=30, sources=["header"]
    )
    good = {"aud": ["chat", "mail"], "iss": "b"}
    async with connect(app, headers=bearer(token(**good, seconds=-20))) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("ada: hi")
    for wrong, why in (
        ({"aud": "mail", "iss": "b"}, "the token is for another audience"),
        ({"iss": "b"}, "the token lacks the claim aud"),
        ({"aud": "chat", "iss": "c"}, "the token is of another issuer"),
        ({"aud": "chat"}, "the token lacks the claim iss"),
        ({**good, "seconds": -40}, "the token has expired"),
    ):
        assert (await refused(app, headers=bearer(token(**wrong))))[2] == f"{why}\n"
    several = bearer_app(audience=("chat", "mail"))
    async with connect(several, headers=bearer(token(aud="mail"))) as peer:
        assert peer.end is None


# -- keys


async def test_keys_that_rotate() -> None:
    keys = {"old": KEY, "new": OTHER, "short": "short"}

    async def find(header: Mapping[str, Any]) -> str | None:
        if header.get("kid") == "gone":
            return None
        return keys[header["kid"]]

    for app in (bearer_app(key=find), bearer_app(key=lambda header: keys[header["kid"]])):
        for kid in ("old", "new"):
            signed = token(key=keys[kid], headers={"kid": kid})
            async with connect(app, headers=bearer(signed)) as peer:
                assert peer.end is None
        for headers in ({"kid": "other"}, {"kid": "gone"} if app else {}, {}):
            status, _, why = await refused(app, headers=bearer(token(headers=headers)))
            assert (status, why) == (401, "the key of the token is not known\n")
        for value, why in (
            ("x", "the token is malformed\n"),
            (unsigned({"alg": "none"}, {}), "the algorithm of the token is not accepted\n"),
        ):
            assert (await refused(app, headers=bearer(value)))[2] == why
        signed = token(headers={"kid": "short"})
        async with connect(app, headers=bearer(signed)) as peer:
            assert peer.rejected.status == 500
            assert peer.end is not None
            assert "the key has 5 bytes" in str(peer.end.error)


async def test_a_pyjwk() -> None:
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(KEY.encode()).decode(), "alg": "HS256"}
    key = jwt.PyJWK(jwk)
    for each in (key, lambda header: key):
        async with connect(bearer_app(key=each), headers=bearer(token())) as peer:
            assert peer.end is None
    with pytest.raises(ValueError, match="the key has 3 bytes"):
        Bearer(User, key=jwt.PyJWK({**jwk, "k": "YWJj"}))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"key": ""}, "the key has 0 bytes"),
        ({"key": b"short"}, "the key has 5 bytes, and less than 32 can be guessed"),
        ({"algorithms": ("HS512",)}, "less than 64"),
        ({"algorithms": ("HS256", "HS384")}, "less than 48"),
        ({"key": PUBLIC}, "the key is none of HS256: InvalidKeyError"),
        ({"algorithms": ["none"]}, "with which everybody can make tokens"),
        ({"algorithms": ["HS256", "NONE"]}, "with which everybody can make tokens"),
        ({"algorithms": []}, "use a tuple"),
        ({"algorithms": "HS256"}, "use a tuple"),
        ({"algorithms": ["XX1"]}, "is not available: see RFC 7518"),
        ({"sources": ()}, "sources is"),
        ({"sources": "header"}, "sources is"),
        ({"sources": ("query",)}, "sources is"),
        ({"leeway": -1}, "seconds, 0 or more"),
        ({"leeway": float("nan")}, "seconds, 0 or more"),
        ({"grace": -1}, "seconds, 0 or more"),
    ],
)
def test_what_cannot_be_constructed(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        Bearer(User, **{"key": KEY, **options})
    assert "short" not in str(raised.value)


def test_algorithms_that_cannot_be_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no ``cryptography``, of which PyJWT needs public keys."""
    monkeypatch.setattr(jwt, "get_algorithm_by_name", lambda name: None)
    with pytest.raises(ValueError, match="use one family"):
        Bearer(User, key=KEY, algorithms=("RS256", "HS256"))


def test_an_algorithm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise NotImplementedError(f"Algorithm '{name}' could not be found. Install cryptography")

    monkeypatch.setattr(jwt, "get_algorithm_by_name", absent)
    with pytest.raises(ValueError, match=r"pip install 'PyJWT\[crypto\]'"):
        Bearer(User, key=KEY, algorithms=("RS256",))


@pytest.mark.parametrize("kind", [str, dict, "User", Annotated[User, 1], set[int]])
def test_a_user_has_a_class_of_its_own(kind: Any) -> None:
    with pytest.raises(TypeError, match="Bearer"):
        Bearer(kind, key=KEY)


def test_a_user_with_fields_that_msgspec_does_not_know() -> None:
    class Odd(msgspec.Struct):
        either: dict[str, int] | Person | User

    with pytest.raises(TypeError, match=r"Bearer\(.*Odd"):
        Bearer(Odd, key=KEY)


def test_a_key_has_a_type() -> None:
    with pytest.raises(ValueError, match="the key is none of HS256: TypeError"):
        Bearer(User, key=5)


def test_what_is_missing_is_named() -> None:
    code = "import sys; sys.modules['jwt'] = None; import wsflow.auth"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip().endswith(
        "ModuleNotFoundError: wsflow.auth needs jwt, which is not installed: "
        "pip install 'wsflow[auth]'"
    )
    code = "import sys; sys.modules['wsflow.auth.users'] = None; import wsflow.auth"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "wsflow[auth]" not in ran.stderr
    assert ran.returncode == 1


# -- as a function


async def test_it_is_a_function_of_a_connection() -> None:
    auth = Bearer(User, key=KEY)
    connection = FakeConnection(headers=bearer(token(seconds=100)))
    assert await auth(connection) == User("ada")
    assert connection.credential is not None
    assert connection.credential.identity == '[null,"ada"]'
    assert 90 < (connection.credential.expires_in or 0) <= 100
    assert "ada" not in repr(connection.credential)
    first = FakeConnection(token=token())
    assert await auth(first) == User("ada")
    with pytest.raises(Close):
        await auth(FakeConnection())
    alone = FakeConnection(headers={"Sec-WebSocket-Protocol": f"bearer.{token()}"})
    await auth(alone)
    assert alone.subprotocol is not None
    with pytest.raises(Reject):
        await auth(FakeConnection(headers=bearer("x")))


async def test_on_several_routers_and_included_ones() -> None:
    auth, person = Bearer(User, key=KEY), Bearer(Person, key=KEY)
    outer = Router("/")
    outer.on_connect(auth)
    for path in ("/a", "/b"):
        inner = Router(path)
        if path == "/b":
            inner.on_connect(person)

        @inner.consumer
        async def say(message: Say, user: User) -> Said:
            return Said(user.sub)

        outer.include(inner)
    other = Router("/c")
    other.on_connect(auth)
    other.on_connect(person)

    @other.consumer
    async def both(message: Say, user: User, person: Person) -> Said:
        return Said(f"{user.sub} {person.sub}")

    outer.include(other)
    plain = Router("/")
    plain.include(other)
    for app, path in ((outer, "/a"), (outer, "/b"), (plain, "/c")):
        async with connect(app, path, headers=bearer(token())) as peer:
            await peer.send(Say("hi"))
            assert (await peer.receive(Said)).text.startswith("ada")


def test_a_mistake_is_where_it_was_registered() -> None:
    app = Router("/")
    app.on_connect(Bearer(User, key=KEY))
    app.on_connect(Bearer(User, key=OTHER))
    with pytest.raises(wsflow.DeclarationError) as raised:
        compile_app(app)
    (problem,) = raised.value.problems
    assert problem.where.startswith(f"{__file__}:")
    assert problem.why.startswith("It provides User, and so does on_connect Bearer")


# -- clients of others, on sockets


@ON_ASYNCIO
async def test_clients_that_nobody_here_wrote() -> None:
    async with serve(APP, Settings(port=0, open_timeout=5)) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        said = msgspec.json.encode(Say("hi")).decode()
        dial = websockets.asyncio.client.connect
        async with dial(url, additional_headers=bearer(token()), proxy=None) as ws:
            await ws.send(said)
            assert json.loads(await ws.recv()) == {"type": "said", "text": "ada: hi"}
        offered = [Subprotocol("wsflow.json"), Subprotocol(f"bearer.{token()}")]
        async with dial(url, subprotocols=offered, proxy=None) as ws:
            assert ws.subprotocol == "wsflow.json"
            assert json.loads(await ws.recv()) == {"type": "$auth"}
            await ws.send(said)
            assert json.loads(await ws.recv())["text"] == "ada: hi"
        async with dial(url, proxy=None) as ws:
            await ws.send(json.dumps({"type": "$auth", "token": token()}))
            await ws.send(said)
            assert json.loads(await ws.recv()) == {"type": "$auth"}
            assert json.loads(await ws.recv())["text"] == "ada: hi"
        async with dial(url, proxy=None) as ws:
            await ws.send(said)
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        with pytest.raises(InvalidStatus) as invalid:
            await dial(url, additional_headers=bearer("x"), proxy=None)
        response = invalid.value.response
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer error=")
        async with aiohttp.ClientSession() as http:
            async with http.ws_connect(url, protocols=[f"bearer.{token()}"]) as their:
                assert their.protocol == f"bearer.{token()}"
                await their.send_str(said)
                assert json.loads(await their.receive_str())["text"] == "ada: hi"
        options: Any = {"headers": bearer(token()), "receives": Said, "proxy": None}
        async with wsflow.connect(url, **options) as ours:
            await ours.send(Say("hi"))
            assert await ours.receive(timeout=5) == Said("ada: hi")


# -- the log


@ON_ASYNCIO
async def test_no_token_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, bad = token(seconds=100), token(key=OTHER)
    async with serve(APP, Settings(port=0, open_timeout=5)) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        for value in (good, bad):
            theirs = logging.getLogger("the client of this test")
            theirs.propagate = False
            ways: list[dict[str, Any]] = [
                {"additional_headers": bearer(value)},
                {"subprotocols": [f"bearer.{value}"]},
                {},
            ]
            for options in ways:
                options |= {"proxy": None, "logger": theirs}
                with contextlib.suppress(ConnectionClosed, InvalidStatus):
                    async with websockets.asyncio.client.connect(url, **options) as ws:
                        await ws.send(json.dumps({"type": "$auth", "token": value}))
                        await ws.send(json.dumps({"type": "nonsense", "token": value}))
                        async for _ in ws:
                            pass
    assert caplog.records
    for secret in (good, bad):
        for part in (secret, secret.rpartition(".")[2]):
            assert part not in caplog.text


def test_frames_do_not_show_their_token() -> None:
    for kind in (Auth, call_frames("kind")[Auth]):
        assert repr(kind(token="secret", expires_in=5)) == "Auth(token=…, expires_in=5)"
    assert repr(Auth()) == "Auth(expires_in=None)"


async def test_an_override_replaces_it() -> None:
    async with connect(APP, override={User: User("fake")}) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("fake: hi")
