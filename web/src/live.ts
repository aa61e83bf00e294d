// Questions to the server that a live page came from.

import type { Answer, Live, Question } from "./types";

const LONGEST = 60_000; // ms that an answer may take
const GONE =
  "the server is gone: it was stopped, or the line to it was cut. " +
  "Run bilens serve again, and open the link that it prints.";

/** Why there is no answer, in one line. */
export interface Refused {
  error: string;
}

/** The answer, or in one line why there is none. */
export async function ask(
  live: Live,
  question: Question,
  signal: AbortSignal,
): Promise<Answer | Refused> {
  if (typeof live.ask === "function") return live.ask(question, signal);
  const stop = AbortSignal.any([signal, AbortSignal.timeout(LONGEST)]);
  const headers: Record<string, string> = { "Content-Type": "application/json" };
  if (live.token) headers["X-Bilens-Token"] = live.token;
  try {
    const reply = await fetch(live.ask, {
      method: "POST",
      headers,
      body: JSON.stringify(question),
      signal: stop,
    });
    return (await reply.json()) as Answer | Refused;
  } catch (error) {
    if (signal.aborted) throw error;
    return { error: unanswered(error) };
  }
}

/** Why a server did not answer, or not in JSON. */
function unanswered(error: unknown): string {
  if (error instanceof TypeError) return GONE; // what fetch throws where nobody listens
  const late = error instanceof DOMException && error.name === "TimeoutError";
  return late ? `no answer within ${LONGEST / 1000} s` : `no answer: ${String(error)}`;
}

export function refused(found: Answer | Refused): found is Refused {
  return typeof found.error === "string";
}
