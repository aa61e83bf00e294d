"""Floor 6: circuits. Every output of a model as an exact sum of paths, and what the weights alone
compose.

    one pass        recording: all that it wrote; understood: that weights say it; targets: of what
    in other words  replaced: what a part reads, by a dictionary; replacements: what a layer writes
    its paths       paths: the tree; engine: its verbs; search: expand(); expansion: what that gives
    asked of these  units, starts, forest, graph, pairs
    of attention    patterns, attention (scores by pairs), head_scores
    on the way      lens, quadratic_lens
    taken out       cuts: what, by name; altered, rerun: a pass without it; knockout, effects
    weights alone   heads (QK and OV), virtual, composition, promises, rules
"""

from bilens.circuits.attention import (
    AttentionScores,
    ScoreProduct,
    attention_product,
    attention_scores,
)
from bilens.circuits.composition import Composition, composition
from bilens.circuits.effects import Effects, effects
from bilens.circuits.expansion import Expansion, Groups, Term
from bilens.circuits.forest import Forest, forest
from bilens.circuits.graph import graph
from bilens.circuits.head_scores import HeadScores, head_scores
from bilens.circuits.heads import ov_circuit, qk_circuit
from bilens.circuits.knockout import Knockout, Removal, knockout
from bilens.circuits.lens import Lens, lens
from bilens.circuits.pairs import PairMatrix, Pairs, pairs
from bilens.circuits.patterns import AttentionPatterns, attention_patterns
from bilens.circuits.promises import Promises, promises
from bilens.circuits.quadratic_lens import QuadraticLens, quadratic_lens
from bilens.circuits.recording import Recording, record
from bilens.circuits.rules import Rules, head_paths, require_path, rules
from bilens.circuits.search import Detail, expand
from bilens.circuits.starts import Starts, starts
from bilens.circuits.targets import At
from bilens.circuits.units import PathUnits, units
from bilens.circuits.virtual import HeadCircuit, virtual
from bilens.wiring import Prompt, Source

__all__ = [
    "At",
    "AttentionPatterns",
    "AttentionScores",
    "Composition",
    "Detail",
    "Effects",
    "Expansion",
    "Forest",
    "Groups",
    "HeadCircuit",
    "HeadScores",
    "Knockout",
    "Lens",
    "PairMatrix",
    "Pairs",
    "PathUnits",
    "Promises",
    "Prompt",
    "QuadraticLens",
    "Recording",
    "Removal",
    "Rules",
    "ScoreProduct",
    "Source",
    "Starts",
    "Term",
    "attention_patterns",
    "attention_product",
    "attention_scores",
    "composition",
    "effects",
    "expand",
    "forest",
    "graph",
    "head_paths",
    "head_scores",
    "knockout",
    "lens",
    "ov_circuit",
    "pairs",
    "promises",
    "qk_circuit",
    "quadratic_lens",
    "record",
    "require_path",
    "rules",
    "starts",
    "units",
    "virtual",
]
