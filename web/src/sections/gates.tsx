import type { JSX } from "preact";
import type { GatesData } from "../types";
import { AsPython, Shown, Text } from "../ui";

/** Each class's strongest gates: products of two linear forms. */
export function GatesView({ data }: { data: GatesData }): JSX.Element {
  if (data.note)
    return (
      <p class="soft">
        <Text>{data.note}</Text>
      </p>
    );
  return (
    <>
      <p>
        λ (v·x)² − μ (w·x)² = (a·x)(b·x): the strongest positive and negative eigenvalue of a class
        pair up as a soft AND, and so on down. The share is the part of ‖Q‖² in the gate.{" "}
        <AsPython line={data.python} />
      </p>
      <div class="cards">
        {data.cards.map((card) => (
          <div class="card" key={card.label}>
            <h3>
              Class <Text>{card.label}</Text>
            </h3>
            {card.gates.map((gate, n) => (
              <div class="gate" key={n}>
                <span>{(100 * gate.share).toFixed(0)} %</span>
                <Shown picture={gate.a} />
                <span>×</span>
                <Shown picture={gate.b} />
              </div>
            ))}
          </div>
        ))}
      </div>
    </>
  );
}
