/** Where integers are exact: 1 is one, a text is that of a named type, a list is that of each. */
type Shape = 1 | string | readonly Shape[] | { readonly tag?: readonly [string, unknown]; readonly in?: { readonly [field: string]: Shape }; readonly each?: Shape };

/** Convert the integers of a value, given the same value with large ones as texts. */
function widen(value: any, exact: any, shape: Shape | undefined): any {
  if (shape === 1) return Number.isInteger(value) ? BigInt(exact) : value;
  if (typeof shape === "string") return widen(value, exact, shapes[shape]);
  if (Array.isArray(shape)) return shape.reduce((found, each) => widen(found, exact, each), value);
  const { tag, in: fields, each } = (shape ?? {}) as Exclude<Shape, 1 | string | readonly Shape[]>;
  if (value && typeof value === "object" && (!tag || value[tag[0]] === tag[1]))
    for (const key in value) value[key] = widen(value[key], exact[key], each ?? fields?.[key]);
  return value;
}

/** JSON with integers beyond 2^53: the shapes of what is received, and of answers, by tag. */
function exactly(tags: readonly [string, string], received: { readonly [tag: string]: Shape }, answered: { readonly [tag: string]: Shape }) {
  return {
    read(text: string, tagOf: (id: number) => unknown): unknown {
      const value = JSON.parse(text);
      const quoted = text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g, (each) => (/^-?\d{16,}$/.test(each) ? `"${each}"` : each));
      const kind = value?.[tags[0]];
      let shape: Shape = received[value?.[tags[1]]] ?? received["$message"] ?? {};
      if (kind === "$answer" || kind === "$item") shape = { in: { value: answered[tagOf(value.id) as string] ?? {} } };
      if (kind === "$call") shape = { in: { message: received[value.message[tags[1]]] ?? {} } };
      return widen(value, JSON.parse(quoted), shape);
    },
    write: function write(value: any): string {
      if (typeof value === "bigint") return `${value}`;
      if (Array.isArray(value)) return `[${value.map((each) => write(each ?? null))}]`;
      if (!value || typeof value !== "object" || value.toJSON) return JSON.stringify(value) ?? "null";
      const fields = Object.entries(value).filter(([, each]) => each !== undefined);
      return `{${fields.map(([name, each]) => `${JSON.stringify(name)}:${write(each)}`)}}`;
    },
  };
}
