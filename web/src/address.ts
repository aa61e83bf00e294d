// The state of a page in its address: a link, opened afresh, gives the same view back.

import { decode, encode, fitted } from "./state";
import type { Store } from "./store";
import type { BilensDocument } from "./types";

/** Keeps both as one; what is returned lets go of them. */
export function keepAddress(store: Store, made: BilensDocument): () => void {
  const read = () => {
    const { state, dropped } = decode(location.hash);
    const fit = fitted(state, made);
    const lost = [...dropped, ...fit.dropped];
    store.set(fit.state);
    if (lost.length)
      store.say(`Left out of the link, as it does not fit this page: ${lost.join(", ")}.`);
  };
  const write = () => {
    const hash = encode(store.state);
    const now = location.hash.replace(/^#/, "");
    if (hash !== encode(decode(now).state))
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };
  read();
  store.forget();
  const release = store.listen(write);
  addEventListener("hashchange", read);
  return () => {
    release();
    removeEventListener("hashchange", read);
  };
}
