"""Names in documents and in code that is written: each stands for one thing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import final


def unique(names: Iterable[str]) -> list[str]:
    """These names; one that has come before has a number behind it."""
    given: dict[str, None] = {}
    for wanted in names:
        name, number = wanted, 1
        while name in given:
            number += 1
            name = f"{wanted}_{number}"
        given[name] = None
    return list(given)


@final
class Names:
    """Names, each given once.

    Args:
        taken: those that are given already.

    Attributes:
        given: all that are.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.given = set(taken)

    def give(self, wanted: str) -> str:
        """This name, or with underscores behind it the first that is free."""
        name = re.sub(r"\W|^(?=\d|$)", "_", wanted, flags=re.ASCII)
        while name in self.given:
            name += "_"
        self.given.add(name)
        return name


def of_path(path: str) -> str:
    """The name of a path, as that of a class: ``ChatRoom`` for ``/chat/{room}``."""
    words = re.findall(r"[A-Za-z0-9]+", path) or ["root"]
    return "".join(each[0].upper() + each[1:] for each in words)
