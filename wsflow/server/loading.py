"""Loading an app from ``module:app``."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from wsflow.declare.functions import place
from wsflow.declare.router import Router
from wsflow.wiring.compile import compile_app
from wsflow.wiring.plan import AppPlan


class LoadError(Exception):
    """The app cannot be loaded: one line with the reason and the fix."""


def load(target: str) -> Router:
    """Import the app that ``module:attribute`` or ``module:factory()`` names.

    The current directory is searched first, as with ``python -m``.

    Raises:
        LoadError: it does not exist, is not a Router, or importing it fails.
    """
    name, _, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise LoadError(f"name the module, not the file: {dotted}:{attribute or 'app'}")
    if name.startswith("."):
        raise LoadError(f"{target!r} is relative: name the module in full, as in examples.chat:app")
    if not name or not attribute:
        raise LoadError(
            f"{target!r} is not module:attribute: name the app, as in examples.chat:app"
        )
    module = _module(name)
    called = attribute.endswith("()")
    value: object = module
    for part in attribute.removesuffix("()").split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise LoadError(
                f"module {name!r} has no attribute {attribute.removesuffix('()')!r}"
                + _routers_of(module, name)
            ) from None
    if called:
        value = _call(target, value)
    if isinstance(value, Router):
        return value
    if (application := _application(value)) is not None:
        what = "function" if inspect.isroutine(value) else type(value).__name__
        raise LoadError(
            f"{target!r} is {application} ({what}), and wsflow serves a Router: serve that with "
            "a server of its own, and move its WebSockets to a Router"
            + _routers_of(module, name, "; ")
        )
    if inspect.isroutine(value) and not called:
        raise LoadError(f"{target!r} is a function: if it is a factory, write {target}()")
    raise LoadError(
        f"{target!r} is {_article(type(value).__name__)}, not a Router" + _routers_of(module, name)
    )


def wired(target: str) -> AppPlan:
    """Load and wire an app. Its title is that of its module, unless it has one.

    Raises:
        LoadError: it cannot be loaded.
        DeclarationError: its declarations are invalid.
    """
    plan = compile_app(load(target))
    title = plan.about.title or target.partition(":")[0]
    return replace(plan, about=replace(plan.about, title=title))


def current_directory() -> Path:
    """The current directory.

    Raises:
        LoadError: it does not exist any more.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise LoadError(
            "the current directory does not exist any more: change to another one, or to the one "
            "that was made in its place"
        ) from None


def _module(name: str) -> ModuleType:
    here = str(current_directory())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise LoadError(
                f"there is no module {exc.name!r} in {here} or among the installed packages: "
                "check the name, or change to the directory that has it"
            ) from None
        raise LoadError(_failure(f"importing {name!r} failed", exc)) from None
    except (Exception, SystemExit) as exc:
        raise LoadError(_failure(f"importing {name!r} failed", exc)) from None


def _call(target: str, factory: object) -> object:
    if isinstance(factory, Router) or not callable(factory):
        raise LoadError(f"{target.removesuffix('()')!r} cannot be called: remove the ()")
    if inspect.iscoroutinefunction(factory):
        raise LoadError(f"{target!r} is async: a factory must be a plain function")
    try:
        inspect.signature(factory).bind()
    except TypeError as exc:
        raise LoadError(
            f"{target!r} is called without arguments: {exc} ({place(factory)})"
        ) from None
    try:
        return factory()
    except (Exception, SystemExit) as exc:
        raise LoadError(_failure(f"calling {target!r} failed", exc)) from None


_APPLICATIONS = {
    ("scope", "receive", "send"): "an ASGI application",
    ("environ", "start_response"): "a WSGI application",
}


def _application(value: object) -> str | None:
    """What other servers serve, by the names of its parameters; None if it is none of that."""
    if not callable(value) or isinstance(value, type):
        return None
    try:
        names = tuple(inspect.signature(value).parameters)
    except (TypeError, ValueError):  # a built-in one
        return None
    return _APPLICATIONS.get(names)


def _failure(what: str, exc: BaseException) -> str:
    """One line for an error in the user's own code, with its innermost file and line there."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [each for each in frames if not Path(each.filename).is_relative_to(_WSFLOW)]
    frame = (own or frames)[-1]
    place = f" ({frame.filename}:{frame.lineno})"
    said = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, SyntaxError):
        place = f" ({exc.filename}:{exc.lineno})"
        said = f"{type(exc).__name__}: {exc.msg}"
    elif isinstance(exc, AttributeError) and isinstance(exc.name, str):
        near = get_close_matches(exc.name, dir(exc.obj), 1)
        said += f": did you mean {near[0]}?" if near else ""
    return f"{what}: {said}{place}"


_WSFLOW = Path(__file__).parents[1]


def _routers_of(module: ModuleType, name: str, before: str = ": ") -> str:
    found = [each for each, value in vars(module).items() if isinstance(value, Router)]
    if not found:
        return f"{before}{name!r} has no Router"
    return f"{before}did you mean {' or '.join(f'{name}:{each}' for each in found)}?"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
