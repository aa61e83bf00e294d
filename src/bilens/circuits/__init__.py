"""Floor 3: circuits. Every output of a model as an exact sum of paths, and what the weights alone compose."""

from bilens.circuits.expansion import Expansion, Groups, Term, expand
from bilens.circuits.graph import graph
from bilens.circuits.knockout import Knockout, knockout
from bilens.circuits.pairs import PairMatrix, Pairs, pairs
from bilens.circuits.recording import Recording, Source, record
from bilens.circuits.targets import At

__all__ = [
    "At",
    "Expansion",
    "Groups",
    "Knockout",
    "PairMatrix",
    "Pairs",
    "Recording",
    "Source",
    "Term",
    "expand",
    "graph",
    "knockout",
    "pairs",
    "record",
]
