"""Messages to one user: to all pages that he has open, whichever process they are in.

Run it in four processes: ``wsflow run examples.direct:app --workers 4``. Connect twice as ada, and
once as bob: ``wsflow connect "ws://127.0.0.1:8000/direct?name=ada" --app examples.direct:app``, and
type ``tell to=bob text=hi``.
"""

from typing import Annotated

import msgspec

from wsflow import Call, CallError, Connection, Query, Registry, Reject, Router, Sends

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Tell(Call[int], tag="tell"):
    """Send a text to a user. The answer is how many connections he has."""

    to: str
    text: Text


class SignOut(msgspec.Struct, tag="sign_out"):
    """Close all connections of mine but this one."""


class Told(msgspec.Struct, tag="told"):
    by: str
    text: str


class Wrote(msgspec.Struct, tag="wrote"):
    """What I have sent from another page of mine."""

    to: str
    text: str


class Me(msgspec.Struct):
    name: str


app = Router("/direct")


@app.on_connect
async def sign_in(
    connection: Annotated[Connection, Sends(Told, Wrote)],  # others send them to this connection
    name: Annotated[str, Query()] = "",
) -> Me:
    if not name:
        raise Reject(401, "a name is needed")
    connection.identify(name)  # in life the name is that of a token: see members and login
    return Me(name)


@app.consumer
async def tell(call: Tell, me: Me, connection: Connection, registry: Registry) -> int:
    user = registry.user(call.to)
    there = len(await user.connections())  # of all processes
    if not there:
        raise CallError("away", f"{call.to} is not here")
    await user.send(Told(me.name, call.text))
    await registry.user(me.name).send(Wrote(call.to, call.text), exclude=connection)
    return there


@app.consumer
async def sign_out(message: SignOut, me: Me, connection: Connection, registry: Registry) -> None:
    await registry.user(me.name).disconnect(4401, "signed out elsewhere", exclude=connection)
