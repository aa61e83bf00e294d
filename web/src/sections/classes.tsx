import type { JSX } from "preact";
import type { ClassesData } from "../types";
import { AsPython, Plot, Shown, Text } from "../ui";

/** What each class of a classifier looks for: its spectrum, with the eigenvectors at its ends. */
export function ClassesView({ data }: { data: ClassesData }): JSX.Element {
  return (
    <>
      <p>
        For class u, the logit is xᵀ Q_u x = Σ λ (v·x)²: an image scores for u as it lines up, with
        either sign, with eigenvectors of positive λ, and against u with those of negative λ. Q_u is{" "}
        {data.size} × {data.size}. Mean effective rank (Σ|λ|)² / Σλ²:{" "}
        <b>{data.mean_rank.toFixed(1)}</b>. <AsPython line={data.python} />
      </p>
      <Legend pictured={data.pictured} />
      <div class="cards">
        {data.cards.map((card) => (
          <Card key={card.label} card={card} />
        ))}
      </div>
    </>
  );
}

function Legend({ pictured }: { pictured: boolean }): JSX.Element {
  if (!pictured) {
    return (
      <p class="soft">
        The last layer of this deeper model reads the residual stream, so its eigenvectors are
        directions there and no pictures.
      </p>
    );
  }
  return (
    <p class="soft">
      Pictures:{" "}
      <span
        class="key"
        role="img"
        aria-label="colour scale: orange negative, white zero, blue positive"
      />{" "}
      from −max to +max of each; the sign of a whole vector has no meaning. Charts: the 20 largest
      and smallest eigenvalues at most.
    </p>
  );
}

function Card({ card }: { card: ClassesData["cards"][number] }): JSX.Element {
  return (
    <div class="card">
      <header>
        <h3>
          Class <Text>{card.label}</Text>
        </h3>
        <span class="soft">effective rank {card.rank.toFixed(1)}</span>
      </header>
      <Plot chart={card.chart} />
      {Object.entries(card.rows)
        .filter(([, shown]) => shown.length)
        .map(([sign, shown]) => (
          <div class="row" key={sign}>
            <span>{sign}</span>
            {shown.map((picture, n) => (
              <Shown key={n} picture={picture} />
            ))}
          </div>
        ))}
      {card.degenerate && (
        <p class="soft small">
          <Text>{card.degenerate}</Text>
        </p>
      )}
    </div>
  );
}
