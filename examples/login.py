"""A login: who knows a password gets a token for a minute, and a client renews it in time.

Run it: ``wsflow run examples.login:app``. Log in: ``python -m examples.login ada lovelace``, and
watch it for two minutes: the tokens change, and the connection stays. For a token alone:
``curl -u ada:lovelace http://127.0.0.1:8000/login``.
"""

import asyncio
import base64
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from typing import Annotated

import anyio
import jwt
import msgspec

import wsflow
from wsflow import Call, Connection, Header, Reject, Response, Router
from wsflow.auth import Bearer

LASTS = 60  # seconds
PASSWORDS = {"ada": "lovelace", "bob": "builder"}  # in life a database, with a hash of each
KEY = os.environ.get("LOGIN_KEY") or secrets.token_urlsafe(32)  # several workers share one


class User(msgspec.Struct):  # the claims of a token
    sub: str
    exp: int  # seconds since 1970


class WhoAmI(Call[User], tag="who_am_i"):
    pass


app = Router("/")
private = Router("/me")
private.on_connect(Bearer(User, key=KEY))


@app.get("/login")  # a browser asks for name and password by itself
async def log_in(authorization: Annotated[str, Header()] = "") -> Response:
    try:
        sent = base64.b64decode(authorization.removeprefix("Basic ")).decode()
    except ValueError:
        raise Reject(400, "this is no name and password") from None
    name, _, password = sent.partition(":")
    right = PASSWORDS.get(name, "")
    if not (secrets.compare_digest(password.encode(), right.encode()) and right):
        raise Reject(401, "log in", [("WWW-Authenticate", 'Basic realm="login"')])
    token = jwt.encode({"sub": name, "exp": int(time.time()) + LASTS}, KEY, "HS256")
    return Response(token, headers={"Cache-Control": "no-store"}, content_type="text/plain")


@private.consumer
async def who_am_i(call: WhoAmI, user: User) -> User:
    return user  # that of the token which the client has shown last


app.include(private)

client = Router("/me")


@client.producer
async def ask(connection: Connection) -> None:
    while True:
        user = await connection.call(WhoAmI(), timeout=5)
        print(f"{user.sub} until {time.ctime(user.exp)}", flush=True)
        await anyio.sleep(LASTS / 4)


def fetch(url: str, name: str, password: str) -> str:
    """A new token from the server."""
    basic = base64.b64encode(f"{name}:{password}".encode()).decode()
    request = urllib.request.Request(f"{url}/login", headers={"Authorization": f"Basic {basic}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read(), "ascii")


async def main(name: str, password: str, server: str = "127.0.0.1:8000") -> None:
    async def token() -> str:  # asked for each connection, and before a token has expired
        return await anyio.to_thread.run_sync(fetch, f"http://{server}", name, password)

    try:
        await token()  # a wrong password is said at once; later ones are tried again
    except urllib.error.URLError as error:
        sys.exit(f"cannot log in: {error}")
    await wsflow.run_client(client, f"ws://{server}/me", credential=token)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
