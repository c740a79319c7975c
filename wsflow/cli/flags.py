"""Command-line flags, generated from the Settings type."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

from cyclopts import CoercionError, Group, Parameter, Token

from wsflow.cli.config import as_set, variable
from wsflow.server.exits import UsageError
from wsflow.server.settings import Settings


def with_settings(
    run: Callable[..., int], how: Mapping[str, str], **defaults: object
) -> Callable[..., int]:
    """A function whose keyword parameters are the fields of Settings, for cyclopts to read.

    Args:
        run: takes the target, the settings, and what else it names, by keyword.
        how: how each setting was set, by its name.
        defaults: those that are not the defaults of Settings.
    """
    target, _, *own = inspect.signature(run, eval_str=True).parameters.values()

    def command(target: str, **values: Any) -> int:
        others = {each.name: values.pop(each.name) for each in own if each.name in values}
        try:
            settings = Settings(**{**defaults, **values})
        except ValueError as exc:
            raise UsageError(as_set(str(exc), how)) from None
        return run(target, settings, **others)

    parameters = [target.replace(kind=inspect.Parameter.POSITIONAL_ONLY), *own, *_flags(defaults)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__ = run.__name__
    command.__doc__ = run.__doc__
    return command


def _whole(_type: object, tokens: Sequence[Token]) -> int:
    """An integer; 1.5 is refused, not rounded."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise CoercionError(token=tokens[0], target_type=int) from None


GROUPS = ["Listening", "TLS", "Running", "Security", "Messages", "Timeouts", "Limits"]
"""The groups of the help, in its order."""


def _flags(defaults: Mapping[str, object]) -> list[inspect.Parameter]:
    hints = get_type_hints(Settings)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(each.name, each.default),
            annotation=Annotated[
                hints[each.name],
                Parameter(
                    help=each.metadata["help"].replace("*", r"\*"),  # it is read as Markdown
                    group=Group(
                        each.metadata["group"], sort_key=GROUPS.index(each.metadata["group"])
                    ),
                    env_var=variable(each.name),
                    negative_iterable=(),
                    converter=_whole if hints[each.name] is int else None,
                ),
            ],
        )
        for each in dataclasses.fields(Settings)
    ]
