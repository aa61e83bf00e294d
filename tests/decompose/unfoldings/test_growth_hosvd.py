"""Counted, not timed: how operations and live memory of Grams, HOSVD, SVD and joint grow with h and
d.

Matrix products are counted by torch, eigenproblems by the 9 n³ of LAPACK's symmetric solver, QR by
2 m n². Slopes are those of log cost over log size. Blocks are made small, so that small sizes have
many of them, and h much larger than d, so that the leading term of a cost leads.
"""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bilens.algebra import cp
from bilens.decompose import hosvd, joint, svd
from tests.watches import LiveBytes

BLOCK = 64
COUNTED = {
    torch.ops.aten._linalg_eigh: lambda shape, *rest, **more: 9 * shape[-1] ** 3,
    torch.ops.aten.linalg_qr: lambda shape, *rest, **more: 2 * shape[-2] * shape[-1] ** 2,
}


CALLS = {
    "gram out": lambda T: T.gram("out"),
    "gram left": lambda T: T.gram("left"),
    "gram out, symmetric": lambda T: T.gram("out", symmetric=True),
    "gram left, symmetric": lambda T: T.gram("left", symmetric=True),
    "grams": lambda T: T.grams(),
    "grams, symmetric": lambda T: T.grams(symmetric=True),
    "norm": lambda T: T.norm(),
    "hosvd": lambda T: hosvd(T, 4),
    "hosvd, symmetric": lambda T: hosvd(T, 4, symmetric=True),
    "svd": lambda T: svd(T, 4),
    "joint": lambda T: joint(T, 4, shares=(0.5,)),
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(cp, "BLOCK", BLOCK)


def operations(call, tensor) -> float:
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counted:
        call(tensor)
    return counted.get_total_flops()


def live_bytes(call, tensor) -> float:
    with LiveBytes() as live:
        call(tensor)
    return live.peak


def slope(measure, call, make, small, large) -> float:
    """Of log cost over log size, between two (d, h) of which the second is twice the first in one
    of them.
    """
    first, second = (math.log2(measure(call, make.cp(d, d, h=h))) for d, h in (small, large))
    return second - first


@pytest.mark.parametrize("name", CALLS)
def test_operations_grow_as_h_squared_times_d(name, make):
    sizes = ((16, 256), (8, 512), (16, 512), (32, 512))
    counts = (operations(CALLS[name], make.cp(d, d, h=h)) for d, h in sizes)
    short, narrow, middle, wide = map(math.log2, counts)
    assert middle - short == pytest.approx(2, abs=0.2)
    assert middle - narrow == pytest.approx(1, abs=0.2)
    assert wide - middle == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("norm", 3),
        ("gram out", 3),
        ("gram left", 3),
        ("gram out, symmetric", 5),
        ("gram left, symmetric", 9),
        ("grams", 6),
        ("grams, symmetric", 10),
    ],
)
def test_only_half_of_the_tiles_are_made(name, products, make):
    """Each product of h × h by d is 2 h² d operations, halved; tiles on the diagonal are whole.
    All modes share theirs: 6 for 3 · 3, 10 for 5 + 9.
    """
    d, h = 16, 512
    counted = operations(CALLS[name], make.cp(d, d, h=h)) / (h * h * d)
    modes = 3 if "grams" in name else 1
    assert products < counted < products * (1 + BLOCK / h) + 5 * modes * d / h


@pytest.mark.parametrize("name", CALLS)
def test_memory(name, make, monkeypatch):
    """Of a Gram or a norm: blocks and d², not h. Of the rest: the turned factors, h (o + i + j);
    never h² or o·i·j.
    """
    monkeypatch.setattr(cp, "BLOCK", BLOCK // 2)
    call, blocked = CALLS[name], "gram" in name or name == "norm"
    tensor = make.cp(64, 64, h=512)
    short, narrow, whole = (
        live_bytes(call, one) for one in (make.cp(64, 64, h=256), make.cp(32, 32, h=512), tensor)
    )
    assert math.log2(whole / short) == pytest.approx(0 if blocked else 1, abs=0.15)
    if not blocked:
        assert math.log2(whole / narrow) == pytest.approx(1, abs=0.2)
        assert whole < 2.5 * sum(factor.nbytes for factor in tensor.factors().values())


def test_blocks_are_small_by_default(make, monkeypatch):
    monkeypatch.undo()
    for call in (CALLS["gram out"], CALLS["norm"]):
        assert live_bytes(call, make.cp(4, 4, h=4096)) < 4096**2 * 8 / 4


def test_orthogonal(make):
    """As o i h² in time; in memory as h² and blocks of rows, not as the o·i rows of the Khatri-Rao
    product.
    """

    def call(tensor):
        return hosvd(tensor, precision="orthogonal")

    assert slope(operations, call, make, (16, 64), (32, 64)) == pytest.approx(2, abs=0.3)
    rows = 48 * 48 * 64 * 8
    assert live_bytes(call, make.cp(48, 48, h=64)) < rows


def test_the_watch_sees_memory_come_and_go():
    with LiveBytes() as live:
        one = torch.ones(1000, dtype=torch.float64)
        for _ in range(5):
            two = one + 1
        view = two[:10]
        del two
        assert live.bytes == 16_000
        del view
        assert live.bytes == 8_000
    assert live.peak == 24_000
