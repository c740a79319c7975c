"""The topics that an app declares, before it serves or while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from wsflow.messages.events import TopicOptions
from wsflow.topics.names import Cure, check_finished, is_name_of, name_topic
from wsflow.topics.type import TopicType

MAX_TOPICS = 1000
"""How many names and templates can be declared while an app runs."""


@final
class DeclaredTopics:
    """The types of an app's topics.

    Attributes:
        types: the type of the topics, by template.
    """

    __slots__ = ("_room", "types")

    def __init__(self, types: Mapping[str, TopicType] | None = None) -> None:
        self.types: dict[str, TopicType] = dict(types or {})
        self._room = MAX_TOPICS

    def find(self, name: str) -> TopicType | None:
        """The type of the topic whose template matches ``name``; None if no template does. A name
        that is declared as it is comes first."""
        return self.types.get(self.template_of(name))

    def template_of(self, name: str) -> str:
        """The template that has made a topic's name; ``""`` if none is declared that could have."""
        if name in self.types:
            return name
        return next((each for each in self.types if is_name_of(each, name)), "")

    def name(
        self, template: str, values: Mapping[str, object], cure: Cure
    ) -> tuple[str, TopicType | None]:
        """The name of a topic, of its template and values, or of its finished name; and its type,
        None if it is not declared.

        Raises:
            ValueError: values are missing or too many, the template is malformed, or the finished
                name can be none of a declared topic, though it looks like one.
            TypeError: a value is neither a str nor an int.
        """
        name = name_topic(template, values)
        found = self.types.get(template) or self.find(name)
        if found is None and not values:
            check_finished(name, self.types, cure)
        return name, found

    def add(self, template: str, type: TopicType) -> TopicOptions:
        """Declare a topic while the app runs. Returns its options, as ``with_history`` has them.

        Raises:
            ValueError: there are too many.
        """
        if not self._room:
            raise ValueError(
                f"{MAX_TOPICS} topics were declared while the app runs, and {template!r} is one "
                "more: use one template for those that differ by a value: "
                'TopicName("alerts.{kind}"), kind=kind'
            )
        self._room -= 1
        self.types[template] = type
        return _stored(type)

    def presence_type(self, name: str) -> Any:
        """The declared type of a topic's presences, None if there is none."""
        found = self.find(name)
        return found.options.presence if found is not None else None

    @property
    def with_history(self) -> dict[str, TopicOptions]:
        """The options of the topics with history, by template."""
        return {
            template: _stored(type) for template, type in self.types.items() if type.options.history
        }


def _stored(type: TopicType) -> TopicOptions:
    """The options of a topic, as a broker stores them for those who publish without the app."""
    return dataclasses.replace(type.options, event_id=type.carries_id)
