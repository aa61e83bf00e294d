// Text from outside as letters: what shows nothing, or acts on what shows it, is written out.

// As Python's base/words.py: control, format (bidi overrides), half surrogates, private,
// unassigned, and the separators of lines and paragraphs.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

/** `text` with every character that shows nothing written as \x1b or \u202e. */
export function printable(text: string): string {
  return text.replace(HIDDEN, escaped);
}

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x100) return `\\x${hex(code, 2)}`;
  return code < 0x10000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, "0");
}
