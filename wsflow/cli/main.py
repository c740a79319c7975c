"""The command line: ``wsflow run``, ``dev``, ``client``, ``connect``, ``publish``, ``check``,
``routes``, ``schema``."""

from __future__ import annotations

import errno
import os
import sys
from functools import partial

from cyclopts import (
    App,
    CycloptsError,
    CycloptsPanel,
    MissingArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from wsflow.cli.client import client
from wsflow.cli.config import check_broker, configure, of_a_service, variable
from wsflow.cli.connect import connect
from wsflow.cli.dev import BY_DEFAULT, dev
from wsflow.cli.explain import explain, routes
from wsflow.cli.flags import with_settings
from wsflow.cli.publish import publish
from wsflow.cli.run import Target, run
from wsflow.cli.schema import schema
from wsflow.log import escaped_lines, without_secrets
from wsflow.output import stderr
from wsflow.server.exits import REFUSALS, Exit, refuse
from wsflow.server.loading import wired

_ADDRESS = "Use --host and --port, or --uds for a Unix socket."
_RELOAD = "Use wsflow dev module:app."
_COOKIE = 'Use --header "Cookie: name=value".'

FOREIGN: dict[tuple[str, ...], str] = {
    ("run", "--bind"): _ADDRESS,
    ("run", "-b"): _ADDRESS,
    ("run", "--address"): _ADDRESS,
    ("run", "--listen"): _ADDRESS,
    ("run", "--unix"): "Use --uds.",
    ("run", "-p"): "Use --port.",
    ("run", "-w"): "Use --workers.",
    ("run", "--reload"): _RELOAD,
    ("run", "--watch"): _RELOAD,
    ("client", "--cookie"): _COOKIE,
    ("connect", "--cookie"): _COOKIE,
    ("client", "-H"): "Use --header.",
    ("connect", "-H"): "Use --header.",
}
"""What options of other servers and clients are called here, by command."""


def check(target: Target, /) -> int:
    """Check an app without serving it; show where every parameter comes from."""
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


def build() -> App:
    """The command line, with settings from the environment and pyproject.toml."""
    app = App(name="wsflow", help=__doc__.partition(":")[0] + " of wsflow.")
    if "WSFLOW_PORT" in os.environ and of_a_service("WSFLOW_PORT"):  # no setting
        del os.environ["WSFLOW_PORT"]
    how: dict[str, str] = {}
    settings = partial(configure, how=how)
    app.command(with_settings(run, how), config=(settings, check_broker))
    app.command(with_settings(dev, how, **BY_DEFAULT), config=settings)
    app.command(client, config=configure)
    app.command(connect)
    app.command(publish, config=configure)
    app.command(check, config=configure)
    app.command(show_routes, name="routes", config=configure)
    app.command(schema, config=configure)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. A user error prints one line, not a traceback. If the
    reader of the output has gone, or the terminal, it ends silently, with 1."""
    try:
        code = build()(arguments, result_action="return_value", error_formatter=_mistyped)
        print(end="", flush=True)  # what is in the buffer fails here, and not at the very end
    except REFUSALS as exc:
        code = refuse(exc)
    except OSError as exc:
        if exc.errno not in (errno.EPIPE, errno.EIO):
            raise
        # What is left in the buffer is written when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FAILED
    finally:
        stderr.drain()
    sys.exit(code)


def _mistyped(exc: CycloptsError) -> object:
    """What is printed of arguments that cannot be read, without secrets."""
    text = escaped_lines(without_secrets(str(exc)))
    if isinstance(exc, UnusedCliTokensError):  # a header without its quotes, for example
        number = len(exc.unused_tokens or ())
        text = f"Too many arguments, by {number}: put quotes around those that have spaces."
    elif isinstance(exc, UnknownOptionError):
        command, option = exc.command_chain or (), exc.token.keyword or exc.token.value
        name = option.partition("=")[0]
        hint = FOREIGN.get((*command[:1], name))
        text = f"Unknown option: {escaped_lines(name)}. {hint}" if hint else text
    elif (
        isinstance(exc, MissingArgumentError)
        and exc.argument is not None
        and variable("target") in (exc.argument.parameter.env_var or ())
    ):
        text += f" Or set {variable('target')}, or target in [tool.wsflow] of pyproject.toml."
    return CycloptsPanel(text)
