// Each misuse is an error of the compiler: it complains of an expected error that is none.
import { root as calculator } from "./calls.js";
import { chatRoom } from "./chat.js";
import { root as echo } from "./echo.js";
import { members } from "./members.js";
import { notesRoom, numbersId } from "./served.js";

const base = "https://example.com";
const chat = chatRoom(base, { room: "lobby" });
const calc = calculator(base);
const numbers = numbersId(base, { id: 1 });

// @ts-expect-error: a parameter of the path is missing
chatRoom(base, {});
// @ts-expect-error: there is no such parameter
chatRoom(base, { room: "lobby", nam: "ada" });
// @ts-expect-error: a parameter is of another type
chatRoom(base, { room: "lobby", name: 3 });
// @ts-expect-error: a function gives it another type
chatRoom(base, async () => ({ room: "lobby", name: 3 }));
// @ts-expect-error: there are no parameters at all
chatRoom(base);
// @ts-expect-error: the token is missing
members(base, {});
// @ts-expect-error: the token is missing
notesRoom(base, () => ({ room: "a" }));
// @ts-expect-error: there is no such message
chat.send("shout", { text: "hi" });
// @ts-expect-error: it is received, and not sent
chat.send("said", { who: "ada", text: "hi" });
// @ts-expect-error: a field is missing
chat.send("say", {});
// @ts-expect-error: all fields are missing
chat.send("say");
// @ts-expect-error: a field is of another type
chat.send("say", { text: 3 });
// @ts-expect-error: there is no such field
chat.send("say", { text: "hi", to: "bob" });
// @ts-expect-error: no such message is received
chat.on("say", () => {});
// @ts-expect-error: it has no such field
chat.on("tick", (message) => message.text);
chat.on("said", (message) => {
  // @ts-expect-error: a text is no number
  message.text.toFixed();
});
for await (const message of chat) {
  // @ts-expect-error: not each of them has it
  message.who;
  // @ts-expect-error: there is no such message
  if (message.type === "shout") break;
}
// @ts-expect-error: there are no calls here
chat.call("say", { text: "hi" });
// @ts-expect-error: it expects one answer
calc.stream("divide", { a: 1, b: 2 });
// @ts-expect-error: it expects many answers
calc.call("primes", { upto: 3 });
// @ts-expect-error: a field is missing
calc.call("divide", { a: 1 });
// @ts-expect-error: the answer has another type
calc.call("divide", { a: 1, b: 2 }).then(({ value }) => value.length);
for await (const prime of calc.stream("primes", { upto: 3 })) {
  // @ts-expect-error: it is a number
  prime.length;
}
// @ts-expect-error: the server does not ask that
calc.answer("divide", () => 3);
// @ts-expect-error: it wants a number
calc.answer("digits", () => "three");
// @ts-expect-error: it wants many
numbers.answer("upto", () => 3);
// @ts-expect-error: a number is not exact enough
numbers.call("sum", { ids: [3] });
// @ts-expect-error: it is a bigint
numbers.call("sum", { ids: [3n] }).then((sum) => sum.toFixed());
// @ts-expect-error: raw texts have a name that begins with `$`
echo(base).send("text", "hi");
// @ts-expect-error: that is no text
echo(base).send("$text", 3);
// @ts-expect-error: there is no such option
chatRoom(base, { room: "lobby" }, { retries: 3 });
// @ts-expect-error: a state that waits has seconds, others have not
chat.state.seconds;
// @ts-expect-error: nobody else sets it
chat.state = { status: "open" };
