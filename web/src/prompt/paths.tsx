// The tree of paths: what makes the target, unfolded a level at a time, down to single paths.

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { general, percent, signed } from "../numbers";
import type { State } from "../state";
import type { SetState } from "../store";
import { printable } from "../text";
import type { Answer } from "../types";
import { Bar, Text, Tools } from "../ui";
import { branchFigure } from "./figures";
import { PathCard } from "./path";
import { type Branch, through, type Tree, treeOf } from "./tree";

const SHOWN = 12; // branches under one; the others are together in a line that opens

interface Props {
  readonly answer: Answer;
  readonly state: State;
  readonly set: SetState;
  readonly point: (terms: readonly number[] | null) => void; // lights the tokens of some paths
}

interface Context extends Props {
  readonly tree: Tree;
  readonly top: number; // the largest value, which bars are drawn against
}

export function PathsPanel(props: Props): JSX.Element {
  const { answer, state, set } = props;
  const tree = treeOf(answer);
  const terms = useMemo(() => through(answer, state.through), [answer, state.through]);
  const branches = useMemo(() => tree.top(terms), [tree, terms]);
  const top =
    Math.max(...branches.map((branch) => Math.abs(branch.value)), Math.abs(answer.remainder), 0) ||
    1;
  const context = { ...props, tree, top };
  return (
    <div class="beside">
      <div>
        {state.through && (
          <Through
            answer={answer}
            what={state.through}
            value={tree.sum(terms)}
            count={terms.length}
            clear={() => set({ through: "" })}
          />
        )}
        <div onKeyDown={walk}>
          <Branches
            branches={branches}
            context={context}
            label={printable(`Paths of ${answer.target.name}`)}
          />
        </div>
        {!state.through && <Sum answer={answer} top={top} />}
        <Tools name="Paths" figure={() => branchFigure(answer, branches)} />
      </div>
      {state.path !== null && answer.terms[state.path] && (
        <PathCard answer={answer} tree={tree} term={state.path} set={set} />
      )}
    </div>
  );
}

/** Up and down go from line to line; right opens one, left closes it. */
function walk(event: KeyboardEvent & { currentTarget: HTMLElement }): void {
  const lines = [...event.currentTarget.querySelectorAll<HTMLButtonElement>("button.line")];
  const at = lines.indexOf(document.activeElement as HTMLButtonElement);
  const line = lines[at];
  if (!line) return;
  const opened = line.ariaExpanded;
  if (event.key === "ArrowDown") lines[at + 1]?.focus();
  else if (event.key === "ArrowUp") lines[at - 1]?.focus();
  else if (
    (event.key === "ArrowRight" && opened === "false") ||
    (event.key === "ArrowLeft" && opened === "true")
  )
    line.click();
  else return;
  event.preventDefault();
}

function Through(props: {
  answer: Answer;
  what: string;
  value: number;
  count: number;
  clear: () => void;
}): JSX.Element {
  const token = props.answer.tokens[Number(props.what.slice(1))]?.name ?? "";
  const name = props.what.startsWith("@")
    ? `from ${token} at ${props.what.slice(1)}`
    : `through ${props.what}`;
  return (
    <p class="note">
      The {props.count} paths <Text>{name}</Text> alone: together {signed(props.value)}.{" "}
      <button type="button" class="link" onClick={props.clear}>
        Show all paths
      </button>
    </p>
  );
}

/** What closes the sum: the paths that were not kept, and the total. */
function Sum({ answer, top }: { answer: Answer; top: number }): JSX.Element {
  const what = answer.versus ? "the difference of the logits" : "the logit";
  return (
    <div class="sum">
      <p>
        <Value value={answer.remainder} top={top} rest />{" "}
        <span>remainder: {answer.left_out} paths that were not kept</span>
      </p>
      <p>
        <b class="value">{answer.total_said}</b>{" "}
        <span>
          together: {what}
          {answer.error > 0 &&
            `, which the model's own pass gives within ${general(answer.error, 2)}`}
        </span>
      </p>
    </div>
  );
}

function Branches(props: { branches: Branch[]; context: Context; label?: string }): JSX.Element {
  const { branches, context } = props;
  const [more, show] = useState(false);
  const cut = branches.length > SHOWN + 1 && !more ? SHOWN : branches.length;
  const hidden = branches.slice(cut);
  return (
    <ul class="tree" aria-label={props.label}>
      {branches.slice(0, cut).map((branch) => (
        <li key={branch.key}>
          <Line branch={branch} context={context} />
        </li>
      ))}
      {hidden.length > 0 && (
        <li>
          <Rest
            shown={branches.slice(0, cut)}
            hidden={hidden}
            context={context}
            open={() => show(true)}
          />
        </li>
      )}
    </ul>
  );
}

/** "Shown 97.3 %, the rest is here": a line that opens. */
function Rest(props: {
  shown: Branch[];
  hidden: Branch[];
  context: Context;
  open: () => void;
}): JSX.Element {
  const value = total(props.hidden);
  const whole = total(props.shown) + value;
  const share = whole
    ? `shown ${percent(total(props.shown) / whole)}, the rest is here: `
    : "the rest is here: ";
  const count = props.hidden.reduce((sum, branch) => sum + branch.terms.length, 0);
  return (
    <button type="button" class="line" onClick={props.open} aria-expanded={false}>
      <span class="turn" aria-hidden="true">
        ▸
      </span>
      <Value value={value} top={props.context.top} rest />
      <span>
        {share}
        {props.hidden.length} more lines, {count} paths
      </span>
    </button>
  );
}

function Line({ branch, context }: { branch: Branch; context: Context }): JSX.Element {
  const { state, set, tree, point } = context;
  const single = branch.terms.length === 1;
  const opened = state.open.includes(branch.key);
  const term = branch.terms[0] ?? 0;
  const toggle = () => {
    if (single) set({ path: state.path === term ? null : term });
    else
      set({
        open: opened ? state.open.filter((key) => key !== branch.key) : [...state.open, branch.key],
      });
  };
  return (
    <>
      <button
        type="button"
        class={single ? "line leaf" : "line"}
        data-key={branch.key}
        data-value={branch.value}
        {...(single ? { "aria-pressed": state.path === term } : { "aria-expanded": opened })}
        onClick={toggle}
        onFocus={() => point(branch.terms)}
        onBlur={() => point(null)}
        onPointerEnter={() => point(branch.terms)}
        onPointerLeave={() => point(null)}
      >
        <span class="turn" aria-hidden="true">
          {single ? "" : "▸"}
        </span>
        <Value value={branch.value} top={context.top} />
        <span class="soft share">{shareOf(branch.value, context.answer)}</span>
        <code>
          <Text>{branch.label}</Text>
        </code>
        {!single && <span class="soft"> {branch.terms.length} paths</span>}
      </button>
      {opened && !single && <Branches branches={tree.below(branch)} context={context} />}
    </>
  );
}

function Value(props: { value: number; top: number; rest?: boolean }): JSX.Element {
  return (
    <>
      <span class="value">{signed(props.value)}</span>
      <Bar value={props.value} top={props.top} rest={props.rest ?? false} />
    </>
  );
}

/** Of the total, where there is one to be a share of. */
function shareOf(value: number, answer: Answer): string {
  return answer.total === 0 ? "" : percent(value / answer.total);
}

function total(branches: readonly Branch[]): number {
  return branches.reduce((sum, branch) => sum + branch.value, 0);
}
