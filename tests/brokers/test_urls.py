"""The URLs of brokers: what they may have, and that no secret is in what is said of them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Connection

from wsflow.brokers import select, urls
from wsflow.brokers.nats import NatsEngine
from wsflow.brokers.redis import RedisEngine
from wsflow.brokers.urls import Server

ODD = "/?#@:,[]%&=+ \\\"'<>{}|^`~!$*();é\n\t\x00%41"
"""A password with all that means something in a URL, and that is escaped twice."""


def redis_of(url: str) -> Any:
    """What the engine gives redis-py."""
    engine: Any = RedisEngine(url)
    return Connection(host="h", port=1, **engine._server)


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        (f"redis://me:{quote(ODD, safe='')}@host", "me", ODD),
        (f"redis://{quote(ODD, safe='')}:secret@host", ODD, "secret"),
        ("redis://:p@ss@host", None, "p@ss"),  # the last @ is the one
        ("redis://me:a:b@host", "me", "a:b"),
        ("redis://me:50%@host", "me", "50%"),
        ("redis://me@host", "me", None),
        ("redis://host", None, None),
        ("redis+sentinel://me:a%2Cb@host,other/app", "me", "a,b"),
    ],
)
def test_credentials_of_redis(url: str, user: str | None, password: str | None) -> None:
    made = redis_of(url)
    assert (made.username, made.password) == (user, password)


def test_servers_of_nats() -> None:
    odd = quote(ODD, safe="")
    engine: Any = NatsEngine(f"nats://me:{odd}@a:1,nats://{odd}@b,[::1]:2,nats://c:@d?prefix=x")
    assert engine._servers == (
        Server("a", 1, "me", ODD),
        Server("b", None, ODD),
        Server("::1", 2),
        Server("d", None, "c", ""),
    )
    assert [each.at(4222) for each in engine._servers] == ["a:1", "b:4222", "[::1]:2", "d:4222"]
    assert engine.address == "nats://…@a:1,…@b,[::1]:2,…@d?…"
    assert "secret" not in repr(Server("a", 1, "secret", "secret"))


BAD = [
    ("redis://host?unknown=SECRET", "it has an unknown option 'unknown': use prefix, db, "),
    ("redis://host?prefix=", "its option prefix has no value, or two"),
    ("redis://host?prefix=a&prefix=b", "its option prefix has no value, or two"),
    ("redis://host:SECRET", "its host or port is invalid"),
    ("redis://host:99999", "its host or port is invalid"),
    ("redis://host:0", "it names no host"),
    ("redis://me:SECRET/x@host", "ends it too early: percent-encode"),
    ("redis://[::1", "its host or port is invalid"),
    ("redis://", "it names no host"),
    ("redis:///0", "it names no host"),
    ("redis://me:SECRET@", "it names no host"),
    ("redis://host/x", "its path is the number of a database: redis://host/0"),
    ("redis://host/0/1", "its path is the number of a database: redis://host/0"),
    ("nats://host?unknown=SECRET", "it has an unknown option 'unknown': use prefix, replicas"),
    ("nats://a,b?unknown=SECRET", "it has an unknown option 'unknown'"),
    ("nats://host?replicas=SECRET", "its option replicas is one of 1, 2, 3, 4, 5"),
    ("nats://host?replicas=6", "its option replicas is one of 1, 2, 3, 4, 5"),
    ("nats://host?prefix=", "its option prefix has no value, or two"),
    ("nats://host:SECRET", "its host or port is invalid"),
    ("nats://SECRET@host:0", "it names no host"),
    ("nats://me:SECRET@a,http://me:SECRET@b", "each of its servers begins with nats://"),
    ("nats://a,,b", "it names no host"),
    ("tls://", "it names no host"),
    ("redis://me:12/SECRET@host", "ends it too early: percent-encode"),
    ("redis://me:12?SECRET@host", "ends it too early: percent-encode"),
    ("redis://me:12#SECRET@host", "ends it too early: percent-encode"),
    ("redis://me:12?SECRET=a@host", "ends it too early: percent-encode"),
    ("redis://host#SECRET", "ends it too early: percent-encode"),
    ("redis+sentinel://me:12,SECRET@host/app", "ends it too early: percent-encode"),
    ("redis://me:SEC RET@host", "a space or a control character"),
    ("redis://me:SEC\nRET@host", "a space or a control character"),
    ("redis://me:SECRET%FF@host", "is percent-encoded, and is no UTF-8"),
    ("redis://me:SECRET[@host", "its host or port is invalid"),
    ("redis://host?SECRET!", "it has an option whose name is none: use prefix, db, "),
    ("redis://host?protocl=3", "it has an unknown option 'protocl': use protocol"),
    ("redis://host?protocol=4", "its option protocol is one of 2, 3"),
    ("redis://host?db=SECRET", "its option db is a number"),
    ("redis://host?db=-1", "its option db is a number"),
    ("redis://host/1?db=1", "it has two numbers of a database"),
    ("redis://host?username=SECRET", "username is refused: it stands before the host"),
    ("redis://host?password=SECRET", "password is refused: it stands before the host"),
    ("redis://host?socket_timeout=1", "socket_timeout is refused: wsflow pings the server"),
    ("redis://host?health_check_interval=1", "is refused: wsflow pings the server"),
    ("redis://host?retry_on_timeout=yes", "is refused: wsflow reconnects by itself"),
    ("redis://host?max_connections=9", "is refused: a process has two connections"),
    ("redis://host?decode_responses=yes", "is refused: wsflow reads what comes"),
    ("redis://host?socket_connect_timeout=0", "is a number of seconds, more than 0"),
    ("redis://host?socket_connect_timeout=SECRET", "is a number of seconds, more than 0"),
    ("redis://host?socket_keepalive=SECRET", "is yes or no"),
    ("redis://host?ssl_ca_certs=SECRET", "ssl_ca_certs is refused: it needs rediss://"),
    ("redis+sentinel://h/app?ssl_ca_certs=SECRET", "it needs rediss+sentinel://"),
    ("redis://host?sentinel_password=SECRET", "unknown option 'sentinel_password'"),
    ("redis://a,b", "those of Sentinel need redis+sentinel://"),
    ("redis+sentinel://a,b", "it does not name the master: redis+sentinel://host1,host2/"),
    ("redis+sentinel://a,b/", "it does not name the master"),
    ("redis+sentinel://a,b/app/x", "a database: redis+sentinel://host/name-of-the-master/0"),
    ("redis+sentinel://a,,b/app", "it names no host"),
    ("rediss://host?ssl_cert_reqs=SECRET", "is one of required, optional, none"),
    ("rediss://host?ssl_min_version=SECRET", "is one of 1.2, 1.3"),
    ("rediss://host?ssl_ca_certs=/SECRET", "cannot be read: No such file or directory"),
    ("rediss://host?ssl_ca_certs=SEC%00RET", "cannot be read: it is no path"),
    ("rediss://host?ssl_ca_path=/SECRET", "names no folder"),
    ("rediss://host?ssl_ciphers=SECRET", "its option ssl_ciphers cannot be used"),
    (f"rediss://host?ssl_ca_certs={__file__}", "its option ssl_ca_certs, or ssl_ca_path, cannot"),
    (f"rediss://host?ssl_certfile={__file__}", "ssl_certfile, ssl_keyfile or ssl_password cannot"),
    (f"rediss://host?ssl_keyfile={__file__}", "ssl_keyfile and ssl_password need ssl_certfile"),
    ("rediss://host?ssl_password=SECRET", "ssl_keyfile and ssl_password need ssl_certfile"),
    ("nats://me:12,SECRET@host", "a server with a user of its own begins with nats://; or a"),
    ("nats://a,me:SECRET@b", "a comma is %2C"),
    ("nats://me:12/SECRET@host", "ends it too early: percent-encode"),
    ("nats://a,tls://b", "each of its servers begins with nats://, as the first, or with none"),
    ("tls://a,nats://b", "each of its servers begins with tls://, as the first, or with none"),
    ("nats://host/x", "it has a path: there is none"),
    ("nats://a?prefix=x,nats://b?prefix=y", "its option prefix has no value, or two"),
    ("nats://host?creds=SECRET", "its option creds is refused: use credentials"),
    ("nats://host?tlsca=SECRET", "its option tlsca is refused: use ssl_ca_certs"),
    ("nats://host?password=SECRET", "password is refused: it stands before the host"),
    ("nats://host?ssl_ca_certs=SECRET", "is refused: it needs tls://"),
    ("nats://host?handshake_first=yes", "is refused: it needs tls://"),
    ("nats://host?nkey=/SECRET", "its option nkey names a file that cannot be read: No such"),
    (f"nats://me:SECRET@host?nkey={__file__}", "one of a user before the host, credentials"),
    (f"nats://host?nkey={__file__}&credentials={__file__}", "one of a user before the host"),
]


@pytest.mark.parametrize(("url", "says"), BAD)
def test_urls_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(ValueError, match="cannot be used: ") as raised:
        select.engine(url)
    assert says in str(raised.value)
    for part in ("SEC", "RET", "12@", "me:12", ":12"):
        assert part not in str(raised.value).partition("percent-encode")[0]


def test_options_that_can_be_used(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    made = redis_of("redis://host/7?client_name=me&socket_connect_timeout=1.5&protocol=3")
    assert (made.db, made.client_name, made.socket_connect_timeout, made.protocol) == (
        (7, "me", 1.5, 3)
    )
    assert redis_of("redis://host?socket_keepalive=Yes").socket_keepalive is True
    assert redis_of("redis://host?socket_keepalive=0").socket_keepalive is False
    tls = f"ssl_ca_certs={cert}&ssl_certfile={cert}&ssl_keyfile={key}&ssl_ca_path={tmp_path}"
    options = f"{tls}&ssl_min_version=1.3&ssl_check_hostname=no&ssl_ciphers=ECDHE%2BAESGCM"
    for engine in (RedisEngine, NatsEngine):
        scheme = "rediss" if engine is RedisEngine else "tls"
        made = engine(f"{scheme}://host?{options}")
        tls = made._read_files() if isinstance(made, RedisEngine) else made._read_files()[0]
        assert tls is not None
        assert tls.minimum_version == ssl.TLSVersion.TLSv1_3
    context = urls.tls_context(urls.read_options(options, urls.TLS_OPTIONS, {}))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert not context.check_hostname
    assert urls.tls_context({}).check_hostname
    unchecked = urls.tls_context({"ssl_cert_reqs": ssl.CERT_NONE})
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("url", "shows"),
    [
        ("redis://me:SECRET@host:1/2?x=SECRET", "redis://…@host:1/2?…"),
        ("redis://me:12/SECRET@host", "redis://…"),
        ("redis://me:12?SECRET@host", "redis://…"),
        ("nats://me:12,SECRET@host", "nats://…"),
        ("nats://me:SECRET@a,nats://me:SECRET@b,c", "nats://…@a,nats://…@b,c"),
        ("redis+sentinel://me:SECRET@a:1,b:2/app/1", "redis+sentinel://…@a:1,b:2/app/1"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shows: str) -> None:
    assert urls.shown(url) == shows
