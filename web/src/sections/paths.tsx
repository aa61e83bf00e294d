import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { general, signed } from "../numbers";
import type { Branch, PathsData } from "../types";
import { Text } from "../ui";

/** A prompt's tokens, and what is likeliest after the picked one as a tree of paths. */
export function PathsView({ data }: { data: PathsData }): JSX.Element {
  const [picked, pick] = useState(data.tokens.length - 1);
  const token = data.tokens[picked];
  return (
    <>
      <p>Pick a token: below is what the model finds likeliest after it, as a sum of paths. {data.note}</p>
      <div class="strip">
        {data.tokens.map((one, n) => (
          <button type="button" class="token" key={n} aria-pressed={n === picked} onClick={() => pick(n)}><Text>{one.name}</Text></button>
        ))}
      </div>
      {token && <Panel token={token} />}
    </>
  );
}

function Panel({ token }: { token: PathsData["tokens"][number] }): JSX.Element {
  return (
    <div class="panel">
      <h3><Text>{token.target}</Text> <span class="soft">{token.probability.toFixed(1)} %</span></h3>
      <p class="soft"><Text>{token.summary}</Text>.</p>
      <Branches branches={token.branches} />
      <p class="sum"><span class="value">{signed(token.remainder, 6)}</span>remainder: {token.left_out} paths that were not kept</p>
      <p class="sum"><span class="value">{general(token.total)}</span>together: the logit</p>
    </div>
  );
}

function Branches({ branches }: { branches: Branch[] }): JSX.Element {
  return <ul class="tree">{branches.map((branch, n) => <li key={n}><Line branch={branch} /></li>)}</ul>;
}

function Line({ branch }: { branch: Branch }): JSX.Element {
  const line = <><span class="value">{signed(branch.value)}</span><code><Text>{branch.label}</Text></code></>;
  if (!branch.below.length) return <div class="leaf">{line}</div>;
  return <details><summary>{line}</summary><Branches branches={branch.below} /></details>;
}
