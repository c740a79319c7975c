"""Row 6: messages that are small on the wire and large in memory."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable
from typing import Any

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import VANISHED, Peer, open_peer
from tests.hardening.process import MIB, Server, mib, running
from tests.raw import frame

CONNECTIONS = 8
MORE = 64 * MIB
GIVEN_BACK = 24 * MIB
"""What may be left of it: the allocator's."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc gives large blocks back to the kernel at once: what is kept is kept by the server."""

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
LARGEST = MIB
"""The default of ``max_message_size``."""


def _deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(size: int) -> bytes:
    return frame(_deflated(b"a" * size), rsv1=True)


def fragments(count: int, size: int = 0, last: bool = True) -> bytes:
    part = b"f" * size
    middle = frame(part, 0, fin=False) * (count - 2)
    return frame(part, fin=False) + middle + (frame(part, 0) if last else b"")


def many(value: bytes, size: int = LARGEST) -> bytes:
    """As many of a value as a message of a size can hold, as JSON."""
    return b"[" + b",".join([value] * ((size - 100) // (len(value) + 1))) + b"]"


# Where to, what is sent at once on each connection, and how often, quick and whole.
BOMBS: dict[str, tuple[str, Callable[[Scale], bytes], tuple[int, int]]] = {
    "compressed, over the limit": ("/", lambda scale: bomb(scale.of(64, 512) * MIB), (1, 1)),
    "compressed, many under the limit": ("/", lambda scale: bomb(LARGEST), (20, 100)),
    "fragmented, empty": ("/", lambda scale: fragments(scale.of(20_000, 200_000)), (1, 1)),
    "fragmented, never whole": ("/", lambda _: fragments(1000, 1000, last=False), (1, 1)),
    "deep JSON": ("/any", lambda _: frame(b"[" * 500_000 + b"]" * 500_000), (1, 1)),
    "deep JSON, typed": (
        "/typed",
        lambda _: frame(b'{"type":"items","items":[],"more":{"a":' + b"[" * 900_000),
        (1, 1),
    ),
    "huge numbers": (
        "/any",
        lambda _: frame(many(b"1" * 4000)) + frame(b"9" * 1_000_000) + frame(b"1e" + b"9" * 99_999),
        (1, 1),
    ),
    "wide JSON": ("/any", lambda _: frame(many(b"[]")) + frame(many(b"{}")), (1, 4)),
    "wide JSON, typed": (
        "/typed",
        lambda scale: frame(
            b'{"type":"items","items":'
            + many(b'{"name":"a","values":[1]}', scale.of(LARGEST // 2, LARGEST))
            + b"}"
        ),
        (1, 4),
    ),
    "wide JSON, compressed": (
        "/any",
        lambda _: frame(_deflated(many(b"[]")), rsv1=True),
        (5, 50),
    ),
}


async def _settled(server: Server, below: int, seconds: float) -> int:
    """Its memory, once it is below a size, or when it did not get there."""
    until = asyncio.get_running_loop().time() + seconds
    while server.memory > below and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.05)
    return server.memory


async def _ended(peer: Peer) -> None:
    """Wait until all that the peer has sent was read: it was closed, or a ping is answered."""
    peer.send(b"\x03\xe8", 8)
    await asyncio.wait([peer.lost, peer.closed], timeout=60, return_when=asyncio.FIRST_COMPLETED)


def _check(name: str) -> Any:
    path, make, times = BOMBS[name]

    def measure(scale: Scale) -> Outcome:
        outcome = Outcome()
        data = make(scale) * scale.of(*times)

        async def run() -> None:
            async with running(
                "--compression", "deflate", "--no-access-log", env={**os.environ, **ALLOCATOR}
            ) as server:
                warm = await open_peer(server.port, path, headers=OFFER)
                warm.send(b'{"type":"items","items":[]}' if path == "/typed" else b"[]")
                await warm.leave()
                before = server.memory
                server.forget_peak()
                peers = [
                    await open_peer(server.port, path, headers=OFFER) for _ in range(CONNECTIONS)
                ]
                for peer in peers:
                    peer.transport.write(data)
                await asyncio.gather(*(_ended(peer) for peer in peers))
                more = server.peak - before
                for peer in peers:
                    peer.transport.abort()
                left = await _settled(server, before + GIVEN_BACK, scale.of(1.5, 5.0)) - before
                codes = sorted({(await peer.closed)[0] for peer in peers})
                outcome.figures = (
                    f"{CONNECTIONS} × {len(data) / 1e6:.2f} MB on the wire: {mib(more)} more, "
                    f"{mib(max(0, left))} kept, closed with {codes}"
                )
                outcome.expect(more <= MORE, f"{name}: {mib(more)} more than before")
                outcome.expect(left <= GIVEN_BACK, f"{name}: {mib(left)} are not given back")
                outcome.expect(set(codes) <= {1000, 1002, 1005, 1007, 1009, VANISHED}, f"{codes}")
                outcome.expect("Traceback" not in server.log, server.log[-2000:])
                after = await open_peer(server.port)
                after.send(b"alive")
                outcome.expect(await after.receive() == b"alive", "no echo afterwards")
                after.transport.abort()

        asyncio.run(run())
        return outcome

    return measure


ONLY_WHOLE = {"wide JSON, typed"}
ROW = Row(
    6,
    "bombs: compressed, fragmented, deep JSON, huge numbers, many at once in one read",
    f"{CONNECTIONS} connections",
    "≤ 64 MiB more, and given back",
    [Check(name, _check(name), only_whole=name in ONLY_WHOLE) for name in BOMBS],
)
test_quick, test_whole = both_forms(ROW)
