"""What other frameworks inject, and wsflow does not: what to write in its place."""

from __future__ import annotations

from typing import Any

from wsflow.declare.signatures import EMPTY, Parameter, type_name

MARKERS = ("fast_depends.", "fastapi.params", "litestar.di", "litestar.params")
"""How the names of the modules begin that have only markers of parameters."""

FRAMEWORKS = ("aiohttp", "django", "fastapi", "litestar", "quart", "starlette", "websockets")

_ASKS = ("Depends", "Security", "Provide", "Dependency")
_MARKS = ("Query", "Header", "Cookie")


def mark_problem(parameter: Parameter) -> tuple[str, str] | None:
    """Why a mark of another framework would do nothing, and the fix; None if there is none."""
    given = (*parameter.marks, parameter.default)
    found = [each for each in given if type(each).__module__.startswith(MARKERS)]
    if not found:
        return None
    kind = type(found[0])
    why = f"{kind.__name__} is of {kind.__module__.partition('.')[0]}, and does nothing here."
    wanted = type_name(parameter.bare) if parameter.annotation is not EMPTY else "T"
    plain = f"{parameter.name}: {wanted}"
    if kind.__name__ in _ASKS:
        cure = f"return it from an on_connect function annotated `-> {wanted}`; here, `{plain}`."
    elif kind.__name__ in _MARKS:
        name = kind.__name__
        cure = f"from wsflow import {name}; `{parameter.name}: Annotated[{wanted}, {name}()]`."
    else:
        cure = f"remove it, as `{plain}`; wsflow has Query, Header and Cookie."
    return why, cure


def type_cure(kind: Any) -> str | None:
    """What to ask for in place of another framework's connection or request; None for any other
    type."""
    if not isinstance(kind, type) or kind.__module__.partition(".")[0] not in FRAMEWORKS:
        return None
    if kind.__name__ in ("WebSocket", "ServerConnection", "WebSocketServerProtocol"):
        return "ask for a wsflow.Connection."
    return "ask for a wsflow.Request." if kind.__name__ in ("Request", "HTTPConnection") else None
