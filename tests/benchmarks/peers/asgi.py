"""ASGI apps: bare, Starlette, FastAPI with Pydantic, Litestar, python-socketio; granian's RSGI."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, TypeAdapter

from tests.benchmarks import model
from tests.benchmarks.model import answer


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """No framework: what the ASGI server alone can do."""
    if scope["type"] == "lifespan":
        while (event := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": event["type"] + ".complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    typed = scope["path"] == "/json"
    while (event := await receive())["type"] == "websocket.receive":
        text = answer(event["text"]).decode() if typed else event["text"]
        await send({"type": "websocket.send", "text": text})


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    async def echo(socket: Any) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    async def typed(socket: Any) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(answer(text).decode())

    return Starlette(routes=[WebSocketRoute("/echo", echo), WebSocketRoute("/json", typed)])


class Chat(BaseModel):
    type: Literal["chat"]
    room: str
    user: str
    text: str
    ts: float
    seq: int


class Join(BaseModel):
    type: Literal["join"]
    room: str
    user: str
    caps: list[str]
    client: str
    ts: float
    seq: int


class Move(BaseModel):
    type: Literal["move"]
    obj: str
    x: float
    y: float
    z: float
    vx: float
    vy: float
    vz: float
    grounded: bool
    ts: float
    seq: int


class Order(BaseModel):
    type: Literal["order"]
    sku: str
    qty: int
    price: float
    ccy: str
    side: str
    note: str
    ts: float
    seq: int


class Ack(BaseModel):
    type: Literal["ack"]
    ref: int
    ok: bool
    code: int
    detail: str
    ts: float
    seq: int


class Reply(BaseModel):
    type: Literal["reply"] = "reply"
    kind: str
    seq: int
    ok: bool
    text: str


_messages: TypeAdapter[Any] = TypeAdapter(
    Annotated[Chat | Join | Move | Order | Ack, Field(discriminator="type")]
)


def _pydantic_answer(text: str) -> str:
    match _messages.validate_json(text):
        case Chat() as message:
            reply = Reply(kind="chat", seq=message.seq, ok=True, text=message.text)
        case Join() as message:
            reply = Reply(kind="join", seq=message.seq, ok=True, text=message.client)
        case Move() as message:
            reply = Reply(kind="move", seq=message.seq, ok=message.grounded, text=message.obj)
        case Order() as message:
            reply = Reply(kind="order", seq=message.seq, ok=message.qty >= 1, text=message.note)
        case message:
            reply = Reply(kind="ack", seq=message.seq, ok=message.ok, text=message.detail)
    return reply.model_dump_json()


def fastapi() -> Any:
    app = FastAPI()

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            return

    @app.websocket("/json")
    async def typed(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text(_pydantic_answer(await socket.receive_text()))
        except WebSocketDisconnect:
            return

    return app


def litestar() -> Any:
    from litestar import Litestar, websocket_listener

    @websocket_listener("/echo")
    async def echo(data: str) -> str:
        return data

    @websocket_listener("/json")
    async def typed(data: dict[str, Any]) -> model.Reply:
        # A tagged union is handed over as a plain dict: it is converted by hand.
        message = msgspec.convert(data, model.Message)
        return model.reply(message)

    return Litestar([echo, typed], openapi_config=None)


def _socketio(**options: Any) -> Any:
    import socketio as library

    return library.AsyncServer(
        async_mode="asgi",
        transports=["websocket"],
        cors_allowed_origins="*",
        allow_upgrades=False,
        **options,
    )


def socketio() -> Any:
    import socketio as library

    server = _socketio()

    @server.event
    async def echo(sid: str, data: str) -> None:
        await server.emit("echo", data, to=sid)

    def handle(kind: str) -> None:
        async def typed(sid: str, data: dict[str, Any]) -> None:
            message = msgspec.convert({"type": kind, **data}, model.Message)
            await server.emit("reply", msgspec.to_builtins(model.reply(message)), to=sid)

        server.on(kind, typed)

    for kind in ("chat", "join", "move", "order", "ack"):
        handle(kind)
    return library.ASGIApp(server)


def socketio_with_redis() -> Any:
    import socketio as library

    server = _socketio(client_manager=library.AsyncRedisManager(os.environ["WSFLOW_BROKER"]))

    @server.event
    async def bcast(sid: str, data: str) -> None:
        await server.emit("bcast", data)

    return library.ASGIApp(server)


async def rsgi(scope: Any, protocol: Any) -> None:
    """The same for granian's own interface."""
    from granian.rsgi import WebsocketMessageType

    transport = await protocol.accept()
    typed = scope.path == "/json"
    while (message := await transport.receive()).kind != WebsocketMessageType.close:
        await transport.send_str(answer(message.data).decode() if typed else message.data)
