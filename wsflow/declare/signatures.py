"""The signatures of functions, with their annotations resolved."""

from __future__ import annotations

import collections.abc as abc
import importlib
import inspect
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Never,
    NoReturn,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from wsflow.declare.functions import bound_names, global_names, style
from wsflow.declare.router import Handler
from wsflow.messages.families import members as members
from wsflow.messages.families import unaliased

EMPTY: Any = inspect.Parameter.empty
STARS: Mapping[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_LAZILY: Mapping[str, Any] = (
    {"annotation_format": importlib.import_module("annotationlib").Format.FORWARDREF}
    if sys.version_info >= (3, 14)
    else {}
)
"""Names that exist only under TYPE_CHECKING are reported when they are resolved (PEP 649)."""

ITERATORS = (abc.AsyncIterator, abc.AsyncGenerator, abc.AsyncIterable)


class Unresolved(Exception):
    """An annotation has a name that cannot be resolved."""

    def __init__(self, parameter: str, annotation: str, error: Exception) -> None:
        super().__init__(f"{annotation!r} cannot be resolved: {error}")
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: its name.
        annotation: the resolved annotation, with its ``Annotated``, as ``spelled_out`` returns it;
            EMPTY without one.
        default: its default; EMPTY without one.
        keyword: whether it is passed by name.
        variadic: the stars of ``*args`` or ``**kwargs``; else empty.
    """

    name: str
    annotation: Any
    default: Any
    keyword: bool
    variadic: str

    @property
    def bare(self) -> Any:
        """The annotation without its ``Annotated``."""
        return bare(self.annotation)

    @property
    def core(self) -> Any:
        """The same without ``None``: ``T`` for ``T | None``."""
        return without_none(self.bare)

    def wanted(self, provided: Sequence[Any]) -> tuple[Any, ...]:
        """The annotations of provided values that fit: its own, and for ``T | None`` also ``T``."""
        core = self.core
        if self.marks and core is not self.bare:
            core = Annotated[(core, *self.marks)]
        return (as_provided(self.annotation, provided), as_provided(core, provided))

    @property
    def checked(self) -> Any:
        """The annotation with what msgspec checks, and without other marks."""
        kept = tuple(mark for mark in self.marks if isinstance(mark, msgspec.Meta))
        return Annotated[(self.bare, *kept)] if kept else self.bare

    @property
    def marks(self) -> tuple[Any, ...]:
        """The metadata of its ``Annotated``."""
        is_annotated = get_origin(self.annotation) is Annotated
        return get_args(self.annotation)[1:] if is_annotated else ()

    def without(self, *marks: Any) -> Parameter:
        """The same parameter without these marks, and without a default."""
        left = [mark for mark in self.marks if not any(mark is each for each in marks)]
        annotation = Annotated[(self.bare, *left)] if left else self.bare
        return replace(self, annotation=annotation, default=EMPTY)

    def __str__(self) -> str:
        if self.annotation is EMPTY:
            return self.name
        return f"{self.name}: {type_name(self.annotation)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters and its result.

    Attributes:
        parameters: in order.
        returns: the resolved annotation of what it returns; EMPTY without one.
        generator: whether it is an async generator.
        coroutine: whether it is a coroutine function.
    """

    parameters: tuple[Parameter, ...]
    returns: Any
    generator: bool
    coroutine: bool

    @property
    def gives(self) -> Any:
        """The type that it returns, or that its generator yields; None for nothing, EMPTY without
        an annotation."""
        if not self.generator:
            if self.returns is Never:
                return NoReturn
            return None if self.returns is NoneType else self.returns
        if get_origin(self.returns) in ITERATORS:
            item = spelled_out(get_args(self.returns)[0])
            return None if item is NoneType else item
        return EMPTY


def read(handler: Handler) -> Signature:
    """Read a handler's signature.

    Names are looked up in the function's globals, then in the locals of the function in which it
    was declared. Parameters that a ``functools.partial`` has bound are none of its parameters.

    Raises:
        Unresolved: an annotation cannot be resolved.
    """
    signature = inspect.signature(handler.fn, **_LAZILY)
    bound = bound_names(handler.fn)
    hints = dict(_resolve_all(handler, signature, bound))
    parameters = tuple(
        Parameter(
            name=each.name,
            annotation=hints.get(each.name, EMPTY),
            default=each.default,
            keyword=each.kind is inspect.Parameter.KEYWORD_ONLY,
            variadic=STARS.get(each.kind, ""),
        )
        for each in signature.parameters.values()
        if each.name not in bound
    )
    how = style(handler.fn)
    return Signature(parameters, hints.get("return", EMPTY), how.generator, how.coroutine)


def _resolve_all(
    handler: Handler, signature: inspect.Signature, bound: Collection[str]
) -> Mapping[str, Any]:
    annotations = {
        name: each.annotation for name, each in signature.parameters.items() if name not in bound
    }
    annotations["return"] = signature.return_annotation
    namespace = dict(global_names(handler.fn))
    local = dict(handler.frame.f_locals) if handler.frame else {}
    found = {}
    for name, annotation in annotations.items():
        if annotation is EMPTY:
            continue
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints = get_type_hints(holder, namespace, local, include_extras=True)
            found[name] = spelled_out(hints[name])
        except Exception as exc:  # anything that evaluating the annotation raises is reported
            raise Unresolved(name, type_name(annotation), exc) from exc
    return found


def bare(annotation: Any) -> Any:
    """An annotation without its ``Annotated``."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def as_provided(asked: Any, provided: Iterable[Any]) -> Any:
    """Which of the annotations of what is provided is meant by one that is asked for.

    Marks of an ``Annotated`` tell values of one type apart, as in
    ``Annotated[Database, "replica"]``. If only one of the type is provided, they say nothing.
    """
    found: list[Any] = []
    for each in provided:
        if each == asked:
            return each
        if bare(each) == bare(asked) and each not in found:
            found.append(each)
    return found[0] if len(found) == 1 else asked


def spelled_out(annotation: Any) -> Any:
    """An annotation without aliases (``type X = …``, also generic ones), and with the marks inside
    of a union around it, as far as it is no argument of another type.

    What msgspec checks (``Meta``) stays where it is.
    """
    annotation = unaliased(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(spelled_out(args[0]), *args[1:])]
    if origin not in (Union, UnionType):
        return annotation
    parts, marks = [], []
    for part in map(spelled_out, args):
        kind, *found = get_args(part) if get_origin(part) is Annotated else (part,)
        kept = tuple(mark for mark in found if isinstance(mark, msgspec.Meta))
        marks += [mark for mark in found if not isinstance(mark, msgspec.Meta)]
        parts.append(Annotated[(kind, *kept)] if kept else kind)
    union = _union(parts)
    return Annotated[(union, *marks)] if marks else union


def without_none(annotation: Any) -> Any:
    """``T`` for ``T | None``, and for ``A | B | None`` that without None; else the type itself."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return _union([each for each in get_args(annotation) if each is not NoneType])


def _union(parts: Sequence[Any]) -> Any:
    return cast(Any, Union)[tuple(parts)]


def type_name(annotation: Any) -> str:
    """A type as it is written in source code, without module names."""
    if isinstance(annotation, str):
        return annotation
    if annotation is None or annotation is NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = ", ".join([type_name(args[0]), *map(_mark_name, args[1:])])
        return f"Annotated[{inner}]"
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, args))
    if origin is not None and args:
        return f"{type_name(origin)}[{', '.join(map(type_name, args))}]"
    return str(getattr(annotation, "__name__", annotation))


def _mark_name(mark: Any) -> str:
    if isinstance(mark, str):
        return repr(mark)
    return mark.__name__ if isinstance(mark, type) else f"{type(mark).__name__}(…)"
