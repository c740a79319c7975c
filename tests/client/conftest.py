"""Clients on sockets run on asyncio alone."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"
