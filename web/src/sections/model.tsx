import type { JSX } from "preact";
import type { ModelFacts } from "../types";
import { Text } from "../ui";

/** What kind of model this is, and how good. */
export function ModelView({ data }: { data: ModelFacts }): JSX.Element {
  return (
    <>
      <p>
        <span class="big">
          <Text>{data.headline}</Text>
        </span>{" "}
        <span class="soft">
          <Text>{data.beside}</Text>
        </span>
      </p>
      <dl>
        {Object.entries(data.facts).map(([name, fact]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <Text>{fact}</Text>
            </dd>
          </div>
        ))}
      </dl>
    </>
  );
}
