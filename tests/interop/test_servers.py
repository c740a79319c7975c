"""Our client holds a conversation with servers that nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import uvicorn
from aiohttp import WSMsgType, web
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

import wsflow
from wsflow import ConnectError, Disconnected, End, Opening, Reconnect, Router, run_client


class Say(msgspec.Struct, tag="say"):
    """Said back, but "ping!" asks for a ping, whose answer is told, and "facts!" for what was
    agreed on."""

    text: str


class Said(msgspec.Struct, tag="said"):
    text: str


class Leave(msgspec.Struct, tag="leave"):
    """Asks for a close frame, or for none if the code is 1006."""

    code: int


VERSIONS = ["chat.v2", "chat.v1"]
"""The subprotocols of each server."""

REFUSALS = {"/401": (401, {}, "who are you"), "/503": (503, {"Retry-After": "7"}, "full")}
"""Paths that a server refuses, and how."""


# -- the servers


@dataclass
class Wire:
    """A server's end of a connection. ``ping`` says "pong" when it was answered."""

    texts: AsyncIterator[str]
    send: Callable[[str], Awaitable[None]]
    ping: Callable[[], Awaitable[None]]
    close: Callable[[int], Awaitable[object]]
    abort: Callable[[], None]
    subprotocol: str | None
    deflate: bool


PONG = '{"type": "said", "text": "pong"}'


async def converse(wire: Wire) -> None:
    """Do what the client asks for."""
    async for text in wire.texts:
        match json.loads(text):
            case {"type": "say", "text": "ping!"}:
                await wire.ping()
            case {"type": "say", "text": said}:
                if said == "facts!":
                    said = f"{wire.subprotocol} {'deflate' if wire.deflate else 'plain'}"
                await wire.send(json.dumps({"type": "said", "text": said}))
            case {"type": "leave", "code": 1006}:
                wire.abort()
            case {"type": "leave", "code": code}:
                await wire.close(code)


@asynccontextmanager
async def websockets_server(**options: Any) -> AsyncIterator[str]:
    async def handle(ws: ServerConnection) -> None:
        async def texts() -> AsyncIterator[str]:
            async for text in ws:
                yield str(text)

        async def ping() -> None:
            await (await ws.ping())
            await ws.send(PONG)

        agreed = ws.subprotocol, bool(ws.protocol.extensions)
        await converse(Wire(texts(), ws.send, ping, ws.close, ws.transport.abort, *agreed))

    def answer(ws: ServerConnection, request: Request) -> Response | None:
        if request.path == "/moved":
            moved = ws.respond(302, "")
            moved.headers["Location"] = "/"
            return moved
        if request.path not in REFUSALS:
            return None
        status, headers, body = REFUSALS[request.path]
        refusal = ws.respond(status, body)
        refusal.headers.update(headers)
        return refusal

    def select(ws: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((each for each in offered if each in VERSIONS), None)

    options = {"process_request": answer, "select_subprotocol": select, **options}
    async with serve(handle, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'wss' if 'ssl' in options else 'ws'}://127.0.0.1:{port}"


@asynccontextmanager
async def aiohttp_server() -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path in REFUSALS:
            status, headers, body = REFUSALS[request.path]
            return web.Response(status=status, headers=headers, text=body)
        ws = web.WebSocketResponse(protocols=VERSIONS, autoping=False)
        await ws.prepare(request)

        async def texts() -> AsyncIterator[str]:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    yield message.data
                elif message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    await ws.send_str(PONG)

        async def close(code: int) -> None:
            await ws.close(code=code)

        abort = cast(asyncio.Transport, request.transport).abort
        agreed = ws.ws_protocol, bool(ws.compress)
        await converse(Wire(texts(), ws.send_str, ws.ping, close, abort, *agreed))
        return ws

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def starlette_server() -> AsyncIterator[str]:
    """On uvicorn, whose end of the connection can do what ASGI knows nothing of."""

    async def handle(ws: WebSocket) -> None:
        if ws.url.path in REFUSALS:
            status, headers, body = REFUSALS[ws.url.path]
            await ws.send_denial_response(PlainTextResponse(body, status, headers))
            return
        subprotocol = next((each for each in VERSIONS if each in ws["subprotocols"]), None)
        await ws.accept(subprotocol)
        connections: Any = server.server_state.connections
        end = next(each for each in connections if each.client == ws["client"])

        async def ping() -> None:
            end.send_keepalive_ping()
            while end.pending_ping_payload is not None:
                await asyncio.sleep(0.001)
            await ws.send_text(PONG)

        texts, abort = ws.iter_text(), end.transport.abort
        agreed = subprotocol, bool(end.conn.extensions)
        await converse(Wire(texts, ws.send_text, ping, ws.close, abort, *agreed))

    app = Starlette(routes=[WebSocketRoute("/{path:path}", handle)])
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, ws="websockets-sansio", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.001)
    try:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


NODE = """
const [versions, refusals] = process.argv.slice(1).map(text => JSON.parse(text));
const {WebSocketServer} = require('ws');
const server = require('http').createServer();
const handleProtocols = offered => versions.find(each => offered.has(each)) ?? false;
const wss = new WebSocketServer({noServer: true, perMessageDeflate: true, handleProtocols});
server.on('upgrade', (request, socket, head) => {
  const refusal = refusals[request.url];
  if (refusal) {
    const [status, headers, body] = refusal;
    const lines = Object.entries({...headers, 'Content-Length': body.length, Connection: 'close'});
    const head = lines.map(line => line.join(': ') + '\\r\\n').join('');
    socket.end(`HTTP/1.1 ${status} No\\r\\n${head}\\r\\n${body}`);
  } else wss.handleUpgrade(request, socket, head, ws => {
    const say = text => ws.send(JSON.stringify({type: 'said', text}));
    ws.on('pong', () => say('pong'));
    ws.on('error', () => {});
    ws.on('message', data => {
      const {type, text, code} = JSON.parse(data);
      const form = ws.extensions.includes('permessage-deflate') ? 'deflate' : 'plain';
      if (type === 'leave') code === 1006 ? ws.terminate() : ws.close(code);
      else if (text === 'ping!') ws.ping('are you there');
      else say(text === 'facts!' ? `${ws.protocol || 'None'} ${form}` : text);
    });
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the npm package ``ws`` is installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "ws@8"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError) as exc:
        pytest.skip(f"npm cannot install ws: {exc}")
    return folder


@asynccontextmanager
async def node_server(folder: Path) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *("node", "-e", NODE, json.dumps(VERSIONS), json.dumps(REFUSALS)),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        port = (await process.stdout.readline()).decode().strip()
        assert port, "the server did not start"
        yield f"ws://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


SERVERS: dict[str, Callable[..., AbstractAsyncContextManager[str]]] = {
    "websockets": websockets_server,
    "aiohttp": aiohttp_server,
    "starlette": starlette_server,
    "node": node_server,
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=SERVERS)
async def server(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[str]:
    """The URI of each server in turn, without a path."""
    start = SERVERS[request.param]
    if start is node_server:
        start = partial(start, request.getfixturevalue("node_modules"))
    async with start() as uri:
        yield uri


# -- with each server


def talker(story: list[str], codes: Iterator[int]) -> Router:
    """Says two things on each connection, and when it has heard them, asks to be left."""
    router = Router()

    @router.on_connect
    async def opening(opening: Opening) -> None:
        story.append(f"after {opening.previous.code}" if opening.previous else "first")

    @router.producer(on_end="keep")
    async def talk() -> AsyncIterator[Say]:
        yield Say("one")
        yield Say("two")

    @router.consumer
    async def hear(message: Said) -> Leave | None:
        story.append(message.text)
        return Leave(next(codes)) if message.text == "two" else None

    @router.on_disconnect
    async def bye(end: End) -> None:
        story.append(f"bye {end.cause} {end.code}")

    return router


@pytest.mark.parametrize("codes", [[1000], [4401], [1012, 1006, 1000]], ids=str)
async def test_router(server: str, codes: Sequence[int]) -> None:
    """It comes back after a restart and after a loss, and not after another close."""
    story: list[str] = []
    router = talker(story, iter(codes))
    end = await run_client(router, f"{server}/", reconnect=Reconnect(initial_delay=0.05))
    assert (end.cause, end.code) == ("peer", codes[-1])
    expected: list[str] = []
    for before, code in zip([None, *codes], codes, strict=False):
        cause = "vanished" if code == 1006 else "peer"
        expected += [f"after {before}" if before else "first", "one", "two", f"bye {cause} {code}"]
    assert story == expected


async def test_connect(server: str) -> None:
    """Messages large and small go both ways, as was agreed on."""
    large = "".join(f"{number * number} é\n" for number in range(20_000))
    assert len(large.encode()) > 200_000
    offers = ["chat.v3", "chat.v2"]
    async with wsflow.connect(f"{server}/", receives=Said, subprotocols=offers) as peer:
        assert peer.subprotocol == "chat.v2"
        answers = [("facts!", "chat.v2 deflate"), ("ping!", "pong"), (large, large), ("", "")]
        for text, answer in answers:
            await peer.send(Say(text))
            assert await peer.receive() == Said(answer)
        assert await peer.ping() < 60
    assert peer.end is not None
    assert (peer.end.cause, peer.end.code) == ("closed", 1000)


async def test_connect_with_little(server: str) -> None:
    """Without what can be agreed on."""
    limits = wsflow.ClientLimits(compression="none")
    async with wsflow.connect(f"{server}/", receives=Said, limits=limits) as peer:
        await peer.send(Say("facts!"))
        assert await peer.receive() == Said("None plain")
        assert peer.subprotocol is None


@pytest.mark.parametrize("code", [1000, 1012, 4401, 1006])
async def test_the_end_is_told(server: str, code: int) -> None:
    async with wsflow.connect(f"{server}/", receives=Said) as peer:
        await peer.send(Say("last"))
        if code == 1006:  # an abort takes along what the server has not written yet
            assert await peer.receive() == Said("last")
        await peer.send(Leave(code))
        if code != 1006:
            assert await peer.receive() == Said("last")
        with pytest.raises(Disconnected) as ended:
            await peer.receive()
    assert ended.value.end == peer.end
    assert peer.end is not None
    assert (peer.end.cause, peer.end.code) == ("vanished" if code == 1006 else "peer", code)


@pytest.mark.parametrize("path", REFUSALS)
async def test_refusals(server: str, path: str) -> None:
    status, _, body = REFUSALS[path]
    for connecting in (
        wsflow.connect(f"{server}{path}").__aenter__(),
        run_client(talker([], iter([])), f"{server}{path}", reconnect=False),
    ):
        with pytest.raises(ConnectError, match=f"{path} answered {status} .*: {body}") as refused:
            await connecting
        error = refused.value
        assert (error.status, error.body, error.retryable) == (status, body, status == 503)
        assert error.retry_after == (7.0 if status == 503 else None)


# -- what websockets.connect has to offer


async def test_a_redirect() -> None:
    async with websockets_server() as uri:
        async with wsflow.connect(f"{uri}/moved", receives=Said) as peer:
            await peer.send(Say("here?"))
            assert await peer.receive() == Said("here?")


async def test_headers_and_origin() -> None:
    requests: list[Request] = []

    def note(ws: ServerConnection, request: Request) -> None:
        requests.append(request)

    async with websockets_server(process_request=note, origins=["https://example.com"]) as uri:
        headers = [("X-Tag", "one"), ("X-Tag", "two"), ("Authorization", "Bearer x")]
        options = {"origin": "https://example.com", "user_agent_header": "me/1"}
        async with wsflow.connect(uri, headers=headers, **options):
            pass
        with pytest.raises(ConnectError, match="403"):
            await run_client(talker([], iter([])), uri, origin="https://elsewhere.example")
    seen = requests[0].headers
    assert seen.get_all("X-Tag") == ["one", "two"]
    assert (seen["Authorization"], seen["User-Agent"]) == ("Bearer x", "me/1")


async def test_tls(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with websockets_server(ssl=context) as uri:
        trusting = ssl.create_default_context(cafile=certificate[0])
        story: list[str] = []
        await run_client(talker(story, iter([1000])), uri, ssl=trusting)
        assert story == ["first", "one", "two", "bye peer 1000"]
        with pytest.raises(ConnectError, match="TLS failed: self-signed certificate") as refused:
            await run_client(talker([], iter([])), uri)
        assert not refused.value.retryable
        with pytest.raises(ConnectError, match="TLS failed: Hostname mismatch"):
            await run_client(talker([], iter([])), uri, ssl=trusting, server_hostname="elsewhere")


@asynccontextmanager
async def http_proxy(requests: list[str], password: str) -> AsyncIterator[str]:
    """A proxy that tunnels (RFC 9110 §9.3.6) for whoever has the password, in Base64."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(head.split("\r\n")[0])
        if password not in head:
            writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, port = head.split()[1].split(":")
        onward = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Yes\r\n\r\n")
        await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_proxy() -> None:
    requests: list[str] = []
    story: list[str] = []
    async with websockets_server() as uri, http_proxy(requests, "bWU6c2VjcmV0") as proxy:
        router = talker(story, iter([1000]))
        await run_client(router, uri, proxy=f"http://me:secret@{proxy}")
        with pytest.raises(ConnectError, match="the proxy answered 407") as refused:
            await run_client(router, uri, proxy=f"http://{proxy}")
    assert (refused.value.status, refused.value.retryable) == (407, False)
    assert story[:4] == ["first", "one", "two", "bye peer 1000"]
    assert requests == [f"CONNECT {uri.removeprefix('ws://')} HTTP/1.1"] * 2


# -- what is hard to time for a server in earnest


@pytest.mark.parametrize("turns", range(4))
async def test_a_server_that_leaves_at_once(turns: int) -> None:
    """Nothing is lost of what came, however soon after the opening the close comes."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(cast(Request, request)))
        writer.write(b"".join(protocol.data_to_send()))
        for _ in range(turns):
            await asyncio.sleep(0)
        protocol.send_text(PONG.encode())
        protocol.send_close(1000)
        writer.write(b"".join(protocol.data_to_send()))
        writer.close()

    story: list[str] = []
    async with await asyncio.start_server(leave, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await run_client(talker(story, iter([])), uri)
        assert story == ["first", "pong", "bye peer 1000"]
        async with wsflow.connect(uri, receives=Said) as peer:
            assert [message async for message in peer] == [Said("pong")]
