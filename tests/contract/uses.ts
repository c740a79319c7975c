// What the generated clients are made for: it compiles.
import { root as calculator } from "./calls.js";
import { chatRoom, type ChatRoomConnection, type Said } from "./chat.js";
import { root as echo } from "./echo.js";
import { useConnection } from "./hooks.js";
import { members } from "./members.js";
import { notesRoom, numbersId, type State } from "./served.js";
import { WebSocket } from "ws";

const base = "https://example.com/api";

export async function uses(room: string, name: string | undefined): Promise<void> {
  const chat: ChatRoomConnection = chatRoom(base, { room, name }, { WebSocket });
  const stop = chat.on("said", ({ who, text }) => console.log(who.length, text.length));
  stop();
  chat.onUnknown((message) => console.log(message));
  chat.onState((state: State) => {
    if (state.status === "waiting") console.log(state.seconds.toFixed(), state.end.reason);
    if (state.status === "ended") console.log(state.end.code.toFixed());
  });
  chat.send("say", { text: "hi" });
  for await (const message of chat) {
    if (message.type === "said") {
      const said: Said = message;
      console.log(said.text);
    } else if (message.type === "tick") console.log(message.seconds.toFixed());
  }
  const calc = calculator(base);
  const { value } = await calc.call("divide", { a: 1, b: 3 }, { signal: AbortSignal.timeout(5000) });
  for await (const prime of calc.stream("primes", { upto: value })) console.log(prime.toFixed());
  calc.answer("digits", () => 3);
  calc.answer("digits", async () => 3);
  const raw = echo(base, {}, { lazy: true, reconnect: { maxDelay: 5000 }, queue: 0 });
  raw.send("$text", "hi");
  raw.send("$binary", new Uint8Array(3));
  raw.on("$binary", (data) => console.log(data.byteLength));
  members(base, async () => ({ token: await Promise.resolve("x") })).send("mute", { who: "bob" });
  notesRoom(base, () => ({ token: "x", room: "a" })).on("note", (note) => note.id.length);
  const numbers = numbersId("/", { id: 3, only: [1, 2] });
  numbers.send("numbers", { tree: { type: "tree", id: 5n, children: [{ type: "tree", id: 2n ** 60n }] }, pair: [1] });
  numbers.send("ask");
  numbers.answer("upto", async function* ({ number }, signal) {
    for (let each = 0; each < number && !signal.aborted; each++) yield each;
  });
  numbers.answer("twice", ({ id }) => id * 2n);
  const sum: bigint = await numbers.call("sum", { ids: [1n] });
  numbers.on("numbers", ({ maybe, unset }) => console.log(maybe === sum, unset?.toFixed()));
  await numbers.open();
  numbers.close(4000, "enough");
}

export function Shown({ room }: { room: string }): string {
  const [chat, state] = useConnection(() => chatRoom(base, { room }), [room]);
  chat?.send("say", { text: state.status });
  return state.status === "waiting" ? `again in ${state.seconds} s` : state.status;
}
