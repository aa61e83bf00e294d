"""One vocabulary of charts: what a colour means is the same in every figure."""

# Signed values: orange takes away, blue adds, zero is white; told apart by the colour-blind. As a
# list of its own, since the names of plotly's scales do not run the same way in Python and in the
# browser.
DIVERGING = [[0, "#D55E00"], [0.5, "#f7f7f7"], [1, "#0072B2"]]
