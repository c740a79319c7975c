"""The scoreboard's table, and the page that shows it."""

from __future__ import annotations

import pytest

from tests import scoreboard
from tests.hardening.board import SEED, Check, Outcome, Row, Scale, UnavailableError, scale
from tests.hardening.rows import ROWS


def test_the_page_has_the_rows_of_the_code() -> None:
    cells = scoreboard.written(scoreboard.PAGE.read_text())
    expected = [[str(row.number), row.test, row.load, row.target] for row in ROWS]
    assert [each[:4] for each in cells] == expected
    assert all(each[4].rstrip(" |") for each in cells), "a row has no result"
    assert [row.number for row in ROWS] == list(range(1, 19))


def test_a_row_is_written_beside_the_others() -> None:
    page = scoreboard.PAGE.read_text()
    changed = scoreboard.write(page, [(ROWS[4], "quite different")])
    before, after = scoreboard.written(page), scoreboard.written(changed)
    assert after[4][4].rstrip(" |") == "quite different"
    assert [*after[:4], *after[5:]] == [*before[:4], *before[5:]]
    assert scoreboard.write(changed, [(ROWS[4], before[4][4].rstrip(" |"))]) == page


def _raises(scale: Scale) -> Outcome:
    raise RuntimeError("broken")


def _absent(scale: Scale) -> Outcome:
    raise UnavailableError("it is not installed")


def test_what_a_row_has_reached(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        Check("good", lambda scale: Outcome("3 of 3")),
        Check("bad", lambda scale: Outcome("2 of 3", ["number 2"]), "a known fault"),
        Check("broken", _raises),
        Check("absent", _absent),
    ]
    result = scoreboard.measured(Row(0, "", "", "", checks), Scale(seed=77))
    assert result.text == (
        "**not: bad (a known fault)**; **not: broken**; "
        "left out: absent (it is not installed); 3 of 3; 2 of 3"
    )
    told = capsys.readouterr().err
    assert f"{SEED}=77" in told
    assert "number 2" in told
    assert "RuntimeError: broken" in told
    good = scoreboard.measured(Row(0, "", "", "", checks[:1]), Scale())
    assert good.text == "yes; 3 of 3"


def test_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SEED, raising=False)
    assert scale(False) == scale(False) == Scale(False, 1)
    assert scale(True) != scale(True)
    monkeypatch.setenv(SEED, "5")
    assert scale(True) == Scale(True, 5)
    assert scale(True, 6) == Scale(True, 6)
    assert scale(True, 6).random().random() == scale(False, 6).random().random()


def test_a_known_fault_has_to_fail() -> None:
    check = Check("", lambda scale: Outcome(), "a fault", only_whole=True)
    assert [check.fails(Scale(whole)) for whole in (False, True)] == [False, True]
    assert not Check("", lambda scale: Outcome()).fails(Scale(True))
