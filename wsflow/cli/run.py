"""``wsflow run``: serve an app."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from typing import Annotated

from cyclopts import Parameter

from wsflow.cli.explain import try_lines
from wsflow.cli.supervise import supervise
from wsflow.server.exits import UsageError, address
from wsflow.server.loading import wired
from wsflow.server.process import configure_logging, run_server
from wsflow.server.settings import Settings
from wsflow.wiring.plan import AppPlan

Target = Annotated[
    str, Parameter(help="The app: module:attribute, or module:factory() to call for it.")
]


def run(target: Target, settings: Settings) -> int:
    """Serve an app.

    Settings come from flags, then from WSFLOW_… in the environment, then from [tool.wsflow] in
    pyproject.toml. Exit codes: 0 stopped by a signal, 1 crashed or cut connections off, 2 usage,
    3 the app cannot be loaded or does not wire, 4 the address is in use, 5 the broker cannot be
    reached.
    """
    check_environment()
    plan = wired(target)
    configure_logging(settings)
    if settings.workers > 1:
        return supervise(target, settings, partial(announce, target, plan, settings))
    return run_server(plan, settings, partial(announce, target, plan, settings))


def announce(target: str, plan: AppPlan, settings: Settings, port: int) -> None:
    """Say where it serves, and how to try it."""
    by = f" with {settings.workers} workers" if settings.workers > 1 else ""
    print(f"wsflow {version('wsflow')} serves {target}{by}; stop it with Ctrl-C", file=sys.stderr)
    if not port:
        print(f"  on {address(settings)}", file=sys.stderr)
        return
    scheme = "ws" if settings.ssl_certfile is None else "wss"
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    for line in try_lines(plan, f"{scheme}://{host}:{port}"):
        print(line, file=sys.stderr)
    sys.stderr.flush()


def check_environment() -> None:
    """Refuse a WSFLOW_… variable that is no setting: it would be ignored, and missed.

    Raises:
        UsageError: there is one.
    """
    known = {f"WSFLOW_{each.name.upper()}" for each in fields(Settings)} | {"WSFLOW_TARGET"}
    for name in os.environ:
        if name.startswith("WSFLOW_") and name not in known:
            near = get_close_matches(name, known, 1)
            raise UsageError(
                f"the environment has {name}, which is no setting"
                + (f": did you mean {near[0]}?" if near else "; see wsflow run --help")
            )
