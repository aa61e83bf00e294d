// The page: its head, and its sections one below another.

import { Component, type ComponentChildren, type JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ChartView } from "./sections/chart";
import { ClassesView } from "./sections/classes";
import { ExactnessView } from "./sections/exactness";
import { FeatureView } from "./sections/feature";
import { GatesView } from "./sections/gates";
import { LayerSectionView } from "./sections/layer";
import { ModelView } from "./sections/model";
import { NearestView } from "./sections/nearest";
import { Toolbar } from "./bar";
import { PromptView } from "./prompt/view";
import { type Store, useStore } from "./store";
import type { BilensDocument, PromptData, Section } from "./types";
import { goTo } from "./scroll";
import { Text, Titled } from "./ui";

interface Props {
  readonly made: BilensDocument;
  readonly store: Store;
  readonly root: HTMLElement;
}

export function App({ made, store, root }: Props): JSX.Element {
  const painted = usePainted();
  return (
    <main>
      <Toolbar made={made} store={store} root={root} />
      <h1>
        <Text>{made.title}</Text>
      </h1>
      <p class="soft">
        {made.about && (
          <>
            <Text>{made.about}</Text>{" "}
          </>
        )}
        Everything below is exact, or says what it left out.
      </p>
      <Contents sections={made.sections} root={root} />
      {made.sections.map((section, n) => (
        <Part
          key={section.id}
          section={section}
          made={made}
          store={store}
          waits={!painted && n >= FIRST && section.kind !== "prompt"}
        />
      ))}
      <p class="soft">
        Made by bilens {made.bilens}
        {made.made && `, ${made.made}`}.
      </p>
    </main>
  );
}

const FEW = 3; // sections that need no list of them
const FIRST = 2; // sections that are made at once; the others when these are seen

/** Whether the page was painted for the first time. */
function usePainted(): boolean {
  const [painted, say] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => say(true)); // an effect comes after a paint, where there is one
    return () => clearTimeout(timer);
  }, []);
  return painted;
}

/** The sections by name. The address is the state's, so that these are no links. */
function Contents({
  sections,
  root,
}: {
  sections: readonly Section[];
  root: HTMLElement;
}): JSX.Element | null {
  if (sections.length < FEW) return null;
  return (
    <nav aria-label="Sections">
      {sections.map(({ id, title }) => (
        <button type="button" class="link" key={id} onClick={() => goTo(root, id)}>
          <Text>{title}</Text>
        </button>
      ))}
    </nav>
  );
}

interface PartProps extends Omit<Props, "root"> {
  readonly section: Section;
}

function Part({ section, made, store, waits }: PartProps & { waits: boolean }): JSX.Element {
  const title = `${section.id}-title`;
  return (
    <section id={section.id} class={section.kind} aria-labelledby={title}>
      <h2 id={title} tabIndex={-1}>
        <Text>{section.title}</Text>
      </h2>
      <Titled.Provider value={section.title}>
        <Guarded>{!waits && <Body section={section} made={made} store={store} />}</Guarded>
      </Titled.Provider>
    </section>
  );
}

function Body({ section, made, store }: PartProps): JSX.Element {
  switch (section.kind) {
    case "model":
      return <ModelView data={section.data} />;
    case "exactness":
      return <ExactnessView data={section.data} />;
    case "chart":
      return <ChartView data={section.data} />;
    case "layer":
      return <LayerSectionView data={section.data} />;
    case "feature":
      return <FeatureView data={section.data} />;
    case "classes":
      return <ClassesView data={section.data} />;
    case "gates":
      return <GatesView data={section.data} />;
    case "nearest":
      return <NearestView data={section.data} />;
    case "prompt":
      return <Prompt id={section.id} data={section.data} made={made} store={store} />;
    case "missing":
      return (
        <p class="soft">
          <Text>{section.data.text}</Text>
        </p>
      );
    case "broken":
      return <Broken error={section.error} />;
    default:
      return <Broken error={`this page draws no section of kind ${(section as Section).kind}`} />;
  }
}

/** A prompt's section, drawn anew when the reader chooses something. */
function Prompt(props: {
  id: string;
  data: PromptData;
  made: BilensDocument;
  store: Store;
}): JSX.Element {
  useStore(props.store);
  return <PromptView {...props} />;
}

function Broken({ error }: { error: string }): JSX.Element {
  return (
    <p class="error">
      <b>This part could not be made.</b> <Text>{error}</Text>
    </p>
  );
}

/** A view that fails while it is drawn shows its error, and the page around it survives. */
class Guarded extends Component<{ children: ComponentChildren }, { error: string }> {
  override state = { error: "" };

  static override getDerivedStateFromError(error: unknown): { error: string } {
    return { error: String(error) };
  }

  override render(): ComponentChildren {
    return this.state.error ? <Broken error={this.state.error} /> : this.props.children;
  }
}
