"""From a Router to an AppPlan, or to a DeclarationError that lists all mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, NoReturn, is_typeddict

from wsflow.declare.markers import Message, Sends
from wsflow.declare.router import Declared, Handler, Kind, RateLimit, Router
from wsflow.declare.signatures import EMPTY, Signature, Unresolved, members, read, type_name
from wsflow.errors import DeclarationError, Problem
from wsflow.limits import check_is
from wsflow.messages.apart import tag_field
from wsflow.messages.calls import call_frames, is_call
from wsflow.messages.codec import CODECS, BoundCodec, Codec, bound
from wsflow.messages.hooks import NO_HOOKS, Hooks, hooks_of
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.names import is_name_of, shape
from wsflow.topics.type import TopicType
from wsflow.wiring.codecs import codec_problem, hook_problem
from wsflow.wiring.functions import Functions, shape_problem
from wsflow.wiring.invocation import Invocation
from wsflow.wiring.place import Place
from wsflow.wiring.plan import (
    AppPlan,
    ConsumerPlan,
    Offer,
    PagePlan,
    RatePlan,
    RoutePlan,
    ScopePlan,
    TakesCredential,
)
from wsflow.wiring.rates import rate_plan, rate_problem
from wsflow.wiring.resolve import Resolver, read_topic
from wsflow.wiring.routes import RouteTable, join, parameters
from wsflow.wiring.sources import FromTopic

SCOPES: tuple[Kind, ...] = ("on_message", "on_connect", "lifespan")
"""Kinds that provide values, nearest first."""

SERVED: tuple[Kind, ...] = ("consumer", "producer", "get")
"""Kinds that make a path."""

IN_CONNECTIONS: tuple[Kind, ...] = ("on_connect", "on_message", "on_disconnect", "on_error")
"""Kinds that run in the connections of a path."""


@dataclass(frozen=True)
class Level:
    """One of the nested Routers of a path: its functions, what they provide, the scope functions
    that do not say what they provide, and its rate limit, if it has one."""

    router: Router
    handlers: tuple[Handler, ...]
    offers: Mapping[Kind, Sequence[Offer]]
    unsaid: Sequence[Offer]
    rates: tuple[RatePlan, ...]

    def of(self, kind: Kind) -> list[Handler]:
        return [handler for handler in self.handlers if handler.kind == kind]


Levels = tuple[Level, ...]


def compile_app(
    router: Router, override: Mapping[Any, Any] | None = None, *, client: bool = False
) -> AppPlan:
    """Wire an app.

    Args:
        router: the app.
        override: values by annotation that replace what would be injected.
        client: whether it is a client.

    Raises:
        DeclarationError: all mistakes at once.
        TypeError: the app is no Router.
    """
    check_is(router, Router, "the app")
    return _Compiler(override or {}, client).compile(router)


class _Compiler:
    def __init__(self, override: Mapping[Any, Any], client: bool) -> None:
        self.resolver = Resolver(override, client)
        self.functions = Functions(self.resolver)
        self.signatures: dict[Handler, Signature | None] = {}
        self.lifespans: dict[Handler, ScopePlan] = {}
        self.routes: RouteTable[RoutePlan] = RouteTable()
        self.pages: RouteTable[PagePlan] = RouteTable()
        self.overridden: set[Handler] = set()
        self.limited: Counter[str] = Counter()  # the names of rate limits
        self.topics: dict[Router, list[FromTopic]] = {}  # that Routers declare
        self.hooks: dict[Router, Hooks] = {}  # that Routers have themselves
        self.codecs: dict[str, Codec] = {}  # of the app's own, by name
        self.bound: dict[tuple[str, Hooks], BoundCodec] = {}

    def compile(self, router: Router) -> AppPlan:
        self._walk(router, (), "/", NO_HOOKS)
        if not self.resolver.problems:
            self._check_served(router)
        hooks = self._hooks_of_all()
        codecs = self._codecs_of_all(hooks)
        topics = self._topics(codecs)
        if not self.resolver.problems:
            self.resolver.check_overrides(router._where)
        if self.resolver.problems:
            raise DeclarationError(sorted(self.resolver.problems, key=_by_place))
        declared = tuple(router._declared for router in self.topics)
        lifespans = tuple(self.lifespans.values())
        observers = {id(each): each for routers in declared for each in routers.observers}
        return AppPlan(
            lifespans,
            self.routes,
            self.pages,
            topics,
            declared,
            codecs,
            hooks,
            tuple(observers.values()),
            router._about,
        )

    def _check_served(self, app: Router) -> None:
        """Report an app that serves no path, or else Routers whose functions would never run."""
        runs = [
            each
            for each in self.topics
            if any(handler.kind in IN_CONNECTIONS for handler in each._declared.handlers)
        ]
        for router in runs if _serves(app) else [app]:
            if not _serves(router):
                self._router_problem(
                    router,
                    "It serves no path: neither it nor a Router that it includes has a consumer or "
                    "a producer.",
                    "decorate a function with @router.consumer or @router.producer.",
                )

    def _router_problem(self, router: Router, why: str, cure: str) -> None:
        problem = Problem(router._where, f"Router {router.path!r}", why, cure)
        if problem not in self.resolver.problems:
            self.resolver.problems.append(problem)

    def _walk(self, router: Router, outer: Levels, prefix: str, hooks: Hooks) -> None:
        """Wire a Router and all Routers that it includes."""
        if any(level.router is router for level in outer):
            self._router_problem(router, "It includes itself.", "remove one include.")
            return
        declared: Declared = router._declared
        new = [each for each in declared.problems if each not in self.resolver.problems]
        self.resolver.problems += new
        template = join(prefix, router.path)
        names = self._parameters(router, template)
        hooks = self._hooks(router, hooks)
        if router not in self.topics:
            self.topics[router] = self._topics_of(router, hooks)
        level = self._level(router, template)
        levels = (*outer, level)
        place = Place(template, names or (), self._codecs(router, hooks))
        for handler in level.of("lifespan"):
            if handler not in self.lifespans and handler not in self.overridden:
                self.lifespans[handler] = self._scope(handler, levels, place)
        if names is not None and (level.of("consumer") or level.of("producer")):
            self._serve(levels, place)
        for handler in level.of("get") if names is not None else ():
            self._page(handler, levels, join(template, handler.path), place.codecs)
        for included in declared.included:
            self._walk(included.router, levels, join(template, included.prefix), hooks)

    def _hooks(self, router: Router, outer: Hooks) -> Hooks:
        """The hooks of a Router, its own first. Reports those that cannot be."""
        for name, hook in (("dec_hook", router._dec_hook), ("enc_hook", router._enc_hook)):
            if (wrong := hook_problem(name, hook)) is not None:
                self._router_problem(router, *wrong)
        own = hooks_of(router._dec_hook, router._enc_hook)
        self.hooks.setdefault(router, own)
        if own is NO_HOOKS:
            return outer
        return Hooks((*own.dec, *outer.dec), (*own.enc, *outer.enc))

    def _codecs(self, router: Router, hooks: Hooks) -> tuple[BoundCodec, ...]:
        """The codecs of a Router, the default first. Reports one that cannot be."""
        default = router.codec
        if (wrong := codec_problem(default)) is not None:
            self._router_problem(router, *wrong)
            default = "json"
        if not isinstance(default, str):
            other = self.codecs.setdefault(default.name, default)
            if type(other) is not type(default):
                self._router_problem(
                    router,
                    f"Its codec is named {default.name!r}, and so is one of another class.",
                    "give one of them another name.",
                )
            default = other
        others = [each for each in CODECS if each != default]
        return tuple(self._bound(each, hooks) for each in (default, *others))

    def _bound(self, codec: str | Codec, hooks: Hooks) -> BoundCodec:
        name = codec if isinstance(codec, str) else codec.name
        if (name, hooks) not in self.bound:
            self.bound[name, hooks] = bound(codec, hooks)
        return self.bound[name, hooks]

    def _hooks_of_all(self) -> Hooks:
        """The hooks of all Routers, the outermost first."""
        dec = tuple(each for hooks in self.hooks.values() for each in hooks.dec)
        enc = tuple(each for hooks in self.hooks.values() for each in hooks.enc)
        return Hooks(dec, enc) if dec or enc else NO_HOOKS

    def _codecs_of_all(self, hooks: Hooks) -> tuple[BoundCodec, ...]:
        """The codecs that any path allows."""
        used = {codec.name: codec.codec for plan in self.routes for codec in plan.codecs}
        used = used or {"json": "json"}  # there are only pages
        return tuple(self._bound(used[name], hooks) for name in self._in_order(used))

    def _in_order(self, names: Iterable[str]) -> list[str]:
        """Names of codecs in an order that is always the same."""
        return [each for each in (*CODECS, *self.codecs) if each in names]

    def _topics_of(self, router: Router, hooks: Hooks) -> list[FromTopic]:
        """The topics that a Router declares. Reports those that cannot be."""
        topics = []
        for annotation in router._topics:
            topic = read_topic(annotation, hooks)
            if isinstance(topic, FromTopic):
                topics.append(topic)
            else:
                self._router_problem(router, *topic)
        return topics

    def _parameters(self, router: Router, template: str) -> Sequence[str] | None:
        try:
            return parameters(template)
        except ValueError as exc:
            why, _, cure = str(exc).partition("\n")
            self._router_problem(router, f"The path {template!r} is malformed: {why}.", f"{cure}.")
            return None

    def _level(self, router: Router, template: str) -> Level:
        """Read the signatures of a Router's functions, except those that an override replaces."""
        if (wrong := rate_problem(router._limit)) is not None:
            self._router_problem(router, *wrong)
        handlers: list[Handler] = []
        offers: dict[Kind, list[Offer]] = {kind: [] for kind in SCOPES}
        unsaid: list[Offer] = []
        for handler in router._declared.handlers:
            signature = self._signature(handler)
            if signature is None:
                continue
            if handler.kind in SCOPES and signature.gives is EMPTY:
                unsaid.append(Offer(handler, EMPTY))
            elif handler.kind in SCOPES and signature.gives is not None:
                if self.resolver.overridden(signature.gives):
                    self.overridden.add(handler)
                    continue
                self._offer(handler, signature, offers[handler.kind])
            handlers.append(handler)
        rates = self._rates(router._limit, template)
        return Level(router, tuple(handlers), offers, unsaid, rates)

    def _rates(self, limit: RateLimit, name: str) -> tuple[RatePlan, ...]:
        """The plan of a rate limit, with a name that no other has; none if there is no limit."""
        count = self.limited[name]
        plan = rate_plan(limit, f"{name} ({count + 1})" if count else name)
        if plan is None:
            return ()
        self.limited[name] += 1
        return (plan,)

    def _offer(self, handler: Handler, signature: Signature, offers: list[Offer]) -> None:
        wrong = self.functions.offer_problem(handler, signature)
        if wrong is not None:
            self.resolver.problem(handler, "", *wrong)
            return
        for other in offers:
            if other.provides == signature.gives and other.handler is not handler:
                self.resolver.problem(
                    handler,
                    "",
                    f"It provides {type_name(signature.gives)}, and so does {other.handler} "
                    f"({other.handler.where}) on the same Router.",
                    "provide it from one of them, or use different classes.",
                )
                return
        offers.append(Offer(handler, signature.gives, signature.parameters))

    def _signature(self, handler: Handler) -> Signature | None:
        if handler not in self.signatures:
            self.signatures[handler] = self._read(handler)
        return self.signatures[handler]

    def _known(self, handler: Handler) -> Signature:
        """The signature of a handler of a Level, which has only handlers with valid signatures."""
        signature = self.signatures[handler]
        assert signature is not None
        return signature

    def _read(self, handler: Handler) -> Signature | None:
        try:
            signature = read(handler)
        except Unresolved as exc:
            returned = exc.parameter == "return"
            self.resolver.problem(
                handler,
                "" if returned else exc.parameter,
                f"The {'return ' * returned}annotation {exc}.",
                "import the name where the function is declared, outside of `if TYPE_CHECKING`.",
            )
            return None
        wrong = shape_problem(handler, signature)
        if wrong is not None:
            self.resolver.problem(handler, "", *wrong)
            return None
        return signature

    # -- one path

    def _page(
        self, handler: Handler, levels: Levels, template: str, codecs: tuple[BoundCodec, ...]
    ) -> None:
        """Wire a function that answers plain requests."""
        try:
            names = parameters(template)
        except ValueError as exc:
            why, _, cure = str(exc).partition("\n")
            why = f"The path {template!r} is malformed: {why}."
            self.resolver.problem(handler, "", why, f"{cure}.")
            return
        signature = self._known(handler)
        place = Place(template, names, codecs)
        call = self._call(handler, signature, levels, place, leading=0)
        other = self.pages.add(template, PagePlan(template, call, place.hooks))
        if other is not None:
            self.resolver.problem(
                handler,
                "",
                f"The path {template!r} is that of {other.handler} ({other.handler.where}), too.",
                "change one of the two paths.",
            )

    def _serve(self, levels: Levels, place: Place) -> None:
        level = levels[-1]
        router = level.router
        consumers = self._consumers(level.of("consumer"), levels, place)
        self._check_message_types(self._all(levels, "on_message"), consumers)
        kinds = [kind for each in consumers for kind in each.kinds]
        frames = call_frames(tag_field(kinds) or "type")
        messages = [each for each in consumers if not each.calls]
        asked = [each for each in consumers if each.calls]
        decodings = self.functions.decodings(place.codecs, messages, tuple(frames.values()), asked)
        handlers = {kind: self._all(levels, kind) for kind in ("on_disconnect", "on_error")}
        senders = [
            *(each.handler for each in messages),
            *level.of("producer"),
            *handlers["on_error"],
        ]
        plan = RoutePlan(
            template=place.template,
            where=router._where,
            codecs=tuple(each for each in place.codecs if each.name in decodings)
            or place.codecs[:1],
            subprotocols=router.subprotocols,
            on_connect=self._scopes("on_connect", levels, place),
            on_message=self._scopes("on_message", levels, place),
            consumers=tuple(consumers),
            producers=tuple(
                self.functions.producer(handler, signature, call, place.hooks)
                for handler, signature, call in self._calls(
                    level.of("producer"), levels, place, leading=0
                )
            ),
            on_disconnect=tuple(
                call for _, _, call in self._calls(handlers["on_disconnect"], levels, place, 0)
            ),
            on_error=self.functions.errors(
                [
                    (handler, signature, call, _depth(handler, levels))
                    for handler, signature, call in self._calls(
                        handlers["on_error"], levels, place, leading=1
                    )
                ],
                place.hooks,
            ),
            decodings=decodings,
            call_decodings=self.functions.decodings(place.codecs, asked),
            call_frames=frames,
            sends=self._sends(senders, levels),
            rates=tuple(rate for each in levels for rate in each.rates),
            ignores_unknown=self._ignores_unknown(levels),
            about=replace(
                router._about, deprecated=any(each.router._about.deprecated for each in levels)
            ),
        )
        other = self.routes.add(place.template, plan)
        if other is not None and other.where == router._where:
            self._router_problem(
                router,
                f"It is included twice at {place.template!r}.",
                "remove one include, or give one of them a prefix.",
            )
        elif other is not None:
            self._router_problem(
                router,
                f"The path {place.template!r} is served by another Router too: "
                f"{other.template!r} ({other.where}).",
                "change one of the two paths, or put all their functions on one Router.",
            )

    def _ignores_unknown(self, levels: Levels) -> bool:
        """What the innermost Router says; by default, a client ignores, and a server closes."""
        said = None
        for router in (level.router for level in levels):
            said = router.unknown if router.unknown is not None else said
            if router.unknown not in (None, "close", "ignore"):
                why = f"unknown is {router.unknown!r}."
                self._router_problem(router, why, 'use "close" or "ignore".')
        return said == "ignore" or (said is None and self.resolver.client)

    def _sends(self, senders: Sequence[Handler], levels: Levels) -> tuple[Any, ...]:
        """The types that the functions of a path declare to send, and those of its topics."""
        found: dict[Any, None] = {}
        for handler in senders:
            signature = self._known(handler)
            if signature.gives not in (None, EMPTY, NoReturn):
                found.update(dict.fromkeys(members(signature.gives)))
        run = [
            handler
            for level in levels
            for handler in level.handlers
            if level is levels[-1] or handler.kind not in ("consumer", "producer", "get")
        ]
        for handler in run:
            for parameter in self._known(handler).parameters:
                for mark in parameter.marks:
                    if isinstance(mark, Sends):
                        found.update((kind, None) for t in mark.types for kind in members(t))
        for handler, topic in self.resolver.topics:
            if handler in run:
                found.update(dict.fromkeys(topic.types))
        for level in levels:
            for topic in self.topics[level.router]:
                found.update(dict.fromkeys(topic.types))
        return tuple(kind for kind in found if kind is not NoneType)

    def _all(self, levels: Levels, kind: Kind) -> list[Handler]:
        return [handler for level in levels for handler in level.of(kind)]

    def _scopes(self, kind: Kind, levels: Levels, place: Place) -> tuple[ScopePlan, ...]:
        return tuple(self._scope(each, levels, place) for each in self._all(levels, kind))

    def _scope(self, handler: Handler, levels: Levels, place: Place) -> ScopePlan:
        signature = self._known(handler)
        if self.resolver.client and isinstance(handler.fn, TakesCredential):
            self.resolver.problem(
                handler,
                "",
                "It takes the credential of a client that connects, and this is run as a client.",
                "run a server's Router with `wsflow run`; a client's sends its token with "
                "run_client(…, credential=…) or in a header.",
            )
        call = self._call(handler, signature, levels, place, leading=0)
        return ScopePlan(call, signature.generator, signature.gives)

    def _consumers(
        self, handlers: Sequence[Handler], levels: Levels, place: Place
    ) -> list[ConsumerPlan]:
        plans: list[ConsumerPlan] = []
        for handler in handlers:
            signature = self._known(handler)
            provided = [offer.provides for offer in self._visible(handler, levels)]
            message = self.functions.message(handler, signature, provided, place.hooks)
            if message is None:
                continue
            kinds, stream = message
            call = self._call(handler, signature, levels, place, 1, stream)
            own = self._rates(handler.limit, f"{handler.name} at {place.template}")
            rates = (*(rate for level in levels for rate in level.rates), *own)
            calls = is_call(kinds[0])
            plans.append(ConsumerPlan(call, kinds, stream, signature.generator, calls, rates))
        return plans

    def _check_message_types(
        self, handlers: Sequence[Handler], consumers: Sequence[ConsumerPlan]
    ) -> None:
        """Report ``on_message`` functions that are called with other messages than they ask for."""
        kinds = [kind for each in consumers if not each.stream for kind in each.kinds]
        for handler in handlers:
            for parameter in self._known(handler).parameters:
                asked = members(parameter.bare)
                others = [kind for kind in kinds if not any(_is_of(kind, each) for each in asked)]
                if others and any(isinstance(each, Message) for each in parameter.marks):
                    self.resolver.problem(
                        handler,
                        parameter,
                        "It is called for all messages, and the consumers take "
                        f"{' and '.join(map(type_name, others))}, too.",
                        f"annotate it `{parameter.name}: Annotated[object, Message()]`.",
                    )

    def _calls(
        self, handlers: Sequence[Handler], levels: Levels, place: Place, leading: int
    ) -> list[tuple[Handler, Signature, Invocation]]:
        found = []
        for handler in handlers:
            signature = self._known(handler)
            call = self._call(handler, signature, levels, place, leading)
            found.append((handler, signature, call))
        return found

    def _call(
        self,
        handler: Handler,
        signature: Signature,
        levels: Levels,
        place: Place,
        leading: int,
        stream: bool = False,
    ) -> Invocation:
        return self.resolver.call(
            handler,
            signature.parameters[leading:],
            place,
            self._visible(handler, levels, stream),
            [
                *(offer for level in levels for kind in SCOPES for offer in level.offers[kind]),
                *(offer for level in levels for offer in level.unsaid),
            ],
        )

    def _visible(self, handler: Handler, levels: Levels, stream: bool = False) -> list[Offer]:
        """The scope functions whose values a function can use: those of its Router and of outer
        Routers, nearest first."""
        if handler.kind in SCOPES:
            kinds = SCOPES[SCOPES.index(handler.kind) :]
        elif handler.kind == "get":
            kinds = ("lifespan",)
        else:
            kinds = SCOPES if handler.kind == "consumer" and not stream else SCOPES[1:]
        depth = _depth(handler, levels)
        visible: list[Offer] = []
        for kind in kinds:
            for level in reversed(levels[: depth + 1]):
                own = level.of(kind)
                for offer in level.offers[kind]:
                    later = handler in own and own.index(offer.handler) >= own.index(handler)
                    if not later:
                        visible.append(offer)
        return visible

    def _topics(self, codecs: tuple[BoundCodec, ...]) -> DeclaredTopics:
        """The types of all declared topics. Reports topics with the same name that differ.

        Args:
            codecs: those that any path allows, for topics of no path.
        """
        first: dict[str, tuple[Handler | Router, FromTopic]] = {}
        users: dict[str, set[Handler]] = {}
        everywhere: set[str] = set()
        found: dict[str, FromTopic] = {}
        owned: list[tuple[Handler | Router, FromTopic]] = []
        owned += [(router, topic) for router, own in self.topics.items() for topic in own]
        owned += self.resolver.topics
        for owner, topic in owned:
            form = shape(topic.template)
            if isinstance(owner, Handler):
                users.setdefault(form, set()).add(owner)
            else:
                everywhere.add(form)
            found.setdefault(topic.template, topic)
            self._compare(owner, topic, *first.setdefault(form, (owner, topic)))
        for owner, topic in first.values():
            for other_owner, other in first.values():
                if topic is not other and is_name_of(other.template, topic.template):
                    self._compare(owner, topic, other_owner, other)
        used = {each.name: each for each in codecs}
        types: dict[str, TopicType] = {}
        for template, topic in found.items():
            form = shape(template)
            allowed = used if form in everywhere else self._codecs_of(users[form]) or used
            own = tuple(allowed[name] for name in self._in_order(allowed))
            types[template] = TopicType(topic.types, topic.options, own)
        return DeclaredTopics(types)

    def _compare(
        self, owner: Handler | Router, topic: FromTopic, first: Handler | Router, other: FromTopic
    ) -> None:
        """Report a topic that is declared twice, and not as the same."""
        wrong = _disagreement(other, topic)
        if not wrong:
            return
        where = first.where if isinstance(first, Handler) else first._where
        name = str(first) if isinstance(first, Handler) else f"Router {first.path!r}"
        also = f", as {other.template!r}," if other.template != topic.template else ""
        why = f"The topic {topic.template!r} has {wrong} here, and others at {name} ({where}){also}"
        why = why.rstrip(",") + "."
        cure = "declare it once, as in Room = Annotated[Topic[Said], …], and reuse that."
        if isinstance(owner, Handler):
            self.resolver.problem(owner, "", why, cure)
        else:
            self._router_problem(owner, why, cure)

    def _codecs_of(self, handlers: set[Handler]) -> dict[str, BoundCodec]:
        """The codecs that the paths of these functions allow, with the hooks of the first."""
        found: dict[str, BoundCodec] = {}
        for plan in self.routes:
            if handlers & {each.handler for each in plan.functions}:
                for codec in plan.codecs:
                    found.setdefault(codec.name, codec)
        return found


def _depth(handler: Handler, levels: Levels) -> int:
    return next(i for i, level in enumerate(levels) if handler in level.handlers)


def _is_of(kind: Any, wanted: Any) -> bool:
    """Whether all messages of a type are of another one."""
    if kind == wanted or wanted in (Any, object):
        return True
    classes = isinstance(kind, type) and isinstance(wanted, type) and not is_typeddict(wanted)
    return classes and issubclass(kind, wanted)


def _disagreement(one: FromTopic, other: FromTopic) -> str:
    if set(one.types) != set(other.types):
        return f"the type {' | '.join(map(type_name, other.types))}"
    return "other options" if one.options != other.options else ""


def _serves(router: Router) -> bool:
    """Whether it has a path, or a Router that it includes."""
    declared = router._declared
    return any(each.kind in SERVED for each in declared.handlers) or any(
        _serves(each.router) for each in declared.included
    )


def _by_place(problem: Problem) -> tuple[str, int, str]:
    file, _, line = problem.where.rpartition(":")
    return file, int(line) if line.isdecimal() else 0, problem.subject
