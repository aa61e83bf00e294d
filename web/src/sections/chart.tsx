import type { JSX } from "preact";
import type { ChartData } from "../types";
import { AsPython, NumbersTable, Plot, Text } from "../ui";

/** A result: what it says, its figure, its numbers. */
export function ChartView({ data }: { data: ChartData }): JSX.Element {
  return (
    <>
      <p>
        <Text>{data.text}</Text> <AsPython line={data.python} />
      </p>
      <Plot chart={data.chart} />
      <NumbersTable columns={data.columns} rows={data.rows} />
    </>
  );
}
