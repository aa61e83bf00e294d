/** Brings a section into sight, and the keyboard to its title. */
export function goTo(root: HTMLElement, section: string): void {
  const found = root.querySelector<HTMLElement>(`#${CSS.escape(section)}`);
  found?.scrollIntoView();
  found?.querySelector<HTMLElement>("h2")?.focus({ preventScroll: true });
}
