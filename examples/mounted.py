"""A Router in a FastAPI app: one login for both, and what is posted is on all pages at once.

Run it: ``uvicorn examples.mounted:web``. Open http://127.0.0.1:8000/ in two windows, and log in as
ada with the password lovelace.
"""

import base64
import json
import os
import secrets
from typing import Annotated, Literal

import itsdangerous
import msgspec
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.middleware.sessions import SessionMiddleware

import wsflow
from wsflow import Router, Topic, TopicName
from wsflow.auth import SessionCookie

KEY = os.environ.get("MOUNTED_KEY") or secrets.token_urlsafe(32)
PASSWORDS = {"ada": "lovelace", "bob": "builder"}  # in life a database, with a hash of each


class User(msgspec.Struct):
    name: str


class LogIn(BaseModel):
    name: str
    password: str


class Post(BaseModel):  # comes by HTTP, and over the socket
    type: Literal["post"] = "post"
    text: str = Field(min_length=1, max_length=500)


class Posted(BaseModel):
    type: Literal["posted"] = "posted"
    by: str
    text: str


def read(value: str) -> User | None:
    """Whose session it is, by the cookie of SessionMiddleware."""
    try:
        data = itsdangerous.TimestampSigner(KEY).unsign(value, max_age=14 * 24 * 3600)
        return User(json.loads(base64.b64decode(data))["user"])
    except (itsdangerous.BadData, ValueError, KeyError):
        return None


Feed = Annotated[Topic[Posted], TopicName("feed", history=20)]

router = Router("/feed")
router.on_connect(SessionCookie(User, read=read))


@router.on_connect
async def enter(feed: Feed) -> None:
    await feed.join(last=20)


@router.consumer
async def say(message: Post, user: User, feed: Feed) -> None:
    await feed.publish(Posted(by=user.name, text=message.text))


web = FastAPI()
web.add_middleware(SessionMiddleware, secret_key=KEY)
sockets = wsflow.asgi(router)
sockets.mount(web, "/ws")


def logged_in(request: Request) -> User:
    if "user" not in request.session:
        raise HTTPException(401, "log in")
    return User(request.session["user"])


@web.post("/login", status_code=204)
def log_in(message: LogIn, request: Request) -> None:
    right = PASSWORDS.get(message.name, "")
    if not (secrets.compare_digest(message.password.encode(), right.encode()) and right):
        raise HTTPException(401, "this is not the password")
    request.session["user"] = message.name


@web.post("/post")
async def post(message: Post, user: Annotated[User, Depends(logged_in)]) -> Posted:
    posted = Posted(by=user.name, text=message.text)
    await sockets.registry.topic("feed", Posted).publish(posted)
    return posted


@web.get("/", response_class=HTMLResponse)
def page() -> str:
    return """<!doctype html><title>Feed</title>
<form id=login><input name=name><input name=password type=password><button>log in</button></form>
<form id=post><input name=text><button>post</button></form><div></div>
<script>
for (const form of document.forms) form.onsubmit = async (event) => {
  event.preventDefault();
  const body = JSON.stringify(Object.fromEntries(new FormData(form)));
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(form.id, { method: "POST", headers, body });
  if (!answer.ok) alert(answer.statusText);
  else if (form.id === "login") location.reload();
  form.reset();
};
const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/feed");
socket.onmessage = ({ data }) => {  // once the browser has a cookie, it sends it
  const { by, text } = JSON.parse(data);
  document.querySelector("div").append(`${by}: ${text}`, document.createElement("br"));
};
</script>"""
