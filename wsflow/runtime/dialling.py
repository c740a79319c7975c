"""What the session of a client has beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wsflow.opening import Opening


@dataclass(frozen=True, slots=True)
class Dialling:
    """A client's connection to be.

    Attributes:
        opening: its opening request.
        seen: told of the event ids of what is handled.
        opened: told that it is open.
    """

    opening: Opening
    seen: Callable[[Any, str], None]
    opened: Callable[[], None]
