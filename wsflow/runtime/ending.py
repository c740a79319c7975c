"""What decides how a connection ends."""

from __future__ import annotations

from wsflow.codec import BadMessage
from wsflow.connection import CAUSE_OF_CODE, End
from wsflow.errors import Close, ConnectError, Disconnected, Reject, cut_reason
from wsflow.runtime import ends
from wsflow.runtime.children import unwrap
from wsflow.runtime.home import Home
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.report import Report
from wsflow.runtime.waiting import Over
from wsflow.runtime.work import Work


class Ending:
    """The first end counts, and of what fails after it nothing is lost.

    Attributes:
        end: how it ended; None while it is open.
        accepted: whether the handshake has been answered with 101, or begun by a client.
        report: what went wrong.
    """

    __slots__ = (
        "_dialling",
        "_home",
        "_provisional",
        "_rejection",
        "_stopping",
        "_work",
        "accepted",
        "end",
        "outbox",
        "report",
    )

    _home: Home
    _work: Work
    outbox: Outbox

    def __init__(self, report: Report) -> None:
        self.end: End | None = None
        self.accepted = False
        self.report = report
        self._rejection: Reject | None = None
        self._provisional = False  # the end is a cancellation whose cause may come to be known
        self._stopping = False
        self._dialling: Over | None = None  # a client's handshake, until it is answered

    def _stop(self) -> None: ...

    def finish(self, end: End) -> None:
        """End the connection now, unless it has ended."""
        if self.end is None:
            self.end = end
            self.outbox.refuse(end)
            self._lose(end)
        self._stop()

    def _lose(self, end: End) -> None:
        """Nothing more will come from the other end."""
        self._work.lost(end)
        if self._dialling is not None:
            self._dialling.set()

    # -- what the transport reports

    def refuse(self, bad: BadMessage) -> None:
        """The peer sent what cannot be decoded."""
        if bad.__cause__ is not None:
            self.report.noted("decoding a message", bad.__cause__)
        self.finish(End(CAUSE_OF_CODE[bad.code], bad.code, cut_reason(bad.reason)))

    def refused(self, error: ConnectError) -> None:
        if error.status is not None:
            self.finish(End("rejected", error.status, cut_reason(error.body), error))
        else:
            self.finish(End("unreachable", 1006, cut_reason(str(error)), error))

    def peer_failed(self, code: int, reason: str) -> None:
        self.finish(End(CAUSE_OF_CODE.get(code, "protocol"), code, reason))

    def _overflown(self) -> None:
        self.finish(End("policy", 1008, "more messages came than can wait during a call"))

    # -- what handlers and topics do

    def close(self, code: int, reason: str) -> None:
        try:
            closing = Close(code, reason)
        except ValueError as exc:
            self._failed("Connection.close", exc)
        else:
            self.finish(ends.end_of(closing, accepted=self.accepted))

    def lagging(self, topic: str) -> None:
        if self.end is None:
            self._home.directory.channels.counters["closed"] += 1
        self.finish(End("slow", 1013, "the messages are not read fast enough"))

    def call_failed(self, what: str, exc: BaseException) -> None:
        """A call could not be answered: that is between the two ends of the call."""
        self.report.error(what, exc)

    def _give_up_set_up(self) -> None:
        if self.end is None:
            self._rejection = Reject(503)
            self.finish(ends.end_of(self._rejection, accepted=self.accepted))

    def _failed(self, what: str, exc: BaseException) -> None:
        """Something raised: that decides the end, unless it came too late."""
        signal, errors = ends.sort(exc)
        end = ends.end_of(signal or exc, accepted=self.accepted)
        if self.end is None and isinstance(signal, Reject):
            self._rejection = signal
        if self._provisional:
            self.end, self._provisional = end, False
        self.finish(end)
        for error in errors:
            self.report.error(what, error)
            self.end = ends.with_error(self.end or end, error)

    def _cancelled(self, what: str) -> None:
        """A task was cancelled, and not by us. What leaves a scope function may yet tell why."""
        if self.end is None and not self._stopping:
            error = RuntimeError(f"{what} was cancelled from outside")
            self.finish(End("error", 1011, "", error))
            self._provisional = True

    def left(self, what: str, exc: BaseException) -> None:
        """Anything at all has left a function of the connection."""
        if ends.is_cancellation(exc):
            self._cancelled(what)
        elif self.end is None or not isinstance(unwrap(exc), Disconnected):
            if not isinstance(exc, Exception):
                self._home.fail(exc)  # SystemExit and its like are not ours to keep
            self._failed(what, exc)
