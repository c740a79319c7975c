"""``wsflow run``: serve an app."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from typing import Annotated

from cyclopts import Parameter

from wsflow.addresses import Address
from wsflow.cli.explain import try_lines
from wsflow.cli.supervise import supervise
from wsflow.log import say
from wsflow.server.exits import UsageError, address
from wsflow.server.loading import wired
from wsflow.server.process import configure_logging, run_server
from wsflow.server.service import ServiceManager
from wsflow.server.settings import Settings
from wsflow.wiring.plan import AppPlan

Target = Annotated[
    str, Parameter(help="The app: module:attribute, or module:factory() to call a factory.")
]


def run(target: Target, settings: Settings) -> int:
    """Serve an app.

    Settings come from flags, then from WSFLOW_… in the environment, then from [tool.wsflow] in
    pyproject.toml. Exit codes: 0 stopped by a signal, 1 crashed, or cancelled handlers because the
    grace period was over, 2 usage error, 3 the app cannot be loaded or its declarations are
    invalid, 4 the address is in use, 5 the broker cannot be reached.
    """
    check_environment()
    manager = ServiceManager(os.environ)
    plan = wired(target)
    configure_logging(settings)
    plan.check_limits(settings)
    started = partial(announce, target, plan, settings)
    if settings.workers > 1:
        return supervise(target, settings, started, manager)
    return run_server(plan, settings, started, manager=manager)


def announce(target: str, plan: AppPlan, settings: Settings, port: int) -> None:
    """Print where the server listens, and how to connect to it."""
    by = f" with {settings.workers} workers" if settings.workers > 1 else ""
    say(f"wsflow {version('wsflow')} serves {target}{by}; stop it with Ctrl-C")
    if not port:
        say(f"  on {address(settings)}")
        return
    scheme = "ws" if settings.ssl_certfile is None else "wss"
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    for line in try_lines(plan, f"{scheme}://{Address(host, port)}"):
        say(line)


_SERVICE = re.compile(
    r"WSFLOW_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


def of_a_service(name: str) -> bool:
    """Whether Kubernetes has set a variable for a Service whose name begins with wsflow."""
    if not _SERVICE.fullmatch(name):
        return False
    return name != "WSFLOW_PORT" or bool(_SERVICE_ADDRESS.fullmatch(os.environ[name]))


def check_environment() -> None:
    """Check that each WSFLOW_… variable is a setting, since others would be ignored silently.

    Raises:
        UsageError: one is not.
    """
    known = {f"WSFLOW_{each.name.upper()}" for each in fields(Settings)} | {"WSFLOW_TARGET"}
    for name in os.environ:
        if name.startswith("WSFLOW_") and name not in known and not of_a_service(name):
            near = get_close_matches(name, known, 1)
            raise UsageError(
                f"the environment variable {name} is not a setting"
                + (f": did you mean {near[0]}?" if near else "; see wsflow run --help")
            )
