"""A chat for members: who has a token may speak, and admins may mute.

Run it: ``wsflow run examples.members:app``. Make a token: ``python -m examples.members ada admin``.
In a browser: ``new WebSocket("ws://127.0.0.1:8000/members", ["wsflow.json", "bearer." + token])``.
"""

import os
import sys
import time
from typing import Annotated

import jwt
import msgspec

from wsflow import Forbidden, Requires, Router, Topic
from wsflow.auth import Bearer

# Whoever knows it can make tokens. This one is only good for trying it out.
KEY = os.environ.get("MEMBERS_KEY", "not a secret, and 32 bytes long!")


class User(msgspec.Struct):  # the claims of a token
    sub: str
    roles: list[str] = []


class Say(msgspec.Struct, tag="say"):
    text: str


class Mute(msgspec.Struct, tag="mute"):
    who: str


class Said(msgspec.Struct, tag="said"):
    who: str
    text: str


class Refused(msgspec.Struct, tag="refused"):
    why: str


class Muted:
    """Who may not speak, in this process."""

    def __init__(self) -> None:
        self.names: set[str] = set()


Hall = Annotated[Topic[Said], "members"]

app = Router("/members")
app.on_connect(Bearer(User, key=KEY))


@app.lifespan
async def muted() -> Muted:
    return Muted()


@app.on_connect
async def enter(hall: Hall) -> None:
    await hall.join()


@app.consumer
async def say(message: Say, user: User, hall: Hall, muted: Muted) -> None:
    if user.sub in muted.names:
        raise Forbidden("you are muted")
    await hall.publish(Said(user.sub, message.text))


@app.consumer
async def mute(message: Mute, admin: Annotated[User, Requires("admin")], muted: Muted) -> None:
    muted.names.add(message.who)


@app.on_error
async def refuse(error: Forbidden) -> Refused:
    return Refused(str(error))


def token(sub: str, *roles: str) -> str:
    """A token for ten minutes."""
    claims = {"sub": sub, "roles": roles, "exp": int(time.time()) + 600}
    return jwt.encode(claims, KEY, "HS256")


if __name__ == "__main__":
    print(token(*sys.argv[1:]))
