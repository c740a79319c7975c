"""The tasks of a connection, or of an app, other than its host.

A connection has only the tasks that it needs. The host closes them and waits until the last one has
ended, even if the host is cancelled meanwhile; a task that swallows its cancellation can be
abandoned. Once they are closed nothing starts any more, whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import anyio
from anyio.abc import TaskGroup

from wsflow.tasks.waiting import wait_shielded

Run = Callable[[], Coroutine[Any, Any, None]]
Role = Literal["producer", "consumer", "lane", "slot", "group", "farewell", "renewal"]


class Spawn(Protocol):
    """Starts a task that belongs to no scope of its caller."""

    def __call__(self, run: Run, /, *, name: str) -> object: ...


@dataclass(eq=False, slots=True)
class Child:
    """One task: its name, its role, and the scope that cancels it."""

    name: str
    role: Role
    scope: anyio.CancelScope


class Children:
    """Starts tasks, cancels them, and waits for their end.

    Args:
        spawn: starts a task.
        failed: called with the name of a task and the exception that it raised, including a
            cancellation from outside.

    Attributes:
        tasks: the tasks that run.
        closed: whether no more tasks start.
    """

    __slots__ = ("_changed", "_failed", "_spawn", "_then", "closed", "tasks")

    def __init__(self, spawn: Spawn, failed: Callable[[str, BaseException], None]) -> None:
        self._spawn = spawn
        self._failed = failed
        self.tasks: dict[Child, None] = {}
        self.closed = False
        self._changed: anyio.Event | None = None
        self._then: Callable[[], object] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the tasks that run, without lanes, which only wait for their slots."""
        return [child.name for child in self.tasks if child.role != "lane"]

    def alive(self, *roles: Role) -> bool:
        """Whether a task of one of these roles runs."""
        return any(child.role in roles for child in self.tasks)

    def start(
        self,
        name: str,
        role: Role,
        run: Run,
        scope: anyio.CancelScope | None = None,
    ) -> None:
        """Start a task, within ``scope`` if it is given; without effect once they are closed.

        Without ``scope`` it must be called from a task. A task that is cancelled before its first
        step does not run.
        """
        if self.closed:
            return
        child = Child(name, role, scope or anyio.CancelScope())
        self.tasks[child] = None
        self._spawn(partial(self._live, child, run), name=name)

    async def _live(self, child: Child, run: Run) -> None:
        try:
            with child.scope:
                if not child.scope.cancel_called:
                    working = run()
                    del run  # it is not kept as long as it works
                    await working
        except BaseException as exc:
            self._failed(child.name, exc)
        finally:
            self._forget(child)

    def _forget(self, child: Child) -> None:
        self.tasks.pop(child, None)
        self._notify()
        if self._then is not None and not self.tasks:
            self._then()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _change(self) -> anyio.Event:
        """An event that is set when a task has ended, or a group is open."""
        if self._changed is None or self._changed.is_set():
            self._changed = anyio.Event()
        return self._changed

    def cancel(self, *roles: Role) -> None:
        """Cancel the tasks of these roles. Does not wait for their end."""
        for child in list(self.tasks):
            if child.role in roles:
                child.scope.cancel()

    def close(self) -> None:
        """Cancel all tasks, and start no more. Does not wait for their end. Idempotent."""
        self.closed = True
        for child in list(self.tasks):
            child.scope.cancel()

    def when_gone(self, then: Callable[[], object]) -> None:
        """Call ``then`` in the last task, as it ends. Not called if they are abandoned, or if there
        are none."""
        self._then = then

    async def reap(self) -> None:
        """Wait until no task is left, even if this is cancelled."""
        while self.tasks:
            await wait_shielded(self._change())

    async def reap_within(self, seconds: float) -> list[str]:
        """Wait until no task is left, for at most ``seconds``. Abandons the tasks that are left,
        and returns their names."""
        with anyio.move_on_after(seconds):
            while self.tasks:
                await self._change().wait()
        return self.abandon()

    async def finished(self, *roles: Role) -> None:
        """Wait until no task of these roles is left. Cancelling it is safe."""
        while self.alive(*roles):
            await self._change().wait()

    def abandon(self) -> list[str]:
        """Close them, and stop waiting for the tasks that are left. Returns their names."""
        self.close()
        names = self.names
        self.tasks.clear()
        self._notify()
        return names

    async def open_group(self) -> TaskGroup | None:
        """Open a task group for tasks of the app. A child keeps it open, and is cancelled with the
        others. Returns None if they are closed before it is open."""
        groups: list[TaskGroup] = []

        async def keep() -> None:
            async with anyio.create_task_group() as group:
                groups.append(group)
                self._notify()
                await anyio.sleep_forever()

        self.start("a task of the injected TaskGroup", "group", keep)
        while not groups and self.alive("group"):
            await self._change().wait()
        return groups[0] if groups and not self.closed else None
