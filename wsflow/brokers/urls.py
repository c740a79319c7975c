"""The URLs of brokers: servers, credentials, options, and the files that these name.

Nothing that is raised here has a value of the URL: it may be a secret, or a part of one.
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final
from urllib.parse import parse_qsl, unquote

from wsflow.http import split_uri
from wsflow.log import escaped, shown_uri

Kinds = Mapping[str, Callable[[str], Any]]
"""The options that a URL may have: by name, what reads the value. It raises a ValueError that says
what the value is: "is yes or no"."""

SPLIT = (
    "a character of its user or password ends it too early: percent-encode all but letters and "
    "digits (/ is %2F, ? is %3F, # is %23, @ is %40, a comma is %2C)"
)


PREFIX = "wsflow"
"""What the names at a broker begin with, unless the option ``prefix`` says another one."""


@final
@dataclass(frozen=True, slots=True)
class Server:
    """A server of a URL. Without a password, the user may be a token."""

    host: str
    port: int | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def at(self, port: int | None) -> str:
        """Its host and port, as text; ``port`` if it has none."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = self.port or port
        return f"{host}:{port}" if port else host

    def __str__(self) -> str:
        user = "" if self.user is None and self.password is None else "…@"
        return user + self.at(None)


@final
@dataclass(frozen=True, slots=True)
class Url:
    """A URL of a server, or of several between commas, in parts. The scheme is in lower case."""

    scheme: str
    servers: tuple[Server, ...]
    path: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """It without users, passwords and options: for messages and logs."""
        places = ",".join(map(str, self.servers))
        return escaped(f"{self.scheme}://{places}{self.path}{'?…' if self.options else ''}")


def read_url(url: str, kinds: Kinds, refused: Mapping[str, str]) -> Url:
    """The parts of ``scheme://user:password@host:port,host:port/path?options``.

    The user is that of the first server alone.

    Args:
        url: the URL.
        kinds: its options.
        refused: options that users may expect, and why there are none; by name.

    Raises:
        ValueError: it is no such URL.
    """
    scheme, _, rest = url.partition("://")
    found = re.fullmatch(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", rest, re.DOTALL)
    assert found is not None, "it matches any text"
    place, path, query, fragment = found.groups("")
    if fragment or "@" in path + query:
        raise ValueError(SPLIT)
    user, at, hosts = place.rpartition("@")
    first, *others = hosts.split(",")
    if "," in user:
        raise ValueError(SPLIT)
    servers = (_server(user + at + first), *map(_server, others))
    return Url(scheme.lower(), servers, path, read_options(query[1:], kinds, refused))


def read_list(url: str, kinds: Kinds, refused: Mapping[str, str]) -> Url:
    """The parts of several URLs between commas, whose options are those of all.

    They have one scheme: that of the first is also that of those without. Each server has the user
    that stands before it, or none.

    Raises:
        ValueError: they are no such URLs.
    """
    scheme = url.partition("://")[0].lower()
    servers: list[Server] = []
    options: dict[str, Any] = {}
    for each in url.split(","):
        if "://" not in each:
            if "@" in each:
                raise ValueError(
                    f"a server with a user of its own begins with {scheme}://; or "
                    f"{SPLIT[0].lower()}{SPLIT[1:]}"
                )
            each = f"{scheme}://{each}"
        part = read_url(each, kinds, refused)
        if part.scheme != scheme:
            raise ValueError(
                f"each of its servers begins with {scheme}://, as the first, or with none"
            )
        if part.path.strip("/"):
            raise ValueError("it has a path: there is none")
        for name in part.options.keys() & options.keys():
            raise ValueError(f"its option {name} has no value, or two")
        servers += part.servers
        options |= part.options
    return Url(scheme, tuple(servers), "", options)


def _server(place: str) -> Server:
    if re.search(r"[\x00-\x20\x7f]", place):
        raise ValueError(f"it has a space or a control character: {SPLIT}")
    parts = split_uri(f"x://{place}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("it names no host")
    return Server(parts.hostname, parts.port, _decoded(parts.username), _decoded(parts.password))


def _decoded(text: str | None) -> str | None:
    try:
        return None if text is None else unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("its user or password is percent-encoded, and is no UTF-8") from None


def read_options(query: str, kinds: Kinds, refused: Mapping[str, str]) -> dict[str, Any]:
    """The options of a query.

    Raises:
        ValueError: one is unknown, empty, there twice, or has a value that is none.
    """
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in kinds:
            raise ValueError(_unknown(name, kinds, refused))
        if not value or name in options:
            raise ValueError(f"its option {name} has no value, or two")
        try:
            options[name] = kinds[name](value)
        except ValueError as exc:
            raise ValueError(f"its option {name} {exc}") from None
    return options


def _unknown(name: str, kinds: Collection[str], refused: Mapping[str, str]) -> str:
    if name in refused:
        return f"its option {name} is refused: {refused[name]}"
    if not re.fullmatch("[A-Za-z_]{1,40}", name):
        return f"it has an option whose name is none: use {', '.join(kinds)}"
    close = difflib.get_close_matches(name.lower(), kinds, n=1)
    return f"it has an unknown option {name!r}: use {close[0] if close else ', '.join(kinds)}"


def shown(url: str) -> str:
    """A URL for messages, or what was meant to be one. If a character of a password ends it too
    early, what is before that may be a part of the password: then only the scheme is shown."""
    scheme, between, rest = url.partition("://")
    for number, each in enumerate(rest.split(",") if between else ()):
        nested = "://" in each
        place = each.partition("://")[2] if nested else each
        if re.search(r"[/?#].*@", place, re.DOTALL) or (number and "@" in each and not nested):
            return f"{shown_uri(f'{scheme}://')}…"
    return shown_uri(url)


# -- kinds of options


def text(value: str) -> str:
    """Any text."""
    return value


def whole(value: str) -> int:
    """A whole number, at least 0."""
    if not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError("is a number")
    return int(value)


def seconds(value: str) -> float:
    """A number of seconds, more than 0."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not float(value):
        raise ValueError("is a number of seconds, more than 0")
    return float(value)


def switch(value: str) -> bool:
    """Yes or no."""
    words = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}
    if value.lower() not in words:
        raise ValueError("is yes or no")
    return words[value.lower()]


def one_of(values: Mapping[str, Any]) -> Callable[[str], Any]:
    """What reads one of some words."""

    def read(value: str) -> Any:
        if value not in values:
            raise ValueError(f"is one of {', '.join(values)}")
        return values[value]

    return read


def file(value: str) -> str:
    """The path of a file that can be read."""
    try:
        with Path(value).open("rb"):
            return value
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no path"
        raise ValueError(f"names a file that cannot be read: {why}") from None


def folder(value: str) -> str:
    """The path of a folder."""
    if "\0" in value or not Path(value).is_dir():
        raise ValueError("names no folder")
    return value


# -- TLS

TLS_OPTIONS: Kinds = {
    "ssl_ca_certs": file,
    "ssl_ca_path": folder,
    "ssl_cert_reqs": one_of(
        {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
    ),
    "ssl_certfile": file,
    "ssl_check_hostname": switch,
    "ssl_ciphers": text,
    "ssl_keyfile": file,
    "ssl_min_version": one_of(
        {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
            "771": ssl.TLSVersion.TLSv1_2,
            "772": ssl.TLSVersion.TLSv1_3,
        }
    ),
    "ssl_password": text,
}
"""The options of TLS, named as in redis-py: a private CA, which is a file (``ssl_ca_certs``) or a
folder (``ssl_ca_path``); a client's certificate, its key and the password of that; and what the
server's certificate is held to."""


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """What TLS options ask for. The files are read now.

    Raises:
        ValueError: one of them cannot be used.
    """
    context = ssl.create_default_context()
    verify = options.get("ssl_cert_reqs", ssl.CERT_REQUIRED)
    context.check_hostname = verify != ssl.CERT_NONE and options.get("ssl_check_hostname", True)
    context.verify_mode = verify
    context.minimum_version = options.get("ssl_min_version", context.minimum_version)
    if "ssl_ciphers" in options:
        with _naming("ssl_ciphers"):
            context.set_ciphers(options["ssl_ciphers"])
    if "ssl_ca_certs" in options or "ssl_ca_path" in options:
        with _naming("ssl_ca_certs, or ssl_ca_path,"):
            context.load_verify_locations(options.get("ssl_ca_certs"), options.get("ssl_ca_path"))
    if "ssl_certfile" in options:
        with _naming("ssl_certfile, ssl_keyfile or ssl_password"):
            context.load_cert_chain(
                options["ssl_certfile"],
                options.get("ssl_keyfile"),
                options.get("ssl_password", ""),  # "" as it would ask on the terminal for None
            )
    elif "ssl_keyfile" in options or "ssl_password" in options:
        raise ValueError("its options ssl_keyfile and ssl_password need ssl_certfile")
    return context


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Within it, an error of ``ssl`` is one of an option of the URL."""
    try:
        yield
    except OSError as exc:  # ssl.SSLError, too
        why = getattr(exc, "reason", None) or exc.strerror or exc
        raise ValueError(f"its option {name} cannot be used: {why}") from None


def no_tls(scheme: str) -> Mapping[str, str]:
    """The options of TLS as those that are refused, where there is no TLS.

    Args:
        scheme: that of TLS.
    """
    return dict.fromkeys(TLS_OPTIONS, f"it needs {scheme}://")
