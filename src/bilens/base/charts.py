"""One vocabulary of charts: what a colour means is the same in every figure."""

# Okabe and Ito's colours, which colour-blind readers can tell apart; two more for long legends.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
    "#661100", "#6A3D9A",
)  # fmt: skip
POSITIVE, NEGATIVE, NEUTRAL = PALETTE[0], PALETTE[1], "#f7f7f7"
REFERENCE = "#999999"  # what a curve is held against: the whole model, a random layer, one seed
# Signed values: orange takes away, blue adds, zero is white. As a list of its own, since the names
# of plotly's scales do not run the same way in Python and in the browser.
DIVERGING = [[0, NEGATIVE], [0.5, NEUTRAL], [1, POSITIVE]]
MARKER = 9  # the size of a point that stands alone
