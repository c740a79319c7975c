"""Every async test runs on asyncio and on Trio, unless it says otherwise."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis  # noqa: F401  (it must be there before a test freezes the heap)
import pytest

from tests.brokers.keys import Certificates
from tests.brokers.servers import BrokerServer, Kind
from wsflow import log


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(autouse=True)
def nothing_logged_lately() -> None:
    """So that a line that is logged once a second is logged in this test."""
    log._often.clear()


@pytest.fixture
def server_of() -> Iterator[Callable[..., BrokerServer]]:
    """Starts servers of the test's own: ``server_of("valkey", durable=True)``."""
    started: list[BrokerServer] = []

    def start(kind: Kind, *, durable: bool = False, more: Sequence[str] = ()) -> BrokerServer:
        server = BrokerServer(kind, durable=durable, more=more)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA, and what it has signed."""
    return Certificates(tmp_path_factory.mktemp("ca"))


UNTRACED = re.compile(
    r"tests/(conformance|transports|runtime|messages|topics|client|auth)/.*\[.*(trio|uvloop)"
    r"|tests/(hardening|cluster|interop)/|tests/(test_imports|conformance/test_after_the_end)\.py::"
    r"|tests/(hosting/test_fastapi_chat|examples/test_dashboard|examples/test_mounted)\.py::"
    r"|tests/contract/test_typescript\.py::.*(node|chromium)\]"
    r"|tests/console/test_console\.py::test_(two_people|a_refusal|calls|saved|how|it_is|the_servers)"
    r"|tests/(test_tutorial|test_migrating|test_deploying|test_site)\.py::"
)
"""Tests that go through lines that others go through, too: on another event loop, under load, or to
drive a browser. Coverage makes them two to four times as slow."""

TRACED = re.compile(
    r"tests/(brokers/test_sentinel|cli/test_supervise|contract/test_typescript|server/test_workers"
    r"|testing/test_sweep)\.py::|tests/hosting/test_processes\.py::.*gunicorn"
)
"""Of those that take long, the ones with lines of their own; the others are not traced either."""


@pytest.fixture(autouse=True)
def processes_are_untraced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the test is that starts them."""
    if request.node.get_closest_marker("no_cover") is not None:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Those that take long come first in the part of each process, so that none waits for them at
    the end: most of them wait, and others run beside."""
    for item in items:
        long = item.get_closest_marker("long") is not None
        if UNTRACED.match(item.nodeid) or (long and not TRACED.match(item.nodeid)):
            item.add_marker(pytest.mark.no_cover)
        if item.get_closest_marker("hardening") is not None:
            item.add_marker(pytest.mark.timeout(1800))
        elif long:
            item.add_marker(pytest.mark.timeout(240))
    yield  # some are deselected
    others = [item for item in items if item.get_closest_marker("long") is None]
    slow = [item for item in items if item.get_closest_marker("long") is not None]
    processes, count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), len(items)
    items.clear()
    for number in range(processes):  # xdist gives each a part of the list, of this size
        own = slow[number::processes]
        size = (count - len(items)) // (processes - number)
        rest = max(0, size - len(own)) if number < processes - 1 else len(others)
        items += own + others[:rest]
        del others[:rest]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two more than there are cores: many tests wait for processes that they have started. The
    rows of the scoreboard measure: only the soak runs beside another one."""
    if config.option.markexpr == "hardening":
        return 2
    return len(os.sched_getaffinity(0)) + 2 if hasattr(os, "sched_getaffinity") else 4
