"""What torch makes by default is a setting of the person's own: no number of ours hangs on it."""

import ast
import functools
from pathlib import Path

import pytest
import torch

import bilens
from bilens import circuits, features
from bilens.algebra import CP
from bilens.decompose import Lanczos, eigen, hosvd, joint, similarity, svd, tail, top_entries
from bilens.measure import Gaussian

PROMPT = "Once upon a time there was a little"


@functools.cache
def tensor(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (6, 20), (20, 12), (20, 12)
    return CP(*(torch.randn(s, generator=generator, dtype=torch.float32) for s in shapes))


@functools.cache
def activations():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 12, generator=generator, dtype=torch.float32)


@functools.cache
def outputs():
    return torch.eye(6, dtype=torch.float32)


@functools.cache
def model():
    return bilens.load("tinystories-1l")


@functools.cache
def gated():
    return bilens.load("tinystories-2l-swiglu").blocks[0].mlp


@functools.cache
def standard():
    return Gaussian(torch.zeros(128, dtype=torch.float32), torch.eye(128, dtype=torch.float32))


def numbers(values):
    return torch.tensor(values, dtype=torch.float64, device="cpu")


VERBS = {
    "eigen": lambda: eigen(tensor(), outputs(), k=2).values,
    "eigen, Lanczos": lambda: eigen(tensor(), outputs(), k=2, solver=Lanczos()).values,
    "eigen, measured": lambda: (
        eigen(tensor(), outputs(), k=2, measure=Gaussian.from_batches([activations()])).data.share
    ),
    "eigen, on samples": lambda: eigen(tensor(), outputs(), k=2, measure=activations()).data.share,
    "tail": lambda: tail(tensor(), 2).share,
    "svd": lambda: svd(tensor()).spectrum,
    "hosvd": lambda: hosvd(tensor()).spectrum["left"],
    "joint": lambda: joint(tensor()).spectrum,
    "round": lambda: tensor().round(8).cp.norm(),
    "top entries": lambda: top_entries(tensor(), 3).values,
    "similarity": lambda: similarity([tensor(), tensor(1)], samples=500).check.matrix,
    "similarity, measured": lambda: (
        similarity(
            [tensor(), tensor(1)], Gaussian.from_batches([activations()]), samples=500
        ).check.matrix
    ),
    "degrees": lambda: bilens.approximate(gated(), standard()).degrees.powers,
    "dictionary": lambda: (
        features.Dictionary.train(
            [activations()] * 6, features.DictionaryRecipe(steps=6, expansion=2, k=4, batch_size=64)
        ).W_dec
    ),
    "expand": lambda: numbers([t.value for t in bilens.expand(model(), PROMPT, " girl").terms[:5]]),
    "knockout": lambda: numbers(circuits.knockout(model(), PROMPT, "mlp0", " girl").effect),
    "head scores": lambda: circuits.head_scores(model(), texts=1).copying,
    "virtual": lambda: circuits.virtual(model(), "W_U mlp0(embed, embed)").norm(),
    "verify": lambda: numbers(bilens.verify(model()).errors),
    "lens": lambda: circuits.lens(model(), PROMPT, " girl").values,
}


@pytest.mark.parametrize("verb", VERBS)
def test_numbers_do_not_hang_on_the_default_dtype(verb):
    truth = VERBS[verb]()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = VERBS[verb]()
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == truth.dtype
    assert torch.equal(found, truth)


@pytest.mark.parametrize("verb", VERBS)
def test_numbers_do_not_hang_on_the_default_device(verb):
    """What is on "meta" has no values: nothing there may meet what is given."""
    truth = VERBS[verb]()
    with torch.device("meta"):
        found = VERBS[verb]()
    assert torch.equal(found, truth)


MAKERS = {
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones",
    "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices",
    "triu_indices", "zeros",
}  # fmt: skip


def made(file):
    """Where a tensor is made in ``file``, and by which arguments; a module's weights lie where
    torch puts them, as those of any module do.
    """
    tree = ast.parse(file.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    weights = {
        id(one) for call in calls if _called(call) == ("nn", "Parameter") for one in call.args
    }
    for call in calls:
        room, name = _called(call)
        if room == "torch" and name in MAKERS and id(call) not in weights:
            yield f"{file.name}:{call.lineno}", {word.arg for word in call.keywords}


def _called(call):
    match call.func:
        case ast.Attribute(ast.Name(room), name):
            return room, name
    return "", ""


def test_what_is_made_says_where():
    files = sorted(Path(bilens.__file__).parent.rglob("*.py"))
    unsaid = [at for file in files for at, words in made(file) if not words & {"device", None}]
    assert not unsaid
