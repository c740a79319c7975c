"""AsyncAPI 3.1.0.

What AsyncAPI has no word for stands in fields that begin with ``x-``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, final

from wsflow.contract.contract import (
    Asked,
    Channel,
    Contract,
    Message,
    Parameter,
    Schema,
    Security,
)
from wsflow.contract.names import unique
from wsflow.contract.walk import changed, name_of
from wsflow.messages.calls import WINDOW

VERSION = "3.1.0"

CLOSE_CODES: Mapping[int, str] = {
    1000: "a handler has finished, or has closed the connection",
    1001: "the server stops: come back",
    1003: "a frame of a kind that nobody takes",
    1007: "a message that cannot be read",
    1008: "a violation of the rules of calls, or of a rate limit",
    1009: "a message that is too large",
    1011: "an error of the app: come back",
    1012: "the server restarts: come back",
    1013: "this client reads too slowly: come back",
    4401: "the credential has ended, or is not accepted",
    4403: "the user may not do that",
}

_TYPES = {"json": "application/json", "msgpack": "application/msgpack"}
_RAW = {"text": "text/plain", "binary": "application/octet-stream"}


def asyncapi(contract: Contract) -> dict[str, Any]:
    """A contract as an AsyncAPI document."""
    return _Document(contract).made()


@final
class _Document:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._operations: dict[str, Any] = {}
        self._security: dict[str, Any] = {}

    def made(self) -> dict[str, Any]:
        contract = self._contract
        info = {"title": contract.title, "version": contract.version}
        if contract.description:
            info["description"] = contract.description
        ids = unique(_slug(each.path) or "root" for each in contract.channels)
        channels = {
            id: self._channel(id, each) for id, each in zip(ids, contract.channels, strict=True)
        }
        components: dict[str, Any] = {
            "schemas": {name: _schema(each) for name, each in contract.schemas.items()}
        }
        if self._security:
            components["securitySchemes"] = self._security
        return {
            "asyncapi": VERSION,
            "info": info,
            "defaultContentType": "application/json",
            "channels": channels,
            "operations": self._operations,
            "components": components,
            "x-close-codes": {str(code): said for code, said in CLOSE_CODES.items()},
        }

    def _channel(self, id: str, channel: Channel) -> dict[str, Any]:
        messages: dict[str, Any] = {}
        made: dict[str, Any] = {"address": channel.path}
        if channel.title:
            made["title"] = channel.title
        description = channel.description
        if channel.deprecated:
            description = f"**Deprecated.** {description}".strip()
            made["x-deprecated"] = True
            made["tags"] = [{"name": "deprecated"}]
        if description:
            made["description"] = description
        made["messages"] = messages
        paths = [each for each in channel.parameters if each.place == "path"]
        if paths:
            made["parameters"] = {each.name: _path_parameter(each) for each in paths}
        made["bindings"] = {"ws": _binding(channel.parameters)}
        resumes = [each.name for each in channel.parameters if each.resumes]
        if resumes:
            made["x-resumes"] = resumes[0]
        made["x-subprotocols"] = [
            *channel.subprotocols,
            *(f"wsflow.{codec}" for codec in channel.codecs),
        ]
        made["x-unknown-messages"] = "ignored" if channel.ignores_unknown else "close"
        self._add(id, channel, messages)
        return made

    def _add(self, id: str, channel: Channel, messages: dict[str, Any]) -> None:
        """Add the messages and the operations of a channel."""
        codec = channel.codecs[0]
        kind = _TYPES.get(codec, f"application/{codec}")
        where = {"$ref": f"#/channels/{id}"}
        security = [self._scheme(each) for each in channel.security]
        common: dict[str, Any] = {"channel": where}
        if security:
            common["security"] = security

        def put(name: str, message: dict[str, Any]) -> dict[str, str]:
            messages[name] = message
            return {"$ref": f"#/channels/{id}/messages/{name}"}

        for action, name, found in (
            ("receive", "takes", channel.takes),
            ("send", "sends", channel.sends),
        ):
            if found:
                refs = [put(f"{name}.{each.name}", _message(each, kind)) for each in found]
                said = {"action": action, "summary": _SUMMARY[name], **common, "messages": refs}
                self._operations[f"{id}.{name}"] = said
        for action, name, asked in (
            ("receive", "answers", channel.answers),
            ("send", "asks", channel.asks),
        ):
            for each in asked:
                self._operations[f"{id}.{name}.{each.message.name}"] = {
                    "action": action,
                    "summary": _SUMMARY[name].format("a stream" if each.stream else "an answer"),
                    **({"description": each.description} if each.description else {}),
                    **common,
                    "messages": [put(f"{name}.{each.message.name}", _call(each, channel, kind))],
                    "reply": {
                        "channel": where,
                        "messages": [
                            put(f"{name}.{each.message.name}.{part}", message)
                            for part, message in _replies(each, channel, kind).items()
                        ],
                    },
                }

    def _scheme(self, security: Security) -> dict[str, str]:
        name = f"{security.place}.{_slug(security.parameter)}".rstrip(".")
        self._security[name] = _SCHEMES[security.place](security.parameter)
        return {"$ref": f"#/components/securitySchemes/{name}"}


_SUMMARY = {
    "takes": "What a client may send.",
    "sends": "What a client receives.",
    "answers": "What a client may ask, for {}.",
    "asks": "What a client is asked, for {}.",
}

_SCHEMES: Mapping[str, Any] = {
    "header": lambda name: {
        "type": "http",
        "scheme": "bearer",
        "description": f"In the header {name}.",
    },
    "cookie": lambda name: {"type": "httpApiKey", "in": "cookie", "name": name},
    "subprotocol": lambda prefix: {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": f"As a subprotocol: {prefix} and the token behind it.",
    },
    "message": lambda _: {
        "type": "http",
        "scheme": "bearer",
        "description": 'As the first message: {"type": "$auth", "token": "…"}.',
    },
}


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


def _path_parameter(parameter: Parameter) -> dict[str, Any]:
    schema = _schema(parameter.schema)
    made: dict[str, Any] = {}
    if "description" in schema:
        made["description"] = schema["description"]
    if all(isinstance(each, str) for each in schema.get("enum", ())) and "enum" in schema:
        made["enum"] = schema["enum"]
    if schema:
        made["x-schema"] = schema
    return made


def _binding(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """The WebSocket binding of a channel: its query and its headers; cookies are one of these."""
    made: dict[str, Any] = {"method": "GET", "bindingVersion": "0.1.0"}
    places: dict[str, list[Parameter]] = {"query": [], "header": [], "cookie": []}
    for each in parameters:
        places.get(each.place, []).append(each)
    for key, found in (("query", places["query"]), ("headers", places["header"])):
        if found:
            made[key] = _object(found)
    if cookies := places["cookie"]:
        headers = made.setdefault("headers", {"type": "object", "properties": {}})
        headers["properties"]["Cookie"] = {"type": "string", "x-cookies": _object(cookies)}
    return made


def _object(parameters: Iterable[Parameter]) -> dict[str, Any]:
    found = list(parameters)
    required = [each.name for each in found if each.required]
    return {
        "type": "object",
        "properties": {each.name: _schema(each.schema) for each in found},
        **({"required": required} if required else {}),
    }


def _message(message: Message, kind: str, payload: Schema | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": message.name, "title": message.title}
    if message.description:
        made["summary"] = message.description.partition("\n")[0]
        made["description"] = message.description
    if message.raw:
        made["contentType"] = _RAW[message.raw]
        made["payload"] = {"type": "string"}
        if message.raw == "binary":
            made["payload"]["format"] = "binary"
        return made
    if kind != "application/json":
        made["contentType"] = kind
    made["payload"] = _schema(message.schema if payload is None else payload)
    if message.tag is not None:
        made["x-tag"] = {"field": message.tag[0], "value": message.tag[1]}
    if message.event_id is not None:
        made["x-event-id"] = message.event_id
    if message.examples and payload is None:
        made["examples"] = [{"payload": each} for each in message.examples]
    return made


ID = {"type": "integer", "description": "The number of the call, by who makes it."}


def _frame(channel: Channel, tag: str, **fields: Schema) -> dict[str, Any]:
    """The schema of a frame of calls."""
    required = [name for name, each in fields.items() if "default" not in each]
    return {
        "type": "object",
        "properties": {channel.tag_field: {"const": tag}, "id": ID, **fields},
        "required": [channel.tag_field, "id", *required],
    }


def _call(asked: Asked, channel: Channel, kind: str) -> dict[str, Any]:
    more: dict[str, Schema] = {"message": asked.message.schema}
    if asked.stream:
        window = {"type": "integer", "default": WINDOW}
        more["items"] = {**window, "description": "How many items may be sent before `$more`."}
    message = _message(asked.message, kind, _frame(channel, "$call", **more))
    message["correlationId"] = {"location": "$message.payload#/id"}
    return message


def _replies(asked: Asked, channel: Channel, kind: str) -> dict[str, dict[str, Any]]:
    """The frames that answer a call."""
    text: Schema = {"type": "string"}
    frames: dict[str, Any] = {}
    if asked.stream:
        frames["item"] = ("one item", _frame(channel, "$item", value=asked.answer))
        frames["end"] = ("the end of the stream", _frame(channel, "$end"))
    else:
        frames["answer"] = ("the answer", _frame(channel, "$answer", value=asked.answer))
    failed = _frame(channel, "$error", code=text, message={**text, "default": ""})
    frames["error"] = ("it has failed", failed)
    made = {}
    for name, (title, payload) in frames.items():
        made[name] = {
            "name": payload["properties"][channel.tag_field]["const"],
            "title": f"{asked.message.title}: {title}",
            "payload": _schema(payload),
            "correlationId": {"location": "$message.payload#/id"},
        }
        if kind != "application/json":
            made[name]["contentType"] = kind
    return made


def _schema(schema: Any) -> Any:
    """A schema in the dialect of AsyncAPI, which is draft-07, with references into the document."""
    made = changed(schema, _schema)
    if "$ref" in made:
        made["$ref"] = f"#/components/schemas/{name_of(schema)}"
    if "prefixItems" in made:
        rest = made.get("items", True)
        made["items"], made["additionalItems"] = made.pop("prefixItems"), rest
    return made
