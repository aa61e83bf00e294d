// The state of a page in its address: a link, opened afresh, gives the same view back.

import { fitted } from "./fitted";
import { decode, encode, type State } from "./state";
import type { Store } from "./store";
import type { BilensDocument } from "./types";

/** Keeps both as one; what is returned lets go of them. Another tab is a step of the browser's
 * history, to which Back returns; whatever else changes stays in the step there is. */
export function keepAddress(store: Store, made: BilensDocument): () => void {
  let reading = false; // what is read is no step
  const read = () => {
    reading = true;
    const { state, dropped } = decode(location.hash);
    const fit = fitted(state, made);
    const lost = [...dropped, ...fit.dropped];
    store.set(fit.state);
    reading = false;
    if (lost.length)
      store.say(`Left out of the link, as it does not fit this page: ${lost.join(", ")}.`);
  };
  const write = () => {
    const hash = encode(store.state);
    const shown = decode(location.hash).state;
    if (hash === encode(shown)) return;
    const address = hash ? `#${hash}` : location.pathname + location.search;
    if (!reading && otherTab(shown, store.state)) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  };
  read();
  store.forget();
  const release = store.listen(write);
  addEventListener("hashchange", read);
  addEventListener("popstate", read);
  return () => {
    release();
    removeEventListener("hashchange", read);
    removeEventListener("popstate", read);
  };
}

/** Whether two states show different tabs, or those of different sections. */
function otherTab(one: State, other: State): boolean {
  return one.view !== other.view || Boolean(one.s && other.s && one.s !== other.s);
}
