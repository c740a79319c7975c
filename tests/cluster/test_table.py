"""The table of faults says what is so: also where something goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.cluster import stage as stages
from tests.cluster import table
from tests.cluster.faults import FAULTS, Engine, Fault, Turn, endured, play
from tests.cluster.judge import SLACK, Count, judge
from tests.cluster.scenario import Reader
from tests.cluster.sites import one
from tests.cluster.stage import Stage, Verdict, shortened, staged


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


BY_NAME = {each.name: each for each in FAULTS}
BAR = r"`a \| b`"
FAR = list(range(10, 20 + SLACK))


@pytest.mark.parametrize(
    ("said", "maybe", "heard", "breaks", "count"),
    [
        ([0, 1, 2], (), [0, 1, 2], [], Count()),
        ([], (), [], [], Count()),
        ([0, 1, 2], (), [], [], Count(lost=3)),
        ([0, 1, 2], (), [0, 2], [], Count(lost=1)),
        ([0, 1, 2], (), [0, 2], [(1, 1)], Count(told=1)),
        ([0, 1, 2], (), [0, 2], [(0, 0)], Count(lost=1)),
        ([0, 1, 2], (), [0, 2], [(2, 2)], Count(told=1)),  # a little later
        ([0, 1, *FAR], (), [0, *FAR], [(2 + SLACK, 2 + SLACK)], Count(lost=1)),  # too late
        ([0, 1, *FAR], (), [0, *FAR], [(1, 9 + SLACK)], Count(told=1)),  # behind a replay
        ([0, 1, 2], (), [0], [(1, 1)], Count(told=2)),
        ([0, 1, 2], (), [0, 1, 1, 2], [], Count(twice=1)),
        ([0, 1, 2], (), [1, 0, 2], [], Count(disorder=1)),
        ([0, 1, 2], (), [0, 1, 2, 1], [], Count(twice=1, disorder=1)),
        ([0, 3], {1, 2}, [0, 3, 1], [], Count()),
        ([0, 2, *FAR], {1}, [0, *FAR, 1], [(1, 1)], Count(told=1)),  # the late one says nothing
        ([0, 2], {1}, [0, 2, 1, 1], [], Count()),  # nobody was promised anything
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_judging(
    said: list[int],
    maybe: Any,
    heard: list[int],
    breaks: list[tuple[int, int]],
    count: Count,
    others: int,
) -> None:
    """Also between messages of other publishers, which are nothing to it."""
    assert judge(7, said, maybe, [(7, each) for each in heard] + [(8, 0)] * others, breaks) == count


def test_the_table_is_written_and_read() -> None:
    wrong = Verdict(
        Count(1, 2, 3, 4), Count(5, 6, 0, 7), unkept=8, felt=["x"] * 2, log=["a | b"] * 6
    )
    measured = {
        ("a", "nats"): table.cells(Verdict(healed=1.25, log=["`a`"], note="at most")),
        ("b", "nats"): table.cells(wrong),
        ("c", "nats"): table.cells(Verdict(healed=1.0, failure="it | was\nnot")),
        ("d", "nats"): table.cells(Verdict(absent="git is not there")),
    }
    page = table.write(f"before\n{table.BEGIN}\n{table.END}\nbehind\n", measured, list(measured))
    assert page.splitlines() == [
        "before",
        table.BEGIN,
        *table.head().splitlines(),
        "| a | nats | 0 | 0 | 0 | 0 | none | 1.2 s (at most) | `'a'` |",
        "| b | nats | **1**; **8 not kept** | 2 | **3** | **4** | **5 missing**; "
        "**7 out of order**; **x**; 6 told "
        f"| **not** | {'<br>'.join([BAR] * table.LINES)}<br>and 2 more |",
        r"| c | nats | 0 | 0 | 0 | 0 | none | **it \| was not** | nothing |",
        "| d | nats |  |  |  |  |  |  | left out: git is not there |",
        table.END,
        "behind",
    ]
    new = {("b", "nats"): table.cells(Verdict(healed=2.0))}
    again = table.write(page, new, list(measured)[:3])
    assert table.written(again) == {
        **{key: measured[key] for key in list(measured)[:3]},
        ("b", "nats"): ["0", "0", "0", "0", "none", "2.0 s", "nothing"],
    }


def test_what_differs_by_chance_is_not_shown() -> None:
    line = "WARNING x: connection 0123456789abcdef at 127.0.0.1:8000: no answer within 3 s"
    assert shortened(line) == "WARNING x: connection … at host: no answer within … s"
    assert len(shortened("x" * 300)) == 200


@pytest.mark.long
@pytest.mark.parametrize("engine", ["valkey", "nats"])
async def test_two_faults(engine: Engine) -> None:
    async with one(engine) as site, staged(site) as stage:
        await stage.flows()
        turns = [Turn((BY_NAME["link reset"],)), Turn((BY_NAME["worker killed"],))]
        verdict = await endured(stage, turns, spares=[1])
    assert verdict.good, verdict
    assert verdict.published > 100
    assert verdict.kept == Count()
    assert verdict.other.told  # it was felt where it may be
    assert any("unreachable" in each for each in verdict.log)


@pytest.mark.long
async def test_what_goes_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer passes over a message, and another one takes it twice; and there is one that was cut
    off where nobody should be."""
    take = Reader._take
    planted: list[Any] = []

    def careless(reader: Reader, item: Any, since: int | None) -> None:
        mine = bool(planted) and getattr(item, "publisher", None) == 0
        for _ in range(planted.pop() if mine else 1):
            take(reader, item, since)

    monkeypatch.setattr(Reader, "_take", careless)

    async def plant(stage: Stage) -> None:
        planted.extend([0, 2])
        while planted:
            await asyncio.sleep(0.01)
        stage.site.proxies[1].reset()

    async with one("valkey") as site, staged(site) as stage:
        await stage.flows()
        verdict = await endured(stage, [Turn((Fault("planted", plant),))], spares=[0, 1])
    assert (verdict.kept.lost, verdict.kept.twice) == (1, 1)
    assert any("was interrupted" in each for each in verdict.felt)
    assert not verdict.good


@pytest.mark.long
async def test_what_does_not_heal_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(stage: Stage) -> None:
        monkeypatch.setattr(stages, "HEAL", 1)
        stage.site.proxies[0].swallowing = True

    async def impossible(stage: Stage) -> None:
        raise AssertionError("it was joined")

    async with one("valkey") as site, staged(site) as stage:
        verdict = await endured(stage, [Turn((Fault("impossible", impossible),))])
        assert not verdict.good
        assert verdict.failure == "it was joined"
    async with one("valkey") as site, staged(site) as stage:
        verdict = await endured(stage, [Turn((Fault("cut", cut),))])
        assert not verdict.good
        assert verdict.healed is None


async def test_an_old_version_that_is_not_there_is_left_out() -> None:
    verdict = await play(BY_NAME["old and new version at once"], "valkey", old="nowhere")
    assert verdict.good
    assert verdict.absent == "the revision nowhere is not there"
