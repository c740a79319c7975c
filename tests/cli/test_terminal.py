"""The terminal of a command."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator

import pytest

from wsflow.cli.terminal import Terminal

LOCAL = 3
"""Where ``tcgetattr`` has the echo."""


@pytest.fixture
def pair() -> Iterator[list[int]]:
    """A terminal, as seen from its window and from its processes."""
    ends = [*os.openpty()]
    yield ends
    for each in ends:
        os.close(each)


def echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[LOCAL] & termios.ECHO)


def silence(terminal: int) -> None:
    mode = termios.tcgetattr(terminal)
    mode[LOCAL] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


def test_it_is_as_before(pair: list[int]) -> None:
    terminal = Terminal(pair[1:])
    silence(pair[1])
    assert not echoes(pair[1])
    terminal.restore()
    assert echoes(pair[1])
    assert not terminal.gone


def test_one_that_is_silent_in_the_beginning(pair: list[int]) -> None:
    silence(pair[1])
    Terminal(pair[1:]).restore()
    assert not echoes(pair[1])


@pytest.mark.parametrize("foreground", [True, False])
def test_it_may_belong_to_others(
    pair: list[int], foreground: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in the background would be stopped if it changed it."""
    group = os.getpgrp() if foreground else os.getpgrp() + 1
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: group)
    terminal = Terminal(pair[1:])
    silence(pair[1])
    terminal.restore()
    assert echoes(pair[1]) == foreground


def test_it_is_closed(pair: list[int]) -> None:
    terminal = Terminal(pair[1:])
    os.close(pair[0])
    assert terminal.gone
    terminal.restore()
    pair[0] = os.dup(pair[1])


def test_there_is_none() -> None:
    ends = os.pipe()
    terminal = Terminal(ends)
    for each in ends:
        os.close(each)
    assert not terminal.gone
    terminal.restore()
