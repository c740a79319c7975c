"""The generated client: its types with ``tsc``, its runtime in Node, all of it in Chromium."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Union

import jwt
import msgspec
import pytest

import wsflow
from examples import members
from tests.brokers.servers import BrokerServer
from tests.browser import chromium
from tests.contract.served import Note, notes
from tests.node import FOLDER, UNTIL, Js, compile_all, node, program
from tests.processes import Server
from wsflow import Cookie, Header, Query, Router
from wsflow.auth import Bearer
from wsflow.cli.main import main
from wsflow.contract.describe import describe
from wsflow.contract.typescript import EXACT, REACT, RUNTIME, typescript
from wsflow.server.loading import wired
from wsflow.wiring.compile import compile_app

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = [
    *("calls", "chat", "counter", "cursors", "devices", "direct", "echo", "jobs", "login"),
    *("members", "prices", "tutorial", "workers"),
]
BOTH = pytest.mark.parametrize("engine", ["node", "chromium"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client_of(target: str) -> str:
    return typescript(describe(wired(target)))


CLIENTS = {
    **{f"{each}.ts": client_of(f"examples.{each}:app") for each in EXAMPLES},
    "served.ts": client_of("tests.contract.served:app"),
}

COMMON_JS = {
    "react": "react/cjs/react",
    "scheduler": "scheduler/cjs/scheduler",
    "react-dom": "react-dom/cjs/react-dom",
    "react-dom/client": "react-dom/cjs/react-dom-client",
}


@pytest.fixture(scope="session")
def built() -> Path:
    """The clients, compiled as strictly as can be, with what uses and misuses them, and a page."""
    sources = {"hooks.ts": REACT}
    for name in ("uses.ts", "misuses.ts"):
        sources[name] = (HERE / name).read_text()
    for name in ("page.html", "react.js", "runtime_test.mjs"):
        sources[name] = (HERE / name).read_text()
    page = (ROOT / "docs/typescript.md").read_text()
    blocks = re.findall(r"^```(typescript|tsx)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for number, (kind, text) in enumerate(blocks):
        sources[f"docs_{number}.{kind.replace('typescript', 'ts')}"] = text
    folder = compile_all({**CLIENTS, **sources})
    for name, file in COMMON_JS.items():
        text = (FOLDER / "node_modules" / f"{file}.development.js").read_text()
        (folder / f"{name.replace('/', '-')}.cjs").write_text(text)
    return folder


@pytest.mark.long
def test_uses_compile_and_misuses_do_not(built: Path) -> None:
    """A misuse that compiles is an error: ``@ts-expect-error`` has found none."""
    assert all((built / f"{name}.js").exists() for name in ("uses", "docs_0", "docs_2"))
    misuses = (HERE / "misuses.ts").read_text()
    with pytest.raises(AssertionError, match=r"misuses\.ts\(\d+,\d+\): error TS"):
        compile_all({**CLIENTS, "misuses.ts": misuses.replace("@ts-expect-error", "")}, emit=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"types": [], "lib": ["es2022", "dom"]},
        {
            "types": ["node"],
            "lib": ["es2022"],
            "module": "nodenext",
            "moduleResolution": "nodenext",
        },
    ],
    ids=["browser", "node"],
)
def test_no_other_types_are_needed(options: dict[str, Any]) -> None:
    compile_all({each: CLIENTS[each] for each in ("chat.ts", "served.ts")}, emit=False, **options)


def weight(script: str) -> int:
    """Bytes of what tsc makes, without comments and indentation, in gzip. A minifier makes less."""
    return len(gzip.compress("".join(map(str.strip, script.splitlines(True))).encode()))


@pytest.mark.long
def test_a_client_is_small(built: Path) -> None:
    for each in EXAMPLES:
        assert weight((built / f"{each}.js").read_text()) < 4096, each
    assert weight((built / "served.js").read_text()) < 4096 + 1024  # large integers, two paths


@pytest.mark.long
def test_the_runtime(built: Path) -> None:
    run = subprocess.run(
        [program("node"), "--test", "runtime_test.mjs"], cwd=built, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_only_who_has_large_integers_reads_them() -> None:
    assert EXACT in CLIENTS["served.ts"]
    assert "exactly(" not in CLIENTS["chat.ts"]
    assert all(each.endswith(RUNTIME) for each in CLIENTS.values())


@pytest.mark.long
def test_a_client_of_odd_names() -> None:
    """Names that mean something in TypeScript, in the runtime, or to another path."""
    names = ["Connection", "Map", "Object", "State", "Record", "Promise", "Array", "NewConnection"]
    fields = [("constructor", int), ("a", str)]
    kinds = [
        msgspec.defstruct(name, fields, tag=f'{name}"\\', rename={"a": "a-b"}, tag_field="the tag")
        for name in names
    ]

    async def take(
        message: Any,
        token: Annotated[str, Query()],
        new: Annotated[int | None, Query("a.b")] = None,
        after: Annotated[str, Query("class_", resumes=True)] = "",
        agent: Annotated[str, Header()] = "",
        must: Annotated[str, Cookie()] = "",
    ) -> Any: ...

    take.__annotations__["message"] = take.__annotations__["return"] = Union[tuple(kinds)]  # noqa: UP007
    app = Router("/", title="*/ odd", description="`odd`\n*/")
    for path in ("/new", "/New", "/", "/räume/{class_}", "/2fa", "/a/b", "/a-b", "/clearTimeout"):
        each = Router(path, deprecated=path == "/2fa")
        each.on_connect(Bearer(members.User, key=members.KEY))
        each.consumer(take)
        app.include(each)
    text = typescript(describe(compile_app(app)))
    compile_all({"odd.ts": text}, emit=False)


@pytest.mark.parametrize(("format", "text"), [("typescript", CLIENTS["chat.ts"]), ("react", REACT)])
def test_the_command(format: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "client.ts"
    with pytest.raises(SystemExit, match="0"):
        main(["schema", "examples.chat:app", "--format", format, "-o", str(file)])
    assert file.read_text("utf-8") == text


def test_a_path_that_speaks_no_json() -> None:
    app = Router("/packed", codec="msgpack")

    @app.consumer
    async def typed(message: members.Say) -> None: ...

    @app.consumer
    async def raw(message: str) -> None: ...

    text = typescript(describe(compile_app(app)))
    assert "// /packed speaks only msgpack, which this client does not." in text
    assert "new Connection" not in text


# -- in Node and in a browser


@asynccontextmanager
async def javascript(engine: str, built: Path, server: Server) -> AsyncIterator[Js]:
    """Where scripts run: a process of Node, or a page of a server that is up."""
    if engine == "node":
        async with node(built) as js:
            yield js
    else:
        async with chromium(f"{server.url}/page.html") as page:
            yield page


OPENED = (
    UNTIL
    + """
const base = "%s";
const { %s: connect, ...client } = await load("./%s.js");
const made = (parameters, more) =>
  connect(base, parameters, { ...options, reconnect: { initialDelay: 100 }, ...more });
globalThis.states = [];
globalThis.c = %s;
c.onState(({ status }) => states.push(status));
globalThis.next = (tag) => new Promise((done) => {
  const stop = c.on(tag, (message) => (stop(), done(message)));
});
globalThis.talk = async () => {
  %s
};
await c.open();
"""
)

TOKEN = jwt.encode(
    {"sub": "ada", "roles": [], "exp": int(time.time()) + 86400}, members.KEY, "HS256"
)  # for as long as the tests may take
SCENARIOS: dict[str, tuple[str, str, str, Any]] = {
    "calls": (
        "root",
        "made({})",
        """c.answer("digits", () => 3);
        const found = [(await c.call("divide", { a: 1, b: 3 })).value];
        for await (const prime of c.stream("primes", { upto: 1e6 }))
          if (found.push(prime) > 100) break;
        await c.call("divide", { a: 1, b: 0 }).catch((error) => found.push(error.code));
        return found.slice(-2).concat(found[0]);""",
        [541, "division", 0.333],
    ),
    "chat": (
        "chatRoom",
        'made({ room: "the lobby/ä", name: "ada" })',
        """const said = next("said");
        c.send("say", { text: "hi" });
        return await said;""",
        {"type": "said", "who": "ada", "text": "hi"},
    ),
    "counter": (
        "counter",
        "made({})",
        """c.send("change", { by: 1 });
        for await (const message of c)
          if (message.type === "value" && message.value) return message;""",
        {"type": "value", "value": 1},
    ),
    "cursors": (
        "boardsBoard",
        'made({ board: "plan", name: "ada" })',
        """const other = connect(base, { board: "plan", name: "bob" }, options);
        await other.open();
        other.send("move", { to: [0.5, 0.25] });
        for await (const message of c)
          if (message.type === "cursor" && message.at) {
            other.close();
            return [message.name, ...message.at];
          }""",
        ["bob", 0.5, 0.25],
    ),
    "devices": (
        "devicesName",
        'made({ name: "attic" })',
        """c.answer("measure", () => 21.5);
        await c.call("report", { celsius: 20 });
        const answer = await fetch(`${base}/devices/attic/temperature`);
        return [await answer.json(), (await c.call("configure", {})).every];""",
        [{"celsius": 21.5, "now": True}, 10],
    ),
    "direct": (
        "direct",
        'made({ name: "ada" })',
        """const told = next("told");
        return [await c.call("tell", { to: "ada", text: "hi" }), (await told).by];""",
        [1, "ada"],
    ),
    "echo": (
        "root",
        "made({})",
        """const text = next("$text"), binary = next("$binary");
        c.send("$text", "hi");
        c.send("$binary", new Uint8Array([7, 8]));
        return [await text, ...new Uint8Array(await binary)];""",
        ["hi", 7, 8],
    ),
    "jobs": (
        "jobs",
        "made({})",
        """c.send("start", { steps: 2 });
        const { job } = await next("queued");
        for await (const message of c)
          if (message.type === "progress" && message.done === 2) return message.job === job;""",
        True,
    ),
    "login": (
        "me",
        """made(async () => {
          const headers = { Authorization: "Basic " + btoa("ada:lovelace") };
          return { token: await (await fetch(`${base}/login`, { headers })).text() };
        })""",
        """return (await c.call("who_am_i", {})).sub;""",
        "ada",
    ),
    "members": (
        "members",
        f'made(async () => ({{ token: "{TOKEN}" }}))',
        """const refused = next("refused");
        c.send("mute", { who: "bob" });
        return await refused;""",
        {"type": "refused", "why": "forbidden"},
    ),
    "prices": (
        "prices",
        'made({ symbol: ["ADA"] })',
        """return (await next("price")).symbol;""",
        "ADA",
    ),
    "tutorial": (
        "play",
        "made({})",
        """const played = next("played"), refused = next("refused");
        c.send("play", { column: 3 });
        c.send("play", { column: 3 });
        return [(await played).row, (await refused).why];""",
        [0, "it is not your turn"],
    ),
    "workers": (
        "jobs",
        "made({})",
        """const done = next("done");
        c.send("job", { id: 3, customer: "ada", seconds: 0 });
        return (await done).id;""",
        3,
    ),
}


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("example", SCENARIOS)
async def test_an_example(built: Path, engine: str, example: str) -> None:
    name, made, talk, expected = SCENARIOS[example]
    server = Server(f"examples.{example}:app", "--static", str(built))
    async with server.up() as run, javascript(engine, built, server) as js:
        await js.run(OPENED % (server.url, name, example, made, talk))
        assert await js.run("return await talk()") == expected
        run.process.terminate()
        await run.ended()
        await js.run('await until(() => states.includes("waiting"))')
        async with server.up() as again:
            await js.run("await c.open()")
            assert await js.run("return await talk()") == expected
            await js.run("c.close(4000)")
            await again.until("code=4000")  # pages and other connections have lines, too
        assert await js.run("return c.state.end.code") == 4000


def test_each_example_has_a_scenario() -> None:
    assert list(SCENARIOS) == EXAMPLES
    for path in (ROOT / "examples").glob("[a-z]*.py"):
        assert path.stem in EXAMPLES or not hasattr(import_module(f"examples.{path.stem}"), "app")


NOTES = (
    "notesRoom",
    """made(async () => {
      tokens.push(await (await fetch(`${base}/token`)).text());
      return { room: "a", token: tokens.at(-1) };
    });
    globalThis.texts = [];
    c.on("note", ({ text }) => texts.push(text))""",
)


@pytest.mark.long
@BOTH
async def test_nothing_is_lost_on_a_topic_with_history(built: Path, engine: str) -> None:
    """Not while the server is away, and not while tokens end."""
    broker = BrokerServer("valkey", durable=True)
    server = Server("tests.contract.served:app", "--static", str(built), "--broker", broker.url)
    left = [str(number) for number in range(30)]
    expected = ["first", *left]
    broker.start()
    try:
        async with wsflow.publisher(broker.url, app=notes) as publish:

            async def tell() -> None:
                for _ in range(10):
                    await publish("notes", Note(left.pop(0)))

            async with server.up() as run, javascript(engine, built, server) as js:
                await js.run("globalThis.tokens = [];")
                await js.run(OPENED % (server.url, NOTES[0], "served", NOTES[1], ""))
                await js.run('c.send("write", { text: "first" }); await next("note")')
                await tell()
                await js.run("await until(() => texts.length === 11 && tokens.length > 2)")
                # It was renewed twice: the first token has ended meanwhile.
                assert await js.run("return states") == ["open"]
                run.process.terminate()
                await run.ended()
                await tell()
                async with server.up():
                    await js.run("await c.open()")
                    await tell()
                    await js.run("await until(() => texts.length >= 31)")
                    assert await js.run("return texts") == expected
    finally:
        broker.stop()


@pytest.mark.long
async def test_what_no_example_has(built: Path) -> None:
    """Integers beyond 2^53, questions of the server, tokens as a first message, other tags."""
    server = Server("tests.contract.served:app")
    async with server.up(), node(built) as js:
        await js.run(OPENED % (server.url, "numbersId", "served", "made({ id: 3 })", ASKED))
        assert await js.run("return await talk()") == [
            ["9223372036854775807", "-5", "1", "null"],
            ["18014398509481985", "empty"],
            ["1000", "1152921504606846976", "1152921504606847975"],
            [str(2 * (2**60 + 1)), str(sum(range(500)))],
        ]
        fed = 'made({}); globalThis.fed = new Promise((done) => c.on("shout", done))'
        await js.run("c.close()")
        await js.run(OPENED % (server.url, "feed", "served", fed, ""))
        assert await js.run("return (await fed).text") == "hear, hear"
        token = f'{{ token: await (await fetch("{server.url}/token")).text() }}'
        for name, parameters, talk, expected in (
            ("whispers", token, ("write", {"text": "hi"}, "note"), "ada: hi"),
            ("kinds", "{}", (1, {"text": "hi"}, 2), "hi"),
            ("values", "{}", ("$message", [1, 2], "$message"), [1, 2]),
        ):
            sends, message, receives = map(json.dumps, talk)
            say = f"const heard = next({receives}); c.send({sends}, {message}); return await heard;"
            await js.run("c.close()")
            await js.run(OPENED % (server.url, name, "served", f"made({parameters})", say))
            assert await js.run("const it = await talk(); return it.text ?? it") == expected


ASKED = """
const heard = next("numbers"), found = [];
const tree = { type: "tree", id: 2n ** 63n - 1n, names: { a: -5n } };
c.send("numbers", { tree, pair: [1, 1n], maybe: null });
const { tree: { id, names }, pair, maybe } = await heard;
found.push([id, names.a, pair[1], maybe].map(String));
const sum = await c.call("sum", { ids: [2n ** 54n, 1n] });
found.push([`${sum}`, await c.call("sum", { ids: [] }).catch((error) => error.code)]);
const ids = [];
for await (const { id } of c.stream("trees", { first: 2n ** 60n })) ids.push(id);
found.push([ids.length, ids.at(0), ids.at(-1)].map(String));
c.answer("twice", ({ id }) => id * 2n);
c.answer("upto", async function* ({ number }) {
  for (let each = 0; each < number; each++) yield each;
});
const totals = [];
c.on("total", ({ total }) => totals.push(String(total)));
c.send("ask");
await until(() => totals.length === 2);
found.push(totals);
return found;
"""


@pytest.mark.long
async def test_the_hook_in_strict_mode(built: Path) -> None:
    """An effect that runs twice opens one socket; a page that goes closes it."""
    server = Server("examples.chat:app", "--static", str(built))
    async with server.up() as run, chromium(f"{server.url}/page.html") as page:
        await page.run(HOOKED)
        assert await page.run('await shows("lobby open hi"); return urls') == [
            f"{server.url.replace('http', 'ws')}/chat/lobby?name=ada"
        ]
        await page.run('render("attic"); await shows("attic open hi")')
        assert "path=/chat/lobby" in await run.until("code=1000")
        await page.run("root.unmount()")
        assert "path=/chat/attic" in await run.until("code=1000")
        assert await page.run("return urls.length") == 2
        assert page.console == []


HOOKED = """
const { StrictMode, createElement, createRoot, useState } = await load("./react.js");
const { useConnection } = await load("./hooks.js");
const { chatRoom } = await load("./chat.js");
globalThis.urls = [];
const Counted = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    urls.push(url);
  }
};
function Room({ room }) {
  const [text, show] = useState("");
  const [chat, state] = useConnection(() => {
    show("");
    const chat = chatRoom("", { room, name: "ada" }, { WebSocket: Counted });
    chat.on("said", ({ text }) => show(text));
    chat.send("say", { text: "hi" });
    return chat;
  }, [room]);
  return `${room} ${state.status} ${text}`;
}
const element = document.getElementById("root");
globalThis.root = createRoot(element);
globalThis.render = (room) =>
  root.render(createElement(StrictMode, null, createElement(Room, { room })));
globalThis.shows = async (text) => {
  while (element.textContent !== text) await new Promise((look) => setTimeout(look, 10));
};
render("lobby");
"""


@pytest.mark.long
@BOTH
async def test_a_refusal_is_seen(built: Path, engine: str) -> None:
    server = Server("examples.chat:app", "--static", str(built), "--max-connections-per-client=1")
    async with server.up(), javascript(engine, built, server) as js:
        named = 'made({ room: "lobby", name: "ada" })'
        await js.run(OPENED % (server.url, "chatRoom", "chat", named, ""))
        await js.run(BESIDE % server.url)
        assert (await js.run("return await refused"))["code"] == 4429
        await js.run('c.close(); other.send("say", { text: "at last" })')
        assert await js.run("return (await heard).text") == "at last"
        await js.run("other.close()")
        nameless = OPENED % (server.url, "chatRoom", "chat", 'made({ room: "lobby" })', "")
        with pytest.raises(AssertionError, match="4401 a name is needed"):
            await js.run(nameless)
        assert await js.run("return c.state") == {
            "status": "ended",
            "end": {"code": 4401, "reason": "a name is needed"},
        }


BESIDE = """
const { chatRoom } = await load("./chat.js");
const more = { ...options, reconnect: { initialDelay: 50, maxDelay: 50 } };
globalThis.other = chatRoom("%s", { room: "lobby", name: "bob" }, more);
globalThis.heard = new Promise((done) => other.on("said", done));
globalThis.refused = new Promise((done) => other.onState(({ end }) => end && done(end)));
"""


@pytest.mark.long
@BOTH
async def test_a_silent_server_is_asked(built: Path, engine: str) -> None:
    server = Server("examples.workers:app", "--static", str(built))
    async with server.up(), javascript(engine, built, server) as js:
        asks = f"""const Counted = class extends (options.WebSocket ?? WebSocket) {{
          send(data) {{
            sent.push(JSON.parse(data).type);
            super.send(data);
          }}
        }};
        globalThis.sent = [];
        {OPENED}"""
        made = "made({}, { heartbeat: 1000, WebSocket: Counted })"
        await js.run(asks % (server.url, "jobs", "workers", made, ""))
        await js.run("await until(() => sent.length >= 3)")
        assert set(await js.run("return sent")) == {"$ping"}
        assert await js.run("return states") == ["open"]
