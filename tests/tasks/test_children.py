"""The tasks of a connection."""

from __future__ import annotations

import anyio
import pytest

from wsflow.tasks.children import Children
from wsflow.tasks.detached import detach


def children() -> tuple[Children, list[BaseException]]:
    errors: list[BaseException] = []
    return Children(detach, lambda _name, exc: errors.append(exc)), errors


async def test_nothing_starts_once_they_are_closed() -> None:
    of, errors = children()
    ran: list[str] = []

    async def run() -> None:
        ran.append("it ran")

    async def starts_another() -> None:
        with anyio.CancelScope(shield=True):
            await closed.wait()
        of.start("late", "slot", run)

    closed = anyio.Event()
    of.start("early", "lane", starts_another)
    await anyio.wait_all_tasks_blocked()
    of.close()
    closed.set()
    await of.reap()
    of.start("later", "slot", run)
    assert not of.tasks
    await anyio.wait_all_tasks_blocked()
    assert ran == []
    assert errors == []


@pytest.mark.parametrize("how", ["close", "cancel", "abandon"])
async def test_what_was_cancelled_before_its_first_step_does_not_run(how: str) -> None:
    of, errors = children()
    ran: list[str] = []

    async def run() -> None:
        ran.append("it ran")

    of.start("producer p", "producer", run)
    if how == "close":
        of.close()
    elif how == "cancel":
        of.cancel("producer")
    else:
        assert of.abandon() == ["producer p"]
    await of.reap()
    await anyio.wait_all_tasks_blocked()
    assert ran == []
    assert errors == []


async def test_what_is_abandoned_is_cancelled() -> None:
    of, _ = children()
    ended = anyio.Event()

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    of.start("one", "group", run)
    await anyio.wait_all_tasks_blocked()
    of.abandon()
    with anyio.fail_after(5):
        await ended.wait()


async def test_a_group_that_is_closed_before_it_is_open() -> None:
    for before in (True, False):
        of, _ = children()
        async with anyio.create_task_group() as tasks:
            if before:
                of.close()
            else:
                tasks.start_soon(checked, of)
            with anyio.fail_after(5):
                assert await of.open_group() is None
        await of.reap()


async def checked(of: Children) -> None:
    """Close them as soon as the group's task was started."""
    of.close()
