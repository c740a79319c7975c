"""Close codes and reasons."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsflow.end import cut_reason


@given(st.text())
def test_reasons_are_cut_at_a_character(reason: str) -> None:
    cut = cut_reason(reason)
    assert len(cut.encode()) <= 123
    if len(reason.encode()) <= 123:
        assert cut == reason
    else:
        assert reason.startswith(cut)
        assert len(cut.encode()) > 119
