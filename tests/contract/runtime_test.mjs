// The runtime of the generated clients over a socket that is none, in a time that is made up.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { CallError, root as calculator } from "./calls.js";
import { Disconnected, chatRoom } from "./chat.js";
import { root as echo } from "./echo.js";
import { members } from "./members.js";
import { CallError as Failed, feed, kinds, notesRoom, numbersId, ops, values, whispers } from "./served.js";

let sockets;

class Fake {
  constructor(url, protocols) {
    Object.assign(this, { url, protocols, readyState: 0, protocol: "", sent: [], closed: [] });
    sockets.push(this);
  }
  send(data) {
    assert.equal(this.readyState, 1);
    this.sent.push(typeof data === "string" && data[0] === "{" ? JSON.parse(data) : data);
  }
  close(...how) {
    assert.notEqual(this.readyState, 0, "a page shows that as an error");
    if (this.readyState > 1) return;
    this.readyState = 2;
    this.closed.push(how);
  }
  opens(protocol = "wsflow.json") {
    Object.assign(this, { readyState: 1, protocol });
    this.onopen?.({});
  }
  says(message) {
    this.onmessage({ data: typeof message === "object" ? JSON.stringify(message) : message });
  }
  ends(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
  get takes() {
    return this.sent.splice(0);
  }
}

const options = { WebSocket: Fake };
const base = "https://example.com/api/";
const turns = async () => {
  for (let each = 0; each < 20; each++) await null;
};
/** Let time pass, step by step, so that what waits for promises goes on too. */
const pass = async (milliseconds) => {
  for (let at = 0; at < milliseconds; at += 500) {
    mock.timers.tick(Math.min(500, milliseconds - at));
    await turns();
  }
};
const last = () => sockets.at(-1);
const connect = async (made) => {
  await pass(1);
  last().opens();
  return made;
};
const chat = (more) => chatRoom(base, { room: "lobby" }, { ...options, ...more });

beforeEach(() => {
  sockets = [];
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(Math, "random", () => 1);
  globalThis.reportError = mock.fn();
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

test("the address has the parameters", async () => {
  await connect(chatRoom(base, { room: "a/b ä?", name: "x&y" }, options));
  assert.equal(last().url, "wss://example.com/api/chat/a%2Fb%20%C3%A4%3F?name=x%26y");
  assert.deepEqual(last().protocols, ["wsflow.json", "wsflow.refuse"]);
  await connect(numbersId("http://x", { id: 3, only: [1, 2] }, options));
  assert.equal(last().url, "ws://x/numbers/3?only=1&only=2");
  await connect(chatRoom("ws://x", { room: 3n, name: undefined }, options));
  assert.equal(last().url, "ws://x/chat/3");
  await connect(members(base, { token: "a.b" }, options));
  assert.deepEqual(last().protocols.at(-1), "bearer.a.b");
});

test("what cannot be an address is said", async () => {
  assert.throws(() => chatRoom("no url", { room: "a" }, options), /Invalid URL/);
  assert.throws(() => chatRoom(base, { room: "a" }), /there is no WebSocket here/);
  for (const room of ["", ".", ".."]) {
    const made = chatRoom(base, { room }, { ...options, reconnect: false });
    await pass(1);
    assert.match(made.state.end.reason, /room cannot be "/);
    assert.equal(made.state.end.code, 1011);
  }
  assert.equal(sockets.length, 0);
});

test("a page is shown where it stands", async () => {
  const made = chat();
  const seen = [made.state.status];
  made.onState(({ status, seconds }) => seen.push(seconds ? `${status} ${seconds}` : status));
  await connect();
  last().ends(1006);
  await pass(1000);
  last().ends(1006);
  await pass(2000);
  last().opens();
  last().ends(4400, "no");
  assert.deepEqual(seen, [
    "connecting", "open", "waiting 1", "connecting", "waiting 2", "waiting 1", "connecting", "open", "ended",
  ]);
  assert.deepEqual(made.state, { status: "ended", end: { code: 4400, reason: "no" } });
});

const AGAIN = [1001, 1006, 1011, 1012, 1013, 1014, 3008, 4000, 4399, 4408, 4425, 4429, 4500, 4503, 4999];
const AWAY = [1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 3000, 3999, 4400, 4401, 4403, 4404, 4499];
for (const code of [...AGAIN, ...AWAY])
  test(`after ${code}`, async () => {
    const made = await connect(chat());
    last().ends(code);
    assert.equal(made.state.status, AGAIN.includes(code) ? "waiting" : "ended");
    assert.equal(made.state.end.code, code);
  });

test("the waits double, up to a minute, until a connection was stable", async () => {
  const made = chat({ reconnect: { initialDelay: 2000, maxDelay: 10000, stableAfter: 5000 } });
  await pass(1);
  const waits = [];
  const lose = async () => {
    last().ends(1006);
    waits.push(made.state.seconds);
    await pass(10000);
  };
  for (let each = 0; each < 4; each++) await lose();
  last().opens();
  await pass(4500);
  await lose();
  last().opens();
  await pass(5000);
  await lose();
  assert.deepEqual(waits, [2, 4, 8, 10, 10, 2]);
});

test("the defaults are those of the Python client", async () => {
  const made = await connect(chat());
  const waits = [];
  for (let each = 0; each < 8; each++) {
    last().ends(1006);
    waits.push(made.state.seconds);
    await pass(1000 * made.state.seconds);
  }
  assert.deepEqual(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
});

test("the seconds are counted down", async () => {
  Math.random.mock.mockImplementation(() => 0.75);
  const made = await connect(chat({ reconnect: { initialDelay: 2000 } }));
  last().ends(1006);
  const seen = [];
  for (let each = 0; each < 3; each++) {
    seen.push(made.state.seconds);
    await pass(500);
  }
  assert.deepEqual(seen, [2, 1, 1]);
  assert.equal(made.state.status, "connecting");
});

test("a client that stays away", async () => {
  const made = await connect(chat({ reconnect: false }));
  last().ends(1006, "lost");
  assert.deepEqual(made.state, { status: "ended", end: { code: 1006, reason: "lost" } });
  await pass(100000);
  assert.equal(sockets.length, 1);
});

test("it can be opened again", async () => {
  const made = await connect(chat({ reconnect: false }));
  last().ends(4404, "gone");
  assert.throws(() => made.send("say", { text: "x" }), Disconnected);
  await assert.rejects(made.call("say", {}), { code: 4404, reason: "gone" });
  const opened = made.open();
  await connect();
  await opened;
  made.send("say", { text: "x" });
  assert.deepEqual(last().takes, [{ type: "say", text: "x" }]);
  const again = made.open();
  await again;
  assert.equal(sockets.length, 2);
});

test("who waits for it to open is told why it does not", async () => {
  const made = chat();
  const opened = assert.rejects(made.open(), { name: "Disconnected", code: 4403, reason: "no" });
  const other = chat();
  await pass(1);
  sockets[0].ends(4403, "no");
  await opened;
  other.close();
  await assert.rejects(other.call("say"), Disconnected);
});

test("closing", async () => {
  const made = await connect(chat());
  for (const code of [999, 1001, 2999, 5000, NaN]) assert.throws(() => made.close(code), RangeError);
  made.close(4000, "enough");
  assert.deepEqual(last().closed, [[4000, "enough"]]);
  assert.deepEqual(made.state, { status: "ended", end: { code: 4000, reason: "enough" } });
  last().ends(1006);
  made.close();
  assert.equal(made.state.end.code, 4000);
  await pass(100000);
  assert.equal(sockets.length, 1);
});

test("closing while it waits, and while it connects", async () => {
  const waiting = await connect(chat());
  last().ends(1006);
  waiting.close();
  await pass(100000);
  assert.equal(sockets.length, 1);
  const connecting = chat();
  await pass(1);
  connecting.close();
  assert.equal(connecting.state.status, "ended");
  last().opens();
  assert.deepEqual(last().closed, [[1000, ""]]);
});

test("closing at once opens no socket, as in React's strict mode", async () => {
  chat().close();
  const made = chatRoom(base, async () => ({ room: "a" }), options);
  mock.timers.tick(1);
  made.close();
  await pass(100000);
  assert.equal(sockets.length, 0);
});

test("lazy", async () => {
  for (const begin of [
    (made) => made.send("say", { text: "x" }),
    (made) => void made.open(),
    (made) => made[Symbol.asyncIterator](),
  ]) {
    sockets = [];
    const made = chat({ lazy: true });
    made.on("said", () => {});
    await pass(100000);
    assert.deepEqual(made.state, { status: "idle" });
    assert.equal(sockets.length, 0);
    begin(made);
    assert.equal(made.state.status, "connecting");
    await connect();
    assert.equal(made.state.status, "open");
    made.close();
  }
});

test("what is sent without a connection waits for the next one", async () => {
  const made = chat({ queue: 2 });
  made.send("say", { text: "1" });
  await pass(1);
  made.send("say", { text: "2" });
  assert.throws(() => made.send("say", { text: "3" }), /too much waits/);
  last().opens();
  assert.deepEqual(last().takes.map(({ text }) => text), ["1", "2"]);
  last().ends(1006);
  made.send("say", { text: "4" });
  await pass(1000);
  last().opens();
  assert.deepEqual(last().takes.map(({ text }) => text), ["4"]);
});

test("the parameters are asked for anew at each connection", async () => {
  let count = 0;
  const made = chatRoom(base, async () => ({ room: `room${++count}` }), options);
  await connect();
  last().ends(1006);
  await pass(1000);
  assert.match(last().url, /room2/);
  made.close();
});

test("parameters that cannot be had are tried again", async () => {
  let count = 0;
  const made = chatRoom(
    base,
    () => {
      if (!count++) throw new Error("offline");
      return { room: "a" };
    },
    options,
  );
  await pass(1);
  assert.deepEqual(made.state.end, { code: 1011, reason: "Error: offline" });
  await pass(1000);
  assert.equal(sockets.length, 1);
});

test("who does not open in time is left", async () => {
  const made = chat();
  await pass(1);
  await pass(20000);
  assert.deepEqual(made.state.end, { code: 1006, reason: "no answer in time" });
  const late = last();
  await pass(1000);
  assert.equal(sockets.length, 2);
  late.opens();
  assert.equal(late.closed.length, 1);
  assert.equal(made.state.status, "connecting");
});

test("parameters that do not come in time are left", async () => {
  const made = chatRoom(base, () => new Promise(() => {}), options);
  await pass(1);
  await pass(20000);
  assert.equal(made.state.end.reason, "no answer in time");
});

test("a token that has ended is replaced once", async () => {
  let count = 0;
  const made = members(base, async () => ({ token: `${++count}` }), options);
  await connect();
  last().ends(4401);
  assert.equal(made.state.status, "waiting");
  await connect(pass(1000));
  assert.equal(last().protocols.at(-1), "bearer.2");
  await pass(30000);
  last().ends(4401);
  await pass(1000);
  assert.equal(last().protocols.at(-1), "bearer.3");
  last().ends(4401);
  assert.equal(made.state.status, "ended");
});

test("without a function there is no other token", async () => {
  const made = await connect(members(base, { token: "a" }, options));
  last().ends(4401);
  assert.equal(made.state.status, "ended");
});

test("a token is renewed when four fifths of its time are over", async () => {
  let count = 0;
  const made = members(base, async () => {
    if (++count === 3) throw new Error("offline");
    return { token: `${count}` };
  }, options);
  await connect();
  last().says({ type: "$auth", expires_in: 10 });
  await pass(7999);
  assert.deepEqual(last().takes, []);
  await pass(1);
  assert.deepEqual(last().takes, [{ type: "$auth", token: "2" }]);
  last().says({ type: "$auth", expires_in: 0.1 });
  await pass(999);
  assert.equal(count, 2);
  await pass(1);
  assert.deepEqual(last().takes, []);
  assert.equal(reportError.mock.callCount(), 1);
  await pass(5000);
  assert.deepEqual(last().takes, [{ type: "$auth", token: "4" }]);
  last().says({ type: "$auth" });
  last().says({ type: "$auth", expires_in: 1e12 });
  await pass(10000);
  assert.deepEqual(last().takes, []);
  last().says({ type: "$auth", expires_in: 1 });
  made.close();
  await pass(10000);
  assert.equal(count, 4);
});

test("a refusal is no connection, so what waits goes on waiting", async () => {
  const made = chat();
  made.send("say", { text: "hi" });
  await pass(1);
  last().opens("wsflow.refuse");
  assert.equal(made.state.status, "connecting");
  last().ends(4503, "full");
  assert.deepEqual(made.state.end, { code: 4503, reason: "full" });
  await connect(pass(1000));
  assert.deepEqual(last().takes, [{ type: "say", text: "hi" }]);
  last().ends(1006);
  await pass(2000);
  last().opens("wsflow.refuse");
  last().ends(4302, "elsewhere");
  assert.deepEqual(made.state, { status: "ended", end: { code: 4302, reason: "elsewhere" } });
});

test("a token as the first message", async () => {
  const made = whispers(base, { token: "t" }, options);
  made.send("write", { text: "hi" });
  await connect();
  assert.deepEqual(last().protocols, ["wsflow.json", "wsflow.refuse"]);
  assert.deepEqual(last().takes, [{ type: "$auth", token: "t" }, { type: "write", text: "hi" }]);
});

test("a server that says nothing is asked, and left when it does not answer", async () => {
  const made = await connect(chat());
  await pass(19999);
  assert.deepEqual(last().takes, []);
  await pass(1);
  assert.deepEqual(last().takes, [{ type: "$ping" }]);
  last().says({ type: "$pong" });
  await pass(19500);
  last().says({ type: "tick", seconds: 1 });
  await pass(19999);
  assert.deepEqual(last().takes, []);
  await pass(1);
  assert.deepEqual(last().takes, [{ type: "$ping" }]);
  await pass(19999);
  assert.equal(made.state.status, "open");
  await pass(1);
  assert.equal(made.state.status, "waiting");
  assert.equal(last().closed.length, 1);
});

test("how soon it asks has nothing to do with how long it takes to open", async () => {
  const made = chat({ heartbeat: 1000 });
  await pass(1);
  await pass(19500);
  last().opens();
  await pass(1000);
  assert.deepEqual(last().takes, [{ type: "$ping" }]);
  await pass(1000);
  assert.equal(made.state.status, "waiting");
});

test("who was asleep asks once more", async () => {
  const made = await connect(chat());
  await pass(20000);
  assert.deepEqual(last().takes, [{ type: "$ping" }]);
  mock.timers.setTime(Date.now() + 3600_000);
  await pass(20000);
  assert.deepEqual(last().takes, [{ type: "$ping" }]);
  assert.equal(made.state.status, "open");
});

test("a server that does not know the question is not asked again", async () => {
  const made = await connect(chat());
  await pass(20000);
  assert.deepEqual(last().takes, [{ type: "$ping" }]);
  last().ends(1007, "unknown");
  assert.equal(made.state.status, "waiting");
  await connect(pass(1000));
  await pass(100000);
  assert.equal(sockets.length, 2);
  assert.deepEqual(last().takes, []);
  last().ends(1007);
  assert.equal(made.state.status, "ended");
});

test("servers without wsflow, and raw paths, are not asked", async () => {
  chat();
  await pass(1);
  last().opens("");
  await pass(100000);
  assert.deepEqual(last().takes, []);
  await connect(echo(base, {}, options));
  await pass(100000);
  assert.deepEqual(last().takes, []);
});

test("messages go to who has asked for them", async () => {
  const made = await connect(chat());
  const heard = [];
  const stop = made.on("said", ({ text }) => heard.push(text));
  made.on("said", () => {
    throw new Error("in a handler");
  });
  made.on("said", ({ text }) => heard.push(text + text));
  made.onUnknown((message) => heard.push(message));
  const unknown = [{ type: "new", x: 1 }, { type: "toString" }, { type: 3 }, {}, null, [1], "{"];
  last().says({ type: "said", who: "ada", text: "a" });
  stop();
  last().says({ type: "said", who: "ada", text: "b" });
  for (const each of unknown) last().says(each === null ? "null" : each);
  assert.deepEqual(heard, ["a", "aa", "bb", ...unknown]);
  assert.equal(reportError.mock.callCount(), 2);
});

test("iterating", async () => {
  const made = await connect(chat());
  const all = made[Symbol.asyncIterator]();
  last().says({ type: "tick", seconds: 1 });
  last().says({ type: "unknown" });
  last().says({ type: "tick", seconds: 2 });
  assert.equal((await all.next()).value.seconds, 1);
  assert.equal((await all.next()).value.seconds, 2);
  const next = all.next();
  last().ends(1006);
  await pass(1000);
  last().opens();
  last().says({ type: "tick", seconds: 3 });
  assert.equal((await next).value.seconds, 3);
  last().says({ type: "tick", seconds: 4 });
  made.close(4000);
  assert.equal((await all.next()).value.seconds, 4);
  assert.equal((await all.next()).done, true);
  for await (const _ of made) assert.fail("it has ended");
  assert.equal(made.readers.size, 0);
  assert.equal(made.state.status, "ended");
});

for (const code of [1000, 1005])
  test(`iterating ends with ${code}`, async () => {
    const made = await connect(chat());
    const next = made[Symbol.asyncIterator]().next();
    last().ends(code);
    assert.equal((await next).done, true);
  });

test("iterating says if the server does not want it", async () => {
  const made = await connect(chat());
  const next = made[Symbol.asyncIterator]().next();
  last().ends(1008, "policy");
  await assert.rejects(next, { name: "Disconnected", code: 1008, reason: "policy" });
});

test("the next connection goes on behind the last event", async () => {
  const made = notesRoom(base, { token: "t", room: "a", after: "5" }, options);
  await connect();
  assert.match(last().url, /after=5$/);
  made.on("note", () => {});
  last().says({ type: "note", text: "x", id: "7" });
  last().says({ type: "note", text: "x", id: "" });
  assert.equal(made.lastEventId, "7");
  last().ends(1006);
  await pass(1000);
  assert.match(last().url, /after=7$/);
});

test("calls", async () => {
  const made = await connect(calculator(base, {}, options));
  const first = made.call("divide", { a: 1, b: 3 });
  const second = made.call("divide", { a: 1, b: 0 });
  assert.deepEqual(last().takes, [
    { type: "$call", id: 1, message: { type: "divide", a: 1, b: 3 } },
    { type: "$call", id: 2, message: { type: "divide", a: 1, b: 0 } },
  ]);
  last().says({ type: "$error", id: 2, code: "division", message: "by 0" });
  last().says({ type: "$answer", id: 1, value: { value: 0.3 } });
  last().says({ type: "$answer", id: 1, value: null });
  last().says({ type: "$error", id: 9, code: "late" });
  assert.deepEqual(await first, { value: 0.3 });
  await assert.rejects(second, (error) => error instanceof CallError && error.code === "division" && error.message === "by 0");
  const third = made.call("divide", { a: 1, b: 1 });
  last().says({ type: "$error", id: 3, code: "internal" });
  await assert.rejects(third, { name: "CallError", message: "internal" });
});

test("calls when the connection is lost", async () => {
  const made = calculator(base, {}, options);
  const waits = made.call("divide", { a: 1, b: 1 });
  await connect();
  const asked = made.call("divide", { a: 1, b: 2 });
  last().says({ type: "$answer", id: 1, value: { value: 1 } });
  assert.deepEqual(await waits, { value: 1 });
  last().ends(1012, "restart");
  await assert.rejects(asked, { name: "Disconnected", code: 1012 });
  const later = made.call("divide", { a: 1, b: 4 });
  await pass(1000);
  last().ends(1006);
  await pass(2000);
  last().opens();
  assert.deepEqual(last().takes.map(({ message }) => message.b), [4]);
  last().says({ type: "$answer", id: 3, value: { value: 0.25 } });
  assert.deepEqual(await later, { value: 0.25 });
  last().ends(1006);
  const never = made.call("divide", { a: 1, b: 5 });
  made.close();
  await assert.rejects(never, { name: "Disconnected", code: 1000 });
});

test("calls that are given up", async () => {
  const made = calculator(base, {}, options);
  const stop = new AbortController();
  const queued = made.call("divide", { a: 1, b: 1 }, { signal: stop.signal });
  stop.abort(new Error("enough"));
  await assert.rejects(queued, /enough/);
  await assert.rejects(made.call("divide", { a: 1, b: 1 }, { signal: stop.signal }), /enough/);
  await pass(1);
  const early = new AbortController();
  const connecting = made.call("divide", { a: 1, b: 1 }, { signal: early.signal });
  early.abort();
  await assert.rejects(connecting, { name: "AbortError" });
  last().opens();
  assert.deepEqual(last().takes, []);
  const other = new AbortController();
  const forgotten = mock.method(other.signal, "removeEventListener");
  const asked = made.call("divide", { a: 1, b: 1 }, { signal: other.signal });
  const done = made.call("divide", { a: 1, b: 1 }, { signal: other.signal });
  last().says({ type: "$answer", id: 5, value: { value: 1 } });
  assert.equal(forgotten.mock.callCount(), 1);
  last().takes;
  other.abort();
  assert.deepEqual(last().takes, [{ type: "$cancel", id: 4 }]);
  await assert.rejects(asked, { name: "AbortError" });
  assert.deepEqual(await done, { value: 1 });
});

test("streams", async () => {
  const made = await connect(calculator(base, {}, options));
  const primes = made.stream("primes", { upto: 1000 });
  const next = primes.next();
  assert.deepEqual(last().takes, [{ type: "$call", id: 1, message: { type: "primes", upto: 1000 } }]);
  for (let each = 0; each < 64; each++) last().says({ type: "$item", id: 1, value: each });
  assert.equal((await next).value, 0);
  for (let each = 1; each < 32; each++) assert.equal((await primes.next()).value, each);
  assert.deepEqual(last().takes, []);
  await primes.next();
  assert.deepEqual(last().takes, [{ type: "$more", id: 1, items: 32 }]);
  await primes.return();
  assert.deepEqual(last().takes, [{ type: "$cancel", id: 1 }]);
  last().says({ type: "$item", id: 1, value: 64 });
});

test("streams end, fail and are lost", async () => {
  const made = await connect(calculator(base, {}, options));
  const read = async (end, more) => {
    const got = [];
    const reading = (async () => {
      for await (const each of made.stream("primes", { upto: 3 }, more)) got.push(each);
    })();
    const id = last().takes[0].id;
    last().says({ type: "$item", id, value: 2 });
    end(id);
    await reading.catch((error) => got.push(error.name));
    return got;
  };
  assert.deepEqual(await read((id) => last().says({ type: "$end", id })), [2]);
  assert.deepEqual(await read((id) => last().says({ type: "$error", id, code: "x" })), [2, "CallError"]);
  const stop = new AbortController();
  assert.deepEqual(await read(() => stop.abort(), { signal: stop.signal }), [2, "AbortError"]);
  assert.deepEqual(last().takes, [{ type: "$cancel", id: 3 }]);
  assert.deepEqual(await read(() => last().ends(1006)), [2, "Disconnected"]);
});

test("the server asks", async () => {
  const made = await connect(numbersId(base, { id: 1 }, options));
  made.answer("twice", async ({ id }) => {
    if (id === 0n) throw new Failed("zero", "nothing");
    if (id === 1n) throw new Error("a secret");
    return id * 2n;
  });
  const ask = async (id, message) => {
    last().says({ type: "$call", id, message });
    await turns();
    return last().takes;
  };
  assert.deepEqual(await ask(1, { type: "twice", id: 21 }), [{ type: "$answer", id: 1, value: 42 }]);
  assert.deepEqual(await ask(2, { type: "twice", id: 0 }), [{ type: "$error", id: 2, code: "zero", message: "nothing" }]);
  assert.equal(reportError.mock.callCount(), 0);
  assert.deepEqual(await ask(3, { type: "twice", id: 1 }), [{ type: "$error", id: 3, code: "internal" }]);
  assert.equal(reportError.mock.callCount(), 1);
  assert.deepEqual(await ask(4, { type: "upto", number: 1 }), [{ type: "$error", id: 4, code: "unknown", message: "unknown" }]);
});

test("the server asks for a stream, and no more than it has granted", async () => {
  const made = await connect(numbersId(base, { id: 1 }, options));
  const left = [];
  made.answer("upto", async function* ({ number }, signal) {
    try {
      for (let each = 0; each < number; each++) yield each;
    } finally {
      left.push(signal.aborted);
    }
  });
  last().says({ type: "$call", id: 1, message: { type: "upto", number: 5 }, items: 2 });
  await turns();
  assert.deepEqual(last().takes.map(({ value }) => value), [0, 1]);
  last().says({ type: "$more", id: 1, items: 2 });
  await turns();
  assert.deepEqual(last().takes.map(({ value }) => value), [2, 3]);
  last().says({ type: "$more", id: 1, items: 9 });
  last().says({ type: "$more", id: 7, items: 9 });
  await turns();
  await turns();
  assert.deepEqual(last().takes, [{ type: "$item", id: 1, value: 4 }, { type: "$end", id: 1 }]);
  last().says({ type: "$call", id: 2, message: { type: "upto", number: 5 }, items: 1 });
  await turns();
  last().takes;
  last().says({ type: "$cancel", id: 2 });
  last().says({ type: "$cancel", id: 2 });
  await turns();
  last().says({ type: "$call", id: 3, message: { type: "upto", number: 5 }, items: 1 });
  await turns();
  assert.deepEqual(last().takes, [{ type: "$item", id: 3, value: 0 }]);
  last().ends(1006);
  await turns();
  assert.deepEqual(left, [false, true, true]);
});

test("an answer that nobody waits for any more is dropped", async () => {
  const made = await connect(numbersId(base, { id: 1 }, options));
  let done;
  made.answer("twice", () => new Promise((answer) => (done = answer)));
  last().says({ type: "$call", id: 1, message: { type: "twice", id: 1 } });
  last().ends(1006);
  await pass(1000);
  last().opens();
  done(4n);
  await turns();
  assert.deepEqual(last().takes, []);
});

test("raw messages", async () => {
  const made = await connect(echo(base, {}, options));
  const heard = [];
  made.on("$text", (text) => heard.push(text));
  made.on("$binary", (data) => heard.push(data.byteLength));
  made.send("$text", "[1]");
  made.send("$binary", new Uint8Array(3));
  assert.deepEqual(last().takes, ["[1]", new Uint8Array(3)]);
  for (const text of ["hi", "[1]", "null", '{"type":"$call"}', '{"type":"x"}']) last().says(text);
  last().onmessage({ data: new ArrayBuffer(2) });
  assert.deepEqual(heard, ["hi", "[1]", "null", '{"type":"$call"}', '{"type":"x"}', 2]);
  assert.equal(last().binaryType, "arraybuffer");
});

test("tags that are numbers, in a field of another name", async () => {
  const made = await connect(kinds(base, {}, options));
  const heard = [];
  made.on(2, ({ text }) => heard.push(text));
  made.send(1, { text: "a", kind: 7 });
  last().says({ kind: 2, text: "b" });
  last().says({ type: 2, text: "c" });
  assert.deepEqual(last().takes, [{ kind: 1, text: "a" }]);
  assert.deepEqual(heard, ["b"]);
  const other = await connect(ops(base, {}, options));
  other.send("shout", { text: "a" });
  await pass(20000);
  assert.deepEqual(last().takes, [{ op: "shout", text: "a" }, { op: "$ping" }]);
  const hearing = await connect(feed(base, {}, options));
  hearing.on("shout", ({ text }) => heard.push(text));
  last().says({ op: "shout", text: "d" });
  assert.deepEqual(heard, ["b", "d"]);
});

test("messages without tags", async () => {
  const made = await connect(values(base, {}, options));
  const heard = [];
  made.on("$message", (message) => heard.push(message));
  made.send("$message", [1, 2]);
  for (const each of ["[3]", "null"]) last().says(each);
  assert.deepEqual(last().takes, ["[1,2]"]);
  assert.deepEqual(heard, [[3], null]);
});

test("integers are exact", async () => {
  const made = await connect(numbersId(base, { id: 1 }, options));
  const heard = [];
  made.on("numbers", (message) => heard.push(message));
  last().says(
    '{"type":"numbers","tree":{"type":"tree","id":9223372036854775807,"children":[{"type":"tree","id":5,"children":[],"names":{}}],' +
      '"names":{"a":-9223372036854775808,"\\"1234567890123456789":1.0}},"pair":[1,2],"maybe":null,' +
      '"either":{"type":"leaf","id":3},"other":{"s":"\\\\\\"12345678901234567890","f":12345678901234567890.5,"big":12345678901234567890,"e":1e30}}',
  );
  assert.deepEqual(heard, [
    {
      type: "numbers",
      tree: {
        type: "tree",
        id: 9223372036854775807n,
        children: [{ type: "tree", id: 5n, children: [], names: {} }],
        names: { a: -9223372036854775808n, '"1234567890123456789': 1n },
      },
      pair: [1, 2n],
      maybe: null,
      either: { type: "leaf", id: 3 },
      other: { s: '\\"12345678901234567890', f: 12345678901234567890.5, big: 12345678901234567890, e: 1e30 },
    },
  ]);
  const texts = [];
  last().send = (text) => texts.push(text);
  made.send("numbers", {
    tree: { type: "tree", id: 2n ** 63n - 1n, names: { "a\"b": 1n } },
    pair: [1],
    maybe: undefined,
    other: { date: new Date(0), list: [undefined, null, true, "1n", () => {}] },
  });
  assert.equal(
    texts[0],
    '{"type":"numbers","tree":{"type":"tree","id":9223372036854775807,"names":{"a\\"b":1}},"pair":[1],' +
      '"other":{"date":"1970-01-01T00:00:00.000Z","list":[null,null,true,"1n",null]}}',
  );
  const sum = made.call("sum", { ids: [1n] });
  last().says('{"type":"$answer","id":1,"value":9007199254740993}');
  assert.equal(await sum, 9007199254740993n);
  const trees = made.stream("trees", { first: 1n });
  const next = trees.next();
  last().says('{"type":"$item","id":2,"value":{"type":"tree","id":9007199254740993,"children":[],"names":{}}}');
  assert.equal((await next).value.id, 9007199254740993n);
});
