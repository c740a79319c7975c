"""A module in Python: the types of an app, and how each of its paths is reached, for a service that
does not share its code."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import final

from wsflow.contract.contract import Channel, Contract, Message, Parameter
from wsflow.contract.names import Names, of_path
from wsflow.contract.pytypes import BUILTINS, Call, Tag, Types, docstring, quoted
from wsflow.contract.walk import name_of

_IMPORTS: Mapping[str, str] = {
    "datetime": "import datetime",
    "decimal": "import decimal",
    "uuid": "import uuid",
    "Annotated": "from typing import Annotated",
    "Any": "from typing import Any",
    "Literal": "from typing import Literal",
    "Never": "from typing import Never",
    "TypeAlias": "from typing import TypeAlias",
    "quote": "from urllib.parse import quote",
    "urlencode": "from urllib.parse import urlencode",
    "msgspec": "import msgspec",
    "Call": "from wsflow import Call",
    "Codec": "from wsflow import Codec",
    "EventId": "from wsflow import EventId",
    "Router": "from wsflow import Router",
    "Stream": "from wsflow import Stream",
}

_TEXT = '''\
def _text(value: object) -> str:
    """A parameter as it stands in a URI."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')

'''

_PART = '''\
def _part(value: object) -> str:
    """A parameter as it stands in a path."""
    return quote(_text(value), safe="")
'''

_URI = '''\
def _uri(base: str, path: str, query: dict[str, object]) -> str:
    """A URI, with those of the query that are given."""
    pairs = [
        (name, _text(each))
        for name, value in query.items()
        if value is not None
        for each in (value if isinstance(value, (list, set, tuple)) else [value])
    ]
    return f"{base.rstrip('/')}{path}{'?' if pairs else ''}{urlencode(pairs)}"
'''

_HEADERS = '''\
def _headers(headers: dict[str, object], cookies: dict[str, object]) -> dict[str, str]:
    """Those headers and cookies that are given."""
    found, sent = (
        {name: _text(value) for name, value in each.items() if value is not None}
        for each in (headers, cookies)
    )
    for name, value in sent.items():
        if ";" in value:
            raise ValueError(f"the cookie {name} cannot have a semicolon: {value!r}")
    if sent:
        found["Cookie"] = "; ".join(f"{name}={value}" for name, value in sent.items())
    return found
'''

WIDTH = 100
"""The longest line, where a line can be broken."""

_TAKEN = (
    *keyword.kwlist,
    *BUILTINS,
    *_IMPORTS,
    "isinstance",
    "object",
    "staticmethod",
    *("_headers", "_part", "_text", "_uri"),
)

_RAW = {"text": "str", "binary": "bytes"}


def python(contract: Contract) -> str:
    """A contract as a module in Python, for clients that are written with wsflow."""
    return _Module(contract).made()


@final
class _Module:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        tags: dict[str, Tag] = {}
        events: dict[str, str] = {}
        calls: dict[str, Call] = {}
        for channel in contract.channels:
            asked = [*channel.answers, *channel.asks]
            for message in (*channel.takes, *channel.sends, *(each.message for each in asked)):
                name = name_of(message.schema)
                if name and message.tag is not None:
                    tags[name] = message.tag
                if name and message.event_id is not None:
                    events[name] = message.event_id
            for each in asked:
                base = "Stream" if each.stream else "Call"
                calls[name_of(each.message.schema)] = Call(base, each.answer)
        self._names = Names(_TAKEN)
        self._types = Types(contract.schemas, self._names, tags, events, calls)

    def made(self) -> str:
        contract = self._contract
        about = f"{contract.title} {contract.version}\n\n{contract.description}".strip()
        types = list(self._types.declarations())
        paths = [self._path(each) for each in contract.channels]
        helpers = [_TEXT, _PART, _URI, _HEADERS]
        code = "\n\n".join([*types, *paths])
        for each in reversed(helpers):  # those that those need, too
            name = each.removeprefix("def ").partition("(")[0]
            if re.search(rf"\b{name}\(", code):
                code = f"{code}\n\n{each}"
        return "\n".join(
            [
                "# Written by wsflow: write it anew, and do not change it.",
                docstring(about, ""),
                "",
                "from __future__ import annotations",
                "",
                *_imports(code),
                "",
                "",
                code,
            ]
        )

    def _path(self, channel: Channel) -> str:
        """The class of a path."""
        name = self._names.give(of_path(channel.path))
        received = [self._message(each) for each in channel.sends]
        sent = [self._message(each) for each in channel.takes]
        lines = [
            f"class {name}:",
            docstring("\n\n".join(_about(channel)), "    "),
            "",
            f"    PATH = {quoted(channel.path)}",
            f"    RECEIVES{': tuple[()]' * (not received)} = {_tuple(received)}",
            f"    Received: TypeAlias = {' | '.join(dict.fromkeys(received)) or 'Never'}",
            f"    Sent: TypeAlias = {' | '.join(dict.fromkeys(sent)) or 'Never'}",
            "",
            *self._uri(channel),
            *self._headers([e for e in channel.parameters if e.place in ("header", "cookie")]),
            *_router(name, channel),
        ]
        return "\n".join([*lines, ""])

    def _message(self, message: Message) -> str:
        return _RAW[message.raw] if message.raw else self._types.of(message.schema).text

    def _uri(self, channel: Channel) -> Iterator[str]:
        parameters = [each for each in channel.parameters if each.place in ("path", "query")]
        names = Names((*_TAKEN, "base"))
        path, query, arguments = quoted(channel.path), [], []
        for each in sorted(parameters, key=lambda each: not each.required):
            name = names.give(each.name)
            arguments.append(self._argument(name, each))
            if each.place == "path":
                path = path.replace(f"{{{each.name}}}", f"{{_part({name})}}")
            else:
                query.append(f"{quoted(each.name)}: {name}")
        yield from _method("uri", ["base: str", *(["*", *arguments] if arguments else [])], "str")
        yield '        """The URI; ``base`` is what stands before the path: ``wss://example.com``."""'
        yield f"        return _uri(base, {'f' * ('{' in path)}{path}, {{{', '.join(query)}}})"
        yield ""

    def _argument(self, name: str, parameter: Parameter) -> str:
        kind = self._types.of(parameter.schema).text
        kind = "object" if kind == "Any" else kind
        return f"{name}: {kind}" if parameter.required else f"{name}: {kind} | None = None"

    def _headers(self, parameters: list[Parameter]) -> Iterator[str]:
        if not parameters:
            return
        names = Names(_TAKEN)
        given = [(names.give(each.name.lower()), each) for each in parameters]
        given.sort(key=lambda each: not each[1].required)
        arguments = [self._argument(name, each) for name, each in given]
        yield from _method("headers", ["*", *arguments], "dict[str, str]")
        yield '        """The headers of the opening request, for ``headers=``."""'
        headers, cookies = (
            ", ".join(f"{quoted(each.name)}: {name}" for name, each in given if each.place == place)
            for place in ("header", "cookie")
        )
        yield f"        return _headers({{{headers}}}, {{{cookies}}})"
        yield ""


def _method(name: str, arguments: Sequence[str], result: str) -> Iterator[str]:
    """The head of a static method."""
    yield "    @staticmethod"
    line = f"    def {name}({', '.join(arguments)}) -> {result}:"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"    def {name}("
        yield from (f"        {each}," for each in arguments)
        yield f"    ) -> {result}:"


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' * (len(items) == 1)})"


def _router(name: str, channel: Channel) -> Iterator[str]:
    codec = channel.codecs[0]
    own = codec not in ("json", "msgpack")
    more = "" if codec == "json" else f", codec={'codec' if own else quoted(codec)}"
    yield from _method("router", [*["codec: Codec"] * own, 'prefix: str = ""'], "Router")
    yield '        """A Router for a client; ``prefix`` is where the app is mounted: ``/api``."""'
    yield f'        return Router(prefix + {name}.PATH, unknown="ignore"{more})'


def _about(channel: Channel) -> Iterable[str]:
    """What is said of a path."""
    yield f"``{channel.path}``"
    yield from filter(None, (channel.title, channel.description))
    if channel.deprecated:
        yield "Deprecated."
    for what, names in (
        ("Answers", [each.message.title for each in channel.answers]),
        ("Asks", [each.message.title for each in channel.asks]),
        ("Resumes with", [each.name for each in channel.parameters if each.resumes]),
        ("Speaks", channel.subprotocols),
    ):
        if names:
            yield f"{what} {', '.join(f'``{each}``' for each in names)}."
    if channel.security:
        yield "Needs to know who its clients are: ``credential=``, for example."


def _imports(code: str) -> Iterator[str]:
    """The imports that code needs, in the order of isort."""
    code = re.sub(r'""".*?(?<!\\)"""', "", code, flags=re.DOTALL)  # words in them are no names
    used = [line for name, line in _IMPORTS.items() if re.search(rf"(?<![\w.]){name}\b", code)]
    modules: dict[str, list[str]] = {}
    for line in used:
        module, _, name = line.removeprefix("from ").partition(" import ")
        modules.setdefault(module, []).append(name)
    groups: list[list[str]] = [[], []]
    for module, names in modules.items():
        line = module if names == [""] else f"from {module} import {', '.join(names)}"
        groups[module.removeprefix("import ") in ("msgspec", "wsflow")].append(line)
    yield from (*groups[0], "", *groups[1])
