"""A JSON Web Token as a bearer token (RFC 7519, RFC 6750)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, cast, final

import jwt
import msgspec

from wsflow.auth.users import Users, answer_offer, offered, provides, refused, secret, sorted_json
from wsflow.connection import Connection
from wsflow.credential import EXPIRED, GRACE, Credential
from wsflow.errors import Close, Reject
from wsflow.request import Request

U = TypeVar("U")

Source = Literal["header", "subprotocol", "message"]
SOURCES: tuple[Source, ...] = ("header", "subprotocol", "message")
PREFIX = "bearer."

Key = Any
"""A key as PyJWT takes it: str, bytes, a PyJWK, or a key of ``cryptography``."""

FindKey = Callable[[Mapping[str, Any]], Key | Awaitable[Key]]
"""From the header of a token (with its ``kid``) to the key that verifies it."""

HMAC_KEYS: Mapping[str, int] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The shortest key of each, in bytes (RFC 7518 §3.2)."""


@final
class Bearer(Generic[U]):
    """An ``on_connect`` function that takes a JSON Web Token, and provides a ``User``.

    The token comes in ``Authorization: Bearer …``; or from a browser as a subprotocol,
    ``new WebSocket(url, ["wsflow.json", "bearer." + token])``; or, if there is neither, in the
    first message, ``{"type": "$auth", "token": "…"}``. It is never taken from the query: URLs
    are kept in logs and histories (RFC 6750 §2.3).

    Signature, ``exp``, ``nbf``, ``iat``, ``aud`` and ``iss`` are verified, and the claims are
    converted to the user. What is not accepted is refused with 401 and ``WWW-Authenticate`` (RFC
    6750 §3), and with 4401 once the handshake is accepted. A connection whose token has an ``exp``
    is closed with 4401 ``grace`` seconds after it, unless the peer sends a new token of the same
    ``iss`` and ``sub`` before that. A token without ``exp`` is valid for good.

    Args:
        user: the type of the user: a Struct, a dataclass or a model of pydantic. Claims that it
            has no field for are ignored; a token that lacks a field without a default is refused.
        key: what verifies the signature; or a function from the header of a token to that, plain or
            async, for keys that rotate. Such a function raises LookupError for a key that it does
            not know; it must not block.
        algorithms: the algorithms that are accepted: all of one family.
        audience: what ``aud`` must contain, one of these. None refuses tokens that have an ``aud``.
        issuer: what ``iss`` must be, one of these; None for any.
        leeway: seconds by which the clocks of issuer and server may differ.
        sources: where a token may come from.
        grace: seconds after ``exp`` in which a renewal is accepted.

    Raises:
        ValueError: the key is empty, too short (RFC 7518 §3.2) or none of the algorithms';
            ``algorithms`` has ``"none"``, an unknown one, or several families; a source is unknown;
            ``leeway`` or ``grace`` is negative.
        TypeError: the type of the user is none that msgspec converts to.
    """

    def __init__(
        self,
        user: type[U],
        *,
        key: Key | FindKey,
        algorithms: Sequence[str] = ("HS256",),
        audience: str | Iterable[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway: float = 0.0,
        sources: Sequence[Source] = SOURCES,
        grace: float = GRACE,
    ) -> None:
        self._users = Users("Bearer", user)
        self._algorithms = _checked_algorithms(algorithms)
        self._find: FindKey | None = key if callable(key) else None
        self._key: Key = None if callable(key) else _checked_key(key, self._algorithms)
        self._audience = [audience] if isinstance(audience, str) else audience and [*audience]
        self._issuer = issuer
        if not (leeway >= 0 and grace >= 0):
            raise ValueError("Bearer: leeway and grace are seconds, 0 or more")
        self._leeway = leeway
        self._grace = grace
        if isinstance(sources, str) or not sources or not set(sources) <= set(SOURCES):
            raise ValueError(
                f"Bearer: sources is {sources!r}: use a tuple of {', '.join(map(repr, SOURCES))}"
            )
        self._sources = tuple(sources)
        self.__signature__ = provides(user, ("connection", Connection))

    async def __call__(self, connection: Connection) -> U:
        """Take the token of a connection, and provide its user.

        Raises:
            Reject: with 401: there is none, or it is not accepted; with 400: there are several.
            Close: with 4401: the token of the first message is not accepted.
        """
        token = self._sent(connection.request)
        asked = token is None and "message" in self._sources
        if asked:
            token = await connection.ask_credential()
        if token is None:
            raise refused()
        try:
            credential = await self._credential(token)
        except Reject as exc:
            if asked:
                raise Close(EXPIRED, exc.body.strip()) from None
            raise
        answer_offer(connection, PREFIX)
        connection.set_credential(credential)
        return cast(U, credential.user)

    @property
    def credential_options(self) -> Sequence[tuple[str, str]]:
        """The options of ``wsflow connect`` that send a token; none if it is sent as a message."""
        options = {
            "header": ("--header", "Authorization: Bearer …"),
            "subprotocol": ("--subprotocol", f"{PREFIX}…"),
        }
        return [options[each] for each in SOURCES if each in self._sources and each in options][:1]

    @property
    def credential_places(self) -> Sequence[tuple[str, str]]:
        """Where clients may put a token."""
        parameter = {"header": "Authorization", "subprotocol": PREFIX, "message": ""}
        return [(each, parameter[each]) for each in SOURCES if each in self._sources]

    def _sent(self, request: Request) -> str | None:
        """The token of the opening request; None without one.

        Raises:
            Reject: there are several.
        """
        found: list[str] = []
        if "header" in self._sources:
            for value in request.headers.get_all("Authorization"):
                scheme, _, token = value.strip().partition(" ")
                if scheme.lower() == "bearer":
                    found.append(token.strip())
        if "subprotocol" in self._sources:
            found += offered(request, PREFIX)
        if len(found) > 1:
            raise refused("send one token, in one way", "invalid_request", status=400)
        return found[0] if found else None

    async def _credential(self, token: str) -> Credential:
        """Verify a token.

        Raises:
            Reject: it is not accepted.
        """
        key = self._key
        if self._find is not None:
            key = await self._found_key(self._find, token)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
            )
            user = self._users.convert(claims)
            ends = int(claims["exp"]) + self._leeway if "exp" in claims else None
        except jwt.ExpiredSignatureError:
            raise refused("the token has expired") from None
        except msgspec.ValidationError as exc:
            raise refused(f"the claims of the token do not fit: {exc}") from None
        except (jwt.InvalidTokenError, ArithmeticError, RecursionError, ValueError) as exc:
            raise refused(_why(exc)) from None
        if "sub" in claims:
            identity = sorted_json([claims.get("iss"), claims["sub"]])
        else:
            identity = sorted_json(user)
        return Credential(
            identity=identity,
            expires_in=None if ends is None else max(ends - time.time(), 0.0),
            renew=self._credential,
            grace=self._grace,
            user=user,
        )

    async def _found_key(self, find: FindKey, token: str) -> Key:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise refused("the token is malformed") from None
        if header.get("alg") not in self._algorithms:
            raise refused("the algorithm of the token is not accepted")
        try:
            key = find(header)
            if inspect.isawaitable(key):
                key = await key
        except LookupError:
            key = None
        if key is None:
            raise refused("the key of the token is not known")
        return _checked_key(key, [header["alg"]])


def _why(exc: Exception) -> str:
    """Why a token is not accepted, without its content."""
    if isinstance(exc, jwt.MissingRequiredClaimError):
        return f"the token lacks the claim {exc.claim}"
    for kind, why in (
        (jwt.ImmatureSignatureError, "the token is not valid yet"),
        (jwt.InvalidAudienceError, "the token is for another audience"),
        (jwt.InvalidIssuerError, "the token is of another issuer"),
        (jwt.InvalidAlgorithmError, "the algorithm of the token is not accepted"),
        (jwt.InvalidSignatureError, "the signature of the token is not valid"),
    ):
        if isinstance(exc, kind):
            return why
    return "the token is malformed"


def _checked_algorithms(algorithms: Sequence[str]) -> list[str]:
    if isinstance(algorithms, str) or not algorithms:
        raise ValueError(f'Bearer: algorithms is {algorithms!r}: use a tuple, as in ("HS256",)')
    for each in algorithms:
        if str(each).lower() == "none":
            raise ValueError('Bearer: algorithms has "none", with which everybody can make tokens')
        try:
            jwt.get_algorithm_by_name(each)
        except NotImplementedError as exc:
            needs = "cryptography" in str(exc)
            cure = "pip install 'PyJWT[crypto]'" if needs else "see RFC 7518 §3.1"
            raise ValueError(f"Bearer: the algorithm {each!r} is not available: {cure}") from None
    if len({each in HMAC_KEYS for each in algorithms}) > 1:
        raise ValueError(
            "Bearer: algorithms has secret keys (HS…) beside public ones. Whoever knows the public "
            "key could sign with it: use one family, and a Bearer for each"
        )
    return [*algorithms]


def _checked_key(key: Key, algorithms: Sequence[str]) -> Key:
    """A key, if it is one of these algorithms.

    Raises:
        ValueError: it is not; the key is not shown.
    """
    for each in algorithms:
        prepared = key.key if isinstance(key, jwt.PyJWK) else key
        if each in HMAC_KEYS and isinstance(prepared, str | bytes):
            secret("Bearer", prepared, HMAC_KEYS[each])
        try:
            if not isinstance(key, jwt.PyJWK):
                jwt.get_algorithm_by_name(each).prepare_key(key)
        except (jwt.InvalidKeyError, TypeError, ValueError) as exc:
            raise ValueError(f"Bearer: the key is none of {each}: {type(exc).__name__}") from None
    return key
