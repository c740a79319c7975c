"""The servers that are measured: how each is started, on core 0, and how it is stopped."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.brokers import servers as brokers

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "benchmarks"
PYTHON = sys.executable
PEERS = "tests.benchmarks.peers"


@dataclass(frozen=True)
class Kind:
    """A server.

    Attributes:
        title: what the tables call it.
        command: how it is started, given a port.
        needs: what must be importable, or on the PATH if it starts with "$".
        compiled: whether it runs from the wheel with the compiled frame path.
        engineio: whether it speaks Engine.IO above WebSocket.
        broker: the server that it publishes through, whose URL it has in ``WSFLOW_BROKER``.
    """

    title: str
    command: Callable[[int], Sequence[str]]
    needs: tuple[str, ...] = ()
    compiled: bool = False
    engineio: bool = False
    broker: brokers.Kind | None = None


def _wsflow(*flags: str, loop: str = "asyncio") -> Callable[[int], Sequence[str]]:
    return lambda port: (
        *(PYTHON, "-m", "wsflow", "run", "tests.benchmarks.app:app", "--port", str(port)),
        *("--no-access-log", "--loop", loop, *flags),
    )


def _module(module: str, *arguments: str) -> Callable[[int], Sequence[str]]:
    return lambda port: (PYTHON, "-m", module, *arguments, str(port))


def _uvicorn(app: str, protocol: str = "auto", *flags: str) -> Callable[[int], Sequence[str]]:
    return lambda port: (
        *(PYTHON, "-m", "uvicorn", f"{PEERS}.asgi:{app}", "--port", str(port), "--ws", protocol),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning", *flags),
    )


def _granian(port: int) -> Sequence[str]:
    return (
        *(PYTHON, "-m", "granian", "--interface", "rsgi", "--host", "127.0.0.1"),
        *("--port", str(port), "--workers", "1", "--no-access-log", "--log-level", "error"),
        *("--loop", "uvloop", "--runtime-mode", "st", f"{PEERS}.asgi:rsgi"),
    )


def _node(port: int) -> Sequence[str]:
    return ("node", str(Path(__file__).parent / "peers" / "node_ws.js"), str(port))


KINDS: Mapping[str, Kind] = {
    "wsflow": Kind("wsflow, pure Python, asyncio", _wsflow()),
    "wsflow-speed": Kind("wsflow[speed]", _wsflow(loop="uvloop"), needs=("uvloop",), compiled=True),
    "wsflow-deflate": Kind("wsflow with compression", _wsflow("--compression", "deflate")),
    "wsflow-uvicorn": Kind(
        "wsflow under uvicorn, its protocol",
        lambda port: _under_uvicorn(port, "wsflow.uvicorn:Protocol"),
        needs=("uvicorn",),
    ),
    "wsflow-asgi": Kind(
        "wsflow under uvicorn, over ASGI",
        lambda port: _under_uvicorn(port, "auto"),
        needs=("uvicorn",),
    ),
    "engine": Kind("wsflow's engine, bare", lambda port: _engine(port, "asyncio")),
    "engine-speed": Kind(
        "wsflow[speed]'s engine, bare",
        lambda port: _engine(port, "uvloop"),
        needs=("uvloop",),
        compiled=True,
    ),
    "websockets": Kind("websockets by hand", _module(f"{PEERS}.hand", "websockets")),
    "pattern": Kind("websockets, consumer and producer", _module(f"{PEERS}.hand", "pattern")),
    "picows": Kind("picows", _module(f"{PEERS}.others", "picows"), needs=("picows",)),
    "picows-uvloop": Kind(
        "picows on uvloop", _module(f"{PEERS}.others", "picows+uvloop"), needs=("picows", "uvloop")
    ),
    "picows-websockets": Kind(
        "picows' websockets layer", _module(f"{PEERS}.hand", "picows-websockets"), ("picows",)
    ),
    "uvicorn": Kind(
        "uvicorn, bare ASGI", _uvicorn("bare", "websockets-sansio"), needs=("uvicorn", "fastapi")
    ),
    "starlette": Kind(
        "Starlette", _uvicorn("starlette", "auto", "--factory"), needs=("starlette", "fastapi")
    ),
    "fastapi": Kind("FastAPI", _uvicorn("fastapi", "auto", "--factory"), needs=("fastapi",)),
    "litestar": Kind(
        "Litestar", _uvicorn("litestar", "auto", "--factory"), needs=("litestar", "fastapi")
    ),
    "socketio": Kind(
        "python-socketio",
        _uvicorn("socketio", "auto", "--factory"),
        needs=("socketio", "fastapi"),
        engineio=True,
    ),
    "wsflow-redis": Kind("wsflow with Redis", _wsflow(), broker="valkey"),
    "wsflow-nats": Kind("wsflow with NATS", _wsflow(), broker="nats"),
    "socketio-redis": Kind(
        "python-socketio with Redis",
        _uvicorn("socketio_with_redis", "auto", "--factory"),
        needs=("socketio", "fastapi"),
        engineio=True,
        broker="valkey",
    ),
    "wsflow-workers": Kind("wsflow with --workers 2", _wsflow("--workers", "2")),
    "granian": Kind("granian, RSGI", _granian, needs=("granian", "fastapi")),
    "aiohttp": Kind("aiohttp", _module(f"{PEERS}.others", "aiohttp"), needs=("aiohttp",)),
    "socketify": Kind("socketify", _module(f"{PEERS}.others", "socketify"), needs=("socketify",)),
    "node": Kind("Node's ws", _node, needs=("$node", "$npm")),
}


def _under_uvicorn(port: int, protocol: str) -> Sequence[str]:
    return (
        *(PYTHON, "-m", "uvicorn", "tests.benchmarks.app:sockets", "--port", str(port)),
        *("--ws", protocol, "--loop", "asyncio", "--no-access-log", "--log-level", "warning"),
    )


def _engine(port: int, loop: str) -> Sequence[str]:
    return (PYTHON, "-m", "tests.benchmarks.engine", str(port), loop)


def missing(kind: Kind) -> list[str]:
    """What it needs and is not there."""
    return [
        name.removeprefix("$")
        for name in kind.needs
        if not (shutil.which(name[1:]) if name.startswith("$") else find_spec(name))
    ]


def pin(core: int) -> Callable[[], None]:
    """For a child process: stay on one core."""
    return lambda: os.sched_setaffinity(0, {core})


class Running:
    """A server that has been started, with the URL of its broker if it has one."""

    def __init__(self, name: str, broker: str | None = None) -> None:
        self.kind = KINDS[name]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        compiled = BUILD / "compiled"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "NODE_PATH": str(BUILD / "node_modules"),
            **({"WSFLOW_BROKER": broker} if broker else {}),
        }
        self.log = (BUILD / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            self.kind.command(self.port),
            cwd=compiled if self.kind.compiled and compiled.exists() else ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=pin(0),
        )

    def ready(self) -> bool:
        """Wait until it listens; False if it does not."""
        for _ in range(300):
            if self.process.poll() is not None:
                return False
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return True
            except OSError:
                time.sleep(0.05)
        return False

    def settle(self) -> None:
        """Wait until it has nothing left to do: it may still be closing what was before."""
        before = -1.0
        for _ in range(200):
            fields = Path(f"/proc/{self.process.pid}/schedstat").read_text().split()
            now = int(fields[0]) / 1e6  # milliseconds on a core
            if now - before < 2.5:
                return
            before = now
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and what it has started, and nothing else."""
        for each in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, each)
                self.process.wait(2)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        self.log.close()


def prepare_load() -> Path:
    """Compile the load generator.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")
    if not compiler:
        raise FileNotFoundError("the load generator is written in C, and there is no C compiler")
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "load"
    source = Path(__file__).with_name("load.c")
    subprocess.run([compiler, "-O2", "-o", program, source], check=True)
    return program


COMPILED = ROOT / "wsflow" / "transports" / "frames.py"
EXTENSION = "wsflow/transports/frames.cpython"


def prepare_compiled() -> str:
    """Build the wheel whose frame path is compiled, and unpack it. Why not, if it cannot be.

    The compiled module stays as long as its source, which imports nothing of wsflow; the others are
    as they are now.
    """
    wheels, compiled = BUILD / "wheel", BUILD / "compiled"
    stamp, digest = BUILD / "compiled.digest", _digest_of_compiled()
    if not stamp.exists() or stamp.read_text() != digest:
        stamp.unlink(missing_ok=True)
        for each in (wheels, compiled):
            shutil.rmtree(each, ignore_errors=True)
        command = [shutil.which("uv") or "uv", "build", "--wheel", "--out-dir", wheels, ROOT]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            return built.stderr[-500:]
        (wheel,) = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            if not any(name.startswith(EXTENSION) for name in archive.namelist()):
                return "there is no C compiler"
            archive.extractall(compiled)
        stamp.write_text(digest)
    for old in (compiled / "wsflow").rglob("*.py"):
        old.unlink()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "wsflow", compiled / "wsflow", ignore=ignored, dirs_exist_ok=True)
    return ""


def put_compiled(folder: Path) -> None:
    """Put what is compiled beside its source, where it is taken in place of that.

    Raises:
        OSError: it cannot be compiled.
    """
    if why_not := prepare_compiled():
        raise OSError(f"the frame path could not be compiled: {why_not}")
    for each in (BUILD / "compiled" / "wsflow" / "transports").glob("frames*.so"):
        shutil.copy(each, folder)


def _digest_of_compiled() -> str:
    """Changes with whatever the compiled module is made of."""
    digest = hashlib.sha256(sys.version.encode())
    for file in (ROOT / "pyproject.toml", ROOT / ".hatch_build.py", COMPILED):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def prepare_node() -> None:
    """Install Node's ``ws``, beside the build."""
    if shutil.which("npm") and not (BUILD / "node_modules" / "ws").exists():
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", BUILD, "ws@8"],
            check=False,
        )


if __name__ == "__main__":
    put_compiled(Path(sys.argv[1]))
