"""Names that stand for one thing each."""

from __future__ import annotations

import pytest

from wsflow.contract.names import Names, of_path, unique


def test_numbers_behind_names_that_were_there() -> None:
    assert unique(["a", "b", "a", "a_2", "a"]) == ["a", "b", "a_2", "a_2_2", "a_3"]


def test_underscores_behind_names_that_are_given() -> None:
    names = Names(["class"])
    wanted = ["a", "a", "class", "2fa", "a.b[c]", "ä", ""]
    assert [names.give(each) for each in wanted] == [
        "a",
        "a_",
        "class_",
        "_2fa",
        "a_b_c_",
        "_",
        "__",
    ]
    assert names.given == {"a", "a_", "class", "class_", "_2fa", "a_b_c_", "_", "__"}


@pytest.mark.parametrize(
    ("path", "name"),
    [("/chat/{room}", "ChatRoom"), ("/", "Root"), ("/a-b/{userId}", "ABUserId"), ("/ä", "Root")],
)
def test_the_name_of_a_path(path: str, name: str) -> None:
    assert of_path(path) == name
