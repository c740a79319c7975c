"""JSON Schemas of message types: as they are taken, and as they are sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final, get_origin

import msgspec
from msgspec import inspect

from wsflow.contract.contract import REF, Schema
from wsflow.contract.names import unique
from wsflow.contract.walk import changed, name_of, refs, renamed
from wsflow.messages.families import dumped, is_model, schemas_of_models
from wsflow.messages.shapes import all_within

SENT = "Sent"
"""What the name of a type ends in, as it is sent, where that is another schema."""


@final
class Schemas:
    """The schemas of types, which share the named ones.

    What is taken may lack fields that have a default; what is sent has them all.

    Args:
        kinds: all types that will be asked for.

    Raises:
        ValueError: two classes have the same module and name, or a type has no schema.
    """

    def __init__(self, kinds: Iterable[Any]) -> None:
        known = tuple(dict.fromkeys(kinds))
        classes = list(dict.fromkeys(_classes(known)))
        models: dict[Any, str] = {}  # and what stands for each until all names are known

        def other(kind: type) -> dict[str, Any]:
            """The schema of a type that msgspec does not know: a model, or what hooks decode."""
            if not is_model(kind):
                return {"title": kind.__name__}
            return {"$ref": models.setdefault(kind, f"{REF} {len(models)}")}

        try:
            outs, named = msgspec.json.schema_components(
                (*known, *classes), schema_hook=other, ref_template=f"{REF}{{name}}"
            )
        except TypeError as exc:  # a default that has no form in JSON, for example
            raise ValueError(f"a type has no schema: {exc}") from None
        except KeyError as exc:  # of msgspec, which then has given up on names
            (cls,) = exc.args
            raise ValueError(
                f"two types are {cls.__module__}.{cls.__qualname__}, and a schema cannot tell them "
                "apart: give one of them another name"
            ) from None
        outs, named = as_json(outs), as_json(named)
        kinds_of = dict(
            zip(map(name_of, outs[len(known) :]), inspect.multi_type_info(classes), strict=True)
        )
        final, taken, sent = _models(list(models), list(named))
        standing = dict(
            zip((name_of({"$ref": each}) for each in models.values()), final, strict=True)
        )
        plain = {name: renamed(_clean(each), standing) for name, each in named.items()}
        self._taken: dict[str, Schema] = {**plain, **taken}
        self._sent: dict[str, Schema] = {
            **{
                name: _with(each, always_sent(kinds_of[name]) if name in kinds_of else ())
                for name, each in plain.items()
            },
            **sent,
        }
        self._kinds = {
            kind: renamed(_clean(each), standing) for kind, each in zip(known, outs, strict=False)
        }
        differ = sorted(self._differing())
        both = unique([*{**self._taken, **self._sent}, *(f"{name}{SENT}" for name in differ)])
        self._as_sent = dict(zip(differ, both[-len(differ) :], strict=True)) if differ else {}
        for name, each in self._as_sent.items():
            self._sent[each] = self._sent.pop(name)
        self._used: set[str] = set()

    def _differing(self) -> set[str]:
        """The names of the types that are sent as something else than they are taken."""
        both = self._taken.keys() & self._sent.keys()
        found = {name for name in both if self._sent[name] != self._taken[name]}
        while more := {name for name in both if found & set(refs(self._sent[name]))} - found:
            found |= more
        return found

    def taken(self, kind: Any) -> Schema:
        """The schema of a type as it is taken."""
        return self._use(self._kinds[kind])

    def sent(self, kind: Any) -> Schema:
        """The schema of a type as it is sent."""
        return self._use(renamed(self._kinds[kind], self._as_sent))

    def _use(self, schema: Schema) -> Schema:
        for name in refs(schema):
            if name not in self._used:
                self._used.add(name)
                self._use(self._find(name))
        return schema

    def _find(self, name: str) -> Schema:
        if name in self._taken:
            return self._taken[name]
        return renamed(self._sent[name], self._as_sent)

    @property
    def named(self) -> dict[str, Schema]:
        """The named schemas that were used, sorted."""
        return {name: self._find(name) for name in sorted(self._used)}


def class_of_sent(name: str, schema: Schema) -> str | None:
    """The name of the class that a schema is of as it is sent; None if it is no such schema."""
    cls = re.sub(rf"{SENT}(_\d+)?$", "", name)
    title = re.sub(r"[^A-Za-z0-9_.-]", "_", str(schema.get("title")))
    return cls if cls not in (name, "") and cls == title else None


def always_sent(info: Any) -> Sequence[str]:
    """The fields of a class that are always sent, by their names there."""
    omits = False
    tag = []
    if isinstance(info, inspect.StructType):
        omits = (get_origin(info.cls) or info.cls).__struct_config__.omit_defaults
        tag = [info.tag_field] if info.tag_field is not None else []
    fields = [each for each in info.fields if each.required or (_defaults(each) and not omits)]
    return [*tag, *(each.encode_name for each in fields)]


def _defaults(field: Any) -> bool:
    """Whether a field has a value if none is given: not so keys that may lack, and ``UNSET``."""
    return not (field.default is field.default_factory is msgspec.NODEFAULT)


def _with(schema: Schema, always: Sequence[str]) -> Schema:
    """A schema of an object, or of an array, that always has these fields."""
    if "prefixItems" in schema:
        return {**schema, "minItems": max(schema.get("minItems", 0), len(always))}
    required = [each for each in schema.get("properties", ()) if each in always]
    required += [each for each in schema.get("required", ()) if each not in required]
    return {**schema, "required": required} if required else schema


_CLASSES = (
    inspect.StructType,
    inspect.DataclassType,
    inspect.TypedDictType,
    inspect.NamedTupleType,
)


def _classes(kinds: Iterable[Any]) -> Iterator[Any]:
    for kind in kinds:
        for each in all_within(kind):
            if isinstance(each, _CLASSES):
                yield each.cls


def _models(
    models: Sequence[Any], given: Sequence[str]
) -> tuple[Sequence[str], Mapping[str, Schema], Mapping[str, Schema]]:
    """The names of models of pydantic, and their schemas and of what is within them, by name: as
    they are taken, and as they are sent.

    Args:
        models: the models.
        given: the names that others have.
    """
    if not models:
        return [], {}, {}
    own, taken = schemas_of_models(models, "validation", REF)
    sent_own, sent = schemas_of_models(models, "serialization", REF)
    others = [name for name in {**taken, **sent} if name not in {*own, *sent_own}]
    final = unique([*given, *own, *others])[len(given) :]
    names = dict(zip([*own, *others], final, strict=True))
    sent_names = {**names, **dict(zip(sent_own, final, strict=False))}
    as_sent = {name: _clean(each) for name, each in sent.items()}
    return (
        final[: len(own)],
        {names[name]: renamed(_clean(each), names) for name, each in taken.items()},
        {
            sent_names[name]: renamed(_with(each, list(each.get("properties", ()))), sent_names)
            for name, each in as_sent.items()
        },
    )


def _clean(schema: Any) -> dict[str, Any]:
    """A schema without what only OpenAPI knows."""
    made = changed(schema, _clean)
    made.pop("discriminator", None)
    return made


def as_json(value: Any) -> Any:
    """A value, as a document in JSON has it: what JSON does not know is text there."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_written))


def _written(value: Any) -> Any:
    return dumped(value) if is_model(type(value)) else str(value)
