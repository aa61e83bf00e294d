"""Floor 5: how a model offers itself. Each part is a list of writes, multilinear given what a pass
fixed, or ends.
"""

from bilens.wiring.hooks import Hook, hear, hear_each, hooked
from bilens.wiring.kinds import (
    BIAS,
    BILINEAR,
    EMBEDDING,
    GATED,
    HEAD,
    MISSED,
    NEAREST,
    OPAQUE,
    POSITION,
    Constant,
    Form,
    Gate,
    Leg,
    Mix,
    Multilinear,
    Opaque,
    Source,
    Write,
    quadratic,
)
from bilens.wiring.model import Expandable, Prompt, Sparse, Wiring, Worded, require_expandable
from bilens.wiring.parts import Heads, Layer, Outlet, Part
from bilens.wiring.places import Place, find_place, module_name, short_name
from bilens.wiring.precision import eager, explained, explains, is_half

__all__ = [
    "BIAS",
    "BILINEAR",
    "EMBEDDING",
    "GATED",
    "HEAD",
    "MISSED",
    "NEAREST",
    "OPAQUE",
    "POSITION",
    "Constant",
    "Expandable",
    "Form",
    "Gate",
    "Heads",
    "Hook",
    "Layer",
    "Leg",
    "Mix",
    "Multilinear",
    "Opaque",
    "Outlet",
    "Part",
    "Place",
    "Prompt",
    "Source",
    "Sparse",
    "Wiring",
    "Worded",
    "Write",
    "eager",
    "explained",
    "explains",
    "find_place",
    "hear",
    "hear_each",
    "hooked",
    "is_half",
    "module_name",
    "quadratic",
    "require_expandable",
    "short_name",
]
