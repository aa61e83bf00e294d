/** `make`, of which each thing is asked once. */
export function once<Thing extends object, Made>(
  make: (thing: Thing) => Made,
): (thing: Thing) => Made {
  const held = new WeakMap<Thing, Made>();
  return (thing) => {
    const made = held.get(thing) ?? make(thing);
    held.set(thing, made);
    return made;
  };
}
