from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import pytest

from wsflow import Forbidden, Requires


@dataclass
class User:
    roles: Any = field(default_factory=list)


class Role(enum.StrEnum):
    ADMIN = "admin"


async def coroutine(user: User) -> bool:
    return True


class Asked:
    def __call__(self, user: User) -> bool:
        return bool(user.roles)


@pytest.mark.parametrize(
    ("asked", "roles"),
    [
        ("admin", ["admin"]),
        ("admin", ("editor", "admin")),
        ("admin", {"admin"}),
        ("admin", "admin"),
        ("admin", [Role.ADMIN]),
        (Role.ADMIN, ["admin"]),
        ("ä\udc80", ["ä\udc80"]),
        (lambda user: "admin" in user.roles, ["admin"]),
        (Asked(), ["x"]),
    ],
)
def test_who_may(asked: Any, roles: Any) -> None:
    Requires(asked).check(User(roles))


@pytest.mark.parametrize(
    ("asked", "roles"),
    [
        ("admin", []),
        ("admin", ""),
        ("a", "admin"),
        ("admin", "admin editor"),
        ("admin", ["Admin", "admin ", "adm", "administrator"]),
        ("?", ["\udc80"]),
        (lambda user: False, ["admin"]),
    ],
)
def test_who_may_not(asked: Any, roles: Any) -> None:
    with pytest.raises(Forbidden, match=r"^forbidden$"):
        Requires(asked).check(User(roles))


def test_nobody_may_nothing() -> None:
    for asked in ("admin", lambda user: True):
        with pytest.raises(Forbidden):
            Requires(asked).check(None)


def test_what_is_no_answer() -> None:
    """An answer that is not a bool would be taken for True."""
    for asked, what in ((lambda user: coroutine(user), "coroutine"), (lambda user: 1, "int")):
        with pytest.raises(TypeError, match=f"returned a {what}, and not True or False"):
            Requires(asked).check(User())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Requires\\('admin'\\): a role of the user is a int"):
        Requires("admin").check(User([5]))
    with pytest.raises(AttributeError, match="roles"):
        Requires("admin").check(object())


def test_what_is_no_requirement() -> None:
    with pytest.raises(ValueError, match="the role is empty"):
        Requires("")
    for wrong in (5, None, coroutine):
        with pytest.raises(TypeError, match="use the name of a role, or a plain function"):
            Requires(wrong)  # type: ignore[arg-type]


def test_its_name() -> None:
    assert Requires("admin").name == "'admin'"
    assert Requires(bool).name == "bool"
    assert Requires(Asked()).name == "Asked"


def test_forbidden_has_a_text() -> None:
    with pytest.raises(TypeError):
        Forbidden(5)  # type: ignore[arg-type]
