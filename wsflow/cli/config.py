"""Settings of commands from the environment and from ``[tool.wsflow]`` in ``pyproject.toml``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

from cyclopts import App, Token
from cyclopts.argument import Argument, ArgumentCollection

from wsflow.brokers.select import MEMORY
from wsflow.server.exits import UsageError
from wsflow.server.loading import current_directory
from wsflow.server.settings import Settings

NAMES = ("target", *(each.name for each in fields(Settings)))
"""What ``WSFLOW_…`` and ``[tool.wsflow]`` may set. A command reads those that it has."""

PREFIX = "WSFLOW_"
FILE = "pyproject.toml"

NEARER = ("cli", "env")
"""The sources that come before the project, nearest first, as cyclopts names them."""

ADDRESSES = (("host", "port"), ("uds", "uds_mode"), ("fd",))
"""The ways to say where to listen, of which a server has one."""


def configure(
    app: App,
    commands: tuple[str, ...],
    arguments: ArgumentCollection,
    *,
    how: dict[str, str] | None = None,
) -> None:
    """Add what the project sets to what flags and the environment have set.

    Args:
        how: gets how each setting was set, by its name.

    Raises:
        UsageError: the environment or the project sets what is no setting, the project cannot be
            read, or settings contradict each other.
        LoadError: the current directory does not exist.
    """
    check_environment()
    given = {each.field_info.name: each for each in arguments if each.field_info.name in NAMES}
    for name, tokens in _of_project():
        if name in given and not given[name].tokens:
            _set(given[name], tokens)
    _listen_once(given)
    if how is not None:
        how.update({name: _said(each.tokens[0]) for name, each in given.items() if each.tokens})


_SETTING = re.compile(r"^\w+|(?<= and )\w+(?= (?:is|are) )")


def as_set(text: str, how: Mapping[str, str]) -> str:
    """What is wrong with settings, with the names under which they were set: flags, variables of
    the environment, or keys of the project."""

    def name(found: re.Match[str]) -> str:
        flag = f"--{found[0].replace('_', '-')}" if found[0] in NAMES else found[0]
        return how.get(found[0], flag)

    return _SETTING.sub(name, text)


def _set(argument: Argument, tokens: Sequence[Token]) -> None:
    if len(tokens) > 1 and get_origin(argument.hint) is not tuple:
        raise UsageError(f"{_said(tokens[0])} is a list, and it has one value: write that alone")
    for token in tokens:
        argument.append(token)


def _said(token: Token) -> str:
    """A setting as it was set, and in which file."""
    return (
        f"{token.keyword} in {token.source}" if token.source not in NEARER else f"{token.keyword}"
    )


def _listen_once(given: Mapping[str, Argument]) -> None:
    """Keep one way to listen: that of the nearest source which has one.

    Raises:
        UsageError: it has several.
    """
    own = [token.source for name in given for token in given[name].tokens]
    for source in (*NEARER, *own):
        found = {
            way: _said(given[name].tokens[0])
            for way in ADDRESSES
            for name in way
            if name in given and any(token.source == source for token in given[name].tokens)
        }
        if len(found) > 1:
            one, other, *_ = found.values()
            raise UsageError(
                f"{one} and {other} are both set, and a server listens on one of them: remove one"
            )
        if found:
            for name in (name for way in ADDRESSES if way not in found for name in way):
                given[name].tokens.clear()
            return


def check_broker(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Check that several workers were not told to do without a broker, since one would be started.

    Raises:
        UsageError: they were.
    """
    given = {each.field_info.name: each.tokens for each in arguments}
    if not given["workers"]:
        return
    workers = given["workers"][-1].value
    broker = given["broker"][-1:]
    if broker and broker[0].value == MEMORY and workers.isdecimal() and int(workers) > 1:
        raise UsageError(
            f"{_said(broker[0])} is {MEMORY}, which carries nothing between {workers} workers: "
            "name another broker, or none to have wsflow start one (wsflow[cluster])"
        )


# -- the environment

_SERVICE = re.compile(
    r"WSFLOW_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


def of_a_service(name: str) -> bool:
    """Whether Kubernetes has set a variable for a Service whose name begins with wsflow."""
    if not _SERVICE.fullmatch(name):
        return False
    return name != "WSFLOW_PORT" or bool(_SERVICE_ADDRESS.fullmatch(os.environ[name]))


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def check_environment() -> None:
    """Check that each WSFLOW_… variable is a setting, since others would be ignored silently.

    Raises:
        UsageError: one is not.
    """
    known = [*map(variable, NAMES)]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known and not of_a_service(name):
            raise UsageError(
                f"the environment variable {name} is not a setting{_meant(name, known)}"
            )


def _meant(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else "; see wsflow run --help"


# -- the project


def _of_project() -> Iterator[tuple[str, list[Token]]]:
    """What the nearest ``pyproject.toml`` sets, of this directory and those above it.

    Raises:
        UsageError: it cannot be read, or sets what is no setting.
    """
    here = current_directory()
    file = next((each for at in (here, *here.parents) if (each := at / FILE).is_file()), None)
    for key, value in _table(file).items() if file is not None else ():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            raise UsageError(
                f"{file}: [tool.wsflow.{key}] is a table, and settings have none: write them in "
                "[tool.wsflow]"
            )
        if name not in NAMES:
            raise UsageError(f"{file}: {key!r} is not a setting{_meant(name, [*NAMES])}")
        values = value if isinstance(value, list) else [value]
        yield (
            name,
            [
                Token(keyword=key, value=str(each), source=str(file), index=at)
                for at, each in enumerate(values)
            ],
        )


def _table(file: Path) -> Mapping[str, Any]:
    try:
        found: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise UsageError(f"{file} cannot be read: {exc}") from None
    for key in ("tool", "wsflow"):
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise UsageError(f"{file}: {key!r} is no table: write [tool.wsflow]")
    return dict(found)
