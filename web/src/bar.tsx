// The bar above the page: search, undo and redo, the link that gives this view back, light or
// dark.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { goTo } from "./scroll";
import { everything, found, type Hit } from "./search";
import { encode } from "./state";
import { type Store, useStore } from "./store";
import type { BilensDocument } from "./types";
import { Copy, Text } from "./ui";

interface Props {
  readonly made: BilensDocument;
  readonly store: Store;
  readonly root: HTMLElement;
}

export function Toolbar({ made, store, root }: Props): JSX.Element {
  useStore(store);
  useKeys(store, root);
  return (
    <div class="toolbar" role="toolbar" aria-label="The page">
      <Search made={made} store={store} root={root} />
      <button
        type="button"
        disabled={!store.canUndo}
        onClick={() => store.undo()}
        title="Undo (Ctrl+Z)"
      >
        Undo
      </button>
      <button
        type="button"
        disabled={!store.canRedo}
        onClick={() => store.redo()}
        title="Redo (Ctrl+Shift+Z)"
      >
        Redo
      </button>
      <Copy
        name="Copy link"
        text={() => `${location.href.replace(/#.*/, "")}#${encode(store.state)}`}
      />
      <Theme root={root} />
      <span class="said" role="status">
        <Text>{store.said}</Text>
      </span>
    </div>
  );
}

/** Ctrl+Z and its like, but not where text is typed, which undoes its own; / goes to the search. */
function useKeys(store: Store, root: HTMLElement): void {
  useEffect(() => {
    const key = (event: KeyboardEvent) => {
      if (typed(event.target)) return;
      const held = event.ctrlKey || event.metaKey;
      const letter = event.key.toLowerCase();
      if (held && letter === "z") event.shiftKey ? store.redo() : store.undo();
      else if (held && letter === "y") store.redo();
      else if (!held && event.key === "/")
        root.querySelector<HTMLInputElement>(".search input")?.focus();
      else return;
      event.preventDefault();
    };
    root.addEventListener("keydown", key);
    return () => root.removeEventListener("keydown", key);
  }, [store, root]);
}

function typed(target: EventTarget | null): boolean {
  return target instanceof Element && target.matches("input:not([type=range]), textarea, select");
}

function Search({ made, store, root }: Props): JSX.Element {
  const [words, look] = useState("");
  const [at, move] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const hits = useMemo(() => found(everything(made, store.state), words), [words, made]);
  const go = (hit: Hit | undefined) => {
    if (!hit) return;
    store.set(hit.state);
    look("");
    goTo(root, hit.section);
  };
  const key = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") move(Math.min(at + 1, hits.length - 1));
    else if (event.key === "ArrowUp") move(Math.max(at - 1, 0));
    else if (event.key === "Enter") go(hits[at]);
    else if (event.key === "Escape") look("");
    else return;
    event.preventDefault();
  };
  return (
    <div class="search">
      <input
        ref={input}
        type="text"
        role="combobox"
        placeholder="Search  /"
        aria-label="Search sections, tokens, parts and paths"
        aria-expanded={hits.length > 0}
        aria-controls="bilens-found"
        aria-autocomplete="list"
        aria-activedescendant={hits.length ? `bilens-found-${at}` : undefined}
        value={words}
        onInput={(event) => {
          look(event.currentTarget.value);
          move(0);
        }}
        onKeyDown={key}
      />
      <ul id="bilens-found" role="listbox" aria-label="Found" hidden={!words}>
        {hits.map((hit, n) => (
          <li
            key={n}
            id={`bilens-found-${n}`}
            role="option"
            aria-selected={n === at}
            onPointerDown={(event) => {
              event.preventDefault();
              go(hit);
            }}
          >
            <span class="soft">{hit.kind}</span> <Text>{hit.name}</Text>
          </li>
        ))}
        {words && !hits.length && (
          <li role="option" aria-selected={false} aria-disabled="true" class="soft">
            Nothing of that name
          </li>
        )}
      </ul>
    </div>
  );
}

const THEMES = { "": "Light or dark", light: "Light", dark: "Dark" } as const;
type ThemeName = keyof typeof THEMES;
const ORDER: readonly ThemeName[] = ["", "light", "dark"];

/** As the system has it, unless one is chosen. */
function Theme({ root }: { root: HTMLElement }): JSX.Element {
  const [theme, choose] = useState<ThemeName>("");
  useEffect(() => {
    if (theme) root.dataset["theme"] = theme;
    else delete root.dataset["theme"];
  }, [theme, root]);
  const next = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length] ?? "";
  return (
    <button type="button" onClick={() => choose(next)} title={`Next: ${THEMES[next]}`}>
      {THEMES[theme]}
    </button>
  );
}
