"""The command line: ``wsflow run``, ``client``, ``connect``, ``publish``, ``check``, ``routes``."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from difflib import get_close_matches
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.config import Env, Toml

from wsflow.cli.client import client
from wsflow.cli.connect import connect
from wsflow.cli.explain import explain, routes
from wsflow.cli.flags import with_settings
from wsflow.cli.load import wired
from wsflow.cli.publish import publish
from wsflow.cli.run import (
    REFUSALS,
    Exit,
    UsageError,
    announce,
    configure_logging,
    refuse,
    run_server,
)
from wsflow.cli.supervise import supervise
from wsflow.server import Server, Settings

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
        return supervise(target, plan, settings)

    def started(server: Server) -> None:
        announce(target, plan, settings, server.port)

    return run_server(plan, settings, started)


def check(target: Target, /) -> int:
    """Wire an app without serving it; say where every parameter comes from."""
    plan = wired(target)
    for line in explain(plan):
        print(line)
    return Exit.STOPPED


def show_routes(target: Target, /) -> int:
    """List an app's paths, what they take and what they send."""
    plan = wired(target)
    for line in routes(plan):
        print(line)
    return Exit.STOPPED


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


def build() -> App:
    """The command line, with its settings from the environment and pyproject.toml."""
    app = App(name="wsflow", help=__doc__.partition(":")[0] + " of wsflow.")
    configured = [
        Env("WSFLOW_", command=False),
        Toml(
            "pyproject.toml",
            root_keys=["tool", "wsflow"],
            search_parents=True,
            use_commands_as_keys=False,
        ),
    ]
    app.command(with_settings(run), config=configured)
    app.command(client)
    app.command(connect)
    app.command(publish)
    app.command(check)
    app.command(show_routes, name="routes")
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. A user's mistake is a line, never a traceback."""
    try:
        code = build()(arguments, result_action="return_value")
    except REFUSALS as exc:
        code = refuse(exc)
    sys.exit(code)
