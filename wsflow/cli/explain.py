"""An app in readable lines: its routes, and where each parameter comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsflow.declare.signatures import type_name
from wsflow.messages.calls import Stream, answer_type, class_of, is_call
from wsflow.wiring.invocation import Invocation
from wsflow.wiring.plan import AppPlan, ConsumerPlan, PagePlan, RoutePlan
from wsflow.wiring.samples import Sample


def routes(plan: AppPlan) -> Iterator[str]:
    """A line per path: what it takes, and what it sends."""
    rows = [(each.template, *_traffic(each)) for each in _sorted(plan)]
    rows += [(each.template, "answers GET", f"by {each.handler.name}") for each in _pages(plan)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for path, takes, sends in rows:
        yield f"{path:<{widths[0]}}  {takes:<{widths[1]}}  {sends}".rstrip()


def _traffic(route: RoutePlan) -> tuple[str, str]:
    taken = [_takes(consumer) for consumer in route.consumers]
    sent = [type_name(kind) for kind in route.sends]
    return f"takes {', '.join(taken) or 'nothing'}", f"sends {', '.join(sent) or 'nothing'}"


def _takes(consumer: ConsumerPlan) -> str:
    kinds = " | ".join(map(_kind, consumer.kinds))
    return f"{kinds} (stream)" if consumer.stream else kinds


def _kind(kind: Any) -> str:
    """A type; for a call, with the type of its answer."""
    if not is_call(kind):
        return type_name(kind)
    many = "stream of " if issubclass(class_of(kind), Stream) else ""
    return f"{type_name(kind)} -> {many}{type_name(answer_type(kind))}"


def explain(plan: AppPlan) -> Iterator[str]:
    """Each path with its functions, and where each of their parameters comes from."""
    if plan.lifespans:
        yield "lifespan of the app"
        for scope in plan.lifespans:
            yield from _function(scope.invocation)
    for route in _sorted(plan):
        codecs = ", ".join(codec.name for codec in route.codecs)
        yield f"{route.template} ({codecs})"
        if route.ignores_unknown:
            yield "  ignores messages with a tag that no consumer takes"
        if route.sends:
            yield f"  sends {', '.join(map(type_name, route.sends))}"
        takes = {consumer.invocation: f" takes {_takes(consumer)}" for consumer in route.consumers}
        for call in route.functions:
            yield from _function(call, takes.get(call, ""))
    for page in _pages(plan):
        yield f"{page.template} (plain HTTP)"
        yield from _function(page.invocation)


def _function(call: Invocation, more: str = "") -> Iterator[str]:
    yield f"  {call.handler}{more} ({_short(call.handler.where)})"
    for name, source in call.named_sources:
        yield f"      {name}: {source}"
    for requires, source in call.guards:
        yield f"      requires {requires.name} of {source}"


def _short(where: str) -> str:
    """A place, relative to the current directory if it is below it."""
    file, _, line = where.rpartition(":")
    path = Path(file)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"


def _sorted(plan: AppPlan) -> list[RoutePlan]:
    return sorted(plan.routes, key=lambda route: route.template)


def _pages(plan: AppPlan) -> list[PagePlan]:
    return sorted(plan.pages, key=lambda page: page.template)


def try_lines(plan: AppPlan, base: str) -> Iterator[str]:
    """For each path its URL, and a command that connects to it, with ``…`` for a credential.

    Args:
        plan: the app.
        base: scheme and authority, as in ``ws://127.0.0.1:8000``.
    """
    for route in _sorted(plan):
        yield f"  {base}{route.template}"
        yield f"      try it: {Sample(plan, route).command(base)}"
    for page in _pages(plan):
        yield f"  {base.replace('ws', 'http', 1)}{page.template}"
