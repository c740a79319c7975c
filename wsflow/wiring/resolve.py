"""Finding the source of each parameter, or reporting why there is none."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_origin

from anyio.abc import TaskGroup

from wsflow.connection import Connection
from wsflow.declare.functions import gives_something
from wsflow.declare.markers import (
    MARKERS,
    PLACES,
    REQUEST_MARKERS,
    Cookie,
    Header,
    Message,
    Requires,
    Sends,
    TopicName,
)
from wsflow.declare.router import Handler
from wsflow.declare.signatures import (
    EMPTY,
    Parameter,
    as_provided,
    bare,
    members,
    spelled_out,
    type_name,
    without_none,
)
from wsflow.end import End
from wsflow.errors import Problem
from wsflow.messages.families import fields_of
from wsflow.messages.hooks import Hooks
from wsflow.opening import Opening
from wsflow.topics.topic import Topic
from wsflow.wiring.foreign import mark_problem, type_cure
from wsflow.wiring.invocation import Guard, Invocation
from wsflow.wiring.messages import (
    collects,
    is_message,
    message_problem,
    text_problem,
    topic_types_problem,
)
from wsflow.wiring.place import Place, name_a_parameter, name_problem, topic_problem
from wsflow.wiring.plan import Offer
from wsflow.wiring.sources import (
    APP_TASK_GROUP,
    END,
    GIVEN,
    OPENING,
    TASK_GROUP,
    Fixed,
    FromPath,
    FromRequest,
    FromTopic,
    PerMessage,
    Provided,
    Source,
)

SIMPLE = (str, int, float, bool, bytes)
"""Types that no scope function can provide, since they are too general."""


@dataclass
class Resolver:
    """Finds sources, and collects problems and topics.

    Attributes:
        override: values by annotation that take precedence over all other sources.
        client: whether it is a client's Router.
        problems: the mistakes that were found.
        topics: all injected topics.
        asked: the types that functions ask for.
        used: the overrides that have replaced something.
    """

    override: Mapping[Any, Any]
    client: bool = False
    problems: list[Problem] = field(default_factory=list)
    topics: list[tuple[Handler, FromTopic]] = field(default_factory=list)
    asked: dict[str, None] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def problem(self, handler: Handler, subject: object, why: str, cure: str) -> None:
        about = f"{handler}" + (f", parameter `{subject}`" if subject else "")
        problem = Problem(handler.where, about, why, cure)
        if problem not in self.problems:
            self.problems.append(problem)

    def overridden(self, annotation: Any) -> bool:
        """Whether an override replaces the value of a scope function."""
        for each in self.override:
            if annotation == spelled_out(each):
                self.used.add(id(each))
                return True
        return False

    def check_overrides(self, where: str) -> None:
        """Report overrides that replace nothing, since the real function would run."""
        for each in self.override:
            if id(each) not in self.used:
                asked = ", ".join(self.asked) or "nothing"
                self.problems.append(
                    Problem(
                        where,
                        f"override of {type_name(each)}",
                        "No function of the app asks for it, and none provides it.",
                        f"use the exact annotation; the app asks for {asked}.",
                    )
                )

    def call(
        self,
        handler: Handler,
        parameters: Sequence[Parameter],
        place: Place,
        scopes: Sequence[Offer],
        hidden: Sequence[Offer] = (),
    ) -> Invocation:
        """Find a source for each parameter.

        Args:
            handler: the function.
            parameters: the injected parameters.
            place: the path.
            scopes: the scope functions whose values it can use, nearest first.
            hidden: all scope functions of the path, for error messages; those without an
                annotation provide EMPTY.
        """
        positional: dict[str, Source] = {}
        keywords: list[tuple[str, Source]] = []
        guards: list[Guard] = []
        for each in parameters:
            if each.variadic:
                self.problem(
                    handler,
                    f"{each.variadic}{each.name}",
                    "Parameters are injected by type; *args and **kwargs have none.",
                    "name the parameters that the function needs.",
                )
                continue
            required = [mark for mark in each.marks if isinstance(mark, Requires)]
            parameter = each.without(*required) if required else each
            source = self._source(handler, parameter, place, scopes, hidden)
            if source is None:
                continue
            if required:
                guards += self._guards(handler, parameter, required, source, scopes)
            if each.keyword:
                keywords.append((each.name, source))
            else:
                positional[each.name] = source
        return Invocation(
            handler, tuple(positional.values()), tuple(keywords), tuple(positional), tuple(guards)
        )

    def _source(
        self,
        handler: Handler,
        parameter: Parameter,
        place: Place,
        scopes: Sequence[Offer],
        hidden: Sequence[Offer],
    ) -> Source | None:
        offered = [*map(spelled_out, self.override), *(each.provides for each in scopes)]
        wanted = parameter.wanted(offered)
        self.asked.setdefault(type_name(parameter.annotation), None)
        for each, value in self.override.items():
            if spelled_out(each) in wanted:
                self.used.add(id(each))
                return Fixed(value, "an override")
        for rule in (
            self._foreign,
            self._given,
            self._from_request,
            self._from_topic,
        ):
            source, decided = rule(handler, parameter, place)
            if decided:
                return source
        for annotation in wanted:
            for scope in scopes:
                if scope.provides == annotation:
                    return _provided(scope)
        if handler.kind != "lifespan" and parameter.name in place.names:
            return self._from_path(handler, parameter, place.hooks)
        source, decided = self._special(handler, parameter)
        if decided:
            return source
        if parameter.default is not EMPTY:
            meant = self._meant(handler, parameter, place, hidden)
            if meant is None:
                return Fixed(parameter.default, "its default")
            self.problem(handler, parameter, *meant)
            return None
        self._no_provider(handler, parameter, place, hidden)
        return None

    def _foreign(
        self, handler: Handler, parameter: Parameter, place: Place
    ) -> tuple[Source | None, bool]:
        if (wrong := mark_problem(parameter)) is None:
            return None, False
        self.problem(handler, parameter, *wrong)
        return None, True

    def _given(
        self, handler: Handler, parameter: Parameter, place: Place
    ) -> tuple[Source | None, bool]:
        for mark in parameter.marks:
            if mark is Sends:
                self.problem(
                    handler,
                    parameter,
                    "Sends in its annotation is the class, not an instance.",
                    "name what is sent: Sends(Board, Won).",
                )
                return None, True
            if (
                isinstance(mark, Sends)
                and (wrong := sends_problem(parameter, mark, place.hooks)) is not None
            ):
                self.problem(handler, parameter, *wrong)
                return None, True
        source = GIVEN.get(parameter.core) if _hashable(parameter.core) else None
        if source is None:
            return None, False
        nothing = handler.kind == "lifespan" and source.attribute != "registry"
        if nothing or (handler.kind == "get" and source.attribute == "connection"):
            self._no_connection(handler, parameter)
            return None, True
        return source, True

    def _no_connection(self, handler: Handler, parameter: Parameter) -> None:
        self.problem(
            handler,
            parameter,
            "A page answers one request, and has no connection."
            if handler.kind == "get"
            else "A lifespan runs once per process, when there is no connection and no request.",
            "ask for it in on_connect, or in a handler.",
        )

    def _from_request(
        self, handler: Handler, parameter: Parameter, place: Place
    ) -> tuple[Source | None, bool]:
        written = parameter.bare if isinstance(parameter.bare, type) else type(parameter.bare)
        if written in MARKERS:
            self.problem(
                handler,
                parameter.name,
                f"Its annotation is {written.__name__} alone, which is no type.",
                f"write it beside the type: {parameter.name}: {PLACES[written]}.",
            )
            return None, True
        if isinstance(parameter.default, MARKERS):
            name = type(parameter.default).__name__
            self.problem(
                handler,
                parameter,
                f"{name}(…) is its default, so the function would get the marker itself.",
                f"write it into the annotation: {parameter.name}: "
                f"Annotated[{type_name(parameter.bare)}, {name}(…)].",
            )
            return None, True
        marks = [mark for mark in parameter.marks if isinstance(mark, REQUEST_MARKERS)]
        for mark in parameter.marks:
            if mark in MARKERS:
                self.problem(
                    handler,
                    parameter,
                    f"{mark.__name__} in its annotation is the class, not an instance.",
                    f"add the parentheses: {PLACES[mark].partition(', ')[2][:-1]}.",
                )
                return None, True
        if not marks:
            return None, False
        if handler.kind == "lifespan":
            self._no_connection(handler, parameter)
            return None, True
        mark = marks[0]
        name = mark.name or parameter.name
        if mark.name is None and isinstance(mark, Header):
            name = name.replace("_", "-")
        kind = parameter.checked
        wrong = text_problem(kind, place.hooks, several=not isinstance(mark, Cookie))
        if wrong is not None:
            self.problem(handler, parameter, *wrong)
            return None, True
        several = collects(kind)
        return FromRequest(mark, name, kind, parameter.default, several, place.hooks), True

    def _from_topic(
        self, handler: Handler, parameter: Parameter, place: Place
    ) -> tuple[Source | None, bool]:
        kind = parameter.core
        if (get_origin(kind) or kind) is not Topic:
            return None, False
        name, types = topic_of(parameter)
        if not isinstance(name, TopicName):
            self.problem(handler, parameter, *name)
            return None, True
        wrong = name_problem(handler, name, place)
        if wrong is not None:
            self.problem(handler, parameter, *wrong)
            return None, True
        wrong = topic_types_problem(types, name._options.presence, place.hooks)
        if wrong is not None:
            self.problem(handler, parameter, *wrong)
            return None, True
        keeps_hearing = handler.kind == "producer"
        source = FromTopic(name.template, types, name._options, keeps_hearing)
        self.topics.append((handler, source))
        return source, True

    # -- what is required of a user

    def _guards(
        self,
        handler: Handler,
        parameter: Parameter,
        required: Sequence[Requires],
        source: Source,
        scopes: Sequence[Offer],
    ) -> list[Guard]:
        """What a parameter requires, and of whom."""
        if handler.kind in ("lifespan", "on_disconnect"):
            self.problem(
                handler,
                parameter,
                f"Requires(…) refuses what a peer asks for, and {handler.kind} asks for nothing.",
                "remove it, or move it to on_connect or to a handler of messages.",
            )
            return []
        if isinstance(source, FromTopic):
            found = [(each, self._user(handler, parameter, each, scopes)) for each in required]
            return [(each, user) for each, user in found if user is not None]
        if not isinstance(source, Provided | PerMessage | Fixed):
            self.problem(
                handler,
                parameter,
                f"Requires(…) is asked of a user, and this is the {source}.",
                "put it beside the type of the user, as a scope function provides it, or beside a "
                "topic.",
            )
            return []
        for each in required:
            if isinstance(each.role, str) and not _has_roles(parameter.bare):
                self.problem(
                    handler,
                    parameter,
                    f"Requires({each.name}) reads the roles of the user, and "
                    f"{type_name(parameter.bare)} has no attribute `roles`.",
                    "add `roles: list[str]` to it, or pass a function: Requires(lambda user: …).",
                )
        return [(each, source) for each in required]

    def _user(
        self, handler: Handler, parameter: Parameter, asked: Requires, scopes: Sequence[Offer]
    ) -> Source | None:
        """The user whom a topic asks for its role."""
        found: list[tuple[Any, Source]] = []
        replaced = [(each, Fixed(value, "an override")) for each, value in self.override.items()]
        offered = [(scope.provides, _provided(scope)) for scope in scopes]
        of = as_provided(asked.of, (kind for kind, _ in (*replaced, *offered)))
        for kind, source in (*replaced, *offered):
            if asked.of is not None:
                fits = kind == of
            else:
                fits = _has_roles(kind, certainly=True) or not isinstance(asked.role, str)
            if fits and all(kind != each for each, _ in found):
                found.append((kind, source))
        if len(found) == 1:
            return found[0][1]
        what = type_name(asked.of) if asked.of is not None else "a type with `roles`"
        if asked.of is None and not isinstance(asked.role, str):
            what = "a type"
        names = ", ".join(type_name(kind) for kind, _ in found)
        self.problem(
            handler,
            parameter,
            f"Requires({asked.name}) beside a topic is asked of the user, and "
            + (f"{names} are provided here." if found else f"nothing provides {what} here."),
            "name its type: Requires(…, of=User)."
            if found
            else "provide the user from an on_connect function that is declared before, as "
            "wsflow.auth does.",
        )
        return None

    def _from_path(self, handler: Handler, parameter: Parameter, hooks: Hooks) -> Source:
        kind = str if parameter.annotation is EMPTY else parameter.checked
        if (wrong := text_problem(kind, hooks, several=False)) is not None:
            self.problem(handler, parameter, *wrong)
        return FromPath(parameter.name, kind, hooks)

    def _special(self, handler: Handler, parameter: Parameter) -> tuple[Source | None, bool]:
        """The message in ``on_message``, the task group, the end in ``on_disconnect``."""
        if any(isinstance(mark, Message) for mark in parameter.marks):
            if handler.kind == "on_message":
                return PerMessage(None), True
            self.problem(
                handler,
                parameter,
                "Message() is only for on_message functions.",
                "in a consumer the first parameter is the message; elsewhere there is none.",
            )
            return None, True
        if parameter.core in (TaskGroup, End) and handler.kind == "get":
            self._no_connection(handler, parameter)
            return None, True
        if parameter.core is TaskGroup:
            return (APP_TASK_GROUP if handler.kind == "lifespan" else TASK_GROUP), True
        if parameter.core is Opening:
            if self.client and handler.kind == "on_connect":
                return OPENING, True
            self.problem(
                handler,
                parameter,
                "An Opening is a client's opening request, before it is sent.",
                "ask for it in an on_connect function of a client's Router; in a server, ask for "
                "the Request.",
            )
            return None, True
        if parameter.core is End:
            if handler.kind == "on_disconnect":
                return END, True
            self.problem(
                handler,
                parameter,
                "An End is only for on_disconnect: before it, there is none.",
                "ask for the Connection and use its `end`, which is None while it is open.",
            )
            return None, True
        return None, False

    def _meant(
        self, handler: Handler, parameter: Parameter, place: Place, hidden: Sequence[Offer]
    ) -> tuple[str, str] | None:
        """What is declared, and may have been meant by a parameter that would get its default; None
        if there is nothing."""
        wanted = type_name(parameter.annotation) if parameter.annotation is not EMPTY else ""
        for scope in hidden:
            if scope.handler is handler or scope.provides in (None, EMPTY):
                continue
            place_of = f"{scope.handler} ({scope.handler.where})"
            if scope.provides in parameter.wanted([scope.provides]):
                return (
                    f"It would get its default: {wanted} comes from {place_of}, whose value "
                    f"{handler} cannot use.",
                    f"remove the parameter, or {_see(handler, scope.handler)}",
                )
            if _related(scope.provides, parameter.core):
                return _nearly(parameter, scope, "It would get its default")
        simple = parameter.annotation is EMPTY or set(members(parameter.core)) <= set(SIMPLE)
        unsaid = [each.handler for each in hidden if each.provides is EMPTY]
        for other in unsaid if not simple else ():
            if other is not handler and gives_something(other.fn):
                return (
                    f"It would get its default, and what {other} ({other.where}) returns has no "
                    "annotation.",
                    f"annotate that function `-> {type_name(parameter.core)}` if this is meant, or "
                    "`-> None` if it provides nothing.",
                )
        if simple:
            free = [each for each in place.names if each not in _names_of(handler)]
            near = _near(parameter.name, free)
            if near is not None:
                return (
                    f"It would get its default, and the path {place.template!r} has a parameter "
                    f"{{{near}}}.",
                    f"name it `{near}`, or give it a name that cannot be mistaken for that.",
                )
        return None

    def _no_provider(
        self, handler: Handler, parameter: Parameter, place: Place, hidden: Sequence[Offer]
    ) -> None:
        if parameter.annotation is EMPTY or parameter.bare in SIMPLE:
            self.problem(
                handler,
                parameter,
                f"The path {place.template!r} has no parameter {{{parameter.name}}}, and a plain "
                f"{type_name(parameter.bare) if parameter.annotation is not EMPTY else 'value'} "
                "is not provided otherwise.",
                f"{name_a_parameter(place)[:-1]}, mark it with Query(), Header() or Cookie(), or "
                "annotate it with the class of what a scope function provides."
                + _in_this_kind(handler, parameter),
            )
            return
        wanted = type_name(parameter.annotation)
        if (cure := type_cure(parameter.core)) is not None:
            self.problem(handler, parameter, f"{wanted} is not of wsflow.", cure)
            return
        kinds = parameter.wanted([each.provides for each in hidden])
        for scope in hidden:
            if scope.provides in kinds:
                self.problem(
                    handler,
                    parameter,
                    f"{wanted} comes from {scope.handler} ({scope.handler.where}), whose value "
                    f"{handler} cannot use.",
                    _round(handler, scope, hidden) or _see(handler, scope.handler),
                )
                return
        for scope in hidden:
            same = bare(scope.provides) == parameter.bare  # they differ in their marks
            if not same and _related(scope.provides, parameter.core):
                self.problem(
                    handler, parameter, *_nearly(parameter, scope, f"Nothing provides {wanted}")
                )
                return
        unsaid = [
            f"{each.handler} ({each.handler.where})"
            for each in hidden
            if each.provides is EMPTY and gives_something(each.handler.fn)
        ]
        if handler.kind == "consumer" and is_message(parameter.bare) and not unsaid:
            self.problem(
                handler,
                parameter,
                f"No scope function provides {wanted}, and a consumer takes one message: its "
                "first parameter.",
                "for either of two types, annotate the first parameter with A | B; for both at "
                "once, write two consumers. If it is no message, return it from an on_connect "
                f"function annotated `-> {wanted}`.",
            )
            return
        offers = {type_name(each.provides) for each in hidden if each.provides is not EMPTY}
        offered = sorted(offers)
        self.problem(
            handler,
            parameter,
            f"No scope function provides {wanted}."
            + (f" Those of this path provide {', '.join(offered)}." if offered else "")
            + (f" What {' and '.join(unsaid)} returns has no annotation." if unsaid else ""),
            f"annotate the function that provides it `-> {wanted}`, or "
            f"`-> AsyncIterator[{wanted}]` if it yields."
            if unsaid
            else f"return it from a function decorated with lifespan, on_connect or on_message and "
            f"annotated `-> {wanted}`." + _in_this_kind(handler, parameter),
        )


def sends_problem(parameter: Parameter, mark: Sends, hooks: Hooks) -> tuple[str, str] | None:
    """Why a parameter cannot say what is sent, and the fix; None if it can."""
    if parameter.core is not Connection:
        return (
            "Sends(…) says what is sent through a Connection, and this is none.",
            "put it beside the Connection: Annotated[Connection, Sends(Said)].",
        )
    if not mark.types:
        return "Sends() names no type.", "name those that are sent: Sends(Board, Won)."
    kinds = [kind for each in mark.types for kind in members(each)]
    found = (message_problem(kind, hooks, ["enc_hook"]) for kind in kinds)
    return next((wrong for wrong in found if wrong is not None), None)


NO_NAME = (
    "A Topic needs a name, and this one has none.",
    'name it: Annotated[Topic[Said], "room.{room}"].',
)


TWO_NAMES = (
    "A Topic has one name, and this one has several.",
    'keep one of them: Annotated[Topic[Said], "room.{room}"].',
)


def topic_of(parameter: Parameter) -> tuple[TopicName | tuple[str, str], tuple[Any, ...]]:
    """The name of an annotated Topic, or what is wrong with it and the fix; and the types of its
    messages."""
    names = [mark for mark in parameter.marks if isinstance(mark, str | TopicName)]
    types = tuple(kind for arg in get_args(parameter.core) for kind in members(arg)) or (Any,)
    if len(names) != 1:
        return TWO_NAMES if names else NO_NAME, types
    return names[0] if isinstance(names[0], TopicName) else TopicName(names[0]), types


def read_topic(annotation: Any, hooks: Hooks) -> FromTopic | tuple[str, str]:
    """A topic that a Router declares; or what is wrong with it, and the fix."""
    parameter = Parameter("topic", spelled_out(annotation), EMPTY, False, "")
    if (get_origin(parameter.bare) or parameter.bare) is not Topic:
        return (
            f"topics has {type_name(annotation)}, which is no Topic.",
            'write Annotated[Topic[Said], "room.{room}"].',
        )
    name, types = topic_of(parameter)
    if not isinstance(name, TopicName):
        return name
    wrong = topic_problem(name, hooks) or topic_types_problem(types, name._options.presence, hooks)
    if wrong is not None:
        return wrong
    return FromTopic(name.template, types, name._options, keeps_hearing=False)


def _nearly(parameter: Parameter, scope: Offer, what: str) -> tuple[str, str]:
    """What is wrong where a function provides nearly what is wanted, and the fix."""
    provided = type_name(scope.provides)
    return (
        f"{what}: {scope.handler} ({scope.handler.where}) provides {provided}, which is not "
        f"exactly {type_name(parameter.annotation)}.",
        f"annotate one of them as the other: `{parameter.name}: {provided}` here, or "
        f"`-> {type_name(parameter.core)}` there.",
    )


def _in_this_kind(handler: Handler, parameter: Parameter) -> str:
    """What may have been meant by a parameter of such a function that nothing provides."""
    if handler.kind == "on_message":
        return f" If it is the message: `{parameter.name}: Annotated[object, Message()]`."
    if handler.kind == "on_disconnect":
        return " How the connection ended, with code and reason, is `end: End`."
    return ""


def _round(asks: Handler, provides: Offer, offers: Sequence[Offer]) -> str:
    """The fix where a function asks for a value that needs its own; else empty."""
    if provides.handler is asks:
        return "remove the parameter: it would be given what it returns itself."
    needed = [provides]
    for offer in needed:  # it grows
        for parameter in offer.asks:
            kinds = parameter.wanted([each.provides for each in offers])
            known = [each.handler for each in needed]
            needed += [
                each for each in offers if each.provides in kinds and each.handler not in known
            ]
    if all(each.handler is not asks for each in needed):
        return ""
    return (
        f"{provides.handler.name} needs what {asks.name} provides, in turn: move what both need to "
        "one more function, declared before them."
    )


def _see(asks: Handler, provides: Handler) -> str:
    order: list[str] = ["lifespan", "on_connect", "on_message"]
    if asks.kind == "get":
        return f"provide it from a lifespan: no {provides.kind} runs for a page."
    if asks.kind == provides.kind:
        return f"declare {provides.name} before {asks.name}, on the same Router or an outer one."
    if asks.kind not in order or order.index(asks.kind) > order.index(provides.kind):
        return f"provide it from on_connect: {provides.kind} runs around one message."
    return f"provide it from {asks.kind} or earlier: {provides.kind} runs after it."


def _related(provided: Any, wanted: Any) -> bool:
    """Whether a value that is provided may have been meant by a parameter of another type: the same
    within a union, a subclass or a superclass. A class of Python itself says too little for that,
    such as ``str`` beside an Enum of texts."""
    for one in members(without_none(provided)):
        for other in members(wanted):
            if isinstance(one, type) and isinstance(other, type):
                either = [
                    each for each in (one, other) if each in one.__mro__ and each in other.__mro__
                ]
                if any(not _of_python(each) for each in either):
                    return True
            elif one == other:
                return True
    return False


def _of_python(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names


def _near(name: str, names: Sequence[str]) -> str | None:
    """The name of a path parameter that may be meant by another name."""

    def plain(each: str) -> str:
        return each.lower().replace("_", "")

    for each in names:
        one, other = plain(name), plain(each)
        if sorted(one) == sorted(other):
            return each
        ratio = difflib.SequenceMatcher(None, one, other).ratio()
        if min(len(one), len(other)) > 2 and ratio >= 0.8:
            return each
    return None


def _names_of(handler: Handler) -> Sequence[str]:
    return tuple(inspect.signature(handler.fn).parameters)


def _provided(scope: Offer) -> Source:
    if scope.handler.kind == "on_message":
        return PerMessage(scope.handler)
    return Provided(scope.handler)


def _has_roles(kind: Any, *, certainly: bool = False) -> bool:
    """Whether the values of a type have ``roles``. Of a class that is neither a Struct nor a
    dataclass that is not known, unless it must be ``certainly`` so."""
    for each in members(kind):
        if each in (None, NoneType):
            continue
        names = fields_of(each)
        known = "roles" in (names or ()) or hasattr(get_origin(each) or each, "roles")
        if not known and (certainly or names is not None):
            return False
    return True


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
