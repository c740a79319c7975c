"""Telling messages of several types apart.

msgspec tells Structs with tags from each other, and objects from all else. What it cannot do, two
objects that are no such Structs, or a model of pydantic beside anything, is done by the tag here:
all types of a path have it in one field.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from wsflow.messages.calls import class_of
from wsflow.messages.families import is_model, is_object, is_tagged_struct, tags_of

S = TypeVar("S")
C = TypeVar("C", contravariant=True)
Decode = Callable[[S], Any]
"""Decodes what has come: bytes, or what a codec has made of them."""


class NotAnObjectError(msgspec.ValidationError):
    """What has come is no object."""


@dataclass(frozen=True, slots=True)
class Apart:
    """How messages of some types are told apart.

    Attributes:
        field: the field with the tag.
        by_tag: the type of the objects with each tag.
        whole: the types that msgspec decodes together: Structs with tags, and all that are no
            objects.
        otherwise: the type of all other objects: the only one that is no frame. None if there are
            several.
    """

    field: str
    by_tag: Mapping[Any, Any]
    whole: tuple[Any, ...]
    otherwise: Any


def apart(kinds: Sequence[Any]) -> Apart | None:
    """How messages of these types are told apart; None if msgspec does that, or there is only one.

    Raises:
        TypeError: they cannot be told apart; the message says why.
    """
    objects = [kind for kind in kinds if is_object(kind)]
    models = [kind for kind in kinds if is_model(class_of(kind))]
    own = [kind for kind in objects if kind in models or not is_tagged_struct(kind)]
    if len(kinds) == 1 or not (models or len(own) > 1 or (own and len(objects) > 1)):
        return None
    for each in models:
        if each not in objects:
            raise TypeError(f"{_name(each)} is no object, and has no tag")
    field = _common_field(objects) if len(objects) > 1 else ""
    by_tag = {tag: kind for kind in objects for tag in tags_of(kind).get(field, ())}
    whole = tuple(kind for kind in kinds if kind not in own)
    messages = [kind for kind in objects if not _is_frame(kind)]
    return Apart(field, by_tag, whole, own[0] if messages == own[:1] else None)


def tag_field(kinds: Iterable[Any]) -> str | None:
    """The field in which messages of these types have their tag; None if they have none. Of a
    single type, that may be a Literal of one value."""
    tagged = [kind for kind in kinds if is_object(kind) and tags_of(kind)]
    if len(tagged) == 1:
        (tags,) = map(tags_of, tagged)
        return next((field for field in _common(tagged) if len(tags[field]) == 1), None)
    return next((field for field in _common(tagged) if not _clash(tagged, field)), None)


def _common_field(kinds: Sequence[Any]) -> str:
    """The field in which each of these types has a tag of its own.

    Raises:
        TypeError: there is none; the message says why.
    """
    tags = [tags_of(kind) for kind in kinds]
    for kind, found in zip(kinds, tags, strict=True):
        if not found:
            raise TypeError(f"{_name(kind)} has no tag")
    clash = ""
    for field in _common(kinds):
        if not (clash := _clash(kinds, field)):
            return field
    if clash:
        raise TypeError(clash)
    pairs = itertools.combinations(range(len(kinds)), 2)
    disjoint = [(a, b) for a, b in pairs if tags[a].keys().isdisjoint(tags[b])]
    one, other = (disjoint or [(0, -1)])[0]
    fields = [" or ".join(map(repr, tags[each])) for each in (one, other)]
    raise TypeError(
        f"{_name(kinds[one])} has its tag in {fields[0]}, and {_name(kinds[other])} in {fields[1]}"
    )


def _common(kinds: Sequence[Any]) -> list[str]:
    """The fields in which all of these types have a tag: those first that have the fewest, and
    ``type`` before others."""
    tags = [tags_of(kind) for kind in kinds]
    common = [field for field in (tags[0] if tags else ()) if all(field in each for each in tags)]
    return sorted(
        common, key=lambda field: (max(len(each[field]) for each in tags), field != "type")
    )


def _clash(kinds: Sequence[Any], field: str) -> str:
    """Which of these types have one tag in a field; empty if none have."""
    taken: dict[Any, Any] = {}
    for kind in kinds:
        for tag in tags_of(kind)[field]:
            if (other := taken.setdefault(tag, kind)) is not kind:
                return f"{_name(other)} and {_name(kind)} have the same tag, {tag!r}"
    return ""


def _is_frame(kind: Any) -> bool:
    return is_tagged_struct(kind) and str(class_of(kind).__struct_config__.tag).startswith("$")


def _name(kind: Any) -> str:
    return str(getattr(class_of(kind), "__name__", kind))


class Makes(Protocol[C]):
    """What makes decoders."""

    def one(self, kind: Any) -> Decode[C]:
        """The decoder of one type."""

    def whole(self, kinds: tuple[Any, ...]) -> Decode[C]:
        """The decoder of types that msgspec tells apart."""

    def tag(self, field: str) -> Decode[C]:
        """What finds the tag of an object, in that field; None without one.

        It raises NotAnObjectError for all that is no object.
        """


def decoder_of(kinds: tuple[Any, ...], makes: Makes[S]) -> Decode[S]:
    """A decoder of several types.

    Raises:
        TypeError: they cannot be told apart.
    """
    how = apart(kinds)
    if how is not None:
        return _picking(how, makes)
    return makes.one(kinds[0]) if len(kinds) == 1 else makes.whole(kinds)


def _picking(how: Apart, makes: Makes[S]) -> Decode[S]:
    """A decoder of the type that the tag of an object says."""
    whole = makes.whole(how.whole) if how.whole else None
    found = {kind: makes.one(kind) for kind in how.by_tag.values() if kind not in how.whole}
    by_tag = {tag: found.get(kind, whole) for tag, kind in how.by_tag.items()}
    otherwise = None if how.otherwise is None else makes.one(how.otherwise)
    tag_of = makes.tag(how.field)

    def decode(data: S) -> Any:
        try:
            tag = tag_of(data)
        except NotAnObjectError:
            if whole is None:
                raise
            return whole(data)
        chosen = by_tag.get(tag, otherwise) if isinstance(tag, str | int) else otherwise
        if chosen is not None:
            return chosen(data)
        if tag is None:
            raise msgspec.ValidationError(f"Object missing required field `{how.field}`")
        raise msgspec.ValidationError(f"Invalid value {tag!r} - at `$.{how.field}`")

    return decode
