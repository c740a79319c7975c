"""The contract of a wired app."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import msgspec

from wsflow.contract.contract import (
    Asked,
    Channel,
    Contract,
    Message,
    Parameter,
    Place,
    Security,
)
from wsflow.contract.names import unique
from wsflow.contract.schemas import Schemas, as_json
from wsflow.declare.markers import Cookie, Header, Query
from wsflow.declare.router import Handler
from wsflow.declare.signatures import EMPTY, type_name
from wsflow.messages.calls import Ask, Stream, answer_type, class_of, is_call
from wsflow.messages.events import event_id_field
from wsflow.messages.families import is_tagged_struct, tags_of
from wsflow.wiring.plan import AppPlan, RoutePlan, TakesCredential
from wsflow.wiring.routes import parameters
from wsflow.wiring.sources import FromPath, FromRequest

TITLE, VERSION = "app", "0.1.0"
"""Those of an app that has none."""

_RAW: Mapping[Any, Any] = {str: "text", bytes: "binary"}
_PLACES: Mapping[type, Place] = {Query: "query", Header: "header", Cookie: "cookie"}


def describe(plan: AppPlan) -> Contract:
    """Read the contract off an app."""
    routes = sorted(plan.routes, key=lambda route: route.template)
    schemas = Schemas(kind for route in routes for kind in _kinds(route))
    channels = [_Path(route, schemas).channel() for route in routes]
    about = plan.about
    return Contract(
        about.title or TITLE,
        about.version or VERSION,
        about.description,
        channels,
        schemas.named,
    )


def _kinds(route: RoutePlan) -> Iterator[Any]:
    """All types that a path names."""
    taken = [kind for each in route.consumers for kind in each.kinds]
    for kind in (*taken, *route.sends):
        yield kind
        if is_call(kind):
            yield answer_type(kind)
    for source in route.request_sources:
        yield source.kind


@final
class _Path:
    """One path of an app."""

    def __init__(self, route: RoutePlan, schemas: Schemas) -> None:
        self._route = route
        self._schemas = schemas

    @property
    def _tag_field(self) -> str:
        return str(self._route.call_frames[Ask].__struct_config__.tag_field)

    def channel(self) -> Channel:
        route = self._route
        takes = [(each, kind) for each in route.consumers for kind in each.kinds]
        messages = [kind for each, kind in takes if not each.calls]
        sends = [kind for kind in route.sends if not is_call(kind)]
        asks = [kind for kind in route.sends if is_call(kind)]
        return Channel(
            path=route.template,
            title=route.about.title,
            description=route.about.description,
            deprecated=route.about.deprecated,
            codecs=[codec.name for codec in route.codecs],
            subprotocols=list(route.subprotocols),
            tag_field=self._tag_field,
            parameters=list(self._parameters()),
            takes=_unique(self._message(kind, self._schemas.taken) for kind in messages),
            sends=_unique(self._message(kind, self._schemas.sent) for kind in sends),
            answers=[
                self._asked(kind, self._schemas.taken, self._schemas.sent, each.handler)
                for each, kind in takes
                if each.calls
            ],
            asks=[self._asked(kind, self._schemas.sent, self._schemas.taken) for kind in asks],
            security=list(self._security()),
            ignores_unknown=route.ignores_unknown,
            frames=any(each.calls for each in route.decodings.values()),
        )

    def _message(self, kind: Any, schema_of: Any) -> Message:
        cls = class_of(kind)
        raw = _RAW.get(kind, "")
        found = {} if raw else tags_of(kind)
        field = self._tag_field
        if field not in found and is_tagged_struct(kind):  # one that is only sent
            field = next(iter(found), field)
        tags = found.get(field, ())
        tag = (field, tags[0]) if len(tags) == 1 else None
        title = type_name(kind)
        name = str(tag[1]) if tag is not None else raw or title
        schema = {} if raw else schema_of(kind)
        return Message(
            name=re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") or "message",
            title=title,
            description=_own_doc(cls),
            schema=schema,
            raw=raw,
            tag=tag,
            event_id=_event_id(cls),
            examples=list(_examples(kind)),
        )

    def _asked(
        self, kind: Any, ask_schema: Any, answer_schema: Any, handler: Handler | None = None
    ) -> Asked:
        return Asked(
            self._message(kind, ask_schema),
            answer_schema(answer_type(kind)),
            issubclass(class_of(kind), Stream),
            _doc(handler) if handler is not None else "",
        )

    def _parameters(self) -> Iterator[Parameter]:
        """Those of the path in its order, then the others; each once, as strict as any of them."""
        sources: dict[tuple[Place, str], list[FromPath | FromRequest]] = {
            ("path", name): [] for name in parameters(self._route.template)
        }
        for source in self._route.request_sources:
            place: Place = "path" if isinstance(source, FromPath) else _PLACES[type(source.mark)]
            name = source.name.lower() if place == "header" else source.name
            sources.setdefault((place, name), []).append(source)
        for (place, name), found in sources.items():
            asked = [each for each in found if isinstance(each, FromRequest)]
            schemas = [dict(self._schemas.taken(each.kind)) for each in found]
            distinct = [each for at, each in enumerate(schemas) if each not in schemas[:at]]
            needed = place == "path" or any(each.default is EMPTY for each in asked)
            yield Parameter(
                name=found[0].name if found else name,
                place=place,
                schema={"allOf": distinct} if len(distinct) > 1 else (distinct or [{}])[0],
                required=needed,
                many=any(each.collects for each in asked),
                resumes=any(getattr(each.mark, "resumes", False) for each in asked),
            )

    def _security(self) -> Iterator[Security]:
        for scope in self._route.on_connect:
            if isinstance(scope.handler.fn, TakesCredential):
                for place, parameter in scope.handler.fn.credential_places:
                    yield Security(place, parameter)


def _unique(messages: Iterable[Message]) -> Sequence[Message]:
    """Messages whose names are unique."""
    found = list(messages)
    names = unique(each.name for each in found)
    return [replace(each, name=name) for each, name in zip(found, names, strict=True)]


def _own_doc(cls: Any) -> str:
    """The docstring of a class itself, and not of one that it derives from."""
    doc = (
        vars(cls).get("__doc__") if isinstance(cls, type) and cls.__module__ != "builtins" else None
    )
    generated = isinstance(doc, str) and doc.startswith(f"{cls.__name__}(")  # by dataclass
    return inspect.cleandoc(doc) if isinstance(doc, str) and not generated else ""


def _doc(handler: Handler) -> str:
    return inspect.getdoc(handler.fn) or ""


def _event_id(cls: Any) -> str | None:
    """The name of the field with the event id, as it is sent."""
    field = event_id_field(cls) if isinstance(cls, type) else None
    if field is None:
        return None
    encoded = getattr(cls, "__struct_encode_fields__", None)
    return str(encoded[cls.__struct_fields__.index(field)]) if encoded else field


def _examples(kind: Any) -> Iterator[Any]:
    """The examples that are written beside a type."""
    for mark in getattr(kind, "__metadata__", ()):
        if isinstance(mark, msgspec.Meta) and mark.examples:
            yield from as_json(mark.examples)
