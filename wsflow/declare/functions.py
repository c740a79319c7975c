"""What a handler's function is: a coroutine or an async generator, and where it stands.

A handler may be a function, a callable object, a ``functools.partial`` of either, or a plain
function that ``functools.wraps`` says is around one: then what it returns is what counts.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any


def layers(fn: Any) -> Iterator[Any]:
    """A callable, and what is inside of it, outermost first."""
    seen: list[Any] = []
    inside: list[Any] = [fn]
    while inside:
        fn = inside.pop()
        if fn is not None and not any(fn is each for each in seen):
            seen.append(fn)
            yield fn
            inside += _within(fn)


def _within(fn: Any) -> tuple[Any, ...]:
    """What to look at next: the last of these first."""
    if isinstance(fn, functools.partial):
        return (fn.func,)
    call = getattr(fn, "__call__", None)  # noqa: B004  # that of a class; a function's is none
    written = isinstance(call, FunctionType | MethodType)
    return getattr(fn, "__wrapped__", None), call if written else None


def named(fn: Any) -> Any:
    """The function inside of all wrappers, or the callable object there."""
    fn = inspect.unwrap(fn)
    while isinstance(fn, functools.partial):
        fn = inspect.unwrap(fn.func)
    return fn


@dataclass(frozen=True, slots=True)
class Style:
    """How a function is called.

    Attributes:
        generator: whether calling it returns an async generator.
        coroutine: whether calling it returns a coroutine.
        certain: whether Python says so of the function itself. Else it is a plain function around
            one that is, and only calling it shows what it returns.
    """

    generator: bool
    coroutine: bool
    certain: bool


def style(fn: Any) -> Style:
    """How a function is called."""
    certain = True
    for each in layers(fn):
        generator = inspect.isasyncgenfunction(each)
        coroutine = inspect.iscoroutinefunction(each)
        if generator or coroutine:
            return Style(generator, coroutine, certain)
        certain = certain and not hasattr(each, "__wrapped__")
    return Style(generator=False, coroutine=False, certain=True)


def returns_context_manager(fn: Any) -> bool:
    """Whether it is a function of ``@asynccontextmanager``, or around one."""
    around = (getattr(each, "__globals__", {}) for each in layers(fn))
    return any(each.get("__name__") == "contextlib" for each in around)


def is_cached(fn: Any) -> bool:
    """Whether it is a function of ``@functools.cache``, or around one."""
    return any(isinstance(each, functools._lru_cache_wrapper) for each in layers(fn))


def bound_names(fn: Any) -> frozenset[str]:
    """The parameters that a ``functools.partial`` has bound by name."""
    partials = (each for each in layers(fn) if isinstance(each, functools.partial))
    return frozenset(name for each in partials for name in each.keywords)


def global_names(fn: Any) -> Mapping[str, Any]:
    """The globals of the innermost function, or of the object's ``__call__``."""
    *_, last = layers(fn)
    return dict(getattr(last, "__globals__", {}))


def gives_something(fn: Any) -> bool:
    """Whether a function returns or yields a value, as its source says; True if there is none."""
    *_, last = layers(fn)
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(last))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return True
    return any(
        isinstance(each, ast.Return | ast.Yield)
        and each.value is not None
        and not (isinstance(each.value, ast.Constant) and each.value.value is None)
        for each in _own(tree)
    )


def _own(tree: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, and not in one that is declared within it."""
    for each in ast.iter_child_nodes(tree):
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield each
            yield from _own(each)


def place(fn: Any) -> str:
    """The file and line of a function, of what it wraps, or of its class."""
    *_, last = layers(fn)
    code = getattr(last, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(fn)


def checked(fn: Callable[..., Any], said: str) -> Callable[..., Any]:
    """The function to call for a handler: of a plain function around an async one, what it returns
    is checked.

    Args:
        fn: the handler's function.
        said: what errors call it.
    """
    found = style(fn)
    if found.certain:
        return fn
    kind: type = AsyncGenerator if found.generator else Awaitable

    def call(*args: Any, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        if not isinstance(result, kind):
            raise TypeError(
                f"{said} is a plain function around an async one, and has returned a "
                f"{type(result).__name__}, and not what that returns, an {kind.__name__}: return "
                "that, or write `async def` and await it"
            )
        return result

    return call
