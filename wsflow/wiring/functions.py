"""Checks of each kind of function, and their plans."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

import msgspec
from anyio.abc import TaskGroup

from wsflow.declare.functions import is_cached, named, returns_context_manager
from wsflow.declare.markers import MARKERS
from wsflow.declare.router import Handler
from wsflow.declare.signatures import (
    EMPTY,
    ITERATORS,
    Parameter,
    Signature,
    as_provided,
    bare,
    members,
    type_name,
)
from wsflow.end import End
from wsflow.errors import Close, Disconnected, Reject
from wsflow.messages.apart import tag_field
from wsflow.messages.calls import Stream, answer_type, class_of, is_call
from wsflow.messages.codec import BoundCodec, Decoding
from wsflow.messages.families import fields_of
from wsflow.messages.hooks import Hooks
from wsflow.messages.shapes import Shapes, has_raw, runtime_classes, taken_by, takes_the_rest
from wsflow.topics.topic import Topic
from wsflow.wiring.answers import other_answer
from wsflow.wiring.invocation import Invocation
from wsflow.wiring.messages import A_TAG, RAW, message_problem, union_problem
from wsflow.wiring.plan import ConsumerPlan, ErrorPlan, ProducerPlan
from wsflow.wiring.rates import rate_problem
from wsflow.wiring.resolve import SIMPLE, Resolver
from wsflow.wiring.sources import GIVEN

WhyAndCure = tuple[str, str]
_OF_MSGSPEC = (msgspec.MsgspecError, msgspec.DecodeError, msgspec.ValidationError)
MAY_GENERATE = {"lifespan", "on_connect", "on_message", "consumer", "producer"}
PROVIDES = {"lifespan", "on_connect", "on_message"}


def shape_problem(handler: Handler, signature: Signature) -> WhyAndCure | None:
    """Why a function cannot be of its kind, regardless of its parameters; None if it can."""
    fn = handler.fn
    first = signature.parameters[0] if signature.parameters else None
    if first is not None and first.name == "self" and first.annotation is EMPTY:
        return (
            "It is a method of a class, and there is no object to call it on.",
            f"register the method of an object: router.{handler.kind}(thing.method).",
        )
    if returns_context_manager(fn):
        return (
            f"It returns a context manager, and {handler.kind} takes the generator itself.",
            "remove @asynccontextmanager.",
        )
    if is_cached(fn):
        return (
            "It is cached, and what an async function returns can be awaited only once.",
            "remove the decorator, and keep the value that it has awaited.",
        )
    if signature.generator and handler.kind not in MAY_GENERATE:
        return (
            f"A function of {handler.kind} is a coroutine, and this one yields.",
            "remove the yield, and return the result.",
        )
    if signature.generator and signature.gives is EMPTY and signature.returns is not EMPTY:
        return (
            f"It yields, and is annotated `-> {type_name(signature.returns)}`.",
            "annotate it `-> AsyncIterator[T]` with the type that it yields.",
        )
    if (
        signature.coroutine
        and not signature.generator
        and get_origin(signature.returns) in ITERATORS
    ):
        return (
            f"It is annotated `-> {type_name(signature.returns)}` and does not yield.",
            "yield the items, or annotate it with the type that it returns.",
        )
    if signature.generator or signature.coroutine:
        return None
    if inspect.isgeneratorfunction(named(fn)):
        return (
            f"It is a plain generator, so {handler.kind} could not await in it"
            + (", and its tear-down would not run." if handler.kind in PROVIDES else "."),
            "write `async def`.",
        )
    return (
        "It is not async.",
        "write `async def`; run blocking code with anyio.to_thread.run_sync.",
    )


class Functions:
    """Compiles functions by kind, and reports their mistakes."""

    def __init__(self, resolver: Resolver) -> None:
        self._problem = resolver.problem

    def offer_problem(self, handler: Handler, signature: Signature) -> WhyAndCure | None:
        """Why the value of a scope function cannot be injected; None if it can."""
        gives = bare(signature.gives)
        if gives in GIVEN or (get_origin(gives) or gives) is Topic:
            return (
                f"It provides {type_name(gives)}, which wsflow injects itself.",
                "remove the annotation, or provide a class of your own.",
            )
        if gives in SIMPLE:
            cure = "provide a class of your own that contains it."
            if gives is bool and handler.kind == "on_connect":
                cure = "annotate it `-> None`; to refuse a connection, raise Reject(403)."
            return f"{type_name(gives)} cannot be provided: the type is too general.", cure
        return None

    # -- consumers

    def message(
        self, handler: Handler, signature: Signature, provided: Sequence[Any], hooks: Hooks
    ) -> tuple[tuple[Any, ...], bool] | None:
        """The types of a consumer's message, and whether it iterates them itself."""
        first = signature.parameters[0] if signature.parameters else None
        if first is None or _injected(first) or as_provided(first.annotation, provided) in provided:
            self._problem(
                handler,
                first or "",
                "A consumer's first parameter is the message, and this one "
                + ("is injected." if first else "has none."),
                "put the message first: async def f(message: Say, …).",
            )
            return None
        if first.keyword or first.variadic:
            self._problem(
                handler,
                first,
                "The message is passed by position, as the first parameter.",
                "remove the *; a decorator that hides the function needs functools.wraps.",
            )
            return None
        if first.annotation is EMPTY:
            self._problem(
                handler,
                first,
                "The first parameter is the message, and it has no annotation.",
                f"annotate it, as in {first.name}: Say, or {first.name}: str for raw text.",
            )
            return None
        stream = get_origin(first.bare) in ITERATORS
        kinds = members(get_args(first.bare)[0] if stream else first.annotation)
        for kind in kinds:
            wrong = message_problem(kind, hooks, ["dec_hook"])
            if wrong is None and is_call(kind):
                wrong = message_problem(answer_type(kind), hooks, ["enc_hook"])
            if wrong is not None:
                self._problem(handler, first, *wrong)
                return None
        if any(map(is_call, kinds)):
            wrong = call_problem(kinds, stream, signature)
            if wrong is not None:
                self._problem(handler, first, *wrong)
                return None
        self._outgoing(handler, signature, hooks)
        self._options(handler, kinds, stream)
        return kinds, stream

    def _options(self, handler: Handler, kinds: tuple[Any, ...], stream: bool) -> None:
        if (wrong := rate_problem(handler.limit)) is not None:
            self._problem(handler, "", *wrong)
        concurrency = 1 if handler.concurrency is None else handler.concurrency
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
            self._problem(
                handler,
                "",
                f"concurrency is {concurrency!r}.",
                "use an integer of at least 1.",
            )
        elif stream and (concurrency > 1 or handler.key is not None):
            self._problem(
                handler,
                "",
                "It iterates its messages itself, one by one, so concurrency and key have no "
                "effect.",
                "remove them, or take one message at a time.",
            )
        elif handler.key is not None and (
            handler.concurrency == 1 or (handler.concurrency is None and not is_call(kinds[0]))
        ):
            why = "Without concurrency" if handler.concurrency is None else "With concurrency=1"
            self._problem(
                handler,
                "",
                f"{why} all messages keep their order, so key has no effect.",
                "add concurrency=…, or remove key."
                if handler.concurrency is None
                else "raise concurrency, or remove key.",
            )
        elif handler.key is not None:
            for kind in kinds:
                if (names := fields_of(kind)) is None or handler.key not in names:
                    has = f"has {', '.join(names)}" if names else "has no fields"
                    self._problem(
                        handler,
                        "",
                        f"key is {handler.key!r}, and {type_name(kind)} {has}.",
                        "name a field that all message types of the consumer have.",
                    )

    def _outgoing(self, handler: Handler, signature: Signature, hooks: Hooks) -> None:
        """Check the types of the messages that a function sends."""
        if signature.gives in (None, EMPTY, NoReturn):
            return
        for kind in members(signature.gives):
            wrong = None if kind is NoneType else message_problem(kind, hooks, ["enc_hook"])
            if wrong is not None:
                self._problem(handler, "", *wrong)

    def decodings(
        self,
        codecs: tuple[BoundCodec, ...],
        consumers: Sequence[ConsumerPlan],
        call_frames: tuple[Any, ...] = (),
        asked: Sequence[ConsumerPlan] = (),
    ) -> dict[str, Decoding[ConsumerPlan]]:
        """How a path decodes messages, by codec that it can allow, the default first.

        Args:
            codecs: the codecs of the path's Router, the default first.
            consumers: the consumers of messages.
            call_frames: the call frames, which are decoded too if they can be told apart.
            asked: the consumers of calls.
        """
        takers: dict[Any, ConsumerPlan] = {}
        raw: dict[Any, ConsumerPlan] = {}
        for plan in consumers:
            for kind in plan.kinds:
                if self._taken(plan, kind, {**takers, **raw}):
                    continue
                if kind in RAW:
                    raw[kind] = plan
                    continue
                typed = tuple(each for each in (*takers, kind) if not takes_the_rest(each))
                if typed and (why := union_problem(typed)) is not None:
                    self._problem(
                        plan.handler,
                        "",
                        f"Its messages cannot be told apart from the path's others: {why}.",
                        A_TAG,
                    )
                    continue
                takers[kind] = plan
        self._never_taken(takers)
        why = _no_calls(tuple(takers), call_frames)
        if why is not None:
            call_frames = ()
            for plan in asked:
                self._problem(
                    plan.handler,
                    "",
                    f"Calls cannot be told apart from the path's messages: {why}.",
                    A_TAG,
                )
        calls = tuple(kind for plan in asked for kind in plan.kinds)
        found: dict[str, Decoding[ConsumerPlan]] = {}
        default = codecs[0]
        held = [] if default.is_native else [each for each in takers if each is not msgspec.Raw]
        for kind in held:
            if has_raw(kind):
                self._problem(
                    takers[kind].handler,
                    "",
                    f"{type_name(kind)} has a msgspec.Raw, and the codec {default.name!r} decodes "
                    "messages as a whole.",
                    "annotate that as Any; a consumer may take the whole message as msgspec.Raw.",
                )
        for codec in codecs:
            mixed = raw.get(str if codec.text else bytes) if takers or asked else None
            if mixed is None:
                found[codec.name] = Decoding(
                    codec, takers, raw.get(str), raw.get(bytes), call_frames, calls
                )
            elif codec is default:
                frames = "text" if codec.text else "binary"
                self._problem(
                    mixed.handler,
                    "",
                    f"It takes raw {frames} messages, and the path decodes {frames} messages as "
                    f"{codec.name}.",
                    "use another path for the raw messages, or send them inside a Struct.",
                )
        return found

    def _never_taken(self, takers: Mapping[Any, ConsumerPlan]) -> None:
        """Report consumers of ``dict`` beside one that takes objects without a tag."""
        typed = [kind for kind in takers if not takes_the_rest(kind)]
        field = tag_field(typed)
        owners = [kind for kind in typed if Shapes([kind], field).untagged]
        for kind, plan in takers.items():
            if owners and takes_the_rest(kind) and {*runtime_classes(kind)} == {dict}:
                owner = takers[owners[0]]
                self._problem(
                    plan.handler,
                    "",
                    f"It takes the objects that no other consumer takes, and {owner.handler} "
                    f"({owner.handler.where}) takes all: {type_name(owners[0])} has no tag.",
                    A_TAG,
                )

    def _taken(self, plan: ConsumerPlan, kind: Any, takers: Mapping[Any, ConsumerPlan]) -> bool:
        classes = set(taken_by(kind))
        for other, taker in takers.items():
            all_of_it = {object, msgspec.Raw}
            if taker is not plan and (
                classes & set(taken_by(other))
                or (classes & all_of_it and all_of_it & set(taken_by(other)))
            ):
                self._problem(
                    plan.handler,
                    "",
                    f"{type_name(kind)} messages are taken by {taker.handler} "
                    f"({taker.handler.where}) already.",
                    "take them in one consumer, and call the other function from it.",
                )
                return True
        return False

    # -- the others

    def producer(
        self, handler: Handler, signature: Signature, call: Invocation, hooks: Hooks
    ) -> ProducerPlan:
        if handler.on_end not in ("close", "keep"):
            self._problem(handler, "", f"on_end is {handler.on_end!r}.", 'use "close" or "keep".')
        self._outgoing(handler, signature, hooks)
        style: Literal["each", "poll", "once"] = "each"
        if not signature.generator:
            style = "once" if signature.gives in (None, EMPTY, NoReturn) else "poll"
        return ProducerPlan(call, style)

    def errors(
        self, handlers: Sequence[tuple[Handler, Signature, Invocation, int]], hooks: Hooks
    ) -> tuple[ErrorPlan, ...]:
        plans: list[ErrorPlan] = []
        for handler, signature, call, depth in handlers:
            first = signature.parameters[0] if signature.parameters else None
            types = () if first is None else members(first.bare)
            if any(kind in (Close, Reject, Disconnected) for kind in types):
                self._problem(
                    handler,
                    first or "",
                    "Close, Reject and Disconnected are not errors: on_error is not called for "
                    "them.",
                    "use the End in on_disconnect.",
                )
                continue
            if any(kind in _OF_MSGSPEC for kind in types):
                self._problem(
                    handler,
                    first or "",
                    "A message that cannot be decoded is an InvalidMessage: on_error is not called "
                    "with msgspec's errors.",
                    "take wsflow.InvalidMessage; catch what your own decoding raises where it is "
                    "raised.",
                )
                continue
            if not types or not all(
                isinstance(kind, type) and issubclass(kind, Exception) for kind in types
            ):
                self._problem(
                    handler,
                    first or "",
                    "The first parameter is the error, annotated with its exception type.",
                    "put the error first: async def f(error: ValueError, …).",
                )
                continue
            self._outgoing(handler, signature, hooks)
            for other in plans:
                others = other.invocation.handler
                if other.depth == depth and set(other.types) & set(types):
                    self._problem(
                        handler,
                        first or "",
                        f"{others} ({others.where}) on the same Router handles it already.",
                        "handle it in one of them.",
                    )
            plans.append(ErrorPlan(call, types, depth))
        return tuple(plans)


def _no_calls(kinds: tuple[Any, ...], call_frames: tuple[Any, ...]) -> str | None:
    """Why call frames cannot be told apart from messages of these types; None if they can."""
    typed = tuple(kind for kind in kinds if not takes_the_rest(kind))
    return union_problem((*typed, *call_frames)) if call_frames and typed else None


def call_problem(kinds: tuple[Any, ...], stream: bool, signature: Signature) -> WhyAndCure | None:
    """Why a consumer cannot answer calls of these types; None if it can."""
    if stream:
        return (
            "A consumer that iterates its messages cannot answer each of them.",
            "take one call at a time, and return its answer.",
        )
    streams = {issubclass(class_of(kind), Stream) for kind in kinds if is_call(kind)}
    if not all(map(is_call, kinds)) or len(streams) > 1:
        return (
            "It takes calls, and other messages as well.",
            "write separate consumers: one that returns answers, one that yields streams, and one "
            "that handles messages.",
        )
    if signature.generator is not streams.pop():
        name = type_name(kinds[0])
        if signature.generator:
            return f"{name} is a Call, and this yields.", "return the answer, or use a Stream."
        return f"{name} is a Stream, and this does not yield.", "yield its items, or use a Call."
    for kind in kinds:
        wrong = other_answer(answer_type(kind), signature.gives)
        if wrong is not None:
            expected, given = wrong
            gives = "yields" if signature.generator else "returns"
            cure = "use the same type; calls with different answer types need separate consumers."
            if signature.gives is EMPTY:
                returns = f"AsyncIterator[{expected}]" if signature.generator else expected
                cure = f"annotate it `-> {returns}`."
            return (
                f"{type_name(kind)} expects {expected}, and this {gives} {given}.",
                cure,
            )
    return None


def _injected(parameter: Parameter) -> bool:
    """Whether a parameter is certainly not a message."""
    kind = parameter.bare
    return (
        kind in (*GIVEN, TaskGroup, End, *MARKERS)
        or isinstance(kind, MARKERS)
        or (get_origin(kind) or kind) is Topic
        or any(isinstance(mark, MARKERS) for mark in parameter.marks)
    )
