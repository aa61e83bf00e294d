"""Notebooks are MyST text files. Their cells run here, in the process that builds the site, which
has loaded torch already: a kernel for each of them would load it again.
"""

import ast
import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import plotly.io
from IPython.core.formatters import DisplayFormatter
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from nbformat.v4 import new_output
from plotly.io.base_renderers import MimetypeRenderer
from sphinx.util import logging

LOG = logging.getLogger(__name__)
FOLDER = Path(__file__).parents[1] / "tutorials"  # where they lie, and the files that they read
HEIGHT = 450  # pixels, where a figure does not say
EXTENSIONS = ["dollarmath", "amsmath", "colon_fence", "deflist"]


class Page(MimetypeRenderer):
    """A figure as HTML: its data, which the page draws, and the room that it will take."""

    def to_mimebundle(self, figure: dict[str, Any]) -> dict[str, str]:
        """What a notebook keeps of a figure."""
        height = figure["layout"].get("height", HEIGHT)
        data = plotly.io.to_json(figure, validate=False).replace("</", "<\\/")
        script = f'<script type="application/json">{data}</script>'
        shown = f'<div class="bilens-figure" style="min-height: {height}px">{script}</div>'
        return {"text/html": shown, "text/plain": "a figure"}


def setup(app: Any) -> None:
    """Let the notebooks that were run lie beside what else Sphinx keeps for the next build."""
    app.connect("builder-inited", _keep_inside, priority=600)  # after MyST-NB's own


def _keep_inside(app: Any) -> None:
    # MyST-NB has no setting for this, and would write beside the site
    place = str(Path(app.doctreedir) / "notebooks")
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=place)


plotly.io.renderers["page"] = Page()
plotly.io.renderers.default = "page"


def read(text: str) -> nbformat.NotebookNode:
    """A page as a notebook with its outputs. An error in a cell ends the build."""
    notebook = parsed(text)
    if not is_myst_markdown_notebook(text):
        return notebook
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if "stored" in notebook.metadata:
        _recall(cells, FOLDER / notebook.metadata["stored"])
    else:
        _run(cells)
    return notebook


def parsed(text: str) -> nbformat.NotebookNode:
    """A page as a notebook without outputs."""
    config = MdParserConfig(enable_extensions=EXTENSIONS)
    notebook = read_myst_markdown_notebook(text, config=config, add_source_map=True)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def store(page: Path) -> None:
    """Run the page, and keep its outputs in the file that it names."""
    notebook = parsed(page.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    _run(cells)
    kept = [{"source": cell.source, "outputs": cell.outputs} for cell in cells]
    place = page.parent / notebook.metadata["stored"]
    place.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _recall(cells: list[nbformat.NotebookNode], place: Path) -> None:
    """Fill in the outputs of an earlier run, which was of these very cells."""
    kept = json.loads(place.read_text(encoding="utf-8"))
    if [one["source"] for one in kept] != [cell.source for cell in cells]:
        raise ValueError(f"{place} holds the outputs of other cells; run make outputs")
    for number, (cell, one) in enumerate(zip(cells, kept, strict=True), 1):
        cell.outputs = [nbformat.from_dict(output) for output in one["outputs"]]
        cell.execution_count = number


def _run(cells: list[nbformat.NotebookNode]) -> None:
    """Fill in what each cell gives, in one fresh namespace."""
    import torch

    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    started = time.perf_counter()
    with contextlib.chdir(FOLDER):
        for number, cell in enumerate(cells, 1):
            cell.outputs = run(cell.source, names)
            cell.execution_count = number
    took = time.perf_counter() - started
    LOG.info("%d cells in %.1f s", len(cells), took)


def run(source: str, names: dict[str, Any]) -> list[nbformat.NotebookNode]:
    """What ``source`` prints, then what its last line is, as a notebook shows it."""
    tree, last = ast.parse(source), None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(tree, "<cell>", "exec"), names)
        value = eval(compile(last, "<cell>", "eval"), names) if last else None
    outputs = []
    if words := printed.getvalue():
        outputs.append(new_output("stream", name="stdout", text=words))
    if value is not None and not source.rstrip().endswith(";"):
        outputs.append(new_output("execute_result", data=_shown(value)))
    return outputs


def _shown(value: Any) -> dict[str, str]:
    """What a value is shown as. (A figure would show itself at once, where it is formatted.)"""
    if hasattr(value, "_repr_mimebundle_"):
        return value._repr_mimebundle_()
    shown = DisplayFormatter().format(value)[0]
    if "text/plain" not in shown:  # IPython prints the error and goes on
        repr(value)
    return shown


if __name__ == "__main__":
    store(Path(sys.argv[1]))
