import { dashboard, Disconnected, type Prices, type State } from "./client.js";

const find = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E;
const number = new Intl.NumberFormat("en");

const nameField = find<HTMLInputElement>("name");
nameField.value = localStorage.getItem("name") ?? `guest ${100 + Math.floor(Math.random() * 900)}`;

// The name is asked for anew whenever it connects.
const connection = dashboard("", () => ({ name: nameField.value }));

let leaving = false;
const reconnect = (): void => {
  leaving = true;
  connection.close();
  leaving = false;
  connection.open().catch(() => {}); // onState tells of it
};

/** Say something to those who do not see it. */
const announce = (text: string): void => {
  find("announced").textContent = text;
};

const element = (kind: string, name: string, ...inner: (Node | string)[]): HTMLElement => {
  const made = document.createElement(kind);
  made.className = name;
  made.append(...inner);
  return made;
};

const told = (error: unknown): string => (error instanceof Error ? error.message : `${error}`);

const avatar = (name: string): HTMLElement => {
  const made = element("span", "avatar", [...name][0]?.toUpperCase() ?? "");
  const sum = [...name].reduce((sum, each) => (sum * 31 + each.codePointAt(0)!) % 997, 7);
  made.style.setProperty("--hue", `${(sum * 137.5) % 360}`);
  made.ariaHidden = "true";
  return made;
};

// -- the connection

const said = (state: State): string => {
  if (state.status === "idle" || state.status === "connecting") return "Connecting…";
  if (state.status === "open") return "Connected";
  return state.status === "waiting" ? `Again in ${state.seconds} s` : "Ended";
};

let status = "";
connection.onState((state) => {
  if (leaving) return;
  const text = said(state);
  find("state-text").textContent = text;
  document.body.dataset["status"] = state.status;
  const banner = find("banner-text");
  if ("end" in state) {
    const { code, reason } = state.end;
    const why = reason ? `${code}, ${reason}` : `${code}`;
    const next = state.status === "waiting" ? ` Trying again in ${state.seconds} s.` : "";
    banner.textContent = `The connection ${next ? "was lost" : "has ended"} (${why}).${next}`;
    find("banner").hidden = false;
  } else if (state.status === "open") find("banner").hidden = true;
  else banner.textContent = text;
  if (state.status === status) return; // another second has passed
  status = state.status;
  if (status === "waiting") announce("The connection was lost. It is tried again.");
  else announce(status === "ended" ? banner.textContent! : text);
});

find("again").onclick = reconnect;

find("who").onsubmit = (event) => {
  event.preventDefault();
  nameField.blur();
};
nameField.onchange = () => {
  if (!nameField.reportValidity()) return;
  localStorage.setItem("name", nameField.value);
  for (const each of messages.children) showMine(each);
  reconnect();
};

let opened = 0; // seconds since 1970: what was said before is history
connection.on("hello", ({ you, broker, process, at, prices }) => {
  opened = at;
  me = you;
  people.clear();
  series = prices;
  drawn = 0;
  draw();
  const named = { redis: "Redis", nats: "NATS" }[broker] ?? broker;
  const kept = broker === "memory" ? "No broker: the chat is lost when it ends." : `The chat is kept by ${named}.`;
  find("about").textContent = `Served by process ${process}. ${kept}`;
});

// -- prices

let series: Prices[] = [];
let drawn = 0; // the number of the prices that are shown
let skipped = 0;
let drawing = false;

connection.on("prices", (prices) => {
  const last = series.at(-1);
  if (last && prices.number <= last.number) return; // hello had it
  series = [...series.slice(-59), prices];
  if (drawing) return; // the latest wins
  drawing = true;
  const slow = find<HTMLInputElement>("slow").checked;
  if (slow) setTimeout(draw, 2000);
  else requestAnimationFrame(draw);
});

const draw = (): void => {
  drawing = false;
  const last = series.at(-1);
  if (!last) return;
  if (drawn) skipped += Math.max(0, last.number - drawn - 1);
  drawn = last.number;
  find("skipped").textContent = `${number.format(skipped)} skipped`;
  for (const [symbol, cents] of Object.entries(last.cents)) {
    const values = series.map((each) => each.cents[symbol] ?? cents);
    drawRow(rows.get(symbol) ?? addRow(symbol), values, cents);
  }
};

interface Row {
  line: Element;
  area: Element;
  row: HTMLElement;
  price: HTMLElement;
  change: HTMLElement;
  cents: number;
}

const rows = new Map<string, Row>();
const chart = `<svg viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">
  <path class="area"/><path class="line"/></svg>`;

const addRow = (symbol: string): Row => {
  const head = element("th", "symbol", symbol);
  head.setAttribute("scope", "row");
  const drawing = element("td", "chart");
  drawing.innerHTML = chart;
  const [price, change] = [element("td", "price"), element("td", "change")];
  const row = element("tr", "", head, drawing, price, change);
  find("rows").append(row);
  const [area, line] = drawing.querySelectorAll("path");
  const made = { row, price, change, cents: 0, area: area!, line: line! };
  rows.set(symbol, made);
  return made;
};

const drawRow = (row: Row, values: number[], cents: number): void => {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const points = values.map((each, index) => {
    const x = values.length > 1 ? (100 * index) / (values.length - 1) : 100;
    return `${x.toFixed(1)},${(29 - (26 * (each - least)) / (most - least || 1)).toFixed(1)}`;
  });
  row.line.setAttribute("d", `M${points.join("L")}`);
  row.area.setAttribute("d", `M0,32L${points.join("L")}L100,32Z`);
  const change = (100 * (cents - values[0]!)) / values[0]!;
  row.row.className = change < 0 ? "down" : "up";
  row.price.textContent = (cents / 100).toFixed(2);
  row.change.textContent = `${change < 0 ? "▼ −" : "▲ +"}${Math.abs(change).toFixed(2)} %`;
  if (row.cents && row.cents !== cents && matchMedia("(prefers-reduced-motion: no-preference)").matches) {
    const color = `var(--${cents < row.cents ? "down" : "up"})`;
    row.price.animate([{ color }, {}], 700);
  }
  row.cents = cents;
};

// -- who is there

const people = new Map<string, string>();
let me = "";

const showPeople = (): void => {
  find("people-count").textContent = `${people.size}`;
  const names = [...people].sort(([, one], [, other]) => one.localeCompare(other));
  find("names").replaceChildren(
    ...names.map(([id, name]) => {
      const item = element("li", "", avatar(name), name);
      if (id === me) item.append(element("span", "you", "you"));
      return item;
    }),
  );
};

connection.on("came", ({ id, name, earlier }) => {
  if (!earlier) announce(`${name} has come`);
  people.set(id, name);
  showPeople();
});

connection.on("went", ({ id }) => {
  announce(`${people.get(id)} has left`);
  people.delete(id);
  showPeople();
});

// -- the chat

const messages = find("messages");
let atEnd = true; // and stays there, unless somebody reads what was said before
const scroll = (): void => void (atEnd && (messages.scrollTop = messages.scrollHeight));
messages.onscroll = () => {
  atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 40;
};
new ResizeObserver(scroll).observe(messages);

const showMine = (item: Element): void => {
  const { who } = (item as HTMLElement).dataset;
  item.classList.toggle("mine", who === nameField.value);
};

connection.on("said", ({ who, text, at }) => {
  const time = new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const by = element("p", "by", element("b", "", who), " ", element("time", "", time));
  const item = element("li", "", avatar(who), element("div", "bubble", by, element("p", "", text)));
  item.dataset["who"] = who;
  showMine(item);
  messages.append(item);
  if (messages.childElementCount > 500) messages.firstElementChild!.remove();
  scroll();
  if (at >= opened && who !== nameField.value) announce(`${who}: ${text}`);
});

connection.on("gap", () => {
  // Another history than that which is shown: begin anew.
  messages.replaceChildren(element("li", "gap", "The server no longer has what was said before."));
  connection.lastEventId = "";
  reconnect();
});

const textField = find<HTMLInputElement>("text");
find("say").onsubmit = async (event) => {
  event.preventDefault();
  const text = textField.value.trim();
  if (!text) return;
  textField.value = "";
  const hint = find("say-text");
  hint.textContent = status === "open" ? "" : "It is sent as soon as there is a connection.";
  try {
    await connection.call("say", { text });
    hint.textContent = "";
  } catch (error) {
    textField.value ||= text;
    const lost = error instanceof Disconnected;
    hint.textContent = lost ? "The connection was lost: look whether it is there." : `Not sent: ${told(error)}`;
  }
};

// -- the job

let cancel: AbortController | undefined;
find("count").onsubmit = async (event) => {
  event.preventDefault();
  if (cancel) return cancel.abort();
  cancel = new AbortController();
  const { signal } = cancel;
  const below = find<HTMLInputElement>("below").valueAsNumber;
  const [bar, text] = [find<HTMLProgressElement>("progress"), find("job-text")];
  let [percent, primes] = ["0 %", ""];
  find("run").textContent = "Cancel";
  document.body.dataset["job"] = "running";
  bar.value = 0;
  text.textContent = "Begins…";
  try {
    // Leaving the loop, here by the signal, stops the work of the server.
    for await (const { done, found } of connection.stream("count", { below }, { signal })) {
      bar.value = done / below;
      percent = `${Math.floor((100 * done) / below)} %`;
      primes = `${number.format(found)} primes`;
      text.textContent = `${percent}: ${primes} so far`;
    }
    text.textContent = `Done: ${primes}`;
  } catch (error) {
    text.textContent = signal.aborted ? `Cancelled at ${percent}` : `Stopped at ${percent}: ${told(error)}`;
  }
  announce(text.textContent);
  cancel = undefined;
  find("run").textContent = "Start";
  delete document.body.dataset["job"];
};
