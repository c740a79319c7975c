"""Paths as other frameworks write them, and paths of no request."""

from wsflow import Router

app = Router("/")

PATHS = [
    "/chat/<room>",
    "/chat/<str:room>",
    "/chat/:room",
    "/chat/:room?",
    "/chat/[room]",
    "/chat/{room:path}",
    "/chat/{room:int}",
    "/chat/*",
    "/chat/*rest",
    "/chat/**",
    "/chat/(?P<room>[a-z]+)",
    "/chat/%(room)s",
    "/chat/a b",
    "/chat/..",
    "ws://localhost/chat",
]

for path in PATHS:
    router = Router(path)

    @router.consumer
    async def say(message: str) -> None: ...

    app.include(router)

app.include(Router("/a"), prefix="https://example.com")
