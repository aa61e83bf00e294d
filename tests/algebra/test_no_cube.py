"""No verb makes the cube, at a size where it would be seen."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bilens.decompose import eigen, hosvd, joint, svd, top_entries

D, H = 512, 64


class Largest(TorchDispatchMode):
    """The largest number of entries of any tensor that an operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # what lies in memory: an expanded view holds fewer numbers than it shows
        sizes = [
            leaf.untyped_storage().nbytes() // leaf.element_size()
            for leaf in tree_leaves(result)
            if torch.is_tensor(leaf)
        ]
        self.numel = max(self.numel, *sizes, 0)
        return result


VERBS = {
    "call": lambda T, x: T(x),
    "contract": lambda T, x: [T.contract(**{mode: x}).norm() for mode in ("out", "left", "right")],
    "interaction": lambda T, x: T.interaction(x)(x),
    "eigh": lambda T, x: T.interaction(x).eigh(8),
    "gates": lambda T, x: T.interaction(x[0]).gates(2),
    "map": lambda T, x: T.map(out=x, left=x, right=x),
    "swap": lambda T, x: T.swap(),
    "symmetrise": lambda T, x: T.symmetrise(),
    "arithmetic": lambda T, x: 2 * T - T + -T,
    "norm": lambda T, x: T.norm(),
    "inner": lambda T, x: T.inner(T.swap()),
    "similarity": lambda T, x: T.similarity(T.symmetrise()),
    "gram": lambda T, x: [T.gram(mode) for mode in ("out", "left", "right")],
    "grams": lambda T, x: [*T.grams().values()],
    "eigen": lambda T, x: eigen(T, x, k=4),
    "hosvd": lambda T, x: hosvd(T, 8).tucker,
    "svd": lambda T, x: svd(T, 8),
    "joint": lambda T, x: joint(T, 8, shares=(0.5,)),
    "round": lambda T, x: T.round(4),
    "top_entries": lambda T, x: top_entries(T, 4, rows=range(80), max_bytes=2**22),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verb(verb, maker):
    make = maker(0, torch.float32)
    tensor, x = make.cp(D, D, h=H), make.randn(4, D)
    with Largest() as largest:
        VERBS[verb](tensor, x)
    assert largest.numel < D**3 / 4
    assert largest.numel > 0 or verb == "swap"  # which moves no number


def test_the_watch_sees_a_cube(maker):
    with Largest() as largest:
        maker().cp(20, 20).dense()
    assert largest.numel >= 20**3
