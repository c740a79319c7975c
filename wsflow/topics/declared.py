"""The topics that an app declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from wsflow.messages.events import TopicOptions
from wsflow.topics.names import is_name_of
from wsflow.topics.type import TopicType


@final
class DeclaredTopics:
    """The types of an app's topics.

    Attributes:
        types: the type of the topics, by template.
    """

    __slots__ = ("types",)

    def __init__(self, types: Mapping[str, TopicType] | None = None) -> None:
        self.types: Mapping[str, TopicType] = types or {}

    def find(self, name: str) -> TopicType | None:
        """The type of the topic whose template matches ``name``; None if no template does."""
        for template, type in self.types.items():
            if is_name_of(template, name):
                return type
        return None

    def presence_type(self, name: str) -> Any:
        """The declared type of a topic's presences, None if there is none."""
        found = self.find(name)
        return found.options.presence if found is not None else None

    @property
    def with_history(self) -> dict[str, TopicOptions]:
        """The options of the topics with history, by template."""
        return {
            template: type.options for template, type in self.types.items() if type.options.history
        }
