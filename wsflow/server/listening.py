"""Listening sockets, of one process or of several at one address; and TLS."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
from pathlib import Path

from wsflow.server.settings import Settings

BACKLOG = 1024
"""Length of the accept queue of a listening socket."""


def inherited(fd: int) -> socket.socket:
    """A socket that the process has inherited as a file descriptor."""
    return socket.socket(fileno=os.dup(fd))


def bind_unix(path: Path) -> socket.socket:
    """Bind a Unix socket at ``path``. Replaces one on which no process listens.

    Raises:
        OSError: a process listens there (EADDRINUSE), or it cannot be bound.
    """
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "another process listens there")
        path.unlink()
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRINUSE:
            raise OSError(errno.EEXIST, "there is a file of that name") from None
        raise
    return bound


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context that the settings ask for, None without a certificate.

    Raises:
        ValueError: a file cannot be read, or has no matching certificate or key.
    """
    if settings.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(
            settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_keyfile_password or ""
        )
    except OSError as exc:
        why = exc.strerror or str(exc)
        if isinstance(exc, ssl.SSLError):
            why = (
                "no certificate and private key (PEM) that match, or the key needs another "
                f"password ({why})"
            )
        files = " and ".join(
            str(file) for file in (settings.ssl_certfile, settings.ssl_keyfile) if file
        )
        raise ValueError(f"TLS cannot use {files}: {why}") from None
    return context


def listen(settings: Settings, count: int) -> list[list[socket.socket]]:
    """For each of ``count`` processes the sockets to listen on, all at the same address.

    On Linux each process has its own sockets, and the kernel distributes connections over them. The
    caller keeps them open: while a process is replaced, new connections wait in the accept queue.

    Raises:
        OSError: the address cannot be listened on.
    """
    if settings.fd is not None:
        shared = [inherited(settings.fd)]
    elif settings.uds is not None:
        shared = [bind_unix(settings.uds)]
        shared[0].listen(BACKLOG)
    else:
        return _listen_on_tcp(settings.host, settings.port, count)
    return [shared] * count


def _listen_on_tcp(host: str, port: int, count: int) -> list[list[socket.socket]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    each: list[list[socket.socket]] = [[] for _ in range(count)]
    with contextlib.ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(found):
            address = (address[0], port, *address[2:])
            first = _bind(family, address, alone=True)
            port = first.getsockname()[1]
            address = (address[0], port, *address[2:])
            if sys.platform != "linux":
                first.listen(BACKLOG)
                undo.callback(first.close)
                for sockets in each:
                    sockets.append(first)
                continue
            first.close()  # it was only bound to check that the address is free
            for sockets in each:
                sockets.append(_bind(family, address, alone=False))
                undo.callback(sockets[-1].close)
                sockets[-1].listen(BACKLOG)
        undo.pop_all()
    return each


def _bind(family: int, address: tuple[object, ...], *, alone: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not alone:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
