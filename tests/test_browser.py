"""What drives a browser."""

from __future__ import annotations

import pytest

from tests.browser import chromium


@pytest.mark.long
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_page() -> None:
    async with chromium("data:text/html,<title>it</title>") as page:
        assert await page.run("return document.title") == "it"
        with pytest.raises(AssertionError, match="so it is"):
            await page.run("throw new Error('so it is')")
        await page.run("console.error('bad'); console.log('good')")
        await page.run("setTimeout(() => { throw new Error('later'); })")
        await page.run("await new Promise((done) => setTimeout(done, 1))")
        assert "bad" in page.console
        assert "good" not in page.console
        assert "later" in page.console[-1]
