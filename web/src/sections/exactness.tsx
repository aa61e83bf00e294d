import type { JSX } from "preact";
import type { Exactness } from "../types";
import { Folded, Scrolled, Text } from "../ui";

/** One green line; what was checked is folded below it, unless something failed. */
export function ExactnessView({ data }: { data: Exactness }): JSX.Element {
  return (
    <Folded
      open={!data.passed}
      name={
        <span class={data.passed ? "good" : "bad"}>
          {data.passed ? "✓" : "✗"} <Text>{data.summary}</Text>
        </span>
      }
    >
      <p class="soft">
        Each identity is computed by two different ways on this model's own weights. Errors are
        relative to the largest term.
      </p>
      <Scrolled name="Identities">
        <table>
          <thead>
            <tr>
              <th>identity</th>
              <th>dtype</th>
              <th class="n">error</th>
              <th class="n">allowed</th>
              <th>holds</th>
            </tr>
          </thead>
          <tbody>
            {data.rows.map((row) => (
              <Identity key={`${row.identity} ${row.dtype}`} row={row} />
            ))}
          </tbody>
        </table>
      </Scrolled>
    </Folded>
  );
}

function Identity({ row }: { row: Exactness["rows"][number] }): JSX.Element {
  return (
    <tr>
      <td>
        <Text>{row.identity}</Text>
      </td>
      <td>
        <Text>{row.dtype}</Text>
      </td>
      <td class="n">{row.error?.toExponential(1) ?? "–"}</td>
      <td class="n">{row.allowed.toExponential(0)}</td>
      <td class={row.holds ? "good" : "bad"}>{row.holds ? "yes" : "NO"}</td>
    </tr>
  );
}
