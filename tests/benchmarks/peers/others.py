"""aiohttp, picows with its callbacks, and socketify."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.benchmarks.model import PUSH, answer

HOST = "127.0.0.1"


async def aiohttp(port: int) -> None:
    from aiohttp import WSMsgType, web

    def handler(reply: Any) -> Any:
        async def handle(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(reply(message.data))
            return socket

        return handle

    app = web.Application()
    app.router.add_get("/echo", handler(lambda text: text))
    app.router.add_get("/json", handler(lambda text: answer(text).decode()))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await asyncio.Future()


async def picows(port: int) -> None:
    from picows import WSListener, WSMsgType, ws_create_server

    text = WSMsgType.TEXT
    payload = PUSH.encode()
    transports: set[Any] = set()

    class Closing(WSListener):
        def closed(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()

    class Echo(Closing):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == text:
                transport.send(text, frame.get_payload_as_bytes())
            else:
                self.closed(transport, frame)

    class Typed(Closing):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == text:
                transport.send(text, answer(frame.get_payload_as_memoryview()))
            else:
                self.closed(transport, frame)

    class Everybody(Closing):
        def on_ws_connected(self, transport: Any) -> None:
            transports.add(transport)

        def on_ws_disconnected(self, transport: Any) -> None:
            transports.discard(transport)

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == text:
                data = frame.get_payload_as_bytes()
                for each in transports:
                    each.send(text, data)
            else:
                self.closed(transport, frame)

    class Push(Closing):
        def on_ws_connected(self, transport: Any) -> None:
            self.room = asyncio.Event()
            self.room.set()
            self.open = True

        def pause_writing(self) -> None:
            self.room.clear()

        def resume_writing(self) -> None:
            self.room.set()

        def on_ws_disconnected(self, transport: Any) -> None:
            self.open = False
            self.room.set()

        async def push(self, transport: Any) -> None:
            while self.open:
                transport.send(text, payload)
                if not self.room.is_set():
                    await self.room.wait()

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == text:
                self.task = asyncio.get_running_loop().create_task(self.push(transport))
            else:
                self.closed(transport, frame)

    paths = {"/echo": Echo, "/json": Typed, "/bcast": Everybody, "/push": Push}

    def listener(request: Any) -> Any:
        path = request.path
        return paths[path if isinstance(path, str) else bytes(path).decode()]()

    server = await ws_create_server(listener, HOST, port)
    await server.serve_forever()


def socketify(port: int) -> None:
    from socketify import App

    app = App()
    options = {"compression": 0, "max_payload_length": 1 << 20, "idle_timeout": 60}
    echo = {**options, "message": lambda socket, message, code: socket.send(message, code)}
    typed = {
        **options,
        "message": lambda socket, message, code: socket.send(answer(message).decode(), code),
    }
    app.ws("/echo", echo)
    app.ws("/json", typed)
    app.listen({"port": port, "host": HOST}, lambda _config: None)
    app.run()


if __name__ == "__main__":
    name, port = sys.argv[1].removesuffix("+uvloop"), int(sys.argv[2])
    if name == "socketify":
        socketify(port)
    else:
        main = {"aiohttp": aiohttp, "picows": picows}[name]
        if sys.argv[1].endswith("+uvloop"):
            import uvloop

            uvloop.run(main(port))
        else:
            asyncio.run(main(port))
