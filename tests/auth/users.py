"""A user, keys and tokens for the tests of authentication."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import jwt
import msgspec

from wsflow import Requires, Router
from wsflow.auth import Bearer

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


class User(msgspec.Struct):
    sub: str
    roles: list[str] = []


@dataclass
class Person:
    sub: str


class Say(msgspec.Struct, tag="say"):
    text: str


class Said(msgspec.Struct, tag="said"):
    text: str


class Ban(msgspec.Struct, tag="ban"):
    name: str


def token(
    sub: str | None = "ada",
    *,
    key: Any = KEY,
    alg: str = "HS256",
    headers: dict[str, Any] | None = None,
    seconds: float | None = None,
    **claims: Any,
) -> str:
    """A token; ``seconds`` until it expires, from now."""
    if sub is not None:
        claims["sub"] = sub
    if seconds is not None:
        claims["exp"] = time.time() + seconds
    return jwt.encode(claims, key, algorithm=alg, headers=headers)


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def app_of(auth: Any, path: str = "/") -> Router:
    """Says who says something; admins may ban."""
    app = Router(path)
    app.on_connect(auth)

    @app.consumer
    async def say(message: Say, user: User) -> Said:
        return Said(f"{user.sub}: {message.text}")

    @app.consumer
    async def ban(message: Ban, user: Annotated[User, Requires("admin")]) -> Said:
        return Said(f"{user.sub} bans {message.name}")

    return app


def bearer_app(**options: Any) -> Router:
    return app_of(Bearer(User, **{"key": KEY, **options}))
