"""What went wrong on one connection: for the log, and for tests to look at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from wsflow.declare.router import Handler

log = logging.getLogger("wsflow")


@dataclass(slots=True)
class Report:
    """Logs with the connection's id and path.

    Attributes:
        errors: what failed and nobody handled, in order.
        overran: whether something had to be cut off because its time was over.
        left_behind: handlers that swallowed their cancellation, and may still run.
    """

    id: str
    template: str
    errors: list[BaseException] = field(default_factory=list)
    overran: bool = False
    left_behind: list[str] = field(default_factory=list)

    def _log(self, level: int, text: str, exc: BaseException | None = None) -> None:
        log.log(level, "connection %s at %s: %s", self.id, self.template, text, exc_info=exc)

    def error(self, what: str, exc: BaseException) -> None:
        """Something raised, and nobody handled it."""
        self.errors.append(exc)
        self.noted(what, exc)

    def noted(self, what: str, exc: BaseException) -> None:
        """Something raised, and it is the peer's doing; but somebody should look at it."""
        self._log(logging.ERROR, f"{what} raised {type(exc).__name__}", exc)

    def scope(self, handler: Handler, why: str) -> None:
        """A step of a scope function was cancelled."""
        self._log(logging.ERROR, f"{handler} ({handler.where}) {why}")

    def cut_off(self, running: Sequence[str]) -> None:
        """Handlers were given time to finish, and it is over."""
        self.overran = True
        names = ", ".join(running) or "nothing"
        self._log(logging.WARNING, f"cancelled, for its time was over: {names}")

    def stuck(self, running: Sequence[str], seconds: float) -> None:
        """Handlers do not end although they were cancelled."""
        self.overran = True
        self.left_behind += running
        names = ", ".join(running) or "nothing"
        self._log(
            logging.ERROR,
            f"cancelled {seconds:g} seconds ago and still running: {names}. "
            "A handler must not catch its cancellation and go on",
        )
