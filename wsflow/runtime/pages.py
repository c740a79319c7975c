"""Plain HTTP on the port: pages, files, and whether the app is well.

Each request has a connection of its own, which is closed behind the answer. Whoever wants more than
a page beside its WebSocket has a web framework, and mounts the app in that (``wsflow.asgi``).
"""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final
from urllib.parse import unquote, urlencode

import anyio

from wsflow.errors import Reject, let_go
from wsflow.limits import Limits
from wsflow.log import Log
from wsflow.observer import Observers
from wsflow.request import Request
from wsflow.response import BINARY, TEXT, Response, response_of
from wsflow.runtime.admission import Admission, read
from wsflow.runtime.ending import body_of
from wsflow.runtime.status import METRICS, Status, respond
from wsflow.tasks.children import Children
from wsflow.tasks.detached import detach
from wsflow.tasks.threads import Stuck, Threads
from wsflow.tasks.waiting import Latch, Timer
from wsflow.topics.registry import Directory
from wsflow.transports.base import Exchange
from wsflow.transports.handshake import ALLOW
from wsflow.wiring.environment import Environment
from wsflow.wiring.plan import AppPlan, PagePlan

log = Log("wsflow")

_NO_NAME = frozenset("/\\\0")
"""What no name of a file may have, however it was encoded."""

LARGEST = 64 * 1024 * 1024
"""The most bytes of a file: it is read as a whole."""
THREADS = 8
"""How many files are read at a time, each in a thread."""


class Owner(Protocol):
    """The app, as its pages see it."""

    @property
    def plan(self) -> AppPlan: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def values(self) -> dict[Any, Any]: ...
    @property
    def observers(self) -> Observers: ...


@final
class Pages:
    """Answers the requests that are none for a WebSocket.

    Args:
        app: the app.
        admission: checks the host, and counts the requests that are being answered.

    Attributes:
        files: the directory whose files are served; None for none.
        status: answers requests about the process; None if nothing does here.
    """

    def __init__(self, app: Owner, admission: Admission) -> None:
        self._app = app
        self._admission = admission
        self._tasks = Children(detach, self._failed)
        self._asked: dict[_Asked, str] = {}  # whose functions run, and their names
        self._threads = Threads(THREADS)
        self.files: Path | None = None
        self.status: Status | None = None

    @property
    def running(self) -> list[str]:
        """What answers, or waits until its answer has gone out."""
        return self._tasks.names

    def open(self, method: str, request: Request, exchange: Exchange) -> None:
        """Answer a request, now or later, through an exchange. Needs no current task."""
        asked = _Asked(method, request, exchange)
        try:
            status = self._status(request)
            if status is None or request.path == METRICS:
                self._admission.check_host(request)
            if status is None:
                found = self._find(request)
            if method == "OPTIONS":
                asked.send(Response(status=204, headers=[ALLOW]))
                return
            if method not in ("GET", "HEAD"):
                raise Reject(405, headers=[ALLOW])
            if status is not None:
                status.answer(method, request, exchange)
                return
            if self._admission.closed:
                raise Reject(503)
            self._admission.check_room(request)
        except Reject as refusal:
            asked.send(of_refusal(refusal))
            self._app.observers.refused(request.path, request.client, refusal.status)
            return
        self._admission.begun(request)
        self._asked[asked] = found.name
        detach(partial(self._start, asked, found), name=found.name)

    async def _start(self, asked: _Asked, found: _Page | _File) -> None:
        if self._tasks.closed:
            self._answer(asked, STOPS)  # it does not start
        scope = anyio.CancelScope()
        run = partial(self._run, asked, found, scope)
        self._tasks.start(found.name, "consumer", run, scope)

    async def _run(self, asked: _Asked, found: _Page | _File, scope: anyio.CancelScope) -> None:
        """Answer a request, which counts until its function has ended and its answer has gone
        out."""
        try:
            asked.expires(self._app.limits.open_timeout, partial(self._late, asked, scope))
            await self._respond(asked, found)
            await asked.sent.wait()
        finally:
            self._admission.ended(asked.request, None)

    async def _respond(self, asked: _Asked, found: _Page | _File) -> None:
        try:
            try:
                response = await found.respond()
            except Reject as refusal:
                let_go(refusal)
                response = of_refusal(refusal)
            self._answer(asked, response)
        except BaseException as exc:
            if asked.answered:
                raise  # it was cancelled
            log.error("%s failed", found.name, exc_info=exc)
            let_go(exc)
            self._answer(asked, FAILED)
        finally:
            del self._asked[asked]

    def _late(self, asked: _Asked, scope: anyio.CancelScope) -> None:
        """It is not done in time. It may not notice that it is cancelled, as in a thread."""
        seconds = self._app.limits.open_timeout
        log.error("%s is not done after %g s (open_timeout)", self._asked[asked], seconds)
        self._answer(asked, STOPS)
        scope.cancel()

    def _answer(self, asked: _Asked, response: Response) -> None:
        if not asked.answered:
            asked.send(response)
            request = asked.request
            self._app.observers.answered(
                asked.method, request.path, request.client, response.status, asked.seconds
            )

    def _failed(self, name: str, exc: BaseException) -> None:
        """One request does not stop the app. What could be raised here was answered."""
        log.error("%s failed", name, exc_info=exc)

    def _status(self, request: Request) -> Status | None:
        """What answers a request about the process: under whatever name of the host it is asked,
        and without a line in the log. None for other paths, and those of the app."""
        plan, path, status = self._app.plan, request.path, self.status
        if status is None or not status.has(path):
            return None
        taken = plan.pages.match(path) is not None or plan.routes.match(path) is not None
        two = len(request.headers.get_all("Host")) > 1
        return None if taken or two else status

    def _find(self, request: Request) -> _Page | _File:
        """What answers for a path.

        Raises:
            Reject: there is nothing, or only a WebSocket.
        """
        plan = self._app.plan
        page = plan.pages.match(request.path)
        if page is not None:
            return _Page(self._app, page[0], request.at(page[1]))
        absent = Reject(404)
        if plan.routes.match(request.path) is not None:
            body = "this is a WebSocket: connect to it by one, as in new WebSocket(url)\n"
            headers = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            absent = Reject(426, body, headers)
        if self.files is None:
            raise absent
        return _File(self.files, self._threads, request, absent)

    # -- the end

    async def stop(self, seconds: float) -> bool:
        """Wait until all that was asked is answered, and the answers have gone out, for at most so
        many seconds. Returns whether no function had to be cut short."""
        if self._tasks.closed:
            return True
        with anyio.move_on_after(seconds):
            await self._tasks.finished("consumer")
        named = list(self._asked.values())
        for name in named:
            log.warning("%s is cancelled: the grace period is over", name)
        self.cut_short()
        return not named

    def cut_short(self) -> None:
        """Answer 503 to all that are being answered, and cancel what does it."""
        self._tasks.close()
        for asked in list(self._asked):
            self._answer(asked, STOPS)

    async def reap_within(self, seconds: float) -> list[str]:
        """Wait for what was cancelled. Returns the names of what does not end."""
        return await self._tasks.reap_within(seconds)


@final
class _Asked:
    """A request, and where its answer goes.

    Attributes:
        method: its method.
        request: the request.
        answered: whether it is answered.
        sent: set when its answer has gone out, or never will.
    """

    def __init__(self, method: str, request: Request, exchange: Exchange) -> None:
        self.method = method
        self.request = request
        self.answered = False
        self.sent = Latch()
        self._exchange = exchange
        self._began = exchange.now()
        self._timer: Timer | None = None

    @property
    def seconds(self) -> float:
        """Since it has come."""
        return self._exchange.now() - self._began

    def expires(self, seconds: float, late: Callable[[], None]) -> None:
        """Call a function if it is not answered in time."""
        self._timer = self._exchange.after(seconds, late)

    def send(self, response: Response) -> None:
        """Answer it. Without effect after the first time."""
        respond(self._exchange, self.method, response, self.sent.set)
        self.answered = True
        if self._timer is not None:
            self._timer.cancel()


def of_refusal(refusal: Reject) -> Response:
    """The answer for a Reject."""
    kind = next((value for name, value in refusal.headers if name.lower() == "content-type"), TEXT)
    others = [each for each in refusal.headers if each[0].lower() != "content-type"]
    return Response(body_of(refusal), refusal.status, others, kind)


STOPS = of_refusal(Reject(503))
"""The answer of an app that stops, or has not answered in time."""
FAILED = of_refusal(Reject(500))
"""The answer where something has failed."""

# -- what answers


@final
class _Page:
    """A function that was declared with ``Router.get``."""

    def __init__(self, app: Owner, plan: PagePlan, request: Request) -> None:
        self._app = app
        self._plan = plan
        self._request = request
        self.name = f"{plan.handler} ({plan.handler.where})"

    async def respond(self) -> Response:
        app = self._app
        values = read(self._plan.request_sources, self._request)
        environment = Environment(app.directory, app.values, values, page=self._request)
        value = await self._plan.invocation.bind(environment)()
        return response_of(value, self._plan.to_json)


@final
class _File:
    """A file of a directory, or ``index.html`` of a directory below it. Nothing outside of it,
    and nothing whose name begins with a dot.

    Args:
        root: the directory.
        threads: where files are read.
        request: what is asked for.
        absent: the answer if there is no such file.
    """

    def __init__(self, root: Path, threads: Threads, request: Request, absent: Reject) -> None:
        self._root = root
        self._threads = threads
        self._request = request
        self._absent = absent
        self.name = "a file"

    async def respond(self) -> Response:
        try:
            return await self._threads.run(self._read)
        except Stuck:
            log.often(logging.ERROR, "no file can be read: all %d threads hang in that", THREADS)
            return STOPS

    def _read(self) -> Response:
        """The answer, in a thread."""
        request = self._request
        try:
            path, slash = self._place(request.path), request.path.endswith("/")
            if path is not None and path.is_dir():
                if not slash:
                    return Response(status=308, headers=[("Location", _with_slash(request))])
                path, slash = self._place(f"{request.path}index.html"), False
            if path is None or slash or not path.is_file():
                return of_refusal(self._absent)
            seen = path.stat()
            if seen.st_size > LARGEST:
                log.often(logging.ERROR, "%s is larger than %d MiB", path, LARGEST >> 20)
                return FAILED
            tag = f'"{seen.st_mtime_ns:x}-{seen.st_size:x}"'
            headers = [
                ("ETag", tag),
                ("Last-Modified", formatdate(seen.st_mtime, usegmt=True)),
                ("Cache-Control", "no-cache"),
            ]
            kind = _type_of(path)
            asked = request.headers.get_all("If-None-Match")
            known = {each.strip().removeprefix("W/") for text in asked for each in text.split(",")}
            if tag in known or "*" in known:
                return Response(b"", 304, headers, kind)
            return Response(path.read_bytes(), 200, headers, kind)
        except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: links in a circle
            if not isinstance(exc, FileNotFoundError | NotADirectoryError | ValueError):
                log.often(logging.WARNING, "a file cannot be read: %s", exc)
            return of_refusal(self._absent)

    def _place(self, path: str) -> Path | None:
        """The file of a path; None if it is none that is served."""
        names = [unquote(name, errors="strict") for name in path.split("/") if name]
        if any(name.startswith(".") or not _NO_NAME.isdisjoint(name) for name in names):
            return None
        found = self._root.joinpath(*names).resolve()
        if not found.is_relative_to(self._root):
            return None
        hidden = any(name.startswith(".") for name in found.relative_to(self._root).parts)
        return None if hidden else found


def _with_slash(request: Request) -> str:
    """The target of a request for a directory, on the same host, with the slash that is lacking."""
    query = urlencode(
        [(name, each) for name in request.query for each in request.query.get_all(name)]
    )
    return f"/{request.path.lstrip('/')}/{'?' if query else ''}{query}"


def _type_of(path: Path) -> str:
    kind, encoding = mimetypes.guess_type(path.name)
    if kind is None or encoding is not None:
        return BINARY
    text = kind.startswith("text/") or kind in ("application/javascript", "application/json")
    return f"{kind}; charset=utf-8" if text else kind
