"""JSON Schema (draft 2020-12), for each path and direction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wsflow.contract.contract import Asked, Contract, Message, Schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def jsonschema(contract: Contract) -> dict[str, Any]:
    """The schemas of a contract: by path what is taken, sent, answered and asked, and all named
    types in ``$defs``. Each part can be validated by itself: ``{"$ref": "#/paths/…"}``."""
    return {
        "$schema": DIALECT,
        "title": contract.title,
        "version": contract.version,
        "paths": {
            each.path: {
                "takes": _any_of(each.takes),
                "sends": _any_of(each.sends),
                "answers": _asked(each.answers),
                "asks": _asked(each.asks),
            }
            for each in contract.channels
        },
        "$defs": dict(contract.schemas),
    }


def _any_of(messages: Iterable[Message]) -> Schema:
    """What fits one of the messages; nothing does if there are none."""
    found = [each.schema for each in messages if not each.raw]
    raw = [each.raw for each in messages if each.raw]
    schema: dict[str, Any] = dict(found[0]) if len(found) == 1 else {"anyOf": found}
    if not found:
        schema = {"not": {}}
    return {**schema, "x-raw": raw} if raw else schema


def _asked(calls: Iterable[Asked]) -> Mapping[str, Any]:
    return {
        each.message.name: {
            "message": each.message.schema,
            "items" if each.stream else "answer": each.answer,
        }
        for each in calls
    }
