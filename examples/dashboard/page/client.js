export function dashboard(base, params, options = {}) {
    return new Connection(base, params, options, {
        path: "/dashboard",
        query: { "name": "name", "after": "after" },
        resume: "after",
        tags: ["type", "type"],
        receives: { "came": "", "went": "", "hello": "", "gap": "", "prices": "", "said": "id" },
        frames: true,
    });
}
export class CallError extends Error {
    name = "CallError";
    code;
    constructor(code, message) {
        super(message || code);
        this.code = code;
    }
}
export class Disconnected extends Error {
    name = "Disconnected";
    code;
    reason;
    constructor({ code, reason }) {
        super(`the connection has ended: ${code} ${reason}`);
        this.code = code;
        this.reason = reason;
    }
}
const report = (error) => (globalThis.reportError ?? console.error)(error);
class Queue {
    items = [];
    over = false;
    error;
    wake = () => { };
    push(item) {
        this.items.push(item);
        this.wake();
    }
    end(error) {
        this.over = true;
        this.error = error;
        this.wake();
    }
    async *read(left) {
        try {
            for (;;) {
                const items = this.items;
                this.items = [];
                yield* items;
                if (!this.items.length) {
                    if (this.error)
                        throw this.error;
                    if (this.over)
                        return;
                    await new Promise((wake) => (this.wake = wake));
                }
            }
        }
        finally {
            left();
        }
    }
}
export class Connection {
    lastEventId = "";
    shown = { status: "idle" };
    url;
    make;
    params;
    options;
    about;
    handlers = new Map();
    watchers = new Set();
    answers = new Map();
    readers = new Set();
    calls = new Map();
    works = new Map();
    queue = [];
    socket;
    attempt = {};
    timer;
    renewal;
    attempts = 0;
    ids = 0;
    since = 0;
    heard = 0;
    pinged = 0;
    pings = true;
    renews;
    renewed = false;
    constructor(base, params, options, about) {
        this.url = String(new URL(base, globalThis.location?.origin));
        this.params = typeof params === "function" ? params : () => params;
        this.renews = about.token != null && typeof params === "function";
        this.options = options;
        this.about = about;
        this.make = options.WebSocket ?? globalThis.WebSocket;
        if (!this.make)
            throw new Error('there is no WebSocket here: use { WebSocket } of the package "ws"');
        if (!options.lazy)
            this.begin();
    }
    get state() {
        return this.shown;
    }
    open() {
        this.begin("ended");
        return new Promise((done, fail) => {
            const look = (state) => {
                if (state.status === "open")
                    done();
                else if (state.status === "ended")
                    fail(new Disconnected(state.end));
                else
                    return;
                this.watchers.delete(look);
            };
            this.watchers.add(look);
            look(this.shown);
        });
    }
    close(code = 1000, reason = "") {
        if (code !== 1000 && !(code >= 3000 && code < 5000))
            throw new RangeError(`close: ${code} is not 1000, nor 3000 to 4999`);
        if (this.shown.status !== "ended")
            this.finish({ code, reason }, false);
    }
    send(tag, ...[fields]) {
        const raw = tag === "$text" || tag === "$binary";
        const data = raw ? fields : this.text(tag === "$message" ? fields : this.tagged(tag, fields));
        this.put(() => this.socket.send(data));
    }
    on(tag, handler) {
        const found = this.handlers.get(tag) ?? new Set();
        this.handlers.set(tag, found.add(handler));
        return () => void found.delete(handler);
    }
    onUnknown(handler) {
        return this.on(undefined, handler);
    }
    onState(handler) {
        this.watchers.add(handler);
        return () => void this.watchers.delete(handler);
    }
    call(tag, ...[fields, options]) {
        return new Promise((done, fail) => void this.ask(tag, fields, options?.signal, { done, fail, item() { } }));
    }
    async *stream(tag, ...[fields, options]) {
        const queue = new Queue();
        const id = this.ask(tag, fields, options?.signal, {
            item: (value) => queue.push(value),
            done: () => queue.end(),
            fail: (error) => queue.end(error),
        });
        let count = 0;
        for await (const item of queue.read(() => this.cancel(id))) {
            yield item;
            if (++count % 32 === 0 && this.calls.has(id))
                this.frame("$more", { id, items: 32 });
        }
    }
    answer(tag, handler) {
        this.answers.set(tag, handler);
    }
    [Symbol.asyncIterator]() {
        const queue = new Queue();
        if (this.shown.status === "ended")
            queue.end();
        this.readers.add(queue);
        this.begin();
        return queue.read(() => this.readers.delete(queue));
    }
    show(state) {
        this.shown = state;
        for (const each of [...this.watchers])
            this.told(each, state);
    }
    told(handler, value) {
        try {
            handler(value);
        }
        catch (error) {
            report(error);
        }
    }
    begin(or) {
        if (this.shown.status !== "idle" && this.shown.status !== or)
            return;
        this.attempts = 0;
        this.renewed = false;
        this.show({ status: "connecting" });
        this.timer = setTimeout(() => this.connect(), 0);
    }
    async connect() {
        const attempt = this.attempt;
        if (this.shown.status !== "connecting")
            this.show({ status: "connecting" });
        this.heard = Date.now();
        this.watch();
        try {
            const params = await this.params();
            if (attempt !== this.attempt)
                return;
            const { token } = this.about;
            const protocols = ["wsflow.json", "wsflow.refuse"];
            if (token)
                protocols.push(token + params.token);
            const socket = (this.socket = new this.make(this.target(params), protocols));
            socket.binaryType = "arraybuffer";
            socket.onerror = () => { };
            const refused = () => socket.protocol === "wsflow.refuse";
            socket.onclose = ({ code, reason }) => this.lost(code, reason, refused() && code < 4400);
            socket.onmessage = (event) => {
                this.heard = Date.now();
                this.pinged = 0;
                this.take(event.data);
            };
            socket.onopen = () => {
                if (refused())
                    return;
                this.since = this.heard = Date.now();
                if (token === "")
                    this.frame("$auth", { token: params.token });
                const queue = this.queue;
                this.queue = [];
                for (const send of queue)
                    send();
                clearTimeout(this.timer);
                this.watch();
                this.show({ status: "open" });
            };
        }
        catch (error) {
            if (attempt === this.attempt)
                this.lost(1011, `${error}`);
        }
    }
    target(params) {
        const { path, query = {}, resume } = this.about;
        if (resume && this.lastEventId)
            params = { ...params, [resume]: this.lastEventId };
        const url = new URL(this.url);
        url.protocol = url.protocol.replace("http", "ws");
        url.pathname =
            url.pathname.replace(/\/$/, "") +
                path.replace(/\{(\w+)\}/g, (_, name) => {
                    const value = `${params[name]}`;
                    if (/^\.{0,2}$/.test(value))
                        throw new Error(`${path}: ${name} cannot be ${JSON.stringify(value)}`);
                    return encodeURIComponent(value);
                });
        for (const name in query)
            for (const value of [params[name]].flat())
                if (value != null)
                    url.searchParams.append(query[name], value);
        return `${url}`;
    }
    watch() {
        const beat = (this.since && this.options.heartbeat) || 20000;
        const now = Date.now();
        const quiet = now - (this.pinged || this.heard);
        if (quiet >= beat) {
            if (!this.since || (this.pinged && quiet < 2 * beat))
                return this.lost(1006, "no answer in time");
            if (this.pings && this.about.frames && this.socket.protocol === "wsflow.json") {
                this.pinged = now;
                this.frame("$ping");
            }
        }
        this.timer = setTimeout(() => this.watch(), quiet < beat ? beat - quiet : beat);
    }
    lost(code, reason, away = false) {
        const { reconnect } = this.options;
        const { initialDelay = 1000, maxDelay = 60000, stableAfter = 30000 } = typeof reconnect === "object" ? reconnect : {};
        if (this.since && Date.now() - this.since >= stableAfter) {
            this.attempts = 0;
            this.renewed = false;
        }
        let again = /^(100[16]|101[1-4]|3008|44(08|25|29)|4[0-35-9]..)$/.test(`${code}`);
        if (code === 4401 && this.renews && !this.renewed)
            again = this.renewed = true;
        if (code === 1007 && this.pinged) {
            this.pings = false;
            again = true;
        }
        const end = { code, reason };
        if (!again || away || reconnect === false)
            return this.finish(end, true);
        this.drop(end);
        this.wait(Date.now() + Math.random() * Math.min(maxDelay, initialDelay * 2 ** this.attempts++), end);
    }
    wait(until, end) {
        const left = until - Date.now();
        if (left <= 0)
            return void this.connect();
        this.show({ status: "waiting", seconds: Math.ceil(left / 1000), end });
        this.timer = setTimeout(() => this.wait(until, end), left % 1000 || 1000);
    }
    finish(end, failed) {
        this.queue = [];
        for (const call of this.calls.values())
            call.sent = true;
        this.drop(end, true);
        const error = failed && ![1000, 1001, 1005].includes(end.code) && new Disconnected(end);
        for (const each of this.readers)
            each.end(error);
        this.readers.clear();
        this.show({ status: "ended", end });
    }
    drop(end, tell = false) {
        const socket = this.socket;
        this.socket = undefined;
        this.attempt = {};
        this.since = this.pinged = 0;
        clearTimeout(this.timer);
        clearTimeout(this.renewal);
        if (socket) {
            const close = () => (tell && (end.code === 1000 || end.code >= 3000) ? socket.close(end.code, end.reason) : socket.close());
            socket.onmessage = socket.onclose = null;
            if (socket.readyState)
                close();
            else
                socket.onopen = close;
        }
        for (const [id, call] of this.calls)
            if (call.sent) {
                this.forget(id);
                call.fail(new Disconnected(end));
            }
        for (const id of this.works.keys())
            this.stop(id);
    }
    put(send) {
        if (this.shown.status === "ended")
            throw new Disconnected(this.shown.end);
        this.begin();
        if (this.since)
            return send();
        if (this.queue.length >= (this.options.queue ?? 1000))
            throw new Error("too much waits for a connection");
        this.queue.push(send);
    }
    text(message) {
        return (this.about.write ?? JSON.stringify)(message);
    }
    tagged(tag, fields) {
        const field = this.about.tags[0];
        return { [field]: tag, ...fields, [field]: tag };
    }
    frame(tag, fields) {
        this.socket?.send(this.text(this.tagged(tag, fields)));
    }
    take(data) {
        const { tags, receives, frames, read } = this.about;
        let message = data;
        let kinds = ["$binary"];
        if (typeof data === "string") {
            try {
                message = read ? read(data, (id) => this.calls.get(id)?.tag) : JSON.parse(data);
            }
            catch { }
            const tag = message?.[tags[0]];
            if (frames && tag?.[0] === "$")
                return this.framed(tag, message);
            kinds = [message?.[tags[1]], "$message", "$text"];
        }
        const tag = kinds.find((each) => Object.hasOwn(receives, each));
        if (tag === "$text")
            message = data;
        for (const each of [...(this.handlers.get(tag) ?? [])])
            this.told(each, message);
        if (tag === undefined)
            return;
        for (const each of this.readers)
            each.push(message);
        this.lastEventId = message?.[receives[tag]] || this.lastEventId;
    }
    framed(tag, frame) {
        const { id } = frame;
        const call = this.calls.get(id);
        if (tag === "$call")
            void this.work(frame);
        else if (tag === "$cancel")
            this.stop(id);
        else if (tag === "$more") {
            const work = this.works.get(id);
            if (work)
                work.items += frame.items;
            work?.wake();
        }
        else if (tag === "$auth")
            this.renewIn(frame.expires_in);
        else if (tag === "$item")
            call?.item(frame.value);
        else if (call) {
            this.forget(id);
            if (tag === "$error")
                call.fail(new CallError(frame.code, frame.message));
            else
                call.done(frame.value);
        }
    }
    ask(tag, fields, signal, told) {
        const id = ++this.ids;
        const data = this.text(this.tagged("$call", { id, message: this.tagged(tag, fields) }));
        const abort = () => {
            this.cancel(id);
            told.fail(signal.reason);
        };
        const call = { ...told, tag, sent: false, off: () => signal?.removeEventListener("abort", abort) };
        this.calls.set(id, call);
        if (signal?.aborted)
            abort();
        else {
            signal?.addEventListener("abort", abort);
            try {
                this.put(() => {
                    if (!this.calls.has(id))
                        return;
                    call.sent = true;
                    this.socket.send(data);
                });
            }
            catch (error) {
                this.forget(id).fail(error);
            }
        }
        return id;
    }
    forget(id) {
        const call = this.calls.get(id);
        this.calls.delete(id);
        call?.off();
        return call;
    }
    cancel(id) {
        if (this.forget(id)?.sent)
            this.frame("$cancel", { id });
    }
    async work({ id, message, items = 64 }) {
        const work = Object.assign(new AbortController(), { items, wake() { } });
        const reply = (tag, fields) => {
            if (this.works.get(id) === work)
                this.frame(tag, { id, ...fields });
        };
        this.works.set(id, work);
        try {
            const handler = this.answers.get(message[this.about.tags[1]]);
            if (!handler)
                throw new CallError("unknown");
            const answer = await handler(message, work.signal);
            if (answer?.[Symbol.asyncIterator]) {
                for await (const value of answer) {
                    while (!work.items && !work.signal.aborted)
                        await new Promise((wake) => (work.wake = wake));
                    if (work.signal.aborted)
                        return;
                    work.items--;
                    reply("$item", { value });
                }
                reply("$end");
            }
            else
                reply("$answer", { value: answer ?? null });
        }
        catch (error) {
            const known = error instanceof CallError;
            reply("$error", known ? { code: error.code, message: error.message } : { code: "internal" });
            if (!known && !work.signal.aborted)
                report(error);
        }
        finally {
            if (this.works.get(id) === work)
                this.works.delete(id);
        }
    }
    stop(id) {
        const work = this.works.get(id);
        this.works.delete(id);
        work?.abort();
        work?.wake();
    }
    renewIn(seconds) {
        clearTimeout(this.renewal);
        if (seconds == null || !this.renews)
            return;
        const attempt = this.attempt;
        this.renewal = setTimeout(async () => {
            try {
                const { token } = await this.params();
                if (attempt === this.attempt)
                    this.frame("$auth", { token });
            }
            catch (error) {
                report(error);
                if (attempt === this.attempt)
                    this.renewIn(6.25);
            }
        }, Math.min(Math.max(seconds * 800, 1000), 2 ** 31 - 1));
    }
}
