"""A fault at every await: run a scenario, count each suspension of the connection's tasks, and at
the n-th one do something to it. After SQLite's way with failing allocations.

On asyncio a task factory counts; on Trio an instrument does. Both clocks jump to the next timer
when nothing else is to do, and a run in which nothing at all is to do fails.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

Scenario = Callable[["Faults"], Awaitable[None]]


@dataclass
class Faults:
    """Counts the suspensions of tasks whose name ``counts``; at number ``at``, calls ``fault``.

    Attributes:
        seen: how many there were.
        victim: the name of the task that was suspended then.
        unhandled: what the event loop had to report.
    """

    counts: Callable[[str], bool]
    at: int = 0
    fault: Callable[[Any], None] = lambda _task: None
    seen: int = 0
    victim: str = ""
    unhandled: list[Any] = field(default_factory=list)
    deadlock: bool = False

    def suspended(self, name: str, task: Any, soon: Callable[..., object]) -> None:
        if self.counts(name):
            self.seen += 1
            if self.seen == self.at:
                self.victim = name
                soon(self.fault, task)


class _JumpSelector(selectors.DefaultSelector):
    """A selector that lets time pass at once."""

    loop: JumpLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("nothing is ready, and no timer is set: a deadlock")
            self.loop.now += timeout
        return events


class JumpLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps."""

    def __init__(self) -> None:
        selector = _JumpSelector()
        self.now = 1000.0
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


@dataclass
class _Counted:
    """A coroutine whose every suspension is reported."""

    coroutine: Coroutine[Any, Any, Any]
    suspended: Callable[[], None]

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = lambda: self.coroutine.send(None)  # noqa: E731
        while True:
            try:
                awaited = step()
            except StopIteration as stop:
                return stop.value
            self.suspended()
            try:
                value = yield awaited
            except BaseException as exc:
                step = _thrower(self.coroutine, exc)
            else:
                step = _sender(self.coroutine, value)


def _thrower(coroutine: Coroutine[Any, Any, Any], exc: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(exc)


def _sender(coroutine: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)


def run_on_asyncio(scenario: Scenario, faults: Faults) -> None:
    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        def suspended() -> None:
            faults.suspended(task.get_name(), task, in_a_task)

        async def live() -> Any:
            return await _Counted(coroutine, suspended)

        task: asyncio.Task[Any] = asyncio.Task(live(), loop=loop, **options)
        return task

    def in_a_task(call: Callable[..., None], *arguments: Any) -> None:
        async def live() -> None:
            call(*arguments)

        injections.append(asyncio.Task(live()))

    injections: list[asyncio.Task[None]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: faults.unhandled.append(context))
        loop.set_task_factory(factory)
        await scenario(faults)
        loop.set_task_factory(None)
        left = {task.get_name() for task in asyncio.all_tasks()} - {
            asyncio.current_task().get_name()  # type: ignore[union-attr]
        }
        assert not left, f"tasks are left: {left}"

    with asyncio.Runner(loop_factory=JumpLoop) as runner:
        runner.run(main())


class _Instrument(trio.abc.Instrument):
    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def before_run(self) -> None:
        self.token = trio.lowlevel.current_trio_token()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.faults.suspended(task.name, task, self.token.run_sync_soon)


def run_on_trio(scenario: Scenario, faults: Faults) -> None:
    async def main() -> None:
        with trio.fail_after(1_000_000):  # a deadlock ends here, by the mock clock
            await scenario(faults)

    trio.run(
        main,
        clock=trio.testing.MockClock(autojump_threshold=0),
        instruments=[_Instrument(faults)],
        strict_exception_groups=True,
    )


BACKENDS: dict[str, Callable[[Scenario, Faults], None]] = {
    "asyncio": run_on_asyncio,
    "trio": run_on_trio,
}
