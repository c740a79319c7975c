"""Reading a page of a history from a replay, whatever that does meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from wsflow.brokers.base import OvertakenError, Page, read_replay
from wsflow.messages.events import Envelope, Event


class Scripted:
    """A replay that gives what it is told, part by part: ids, None to be waited for, or a word."""

    def __init__(self, *parts: Sequence[str] | str | None, recovered: bool = True) -> None:
        self.recovered = recovered
        self.cleared = 0
        self._parts = list(parts)

    def take(self, ready: Callable[[], None]) -> Sequence[Event] | None:
        part = self._parts.pop(0) if self._parts else []
        if part is None:
            ready()
            return None
        if part == "overtaken":
            raise OvertakenError
        if part == "cleared":
            self.cleared += 1
            return self.take(ready)
        return [Event(id, Envelope({})) for id in part]


async def read(replay: Scripted, limit: int) -> tuple[list[str], bool, bool]:
    waited = []

    async def within(waits: Awaitable[None]) -> None:
        waited.append(None)
        await waits

    page: Page = await read_replay(replay, limit, within)
    return [each.id for each in page.events], page.recovered, page.more


async def test_as_many_as_are_wanted() -> None:
    assert await read(Scripted("ab", None, "cd"), 9) == ([*"abcd"], True, False)
    assert await read(Scripted("ab", "cd", "ef"), 3) == ([*"abc"], True, True)
    assert await read(Scripted("ab", "cd"), 4) == ([*"abcd"], True, False)
    assert await read(Scripted(recovered=False), 4) == ([], False, False)


async def test_what_is_lost_or_removed_meanwhile_is_told() -> None:
    assert await read(Scripted("ab", "overtaken", "ef"), 9) == ([*"abef"], False, False)
    assert await read(Scripted("ab", "cleared", "ef"), 9) == ([*"ef"], False, False)
    assert await read(Scripted("a", "cleared", None, "ef"), 1) == (["e"], False, True)
