"""Who is let in, and how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from websockets.datastructures import Headers

from wsflow import Query, Reject, Router
from wsflow.addresses import Address
from wsflow.limits import Limits
from wsflow.request import Request
from wsflow.runtime.admission import Admission
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app


async def echo(message: str) -> str:
    return message


async def test_a_path_that_goes_further_down() -> None:
    app = Router("/a/b")
    app.consumer(echo)
    async with connect(app, "/a") as peer:
        assert peer.rejected.status == 404


# -- how many


def admission_of(**limits: Any) -> Admission:
    app = Router("/")
    app.consumer(echo)

    @app.on_connect
    async def enter(wrong: Annotated[int, Query()] = 0) -> None: ...

    return Admission(compile_app(app).routes, Limits(**limits))


def request_from(client: str | None, target: str = "/") -> Request:
    headers = Headers({"Host": "localhost"})
    return Request.parse(target, headers, client=Address(client, 1) if client else None)


def let_in(admission: Admission, client: str | None, user: str | None = None) -> bool:
    """Whether a connection begins."""
    request = request_from(client)
    try:
        admission.admit(request)
    except Reject:
        return False
    admission.begun(request)
    if user is not None:
        try:
            admission.identified(user)
        except Reject:
            admission.ended(request, None)
            return False
    return True


Kind = tuple[str, Callable[[int], tuple[str | None, str | None]]]
KINDS: dict[str, Kind] = {
    "in all": ("max_connections", lambda n: (f"192.0.2.{n}", f"user {n}")),
    "of an address": ("max_connections_per_client", lambda n: ("192.0.2.1", f"user {n}")),
    "of a /64": ("max_connections_per_client", lambda n: (f"2001:db8::{n}", f"user {n}")),
    "of no address": ("max_connections_per_client", lambda n: (None, f"user {n}")),
    "of a user": ("max_connections_per_user", lambda n: (f"192.0.2.{n}", "ada")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_so_many_and_not_one_more(kind: str, most: int) -> None:
    option, nth = KINDS[kind]
    admission = admission_of(**{option: most})
    for _ in range(3):  # what has ended makes room, each for one
        began = [let_in(admission, *nth(n)) for n in range(5)]
        assert began == ([n < most for n in range(5)] if most else [True] * 5)
        held = most or 5
        if most:
            client, user = nth(held - 1)
            admission.ended(request_from(client), user)
            assert let_in(admission, *nth(held - 1))
            assert not let_in(admission, *nth(5))
        for n in range(held):
            client, user = nth(n)
            admission.ended(request_from(client), user)
    assert (admission._count, admission._clients, admission._users) == (0, {}, {})


def test_nobody_is_remembered_who_is_not_here() -> None:
    """Neither those that have left, nor those that were refused."""
    admission = admission_of(
        max_connections=2, max_connections_per_client=1, max_connections_per_user=1
    )
    for n in range(100):
        client, user = f"192.0.2.{n}", f"user {n}"
        assert let_in(admission, client, user)
        assert not let_in(admission, client)
        assert not let_in(admission, f"198.51.100.{n}", user)
        assert let_in(admission, f"203.0.113.{n}")
        assert not let_in(admission, f"2001:db8:{n}::1")
        assert len(admission._clients) == 2
        assert len(admission._users) == 1
        admission.ended(request_from(client), user)
        admission.ended(request_from(f"203.0.113.{n}"), None)
        with pytest.raises(Reject, match="400"):
            admission.admit(request_from(f"192.0.2.{n}", "/?wrong=x"))
        assert (admission._count, dict(admission._clients), dict(admission._users)) == (0, {}, {})
