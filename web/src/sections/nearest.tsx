import type { JSX } from "preact";
import { general, percent } from "../numbers";
import type { Carriers, NearestData, Rung } from "../types";
import { AsPython, Folded, Plot, Scrolled, Text } from "../ui";

/** How near to bilinear MLPs are that are no tensors, and on which tokens they are not. */
export function NearestView({ data }: { data: NearestData }): JSX.Element {
  const { measured } = data;
  if (!measured)
    return (
      <p class="soft">
        <Text>{data.note}</Text>
      </p>
    );
  return (
    <>
      <p>
        <Text>{measured.text}</Text> <AsPython line={data.python} />
      </p>
      <h3>Degree spectra</h3>
      <p>
        Shares of the variance of what each MLP writes, by degree in what it reads, under a Gaussian
        of that. A tensor has degrees 1 and 2 (blue); what is orange it cannot have.
      </p>
      <Plot chart={measured.degrees} />
      <h3>What the nearest tensor leaves unexplained on this text</h3>
      <p>
        In % of the variance of what each MLP writes, ± a standard error (bars: two). Closed form:
        from weights, mean and covariance alone. The fits by least squares learn on four fifths of
        the tokens and are measured on the others.
        {!measured.refitted && " With too few tokens for its features an output is not fitted."}
      </p>
      <Plot chart={measured.rungs} />
      <Folded name="The numbers">
        <Unexplained columns={measured.columns} rows={measured.rows} />
      </Folded>
      <h3>Which tokens carry the error</h3>
      <p>
        Of the closed form: how much of its error the worst 1 % of tokens carry, which token carries
        most wherever it stands (the first of a text apart), and the single tokens that carry most,
        in their text.
      </p>
      {measured.tokens.map((one, n) => (
        <Worst key={one.layer} one={one} open={n === measured.open} />
      ))}
    </>
  );
}

type Measured = NonNullable<NearestData["measured"]>;

function Unexplained({ columns, rows }: Pick<Measured, "columns" | "rows">): JSX.Element {
  return (
    <Scrolled name="Unexplained shares">
      <table>
        <thead>
          <tr>
            <th class="n">layer</th>
            {columns.map((name) => (
              <>
                <th class="n">{name}</th>
                <th class="n">worst 1 % carry</th>
              </>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.layer}>
              <td class="n">{row.layer}</td>
              {row.rungs.map((rung) => (
                <RungCells rung={rung} />
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scrolled>
  );
}

function RungCells({ rung }: { rung: Rung | null }): JSX.Element {
  if (!rung)
    return (
      <>
        <td class="n">–</td>
        <td class="n">–</td>
      </>
    );
  return (
    <>
      <td class="n">
        {general(100 * rung.unexplained, 3)} ± {general(100 * rung.error, 1)} %
      </td>
      <td class="n">{(100 * rung.tail).toFixed(0)} %</td>
    </>
  );
}

function Worst({ one, open }: { one: Carriers; open: boolean }): JSX.Element {
  const share = (100 * one.tail).toFixed(0);
  const name = `mlp${one.layer}: the worst 1 % of tokens carry ${share} % of the error`;
  return (
    <Folded open={open} name={name}>
      <p class="kinds">
        {one.kinds.map((kind, n) => (
          <>
            {n > 0 && " · "}
            <mark>
              <Text>{kind.name}</Text>
            </mark>{" "}
            {kind.count} times: {percent(kind.share)}
          </>
        ))}
      </p>
      <Scrolled name={`Tokens of mlp${one.layer}`}>
        <table>
          <thead>
            <tr>
              <th class="n">share of the error</th>
              <th class="n">position</th>
              <th>token in its text</th>
            </tr>
          </thead>
          <tbody>
            {one.worst.map((token, n) => (
              <tr key={n}>
                <td class="n">{percent(token.share)}</td>
                <td class="n">{token.position}</td>
                <td>
                  <code>
                    <Text>{token.before}</Text>
                    <mark>
                      <Text>{token.token}</Text>
                    </mark>
                    <Text>{token.after}</Text>
                  </code>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolled>
    </Folded>
  );
}
