"""Norms in every dtype: the scale, the map beside it and the forward pass are one function, and
none overflows in half.
"""

import pytest
import torch

from bilens.base.errors import ConfigError
from bilens.nn.norm import LINEAR_NORMS, NORMS, make_norm, own_norm, rescaled

HALF = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


def filled(kind, make, dtype, eps=1e-6):
    norm = make_norm(kind, 8, eps).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(make.randn(*parameter.shape) / 2)
    return norm.to(dtype)


def by_hand(norm, kind, x):
    """The norm in float64, from its definition and its own (rounded) weights."""
    x = x.double()
    if kind == "none":
        return x
    if kind in ("channel", "scalar"):
        return x * norm.weight.double()
    x = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    weight = norm.weight.double() + (kind == "rms_unit_offset")
    y = x / ((x * x).sum(-1, keepdim=True) / 8 + norm.eps).sqrt() * weight
    return y + norm.bias.double() if kind == "layer" else y


STREAMS = {
    "one large": lambda x: torch.cat([x[:, :1] * 0 + 400, x[:, 1:]], 1),  # 400² is past float16
    "all large": lambda x: x.sign() * 30_000,
    "tiny": lambda x: x * 2e-5,  # squares are zero in float16, and σ without its eps past it
    "zero": lambda x: x * 0,
    "plain": lambda x: x,
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scale_map_and_constant_are_the_norm(make, close, dtype, kind, stream):
    norm = filled(kind, make, dtype, eps=1e-12)
    x = STREAMS[stream](make.randn(5, 8)).to(dtype)
    truth = by_hand(norm, kind, x)
    scale = norm.scale(x)
    whole = scale * norm.linear(x.to(scale.dtype))
    whole = whole if norm.shift is None else whole + norm.shift
    tol = HALF.get(dtype, {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype))
    close(norm(x), truth, tol=tol)
    close(whole, truth, tol=1e-5 if dtype in HALF else tol)
    assert norm(x).dtype == dtype
    assert (
        scale.dtype == whole.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    )


@pytest.mark.parametrize("kind", NORMS)
def test_the_transpose_is_the_transpose(make, close, kind):
    norm, x, q = filled(kind, make, torch.float64), make.randn(5, 8), make.randn(5, 8)
    close((norm.linear(x) * q).sum(-1), (x * norm.transposed(q)).sum(-1), tol=1e-12)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("after", [1.0, -0.3])
def test_of_a_multiple(make, close, kind, after):
    """g N(f x), put together by hand, is what its scale, map and constant give."""
    norm, x, q = filled(kind, make, torch.float64), make.randn(5, 8), make.randn(5, 8)
    found = rescaled(norm, torch.tensor(2.5, dtype=torch.float64), after)
    truth = after * by_hand(norm, kind, 2.5 * x)
    close(found(x), truth, tol=1e-12)
    whole = found.scale(x) * found.linear(x)
    close(whole if found.shift is None else whole + found.shift, truth, tol=1e-12)
    close((found.linear(x) * q).sum(-1), (x * found.transposed(q)).sum(-1), tol=1e-12)
    assert (found.centred, found.normalises) == (norm.centred, norm.normalises)
    assert norm.normalises is (kind not in LINEAR_NORMS)
    assert own_norm(found) is own_norm(norm) is norm
    assert rescaled(norm) is norm


def test_unknown_norm(refuses):
    refuses(
        ConfigError,
        lambda: make_norm("batch", 8, 1e-6),
        "norm must be one of rms, rms_unit_offset, layer, channel, scalar, none; got 'batch'",
    )
