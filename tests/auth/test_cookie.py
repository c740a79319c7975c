from __future__ import annotations

from typing import Any

import pytest

from tests.auth.users import Person, Said, Say, User, app_of
from wsflow import DeclarationError
from wsflow.auth import SessionCookie
from wsflow.cli.main import main
from wsflow.limits import Limits
from wsflow.server import Settings, serve
from wsflow.testing import connect, serve_in_memory

SESSIONS = {"abc": User("ada"), "gone": None}


async def read(value: str) -> User | None:
    return SESSIONS.get(value)


APP = app_of(SessionCookie(User, read=read))
PLAIN = app_of(SessionCookie(User, read=SESSIONS.get, name="sid"))


@pytest.mark.parametrize(("app", "name"), [(APP, "session"), (PLAIN, "sid")])
async def test_a_session(app: Any, name: str) -> None:
    async with connect(app, headers={"Cookie": f"a=b; {name}=abc"}) as peer:
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("ada: hi")
    for value, why in (("gone", "the session is not valid"), ("x", "the session is not valid")):
        async with connect(app, headers={"Cookie": f"{name}={value}"}) as peer:
            assert peer.rejected.status == 401
            assert peer.rejected.body == f"{why}\n"
            assert "WWW-Authenticate" in dict(peer.rejected.headers)
    async with connect(app, headers={"Cookie": "other=abc"}) as peer:
        assert (peer.rejected.status, peer.rejected.body) == (401, "a credential is needed\n")


async def test_a_page_of_another_site() -> None:
    headers = {"Cookie": "session=abc", "Origin": "https://evil.example"}
    async with connect(APP, headers=headers) as peer:
        assert peer.rejected.status == 403
    headers["Origin"] = "http://testserver"
    async with connect(APP, headers=headers) as peer:
        assert peer.end is None


async def test_what_is_no_user() -> None:
    app = app_of(SessionCookie(User, read=lambda value: Person(value)))  # type: ignore[arg-type, return-value]
    async with connect(app, headers={"Cookie": "session=abc"}) as peer:
        assert peer.rejected.status == 500
        assert peer.end is not None
        assert "read has returned a Person, and not a User or None" in str(peer.end.error)


def test_what_cannot_be_constructed() -> None:
    with pytest.raises(TypeError, match="use a function"):
        SessionCookie(User, read=SESSIONS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the name of the cookie is empty"):
        SessionCookie(User, read=read, name="")
    with pytest.raises(TypeError, match="SessionCookie"):
        SessionCookie(dict, read=read)  # type: ignore[arg-type]


ANY = ("https://example.com", "*")


async def test_it_needs_the_check_of_the_origin() -> None:
    with pytest.raises(DeclarationError) as raised:
        async with serve_in_memory(APP, limits=Limits(origin=ANY)):
            raise AssertionError
    (problem,) = raised.value.problems
    assert problem.subject == "on_connect SessionCookie"
    assert problem.where.rpartition(":")[0].endswith("users.py")
    assert "a page of any site" in problem.why
    assert "--origin https://example.com" in problem.cure
    async with serve_in_memory(APP, limits=Limits(origin=ANY[:1])):
        pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_does_not_start_without_it() -> None:
    with pytest.raises(DeclarationError):
        async with serve(APP, Settings(port=0, origin=("*",))):
            raise AssertionError


@pytest.mark.parametrize("workers", ["1", "2"])
def test_wsflow_run_says_so(capsys: pytest.CaptureFixture[str], workers: str) -> None:
    arguments = ["run", "tests.auth.test_cookie:APP", "--port", "0", "--origin", "*"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--workers", workers])
    assert left.value.code == 3
    assert "Fix: name the origins" in capsys.readouterr().err
