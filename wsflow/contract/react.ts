// A hook for React, written by wsflow: write it anew, and do not change it.
/* eslint-disable */
import { type DependencyList, useCallback, useEffect, useState, useSyncExternalStore } from "react";

interface Shown {
  readonly state: unknown;
  onState(changed: () => void): () => void;
  close(): void;
}

const connecting = { status: "connecting" } as const;

/**
 * A connection for as long as a component is shown, and its state.
 *
 *     const [chat, state] = useConnection(() => {
 *       const chat = chatRoom(base, { room });
 *       chat.on("said", (message) => add(message));
 *       return chat;
 *     }, [room]);
 *
 * Add handlers in the function: then they hear the first message, too. The connection is undefined
 * until the component is shown. When a dependency has changed it is closed, and another is opened.
 */
export function useConnection<C extends Shown>(connect: () => C, dependencies: DependencyList): readonly [connection: C | undefined, state: C["state"]] {
  const [connection, show] = useState<C>();
  useEffect(() => {
    const made = connect();
    show(made);
    return () => {
      show(undefined);
      made.close();
    };
  }, dependencies);
  const watch = useCallback((changed: () => void) => connection?.onState(changed) ?? (() => {}), [connection]);
  const state = (): C["state"] => connection?.state ?? connecting;
  return [connection, useSyncExternalStore(watch, state, state)];
}
