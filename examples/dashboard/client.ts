// Written by wsflow: write it anew, and do not change it.
/* eslint-disable */

/** Dashboard 0.1.0 */

/** Somebody is there: first all who are, then who comes. */
export interface Came {
  type: "came";
  id: string;
  name: string;
  earlier: boolean;
}

/** Count the primes below a number. */
export interface Count {
  type: "count";
  below: number;
}

/** Messages of the chat may be missing: read it anew. */
export interface Gap {
  type: "gap";
}

/** Which member the page is, who serves it, and the prices so far. */
export interface Hello {
  type: "hello";
  you: string;
  broker: string;
  process: number;
  at: number;
  prices: Prices[];
}

export interface Prices {
  type: "prices";
  number: number;
  cents: { [key: string]: number };
}

export interface Progress {
  done: number;
  found: number;
}

export interface Said {
  type: "said";
  who: string;
  text: string;
  at: number;
  id: string;
}

/** Answered once the message is kept. */
export interface Say {
  type: "say";
  text: string;
}

export interface Went {
  type: "went";
  id: string;
}

export type DashboardConnection = Connection<{
  tag: "type";
  sends: {};
  receives: { came: Came; went: Went; hello: Hello; gap: Gap; prices: Prices; said: Said; };
  calls: { say: [Say, null]; };
  streams: { count: [Count, Progress]; };
  answers: {};
}>;

/**
 * `/dashboard`
 *
 * Dashboard
 */
export function dashboard(base: string, params: Params<{ name: string; after?: string | undefined }>, options: Options = {}): DashboardConnection {
  return new Connection(base, params, options, {
    path: "/dashboard",
    query: {"name": "name", "after": "after"},
    resume: "after",
    tags: ["type", "type"],
    receives: {"came": "", "went": "", "hello": "", "gap": "", "prices": "", "said": "id"},
    frames: true,
  });
}

/** How a connection ended: the close code (RFC 6455 §7.4), and why. */
export interface End {
  readonly code: number;
  readonly reason: string;
}

/** What a page can show of a connection. */
export type State =
  | { readonly status: "idle" }
  | { readonly status: "connecting" }
  | { readonly status: "open" }
  | { readonly status: "waiting"; readonly seconds: number; readonly end: End }
  | { readonly status: "ended"; readonly end: End };

/** A WebSocket, as far as it is used here. */
export interface Socket {
  readonly readyState: number;
  readonly protocol: string;
  binaryType: any;
  onopen: any;
  onmessage: any;
  onclose: any;
  onerror: any;
  send(data: any): void;
  close(code?: number, reason?: string): void;
}

export interface Options {
  /** The class of the sockets. Node has none of its own before version 22: use that of `ws`. */
  WebSocket?: (new (url: string, protocols: string[]) => Socket) | undefined;
  /** Connect only when something is sent, called or iterated over, or with `open()`. */
  lazy?: boolean | undefined;
  /** How to come back; false to stay away. */
  reconnect?: boolean | Reconnect | undefined;
  /** How many messages and calls may wait for the next connection: 1000. */
  queue?: number | undefined;
  /** After so many milliseconds without a message the server is asked whether it is there: 20000. */
  heartbeat?: number | undefined;
}

/** All in milliseconds. */
export interface Reconnect {
  /** The longest wait before the first attempt: 1000. It doubles with each attempt. */
  initialDelay?: number | undefined;
  /** The longest wait before any attempt: 60000. */
  maxDelay?: number | undefined;
  /** A connection that was open for so long resets the waits: 30000. */
  stableAfter?: number | undefined;
}

export interface CallOptions {
  /** Gives up, which stops the work of the server: `AbortSignal.timeout(5000)`. */
  signal?: AbortSignal | undefined;
}

/** A call has failed. Throw it to answer a call with an error. */
export class CallError extends Error {
  override name = "CallError";
  readonly code: string;
  constructor(code: string, message?: string) {
    super(message || code);
    this.code = code;
  }
}

/** The connection has ended, and it is not known whether what was called has been done. */
export class Disconnected extends Error implements End {
  override name = "Disconnected";
  readonly code: number;
  readonly reason: string;
  constructor({ code, reason }: End) {
    super(`the connection has ended: ${code} ${reason}`);
    this.code = code;
    this.reason = reason;
  }
}

/** The messages of a path, by their tags; calls with what is asked and what is answered. */
export interface Spec {
  tag: string;
  sends: object;
  receives: object;
  calls: object;
  streams: object;
  answers: object;
}

/** The parameters of a connection, or a function that is asked for them at each connection. */
export type Params<P> = P | (() => P | Promise<P>);

/** A message without its tag. */
export type Fields<M, Tag extends string> = M extends { [T in Tag]: unknown } ? Omit<M, Tag> : M;

type Given<F, More extends unknown[]> = {} extends F ? [fields?: F, ...more: More] : [fields: F, ...more: More];
type Asks<C> = C extends readonly [infer M, unknown] ? M : never;
type Gives<C> = C extends readonly [unknown, infer R] ? R : never;
type Each<M> = M[keyof M];
type Stop = () => void;

interface Definition {
  readonly path: string;
  /** Names in the query, by those of parameters. */
  readonly query?: { readonly [name: string]: string };
  /** The parameter that takes the last event id. */
  readonly resume?: string;
  /** How a token is shown: the prefix of a subprotocol, or "" for a message. */
  readonly token?: string;
  /** The field with the tags of what is sent, and of what is received. */
  readonly tags: readonly [string, string];
  /** The tags that are received, with the field of the event id. What has none is `$message`, `$text` or `$binary`. */
  readonly receives: { readonly [tag: string]: string };
  /** Whether there are frames: `$call` and others. */
  readonly frames: boolean;
  readonly read?: (text: string, tagOf: (id: number) => unknown) => any;
  readonly write?: (message: unknown) => string;
}

/** Who is told how a call goes on. */
interface Told {
  item(value: any): void;
  done(value?: any): void;
  fail(error: unknown): void;
}

interface Pending extends Told {
  readonly tag: unknown;
  sent: boolean;
  off: Stop;
}

/** A call of the server that is being answered. */
interface Work extends AbortController {
  items: number;
  wake: Stop;
}

const report = (error: unknown): void => ((globalThis as any).reportError ?? console.error)(error);

/** Items for one reader. */
class Queue<T> {
  private items: T[] = [];
  private over = false;
  private error: unknown;
  private wake: Stop = () => {};
  push(item: T): void {
    this.items.push(item);
    this.wake();
  }
  end(error?: unknown): void {
    this.over = true;
    this.error = error;
    this.wake();
  }
  async *read(left: Stop): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        const items = this.items;
        this.items = [];
        yield* items;
        if (!this.items.length) {
          if (this.error) throw this.error;
          if (this.over) return;
          await new Promise<void>((wake) => (this.wake = wake));
        }
      }
    } finally {
      left();
    }
  }
}

/** A connection that comes back when it is lost. */
export class Connection<S extends Spec> implements AsyncIterable<Each<S["receives"]>> {
  /** The id of the last event that was received. The next connection goes on behind it. */
  lastEventId = "";
  private shown: State = { status: "idle" };
  private readonly url: string;
  private readonly make: any; // the class of the sockets
  private readonly params: () => any;
  private readonly options: Options;
  private readonly about: Definition;
  private readonly handlers = new Map<unknown, Set<(message: any) => void>>();
  private readonly watchers = new Set<(state: State) => void>();
  private readonly answers = new Map<unknown, (message: any, signal: AbortSignal) => unknown>();
  private readonly readers = new Set<Queue<any>>();
  private readonly calls = new Map<number, Pending>();
  private readonly works = new Map<number, Work>();
  private queue: Stop[] = [];
  private socket: Socket | undefined;
  private attempt = {}; // a new one whenever something ends
  private timer: any; // until the next attempt, or the next look at the connection
  private renewal: any;
  private attempts = 0;
  private ids = 0;
  private since = 0; // it is open since
  private heard = 0;
  private pinged = 0; // and has heard nothing since
  private pings = true;
  private readonly renews: boolean; // it can bring a new token
  private renewed = false; // and has come back with one

  constructor(base: string, params: Params<any>, options: Options, about: Definition) {
    this.url = String(new URL(base, (globalThis as any).location?.origin));
    this.params = typeof params === "function" ? params : () => params;
    this.renews = about.token != null && typeof params === "function";
    this.options = options;
    this.about = about;
    this.make = options.WebSocket ?? (globalThis as any).WebSocket;
    if (!this.make) throw new Error('there is no WebSocket here: use { WebSocket } of the package "ws"');
    if (!options.lazy) this.begin();
  }

  /** What a page can show. Another object whenever it has changed. */
  get state(): State {
    return this.shown;
  }

  /** Connect, also after the end. Resolves when it is open; rejects when it has ended. */
  open(): Promise<void> {
    this.begin("ended");
    return new Promise((done, fail) => {
      const look = (state: State): void => {
        if (state.status === "open") done();
        else if (state.status === "ended") fail(new Disconnected(state.end));
        else return;
        this.watchers.delete(look);
      };
      this.watchers.add(look);
      look(this.shown);
    });
  }

  /** Leave, and do not come back. The code is 1000, or one of 3000 to 4999. */
  close(code = 1000, reason = ""): void {
    if (code !== 1000 && !(code >= 3000 && code < 5000)) throw new RangeError(`close: ${code} is not 1000, nor 3000 to 4999`);
    if (this.shown.status !== "ended") this.finish({ code, reason }, false);
  }

  /** Send a message. Without a connection it waits for the next one. */
  send<T extends keyof S["sends"] & (string | number)>(tag: T, ...[fields]: Given<Fields<S["sends"][T], S["tag"]>, []>): void {
    const raw = tag === "$text" || tag === "$binary";
    const data = raw ? fields : this.text(tag === "$message" ? fields : this.tagged(tag, fields));
    this.put(() => this.socket!.send(data));
  }

  /** Be told of each message of a type. Returns what stops that. */
  on<T extends keyof S["receives"] & (string | number)>(tag: T, handler: (message: S["receives"][T]) => void): Stop {
    const found = this.handlers.get(tag) ?? new Set();
    this.handlers.set(tag, found.add(handler));
    return () => void found.delete(handler);
  }

  /** Be told of each message that is of no type known here. */
  onUnknown(handler: (message: unknown) => void): Stop {
    return this.on(undefined as never, handler);
  }

  /** Be told of each change of the state. */
  onState(handler: (state: State) => void): Stop {
    this.watchers.add(handler);
    return () => void this.watchers.delete(handler);
  }

  /** Ask for one answer. Rejects with a CallError, with Disconnected, or with the signal's reason. */
  call<T extends keyof S["calls"] & (string | number)>(
    tag: T,
    ...[fields, options]: Given<Fields<Asks<S["calls"][T]>, S["tag"]>, [options?: CallOptions]>
  ): Promise<Gives<S["calls"][T]>> {
    return new Promise((done, fail) => void this.ask(tag, fields, options?.signal, { done, fail, item() {} }));
  }

  /** Ask for many answers: `for await (const each of …)`. Leaving the loop stops the work. */
  async *stream<T extends keyof S["streams"] & (string | number)>(
    tag: T,
    ...[fields, options]: Given<Fields<Asks<S["streams"][T]>, S["tag"]>, [options?: CallOptions]>
  ): AsyncGenerator<Gives<S["streams"][T]>, void, undefined> {
    const queue = new Queue<Gives<S["streams"][T]>>();
    const id = this.ask(tag, fields, options?.signal, {
      item: (value) => queue.push(value),
      done: () => queue.end(),
      fail: (error) => queue.end(error),
    });
    let count = 0;
    for await (const item of queue.read(() => this.cancel(id))) {
      yield item;
      if (++count % 32 === 0 && this.calls.has(id)) this.frame("$more", { id, items: 32 });
    }
  }

  /** Answer what the server asks. What is thrown fails the call. */
  answer<T extends keyof S["answers"] & (string | number)>(
    tag: T,
    handler: (message: Asks<S["answers"][T]>, signal: AbortSignal) => Gives<S["answers"][T]> | Promise<Gives<S["answers"][T]>>,
  ): void {
    this.answers.set(tag, handler);
  }

  /** All messages, until the connection is closed. Throws Disconnected if it ends otherwise. */
  [Symbol.asyncIterator](): AsyncGenerator<Each<S["receives"]>, void, undefined> {
    const queue = new Queue<Each<S["receives"]>>();
    if (this.shown.status === "ended") queue.end();
    this.readers.add(queue);
    this.begin();
    return queue.read(() => this.readers.delete(queue));
  }

  private show(state: State): void {
    this.shown = state;
    for (const each of [...this.watchers]) this.told(each, state);
  }

  private told<T>(handler: (value: T) => void, value: T): void {
    try {
      handler(value);
    } catch (error) {
      report(error);
    }
  }

  private begin(or?: string): void {
    if (this.shown.status !== "idle" && this.shown.status !== or) return;
    this.attempts = 0;
    this.renewed = false;
    this.show({ status: "connecting" });
    // A page may close it at once, as React does in strict mode: then nothing was opened.
    this.timer = setTimeout(() => this.connect(), 0);
  }

  private async connect(): Promise<void> {
    const attempt = this.attempt;
    if (this.shown.status !== "connecting") this.show({ status: "connecting" });
    this.heard = Date.now();
    this.watch();
    try {
      const params = await this.params();
      if (attempt !== this.attempt) return;
      const { token } = this.about;
      const protocols = ["wsflow.json", "wsflow.refuse"];
      if (token) protocols.push(token + params.token);
      const socket: Socket = (this.socket = new this.make(this.target(params), protocols));
      socket.binaryType = "arraybuffer";
      socket.onerror = () => {}; // onclose follows
      const refused = (): boolean => socket.protocol === "wsflow.refuse";
      // A redirection is no reason to come back.
      socket.onclose = ({ code, reason }: End) => this.lost(code, reason, refused() && code < 4400);
      socket.onmessage = (event: { data: unknown }) => {
        this.heard = Date.now();
        this.pinged = 0;
        this.take(event.data);
      };
      socket.onopen = () => {
        if (refused()) return; // it is closed at once
        this.since = this.heard = Date.now();
        if (token === "") this.frame("$auth", { token: params.token });
        const queue = this.queue;
        this.queue = [];
        for (const send of queue) send();
        clearTimeout(this.timer);
        this.watch();
        this.show({ status: "open" });
      };
    } catch (error) {
      if (attempt === this.attempt) this.lost(1011, `${error}`);
    }
  }

  private target(params: any): string {
    const { path, query = {}, resume } = this.about;
    if (resume && this.lastEventId) params = { ...params, [resume]: this.lastEventId };
    const url = new URL(this.url);
    url.protocol = url.protocol.replace("http", "ws");
    url.pathname =
      url.pathname.replace(/\/$/, "") +
      path.replace(/\{(\w+)\}/g, (_, name) => {
        const value = `${params[name]}`;
        if (/^\.{0,2}$/.test(value)) throw new Error(`${path}: ${name} cannot be ${JSON.stringify(value)}`);
        return encodeURIComponent(value);
      });
    for (const name in query)
      for (const value of [params[name]].flat()) if (value != null) url.searchParams.append(query[name]!, value);
    return `${url}`;
  }

  /** Look after the connection: it has to open, and then to say something now and then. */
  private watch(): void {
    const beat = (this.since && this.options.heartbeat) || 20000;
    const now = Date.now();
    const quiet = now - (this.pinged || this.heard);
    if (quiet >= beat) {
      // If this is late, so may be what has come: ask once more.
      if (!this.since || (this.pinged && quiet < 2 * beat)) return this.lost(1006, "no answer in time");
      if (this.pings && this.about.frames && this.socket!.protocol === "wsflow.json") {
        this.pinged = now;
        this.frame("$ping");
      }
    }
    this.timer = setTimeout(() => this.watch(), quiet < beat ? beat - quiet : beat);
  }

  private lost(code: number, reason: string, away = false): void {
    const { reconnect } = this.options;
    const { initialDelay = 1000, maxDelay = 60000, stableAfter = 30000 } = typeof reconnect === "object" ? reconnect : {};
    if (this.since && Date.now() - this.since >= stableAfter) {
      this.attempts = 0;
      this.renewed = false;
    }
    let again = /^(100[16]|101[1-4]|3008|44(08|25|29)|4[0-35-9]..)$/.test(`${code}`);
    if (code === 4401 && this.renews && !this.renewed) again = this.renewed = true;
    if (code === 1007 && this.pinged) {
      this.pings = false; // a server that does not know them
      again = true;
    }
    const end = { code, reason };
    if (!again || away || reconnect === false) return this.finish(end, true);
    this.drop(end);
    this.wait(Date.now() + Math.random() * Math.min(maxDelay, initialDelay * 2 ** this.attempts++), end);
  }

  private wait(until: number, end: End): void {
    const left = until - Date.now();
    if (left <= 0) return void this.connect();
    this.show({ status: "waiting", seconds: Math.ceil(left / 1000), end });
    this.timer = setTimeout(() => this.wait(until, end), left % 1000 || 1000);
  }

  /** End it for good. */
  private finish(end: End, failed: boolean): void {
    this.queue = [];
    for (const call of this.calls.values()) call.sent = true;
    this.drop(end, true);
    const error = failed && ![1000, 1001, 1005].includes(end.code) && new Disconnected(end);
    for (const each of this.readers) each.end(error);
    this.readers.clear();
    this.show({ status: "ended", end });
  }

  /** Leave this socket, and what was under way on it. */
  private drop(end: End, tell = false): void {
    const socket = this.socket;
    this.socket = undefined;
    this.attempt = {};
    this.since = this.pinged = 0;
    clearTimeout(this.timer);
    clearTimeout(this.renewal);
    if (socket) {
      const close = (): void => (tell && (end.code === 1000 || end.code >= 3000) ? socket.close(end.code, end.reason) : socket.close());
      socket.onmessage = socket.onclose = null;
      if (socket.readyState) close();
      else socket.onopen = close; // closing it before that would be shown as an error
    }
    for (const [id, call] of this.calls)
      if (call.sent) {
        this.forget(id);
        call.fail(new Disconnected(end));
      }
    for (const id of this.works.keys()) this.stop(id);
  }

  private put(send: Stop): void {
    if (this.shown.status === "ended") throw new Disconnected(this.shown.end);
    this.begin();
    if (this.since) return send();
    if (this.queue.length >= (this.options.queue ?? 1000)) throw new Error("too much waits for a connection");
    this.queue.push(send);
  }

  private text(message: unknown): string {
    return (this.about.write ?? JSON.stringify)(message);
  }

  private tagged(tag: string | number, fields: any): object {
    const field = this.about.tags[0];
    return { [field]: tag, ...fields, [field]: tag }; // the tag first, whatever is in the fields
  }

  private frame(tag: string, fields?: object): void {
    this.socket?.send(this.text(this.tagged(tag, fields)));
  }

  private take(data: any): void {
    const { tags, receives, frames, read } = this.about;
    let message = data;
    let kinds: any[] = ["$binary"];
    if (typeof data === "string") {
      try {
        message = read ? read(data, (id) => this.calls.get(id)?.tag) : JSON.parse(data);
      } catch {} // it is no JSON
      const tag = message?.[tags[0]];
      if (frames && tag?.[0] === "$") return this.framed(tag, message);
      kinds = [message?.[tags[1]], "$message", "$text"];
    }
    const tag = kinds.find((each) => Object.hasOwn(receives, each));
    if (tag === "$text") message = data;
    for (const each of [...(this.handlers.get(tag) ?? [])]) this.told(each, message);
    if (tag === undefined) return;
    for (const each of this.readers) each.push(message);
    this.lastEventId = message?.[receives[tag]!] || this.lastEventId;
  }

  private framed(tag: string, frame: any): void {
    const { id } = frame;
    const call = this.calls.get(id);
    if (tag === "$call") void this.work(frame);
    else if (tag === "$cancel") this.stop(id);
    else if (tag === "$more") {
      const work = this.works.get(id);
      if (work) work.items += frame.items;
      work?.wake();
    } else if (tag === "$auth") this.renewIn(frame.expires_in);
    else if (tag === "$item") call?.item(frame.value);
    else if (call) {
      this.forget(id);
      if (tag === "$error") call.fail(new CallError(frame.code, frame.message));
      else call.done(frame.value);
    }
  }

  /** Make a call, and tell how it goes on. Returns its id. */
  private ask(tag: string | number, fields: any, signal: AbortSignal | undefined, told: Told): number {
    const id = ++this.ids;
    const data = this.text(this.tagged("$call", { id, message: this.tagged(tag, fields) }));
    const abort = (): void => {
      this.cancel(id);
      told.fail(signal!.reason);
    };
    const call: Pending = { ...told, tag, sent: false, off: () => signal?.removeEventListener("abort", abort) };
    this.calls.set(id, call);
    if (signal?.aborted) abort();
    else {
      signal?.addEventListener("abort", abort);
      try {
        this.put(() => {
          if (!this.calls.has(id)) return; // it was given up meanwhile
          call.sent = true;
          this.socket!.send(data);
        });
      } catch (error) {
        this.forget(id)!.fail(error);
      }
    }
    return id;
  }

  private forget(id: number): Pending | undefined {
    const call = this.calls.get(id);
    this.calls.delete(id);
    call?.off();
    return call;
  }

  private cancel(id: number): void {
    if (this.forget(id)?.sent) this.frame("$cancel", { id });
  }

  /** Answer a call of the server. */
  private async work({ id, message, items = 64 }: any): Promise<void> {
    const work: Work = Object.assign(new AbortController(), { items, wake() {} });
    const reply = (tag: string, fields?: object): void => {
      if (this.works.get(id) === work) this.frame(tag, { id, ...fields });
    };
    this.works.set(id, work);
    try {
      const handler = this.answers.get(message[this.about.tags[1]]);
      if (!handler) throw new CallError("unknown");
      const answer: any = await handler(message, work.signal);
      if (answer?.[Symbol.asyncIterator]) {
        for await (const value of answer) {
          while (!work.items && !work.signal.aborted) await new Promise<void>((wake) => (work.wake = wake));
          if (work.signal.aborted) return;
          work.items--;
          reply("$item", { value });
        }
        reply("$end");
      } else reply("$answer", { value: answer ?? null });
    } catch (error) {
      const known = error instanceof CallError;
      reply("$error", known ? { code: error.code, message: error.message } : { code: "internal" });
      if (!known && !work.signal.aborted) report(error);
    } finally {
      if (this.works.get(id) === work) this.works.delete(id);
    }
  }

  private stop(id: number): void {
    const work = this.works.get(id);
    this.works.delete(id);
    work?.abort();
    work?.wake();
  }

  /** The token ends in so many seconds: renew it when four fifths of them are over. */
  private renewIn(seconds: number | null | undefined): void {
    clearTimeout(this.renewal);
    if (seconds == null || !this.renews) return;
    const attempt = this.attempt;
    this.renewal = setTimeout(async () => {
      try {
        const { token } = await this.params();
        if (attempt === this.attempt) this.frame("$auth", { token });
      } catch (error) {
        report(error);
        if (attempt === this.attempt) this.renewIn(6.25);
      }
    }, Math.min(Math.max(seconds * 800, 1000), 2 ** 31 - 1));
  }
}
