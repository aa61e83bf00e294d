// A prompt: its tokens lit by what they give, what is asked of it, and five ways to look at what
// makes the answer.

import { Fragment, type JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { drawGraph, decoded, graphIds, encoded } from "../graph";
import { percent, signed } from "../numbers";
import { HowFar, Vectors } from "../sections/layer";
import { START, type State, type View, VIEWS } from "../state";
import { changed, type SetState, type Store } from "../store";
import { printable } from "../text";
import type { Answer, BilensDocument, Knockout, PromptData } from "../types";
import { Copy, Folded, Text, Tools } from "../ui";
import { type Answering, useAnswer } from "./answering";
import { pythonFor } from "./asked";
import { Asking, LikelyList } from "./asking";
import { AttentionPanel } from "./attention";
import { barFigure, goal } from "./figures";
import { LensPanel } from "./lens";
import { PairsPanel } from "./pairs";
import { PathsPanel } from "./paths";
import { Sources } from "./sources";
import { depth, Legend, shade, Strip } from "./strip";
import { lit, starts } from "./tree";

const NAMES: Record<View, string> = {
  paths: "Paths",
  graph: "Graph",
  pairs: "Pairs",
  attention: "Attention",
  lens: "Lens",
  layers: "Layers",
};

interface Props {
  readonly id: string;
  readonly data: PromptData;
  readonly made: BilensDocument;
  readonly store: Store;
}

export function PromptView(props: Props): JSX.Element {
  const { id, data, made, store } = props;
  const mine = store.state.s === id || (!store.state.s && isFirst(id, made));
  const state = mine ? store.state : START;
  const set = useMemo(() => setter(store, id, mine), [store, id, mine]);
  const answering = useAnswer(state, data, made);
  const { answer } = answering;
  if (!answer)
    return (
      <>
        <Asking
          data={data}
          answer={null}
          what={answering.what}
          live={Boolean(made.live)}
          state={state}
          set={set}
        />
        <Notice answering={answering} data={data} made={made} set={set} />
      </>
    );
  return (
    <Answered
      data={data}
      made={made}
      state={state}
      set={set}
      answering={answering}
      answer={answer}
    />
  );
}

interface AnsweredProps extends Shared {
  readonly data: PromptData;
  readonly made: BilensDocument;
  readonly answering: Answering;
}

function Answered({ data, made, state, set, answering, answer }: AnsweredProps): JSX.Element {
  const { what, fits, waits, error } = answering;
  const live = Boolean(made.live);
  // drawn anew only where something of theirs changed: a click in the tree draws the tree
  const tokens = useMemo(
    () => <Tokens answer={answer} state={state} set={set} />,
    [answer, state.pos, state.path, set],
  );
  const asking = useMemo(
    () => (
      <Asking
        answer={answer}
        state={state}
        set={set}
        data={data}
        what={what}
        live={live}
        key={`${state.prompt} ${what.target} ${what.versus}`}
      />
    ),
    [answer, state.prompt, what.position, what.target, what.versus, set],
  );
  const notice = useMemo(
    () => <Notice answering={answering} data={data} made={made} set={set} />,
    [answer, fits, waits, error, what.position, what.target, what.versus, set],
  );
  const head = useMemo(() => <Head answer={answer} set={set} live={live} />, [answer, set, live]);
  return (
    <>
      {asking}
      {tokens}
      {notice}
      {fits && head}
      {fits && <Tabs answer={answer} state={state} set={set} />}
    </>
  );
}

/** A change in another section makes that the one which the state is about. */
function setter(store: Store, id: string, mine: boolean): SetState {
  return (change) =>
    store.set((state) => {
      const own = mine ? state : START;
      return { ...own, ...changed(change, own), s: id };
    });
}

function isFirst(id: string, made: BilensDocument): boolean {
  return made.sections.find((section) => section.kind === "prompt")?.id === id;
}

interface Shared {
  readonly answer: Answer;
  readonly state: State;
  readonly set: SetState;
}

/** The prompt. A token is asked what comes after it; its value leads to the paths that start
 * there. */
function Tokens({ answer, state, set }: Shared): JSX.Element {
  const names = answer.tokens.map((token) => token.name);
  const position = state.pos ?? answer.position;
  const chosen = state.path === null ? [] : (starts(answer)[state.path] ?? []);
  const same = position === answer.position;
  const values = same ? answer.positions : names.map(() => null);
  const largest = Math.max(...answer.positions.map(Math.abs), 0);
  return (
    <div class="tokens">
      <p class="soft">
        Pick a token for what comes after it. Each is lit by what the paths give that start there.{" "}
        <Legend largest={largest} unit="logit" />
      </p>
      <Strip
        label="Tokens of the prompt"
        tokens={names}
        values={values}
        picked={position}
        marked={chosen}
        onPick={(n) =>
          set(
            n === answer.position
              ? { pos: n }
              : { pos: n, target: "", versus: "", path: null, through: "" },
          )
        }
      />
      {same && <TokenValues answer={answer} set={set} />}
    </div>
  );
}

function TokenValues({ answer, set }: Pick<Shared, "answer" | "set">): JSX.Element {
  const order = answer.positions
    .map((_, n) => n)
    .sort((one, other) => size(answer, other) - size(answer, one));
  const title = `What each token gives ${goal(answer)}`;
  const names = answer.tokens.map((token, n) => `${n} ${token.name}`);
  return (
    <Folded name="What each token gives, as numbers">
      <ul class="given-by">
        {order.map((n) => (
          <li key={n}>
            <span class="value">{signed(answer.positions[n] ?? 0)}</span>
            <button
              type="button"
              class="link"
              onClick={() => set({ view: "paths", through: `@${n}`, path: null })}
            >
              {n} <Text>{answer.tokens[n]?.name ?? ""}</Text>
            </button>
          </li>
        ))}
        {answer.elsewhere !== undefined && (
          <li>
            <span class="value">{signed(answer.elsewhere)}</span> elsewhere: biases, paths not taken
            apart to the end, and the remainder
          </li>
        )}
      </ul>
      <Tools name={title} figure={() => barFigure(title, names, answer.positions, "logit")} />
    </Folded>
  );
}

function size(answer: Answer, n: number): number {
  return Math.abs(answer.positions[n] ?? 0);
}

/** Where what is asked is not on the page: that it is asked for, or what to do. */
function Notice(props: {
  answering: Answering;
  data: PromptData;
  made: BilensDocument;
  set: Shared["set"];
}): JSX.Element {
  const { answering, data, made, set } = props;
  const { what } = answering;
  if (answering.waits)
    return (
      <p class="note" role="status">
        Asking the model …
      </p>
    );
  if (answering.error)
    return (
      <p class="error" role="alert">
        <Text>{answering.error}</Text>{" "}
        <button type="button" class="link" onClick={answering.again}>
          Ask again
        </button>
      </p>
    );
  if (answering.fits && answering.answer)
    return (
      <p
        class="unseen"
        role="status"
      >{`Shown: ${printable(goal(answering.answer))} at ${what.position}`}</p>
    );
  const name = what.target
    ? `${what.target}${what.versus ? ` instead of ${what.versus}` : ""}`
    : "What comes next";
  return (
    <div class="note" role="status">
      <p>
        <Text>{name}</Text> at {what.position} is not in this file: copy the Python line, or run{" "}
        <code>bilens serve</code>.
      </p>
      <p class="tools">
        <Copy name="Copy as Python" text={pythonFor(what, data.prompt, made.model)} />
        <button type="button" onClick={() => set({ pos: null, target: "", versus: "" })}>
          Back to what is here
        </button>
      </p>
    </div>
  );
}

/** What is explained, and what writes it. */
function Head({
  answer,
  set,
  live,
}: Pick<Shared, "answer" | "set"> & { live: boolean }): JSX.Element {
  const out = (names: readonly string[]) =>
    set((state) => ({ out: [...new Set([...state.out, ...names])] }));
  return (
    <>
      <Explained answer={answer} set={set} />
      {answer.knockout && <KnockedOut knockout={answer.knockout} set={set} />}
      <h3>What writes it</h3>
      <Sources answer={answer} set={set} out={live ? out : null} />
    </>
  );
}

function Explained({ answer, set }: Pick<Shared, "answer" | "set">): JSX.Element {
  return (
    <>
      <h3 class="answer">
        <Text>{answer.target.name}</Text>
        {answer.versus && (
          <>
            {" "}
            <span class="soft">instead of</span> <Text>{answer.versus.name}</Text>
          </>
        )}{" "}
        <span class="soft">at {answer.position}:</span> {answer.total_said}
        {answer.probability !== null && (
          <span class="soft"> logit, {percent(answer.probability)}</span>
        )}
      </h3>
      <LikelyList answer={answer} set={set} />
      <p class="soft small">
        <Text>{answer.summary}</Text>. <Copy name="Copy as Python" text={answer.python} />
      </p>
      <Givens answer={answer} />
    </>
  );
}

/** All that the sum of paths holds fixed, and what it cannot take apart. */
function Givens({ answer }: { answer: Answer }): JSX.Element | null {
  if (!answer.given.length && !answer.opaque.length) return null;
  const left = answer.opaque.length ? `; not taken apart: ${answer.opaque.length}` : "";
  return (
    <Folded name={`Given: ${answer.held}${left}`}>
      <p class="soft small">
        <Text>
          {[...answer.given, ...answer.opaque.map((one) => `${one} (not taken apart)`)].join(" · ")}
        </Text>
      </p>
    </Folded>
  );
}

function KnockedOut({ knockout, set }: Pick<Shared, "set"> & { knockout: Knockout }): JSX.Element {
  return (
    <div class="note" role="status">
      <p>
        <b>
          Knocked out: <Text>{knockout.what.join(", ")}</Text>.
        </b>{" "}
        <Text>{knockout.summary}</Text>
      </p>
      <ul>
        {knockout.removals.map((one) => (
          <li key={one.replaced_by}>
            {one.replaced_by} in its place: {signed(knockout.before, 5)} → {signed(one.after, 5)},
            effect {signed(one.effect)} ({one.verdict}: <Text>{one.why}</Text>)
          </li>
        ))}
      </ul>
      <button type="button" onClick={() => set({ out: [] })}>
        Put it back
      </button>
    </div>
  );
}

function Tabs({ answer, state, set }: Shared): JSX.Element {
  const bar = useRef<HTMLDivElement>(null);
  const step = (event: KeyboardEvent) => {
    const next = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!next) return;
    event.preventDefault();
    const at = (VIEWS.indexOf(state.view) + next + VIEWS.length) % VIEWS.length;
    set({ view: VIEWS[at] ?? "paths" });
    (bar.current?.children[at] as HTMLElement | undefined)?.focus();
  };
  return (
    <>
      <div ref={bar} class="tabs" role="tablist" aria-label="Ways to look at it" onKeyDown={step}>
        {VIEWS.map((view) => (
          <button
            type="button"
            key={view}
            role="tab"
            id={`tab-${state.s}-${view}`}
            aria-selected={state.view === view}
            tabIndex={state.view === view ? 0 : -1}
            onClick={() => set({ view })}
          >
            {NAMES[view]}
          </button>
        ))}
      </div>
      <div
        role="tabpanel"
        aria-labelledby={`tab-${state.s}-${state.view}`}
        class={`panel ${state.view}`}
      >
        <Panel answer={answer} state={state} set={set} />
      </div>
    </>
  );
}

function Panel({ answer, state, set }: Shared): JSX.Element {
  switch (state.view) {
    case "paths":
      return <Paths answer={answer} state={state} set={set} />;
    case "graph":
      return (
        <GraphPanel
          key={`${answer.position} ${answer.target.id} ${answer.versus?.id}`}
          answer={answer}
          state={state}
          set={set}
        />
      );
    case "pairs":
      return <PairsPanel answer={answer} state={state} set={set} />;
    case "attention":
      return <AttentionPanel answer={answer} state={state} set={set} />;
    case "lens":
      return <LensPanel answer={answer} set={set} />;
    case "layers":
      return <LayersPanel answer={answer} />;
  }
}

const NO_LAYERS =
  "The layers of this model are no tensors, or too wide to be taken apart for every answer.";

/** What the last layers look for towards this very target. */
function LayersPanel({ answer }: Pick<Shared, "answer">): JSX.Element {
  if (!answer.layers?.length) return <p class="soft">{NO_LAYERS}</p>;
  return (
    <>
      <p class="soft">
        What each layer writes towards <Text>{goal(answer)}</Text>, straight to the readout: a sum
        of λ (v·x)² of what it reads, up to the final norm’s scale.
      </p>
      <HowFar />
      {answer.layers.map((data) => (
        <Fragment key={data.layer}>
          <h3>
            <Text>{data.layer}</Text>
          </h3>
          <Vectors data={data} />
        </Fragment>
      ))}
    </>
  );
}

/** The tree, with a second row of tokens that shows where the line starts that is pointed at. */
function Paths({ answer, state, set }: Shared): JSX.Element {
  const [terms, point] = useState<readonly number[] | null>(null);
  const values = useMemo(() => (terms ? lit(answer, terms) : answer.positions), [terms, answer]);
  return (
    <>
      <p class="soft">
        Unfold a line to see what it is made of: a head looks from one position at another, a
        bilinear layer multiplies two things. The tokens light up for the line that is pointed at.
      </p>
      <Pointed answer={answer} values={values} />
      <PathsPanel answer={answer} state={state} set={set} point={point} />
    </>
  );
}

function Pointed({ answer, values }: { answer: Answer; values: readonly number[] }): JSX.Element {
  const largest = Math.max(...values.map(Math.abs), 0);
  return (
    <div class="strip still" aria-hidden="true">
      {answer.tokens.map((token, n) => {
        const value = values[n] ?? 0;
        return (
          <span key={n} class={shade(value)} style={{ "--lit": `${depth(value, largest)}%` }}>
            <Text>{token.name}</Text>
          </span>
        );
      })}
    </div>
  );
}

function GraphPanel({ answer, state, set }: Shared): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  const drawn = useRef("");
  const wanted = JSON.stringify(state.graph);
  useEffect(() => {
    if (!place.current || drawn.current === wanted) return; // the graph's own change
    drawn.current = wanted;
    const ids = graphIds(answer);
    const own = decoded(state.graph, (id) => ids.has(id));
    drawGraph(place.current, answer, {
      state: own.state,
      onState: (next) => {
        const graph = encoded(next);
        drawn.current = JSON.stringify(graph);
        set({ graph });
      },
      onPath: (term) => set({ view: "paths", path: term, through: "" }),
    });
  }, [answer, wanted]);
  return <div ref={place} />;
}
