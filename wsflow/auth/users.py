"""What all helpers share: the type of the user, keys, and how a connection is refused."""

from __future__ import annotations

import inspect
from typing import Any, Generic, TypeVar

import msgspec

from wsflow.connection import Connection
from wsflow.errors import Reject
from wsflow.messages.hooks import NO_HOOKS, HookError
from wsflow.request import Request

U = TypeVar("U")

SHORTEST_KEY = 32
"""Bytes of a secret key of HMAC with SHA-256 (RFC 7518 §3.2)."""


class Users(Generic[U]):
    """Users of one type, from plain values.

    Args:
        helper: the name of the helper, for messages.
        kind: a msgspec Struct, a dataclass, a model of pydantic, or another class that msgspec
            converts to.

    Raises:
        TypeError: it is none of these.
    """

    def __init__(self, helper: str, kind: type[U]) -> None:
        try:
            if not isinstance(kind, type) or kind in (str, bytes, int, float, bool, dict, list):
                raise TypeError("it is no class of its own")
            msgspec.json.Decoder(kind)
        except TypeError as exc:
            raise TypeError(
                f"{helper}({kind!r}): {exc}. Use a msgspec.Struct, a dataclass or a model of "
                "pydantic with the fields of the user"
            ) from None
        self.kind = kind

    def convert(self, value: Any) -> U:
        """Make a user of what was read.

        Raises:
            msgspec.ValidationError: it does not fit.
        """
        try:
            return msgspec.convert(value, self.kind, dec_hook=NO_HOOKS.decode)
        except HookError as exc:
            raise msgspec.ValidationError(str(exc)) from None

    def plain(self, user: U) -> Any:
        """The plain value of a user."""
        return msgspec.to_builtins(user, enc_hook=NO_HOOKS.encode)


def provides(kind: Any, *parameters: tuple[str, Any]) -> inspect.Signature:
    """The signature (PEP 362) of a callable object that is injected with ``parameters``, and
    returns a ``kind`` of its own."""
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
            for name, annotation in parameters
        ],
        return_annotation=kind,
    )


def secret(helper: str, key: object, shortest: int = SHORTEST_KEY) -> bytes:
    """The bytes of a secret key.

    Raises:
        TypeError: it is neither a str nor bytes.
        ValueError: it is too short. The key is not shown.
    """
    if not isinstance(key, str | bytes):
        raise TypeError(f"{helper}: a key is a {type(key).__name__}: use a str or bytes")
    data = key.encode() if isinstance(key, str) else key
    if len(data) < shortest:
        raise ValueError(
            f"{helper}: the key has {len(data)} bytes, and less than {shortest} can be guessed: "
            f"make one with python -c 'import secrets; print(secrets.token_urlsafe({shortest}))'"
        )
    return data


def refused(why: str = "", error: str = "invalid_token", *, status: int = 401) -> Reject:
    """The answer to a request whose credential is missing or not accepted (RFC 6750 §3)."""
    if not why:
        return Reject(status, "a credential is needed\n", {"WWW-Authenticate": "Bearer"})
    shown = "".join(each if " " <= each <= "~" and each not in '"\\' else "'" for each in why)
    challenge = f'Bearer error="{error}", error_description="{shown}"'
    return Reject(status, f"{why}\n", {"WWW-Authenticate": challenge})


def offered(request: Request, prefix: str) -> list[str]:
    """The tokens that are offered as subprotocols: what follows ``prefix``."""
    return [
        name[len(prefix) :]
        for name in request.subprotocols
        if name[: len(prefix)].lower() == prefix
    ]


def answer_offer(connection: Connection, prefix: str) -> None:
    """Answer with the first subprotocol if nothing but tokens is offered: a browser fails a
    connection without one of those that it has offered."""
    names = connection.request.subprotocols
    if names and len(offered(connection.request, prefix)) == len(names):
        connection._echo(names[0])


def sorted_json(value: Any) -> str:
    """A value as text: equal for equal values."""
    return msgspec.json.encode(value, order="sorted", enc_hook=NO_HOOKS.encode).decode()
