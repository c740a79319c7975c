"""Checks of codecs and hooks at start-up."""

from __future__ import annotations

import inspect
from typing import Any

from wsflow.http import is_token
from wsflow.messages.codec import CODECS, Codec

WhyAndCure = tuple[str, str]


def codec_problem(codec: Any) -> WhyAndCure | None:
    """Why a Router cannot have this codec, and the fix; None if it can."""
    if isinstance(codec, str) and codec in CODECS:
        return None
    if isinstance(codec, type):
        return f"codec is the class {codec.__name__}.", f"make one: codec={codec.__name__}()."
    if not isinstance(codec, Codec):
        return (
            f"codec is {codec!r}.",
            f"use one of {', '.join(map(repr, CODECS))}, or a wsflow.Codec: an object with name, "
            "text, encode and decode.",
        )
    name, text = codec.name, codec.text
    if not isinstance(name, str) or not is_token(name) or name in CODECS:
        return (
            f"The name of the codec {type(codec).__name__} is {name!r}.",
            "use letters, digits, -, . and _, as in 'cbor', and no name of wsflow's own codecs.",
        )
    if not isinstance(text, bool):
        return (
            f"text of the codec {name!r} is {text!r}.",
            "use True if its messages are sent in text frames, else False.",
        )
    return None


def hook_problem(name: str, hook: Any) -> WhyAndCure | None:
    """Why a Router cannot have this hook, and the fix; None if it can, or there is none."""
    asks = "type, value" if name == "dec_hook" else "value"
    if hook is None or (callable(hook) and not inspect.iscoroutinefunction(hook)):
        return None
    if callable(hook):
        return f"{name} is async, and is called where nothing can wait.", "write a plain `def`."
    return f"{name} is {hook!r}, and no function.", f"pass a function: def {name}({asks})."
