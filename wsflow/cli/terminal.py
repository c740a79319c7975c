"""The terminal that a command is started in, and which the processes of an app use, too."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Sequence
from typing import final

STANDARD = (0, 1, 2)
"""The descriptors of standard input, output and error."""


@final
class Terminal:
    """The terminal, if there is one.

    Args:
        descriptors: those that may be a terminal.
    """

    def __init__(self, descriptors: Sequence[int] = STANDARD) -> None:
        self._descriptors = [each for each in descriptors if os.isatty(each)]
        self._modes = {each: termios.tcgetattr(each) for each in self._descriptors}

    @property
    def gone(self) -> bool:
        """Whether there was one, and it was closed."""
        return not all(map(os.isatty, self._descriptors))

    def restore(self) -> None:
        """Set it to what it was in the beginning: who reads lines with an editor, as a debugger
        does, turns the echo off, and may be killed meanwhile."""
        for each, mode in self._modes.items():
            with contextlib.suppress(termios.error):  # it is gone
                if _is_ours(each):
                    termios.tcsetattr(each, termios.TCSANOW, mode)


def _is_ours(terminal: int) -> bool:
    """Whether this process may change a terminal, and is not in the background."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it controls other processes than this one
        return True
