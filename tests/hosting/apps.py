"""What the tests have other servers serve, in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec
from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import FastAPI, WebSocket

import wsflow
from wsflow import Router, Topic


class Said(msgspec.Struct, tag="said"):
    text: str


Room = Annotated[Topic[Said], "room.{room}"]
chat = Router("/chat/{room}")


@chat.lifespan
async def life() -> AsyncIterator[None]:
    print("up", file=sys.stderr, flush=True)
    yield
    print("down", file=sys.stderr, flush=True)


@chat.on_connect
async def enter(room: Room) -> None:
    await room.join()


@chat.consumer
async def say(message: Said, room: Room) -> None:
    await room.publish(message)


class Work(msgspec.Struct, tag="work"):
    pass


@chat.consumer
async def work(message: Work) -> str:
    print("begun", file=sys.stderr, flush=True)
    await anyio.sleep(0.3)
    return "done"


sockets = wsflow.asgi(chat, grace=5)

in_fastapi = FastAPI()
sockets.mount(in_fastapi, "/ws")


@in_fastapi.post("/say/{room}")
async def post(room: str, text: str) -> None:
    await sockets.registry.topic("room.{room}", Said, room=room).publish(Said(text))


@in_fastapi.websocket("/own")
async def own(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"own {text}")


async def publish(request: HttpRequest, room: str) -> HttpResponse:
    text = request.GET["text"]
    await sockets.registry.topic("room.{room}", Said, room=room).publish(Said(text))
    return HttpResponse("null")


urlpatterns: list[Any] = [path("say/<room>", publish)]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
in_django = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": sockets, "lifespan": sockets}
)
