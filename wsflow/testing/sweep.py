"""A fault at every await: run a scenario, count each suspension of the connection's tasks, and at
the n-th one do something to it, for every n. After SQLite's way with failing allocations.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any, Literal, cast, final, get_args

from anyio.lowlevel import checkpoint, current_token

from wsflow.declare.router import Router
from wsflow.http import HeaderItems
from wsflow.limits import Limits
from wsflow.request import Request
from wsflow.runtime.app import App
from wsflow.runtime.ending import PEER_LEFT, SHUTDOWN
from wsflow.runtime.session import Session
from wsflow.tasks.waiting import Condition
from wsflow.testing.peer import MemoryPeer
from wsflow.testing.server import LIMITS, MemoryServer, check_target, opening_headers
from wsflow.testing.virtual import MACHINES, Machine, StuckError, Tracked, raisable, where
from wsflow.testing.watched import Calls, Outage, Wire, watched
from wsflow.topics.registry import Registry
from wsflow.transports.base import Receiver, Transport
from wsflow.transports.memory import MemoryTransport
from wsflow.wiring.compile import compile_app

Scenario = Callable[[MemoryPeer], Awaitable[None]]

Fault = Literal[
    "scope_cancelled",
    "task_cancelled",
    "task_cancelled_twice",
    "task_cancelled_waking",
    "peer_gone",
    "send_fails",
    "handler_raises",
    "broker_gone",
    "connection_ended",
    "server_stops",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
"""The names of all faults that ``sweep_cancellation`` knows."""

NATIVE = frozenset({"task_cancelled", "task_cancelled_twice", "task_cancelled_waking"})
"""The faults that Trio does not have: there only scopes are cancelled."""

HARMLESS = frozenset({None, "peer_gone", "send_fails", "connection_ended", "server_stops"})
"""The faults that are no reason to raise."""

Oracle = Literal[
    "ends",
    "registry",
    "topics",
    "tasks",
    "close_frame",
    "scopes",
    "on_disconnect",
    "producers",
    "cancellation",
    "errors",
    "outbox",
    "unretrieved",
    "next_peer",
    "stops",
    "check",
]

AGAIN = 0.005
"""Seconds between two cancellations of a task."""

SETTLE = 10
"""Turns of the event loop within which what was told to end has ended."""

QUIET = 10
"""Turns in which a peer reads all that comes, to see whether anybody still waits to send."""

MOST_VIOLATIONS = 100
"""A sweep that has found so many goes no further."""

MOST_STUCK = 5
"""Nor does one in which so many runs came to no end, which takes a second each."""

SHOWN = 10
"""How many violations the text of an error shows."""


class SweepFault(Exception):
    """What ``handler_raises`` raises in the user's code."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold when a fault happens at a certain point.

    Attributes:
        oracle: which invariant.
        detail: what was found instead.
        fault: the fault; "" if there was none.
        backend: ``"asyncio"`` or ``"trio"``, and whether messages were handled where they are read,
            as on a socket.
        at: at which suspension of the scenario, counted from 1.
        task: the task that was suspended.
        place: where it was suspended: the file, line and function.
    """

    oracle: Oracle
    detail: str
    fault: str
    backend: str
    at: int
    task: str
    place: str

    def __str__(self) -> str:
        happened = f"{self.fault} at suspension {self.at}" if self.fault else "without a fault"
        at = f"\n    {self.task}\n    at {self.place}" if self.place else ""
        return f"{self.oracle}: {self.detail}\n    {happened}, on {self.backend}{at}"


@dataclass(frozen=True)
class SweepReport:
    """What a sweep has tried, and found.

    Attributes:
        by_fault: the number of points, by fault and backend.
        violations: the invariants that did not hold, in the order in which they were found.
        left_out: what was not tried, and why; a line each.
    """

    by_fault: Mapping[tuple[str, str], int]
    violations: Sequence[Violation]
    left_out: Sequence[str]

    @property
    def points(self) -> int:
        """How many points were tried: runs in which the fault has happened."""
        return sum(self.by_fault.values())

    def __str__(self) -> str:
        lines = [f"{self.points} points, {len(self.violations)} violations"]
        lines += [f"  {n:6} {fault} on {on}" for (fault, on), n in self.by_fault.items()]
        lines += [f"  left out: {each}" for each in self.left_out]
        shown = self.violations[:SHOWN]
        lines += [f"\n{each}" for each in shown]
        if more := len(self.violations) - len(shown):
            lines.append(f"\nand {more} more")
        return "\n".join(lines)


class SweepError(AssertionError):
    """A sweep has found violations; the text lists them.

    Attributes:
        report: the report.
    """

    def __init__(self, report: SweepReport) -> None:
        super().__init__(str(report))
        self.report = report


def sweep_cancellation(
    app: Router,
    scenario: Scenario,
    *,
    target: str = "/",
    headers: HeaderItems = (),
    faults: Sequence[Fault] = FAULTS,
    backends: Sequence[Literal["asyncio", "trio"]] = ("asyncio", "trio"),
    override: Mapping[Any, Any] | None = None,
    limits: Limits = LIMITS,
    check: Callable[[], None] | None = None,
    max_points: int | None = None,
    on_violation: Literal["raise", "report"] = "raise",
) -> SweepReport:
    """Let a fault happen at every await of a connection, one at a time, and check what must hold.

    The scenario runs once for each fault and each suspension of a task of the connection: that of
    a handler, of a task that a handler has started, and wsflow's own. Which faults there are:

    - ``scope_cancelled``: the cancel scope around what the connection is doing is cancelled.
    - ``task_cancelled``: ``task.cancel()`` of the suspended task, as ``asyncio.timeout`` does it;
      ``task_cancelled_twice``: again 5 ms later; ``task_cancelled_waking``: at the moment in which
      what it waits for has come, and it has not run yet. On asyncio only.
    - ``peer_gone``: the connection is lost without a close frame.
    - ``send_fails``: the next message that is sent loses the connection.
    - ``handler_raises``: what the user's code waits for there raises ``SweepFault``. It happens
      where that is not wsflow's own.
    - ``broker_gone``: publishing, joining and replaying fail with ``BrokerError`` from now on,
      after ``publish_timeout``, or half of ``close_timeout`` if that is shorter.
    - ``connection_ended``: the server ends the connection at once.
    - ``server_stops``: the server drains the connection.

    After each run the following must hold; a ``Violation`` names what does not:

    - ``ends``: the connection has ended, and no handler has swallowed its cancellation;
    - ``registry``, ``topics``: neither knows it any more;
    - ``tasks``: no task of it runs, nor one that a handler has started;
    - ``close_frame``: the session has sent exactly one close frame (or HTTP answer), none if the
      peer has left;
    - ``scopes``: each scope function that was entered was left, once, by the task that entered it;
      the tear-down of the connection and ``on_disconnect`` are not cancelled within their time;
    - ``on_disconnect``: called once if all ``on_connect`` functions have set up, else not at all;
    - ``producers``: they were cancelled when the peer left;
    - ``cancellation``: ``task.cancel()`` of a handler ends the connection: nobody swallows it;
    - ``errors``: nothing was raised that the scenario has not read from ``peer.end.error``; asked
      only when the fault is no error itself;
    - ``outbox``: nobody waits to send while there is room;
    - ``unretrieved``: no exception is lost in the event loop, no coroutine was never awaited, no
      asynchronous generator of a handler was left open;
    - ``next_peer``: another peer runs the scenario as if nothing had happened;
    - ``stops``: the app can be stopped;
    - ``check``: the function ``check`` raised nothing.

    Time is virtual: the clock jumps to the next timer, and a run in which nothing is ready and no
    timer is set is a violation and does not hang. Handlers must not wait for threads, subprocesses
    or sockets: ``override`` what does. The order in which things happen is the same in each run. On
    asyncio the scenario is run twice, once with messages handled where they are read, as on a
    socket. Topics are carried in memory. What is logged meanwhile is dropped.

    Args:
        app: the app.
        scenario: what a peer does: it sends and receives, and may end anywhere. It must not
            depend on what earlier peers did, and must pass without a fault; with a fault, what it
            raises is ignored.
        target: the path, with its query.
        headers: headers of the opening request.
        faults: the faults to try, by name.
        backends: where to try them. Trio is left out if it is not installed; the report says so.
        override: values by type that are injected instead of others.
        limits: limits of the runtime; short timeouts by default. There is one connection at a time.
        check: called when a connection has ended, twice in each run: what it raises is a violation.
        max_points: about how many points to try, spread evenly; None for all.
        on_violation: whether to raise a ``SweepError``, or to return the report all the same.

    Returns:
        What was tried and found.

    Raises:
        SweepError: a violation was found.
        DeclarationError: the app's declarations are invalid.
        Exception: what the scenario raised without a fault, or a ``lifespan``.
        TypeError: ``check`` is an async function.
        ValueError: there is no such fault or backend, none of the backends is installed, or the
            target is not a path.
        RuntimeError: an event loop is running: call it from a function that is not ``async``.
    """
    _check_names("fault", faults, FAULTS)
    _check_names("backend", backends, tuple(MACHINES))
    _check_names("on_violation", [on_violation], ("raise", "report"))
    check_target(target)
    if max_points is not None and max_points < 1:
        raise ValueError(f"max_points is {max_points}: use 1 or more, or None for all")
    if check is not None and inspect.iscoroutinefunction(check):
        raise TypeError(f"check is an async function: {check!r} is called when the run is over")
    if _in_event_loop():
        raise RuntimeError(
            "sweep_cancellation runs event loops itself: call it from a function that is not async"
        )
    sweep = _Sweep(app, scenario, target, headers, override, limits, check)
    with _set_apart(sweep.unseen):
        sweep.run(faults, backends, max_points)
    report = sweep.report
    if report.violations and on_violation == "raise":
        raise SweepError(report)
    return report


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{name!r} is no {what}: there are {', '.join(known)}")


def _in_event_loop() -> bool:
    try:
        current_token()
    except RuntimeError:
        return False
    return True


@contextmanager
def _set_apart(unseen: Callable[[str], None]) -> Iterator[None]:
    """Nothing of a sweep gets into the log, and garbage is collected when it says so.

    Args:
        unseen: called with each error that nobody can catch, and for each coroutine that was never
            awaited.
    """
    others = warnings.showwarning

    def warned(message: Warning | str, *about: Any, **more: Any) -> None:
        if "was never awaited" in str(message):
            unseen(str(message))
        else:
            others(message, *about, **more)

    def unraisable(hooked: Any) -> None:
        unseen(f"{hooked.err_msg or 'an error that nobody can catch'}: {hooked.exc_value!r}")

    muted, hook = logging.root.manager.disable, sys.unraisablehook
    collected, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.collect()
    gc.freeze()  # each run collects its own garbage, and only that
    gc.disable()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = unraisable
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", "coroutine .* was never awaited", RuntimeWarning)
            warnings.showwarning = warned
            yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
        logging.disable(muted)
        if collected:
            gc.enable()
        if not frozen:
            gc.unfreeze()


WIRES: Mapping[str, Sequence[bool]] = {"asyncio": (False, True), "trio": (False,)}
"""By backend: whether messages are reported from the event loop, as by a socket."""


@final
class _Sweep:
    """A sweep over one app.

    Attributes:
        plan: the app, with its scope functions watched.
        violations: what was found.
    """

    def __init__(
        self,
        app: Router,
        scenario: Scenario,
        target: str,
        headers: HeaderItems,
        override: Mapping[Any, Any] | None,
        limits: Limits,
        check: Callable[[], None] | None,
    ) -> None:
        self.plan = watched(compile_app(app, override), self._watch)
        self.scenario = scenario
        self.target = target
        self.headers = opening_headers(headers)
        self.limits = replace(limits, max_connections=1, max_connections_per_client=1)
        self.check = check
        self.violations: list[Violation] = []
        self._points: Counter[tuple[str, str]] = Counter()
        self._left_out: list[str] = []
        self._run: _Run | None = None
        self._stuck = 0

    def _watch(self, handler: Any, value: Any) -> Any:
        return self._run.calls.watch(handler, value) if self._run is not None else value

    def unseen(self, what: str) -> None:
        """An error that nobody can catch."""
        if self._run is not None and not self._run.machine.stuck:
            self._run.machine.unretrieved.append(what)

    @property
    def report(self) -> SweepReport:
        return SweepReport(dict(self._points), tuple(self.violations), tuple(self._left_out))

    def run(self, faults: Sequence[Fault], backends: Sequence[str], most: int | None) -> None:
        series: list[tuple[str, bool, Fault]] = []
        suspensions = 0
        for backend in backends:
            if find_spec(backend) is None:
                self._left_out.append(f"{backend}, which is not installed: pip install {backend}")
                continue
            mine = [fault for fault in faults if backend == "asyncio" or fault not in NATIVE]
            import_module(backend)  # not within a run
            for in_place in WIRES[backend]:
                without = self._try(backend, in_place, None, 0)
                series += [(backend, in_place, fault) for fault in mine]
                suspensions += without.seen * len(mine)
        if not series:
            why = "; ".join(self._left_out) or "these backends have none of these faults"
            raise ValueError(f"nothing was tried: {why}")
        stride = max(1, -(-suspensions // most)) if most is not None else 1
        for backend, in_place, fault in series:
            gc.collect()
            for at in count(1, stride):
                if len(self.violations) >= MOST_VIOLATIONS or self._stuck >= MOST_STUCK:
                    self._left_out.append(f"the rest, after {len(self.violations)} violations")
                    return
                if self.violations and not self.violations[0].fault:
                    return  # it fails without a fault: there is no more to be said
                run = self._try(backend, in_place, fault, at)
                if run.seen < at:
                    break
                self._points[fault, backend] += run.happened

    def _try(self, backend: str, in_place: bool, fault: Fault | None, at: int) -> _Run:
        run = self._run = _Run(self, backend, in_place, fault, at)
        try:
            run.run()
        finally:
            self._run = None
        self.violations += run.violations
        self._stuck += bool(run.machine.stuck)
        return run


@final
class _Run:
    """One run of the scenario, with a fault at one suspension.

    Attributes:
        machine: the event loop.
        calls: the calls of scope functions.
        seen: how many suspensions there were.
        happened: whether the fault has happened.
        violations: what does not hold.
    """

    def __init__(
        self, sweep: _Sweep, backend: str, in_place: bool, fault: Fault | None, at: int
    ) -> None:
        self.machine: Machine = MACHINES[backend](self)
        self.calls = Calls(self.machine, sweep.limits.close_timeout)
        self.seen = 0
        self.happened = False
        self.violations: list[Violation] = []
        self._sweep = sweep
        self._backend = backend
        self._in_place = in_place
        self._fault = fault
        self._at = at
        self._counting = True
        self._doing: Oracle = "ends"
        self._failure: BaseException | None = None  # without any fault
        self._victim: Tracked | None = None
        self._who = self._where = ""
        self._lost = ""  # the task whose cancellation must end the connection
        self._raised: SweepFault | None = None
        self._running: list[Tracked] = []  # when the connection ended
        self._open: dict[int, str] = {}  # asynchronous generators, by id

    def run(self) -> None:
        try:
            self.machine.run(self._main)
        except StuckError as exc:
            gc.collect()
            self._violate(self._doing, f"it does not end: {exc}")
            return
        gc.collect(0)  # what was not retrieved says so when it goes; all of it is young
        if self._failure is not None:
            self._failure.add_note(f"without any fault, on {self._backend}")
            raise self._failure
        if self._raised is not None:
            self.happened = self._raised.__traceback__ is not None
        for each in self.machine.unretrieved:
            self._found("unretrieved", each)

    def _found(self, oracle: Oracle, detail: str) -> None:
        if not self.machine.stuck:  # else it is being ended by force
            self._violate(oracle, detail)

    def _violate(self, oracle: Oracle, detail: str) -> None:
        happened = self._fault or ""
        backend = f"{self._backend}, handled where it is read" if self._in_place else self._backend
        self.violations.append(
            Violation(oracle, detail, happened, backend, self._at, self._who, self._where)
        )

    # -- the scenario

    async def _main(self) -> None:
        self._follow_generators()
        app = App(self._sweep.plan, self._sweep.limits)
        self._outage = Outage(app.directory.channels.broker, self._patience)
        ended = app.ended

        def ending(session: Session) -> None:
            self._running = [
                task for task in self.machine.tasks if task.counted and not task.is_host
            ]
            ended(session)

        setattr(app, "ended", ending)  # noqa: B010  (it is a method)
        server = MemoryServer(app, {})
        try:
            await server._start()
        except Exception as exc:
            self._failure = exc
            return
        try:
            failed = await self._connect(app)
            self._counting = False
            if failed is not None and self._fault is None:
                self._failure = failed
                return
            self._doing = "next_peer"
            self._outage.gone = False
            self._victim, self._lost = None, ""
            self.calls.seen.clear()
            failed = await self._connect(app)
            if failed is not None:
                self._found("next_peer", f"it fails with {type(failed).__name__}: {failed}")
        finally:
            if not self.machine.stuck:
                self._doing = "stops"
            try:
                await server._stop()
            except Exception as exc:
                self._found("stops", f"stopping raises {type(exc).__name__}: {exc}")

    async def _connect(self, app: App) -> Exception | None:
        """Connect a peer, run the scenario, and see what is left. Returns what it raised."""
        sweep, limits, condition = self._sweep, self._sweep.limits, Condition()
        wire = self._wire = Wire(self.machine, self._in_place, limits.close_timeout, self._gap)
        before, topics = set(self.machine.tasks), len(app.directory.channels)
        request = Request.parse(sweep.target, sweep.headers)
        sessions: list[Session] = []

        def begin(transport: Transport) -> Receiver | None:
            wire.transport = cast(MemoryTransport, transport)
            session = app.open(request, wire)
            if session is None:
                return None
            wire.session = session
            sessions.append(session)
            return wire

        transport = MemoryTransport(limits, condition.notify_all, begin)
        session = sessions[0] if sessions else None
        peer = MemoryPeer(transport, session, condition, Registry(app.directory))
        failed: Exception | None = None
        try:
            await peer._opened()
            await sweep.scenario(peer)
        except Exception as exc:
            failed = exc
            if session is not None and session.ending.errors:
                failed.__cause__ = session.ending.errors[0]  # what the app did is why
        if session is not None:
            await self._read_all(session, transport)
        await peer._leave()
        for _ in range(SETTLE):
            await checkpoint()
        self._ask(app, session, peer, before, topics)
        if sweep.check is not None:
            try:
                sweep.check()
            except Exception as exc:
                self._found("check", f"{type(exc).__name__}: {exc}")
        return failed

    async def _read_all(self, session: Session, transport: MemoryTransport) -> None:
        """Read what comes, until nothing more comes: then nobody waits to send."""
        outbox, still, sent = session.outbox, 0, -1
        for _ in range(20 * QUIET):
            while transport.peer_take() is not None:
                pass
            still, sent = still + 1 if outbox.sent == sent else 0, outbox.sent
            if still == QUIET or session.end is not None:
                break
            await checkpoint()
        if still == QUIET and session.end is None and session.was_open and not outbox.clear:
            waiting = ", ".join(session.running) or "nothing"
            self._found("outbox", f"the peer has read everything, and {waiting} waits to send")

    @property
    def _patience(self) -> float:
        """Seconds after which an operation of the broker fails, so that a handler sees it."""
        limits = self._sweep.limits
        return min(limits.publish_timeout, limits.close_timeout / 2)

    # -- the fault

    def suspended(self, task: Tracked) -> BaseException | None:
        raises = self._fault == "handler_raises"
        if not self._counting or (
            raises and not (self.machine.throwable(task) and raisable(task.coroutine))
        ):
            return None
        if not self._is_it(task):
            return None
        if raises:
            self._raised = SweepFault(f"raised by the sweep at {self._where}")
            return self._raised
        self._inject(task, self.machine.later)
        return None

    def _gap(self) -> None:
        """A handler that was begun in the host's place has suspended, and waits for the host."""
        host = next(each for each in self.machine.tasks if each.is_host)
        if self._counting and self._fault != "handler_raises" and self._is_it(host):
            self._inject(host, lambda call: call())  # the host is about to run

    def _is_it(self, task: Tracked) -> bool:
        """Count a suspension. Returns whether the fault happens here."""
        self.seen += 1
        if self.seen != self._at:
            return False
        self._victim, self._who, self._where = task, str(task), where(task.coroutine)
        return True

    def _inject(self, task: Tracked, later: Callable[[Callable[[], object]], object]) -> None:
        match self._fault:
            case "task_cancelled":
                later(lambda: self._cancel(task))
            case "task_cancelled_twice":
                later(lambda: self._cancel(task, again=True))
            case "task_cancelled_waking":
                if asyncio.isfuture(task.waits_for):
                    task.waits_for.add_done_callback(lambda _: self._cancel(task))
            case "send_fails":
                self._wire.failing = True
            case "broker_gone":
                self._outage.gone = True
            case _:
                later(self._strike)

    def _cancel(self, task: Tracked, *, again: bool = False) -> None:
        if task.alive:
            self.happened = True
            session, closing = self._wire.session, self._wire.transport.closing
            if task.runs_handlers and closing is None and session.end is None:
                self._lost = str(task)
            task.task.cancel()
            if again:
                asyncio.get_running_loop().call_later(AGAIN, self._cancel, task)

    def _strike(self) -> None:
        """A fault of the connection itself."""
        session, transport = self._wire.session, self._wire.transport
        if session.end is not None:
            return
        if self._fault == "scope_cancelled":
            if session._scope is None:
                return
            session._scope.cancel()
        elif self._fault == "peer_gone":
            transport.peer_vanish()
        elif self._fault == "server_stops":
            session.drain(SHUTDOWN, self._sweep.limits.close_timeout)
        else:
            session.finish(SHUTDOWN)
        self.happened = True

    # -- the oracles

    def _ask(
        self,
        app: App,
        session: Session | None,
        peer: MemoryPeer,
        before: set[Tracked],
        topics: int,
    ) -> None:
        found, wire = self._found, self._wire
        self.happened |= wire.failed or self._outage.noticed
        for each in dict.fromkeys([*self._running, *self.machine.tasks]):
            if each not in before:
                found("tasks", f"{each} still runs when the connection has ended")
        if len(app.directory.channels) > topics:
            found("topics", "a topic is still in use")
        if wire.transport.closing is None:
            found("close_frame", "the peer was not told the end")
        for unlike in wire.unlike:
            found("producers", unlike)
        if session is not None:
            self._ask_session(app, wire, session)
            if self._fault in HARMLESS or not self._counting:
                for error in session.ending.errors[peer._errors_seen :]:
                    found("errors", f"it raised {type(error).__name__}: {error}")

    def _ask_session(self, app: App, wire: Wire, session: Session) -> None:
        found, end = self._found, session.end
        if session.id in app.sessions or session.id in app.directory.connections:
            found("registry", "the connection is still registered")
        if session.memberships or session.listeners:
            names = [*session.memberships, *map(str, session.listeners)]
            found("topics", f"the connection is still in {', '.join(names)}")
        for name in session.ending.left_behind:
            found("ends", f"{name} swallows its cancellation")
        left = end is not None and end.cause in PEER_LEFT
        if len(wire.told) != (not left):
            found("close_frame", f"ended by {end}, the session has sent: {wire.told or 'nothing'}")
        native = self._fault in NATIVE
        if self._lost and (end is None or end.cause != "error"):
            found("cancellation", f"the cancellation of {self._lost} is lost; it ended by {end}")
        for call in self.calls.seen:
            if call.ended != 1:
                times = f"{call.ended} times" if call.ended else "never"
                found("scopes", f"{call.handler} ({call.handler.where}) was left {times}")
            elif call.left_by is not call.task:
                found(
                    "scopes", f"{call.handler} was entered by {call.task}, left by {call.left_by}"
                )
            elif call.cut is not None and not (native and self._victim is call.task):
                found("scopes", f"{call.handler} ({call.handler.where}) was itself cancelled")
        self._ask_farewells(session, native)

    def _ask_farewells(self, session: Session, native: bool) -> None:
        """Whether each ``on_disconnect`` function was called as often as it should be."""
        calls, plan = self.calls.seen, session.plan
        ready = {call.handler for call in calls if call.complete}
        expected = {int(all(scope.handler in ready for scope in plan.on_connect))}
        if native and not plan.on_connect:
            expected = {0, 1}  # it may have been cancelled before it began
        for each in plan.on_disconnect:
            times = sum(call.handler is each.handler for call in calls)
            if times not in expected:
                self._found("on_disconnect", f"{each.handler} was called {times} times")

    def _follow_generators(self) -> None:
        """Notice asynchronous generators of the connection that nobody closes."""
        first, last = cast(Any, sys.get_asyncgen_hooks())  # the event loop has set them

        def begun(generator: Any) -> None:
            task = self.machine.current
            self._open.pop(id(generator), None)
            if task is not None and task.counted:
                code = generator.ag_code
                name = f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
                self._open[id(generator)] = name
            first(generator)

        def forgotten(generator: Any) -> None:
            if not self.machine.stuck and (name := self._open.pop(id(generator), None)) is not None:
                self.machine.unretrieved.append(f"the generator {name} was not closed")
            last(generator)

        sys.set_asyncgen_hooks(begun, forgotten)
