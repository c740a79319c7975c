"""HTTP and URL helpers: headers, statuses, percent-encoding, the parts of a URI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers as an argument: a mapping, or pairs."""

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
_PHRASES = {each.value: each.phrase for each in HTTPStatus}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def header_pairs(headers: HeaderItems) -> list[tuple[str, str]]:
    """The headers as pairs.

    Raises:
        TypeError: they are not pairs of str.
    """
    if isinstance(headers, str):
        raise TypeError("headers is a str: use a mapping, or pairs")
    pairs: list[tuple[str, str]] = []
    for item in headers.items() if isinstance(headers, Mapping) else headers:
        match item:
            case (str(name), str(value)):
                pairs.append((name, value))
            case _:
                raise TypeError(
                    f"a {type(item).__name__} that is no pair of two str is not a header: use a "
                    "name and a value, each a str"
                )
    return pairs


def check_text(what: str, text: object) -> None:
    """Check that a value is a str.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r}: use a str")


def is_token(text: object) -> bool:
    """Whether it is a token (RFC 9110 §5.6.2), as the name of a header or a subprotocol."""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


def check_name(what: str, text: object) -> None:
    """Check that a value can be a name: a str that is not empty, and can be encoded.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or has half of a surrogate pair.
    """
    check_text(what, text)
    if not text:
        raise ValueError(f"{what} is empty")
    check_encodable(what, str(text))


def check_encodable(what: str, text: str) -> None:
    """Check that a text can be encoded.

    Raises:
        ValueError: it has half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has half of a surrogate pair, which is no character") from None


def check_own_headers(headers: Sequence[tuple[str, str]]) -> None:
    """Check the headers of an answer: as ``check_headers``, and none of them says where it ends.

    Raises:
        ValueError: one of them may not be sent.
    """
    check_headers(headers)
    for name, _ in headers:
        if name.lower() in ("content-length", "transfer-encoding", "connection"):
            raise ValueError(f"{name} is not yours to set: it follows from the body")


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Check that headers may be sent (RFC 9110 §5).

    Raises:
        ValueError: a name is not a token, or a value has a character that is not allowed. The
            message shows neither: what is no name may be a secret in the wrong place.
    """
    for number, (name, value) in enumerate(headers, 1):
        if not is_token(name):
            wrong = repr(_TOKEN.sub("", name, count=1)[0]) + " in it" if name else "no character"
            raise ValueError(
                f"the name of header {number} is not a header name, it has {wrong}: use letters, "
                "digits and -"
            )
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"the value of header {name!r} has a character that is not allowed")


def status_phrase(status: int) -> str:
    """The reason phrase of a status (RFC 9110 §15); empty if it has none."""
    return _PHRASES.get(status, "")


def percent_encode(text: str) -> str:
    """Encode all bytes outside ``[A-Za-z0-9_-]``, so that no separator or wildcard is left."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def split_uri(uri: str) -> SplitResult:
    """The parts of a URI.

    Raises:
        ValueError: its host or port is invalid. The message shows neither, since they may be parts
            of a password.
    """
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "its host or port is invalid: write scheme://host:port, with a port from 0 to 65535, "
            "and percent-encode special characters of user and password"
        ) from None
    return parts
