// Bundles the page into what the Python package carries: the same bytes wherever it is run.
//   node build.mjs           writes them, and takes addresses out of the lock file
//   node build.mjs --check   says whether what is committed is what it would write, and whether
//                            files import each other in a circle
//   node build.mjs --test    runs the tests, bundled in the same way
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const assets = join(here, "../src/bilens/report/assets");
const lock = join(here, "package-lock.json");
const LARGEST = 200_000; // bytes, of all assets together

const options = {
  absWorkingDir: here,
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "ascii", // the same in a page of any encoding
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
};

/** The bundle's files by name. */
async function bundled() {
  const made = await build({
    ...options,
    entryPoints: ["src/page.ts", "src/page.css"],
    outdir: "out",
    minify: true,
    write: false,
    banner: { js: licence() },
  });
  return new Map(made.outputFiles.map((file) => [file.path.split("/").at(-1), file.text]));
}

const WITHIN = ["preact", "d3-array", "d3-format"];

/** What the licences of the libraries inside ask to stand beside them. */
function licence() {
  const texts = WITHIN.map((name) => {
    const text = readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8").trim();
    return `${name}:\n${text}`;
  });
  return `/*! bilens, MIT licence. Within: ${WITHIN.join(", ")}.\n${texts.join("\n\n")}\n*/`;
}

/** Nothing in a script may end the element that it stands in. */
function refuseUnsafe(files) {
  const size = [...files.values()].reduce((sum, text) => sum + text.length, 0);
  if (size > LARGEST) throw new Error(`the assets have ${size} bytes, more than ${LARGEST}`);
  for (const [name, text] of files) {
    if (/<\/(script|style)|<!--/i.test(text)) throw new Error(`${name} could end its element`);
    const [letter] = /.{0,40}[^\0-\x7f]/.exec(text) ?? [];
    if (letter)
      throw new Error(`${name} has a letter beyond ASCII; in a pattern write \\u…: ${letter}`);
  }
  return size;
}

/** The lock file as it is committed: npm writes where to pay beside some packages, which are the
 * only addresses in it. */
function locked() {
  const held = JSON.parse(readFileSync(lock, "utf8"));
  for (const entry of Object.values(held.packages)) delete entry.funding;
  return `${JSON.stringify(held, null, 2)}\n`;
}

/** All that stands in the repository, by its path. */
function outputs(files) {
  return [...[...files].map(([name, text]) => [join(assets, name), text]), [lock, locked()]];
}

function stands([path, text]) {
  return existsSync(path) && readFileSync(path, "utf8") === text;
}

function write(files) {
  for (const one of outputs(files)) if (!stands(one)) writeFileSync(...one);
}

function check(files) {
  const stale = outputs(files).filter((one) => !stands(one));
  if (stale.length) {
    const names = stale.map(([path]) => basename(path)).join(", ");
    console.error(`${names}: not as make web writes them; run it`);
    process.exitCode = 1;
  }
}

const OWN = /from "(\.{1,2}\/[^"]+)"/g; // an import of a file of ours, types too

/** What each source imports of the others, by path. */
function imports() {
  const sources = readdirSync(join(here, "src"), { recursive: true })
    .map((name) => join("src", name))
    .filter((name) => /\.tsx?$/.test(name));
  const named = (from, path) => {
    const file = normalize(join(dirname(from), path));
    return sources.find((name) => name === `${file}.ts` || name === `${file}.tsx`);
  };
  const read = (name) => [...readFileSync(join(here, name), "utf8").matchAll(OWN)];
  return new Map(sources.map((name) => [name, read(name).map(([, path]) => named(name, path))]));
}

/** Imports point down: no way from file to file comes back to one of them. */
function refuseCircles(below, files = [...below.keys()], way = [], free = new Set()) {
  for (const name of files) {
    if (way.includes(name))
      throw new Error(
        `imports go in a circle: ${[...way.slice(way.indexOf(name)), name].join(" → ")}`,
      );
    if (!free.has(name)) refuseCircles(below, below.get(name), [...way, name], free);
    free.add(name);
  }
}

async function test() {
  const names = readdirSync(join(here, "test")).filter((name) => /\.test\.tsx?$/.test(name));
  const folder = mkdtempSync(join(here, ".tests-"));
  try {
    await build({
      ...options,
      entryPoints: names.map((name) => join("test", name)),
      outdir: folder,
      outExtension: { ".js": ".mjs" },
      platform: "node",
    });
    const files = readdirSync(folder).map((name) => join(folder, name));
    process.exitCode = spawnSync(process.execPath, ["--test", "--test-reporter=dot", ...files], {
      stdio: "inherit",
    }).status;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (process.argv[2] === "--test") {
  await test();
} else {
  refuseCircles(imports());
  const files = await bundled();
  const size = refuseUnsafe(files);
  if (process.argv[2] === "--check") check(files);
  else write(files);
  console.log(`page.js and page.css: ${size} bytes`);
}
