// When a figure is drawn: as soon as it comes near the window, else when there is nothing to do.

const NEAR = "400px"; // around the window
const LATEST = 500; // ms, however busy the page is

/** Calls `draw` once, soon; what is returned takes it back. */
export function soon(element: Element, draw: () => void): () => void {
  let waits = true;
  const now = () => {
    if (!waits) return;
    waits = false;
    watcher.disconnect();
    draw();
  };
  const watcher = new IntersectionObserver((seen) => {
    if (seen.some((entry) => entry.isIntersecting)) now();
  }, { rootMargin: NEAR });
  watcher.observe(element);
  whenIdle(now);
  return () => {
    waits = false;
    watcher.disconnect();
  };
}

// Safari has no requestIdleCallback.
function whenIdle(act: () => void): void {
  if (typeof requestIdleCallback === "function") requestIdleCallback(act, { timeout: LATEST });
  else setTimeout(act, 200);
}
