"""The typed messages of the JSON workload, and the answers to them, for all who use msgspec."""

from __future__ import annotations

import msgspec

PUSH = "".join(chr(97 + each % 26) for each in range(64))


class Chat(msgspec.Struct, tag="chat"):
    room: str
    user: str
    text: str
    ts: float
    seq: int


class Join(msgspec.Struct, tag="join"):
    room: str
    user: str
    caps: list[str]
    client: str
    ts: float
    seq: int


class Move(msgspec.Struct, tag="move"):
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


class Order(msgspec.Struct, tag="order"):
    sku: str
    qty: int
    price: float
    ccy: str
    side: str
    note: str
    ts: float
    seq: int


class Ack(msgspec.Struct, tag="ack"):
    ref: int
    ok: bool
    code: int
    detail: str
    ts: float
    seq: int


class Reply(msgspec.Struct, tag="reply"):
    kind: str
    seq: int
    ok: bool
    text: str


class Shop:
    """What the handlers of the JSON workload are given."""

    least = 1


Message = Chat | Join | Move | Order | Ack
_decode = msgspec.json.Decoder(Message).decode
_encode = msgspec.json.Encoder().encode
_shop = Shop()


def _chat(message: Chat) -> Reply:
    return Reply("chat", message.seq, True, message.text)


def _join(message: Join) -> Reply:
    return Reply("join", message.seq, True, message.client)


def _move(message: Move) -> Reply:
    return Reply("move", message.seq, message.grounded, message.obj)


def _order(message: Order) -> Reply:
    return Reply("order", message.seq, message.qty >= _shop.least, message.note)


def _ack(message: Ack) -> Reply:
    return Reply("ack", message.seq, message.ok, message.detail)


_HANDLERS = {Chat: _chat, Join: _join, Move: _move, Order: _order, Ack: _ack}


def reply(message: Message) -> Reply:
    """The answer to a message."""
    return _HANDLERS[type(message)](message)


def answer(data: str | bytes | memoryview) -> bytes:
    """What a careful hand writes: decode in one pass, look up, answer, encode."""
    message = _decode(data)
    return _encode(_HANDLERS[type(message)](message))
