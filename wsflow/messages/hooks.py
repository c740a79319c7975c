"""Hooks for types that are neither msgspec's nor pydantic's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, final

import msgspec

from wsflow.messages.calls import class_of
from wsflow.messages.families import dumped, is_model, model_of

DecHook = Callable[[Any, Any], Any]
"""Returns the value of a type from a plain value, as msgspec calls it: ``dec_hook(type, value)``.
ValueError and TypeError refuse the value; NotImplementedError says that the type is not known."""

EncHook = Callable[[Any], Any]
"""Returns what is sent of a value: ``enc_hook(value)``. NotImplementedError says that its type is
not known."""


@final
class HookError(Exception):
    """A ``dec_hook`` has raised what does not refuse a value: an error of the app, its cause."""


@final
class Hooks:
    """The hooks of a path.

    Args:
        dec: those that decode; the first that knows a type has it.
        enc: those that encode.
    """

    __slots__ = ("dec", "enc")

    def __init__(self, dec: tuple[DecHook, ...] = (), enc: tuple[EncHook, ...] = ()) -> None:
        self.dec = dec
        self.enc = enc

    def has(self, name: Literal["dec_hook", "enc_hook"]) -> bool:
        """Whether there is such a hook."""
        return bool(self.dec if name == "dec_hook" else self.enc)

    def convert_text(self, text: str | list[str], kind: Any) -> Any:
        """The value of a text, or of several for a collection.

        Raises:
            msgspec.ValidationError: it has none.
        """
        return msgspec.convert(text, kind, strict=False, dec_hook=self.decode)

    def decode(self, kind: Any, value: Any) -> Any:
        """The value of a type that msgspec does not know.

        Raises:
            ValueError, TypeError: it is none; msgspec adds where that is.
            HookError: a hook has failed, or none knows the type.
        """
        if kind is object:
            return value
        try:
            if is_model(kind):
                return model_of(kind, value)
            return self._decoded(kind, value)
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc)) from None  # to one of its own, msgspec adds nothing

    def _decoded(self, kind: Any, value: Any) -> Any:
        for hook in self.dec:
            try:
                return hook(kind, value)
            except NotImplementedError:
                continue
            except (ValueError, TypeError):
                raise
            except Exception as exc:
                raise HookError(f"a dec_hook has raised {type(exc).__name__}") from exc
        unknown = f"no dec_hook knows the type {class_of(kind).__name__}"
        raise HookError(unknown) from NotImplementedError(unknown)

    def encode(self, value: Any) -> Any:
        """What is sent of a value that msgspec cannot encode.

        Raises:
            TypeError: no hook knows its type.
            Exception: a hook has raised it.
        """
        if is_model(type(value)):
            return dumped(value)
        for hook in self.enc:
            try:
                return hook(value)
            except NotImplementedError:
                continue
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


NO_HOOKS: Final = Hooks()


def hooks_of(dec_hook: DecHook | None, enc_hook: EncHook | None) -> Hooks:
    """These hooks."""
    if dec_hook is None and enc_hook is None:
        return NO_HOOKS
    return Hooks((dec_hook,) if dec_hook else (), (enc_hook,) if enc_hook else ())
