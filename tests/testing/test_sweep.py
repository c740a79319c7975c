"""A sweep over all that a connection runs finds nothing; and of planted bugs it finds each."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import inspect
import logging
import textwrap
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from tests.testing import swept
from tests.testing.swept import SWEPT, Say, say_once, say_twice
from wsflow import DeclarationError, Router
from wsflow.runtime.admission import Admission
from wsflow.runtime.dispatch import Dispatcher
from wsflow.runtime.ending import Ending
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.scopes import Nest
from wsflow.runtime.session import Session
from wsflow.tasks.children import Children
from wsflow.tasks.waiting import Latch
from wsflow.testing import (
    FAULTS,
    MemoryPeer,
    SweepError,
    SweepReport,
    sweep_cancellation,
    virtual,
)
from wsflow.testing import sweep as sweep_module

POINTS = {
    "consumer": 108,
    "producer": 60,
    "both": 120,
    "concurrency and keys": 265,
    "task group": 112,
    "stream": 49,
    "calls": 157,
    "calls of the app": 24,
    "topics": 189,
    "nested scopes": 126,
    "on_error": 67,
    "all at once": 585,
    "a slow app": 63,
    "rejected": 10,
    "too big": 15,
    "a slow peer": 103,
}
"""How many points each of them has at least, with some to spare, since a loaded machine has other
turns: a scenario that waits more rarely says less."""


HEAVY = ("all at once", "concurrency and keys", "calls", "nested scopes", "both")
"""Those whose lines others cover: coverage makes them four times as slow."""


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.no_cover] * (each in HEAVY)) for each in SWEPT],
)
def test_a_sweep_over_all_that_a_connection_runs(name: str) -> None:
    app, scenario, limits = SWEPT[name]
    report = sweep_cancellation(app(), scenario, limits=limits)
    assert not report.left_out
    assert report.points >= POINTS[name], report
    if name == "all at once":  # with each fault
        points = dict.fromkeys(FAULTS, 0)
        for (fault, _), count in report.by_fault.items():
            points[fault] += count
        assert all(count >= 30 for count in points.values()), report


def test_all_sweeps_together_have_enough_points() -> None:
    assert POINTS.keys() == SWEPT.keys()
    assert sum(POINTS.values()) >= 2000


# -- planted bugs


def mutate(patch: pytest.MonkeyPatch, owner: type, name: str, *changes: tuple[str, str]) -> None:
    """Change the text of a method."""
    function = vars(owner)[name]
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert old in text, f"{owner.__name__}.{name} has no {old!r} any more"
        text = text.replace(old, new)
    space = dict(function.__globals__)
    exec("from __future__ import annotations\n" + text, space)
    patch.setattr(owner, name, space[name])


Plant = Callable[[pytest.MonkeyPatch], None]


def planted(owner: type, name: str, *changes: tuple[str, str]) -> Plant:
    return lambda patch: mutate(patch, owner, name, *changes)


BUGS: dict[str, tuple[Plant, str, set[str]]] = {
    "the host does not wait for its children": (
        planted(Children, "reap", ("while self.tasks:", "while False:")),
        "both",
        {"tasks"},
    ),
    "producers go on when the peer has left": (
        planted(Session, "_drain", ('self._children.cancel("producer", "renewal")', "pass")),
        "both",
        {"producers"},
    ),
    "topics are not left": (
        planted(Session, "_leave_topics", ("leave_all(self)", "leave_all")),
        "topics",
        {"topics"},
    ),
    "the close frame goes out twice": (
        planted(Session, "_release", ("self._tell)", "self._tell, self._tell)")),
        "producer",
        {"close_frame"},
    ),
    "on_disconnect is skipped after an error": (
        planted(
            Session,
            "_wind_down",
            ("if connected and", 'if connected and self.end.cause != "error" and'),
        ),
        "nested scopes",
        {"on_disconnect"},
    ),
    "a tear-down is not shielded": (
        planted(Nest, "run", ("keeping.shield = True", "pass")),
        "nested scopes",
        {"scopes"},
    ),
    "a granted turn is not given back": (
        planted(Outbox, "_turn", ("self._turn_is_over()", "pass")),
        "a slow peer",
        {"outbox"},
    ),
    "nobody is woken by the end": (
        planted(Latch, "set", ("self.notify_all()", "pass")),
        "consumer",
        {"ends"},
    ),
    "a connection is counted for ever": (
        planted(Admission, "ended", ("self._count -= 1", "pass")),
        "consumer",
        {"next_peer"},
    ),
    "a scope function is not left": (
        planted(Nest, "_leave", ("await leave(handler, generator)", "pass")),
        "nested scopes",
        {"scopes"},
    ),
    # more than the ten
    "a scope function is left by another task": (
        planted(
            Nest,
            "_leave",
            (
                "await leave(handler, generator)",
                "await __import__('asyncio').create_task(leave(handler, generator))",
            ),
        ),
        "all at once",
        {"scopes"},
    ),
    "a client's address is counted for ever": (
        planted(Admission, "ended", ("count_down(self._clients, client_of(request))", "pass")),
        "consumer",
        {"next_peer"},
    ),
    "a scope function is left in an error": (
        planted(
            Nest,
            "_leave",
            ("await leave(handler, generator)", "await leave(handler, generator); await leave"),
        ),
        "nested scopes",
        {"errors"},
    ),
    "a handler's cancellation is lost in the host's place": (
        planted(Dispatcher, "consume", ("await begun.finish(cancelled)", "await begun.finish()")),
        "topics",
        {"cancellation"},
    ),
    "the peer is told nothing": (
        planted(Ending, "tell", ("transport.close(end.code, end.reason)", "pass")),
        "producer",
        {"close_frame"},
    ),
    "the connection stays in the registry": (
        planted(Session, "_release", ("self._app.forget(self)", "pass")),
        "consumer",
        {"registry"},
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, name, oracles = BUGS[bug]
    plant(monkeypatch)
    app, scenario, limits = SWEPT[name]
    report = sweep_cancellation(app(), scenario, limits=limits, on_violation="report")
    found = {violation.oracle for violation in report.violations}
    assert found & oracles, report


# -- bugs of the user's


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_handler_that_never_ends_is_named(backend: Any) -> None:
    app = Router("/")

    @app.producer
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(BaseException):
                await anyio.sleep(0.1)

    async def connects(peer: MemoryPeer) -> None:
        await anyio.sleep(0.2)

    report = sweep_cancellation(app, connects, backends=[backend], on_violation="report")
    found = {(each.oracle, each.detail) for each in report.violations}
    assert ("ends", "producer stubborn swallows its cancellation") in found


def test_a_handler_that_swallows_a_cancellation_is_named() -> None:
    app = Router("/")

    @app.consumer
    async def deaf(message: Say) -> Say:
        with contextlib.suppress(BaseException):
            await anyio.sleep(0.1)
        return message

    with pytest.raises(SweepError) as caught:
        sweep_cancellation(app, say_once, faults=["task_cancelled"], backends=["asyncio"])
    (first, *_) = caught.value.report.violations
    assert first.oracle == "cancellation"
    assert first.place.endswith(" deaf")
    assert first.place in str(caught.value)
    assert "task_cancelled at suspension 1, on asyncio" in str(caught.value)


def test_a_task_that_a_handler_leaks_is_named_by_who_started_it() -> None:
    app, leaked = Router("/"), []

    @app.consumer
    async def leak(message: Say) -> Say:
        leaked.append(asyncio.create_task(anyio.sleep(1)))
        return message

    report = sweep_cancellation(app, say_once, backends=["asyncio"], on_violation="report")
    assert {each.oracle for each in report.violations} == {"tasks"}
    assert "test_sweep.py" in report.violations[0].detail
    assert " leak still runs" in report.violations[0].detail


def test_a_generator_that_is_not_closed_is_named() -> None:
    app = Router("/")

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    @app.consumer
    async def first(message: Say) -> Say:
        async for _ in numbers():
            break
        return message

    report = sweep_cancellation(app, say_once, on_violation="report", faults=["peer_gone"])
    assert {each.oracle for each in report.violations} == {"unretrieved"}
    assert "numbers" in report.violations[0].detail
    assert "was not closed" in report.violations[0].detail


def test_a_coroutine_that_is_not_awaited_is_named() -> None:
    app = Router("/")

    @app.consumer
    async def forgetful(message: Say) -> Say:
        checkpoint()
        return message

    report = sweep_cancellation(app, say_once, on_violation="report")
    assert {each.oracle for each in report.violations} == {"unretrieved"}
    assert "'checkpoint' was never awaited" in report.violations[0].detail


def test_an_exception_that_nobody_retrieves_is_named() -> None:
    app = Router("/")

    class Breaks:
        def __del__(self) -> None:
            raise ValueError("in a finaliser")

    async def fail() -> None:
        raise ValueError("lost")

    @app.consumer
    async def careless(message: Say) -> Say:
        Breaks()
        asyncio.create_task(fail())  # noqa: RUF006  (that is the bug)
        await anyio.sleep(0.1)
        asyncio.get_running_loop().call_exception_handler({"message": "as it is"})
        return message

    report = sweep_cancellation(app, say_once, backends=["asyncio"], on_violation="report")
    details = "".join(each.detail for each in report.violations)
    assert {each.oracle for each in report.violations} == {"unretrieved"}
    assert "ValueError('lost')" in details
    assert "ValueError('in a finaliser')" in details
    assert "as it is" in details


def test_a_task_that_crashes_trio_is_told() -> None:
    app = Router("/")

    async def fail() -> None:
        raise ValueError("lost")

    @app.consumer
    async def careless(message: Say) -> Say:
        trio.lowlevel.spawn_system_task(fail)
        await anyio.sleep(0.1)
        return message

    report = sweep_cancellation(app, say_once, backends=["trio"], on_violation="report")
    assert any("ValueError('lost')" in each.detail for each in report.violations), report


def test_an_error_that_nobody_has_read_is_told() -> None:
    app = Router("/")

    @app.on_connect
    async def twice() -> AsyncIterator[None]:
        yield
        yield

    @app.consumer
    async def say(message: Say) -> Say:
        return message

    report = sweep_cancellation(app, say_once, on_violation="report")
    assert {each.oracle for each in report.violations} == {"errors"}
    assert "yielded twice" in report.violations[0].detail


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_deadlock_is_found_with_what_each_task_waits_for(backend: Any) -> None:
    async def waits(peer: MemoryPeer) -> None:
        await anyio.sleep(0.1)
        await anyio.Event().wait()

    report = sweep_cancellation(
        swept.consumer(), waits, backends=[backend], on_violation="report", faults=["peer_gone"]
    )
    first = report.violations[0]
    assert first.oracle == "ends"
    assert "a deadlock" in first.detail
    assert "test_sweep.py" in first.detail


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_livelock_is_found(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "MOST_STEPS", 1500)

    async def turns(peer: MemoryPeer) -> None:
        while True:
            await checkpoint()

    report = sweep_cancellation(
        swept.consumer(), turns, backends=[backend], on_violation="report", faults=["peer_gone"]
    )
    assert "a livelock" in report.violations[0].detail


def test_a_sweep_gives_up_when_much_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    app, hanging = swept.consumer(), [False]

    def check() -> None:
        hanging[0] = True

    async def waits_then(peer: MemoryPeer) -> None:
        if hanging[0] and peer._transport.closing is not None:
            await anyio.Event().wait()
        await peer.send(Say("a"))
        try:
            await peer.receive(Say)
        except Exception:
            await anyio.Event().wait()

    report = sweep_cancellation(
        app,
        waits_then,
        backends=["asyncio"],
        faults=["peer_gone", "connection_ended", "server_stops"],
        check=check,
        on_violation="report",
    )
    assert len(report.violations) == sweep_module.MOST_STUCK
    assert report.left_out == (f"the rest, after {sweep_module.MOST_STUCK} violations",)
    assert "left out: the rest" in str(report)


# -- what a user may ask for


def test_a_scenario_that_fails_without_a_fault_raises_what_it_raised() -> None:
    async def wrong(peer: MemoryPeer) -> None:
        await peer.send(Say("a"))
        assert await peer.receive(Say) == Say("b")

    with pytest.raises(AssertionError) as caught:
        sweep_cancellation(swept.consumer(), wrong)
    assert not isinstance(caught.value, SweepError)
    assert caught.value.__notes__ == ["without any fault, on asyncio"]


def test_a_lifespan_that_fails_raises_what_it_raised() -> None:
    app = swept.consumer()

    @app.lifespan
    async def broken() -> None:
        raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        sweep_cancellation(app, say_twice)


def test_a_lifespan_that_fails_to_tear_down_is_a_violation() -> None:
    app = swept.consumer()

    @app.lifespan
    async def broken() -> AsyncIterator[None]:
        yield
        raise ValueError("no database")

    report = sweep_cancellation(app, say_twice, on_violation="report")
    assert {each.oracle for each in report.violations} == {"stops"}
    assert "no database" in str(report)


def test_a_scenario_that_depends_on_earlier_peers_is_told() -> None:
    peers = []

    async def once(peer: MemoryPeer) -> None:
        peers.append(peer)
        assert len(peers) == 1

    report = sweep_cancellation(swept.consumer(), once, on_violation="report", backends=["trio"])
    assert {each.oracle for each in report.violations} == {"next_peer"}


def test_what_a_check_raises_is_a_violation() -> None:
    def check() -> None:
        raise AssertionError("a lock is held")

    report = sweep_cancellation(
        swept.consumer(), say_twice, check=check, on_violation="report", backends=["trio"]
    )
    assert [each.detail for each in report.violations] == ["AssertionError: a lock is held"] * 2
    assert not report.violations[0].fault


def test_points_can_be_bounded() -> None:
    report = sweep_cancellation(swept.consumer(), say_twice, max_points=20)
    assert 0 < report.points <= 30
    assert len({fault for fault, _ in report.by_fault}) == len(FAULTS)


@pytest.mark.no_cover
def test_a_sweep_is_the_same_each_time() -> None:
    def once() -> SweepReport:
        return sweep_cancellation(swept.both(), swept.leave_with_a_message, max_points=100)

    assert once() == once()


def test_trio_is_left_out_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sweep_module,
        "find_spec",
        lambda name: importlib.util.find_spec(name) if name != "trio" else None,
    )
    report = sweep_cancellation(swept.consumer(), say_once_and_hear_it, faults=["peer_gone"])
    assert {backend for _, backend in report.by_fault} == {"asyncio"}
    assert "trio, which is not installed" in str(report)


async def say_once_and_hear_it(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    assert await peer.receive(Say) == Say("A")


def test_values_can_be_replaced_and_headers_sent() -> None:
    class Clock(str):
        __slots__ = ()

    app = Router("/at/{place}")

    @app.lifespan
    async def clock() -> Clock:
        raise AssertionError("it is overridden")

    async def tell(message: Any, place: str, clock: Any) -> str:
        return f"{place} {clock}"

    tell.__annotations__.update(message=Say, clock=Clock)
    app.consumer(tell)

    async def asks(peer: MemoryPeer) -> None:
        await peer.send(Say("a"))
        assert await peer.receive(str) == "here noon"

    report = sweep_cancellation(
        app,
        asks,
        target="/at/here",
        headers={"X-Kind": "swept"},
        override={Clock: Clock("noon")},
        faults=["peer_gone"],
    )
    assert not report.violations


def test_mistakes_are_told() -> None:
    app = swept.consumer()
    with pytest.raises(ValueError, match="'lightning' is no fault: there are scope_cancelled"):
        sweep_cancellation(app, say_twice, faults=["lightning"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="'curio' is no backend: there are asyncio, trio"):
        sweep_cancellation(app, say_twice, backends=["curio"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="'chat' is not a path"):
        sweep_cancellation(app, say_twice, target="chat")
    with pytest.raises(DeclarationError):
        sweep_cancellation(Router("/"), say_twice)
    with pytest.raises(ValueError, match="'ignore' is no on_violation: there are raise, report"):
        sweep_cancellation(app, say_twice, on_violation="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_points is 0: use 1 or more, or None for all"):
        sweep_cancellation(app, say_twice, max_points=0)
    with pytest.raises(TypeError, match="check is an async function"):
        sweep_cancellation(app, say_twice, check=asyncio.sleep)  # type: ignore[arg-type]


def test_a_sweep_that_tries_nothing_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="nothing was tried: these backends have none of these"):
        sweep_cancellation(
            swept.consumer(), say_twice, faults=["task_cancelled"], backends=["trio"]
        )
    monkeypatch.setattr(sweep_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="nothing was tried: trio, which is not installed"):
        sweep_cancellation(swept.consumer(), say_twice, backends=["trio"])


async def test_a_sweep_runs_event_loops_itself() -> None:
    with pytest.raises(RuntimeError, match="call it from a function that is not async"):
        sweep_cancellation(swept.consumer(), say_twice)


def test_a_peer_that_is_refused_at_once() -> None:
    async def lost(peer: MemoryPeer) -> None:
        assert peer.rejected.status == 404

    assert sweep_cancellation(swept.consumer(), lost, target="/elsewhere").points == 0


def test_other_warnings_and_settings_stay_as_they_are() -> None:
    app = swept.consumer()

    @app.on_disconnect
    async def warn() -> None:
        warnings.warn("mine", UserWarning, stacklevel=1)

    gc.disable()
    gc.freeze()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sweep_cancellation(app, say_twice, faults=["peer_gone"], backends=["trio"])
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()
    assert {str(each.message) for each in caught} == {"mine"}
    assert logging.root.manager.disable == logging.NOTSET
