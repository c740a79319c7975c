"""The compiled form of the frame path takes long to build: it is begun while other tests run."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from tests.benchmarks.servers import prepare_compiled

_pool = ThreadPoolExecutor(1)
_builds: list[Future[str]] = []


def begin() -> None:
    """Begin to build it, once."""
    if not _builds:
        _builds.append(_pool.submit(prepare_compiled))


def built() -> str:
    """Wait until it is built; why it is not, if it is not."""
    begin()
    return _builds[0].result()
