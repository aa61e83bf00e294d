"""In the site's notebooks a figure is kept as plain data, and drawn by the page."""

import plotly.io
from plotly.io.base_renderers import MimetypeRenderer

HEIGHT = 450  # pixels, where a figure does not say


class Page(MimetypeRenderer):
    """A figure as HTML: its data, and the room that it will take."""

    def to_mimebundle(self, figure):
        """What a notebook keeps of a figure."""
        height = figure["layout"].get("height", HEIGHT)
        data = plotly.io.to_json(figure, validate=False).replace("</", "<\\/")
        script = f'<script type="application/json">{data}</script>'
        shown = f'<div class="bilens-figure" style="min-height: {height}px">{script}</div>'
        return {"text/html": shown}


plotly.io.renderers["page"] = Page()
plotly.io.renderers.default = "page"
