"""What has changed between two contracts, and what of it breaks the clients of today.

Both are AsyncAPI documents that ``wsflow schema`` has written. Each change has a rule, which
``docs/schema.md`` explains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

Document = Mapping[str, Any]

RULES: Mapping[str, tuple[bool, str]] = {
    "path-gone": (True, "a path is gone"),
    "path-new": (False, "a path is new"),
    "path-deprecated": (False, "a path is deprecated, or no longer"),
    "parameter-required": (True, "a parameter is needed that was not"),
    "parameter-narrower": (True, "a parameter takes less than before"),
    "parameter-wider": (False, "a parameter takes more than before"),
    "parameter-optional": (False, "a parameter is new and may be left out, or is no longer needed"),
    "parameter-gone": (False, "a parameter is gone: what is sent there is not looked at"),
    "message-gone": (True, "a message is no longer taken, or no longer sent"),
    "message-new": (False, "a message is taken that was not"),
    "message-sent": (False, "a message is sent that was not: clients ignore what they do not know"),
    "tag-renamed": (True, "a message of the same type has another tag"),
    "taken-narrower": (True, "of a message that clients send, less is taken than before"),
    "taken-wider": (False, "of a message that clients send, more is taken than before"),
    "taken-field": (False, "a field that clients may send is new, or gone and not looked at"),
    "sent-wider": (True, "a message may have what clients have not seen in it so far"),
    "sent-narrower": (False, "a message has less of what clients know already"),
    "sent-field": (False, "a message that clients read has a field more"),
    "call-gone": (True, "a call is no longer answered"),
    "call-new": (False, "a call is answered that was not"),
    "call-kind": (True, "a call is answered by a stream, or the other way round"),
    "asked-new": (False, "clients are asked what they were not: they answer `unknown`"),
    "asked-gone": (False, "clients are no longer asked"),
    "codec": (True, "another encoding is the default, or one is no longer spoken"),
    "codec-new": (False, "one more encoding or subprotocol is spoken"),
    "subprotocol-gone": (True, "a subprotocol is no longer spoken"),
    "security": (True, "a credential is needed that was not, or is no longer taken in a place"),
    "security-new": (False, "a credential may be in one place more, or is no longer needed"),
    "event-id": (True, "the event id of a message is elsewhere, or gone: clients cannot resume"),
    "event-id-new": (False, "a message has an event id"),
    "resume": (True, "the parameter that resumes is another one, or gone"),
    "resume-new": (False, "a path can be resumed"),
    "unknown": (True, "an unknown message ends the connection, and was ignored before"),
    "unknown-ignored": (False, "an unknown message is ignored, and ended the connection before"),
}
"""By rule: whether it breaks clients, and what it says."""


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        rule: its rule.
        where: the path, the direction and the message.
        what: what has changed.
    """

    rule: str
    where: str
    what: str

    @property
    def breaks(self) -> bool:
        """Whether clients of today break."""
        return RULES[self.rule][0]

    def __str__(self) -> str:
        return f"{'breaks' if self.breaks else 'fine  '}  {self.where}: {self.what} [{self.rule}]"


def changes(old: Document, new: Document) -> list[Change]:
    """What has changed, by path.

    Raises:
        ValueError: one is no AsyncAPI document that ``wsflow schema`` has written.
    """
    try:
        return _changes(old, new)
    except (KeyError, TypeError, AttributeError, StopIteration, IndexError, RecursionError) as exc:
        raise ValueError(
            f"it is no document that wsflow schema has written: {type(exc).__name__} {exc}"
        ) from None


def _changes(old: Document, new: Document) -> list[Change]:
    before, after = _paths(old), _paths(new)
    found: list[Change] = []
    for shape in {**before, **after}:
        one, two = before.get(shape), after.get(shape)
        if two is None:
            assert one is not None
            found.append(Change("path-gone", one.address, "the path is gone"))
        elif one is None:
            found.append(Change("path-new", two.address, "the path is new"))
        else:
            found += _Compared(one, two).changes()
    return found


# -- reading documents


@final
class _Path:
    """What a document says of one path."""

    def __init__(self, document: Document, id: str, channel: Document) -> None:
        self._document = document
        self.address: str = channel["address"]
        self.deprecated = bool(channel.get("x-deprecated"))
        self.resumes: str | None = channel.get("x-resumes")
        self.ignores = channel.get("x-unknown-messages") == "ignored"
        self.subprotocols: list[str] = channel.get("x-subprotocols", [])
        self.parameters = self._parameters(channel)
        self.takes: dict[str, Document] = {}
        self.sends: dict[str, Document] = {}
        self.answers: dict[str, Document] = {}
        self.asks: dict[str, Document] = {}
        self.security: set[str] = set()
        where = f"#/channels/{id}"
        for operation in document["operations"].values():
            if operation["channel"]["$ref"] == where:
                self._add(operation)

    def _add(self, operation: Document) -> None:
        found = [self.resolve(each) for each in operation["messages"]]
        self.security |= {each["$ref"].rpartition("/")[2] for each in operation.get("security", ())}
        received = operation["action"] == "receive"
        if "reply" not in operation:
            side = self.takes if received else self.sends
            side.update((each["name"], each) for each in found)
            return
        (message,) = found
        replies = [self.resolve(each) for each in operation["reply"]["messages"]]
        answer = next(
            each["payload"]["properties"]["value"]
            for each in replies
            if "value" in each["payload"]["properties"]
        )
        asked = {
            "contentType": message.get("contentType"),
            "payload": message["payload"]["properties"]["message"],
            "answer": answer,
            "stream": len(replies) > 2,
        }
        (self.answers if received else self.asks)[message["name"]] = asked

    def _parameters(self, channel: Document) -> dict[tuple[str, str], tuple[Document, bool]]:
        """The parameters, by place and name: each with its schema, and whether it is needed."""
        names = re.findall(r"\{(\w+)\}", self.address)
        given = channel.get("parameters", {})
        found: dict[tuple[str, str], tuple[Document, bool]] = {
            ("path", str(at)): (given.get(name, {}).get("x-schema", {}), True)
            for at, name in enumerate(names)
        }
        binding = channel.get("bindings", {}).get("ws", {})
        headers = binding.get("headers", {})
        cookies = headers.get("properties", {}).get("Cookie", {}).get("x-cookies", {})
        for place, schema in (
            ("query", binding.get("query", {})),
            ("header", headers),
            ("cookie", cookies),
        ):
            for name, each in schema.get("properties", {}).items():
                if (place, name) != ("header", "Cookie"):
                    key = name.lower() if place == "header" else name
                    found[place, key] = each, name in schema.get("required", ())
        return found

    def resolve(self, schema: Document) -> Document:
        """What a reference stands for."""
        while "$ref" in schema:
            found: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            schema = found
        return schema


def _paths(document: Document) -> dict[str, _Path]:
    """The paths of a document, by their shape: names of parameters make no difference."""
    if not str(document["asyncapi"]).startswith("3."):
        raise ValueError("it is no AsyncAPI document of version 3")
    found = [_Path(document, id, each) for id, each in document["channels"].items()]
    return {re.sub(r"\{\w+\}", "{}", each.address): each for each in found}


# -- one path


@final
class _Compared:
    """Two versions of one path."""

    def __init__(self, old: _Path, new: _Path) -> None:
        self._old = old
        self._new = new
        self._found: list[Change] = []

    def changes(self) -> list[Change]:
        """What has changed."""
        old, new = self._old, self._new
        if old.deprecated != new.deprecated:
            self._note("path-deprecated", "", f"it is {'' if new.deprecated else 'not '}deprecated")
        self._parameters()
        self._messages(old.takes, new.takes, "takes", "message-new")
        self._messages(old.sends, new.sends, "sends", "message-sent")
        self._calls()
        self._subprotocols()
        self._security()
        self._resuming()
        if old.ignores != new.ignores:
            what = "unknown messages " + ("are ignored" if new.ignores else "end the connection")
            self._note("unknown-ignored" if new.ignores else "unknown", "", what)
        return self._found

    def _note(self, rule: str, where: str, what: str) -> None:
        self._found.append(Change(rule, f"{self._new.address} {where}".strip(), what))

    def _parameters(self) -> None:
        old, new = self._old.parameters, self._new.parameters
        for key in {**old, **new}:
            where = f"{key[0]} {key[1]!r}" if key[0] != "path" else f"path parameter {key[1]}"
            before, after = old.get(key), new.get(key)
            if after is None:
                self._note("parameter-gone", where, "it is gone")
                continue
            needed, was_needed = after[1], before is not None and before[1]
            if needed and not was_needed:
                self._note("parameter-required", where, "it is needed")
            elif before is None or was_needed != needed:
                self._note("parameter-optional", where, "it may be left out")
            if before is not None:
                for each in _Schemas(self._old.resolve, self._new.resolve).compare(
                    before[0], after[0]
                ):
                    rule = "parameter-wider" if each.side == "wider" else "parameter-narrower"
                    self._note(rule, where, each.what)

    def _messages(
        self,
        old: Mapping[str, Document],
        new: Mapping[str, Document],
        direction: Literal["takes", "sends"],
        added: str,
    ) -> None:
        fresh = [name for name in new if name not in old]
        for name, before in old.items():
            where = f"{direction} {name!r}"
            after = new.get(name)
            if after is None and (same := self._renamed(before, [new[each] for each in fresh])):
                fresh.remove(same["name"])
                if same["title"] == before["title"]:
                    self._note("tag-renamed", where, f"its tag is {same['name']!r} now")
                    continue
                after = same  # the name of its type alone, which is not sent
            if after is None:
                self._note("message-gone", where, "it is gone")
                continue
            self._encoding(where, before, after)
            self._payload(where, before["payload"], after["payload"], taken=direction == "takes")
            one, two = before.get("x-event-id"), after.get("x-event-id")
            if one != two:
                rule = "event-id" if one is not None else "event-id-new"
                self._note(rule, where, f"its event id is {two!r}, and was {one!r}")
        for name in fresh:
            self._note(added, f"{direction} {name!r}", "it is new")

    def _renamed(self, old: Document, fresh: list[Document]) -> Document | None:
        """Which of the messages that are new is this one, under another name."""
        for each in fresh:
            if each["title"] == old["title"]:
                return each
        if "x-tag" not in old and "oneOf" not in old["payload"]:
            for each in fresh:
                one, two = self._old.resolve(old["payload"]), self._new.resolve(each["payload"])
                if "x-tag" not in each and _alike(one, two):
                    return each
        return None

    def _encoding(self, where: str, old: Document, new: Document) -> None:
        if old.get("contentType") != new.get("contentType"):
            self._note("codec", where, f"it is {new.get('contentType') or 'application/json'} now")

    def _payload(self, where: str, old: Document, new: Document, *, taken: bool) -> None:
        schemas = _Schemas(self._old.resolve, self._new.resolve, taken=taken)
        for each in schemas.compare(old, new):
            rule = f"{'taken' if taken else 'sent'}-{each.side}"
            if each.field in (("new", "gone") if taken else ("new", "needed")):
                rule = "taken-field" if taken else "sent-field"
            self._note(rule, where, each.what)

    def _calls(self) -> None:
        for direction, old, new, gone, fresh in (
            ("answers", self._old.answers, self._new.answers, "call-gone", "call-new"),
            ("asks", self._old.asks, self._new.asks, "asked-gone", "asked-new"),
        ):
            taken = direction == "answers"
            for name in {**old, **new}:
                where = f"{direction} {name!r}"
                before, after = old.get(name), new.get(name)
                if before is None or after is None:
                    rule, what = (fresh, "it is new") if before is None else (gone, "it is gone")
                    self._note(rule, where, what)
                    continue
                if before["stream"] != after["stream"]:
                    kind = "a stream" if after["stream"] else "one answer"
                    self._note("call-kind", where, f"it is answered by {kind} now")
                self._encoding(where, before, after)
                self._payload(where, before["payload"], after["payload"], taken=taken)
                place = f"{where}, the answer"
                self._payload(place, before["answer"], after["answer"], taken=not taken)

    def _subprotocols(self) -> None:
        old, new = self._old.subprotocols, self._new.subprotocols
        for each in old:
            if each not in new:
                rule = "codec" if each.startswith("wsflow.") else "subprotocol-gone"
                self._note(rule, "", f"the subprotocol {each!r} is gone")
        for each in new:
            if each not in old:
                self._note("codec-new", "", f"the subprotocol {each!r} is new")

    def _security(self) -> None:
        old, new = self._old.security, self._new.security
        if new and not old:
            self._note("security", "", f"a credential is needed: {', '.join(sorted(new))}")
            return
        for each in sorted(old - new):
            rule = "security" if new else "security-new"
            self._note(rule, "", f"a credential is not taken as {each}")
        for each in sorted(new - old):
            self._note("security-new", "", f"a credential is taken as {each}, too")

    def _resuming(self) -> None:
        old, new = self._old.resumes, self._new.resumes
        if old != new:
            rule = "resume" if old is not None else "resume-new"
            self._note(rule, "", f"the parameter that resumes is {new!r}, and was {old!r}")


# -- two schemas


Field = Literal["", "new", "needed", "gone"]


@dataclass(frozen=True)
class _Difference:
    """A difference of two schemas.

    Attributes:
        side: whether the new one takes less (``narrower``), or more.
        what: where, and what.
        field: whether it is a field that is new, new and always there, or gone though it could be
            left out before.
    """

    side: Literal["narrower", "wider"]
    what: str
    field: Field = ""


_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("pattern", "format", "contentEncoding", "multipleOf")
_KINDS: Mapping[type, str] = {str: "string", int: "integer", bool: "boolean", type(None): "null"}
"""The types of values that a schema names."""
_ANY: Mapping[str, Any] = {}

Resolve = Callable[[Document], Document]


@final
class _Schemas:
    """Compares schemas of an old and of a new document.

    Args:
        old, new: what references stand for in them.
        taken: whether they are of what is taken: there sets take duplicates.
    """

    def __init__(self, old: Resolve, new: Resolve, *, taken: bool = True) -> None:
        self._old = old
        self._new = new
        self._same = _SAME if taken else (*_SAME, "uniqueItems")
        self._seen: set[tuple[str, str]] = set()

    def compare(self, old: Any, new: Any, where: str = "$") -> Iterator[_Difference]:
        """The differences of two schemas."""
        key = repr(old), repr(new)
        if "$ref" in key[0] and "$ref" in key[1]:
            if key in self._seen:
                return
            self._seen.add(key)
        before, after = self._branches(old, self._old), self._branches(new, self._new)
        if _ANY in before or _ANY in after:
            if (_ANY in before) != (_ANY in after):
                loose = _ANY in after
                said = "anything" if loose else _named(after)
                side: Literal["narrower", "wider"] = "wider" if loose else "narrower"
                yield _Difference(side, f"{where} is {said} now")
            return
        left = list(after)
        for one in before:
            two = next((each for each in left if _alike(one, each)), None)
            two = two or next((each for each in left if _may_be(one, each)), None)
            two = two or next((e for e in after if _alike(one, e) or _holds(one, e)), None)
            if two is None:
                yield _Difference("narrower", f"{where} is no longer {_named([one])}")
                continue
            if two in left:
                left.remove(two)
            if one.get("type") != two.get("type"):  # an integer is a number, too
                yield _Difference("wider", f"{where} is {_named([two])} now")
            yield from self._branch(one, two, where)
        for two in left:
            yield _Difference("wider", f"{where} may be {_named([two])} now")

    def _branches(self, schema: Any, resolve: Resolve) -> list[Document]:
        """The alternatives of a schema; the empty schema takes anything."""
        if schema is True:
            return [_ANY]
        if schema is False:
            return []
        found = _whole(schema, resolve)
        for word in ("anyOf", "oneOf"):
            if word in found:
                return [each for part in found[word] for each in self._branches(part, resolve)]
        rest = {name: each for name, each in found.items() if name not in _SAID}
        if not rest:
            return [_ANY]
        kinds = {_KINDS.get(type(value), "") for value in _enum(found) or ()}
        return [{"type": kinds.pop(), **found} if len(kinds) == 1 else found]

    def _branch(self, old: Document, new: Document, where: str) -> Iterator[_Difference]:
        yield from _values(old, new, where)
        yield from _bounds(old, new, where)
        for word in self._same:
            one, two = old.get(word), new.get(word)
            if one != two:
                if one is not None:
                    yield _Difference("wider", f"{where}: {word} {one!r} is gone")
                if two is not None:
                    yield _Difference("narrower", f"{where}: {word} is {two!r} now")
        yield from self._items(old, new, where)
        if "properties" in old or "properties" in new or "required" in {**old, **new}:
            yield from self._fields(old, new, where)
        one, two = (each.get("patternProperties", {}) for each in (old, new))
        for pattern in {**one, **two}:
            yield from self._word(pattern, one, two, f"{where}[/{pattern}/]")
        yield from self._word("propertyNames", old, new, f"the names in {where}")
        yield from self._word("additionalProperties", old, new, f"{where}.*")

    def _word(self, word: str, old: Document, new: Document, where: str) -> Iterator[_Difference]:
        if word in old or word in new:
            yield from self.compare(old.get(word, True), new.get(word, True), where)

    def _gone(self, old: Any, rest: Any, where: str) -> Iterator[_Difference]:
        """A part is gone, and the rest may be what it was."""
        if isinstance(rest, bool):
            yield _Difference("narrower", f"{where} is gone", "gone" if rest else "")
        else:
            yield from self.compare(old, rest, where)

    def _fresh(self, rest: Any, new: Any, where: str) -> Iterator[_Difference]:
        """A part is new, and was what the rest may be."""
        if isinstance(rest, bool):
            yield _Difference("wider", f"{where} is new", "new" if rest else "")
        else:
            yield from self.compare(rest, new, where)

    def _items(self, old: Document, new: Document, where: str) -> Iterator[_Difference]:
        one, two = old.get("items", True), new.get("items", True)
        if isinstance(one, list) and isinstance(two, list):
            for at, (before, after) in enumerate(zip(one, two, strict=False)):
                yield from self.compare(before, after, f"{where}[{at}]")
            for at in range(len(two), len(one)):
                rest = new.get("additionalItems", True)
                yield from self._gone(one[at], rest, f"{where}[{at}]")
            for at in range(len(one), len(two)):
                rest = old.get("additionalItems", True)
                yield from self._fresh(rest, two[at], f"{where}[{at}]")
        elif isinstance(one, list) or isinstance(two, list):
            kind = "items of one type each" if isinstance(two, list) else "items of one type"
            yield _Difference("narrower", f"{where} has {kind} now")
            yield _Difference("wider", f"{where} has {kind} now")
        else:
            yield from self.compare(one, two, f"{where}[…]")

    def _fields(self, old: Document, new: Document, where: str) -> Iterator[_Difference]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, was_needed = new.get("required", ()), old.get("required", ())
        rest, old_rest = (each.get("additionalProperties", True) for each in (new, old))
        for name in {**before, **after}:
            place = f"{where}.{name}"
            if name in needed and name not in was_needed:
                field: Field = "" if name in before else "needed"
                yield _Difference("narrower", f"{place} is always there now, and needed", field)
            elif name in was_needed and name not in needed:
                gone = name not in after
                yield _Difference("wider", f"{place} {'is gone' if gone else 'may be left out'}")
            if name in before and name in after:
                yield from self.compare(before[name], after[name], place)
            elif name in before and not (name in was_needed and rest is True):
                yield from self._gone(before[name], rest, place)
            elif name in after and not (name in needed and old_rest is True):
                yield from self._fresh(old_rest, after[name], place)


_SAID = ("title", "description", "default", "examples", "deprecated")
"""What says something, and changes nothing."""


def _whole(schema: Document, resolve: Resolve) -> Document:
    """What a reference stands for, with all that it has to be (``allOf``) in one."""
    found = resolve(schema)
    if "allOf" not in found:
        return found
    made = {word: value for word, value in found.items() if word != "allOf"}
    for part in found["allOf"]:
        for word, value in _whole(part, resolve).items():
            made[word] = _strictest(word, made[word], value) if word in made else value
    return made


def _strictest(word: str, one: Any, two: Any) -> Any:
    """What both values of a word of a schema ask for."""
    if word in (*_LOWER, *_UPPER):
        return max(one, two) if word in _LOWER else min(one, two)
    if word == "required":
        return list(dict.fromkeys([*one, *two]))
    if word == "enum":
        return [each for each in one if each in two]
    if word in ("properties", "patternProperties"):
        both = {name: {"allOf": [each, two[name]]} for name, each in one.items() if name in two}
        return {**one, **two, **both}
    return two


def _tag(schema: Document) -> dict[str, Any]:
    """What tells an object apart from others: the values of its constant fields."""
    found = {}
    for name, each in schema.get("properties", {}).items():
        values = _enum(each)
        if values is not None and len(values) == 1 and name in schema.get("required", ()):
            found[name] = values[0]
    return found


def _alike(one: Document, two: Document) -> bool:
    """Whether two alternatives are of one kind."""
    return one.get("type") == two.get("type") and _tag(one) == _tag(two)


def _may_be(one: Document, two: Document) -> bool:
    """Whether nothing tells two alternatives apart."""
    tag, other = _tag(one), _tag(two)
    same = one.get("type") == two.get("type")
    return same and all(other[name] == tag[name] for name in tag.keys() & other.keys())


def _holds(one: Document, two: Document) -> bool:
    """Whether an alternative is of a narrower kind than another one."""
    return (one.get("type"), two.get("type")) == ("integer", "number")


def _named(branches: list[Document]) -> str:
    """Alternatives as text."""
    return " or ".join(_name(each) for each in branches) or "nothing"


def _name(schema: Document) -> str:
    tag = _tag(schema)
    if tag:
        return f"an object with {', '.join(f'{name} {value!r}' for name, value in tag.items())}"
    values = _enum(schema)
    if values is not None:
        return f"one of {', '.join(map(repr, values))}"
    kind = str(schema.get("type", "something"))
    return kind if kind in ("null", "something") else f"{'an' if kind[0] in 'aio' else 'a'} {kind}"


def _enum(schema: Document) -> list[Any] | None:
    """The values that a schema names; None if it names none."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _values(old: Document, new: Document, where: str) -> Iterator[_Difference]:
    one, two = _enum(old), _enum(new)
    if one is None and two is None:
        return
    if one is None:
        yield _Difference("narrower", f"{where} is one of {two} now")
    elif two is None:
        yield _Difference("wider", f"{where} may be any value now")
    else:
        gone, fresh = (
            [each for each in one if each not in two],
            [each for each in two if each not in one],
        )
        if gone:
            yield _Difference("narrower", f"{where} is no longer {' or '.join(map(repr, gone))}")
        if fresh:
            yield _Difference("wider", f"{where} may be {' or '.join(map(repr, fresh))} now")


def _bounds(old: Document, new: Document, where: str) -> Iterator[_Difference]:
    for words, grows in ((_LOWER, "narrower"), (_UPPER, "wider")):
        shrinks = "wider" if grows == "narrower" else "narrower"
        for word in words:
            one, two = old.get(word), new.get(word)
            if one == two:
                continue
            if one is None or two is None:
                side = "narrower" if one is None else "wider"
            else:
                side = grows if two > one else shrinks
            said = "has none now" if two is None else f"is {two} now"
            what = f"{where}: {word} {said}" + (f", and was {one}" if one is not None else "")
            yield _Difference(side, what)  # type: ignore[arg-type]
