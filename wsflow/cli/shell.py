"""``wsflow connect`` in a terminal: a prompt below the messages that are sent and received."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import final

import msgspec
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.validation import ValidationError, Validator

from wsflow.cli.typed import MistypedError, Typed, shown
from wsflow.client import Peer
from wsflow.client import connect as open_peer
from wsflow.end import End
from wsflow.errors import Disconnected
from wsflow.log import escaped_lines, shown_uri
from wsflow.messages.codec import BoundCodec

PING_EVERY = 10.0
"""Seconds between two measurements of the round-trip time."""

HELP = """\
a message       is sent as typed; with --app: name field=value …, or JSON
/ping           measure the round-trip time
/close [CODE [REASON]]
/help, /quit    or Ctrl-D
//…             send a message that begins with /
Tab completes, the arrow keys recall earlier lines."""

COMMANDS = ("/ping", "/close", "/help", "/quit")


def history() -> History:
    """The line history, shared by all terminals."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(base) / "wsflow" / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


async def talk(connecting: open_peer, uri: str, typed: Typed, codec: BoundCodec) -> End | None:
    """Run the prompt until the server closes or the user leaves. Returns how the connection ended.

    Raises:
        ConnectError: the server cannot be reached, or refuses the connection.
    """
    async with connecting as peer:
        return await Shell(peer, uri, typed, codec).run()


@final
class Shell:
    """The prompt of one connection."""

    def __init__(self, peer: Peer, uri: str, typed: Typed, codec: BoundCodec) -> None:
        self._peer = peer
        self._uri = shown_uri(uri)
        self._typed = typed
        self._codec = codec
        self._round_trip: float | None = None
        self._sent = 0
        self._received = 0
        self._prompt: PromptSession[str] = PromptSession(
            "> ",
            history=history(),
            completer=_Words(typed),
            validator=_Check(typed),
            validate_while_typing=False,
            bottom_toolbar=self._toolbar,
        )

    def _toolbar(self) -> str:
        trip = "" if self._round_trip is None else f"  round trip {_milliseconds(self._round_trip)}"
        return f"{self._uri}{trip}  ↑{self._sent} ↓{self._received}  /help"

    async def run(self) -> End | None:
        """Run until the server closes or the user leaves."""
        self._say("class:hint", f"connected to {self._uri}")
        with patch_stdout():
            tasks = [
                asyncio.create_task(each) for each in (self._listen(), self._ask(), self._measure())
            ]
            try:
                await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        for task in tasks[:2]:
            if not task.cancelled() and (failed := task.exception()) is not None:
                raise failed
        return self._peer.end

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._peer.receive()
            except Disconnected as exc:
                self._say("ansiyellow", f"{_now()} the connection ended: {exc.end}")
                return
            self._received += 1
            self._show("←", "ansigreen", shown(message, self._codec))
            if (reply := self._typed.heard(message)) is not None:
                await self._peer.send(reply)
                self._show("→", "ansicyan", shown(reply, self._codec))

    async def _measure(self) -> None:
        while True:
            try:
                self._round_trip = await self._peer.ping()
            except Disconnected:
                self._round_trip = None
            self._prompt.app.invalidate()
            await asyncio.sleep(PING_EVERY)

    async def _ask(self) -> None:
        while True:
            try:
                line = await self._prompt.prompt_async()
            except KeyboardInterrupt:
                continue  # the line is discarded
            except EOFError:
                return
            if line.startswith("/") and not line.startswith("//"):
                if await self._command(*line.split(maxsplit=2)):
                    return
            elif line.strip():
                await self._send(line.removeprefix("/"))

    async def _send(self, line: str) -> None:
        message = self._typed.read(line)
        try:
            await self._peer.send(message)
        except Disconnected:
            return  # _listen reports it
        self._sent += 1
        self._show("→", "ansicyan", shown(message, self._codec))

    async def _command(self, name: str, *arguments: str) -> bool:
        """Run a command. Returns whether to leave."""
        if name == "/quit":
            return True
        if name == "/close":
            code = int(arguments[0]) if arguments else 1000
            await self._peer.close(code, arguments[1] if len(arguments) > 1 else "")
        elif name == "/ping":
            self._round_trip = await self._peer.ping()
            self._say("ansimagenta", f"{_now()} round trip {_milliseconds(self._round_trip)}")
        else:
            print(HELP)
        return False

    def _show(self, direction: str, colour: str, text: str) -> None:
        print_formatted_text(
            FormattedText(
                [
                    ("ansibrightblack", f"{_now()} "),
                    (f"bold {colour}", direction),
                    ("", " "),
                    *coloured(escaped_lines(pretty(text))),
                ]
            )
        )

    def _say(self, style: str, text: str) -> None:
        print_formatted_text(FormattedText([(style, escaped_lines(text))]))


def _now() -> str:
    return datetime.datetime.now().strftime("%H:%M:%S.%f")[:-3]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def pretty(text: str, width: int = 80) -> str:
    """JSON on one line if it is short, else indented; anything else as it is."""
    try:
        return text if len(text) <= width else msgspec.json.format(text, indent=2)
    except msgspec.MsgspecError:
        return text


def coloured(text: str) -> list[tuple[str, str]]:
    """JSON in colour: names, texts, numbers and words; anything else as it is."""
    try:
        json.loads(text)
    except ValueError:
        return [("", text)]
    parts: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        end, style = _token(text, at)
        parts.append((style, text[at:end]))
        at = end
    return parts


def _token(text: str, at: int) -> tuple[int, str]:
    """The end of the token that begins at ``at``, and its style."""
    if text[at] == '"':
        _, end = json.decoder.scanstring(text, at + 1)  # type: ignore[attr-defined]
        return end, "ansiblue" if text[end:].lstrip().startswith(":") else "ansigreen"
    end = at + 1
    if text[at] in "{}[],: \n":
        return end, ""
    while end < len(text) and text[end] not in '{}[],: \n"':
        end += 1
    return end, "ansiyellow" if text[at] in "-0123456789" else "ansimagenta"


class _Words(Completer):
    """Completes commands, and the names and fields of messages."""

    def __init__(self, typed: Typed) -> None:
        self._typed = typed

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.startswith("/") and " " not in text:
            for command in COMMANDS:
                if command.startswith(text):
                    yield Completion(command, -len(text))
            return
        for word, start, meaning in self._typed.complete(text):
            yield Completion(word, start, display_meta=meaning)


class _Check(Validator):
    """Validates a line before it is sent."""

    def __init__(self, typed: Typed) -> None:
        self._typed = typed

    def validate(self, document: Document) -> None:
        line = document.text
        wrong = _mistyped_command(line) if line.startswith("/") else None
        if wrong is None and line.strip() and (line[:1] != "/" or line[:2] == "//"):
            try:
                self._typed.check(line.removeprefix("/"))
            except MistypedError as exc:
                wrong = str(exc)
        if wrong is not None:
            raise ValidationError(len(line), wrong)


def _mistyped_command(line: str) -> str | None:
    name, *arguments = line.split(maxsplit=2)
    if name.startswith("//"):
        return None
    if name not in COMMANDS:
        return f"there is no {name}: {', '.join(COMMANDS)}; //… sends a message that begins with /"
    if name == "/close" and arguments and not arguments[0].isdecimal():
        return f"{arguments[0]!r} is not a close code: /close 4000 a reason"
    return None
