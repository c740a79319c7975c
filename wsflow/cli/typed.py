"""What can be typed at ``wsflow connect``: from a line to a message, validated before it is
sent."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from wsflow.declare.signatures import type_name
from wsflow.messages.apart import decoder_of
from wsflow.messages.calls import Ask, is_call
from wsflow.messages.codec import BoundCodec, Plain
from wsflow.messages.families import sent_fields, tags_of
from wsflow.wiring.messages import RAW
from wsflow.wiring.plan import AppPlan, RoutePlan


class MistypedError(Exception):
    """A line is not a valid message: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of message that the app takes, as it is typed.

    Attributes:
        name: its tag.
        fields: its fields, each with its type and whether it is required.
        calls: whether it expects an answer.
    """

    name: str
    fields: dict[str, tuple[str, bool]]
    calls: bool


class Typed:
    """Reads lines: ``say text="hello there"``, or JSON; anything at all if no app is known.

    Args:
        codec: how messages are written.
        plan: the plan of the app's path; None if it is not known.

    Attributes:
        asked: the ids of pending calls.
    """

    def __init__(self, codec: BoundCodec, plan: RoutePlan | None = None) -> None:
        self._codec = codec
        self._ids = itertools.count(1)
        self.asked: set[int] = set()
        self._plan = plan
        kinds = [kind for each in plan.consumers for kind in each.kinds] if plan else []
        self._raw = plan is None or (str if codec.text else bytes) in kinds
        typed = tuple(kind for kind in kinds if kind not in RAW)
        plain = Plain(codec.hooks, codec.encode, strict=False)
        self._convert = decoder_of(typed, plain) if typed else None
        self._tag_field = plan.call_frames[Ask].__struct_config__.tag_field if plan else "type"
        self.kinds = {each.name: each for kind in typed for each in _kinds(kind, self._tag_field)}

    def read(self, line: str) -> str | bytes:
        """What is sent for a line.

        Raises:
            MistypedError: the app takes no such message.
        """
        message = self.check(line)
        if message is None:
            return self._untyped(line)
        if is_call(type(message)) and self._plan is not None:
            id = next(self._ids)
            self.asked.add(id)
            message = self._plan.call_frames[Ask](id, message)
        return self._written(message)

    def _written(self, message: object) -> str | bytes:
        data = self._codec.encode(message)
        return data.decode() if self._codec.text else data

    def heard(self, message: str | bytes) -> str | bytes | None:
        """A message was received. Returns the reply to send: calls are refused here."""
        try:
            frame = self._codec.decoder(dict[str, Any])(
                message.encode() if isinstance(message, str) else message
            )
        except msgspec.MsgspecError:
            return None
        tag, id = frame.get(self._tag_field), frame.get("id")
        if tag in ("$answer", "$end", "$error"):
            self.asked.discard(id)
        if tag != "$call":
            return None
        refusal = {self._tag_field: "$error", "id": id, "code": "unknown"}
        return self._written({**refusal, "message": "wsflow connect does not answer calls"})

    def check(self, line: str) -> Any:
        """The message of a line; None if any text is a message.

        Raises:
            MistypedError: the app takes no such message.
        """
        if self._raw:
            self._untyped(line)
            return None
        if self._convert is None:
            raise MistypedError("the app takes no messages here")
        try:
            return self._convert(self._fields(line))
        except msgspec.MsgspecError as exc:
            raise MistypedError(str(exc)) from None

    def _untyped(self, line: str) -> str | bytes:
        if self._codec.text:
            return line
        try:
            return self._codec.encode(msgspec.json.decode(line))
        except msgspec.MsgspecError as exc:
            raise MistypedError(f"{exc}: {self._codec.name} needs JSON to write it from") from None

    def _fields(self, line: str) -> Any:
        """The fields of a message in JSON, or in the form ``name field=value …``."""
        if line.lstrip()[:1] in ("{", "[", '"'):
            return msgspec.json.decode(line)
        name, _, rest = line.strip().partition(" ")
        if name not in self.kinds:
            known = ", ".join(self.kinds) or "none with a name: write it in JSON"
            raise MistypedError(f"the app takes no {name!r}; it takes {known}")
        fields: dict[str, Any] = {self._tag_field: name}
        try:
            words = shlex.split(rest)
        except ValueError as exc:
            raise MistypedError(f"{exc}: write a value with spaces as field='…'") from None
        for word in words:
            field, equals, value = word.partition("=")
            if not equals or field not in self.kinds[name].fields:
                has = ", ".join(self.kinds[name].fields) or "no fields"
                raise MistypedError(
                    f"{word!r} is not a field of {name}: it has {has}; write field=…"
                )
            fields[field] = _value(value, self.kinds[name].fields[field][0])
        return fields

    def complete(self, text: str) -> Iterator[tuple[str, int, str]]:
        """Completions: each word, how much of the text it replaces, and what it means."""
        name, space, rest = text.partition(" ")
        if not space:
            for each in self.kinds.values():
                if each.name.startswith(name):
                    fields = " ".join(f"{field}={kind}" for field, (kind, _) in each.fields.items())
                    yield f"{each.name} " if fields else each.name, -len(name), fields
        elif name in self.kinds:
            word = rest.rpartition(" ")[2]
            given = {each.partition("=")[0] for each in rest.split(" ")[:-1]}
            for field, (kind, needed) in self.kinds[name].fields.items():
                if field.startswith(word) and field not in given:
                    yield f"{field}=", -len(word), kind if needed else f"{kind}, optional"


def shown(message: str | bytes, codec: BoundCodec) -> str:
    """A message as a line: MessagePack as JSON, other bytes in hexadecimal."""
    if isinstance(message, str):
        return message
    if not codec.text:
        try:
            return msgspec.json.encode(msgspec.msgpack.decode(message)).decode()
        except (msgspec.MsgspecError, TypeError):
            pass
    return f"<{len(message)} bytes> {message.hex(' ')}"


def route(plan: AppPlan, uri: str) -> RoutePlan:
    """The plan of an app for the path of a URI.

    Raises:
        LookupError: the app has no such path.
    """
    path = urlsplit(uri).path or "/"
    found = plan.routes.match(path)
    if found is None:
        known = ", ".join(each.template for each in plan.routes)
        raise LookupError(f"the app has no path {path}: it has {known}")
    return found[0]


def _kinds(kind: Any, tag_field: str) -> Iterator[Kind]:
    """A type that can be typed, by each tag that it has."""
    for tag in tags_of(kind).get(tag_field, ()):
        fields = {
            name: (type_name(each), required)
            for name, (each, required) in sent_fields(kind).items()
            if name != tag_field
        }
        yield Kind(str(tag), fields, is_call(kind))


def _value(text: str, kind: str) -> Any:
    """The value of a typed text: JSON, or the text itself."""
    if kind == "str":
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
