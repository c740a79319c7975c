"""Row 7: peers that begin and do not go on, and more peers than may be there."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import Peer, connect, open_peer, some_peers
from tests.hardening.process import percentile, running
from tests.raw import request

OPEN_TIMEOUT = 1.0
PATIENCE = (6.0, 1.0)
"""Seconds after it in which a peer must be closed, quick and whole: the quick form is run beside
other tests."""
BEGINNINGS = [
    b"",
    b"G",
    request()[:40],
    request()[:-1],
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20,
]


async def _echoes(peer: Peer, until: asyncio.Event) -> list[float]:
    """How long each echo takes, one after another, until it is told to stop."""
    took = []
    while not until.is_set():
        began = time.monotonic()
        peer.send(b"hello")
        assert await peer.receive() == b"hello"
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    return took


async def _half(port: int, data: bytes, began: float, drips: bool) -> tuple[float, bytes]:
    """A peer that begins with ``data``; how long after the start it was closed, and its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        answer = b""
        while True:
            try:
                got = await asyncio.wait_for(reader.read(1000), 0.2 if drips else None)
            except TimeoutError:
                writer.write(b"x")
                continue
            except OSError:
                got = b""
            answer += got
            if not got:
                return time.monotonic() - began, answer
    finally:
        writer.transport.abort()


def half_handshakes(scale: Scale) -> Outcome:
    """Peers that never finish their request, some of them a byte at a time."""
    outcome = Outcome()
    count, late = scale.of(100, 500), OPEN_TIMEOUT + scale.of(*PATIENCE)

    async def run() -> None:
        async with running("--open-timeout", OPEN_TIMEOUT) as server:
            other = await open_peer(server.port)
            until = asyncio.Event()
            echoes = asyncio.ensure_future(_echoes(other, until))
            began = time.monotonic()
            ended = await asyncio.gather(
                *(
                    _half(server.port, BEGINNINGS[i % len(BEGINNINGS)], began, i % 7 == 3)
                    for i in range(count)
                )
            )
            until.set()
            took = await echoes
            latest = max(seconds for seconds, _ in ended)
            slow = percentile(took, 0.99)
            outcome.figures = (
                f"{count} half handshakes, all closed after {latest:.1f} s "
                f"(open_timeout {OPEN_TIMEOUT:g} s); p99 of an echo {slow * 1000:.0f} ms"
            )
            outcome.expect(latest <= late, f"one was closed after {latest:.1f} s")
            outcome.expect(slow < scale.of(3.0, 0.5), f"an echo beside them took {slow:.2f} s")
            other.transport.abort()

    asyncio.run(run())
    return outcome


@contextlib.contextmanager
def certificate() -> Iterator[tuple[Path, Path]]:
    """A certificate for localhost, and its key."""
    with tempfile.TemporaryDirectory(prefix="wsflow-tls-") as folder:
        cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(command, check=True, capture_output=True)
        yield cert, key


def half_tls_handshakes(scale: Scale) -> Outcome:
    """The same before and within the TLS handshake, and after it."""
    outcome = Outcome()
    count, late = scale.of(60, 500), OPEN_TIMEOUT + scale.of(*PATIENCE)

    # Made once: that takes twenty milliseconds, for which the peers of the test would wait.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def through_tls(port: int, began: float) -> float:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except OSError:
            return time.monotonic() - began  # a busy machine: within the handshake already
        try:
            writer.write(BEGINNINGS[2])
            with contextlib.suppress(OSError):
                await reader.read()
            return time.monotonic() - began
        finally:
            writer.transport.abort()

    async def run() -> None:
        with certificate() as (cert, key):
            tls = ("--ssl-certfile", cert, "--ssl-keyfile", key)
            async with running("--open-timeout", OPEN_TIMEOUT, *tls) as server:
                began = time.monotonic()
                hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
                silent = [
                    _half(server.port, (b"", hello)[i % 2], began, False) for i in range(count)
                ]
                ended = [seconds for seconds, _ in await asyncio.gather(*silent)]
                began = time.monotonic()
                ended += await asyncio.gather(
                    *(through_tls(server.port, began) for _ in range(count // 10))
                )
                latest = max(ended)
                outcome.figures = f"{len(ended)} over TLS, all closed after {latest:.1f} s"
                outcome.expect(latest <= late, f"one was closed after {latest:.1f} s")
                await asyncio.sleep(0.2)
                left = server.descriptors
                outcome.expect(left < 30, f"{left} descriptors are still open")

    asyncio.run(run())
    return outcome


def slow_frames(scale: Scale) -> Outcome:
    """Peers whose message never becomes whole, a byte at a time, and that answer no ping."""
    outcome = Outcome()
    count = scale.of(20, 200)
    ping = scale.of(0.4, 1.0)

    async def run() -> None:
        limits = ("--ping-interval", ping, "--ping-timeout", ping, "--message-timeout", 2 * ping)
        async with running(*limits) as server:
            began = time.monotonic()
            late = began + scale.of(3.0, 10.0)

            async def drip() -> float | None:
                peer = await open_peer(server.port, pongs=False)
                peer.transport.write(b"\x01\xfe\x40\x00" + bytes(4))
                while time.monotonic() < late and not peer.lost.done():
                    peer.transport.write(b"x")
                    await asyncio.wait([peer.lost], timeout=ping / 2)
                ended = time.monotonic() - began if peer.lost.done() else None
                peer.transport.abort()
                return ended

            ended = await asyncio.gather(*(drip() for _ in range(count)))
            still = sum(each is None for each in ended)
            seconds = late - began
            outcome.figures = (
                f"{count} slow messages, {still} still open after {seconds:g} s "
                f"(ping {ping:g} s + {ping:g} s, message {2 * ping:g} s)"
            )
            outcome.expect(not still, outcome.figures)

    asyncio.run(run())
    return outcome


def over_the_cap(scale: Scale) -> Outcome:
    """A full server, and a hundred more."""
    outcome = Outcome()
    cap = scale.of(100, 1000)

    async def run() -> None:
        async with running("--max-connections", cap) as server:
            async with some_peers(server.port, cap) as inside:
                until = asyncio.Event()
                echoes = asyncio.ensure_future(_echoes(inside[0], until))
                more = [await connect(server.port) for _ in range(100)]
                answers = await asyncio.gather(
                    *(asyncio.wait_for(peer.opened, 20) for peer in more)
                )
                until.set()
                slow = percentile(await echoes, 0.99)
                refused = sum(each == 503 for each in answers)
                alive = 0
                for peer in inside:
                    peer.send(b"here")
                for peer in inside:
                    alive += await peer.receive() == b"here"
                outcome.expect(refused == 100, f"{answers}")
                outcome.expect(alive == cap, f"{alive} of {cap} inside answer")
                outcome.expect(slow < scale.of(3.0, 0.5), f"an echo beside them took {slow:.2f} s")
                inside.pop().reset()
                await asyncio.sleep(0.1)
                again = await connect(server.port)
                outcome.expect(await again.opened == 101, "the freed place is not given again")
                for peer in (*more, again):
                    peer.transport.abort()
                outcome.figures = (
                    f"{cap} inside, {refused} of 100 more got 503; p99 of an echo "
                    f"{slow * 1000:.0f} ms"
                )

    asyncio.run(run())
    return outcome


def silent_sockets(scale: Scale) -> Outcome:
    """More silent sockets of one client than may be in the handshake, and another newcomer."""
    outcome = Outcome()
    most = scale.of(50, 1024)

    async def run() -> None:
        limits = ("--max-handshakes", most, "--open-timeout", 2)
        async with running(*limits) as server:
            silent = [await connect(server.port, silent=True) for _ in range(most + 50)]
            began = time.monotonic()
            newcomer = await connect(server.port, source="127.0.0.2")
            status = await asyncio.wait_for(newcomer.opened, 20)
            waited = time.monotonic() - began
            outcome.figures = f"{most + 50} silent sockets, a newcomer: {status}, {waited:.1f} s"
            outcome.expect(status == 101, f"a newcomer beside {most + 50} silent sockets: {status}")
            for peer in (*silent, newcomer):
                peer.transport.abort()

    asyncio.run(run())
    return outcome


ROW = Row(
    7,
    "half handshakes, slow frames, connections over the caps",
    "500; cap + 100",
    "closed by `open_timeout` + 1 s; 503; others unaffected",
    [
        Check("half handshakes", half_handshakes),
        Check("half TLS handshakes", half_tls_handshakes),
        Check("slow frames", slow_frames),
        Check("over the cap", over_the_cap),
        Check("silent sockets", silent_sockets),
    ],
)
test_quick, test_whole = both_forms(ROW)
