"""The grid: every form × every verb × dtype against the dense float64 truth. One row of the table
is one verb.
"""

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import Tensor, einsum

from bilens.algebra import CP, Dense, Factored, QuadraticForm, ThirdOrder, Tucker
from bilens.base.axes import MODES
from bilens.base.errors import NotFiniteError, TooLargeError

O, I = 3, 4  # noqa: E741
KINDS = ("cp", "symmetric cp", "tucker", "dense")


@dataclasses.dataclass
class Givens:
    """What verbs are applied to: for the form in its dtype, for the truth in float64."""

    x: Tensor
    y: Tensor
    u: Tensor
    out: Tensor
    left: Tensor
    right: Tensor
    like: ThirdOrder | Tensor  # of the same form as T
    others: dict[str, ThirdOrder | Tensor]

    @classmethod
    def draw(cls, make, name: str) -> "Givens":
        vectors = make.randn(2, 3, I), make.randn(3, I), make.randn(2, 3, O)
        maps = make.randn(2, O), make.randn(5, I), make.randn(3, I)
        return cls(
            *vectors, *maps, make.form(name, O, I), {kind: make.form(kind, O, I) for kind in KINDS}
        )

    def truth(self, cube) -> "Givens":
        flat = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("like", "others")
        }
        cubes = {kind: cube(other) for kind, other in self.others.items()}
        return Givens(
            **{name: t.double() for name, t in flat.items()}, like=cube(self.like), others=cubes
        )

    def abs(self) -> "Givens":
        flat = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "others"
        }
        return Givens(
            **{name: t.abs() for name, t in flat.items()},
            others={k: t.abs() for k, t in self.others.items()},
        )


def symmetric(cube: Tensor) -> Tensor:
    return (cube + cube.mT) / 2


def quadratic(cube: Tensor, u: Tensor) -> Tensor:
    return einsum("oij,...o->...ij", symmetric(cube), u)


def mapped(cube: Tensor, g: Givens, modes: tuple[str, ...]) -> Tensor:
    for letter, mode in zip("oij", MODES, strict=True):
        if mode in modes:
            cube = einsum(f"oij,z{letter}->{'oij'.replace(letter, 'z')}", cube, getattr(g, mode))
    return cube


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def gram(cube: Tensor, mode: str) -> Tensor:
    return einsum(
        {"out": "oij,pij->op", "left": "oij,opj->ip", "right": "oij,oip->jp"}[mode], cube, cube
    )


VERBS = {
    "dense": (lambda T, g: T, lambda C, g: C),
    "call x": (lambda T, g: T(g.x), lambda C, g: einsum("oij,...i,...j->...o", C, g.x, g.x)),
    "call one x": (
        lambda T, g: T(g.x[0, 0]),
        lambda C, g: einsum("oij,i,j->o", C, g.x[0, 0], g.x[0, 0]),
    ),
    "call x, y": (lambda T, g: T(g.x, g.y), lambda C, g: einsum("oij,abi,bj->abo", C, g.x, g.y)),
    "contract out": (
        lambda T, g: T.contract(out=g.u),
        lambda C, g: einsum("oij,abo->abij", C, g.u),
    ),
    "contract one out": (
        lambda T, g: T.contract(out=g.u[0, 0]),
        lambda C, g: einsum("oij,o->ij", C, g.u[0, 0]),
    ),
    "contract left": (
        lambda T, g: T.contract(left=g.x),
        lambda C, g: einsum("oij,abi->aboj", C, g.x),
    ),
    "contract right": (
        lambda T, g: T.contract(right=g.x),
        lambda C, g: einsum("oij,abj->aboi", C, g.x),
    ),
    "interaction": (lambda T, g: T.interaction(g.u), lambda C, g: quadratic(C, g.u)),
    "interaction of one": (
        lambda T, g: T.interaction(g.u[0, 0]),
        lambda C, g: quadratic(C, g.u[0, 0]),
    ),
    "interaction of x": (
        lambda T, g: T.interaction(g.u)(g.x),
        lambda C, g: einsum("oij,abo,abi,abj->ab", C, g.u, g.x, g.x),
    ),
    "swap": (lambda T, g: T.swap(), lambda C, g: C.mT),
    "symmetrise": (lambda T, g: T.symmetrise(), lambda C, g: symmetric(C)),
    "+": (lambda T, g: T + g.like, lambda C, g: C + g.like),
    "-": (lambda T, g: T - g.like, lambda C, g: C - g.like),
    "2.5 *": (lambda T, g: 2.5 * T, lambda C, g: 2.5 * C),
    "* tensor": (lambda T, g: T * g.x[0, 0, 0], lambda C, g: C * g.x[0, 0, 0]),
    "negation": (lambda T, g: -T, lambda C, g: -C),
    "traces": (lambda T, g: T.traces(), lambda C, g: einsum("oii->o", C)),
    "quadratic": (
        lambda T, g: dataclasses.replace(T, affine=True).quadratic(),
        lambda C, g: C[:, 1:, 1:],
    ),
    "norm": (lambda T, g: T.norm(), lambda C, g: C.square().sum().sqrt()),
    **{
        f"map {'+'.join(modes) or 'nothing'}": (
            lambda T, g, modes=modes: T.map(**{mode: getattr(g, mode) for mode in modes}),
            lambda C, g, modes=modes: mapped(C, g, modes),
        )
        for modes in [
            tuple(m for m, on in zip(MODES, bits, strict=True) if on)
            for bits in product((0, 1), repeat=3)
        ]
    },
    **{
        f"gram {mode}": (
            lambda T, g, mode=mode: T.gram(mode),
            lambda C, g, mode=mode: gram(C, mode),
        )
        for mode in MODES
    },
    **{
        f"inner {kind}": (
            lambda T, g, kind=kind: T.inner(g.others[kind]),
            lambda C, g, kind=kind: (C * g.others[kind]).sum(),
        )
        for kind in KINDS
    },
    **{
        f"similarity {kind}": (
            lambda T, g, kind=kind: T.similarity(g.others[kind]),
            lambda C, g, kind=kind: cosine(C, g.others[kind]),
        )
        for kind in KINDS
    },
}


def as_tensor(value) -> Tensor:
    return value.dense() if isinstance(value, ThirdOrder | Factored | QuadraticForm) else value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_the_dense_truth(form_name, verb, dtype, maker, cube, close):
    make = maker(3, dtype)
    tensor, givens = make.form(form_name, O, I), Givens.draw(make, form_name)
    does, means = VERBS[verb]
    got, truth = as_tensor(does(tensor, givens)), means(cube(tensor), givens.truth(cube))
    # the size of the terms, before they cancel
    terms = means(cube(tensor).abs(), givens.truth(cube).abs())
    raised = verb.startswith(("gram", "inner", "norm", "similarity")) and dtype == torch.bfloat16
    assert got.dtype == (torch.float32 if raised else dtype)
    close(got, truth, scale=max(float(truth.abs().max()), float(terms.abs().max())))


@pytest.mark.parametrize("name", ["cp", "tucker", "dense"])
def test_left_and_right_may_be_different_spaces(name, make, cube, close):
    tensor, x, y, u = make.form(name, 3, 4, 6), make.randn(5, 4), make.randn(5, 6), make.randn(2, 3)
    truth = cube(tensor)
    assert tensor.shape == (3, 4, 6)
    close(tensor(x, y), einsum("oij,bi,bj->bo", truth, x, y))
    close(tensor.contract(out=u).dense(), einsum("oij,bo->bij", truth, u))
    close(tensor.contract(left=x).dense(), einsum("oij,bi->boj", truth, x))
    close(tensor.contract(right=y).dense(), einsum("oij,bj->boi", truth, y))
    close(tensor.swap().dense(), truth.mT)


def test_forms_keep_their_form(form_name, make):
    tensor = make.form(form_name, O, I)
    for made in (
        tensor.swap(),
        tensor.symmetrise(),
        -tensor,
        tensor + tensor,
        tensor.map(out=make.randn(2, O)),
    ):
        assert type(made) is type(tensor)


def test_interaction_gives_u_dot_the_output(form_name, make, close):
    tensor, u, x = make.form(form_name, O, I), make.randn(O), make.randn(5, I)
    close(tensor.interaction(u)(x), tensor(x) @ u)


def test_directions_are_not_mixed_up_with_their_batch(make, close):
    tensor, u = make.cp(O, I), make.randn(2, 3, O)
    form = tensor.interaction(u)
    assert form.shape == (2, 3, I, I)
    close(form.dense()[1, 2], tensor.interaction(u[1, 2]).dense())


def test_values_are_frozen(form_name, make):
    tensor = make.form(form_name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tensor.out = make.randn(3, 7)


def test_to_casts_and_detach_cuts(form_name, make):
    tensor = make.form(form_name)
    assert tensor.to(torch.float32).dtype == torch.float32
    assert tensor.to("meta").device.type == "meta"
    tracked = tensor * torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert tracked.norm().requires_grad
    assert not tracked.detach().norm().requires_grad


def test_repr_says_shape_and_dtype(make):
    assert repr(make.cp()) == "CP(shape=(3, 4, 4), rank=7, dtype=float64, device=cpu)"
    assert repr(make.tucker()) == "Tucker(shape=(3, 4, 4), dtype=float64, device=cpu)"
    assert (make.cp().rank, make.tucker().ranks) == (7, (2, 3, 5))


def test_dense_refuses_above_the_limit_and_obeys_a_raised_one(form_name, make, refuses):
    tensor = make.form(form_name)
    refuses(
        TooLargeError,
        lambda: tensor.dense(max_bytes=383),
        "dense() must stay below max_bytes = 383",
        "3 × 4 × 4 float64 = 384 bytes",
        "pass max_bytes=",
    )
    assert tensor.dense(max_bytes=384).shape == (3, 4, 4)


def test_dense_refuses_a_large_cube_without_making_it(refuses):
    big = CP(torch.ones(4096, 2), torch.ones(2, 4096), torch.ones(2, 4096))
    refuses(TooLargeError, big.dense, "4096 × 4096 × 4096 float32 = 274,877,906,944 bytes")


def test_tucker_from_a_cp_core_is_exact(make, cube, close):
    cp = make.cp(3, 4)
    bases = [torch.linalg.qr(make.randn(n, n))[0] for n in (3, 4, 4)]
    core = Dense(cube(cp)).map(out=bases[0].mT, left=bases[1].mT, right=bases[2].mT).array
    close(Tucker(core, *bases).dense(), cube(cp))


SCALES = torch.tensor([1e-150, 1.0, 1e150], dtype=torch.float64)[:, None, None]
CUBES = {  # a cube, and the most units it needs
    "any": (lambda m: m.randn(3, 5, 6), 15),
    "one output": (lambda m: m.randn(1, 5, 6), 5),
    "many outputs": (lambda m: m.randn(9, 4, 3), 12),
    "few units": (lambda m: m.cp(8, 6, 7, h=2).dense(), 12),
    "slices of left": (lambda m: einsum("oi,ij->oij", m.randn(6, 4), m.randn(4, 6)), 4),
    "scales": (
        lambda m: m.randn(3, 4, 4) * SCALES,
        12,
    ),
    "nothing": (lambda m: torch.zeros(3, 4, 4).double(), 0),
    "an output of zeros": (
        lambda m: m.randn(9, 4, 3) * 1e-30 * (torch.arange(9) > 0)[:, None, None],
        12,
    ),
    "no output": (lambda m: torch.zeros(0, 4, 4).double(), 0),
}


@pytest.mark.parametrize("name", CUBES)
def test_a_cube_as_a_cp(name, make, close):
    draw, most = CUBES[name]
    cube = draw(make)
    found = Dense(cube).cp()
    assert found.rank <= most
    for part, truth in zip(found.dense(), cube, strict=True):
        close(part, truth, tol=0.0 if not truth.any() else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_narrow_cube_as_a_cp_keeps_what_it_is(dtype, maker, close):
    cube = maker(0, dtype).randn(3, 5, 5)
    found = dataclasses.replace(Dense(cube), affine=True).cp()
    assert (found.dtype, found.affine) == (torch.float32, True)
    close(found.dense(), cube.float())


def test_a_cube_with_nan_is_no_cp(make, refuses):
    refuses(NotFiniteError, Dense(make.randn(2, 3, 3) * math.nan).cp, "cp.array must be finite")
