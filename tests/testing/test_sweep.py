"""A sweep over all that a connection runs finds nothing; and of planted bugs it finds each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable

import pytest

from tests.testing.swept import SWEPT
from wsflow.runtime.admission import Admission
from wsflow.runtime.dispatch import Dispatcher
from wsflow.runtime.ending import Ending
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.scopes import Nest
from wsflow.runtime.session import Session
from wsflow.tasks.children import Children
from wsflow.tasks.waiting import Latch
from wsflow.testing import FAULTS, sweep_cancellation


@pytest.mark.long
def test_a_sweep_over_all_that_a_connection_runs() -> None:
    points = dict.fromkeys(FAULTS, 0)
    for app, scenario, limits in SWEPT.values():
        report = sweep_cancellation(app(), scenario, limits=limits)
        assert report.points > 30
        assert not report.left_out
        for (fault, _), count in report.by_fault.items():
            points[fault] += count
    assert all(count > 30 for count in points.values()), points
    assert sum(points.values()) >= 2000


# -- planted bugs


def mutate(patch: pytest.MonkeyPatch, owner: type, name: str, *changes: tuple[str, str]) -> None:
    """Change the text of a method."""
    function = vars(owner)[name]
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert old in text, f"{owner.__name__}.{name} has no {old!r} any more"
        text = text.replace(old, new)
    space = dict(function.__globals__)
    exec("from __future__ import annotations\n" + text, space)
    patch.setattr(owner, name, space[name])


Plant = Callable[[pytest.MonkeyPatch], None]


def planted(owner: type, name: str, *changes: tuple[str, str]) -> Plant:
    return lambda patch: mutate(patch, owner, name, *changes)


BUGS: dict[str, tuple[Plant, str, set[str]]] = {
    "the host does not wait for its children": (
        planted(Children, "reap", ("while self.tasks:", "while False:")),
        "both",
        {"tasks"},
    ),
    "producers go on when the peer has left": (
        planted(Session, "_drain", ('self._children.cancel("producer")', "pass")),
        "both",
        {"producers"},
    ),
    "topics are not left": (
        planted(Session, "_leave_topics", ("leave_all(self)", "leave_all")),
        "topics",
        {"topics"},
    ),
    "the close frame goes out twice": (
        planted(
            Session, "_release", ("self._leave_topics, self._tell)", "self._tell, self._tell)")
        ),
        "producer",
        {"close_frame"},
    ),
    "on_disconnect is skipped after an error": (
        planted(
            Session,
            "_wind_down",
            ("if connected and", 'if connected and self.end.cause != "error" and'),
        ),
        "nested scopes",
        {"on_disconnect"},
    ),
    "a tear-down is not shielded": (
        planted(Nest, "run", ("keeping.shield = True", "pass")),
        "nested scopes",
        {"scopes"},
    ),
    "a granted turn is not given back": (
        planted(Outbox, "_turn", ("self._turn_is_over()", "pass")),
        "a slow peer",
        {"outbox"},
    ),
    "nobody is woken by the end": (
        planted(Latch, "set", ("self.notify_all()", "pass")),
        "consumer",
        {"ends"},
    ),
    "a connection is counted for ever": (
        planted(Admission, "ended", ("self._count -= 1", "pass")),
        "consumer",
        {"next_peer"},
    ),
    "a scope function is not left": (
        planted(Nest, "run", ("if generator is not None:", "if False:")),
        "nested scopes",
        {"scopes"},
    ),
    # more than the ten
    "a client's address is counted for ever": (
        planted(Admission, "ended", ("self._clients[client] -= 1", "pass")),
        "consumer",
        {"next_peer"},
    ),
    "a scope function is left in an error": (
        planted(
            Nest,
            "run",
            ("await leave(handler, generator)", "await leave(handler, generator); await leave"),
        ),
        "nested scopes",
        {"errors"},
    ),
    "a handler's cancellation is lost in the host's place": (
        planted(Dispatcher, "consume", ("await begun.finish(cancelled)", "await begun.finish()")),
        "both",
        {"cancellation"},
    ),
    "the peer is told nothing": (
        planted(Ending, "tell", ("transport.close(end.code, end.reason)", "pass")),
        "producer",
        {"close_frame"},
    ),
    "the connection stays in the registry": (
        planted(Session, "_release", ("self._app.forget(self)", "pass")),
        "consumer",
        {"registry"},
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, name, oracles = BUGS[bug]
    plant(monkeypatch)
    app, scenario, limits = SWEPT[name]
    report = sweep_cancellation(app(), scenario, limits=limits, on_violation="report")
    found = {violation.oracle for violation in report.violations}
    assert found & oracles, report
