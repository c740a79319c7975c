// React for a page that has no bundler.
const modules = {};
for (const name of ["react", "scheduler", "react-dom", "react-dom/client"]) {
  const text = await (await fetch(`./${name.replace("/", "-")}.cjs`)).text();
  const module = { exports: {} };
  const run = new Function("require", "module", "exports", "process", text);
  run((other) => modules[other], module, module.exports, { env: { NODE_ENV: "development" } });
  modules[name] = module.exports;
}
export const { StrictMode, createElement, useCallback, useEffect, useState, useSyncExternalStore } = modules.react;
export const { createRoot } = modules["react-dom/client"];
