"""The core identities over shapes: sizes of 1, rectangular, ranks below and above the sizes,
batches.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import einsum

from bilens.algebra import CP

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
size, seed = st.integers(1, 6), st.integers(0, 10**6)
batch = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def draw(make, name, o, i, j):
    return make.form(name, o, i, j) if name != "cp" else make.cp(o, i, j, h=1 + (o * i + j) % 13)


kinds = pytest.mark.parametrize("name", ["cp", "tucker", "dense"])


@kinds
@few
@given(o=size, i=size, j=size, b=batch, seed=seed)
def test_linear_in_each_input(name, o, i, j, b, seed, maker, cube, close):
    make = maker(seed)
    tensor, x, y, u = (
        draw(make, name, o, i, j),
        make.randn(*b, i),
        make.randn(*b, j),
        make.randn(*b, o),
    )
    truth = cube(tensor)
    terms = einsum("oij,...i,...j,...o->...", truth.abs(), x.abs(), y.abs(), u.abs())
    scale = float(terms.max())
    value = einsum("oij,...i,...j,...o->...", truth, x, y, u)
    close((tensor(x, y) * u).sum(-1), value, scale=scale)
    close(
        (u[..., None, :] @ tensor.contract(left=x).dense() @ y[..., None])[..., 0, 0],
        value,
        scale=scale,
    )
    close(
        (u[..., None, :] @ tensor.contract(right=y).dense() @ x[..., None])[..., 0, 0],
        value,
        scale=scale,
    )
    close(
        (x[..., None, :] @ tensor.contract(out=u).dense() @ y[..., None])[..., 0, 0],
        value,
        scale=scale,
    )


@kinds
@few
@given(o=size, i=size, b=batch, seed=seed)
def test_only_the_symmetric_part_acts(name, o, i, b, seed, maker, cube, close):
    make = maker(seed)
    tensor, x, u = draw(make, name, o, i, i), make.randn(*b, i), make.randn(*b, o)
    truth = cube(tensor)
    scale = float(einsum("oij,...i,...j->...o", truth.abs(), x.abs(), x.abs()).max())
    close(tensor.symmetrise()(x), tensor(x), scale=scale)
    close(tensor.swap()(x), tensor(x), scale=scale)
    close(
        tensor.interaction(u)(x),
        (tensor(x) * u).sum(-1),
        scale=scale * float(u.abs().sum(-1).max()),
    )


@kinds
@few
@given(o=size, i=size, j=size, o2=size, i2=size, j2=size, seed=seed)
def test_maps_compose_and_inner_products_agree(name, o, i, j, o2, i2, j2, seed, maker, cube, close):
    make = maker(seed)
    tensor, maps = (
        draw(make, name, o, i, j),
        {"out": make.randn(o2, o), "left": make.randn(i2, i), "right": make.randn(j2, j)},
    )
    mapped = einsum("oij,ao,bi,cj->abc", cube(tensor), *maps.values())
    terms = float(
        einsum("oij,ao,bi,cj->abc", cube(tensor).abs(), *(m.abs() for m in maps.values())).max()
    )
    close(tensor.map(**maps).dense(), mapped, scale=terms)
    step = tensor
    for mode, m in maps.items():
        step = step.map(**{mode: m})
    close(step.dense(), mapped, scale=terms)
    assert step.shape == (o2, i2, j2)
    other = make.cp(o, i, j, h=3)
    close(
        tensor.inner(other),
        (cube(tensor) * cube(other)).sum(),
        scale=float(cube(tensor).norm() * cube(other).norm()),
    )
    close(tensor.norm(), cube(tensor).norm())
    for mode in ("out", "left", "right"):
        close(tensor.gram(mode).trace(), cube(tensor).square().sum())


@few
@given(i=st.integers(1, 9), h=st.integers(0, 6), k=st.integers(1, 10), b=batch, seed=seed)
def test_eigenpairs_rebuild_the_form(i, h, k, b, seed, maker, matrix, close):
    make = maker(seed)
    form = make.quadratic(i, h, b)
    found, q = form.eigh(k), matrix(form)
    kept = einsum("...k,...ki,...kj->...ij", found.values, found.vectors, found.vectors)
    close(found.discarded, (q - kept).flatten(-2).norm(dim=-1), scale=float(q.norm()))
    close(found.spectrum.sum(-1), form.trace(), scale=float(q.norm()))
    close(found.spectrum.square().sum(-1).sqrt(), form.norm())


@few
@given(l=size, m=size, r=size, b=batch, seed=seed)
def test_svd_rebuilds_the_product(l, m, r, b, seed, maker, close):  # noqa: E741
    factored = maker(seed).factored(l, m, r, b)
    u, s, v = factored.svd()
    close(u * s[..., None, :] @ v.mT, factored.dense())
    close(s.square().sum(-1).sqrt(), factored.norm())


@few
@given(o=size, i=size, h=st.integers(1, 9), seed=seed)
def test_gauge_freedoms_leave_the_symmetric_part(o, i, h, seed, maker, close):
    make = maker(seed)
    tensor, order = make.cp(o, i, h=h), torch.randperm(h, generator=make.generator)
    a, b = (torch.exp(make.randn(h)) * make.randn(h).sign() for _ in range(2))
    same = {
        "hidden units permuted": CP(tensor.out[:, order], tensor.left[order], tensor.right[order]),
        "swapped": tensor.swap(),
        "rescaled": CP(tensor.out / (a * b), a[:, None] * tensor.left, b[:, None] * tensor.right),
    }
    truth = tensor.symmetrise()
    for other in same.values():
        moved = other.symmetrise()
        close(moved.dense(), truth.dense(), scale=float(truth.norm()))
        # √eps: the root of a cancelled sum
        assert float((truth - moved).norm()) <= 1e-7 * float(truth.norm())
        close(truth.similarity(moved), torch.ones_like(truth.norm()))
