"""The fast path, function by function, and its compiled form."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from tests.benchmarks.servers import BUILD, ROOT, prepare_compiled
from wsflow.transports.base import NOBODY
from wsflow.transports.frames import (
    BATCH,
    MASKED,
    UNMASKED,
    Boundary,
    Found,
    all_whole,
    control,
    only,
    short,
    split,
    waits,
    whole,
)

LARGEST = 1000


both = pytest.mark.parametrize("mask", [MASKED, UNMASKED])


def frame(payload: bytes, mask: int, opcode: Opcode = Opcode.TEXT) -> bytes:
    return WireFrame(opcode, payload).serialize(mask=mask == MASKED)


@both
@given(st.lists(st.binary(max_size=LARGEST), max_size=8), st.booleans())
def test_whole_frames_are_taken(mask: int, payloads: list[bytes], text: bool) -> None:
    opcode = Opcode.TEXT if text else Opcode.BINARY
    data = b"".join(frame(payload, mask, opcode) for payload in payloads)
    found: list[Found] = []
    assert split(data, 0, mask, LARGEST, found) == len(data)
    assert [(payload, kind) for payload, kind, _ in found] == [(each, text) for each in payloads]


@both
@given(st.data())
def test_one_frame_alone(mask: int, data: st.DataObject) -> None:
    """As if it were one of several; whatever else is there is left."""
    opcode = data.draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]))
    size = data.draw(st.sampled_from([0, 1, 2, 125, 126, 127, LARGEST, LARGEST + 1, 65536]))
    wire = bytearray(frame(bytes(size), data.draw(st.sampled_from([mask, mask, UNMASKED])), opcode))
    for at in data.draw(st.lists(st.integers(0, min(len(wire), 14) - 1), max_size=2)):
        wire[at] = data.draw(st.integers(0, 255))
    read = data.draw(
        st.sampled_from([bytes(wire), bytes(wire) * 2, bytes(wire[:-1]), bytes(wire) + b"x"])
    )
    found: list[Found] = []
    after = split(read, 0, mask, LARGEST, found)
    one = only(read, mask, LARGEST)
    assert one is None or ([one], len(read)) == (found, after)
    if len(found) == 1 and after == len(read) >= 4:
        assert one == found[0]


@both
def test_only_so_many_at_once(mask: int) -> None:
    data = frame(b"a", mask) * (BATCH + 1)
    found: list[Found] = []
    after = split(data, 0, mask, LARGEST, found)
    assert (len(found), after) == (BATCH, found[-1][2])
    assert split(data, after, mask, LARGEST, found) == len(data)


@both
@pytest.mark.parametrize(("size", "taken"), [(LARGEST, 1), (LARGEST + 1, 0), (65536, 0)])
def test_what_is_too_large_is_not_taken(size: int, taken: int, mask: int) -> None:
    found: list[Found] = []
    split(frame(bytes(size), mask), 0, mask, LARGEST, found)
    assert len(found) == taken


@both
@pytest.mark.parametrize("size", [0, 1, 125, 126, LARGEST, LARGEST + 1, 65535, 65536])
@pytest.mark.parametrize("have", [0, 1, 2, 3, 4, 6, 8, 10, 13])
def test_what_is_worth_waiting_for(size: int, have: int, mask: int) -> None:
    """The start of a frame that will be taken, as far as that can be told."""
    data = frame(bytes(size), mask)[:have]
    least = size + (6 if mask else 2)
    assert split(data, 0, mask, LARGEST, []) == (len(data) if least <= have else 0)
    taken = size <= LARGEST
    told = have >= (2 if size < 126 or size > 65535 else 4)
    if len(data) < least:
        assert waits(data, 0, mask, LARGEST) == (taken or not told)


@pytest.mark.parametrize("start", [b"\x01", b"\x80", b"\x88\x80", b"\xc1\x80", b"\x81\x05abcde"])
def test_what_is_not_worth_waiting_for(start: bytes) -> None:
    assert not waits(start, 0, MASKED, LARGEST)
    assert split(start + bytes(20), 0, MASKED, LARGEST, []) == 0


@pytest.mark.parametrize("start", [b"\x01", b"\x80", b"\x88\x00", b"\xc1\x00", b"\x81\x85keys"])
def test_what_a_client_does_not_wait_for(start: bytes) -> None:
    assert not waits(start, 0, UNMASKED, LARGEST)
    assert split(start + bytes(20), 0, UNMASKED, LARGEST, []) == 0


@given(st.binary(max_size=LARGEST), st.booleans(), st.integers(1, 7), st.binary(max_size=9))
def test_where_a_frame_ends(payload: bytes, mask: bool, piece: int, behind: bytes) -> None:
    sent = WireFrame(Opcode.PING, payload).serialize(mask=mask)
    data = sent + behind
    boundary, at = Boundary(), 0
    while not boundary.reached:
        assert at < len(sent)
        at = boundary.take(data[: at + piece], at)
    assert at == len(sent)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("text", [True, False])
def test_frames_that_are_sent(size: int, text: bool) -> None:
    opcode = Opcode.TEXT if text else Opcode.BINARY
    assert whole(bytes(size), text) == WireFrame(opcode, bytes(size)).serialize(mask=False)


@given(
    st.lists(
        st.tuples(st.binary(max_size=140) | st.just(bytes(65536)), st.booleans(), st.booleans())
    )
)
def test_frames_that_are_sent_together(messages: list[tuple[bytes, bool, bool]]) -> None:
    assert all_whole(messages) == b"".join(whole(data, text) for data, text, _ in messages)


@given(st.binary(max_size=140), st.sampled_from(Opcode), st.binary(max_size=9))
def test_control_frames(payload: bytes, opcode: Opcode, behind: bytes) -> None:
    sent = frame(payload, MASKED, opcode)
    taken = opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG) and len(payload) < 126
    for start in (0, 3):
        data = bytes(start) + sent
        assert control(data + behind, start) == (payload if taken else None)
        assert all(control(data[:end], start) is None for end in range(start, len(data)))
    sent = frame(payload, UNMASKED, opcode)
    assert control(sent + bytes(6), 0) is None
    if taken:
        assert short(0x80 | opcode, payload) == sent


def test_nobody_takes_all_and_says_nothing() -> None:
    assert NOBODY.messages_received([(b"a", True, 0)]) == 1


def test_without_the_librarys_compiled_masking() -> None:
    program = (
        "import sys; sys.modules['websockets.speedups'] = None\n"
        "from wsflow.transports.frames import split\n"
        "found = []\n"
        "print(split(bytes([0x81, 0x82, 1, 2, 3, 4, 98, 96]), 0, 0x80, 10, found), found)"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said == "8 [(b'cb', True, 8)]\n"


@pytest.mark.long
@pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("uv")), reason="needs a C compiler and uv"
)
def test_the_compiled_form_does_the_same() -> None:
    """It is built as for the wheel, and the tests of the fast path run on it."""
    assert prepare_compiled() == ""
    compiled = BUILD / "compiled"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--import-mode=append", "-p", "no:cacheprovider"),
        *("--rootdir", ROOT, "-c", ROOT / "pyproject.toml", "-o", "addopts="),
        *(ROOT / "tests" / "conformance" / "test_fast_path.py", Path(__file__)),
        *("-k", "not compiled"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in [name for name in environment if name.startswith(("COV", "PYTEST"))]:
        del environment[name]
    module = "import wsflow.transports.frames as f; print(f.__file__)"
    file = subprocess.check_output([sys.executable, "-c", module], cwd=compiled, text=True)
    assert file.strip().endswith((".so", ".pyd"))
    done = subprocess.run(command, cwd=compiled, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@given(st.binary(max_size=200), st.booleans())
def test_frames_of_small_messages(payload: bytes, text: bool) -> None:
    wire = whole(payload, text)
    assert wire[0] == (0x81 if text else 0x82)
    assert wire.endswith(payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_are_as_websockets_builds_them(size: int) -> None:
    from websockets.frames import Frame as WireFrame
    from websockets.frames import Opcode

    payload = bytes(size)
    assert whole(payload, False) == WireFrame(Opcode.BINARY, payload).serialize(mask=False)
