"""``wsflow dev``: serve an app while it is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, final

from cyclopts import Group, Parameter

from wsflow.cli.run import Target
from wsflow.cli.supervise import on_signals, supervise
from wsflow.cli.terminal import Terminal
from wsflow.cli.watching import Changes, watchers
from wsflow.log import escaped, say
from wsflow.server.exits import UsageError, address, base, pages
from wsflow.server.process import configure_logging, engine
from wsflow.server.settings import Settings
from wsflow.server.workers import NotStartedError, Supervisor

PAGES = tuple(
    f"{scheme}://{host}:*"
    for scheme in ("http", "https")
    for host in ("localhost", "*.localhost", "127.0.0.1", "[::1]")
)
"""The origins of pages that are served on this machine, by whatever server."""

BY_DEFAULT: dict[str, object] = {"grace": 1.0, "close_timeout": 2.0}
"""What is not as it is with ``wsflow run``, unless it is set: an old version has to leave soon."""

MOST_NAMED = 3
"""How many changed files are named."""


Watch = Annotated[
    tuple[Path, ...],
    Parameter(
        help="Watch the Python files below this directory, or this file, instead of those below "
        "the current directory. Repeatable.",
        group=Group("Watching", sort_key=-1),
        negative_iterable=(),
    ),
]


def dev(target: Target, settings: Settings, *, watch: Watch = ()) -> int:
    """Serve an app while you write it: load it anew when a file changes.

    Connections are closed with 1012 (service restart) once the new version serves; if it cannot be
    loaded, the old one goes on. Pages on localhost may connect, whatever their port. Tracebacks
    begin at the app's own frame. One process serves, whatever --workers says. Needs wsflow[dev].
    Not for production.
    """
    for each in watch:
        if not each.exists():
            raise UsageError(f"--watch is {str(each)!r}, which does not exist")
    changes = watchers(watch or (Path(),))
    settings = replace(
        settings,
        workers=1,
        origin=(*settings.origin, *PAGES),
        console=settings.console or "",
        worker_timeout=0.0,  # a handler may be looked at in a debugger
        start_timeout=0.0,
    )
    configure_logging(settings)
    for name in ("wsflow.workers", "watchfiles"):  # what they say is said shorter here
        logging.getLogger(name).setLevel(logging.WARNING)
    return supervise(target, settings, Reloading(target, settings, changes, Terminal()).run)


@final
class Reloading:
    """Replaces the process of an app after each change.

    Args:
        target: the app.
        settings: how it is served.
        changes: each watches some of its files.
        terminal: where it runs.
    """

    def __init__(
        self,
        target: str,
        settings: Settings,
        changes: Sequence[Callable[[], Changes]],
        terminal: Terminal,
    ) -> None:
        self._target = target
        self._settings = settings
        self._changes = changes
        self._terminal = terminal
        self._here = Path.cwd()
        self._changed = asyncio.Event()
        self._stopped = False
        self._supervisor: Supervisor | None = None  # while it runs

    async def run(self, make: Callable[..., Supervisor], port: int) -> Sequence[int]:
        """Serve until SIGTERM or SIGINT, or until the terminal is closed; SIGHUP reloads, as a
        change does. However the last version has ended, no exit code says so.

        Args:
            make: makes a supervisor.
            port: the TCP port; 0 for a Unix socket.
        """
        on_signals(self._stop, self._interrupt, self._hung_up)
        watching = [asyncio.create_task(self._watch(each)) for each in self._changes]
        await asyncio.sleep(0)  # from here on no change is missed
        try:
            while not self._stopped:
                self._changed.clear()
                await self._serve(make(dev=True), port)
                await self._changed.wait()
        finally:
            for each in watching:
                each.cancel()
        return ()

    async def _serve(self, supervisor: Supervisor, port: int) -> None:
        """Serve until the end, or until the app does not start."""
        serves = asyncio.Event()
        renewing = asyncio.create_task(self._renew(supervisor, serves))
        self._supervisor = supervisor
        try:
            await supervisor.run(partial(self._serving, supervisor, port, serves))
        except NotStartedError:
            if not self._changed.is_set():
                say("the app is loaded again after the next change; stop with Ctrl-C")
        finally:
            self._supervisor = None
            renewing.cancel()
            self._terminal.restore()

    def _serving(self, supervisor: Supervisor, port: int, serves: asyncio.Event) -> None:
        say(f"wsflow {version('wsflow')} serves {self._target} and reloads it; stop with Ctrl-C")
        say(f"  by {engine(self._settings)}")
        say(f"  on {base(self._settings, port) or address(self._settings)}")
        tries = [f"      try it: {command}" for command in supervisor.trials]
        for line in (*tries, *pages(self._settings, port)):
            say(line)
        serves.set()

    async def _renew(self, supervisor: Supervisor, serves: asyncio.Event) -> None:
        """Replace the version that serves after each change."""
        await serves.wait()
        while await self._changed.wait() and not self._stopped:
            self._changed.clear()
            supervisor.renew()
            how = "reloaded" if await supervisor.renewed() else "the old version goes on"
            self._terminal.restore()
            if not self._changed.is_set():
                say(how)

    # -- what happens meanwhile

    async def _watch(self, changes: Callable[[], Changes]) -> None:
        try:
            async for found in changes():
                if self._stopped:
                    return
                names = sorted({self._near(path) for _, path in found})
                more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                say(f"{escaped(', '.join(names[:MOST_NAMED]))}{more} changed")
                self._change()
        except (OSError, RuntimeError) as exc:  # there are too many files, for example
            say(f"wsflow: files cannot be watched, SIGHUP reloads: {escaped(str(exc))}")

    def _near(self, path: str) -> str:
        """A path, from the current directory if it is below."""
        at = Path(path)
        return str(at.relative_to(self._here) if at.is_relative_to(self._here) else at)

    def _change(self) -> None:
        """Load the app anew. What is not serving, be it too new or too old, gives way at once."""
        if self._supervisor is not None and not self._stopped:
            self._supervisor.supersede()
        self._changed.set()

    def _hung_up(self) -> None:
        if self._terminal.gone:
            self._stop()
        else:
            self._change()

    def _stop(self) -> None:
        self._end(lambda supervisor: supervisor.stop())

    def _interrupt(self) -> None:
        self._end(lambda supervisor: supervisor.interrupt())

    def _end(self, tell: Callable[[Supervisor], None]) -> None:
        self._stopped = True
        if self._supervisor is not None:
            tell(self._supervisor)
        self._changed.set()  # whoever waits for a change ends
