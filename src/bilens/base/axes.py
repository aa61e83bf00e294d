"""The axis glossary: one letter, one meaning, in every signature and docstring of bilens.

    o   output of a layer (a class, a residual direction, a vocabulary entry)
    i   left input
    j   right input (i and j index the same space unless a map made them differ)
    h   hidden unit of a layer: the rank of its CP form
    d   model width, where input and output are one residual stream
    n   direction in output space (one interaction matrix each)
    k   kept component (eigenvector, singular vector, gate), best first
    a, b, c   the reduced axes of a Tucker core, for out, left and right

Modes are named, never numbered: ``out``, ``left``, ``right``.
"""

from typing import Literal

Mode = Literal["out", "left", "right"]
MODES: tuple[Mode, Mode, Mode] = ("out", "left", "right")
