"""Mathematics as MathML, which browsers draw by themselves: no script, no fonts from elsewhere."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def setup(app: Any) -> None:
    """Offer it as a renderer, ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    source = node.astext()
    aligned = "\\\\" in source and "\\begin" not in source
    source = f"\\begin{{align*}}{source}\\end{{align*}}" if aligned else source
    writer.body.append(f'<div class="math">{tex2mathml(source, as_block=True)}</div>\n')
    raise nodes.SkipNode
