"""A client in TypeScript: the types of an app, and a function for each of its paths.

What is the same in every client stands in ``runtime.ts``, and in ``exact.ts`` what only those need
that have integers beyond 2^53. The hook for React in ``react.ts`` is the same for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wsflow.contract.contract import Asked, Channel, Contract, Message
from wsflow.contract.names import Names, of_path
from wsflow.contract.tstypes import Types, doc, key, taken, union

RUNTIME, EXACT, REACT = (
    Path(__file__).with_name(f"{name}.ts").read_text("utf-8")
    for name in ("runtime", "exact", "react")
)


def typescript(contract: Contract) -> str:
    """A contract as a client in TypeScript: one file, without dependencies."""
    return _Client(contract).made()


_RAW: Mapping[str, tuple[str, str]] = {
    "text": ("string", "string"),
    "binary": ("ArrayBuffer | ArrayBufferView", "ArrayBuffer"),
}
"""What is sent, and what is received, as it is."""


@final
class _Client:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names = Names(taken(RUNTIME, EXACT))
        self._types = Types(contract.schemas, self._names)

    def made(self) -> str:
        contract = self._contract
        paths = [self._path(each) for each in contract.channels]
        about = f"{contract.title} {contract.version}\n\n{contract.description}".strip()
        shapes = "".join(
            f"  {key(name)}: {json.dumps(each)},\n" for name, each in self._types.shapes.items()
        )
        exact = f"const shapes: {{ readonly [name: string]: Shape }} = {{\n{shapes}}};\n\n{EXACT}"
        return "\n".join(
            [
                "// Written by wsflow: write it anew, and do not change it.",
                "/* eslint-disable */",
                "",
                doc(about),
                *self._types.declarations(),
                *paths,
                *([exact] if "exactly(" in "".join(paths) else []),
                RUNTIME,
            ]
        )

    def _path(self, channel: Channel) -> str:
        """The function and the type of a path."""
        if "json" not in channel.codecs:
            return (
                f"// {channel.path} speaks only {channel.codecs[0]}, which this client does not.\n"
            )
        name = of_path(channel.path)
        name = self._names.give(f"{name[0].lower()}{name[1:]}")
        kind = self._names.give(f"{name[0].upper()}{name[1:]}Connection")
        made = _Parameters(channel, self._types)
        default = " = {}" if made.optional else ""
        about = [f"`{channel.path}`", channel.title, channel.description, *_heads(channel)]
        about += ["@deprecated"] * channel.deprecated
        comment = doc("\n\n".join(filter(None, about)))
        return (
            f"export type {kind} = Connection<{self._spec(channel)}>;\n\n"
            f"{comment}export function {name}(base: string, params: Params<{made.type}>{default}, "
            f"options: Options = {{}}): {kind} {{\n"
            f"  return new Connection(base, params, options, {{\n"
            + "".join(f"    {each},\n" for each in self._definition(channel, made))
            + "  });\n}\n"
        )

    def _spec(self, channel: Channel) -> str:
        """The types of a path."""
        kinds = {
            "sends": self._messages(channel.takes, 0),
            "receives": self._messages(channel.sends, 1),
            "calls": self._asked(each for each in channel.answers if not each.stream),
            "streams": self._asked(each for each in channel.answers if each.stream),
            "answers": self._asked(channel.asks, "AsyncIterable<{}>"),
        }
        lines = [f"  tag: {json.dumps(channel.tag_field)};"]
        for name, types in kinds.items():
            fields = "".join(f" {key(tag)}: {each};" for tag, each in types.items())
            lines.append(f"  {name}: {{{fields} }};".replace("{ }", "{}"))
        return "\n".join(["{", *lines, "}"])

    def _messages(self, messages: Iterable[Message], direction: int) -> Mapping[str, str]:
        found: dict[str, list[str]] = {}
        for each in messages:
            kind = _RAW[each.raw][direction] if each.raw else self._types.type(each.schema)
            found.setdefault(_tag(each), []).append(kind)
        return {tag: union(kinds) for tag, kinds in found.items()}

    def _asked(self, asked: Iterable[Asked], stream: str = "{}") -> Mapping[str, str]:
        """Pairs of what is asked and what is answered."""
        found = {}
        for each in asked:
            answer = self._types.type(each.answer)
            answer = stream.format(answer) if each.stream else answer
            found[_tag(each.message)] = f"[{self._types.type(each.message.schema)}, {answer}]"
        return found

    def _definition(self, channel: Channel, parameters: _Parameters) -> Iterator[str]:
        """What the runtime has to know of a path."""
        fields = [each.tag[0] for each in _received(channel) if each.tag is not None]
        tags = [channel.tag_field, (fields or [channel.tag_field])[0]]
        known: dict[str, str] = {}
        for each in channel.sends:
            known[_tag(each)] = known.get(_tag(each)) or each.event_id or ""
        made: dict[str, Any] = {
            "path": parameters.path,
            "query": parameters.query or None,
            "resume": parameters.resume,
            "token": parameters.token,
            "tags": tags,
            "receives": known,
            "frames": channel.frames,
        }
        for name, each in made.items():
            if each is not None:
                yield f"{name}: {json.dumps(each)}"
        if exact := self._exact(channel, tags):
            yield exact

    def _exact(self, channel: Channel, tags: Sequence[str]) -> str:
        """What reads and writes the messages of a path, if integers in them are beyond 2^53."""
        answers = [each.answer for each in channel.asks]
        asked = [each.message for each in channel.answers]
        given = [*answers, *(each.schema for each in (*channel.takes, *asked))]
        received: dict[str, list[Any]] = {}
        for message in _received(channel):
            received.setdefault(_tag(message), []).append(self._types.shape(message.schema))
        answered = {
            _tag(each.message): [self._types.shape(each.answer)] for each in channel.answers
        }
        found = [_without_none(each) for each in (received, answered)]
        if not any(found) and not any(map(self._types.holds_large, given)):
            return ""
        return f"...exactly({', '.join(map(json.dumps, (tags, *found)))})"


def _without_none(shapes: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    found = {tag: [one for one in each if one is not None] for tag, each in shapes.items()}
    return {tag: each for tag, each in found.items() if each}


def _received(channel: Channel) -> Sequence[Message]:
    return [*channel.sends, *(each.message for each in channel.asks)]


@final
class _Parameters:
    """The parameters of a path, as its function takes them.

    Attributes:
        type: their type.
        optional: whether all may be left out.
        path: the path, with their names in braces.
        query: the names in the query, by theirs.
        resume: the one that takes the last event id; None without one.
        token: the prefix of the subprotocol that is a token, "" for the first message; None if
            there is no token.
    """

    def __init__(self, channel: Channel, types: Types) -> None:
        names = Names()
        self.path = channel.path
        self.query: dict[str, str] = {}
        self.resume: str | None = None
        self.token = _token(channel)
        fields = []
        if self.token is not None:
            fields.append(f"{names.give('token')}: string")
        for each in channel.parameters:
            if each.place not in ("path", "query"):
                continue
            name = names.give(each.name)
            if each.place == "path":
                self.path = self.path.replace(f"{{{each.name}}}", f"{{{name}}}")
            else:
                self.query[name] = each.name
            if each.resumes:
                self.resume = name
            kind = types.type(each.schema)
            kind = _ANY if kind == "unknown" else kind
            fields.append(f"{name}: {kind}" if each.required else f"{name}?: {kind} | undefined")
        self.optional = all("?: " in each for each in fields)
        self.type = f"{{ {'; '.join(fields)} }}" if fields else "{}"


_ANY = "string | number | bigint | boolean"


def _token(channel: Channel) -> str | None:
    """How a path takes a token; None if it takes none that a browser can show."""
    places = {each.place: each.parameter for each in channel.security}
    return places.get("subprotocol", places.get("message"))


def _heads(channel: Channel) -> Iterator[str]:
    """What is said of what a browser cannot send."""
    for each in channel.parameters:
        if each.place in ("header", "cookie"):
            needs = "Needs" if each.required else "Reads"
            yield f"{needs} the {each.place} `{each.name}`."


def _tag(message: Message) -> str:
    """By what a client names a message. Tags do not begin with ``$``."""
    return str(message.tag[1]) if message.tag is not None else f"${message.raw or 'message'}"
