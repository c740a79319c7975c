"""Waiting for something to be so."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from wsflow.tasks.waiting import Condition, Latch


async def test_all_who_wait_look_at_each_change() -> None:
    news = Condition()
    news.notify_all()  # nobody waits
    there: set[str] = set()
    looks: list[str] = []

    async def wait_for(what: str) -> None:
        def ready() -> bool:
            looks.append(what)
            return what in there

        await news.wait_for(ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, "one")
        tasks.start_soon(wait_for, "two")
        await anyio.wait_all_tasks_blocked()
        there.add("one")
        news.notify_all()
        await anyio.wait_all_tasks_blocked()
        assert sorted(looks) == ["one", "one", "two", "two"]
        there.add("two")
        news.notify_all()
    assert sorted(looks) == ["one", "one", "two", "two", "two"]


async def test_what_is_so_already_is_not_waited_for() -> None:
    await Condition().wait_for(lambda: True)


async def test_one_who_has_gone_is_no_matter() -> None:
    news = Condition()
    ready = False
    async with anyio.create_task_group() as tasks:
        gone = anyio.CancelScope()

        async def goes() -> None:
            with gone:
                await news.wait_for(lambda: False)

        tasks.start_soon(goes)
        tasks.start_soon(news.wait_for, lambda: ready)
        await anyio.wait_all_tasks_blocked()
        gone.cancel()
        await anyio.wait_all_tasks_blocked()
        ready = True
        news.notify_all()


@pytest.mark.parametrize("how", ["scope", "native", "both"])
async def test_whatever_cancels_who_waits_shielded(how: str, anyio_backend_name: str) -> None:
    if how != "scope" and anyio_backend_name == "trio":
        pytest.skip("Trio has cancel scopes alone")
    over, done = Latch(), False
    scope = anyio.CancelScope()

    async def waits() -> None:
        nonlocal done
        with scope:
            await over.wait_shielded()
            done = True

    async def cancels() -> None:
        try:
            with anyio.fail_after(5):
                for _ in range(3):
                    await anyio.wait_all_tasks_blocked()
                    assert not done
                    if how != "native":
                        scope.cancel()
                    if how != "scope":
                        task.cancel()
                await anyio.wait_all_tasks_blocked()
            assert not done
        finally:
            over.set()

    if how == "scope":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits)
            await cancels()
    else:
        task = asyncio.ensure_future(waits())
        await cancels()
        await task
    assert done


async def test_what_is_over_already_is_not_waited_for() -> None:
    over = Latch()
    over.set()
    await over.wait()
    await over.wait_shielded()
