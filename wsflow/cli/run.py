"""``wsflow run``: serve an app."""

from __future__ import annotations

import os
from functools import partial
from importlib.metadata import version
from typing import Annotated

from cyclopts import Parameter

from wsflow.cli.config import variable
from wsflow.cli.explain import try_lines
from wsflow.cli.supervise import supervise, until_stopped
from wsflow.log import say
from wsflow.server.exits import address, base, pages
from wsflow.server.loading import wired
from wsflow.server.process import configure_logging, engine, run_server
from wsflow.server.service import ServiceManager
from wsflow.server.settings import Settings
from wsflow.wiring.plan import AppPlan

Target = Annotated[
    str,
    Parameter(
        help="The app: module:attribute, or module:factory() to call a factory.",
        env_var=variable("target"),
    ),
]


def run(target: Target, settings: Settings) -> int:
    """Serve an app.

    Settings come from flags, then from WSFLOW_… in the environment, then from [tool.wsflow] in
    pyproject.toml. Exit codes: 0 stopped by a signal, 1 crashed, or cancelled handlers because the
    grace period was over, 2 usage error, 3 the app cannot be loaded or its declarations are
    invalid, 4 the address is in use, 5 the broker cannot be reached.
    """
    manager = ServiceManager(os.environ)
    plan = wired(target)
    configure_logging(settings)
    plan.check_limits(settings)
    started = partial(announce, target, plan, settings)
    if settings.workers > 1:
        return supervise(target, settings, partial(until_stopped, started), manager)
    return run_server(plan, settings, started, manager=manager)


def announce(target: str, plan: AppPlan, settings: Settings, port: int) -> None:
    """Print where the server listens, and how to connect to it."""
    by = f" with {settings.workers} workers" if settings.workers > 1 else ""
    say(f"wsflow {version('wsflow')} serves {target}{by}; stop it with Ctrl-C")
    say(f"  by {engine(settings)}")
    url = base(settings, port)
    if url is None:
        say(f"  on {address(settings)}")
        return
    for line in (*try_lines(plan, url), *pages(settings, port)):
        say(line)
