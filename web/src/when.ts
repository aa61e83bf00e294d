// When a figure is drawn: as soon as it comes near the window, else when there is nothing to do.

const NEAR = "400px"; // around the window
const LATEST = 500; // ms, however busy the page is

/** Calls `draw` once, soon; what is returned takes it back. */
export function soon(element: Element, draw: () => void): () => void {
  let waits = true;
  const now = () => {
    if (!waits) return;
    waits = false;
    leave(element);
    draw();
  };
  inSight(element, now);
  whenIdle(now);
  return () => {
    waits = false;
    leave(element);
  };
}

const WAITING = new Map<Element, () => void>();
let watcher: IntersectionObserver | null = null; // one for all

/** Calls `draw` once, when it comes near the window; what is returned takes it back. */
export function inSight(element: Element, draw: () => void): () => void {
  watcher ??= new IntersectionObserver(seen, { rootMargin: NEAR });
  WAITING.set(element, draw);
  watcher.observe(element);
  return () => leave(element);
}

function seen(entries: readonly IntersectionObserverEntry[]): void {
  for (const { target, isIntersecting } of entries) {
    const draw = isIntersecting ? WAITING.get(target) : undefined;
    if (!draw) continue;
    leave(target);
    draw();
  }
}

function leave(element: Element): void {
  WAITING.delete(element);
  watcher?.unobserve(element);
}

// Safari has no requestIdleCallback.
function whenIdle(act: () => void): void {
  if (typeof requestIdleCallback === "function") requestIdleCallback(act, { timeout: LATEST });
  else setTimeout(act, 200);
}
