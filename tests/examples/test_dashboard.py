"""The dashboard: over memory, and in Chromium against servers that are restarted."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from examples import dashboard
from examples.dashboard import Came, Count, Gap, Hello, Prices, Said, Say, Went
from tests.brokers.servers import Kind
from tests.browser import Page
from tests.clocks import InFakeTime
from tests.examples.dashboard import (
    FOLDER,
    PICTURE,
    ROOT,
    SIZE,
    TARGET,
    built,
    durable,
    member,
    scene,
    site,
    until,
)
from tests.processes import Run
from wsflow import CallError
from wsflow.limits import Limits
from wsflow.server.loading import wired
from wsflow.testing import FakeBroker, FakeClock, connect, serve_in_memory

ADA, BOB = "/dashboard?name=ada", "/dashboard?name=bob"

# -- over memory


async def test_who_is_there() -> None:
    async with connect(dashboard.app, ADA) as ada:
        hello = await ada.receive(Hello)
        assert hello.broker == "memory"
        assert await ada.receive(Came) == Came(hello.you, "ada", earlier=True)
        async with connect(dashboard.app, BOB) as bob:
            you = (await bob.receive(Hello)).you
            assert await ada.receive(Came) == Came(you, "bob", earlier=False)
            assert {(await bob.receive(Came)).name for _ in range(2)} == {"ada", "bob"}
        assert await ada.receive(Went) == Went(you)


@pytest.mark.parametrize("name", ["", "n" * 25])
async def test_a_name_is_needed(name: str) -> None:
    async with connect(dashboard.app, f"/dashboard?name={name}") as nobody:
        assert nobody.rejected.status == 400


async def test_the_chat_has_a_history() -> None:
    async with connect(dashboard.app, ADA) as ada:
        for text in ("one", "two", "three"):
            assert await ada.call(Say(text)) is None
        said = [await ada.receive(Said) for _ in range(3)]
        assert [each.text for each in said] == ["one", "two", "three"]
        async with connect(dashboard.app, BOB) as newcomer:
            assert [await newcomer.receive(Said) for _ in range(3)] == said
            await newcomer.receive_nothing(Gap, Said)
        async with connect(dashboard.app, f"{BOB}&after={said[1].id}") as back:
            assert await back.receive(Said) == said[2]
            await back.receive_nothing(Gap, Said)
        async with connect(dashboard.app, f"{BOB}&after=0-1") as late:
            assert await late.receive(Gap) == Gap()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the app has logged."""
    caplog.set_level(logging.INFO, "dashboard")
    return lambda: [each.getMessage() for each in caplog.records if each.name == "dashboard"]


class TestInTime(InFakeTime):
    @pytest.fixture(autouse=True)
    def time_of_day(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dashboard, "time", SimpleNamespace(time=lambda: 1e9 + clock.time))

    async def test_the_job(self, logged: Callable[[], list[str]]) -> None:
        async with connect(dashboard.app, ADA) as ada:
            async with ada.stream(Count(2500), timeout=2) as counted:
                progress = [(each.done, each.found) async for each in counted]
            assert progress == [(1000, 168), (2000, 303), (2500, 367)]
            async with ada.stream(Count(200_000), timeout=2) as counted:
                async for each in counted:
                    if each.done == 3000:
                        break
            await ada.idle()
            assert logged()[1] == "ada: counted up to 2500 of 2500"
            assert re.fullmatch(r"ada: counted up to [34]000 of 200000", logged()[3])

    async def test_a_page_that_goes_stops_its_job(self, logged: Callable[[], list[str]]) -> None:
        async with connect(dashboard.app, ADA) as ada:
            async with ada.stream(Count(200_000), timeout=2) as counted:
                async for _ in counted:
                    break
                await ada.vanish()
                await ada.wait_closed(timeout=5)
        assert re.fullmatch(r"ada: counted up to [12]000 of 200000", logged()[-1])

    async def test_prices_go_on_from_those_before(self, clock: FakeClock) -> None:
        async with connect(dashboard.app, ADA) as ada:
            numbers = [(await ada.receive(Prices)).number for _ in range(3)]
            assert numbers == [1, 2, 3]
            async with connect(dashboard.app, BOB) as bob:
                known = (await bob.receive(Hello)).prices
                assert [each.number for each in known] == [1, 2, 3]
                assert (await bob.receive(Prices)).number == 4

    async def test_a_slow_page_skips_old_prices(self, clock: FakeClock) -> None:
        limits = Limits(write_buffer=64)
        async with serve_in_memory(dashboard.app, limits=limits) as server:
            async with server.connect(ADA) as slow, server.connect(BOB) as quick:
                for number in range(1, 41):
                    assert (await quick.receive(Prices)).number == number
                assert (await slow.receive(Prices)).number == 40

    async def test_one_of_several_processes_makes_the_prices(self, clock: FakeClock) -> None:
        broker = FakeBroker()
        async with (
            serve_in_memory(dashboard.app, broker=broker) as one,
            serve_in_memory(dashboard.app, broker=broker) as two,
            one.connect(ADA) as ada,
            two.connect(BOB) as bob,
        ):
            for peer in (ada, bob):
                first = (await peer.receive(Prices, timeout=5)).number
                for number in range(first + 1, first + 6):
                    assert (await peer.receive(Prices)).number == number
            assert (await ada.receive(Hello)).broker == "fake"

    async def test_while_the_broker_is_away(
        self, clock: FakeClock, logged: Callable[[], list[str]]
    ) -> None:
        broker = FakeBroker()
        async with serve_in_memory(dashboard.app, broker=broker) as server:
            async with server.connect(ADA) as ada:
                await ada.receive(Came, timeout=5)
                broker.down = True
                broker.cut()
                with pytest.raises(CallError, match="the broker is away"):
                    await ada.call(Say("hi"), timeout=30)
                assert any(each.startswith("no prices: ") for each in logged())
                broker.down = False
                await ada.call(Say("again"), timeout=30)
                assert (await ada.receive(Said)).text == "again"
                number = (await ada.receive(Prices, timeout=30)).number
                assert (await ada.receive(Prices, timeout=30)).number > number


def test_it_says_how_to_run_it() -> None:
    text = (FOLDER / "__init__.py").read_text()
    command = re.search(r"``wsflow run (\S+) --static (\S+)``", text)
    assert command is not None
    assert command[1] == TARGET
    wired(command[1])
    assert (ROOT / command[2]).resolve() == FOLDER / "page"
    assert command[0].strip("`") in (ROOT / "README.md").read_text()


# -- in Chromium

CHROMIUM = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.long
def test_what_is_committed_is_what_is_made() -> None:
    for path, text in built().items():
        assert path.read_text("utf-8") == text, (
            f"{path.relative_to(ROOT)} is old: uv run python -m tests.examples.dashboard"
        )


async def write(page: Page, text: str) -> None:
    await page.run(f'find("text").value = "{text}"; find("say").requestSubmit()')


async def shows(page: Page, *texts: str) -> None:
    """Wait until the chat has these messages, and see that it has each once."""
    await until(page, f"texts().length >= {len(texts)}")
    assert await page.run("return texts()") == list(texts)


async def left(run: Run) -> None:
    run.process.terminate()
    assert await run.ended() == 0


@pytest.mark.long
@CHROMIUM
@pytest.mark.parametrize("kind", ["nats", "valkey"])
async def test_two_pages_and_a_server_that_is_restarted(kind: Kind) -> None:
    async with durable(kind) as broker:
        server = site("--broker", broker.url)
        async with server.up() as run:
            async with member(server.url, "ada") as ada, member(server.url, "bob") as bob:
                pages = (ada, bob)
                for page, names in ((ada, ["adayou", "bob"]), (bob, ["ada", "bobyou"])):
                    await until(page, "names().length === 2")
                    assert await page.run("return names()") == names
                await ada.run('globalThis.price = () => find("rows").textContent')
                await ada.run("const was = price(); await until(() => price() !== was)")
                await write(ada, "one")
                await write(bob, "two")
                for page in pages:
                    await until(page, "texts().length === 2")
                assert sorted(await ada.run("return texts()")) == ["one", "two"]
                said = await ada.run("return texts()")
                about = 'return find("about").textContent'
                kept = "NATS" if kind == "nats" else "Redis"
                assert f"The chat is kept by {kept}." in await ada.run(about)

                await ada.run('find("run").click()')
                await until(ada, 'find("progress").value > 0')
                await ada.run(
                    'find("run").click(); await until(() => find("run").textContent === "Start")'
                )
                assert re.fullmatch(
                    r"Cancelled at \d+ %", await ada.run('return find("job-text").textContent')
                )
                async with asyncio.timeout(20):
                    line = await run.until("ada: counted up to ")
                found = re.search(r"up to (\d+) of 200000", line)
                assert found is not None
                assert 0 < int(found[1]) < 200_000

                process = await ada.run(about)
                await left(run)
                for page in pages:
                    await until(page, 'document.body.dataset.status === "waiting"')
                assert "was lost" in await ada.run('return find("banner-text").textContent')
                await write(bob, "meanwhile")  # it waits in the page
                await until(bob, 'find("say-text").textContent.startsWith("It is sent as soon")')
                async with server.up() as again:
                    await ada.run('find("again").click()')
                    for page in pages:
                        await until(page, 'document.body.dataset.status === "open"')
                        await shows(page, *said, "meanwhile")
                        await until(page, "names().length === 2 && find('banner').hidden")
                    assert await ada.run(about) != process
                    await write(ada, "back")
                    await shows(bob, *said, "meanwhile", "back")
                    async with member(server.url, "eve") as eve:  # for her all of it is history
                        await shows(eve, *said, "meanwhile", "back")
                        await until(ada, "names().length === 3")
                    await until(ada, "names().length === 2")
                    await left(again)
                for page in pages:  # the browser says what was refused, and nothing else is wrong
                    assert all("ERR_CONNECTION_REFUSED" in each for each in page.console)


@pytest.mark.long
@CHROMIUM
async def test_without_a_broker_the_chat_ends_with_the_server() -> None:
    server = site()
    async with server.up() as run, member(server.url, "ada") as ada:
        await until(ada, 'find("about").textContent.endsWith("the chat is lost when it ends.")')
        await write(ada, "one")
        await shows(ada, "one")
        await ada.run('find("slow").click()')
        await until(ada, 'parseInt(find("skipped").textContent) >= 2')
        await left(run)
        async with server.up():
            gone = "The server no longer has what was said before."
            await until(ada, f'texts()[0] === "{gone}"')
            await write(ada, "two")
            await shows(ada, gone, "two")
            await ada.run('find("name").value = "ida"; find("name").onchange()')
            await until(ada, 'names()[0] === "idayou"')
            await shows(ada, gone, "two")


@pytest.mark.long
@CHROMIUM
async def test_a_connection_that_is_refused_is_shown() -> None:
    server = site()
    async with server.up(), member(server.url, "ada") as ada:
        await ada.run('find("name").value = "a".repeat(25); find("name").onchange()')
        await until(ada, 'document.body.dataset.status === "ended"')
        text = await ada.run('return find("banner-text").textContent')
        assert text.startswith("The connection has ended (4400, query 'name' is not valid: ")
        await ada.run('find("name").value = "ida"; find("again").click()')
        await until(ada, 'names()[0] === "idayou" && find("banner").hidden')


@pytest.mark.long
@CHROMIUM
async def test_it_is_used_by_the_keyboard_and_heard() -> None:
    server = site()
    async with server.up(), member(server.url, "ada") as ada, member(server.url, "bob") as bob:
        focused = "return document.activeElement.id || document.activeElement.textContent"
        stops = []
        for _ in range(7):
            await ada.press("Tab")
            stops.append(await ada.run(focused))
        assert stops == ["name", "slow", "below", "run", "messages", "text", "Send"]
        await ada.run('find("text").focus()')
        await ada.type("hi")
        await ada.press("Enter")
        await until(bob, 'find("announced").textContent === "ada: hi"')
        await bob.run('find("below").value = "1000"; find("below").focus()')
        await bob.press("Enter")
        await until(bob, 'find("announced").textContent === "Done: 168 primes"')
        assert await bob.run(UNNAMED) == []


UNNAMED = """
return [...document.querySelectorAll("input, progress, section, table, ul, ol")].filter((each) =>
  !each.labels?.length && !each.caption
    && !document.getElementById(each.getAttribute("aria-labelledby"))?.textContent
).map((each) => each.outerHTML);
"""


@pytest.mark.long
@CHROMIUM
async def test_it_looks_right() -> None:
    async with scene() as page:
        now = await page.screenshot()
        was = PICTURE.read_bytes()
        assert await differ(page, was, now) < 3, "uv run python -m tests.examples.dashboard"
        for width, height in (SIZE, (375, 812)):
            for dark in (False, True):
                await page.show(width, height, dark=dark)
                assert await page.run("return document.documentElement.scrollWidth") == width
                assert await page.run(FAINT) == []
        assert await differ(page, was, await page.screenshot()) > 50  # dark, and narrow
        assert page.console == []


async def differ(page: Page, one: bytes, other: bytes) -> float:
    """How much two pictures differ on average, of 255, when they are looked at from afar."""
    texts = [base64.b64encode(each).decode() for each in (one, other)]
    return float(await page.run(DIFFER % tuple(texts)))


DIFFER = """
const pixels = async (text) => {
  const image = new Image();
  image.src = `data:image/png;base64,${text}`;
  await image.decode();
  const canvas = new OffscreenCanvas(64, 40).getContext("2d");
  canvas.imageSmoothingQuality = "high";
  canvas.drawImage(image, 0, 0, 64, 40);
  return canvas.getImageData(0, 0, 64, 40).data;
};
const [one, other] = [await pixels("%s"), await pixels("%s")];
return one.reduce((sum, each, at) => sum + Math.abs(each - other[at]), 0) / one.length * 4 / 3;
"""

FAINT = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const luminance = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = [...canvas.getImageData(0, 0, 1, 1).data].map((each) => each / 255);
  const [x, y, z] = [r, g, b].map((each) =>
    each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  return a ? 0.2126 * x + 0.7152 * y + 0.0722 * z : null;
};
const styled = (each, name) => luminance(getComputedStyle(each)[name]);
const behind = (each) => styled(each, "backgroundColor") ?? behind(each.parentElement);
return [...document.body.querySelectorAll("*")].filter((each) => {
  const own = [...each.childNodes].some(({ nodeType, data }) => nodeType === 3 && data.trim());
  if (!own || !each.checkVisibility() || each.closest(".unseen, noscript")) return false;
  const [less, more] = [styled(each, "color"), behind(each)].sort((a, b) => a - b);
  return (more + 0.05) / (less + 0.05) < 4.5; // WCAG 2.2, 1.4.3
}).map((each) => each.outerHTML);
"""
