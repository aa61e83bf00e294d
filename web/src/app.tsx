// The page: its head, and its sections one below another.

import type { JSX } from "preact";
import type { BilensDocument, Section } from "./types";
import { Text } from "./ui";

export function App({ made }: { made: BilensDocument }): JSX.Element {
  return (
    <main>
      <h1><Text>{made.title}</Text></h1>
      {made.sections.map((section) => <Part key={section.id} section={section} />)}
      <p class="soft">Made by bilens {made.bilens}.</p>
    </main>
  );
}

function Part({ section }: { section: Section }): JSX.Element {
  return (
    <section id={section.id} aria-labelledby={`${section.id}-title`}>
      <h2 id={`${section.id}-title`}><Text>{section.title}</Text></h2>
      <Body section={section} />
    </section>
  );
}

function Body({ section }: { section: Section }): JSX.Element {
  switch (section.kind) {
    case "broken":
      return <p class="error"><b>This part could not be made.</b> <Text>{section.error}</Text></p>;
    case "missing":
      return <p class="soft"><Text>{section.text}</Text></p>;
    default:
      return <p class="soft">Not drawn yet.</p>;
  }
}
