"""What is asked of a model on a GPU: the answers are those of the CPU, to float64's digits.

    BILENS_GPU=1 python -m pytest tests/test_devices.py

Without BILENS_GPU all tests see a CPU alone, on any machine, and these skip.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import bilens
from bilens import checks, circuits, decompose, features, measure, models, training

PROMPT, TARGET = "Once upon a time there was a little", (" girl", " boy")
TEXTS = ["Once upon a time there was a little girl.", "They went to play in the park."]
GPU = torch.cuda.is_available()
on_a_gpu = pytest.mark.skipif(not GPU, reason="no GPU here, or BILENS_GPU is not set")
CLOSE = 1e-6  # of the largest entry: what is nearly equal may change places
NOTHING = 1e-6  # what is smaller is noise
LONG = ("rules", "text", "verify")  # seconds each


@dataclass(frozen=True)
class Given:
    """A model of two layers and what is asked about, on one device."""

    device: str

    def load(self, name: str = "tinystories-2l") -> Any:
        return bilens.load(name).double().to(self.device)

    @property
    def model(self) -> Any:
        return self.load()

    @property
    def tensor(self) -> bilens.CP:
        return self.model.blocks[1].mlp.tensor().detach()

    @property
    def other(self) -> bilens.CP:
        return self.model.blocks[0].mlp.tensor().detach()

    def dictionary(self, place: str = "mlp1.input") -> features.Dictionary:
        return features.Dictionary.load(f"tinystories-2l/{place}").to(self.device).to("float64")

    def here(self, values: Tensor) -> Tensor:
        return values.to(self.device)

    @property
    def unit(self) -> Tensor:
        """Two output directions."""
        return self.here(torch.eye(128, dtype=torch.float64)[:2])

    def rows(self, place: str = "mlp1.input") -> Tensor:
        model = self.model
        ids = [model.tokenizer(text, return_tensors="pt") for text in TEXTS]
        return torch.cat([*models.activations(model, ids, place)])

    @property
    def gaussian(self) -> bilens.Gaussian:
        return bilens.Gaussian.from_batches([self.rows()]).ridge(0.1)


def few(given: Given) -> bilens.CP:
    """A tensor of three units."""
    out, left, right = given.here(torch.randn(3, 5, 3, dtype=torch.float64)).unbind()
    return bilens.CP(out, left.mT, right.mT)


def gated(given: Given, fit: Any) -> Any:
    """The nearest tensor of a gated layer."""
    model = given.load("tinystories-2l-swiglu")
    ids = [model.tokenizer(text, return_tensors="pt") for text in TEXTS]
    x = torch.cat([*models.activations(model, ids, "mlp0.input")])
    about = bilens.Gaussian.from_batches([x]).ridge(0.1)
    data = None if fit == "closed" else [x.repeat(200, 1)]
    return bilens.approximate(model.blocks[0].mlp, about, fit=fit, data=data)


def replaced(given: Given) -> Any:
    model = given.load("tinystories-2l-swiglu")
    near = {"mlp0": gated(given, "closed")}
    return bilens.expand(model, PROMPT, TARGET, replacements=near)


ASKED: dict[str, Callable[[Given], Any]] = {
    "forward": lambda g: g.model(**g.model.tokenizer(PROMPT, return_tensors="pt").to(g.device)),
    "activations": lambda g: g.rows(),
    "expand": lambda g: bilens.expand(g.model, PROMPT, TARGET),
    "expand writes": lambda g: bilens.expand(g.model, PROMPT, TARGET, detail="writes"),
    "expand pairs": lambda g: bilens.expand(g.model, PROMPT, TARGET, detail="pairs"),
    "expand gated": lambda g: bilens.expand(g.load("tinystories-2l-swiglu"), PROMPT, TARGET),
    "expand plain": lambda g: bilens.expand(g.load("tinystories-2l-gelu"), PROMPT, TARGET),
    "expand latents": lambda g: bilens.expand(
        g.model, PROMPT, TARGET, dictionaries={"mlp1.input": g.dictionary()}
    ),
    "expand replaced": replaced,
    "graph": lambda g: circuits.graph(bilens.expand(g.model, PROMPT, TARGET)),
    "pairs": lambda g: circuits.pairs(g.model, PROMPT, TARGET),
    "units": lambda g: circuits.units(g.model, PROMPT, "mlp0", TARGET),
    "lens": lambda g: circuits.lens(g.model, PROMPT),
    "quadratic lens": lambda g: circuits.quadratic_lens(g.model, PROMPT, "mlp1", TARGET),
    "knockout": lambda g: circuits.knockout(g.model, PROMPT, "L0H0", TARGET),
    "effects": lambda g: circuits.effects(g.model, PROMPT, TARGET, pairs=5),
    "patterns": lambda g: circuits.attention_patterns(g.model, PROMPT),
    "scores": lambda g: circuits.attention_scores(
        g.model, PROMPT, layer=1, head=3, query=7, key=6
    ),
    "head scores": lambda g: circuits.head_scores(g.model, texts=1),
    "composition": lambda g: circuits.composition(g.model),
    "virtual": lambda g: circuits.virtual(g.model, "mlp1(embed, L0H0(embed))"),
    "qk": lambda g: circuits.qk_circuit(g.model, 0, 0).norm(),
    "rules": lambda g: circuits.rules(g.load("tinystories-1l"), k=5),
    "eigen": lambda g: decompose.eigen(g.tensor, g.unit, k=3).values,
    "eigen lanczos": lambda g: decompose.eigen(
        g.tensor, g.unit, k=3, solver=decompose.Lanczos()
    ).values,
    "eigen measured": lambda g: decompose.eigen(g.tensor, g.unit, k=3, measure=g.gaussian).values,
    "hosvd": lambda g: decompose.hosvd(g.tensor, max_rank=4, symmetric=True).core.norm(),
    "svd": lambda g: decompose.svd(g.tensor, max_rank=4).values,
    "joint": lambda g: decompose.joint(g.tensor).shares,
    "tail": lambda g: decompose.tail(g.tensor, 3),
    "top entries": lambda g: decompose.top_entries(g.tensor, k=5),
    "top pairs": lambda g: decompose.top_pairs(
        g.tensor.interaction(g.unit[0]), g.dictionary().writes, k=5
    ),
    "angles": lambda g: decompose.angles(
        decompose.eigen(g.tensor, g.unit, k=3), decompose.eigen(g.other, g.unit, k=3)
    ),
    "similarity": lambda g: decompose.similarity([g.tensor, g.other]).matrix,
    "similarity measured": lambda g: decompose.similarity([g.tensor, g.other], g.gaussian).matrix,
    "similarity on data": lambda g: decompose.similarity([g.tensor, g.other], g.rows()).matrix,
    "round": lambda g: (few(g) + few(g)).round(cutoff=1e-6).cp.norm(),
    "on a Gaussian": lambda g: g.gaussian.of(g.tensor).norm(),
    "on samples": lambda g: measure.Samples(g.rows()).of(g.tensor).norm(),
    "hermite": lambda g: measure.hermite(g.tensor, g.rows()).slope,
    "nearest closed": lambda g: gated(g, "closed"),
    "nearest units": lambda g: gated(g, "units").unexplained,
    "nearest output": lambda g: gated(g, "output").unexplained,
    "dictionary": lambda g: g.dictionary().encode(g.rows()),
    "interactions": lambda g: features.interactions(
        g.tensor, outputs=g.dictionary("mlp1.output"), inputs=g.dictionary()
    ).of(560).top(5),
    "firing": lambda g: features.firing(g.model, g.dictionary(), TEXTS),
    "examples": lambda g: features.examples(g.model, g.dictionary(), TEXTS, 560),
    "cofiring": lambda g: features.cofiring(g.model, g.dictionary(), TEXTS),
    "mechanisms": lambda g: features.mechanisms(
        g.tensor, max_rank=3, starts=2, draws=1, steps=5
    ).norm,
    "transcode": lambda g: features.transcode(g.tensor, g.gaussian, 4, 1e-3, steps=5).missed,
    "verify": lambda g: bilens.verify(g.model).passed,
    "text": lambda g: training.evaluate_text_on(g.model, "topics"),
}  # fmt: skip


def numbers(found: Any, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """All that an answer holds in numbers, by name."""
    if isinstance(found, Tensor):
        yield "", found.detach().to_dense().cpu().double()
    elif isinstance(found, bool | int | float):
        yield "", torch.tensor(float(found), dtype=torch.float64)
    elif depth < 4 and dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            for name, value in numbers(getattr(found, field.name), depth + 1):
                yield f"{field.name}.{name}", value
    elif depth < 4 and isinstance(found, Mapping):
        for key, value in found.items():
            for name, each in numbers(value, depth + 1):
                yield f"{key}.{name}", each
    elif depth < 4 and isinstance(found, list | tuple):
        for place, value in enumerate(found):
            for name, each in numbers(value, depth + 1):
                yield f"{place}.{name}", each


@cache
def answer(question: str, device: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(numbers(ASKED[question](Given(device))))


def scales(found: Mapping[str, Tensor]) -> dict[str, float]:
    """By name without its numbers, the largest entry of what goes by it."""
    largest: dict[str, float] = {}
    for name, value in found.items():
        size = float(value.abs().nan_to_num(0).max()) if value.numel() else 0.0
        largest[unnumbered(name)] = max(largest.get(unnumbered(name), NOTHING), size)
    return largest


def unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)


@on_a_gpu
@pytest.mark.parametrize("question", ASKED)
def test_a_gpu_answers_as_the_cpu_does(question):
    require_alike(answer(question, "cuda"), answer(question, "cpu"))


def require_alike(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> None:
    assert there.keys() == here.keys()
    scale = scales(here)
    for name, value in here.items():
        assert there[name].shape == value.shape, name
        off = (there[name] - value).abs().nan_to_num(0)
        assert bool((off <= CLOSE * scale[unnumbered(name)]).all()), (name, off.max(), scale)


# what is asked about lies on one device, and what is asked with on another
APART: dict[str, Callable[[Given, Given], Any]] = {
    "expand latents": lambda g, o: bilens.expand(
        g.model, PROMPT, TARGET, dictionaries={"mlp1.input": o.dictionary()}
    ),
    "expand ids": lambda g, o: bilens.expand(g.model, o.here(torch.arange(9)), TARGET),
    "expand direction": lambda g, o: bilens.expand(
        g.model, PROMPT, o.here(torch.eye(1024, dtype=torch.float64)[3])
    ),
    "firing": lambda g, o: features.firing(g.model, o.dictionary(), TEXTS),
    "similarity measured": lambda g, o: decompose.similarity(
        [g.tensor, g.other], o.gaussian, samples=0
    ).matrix,
    "similarity on data": lambda g, o: decompose.similarity(
        [g.tensor, g.other], o.rows(), samples=0
    ).matrix,
    "similarity checked": lambda g, o: decompose.similarity([g.tensor, g.other], o.gaussian).matrix,
    "on a Gaussian": lambda g, o: o.gaussian.of(g.tensor).norm(),
    "on samples": lambda g, o: measure.Samples(o.rows()).of(g.tensor).norm(),
    "eigen measured": lambda g, o: decompose.eigen(
        g.tensor, g.unit, k=3, measure=o.gaussian
    ).values,
    "eigen on data": lambda g, o: decompose.eigen(g.tensor, g.unit, k=3, measure=o.rows()).values,
    "hosvd measured": lambda g, o: decompose.hosvd(
        g.tensor, max_rank=4, symmetric=True, measure=o.gaussian
    ).core.norm(),
    "top pairs": lambda g, o: decompose.top_pairs(
        g.tensor.interaction(g.unit[0]), o.dictionary().writes, k=5
    ),
    "angles": lambda g, o: decompose.angles(
        decompose.eigen(g.tensor, g.unit, k=3), decompose.eigen(o.other, o.unit, k=3)
    ),
    "truncate": lambda g, o: checks.truncate(
        bilens.Classifier(bilens.ClassifierConfig(num_labels=10, hidden_size=16))
        .double()
        .to(g.device),
        o.here(torch.linspace(0, 1, 640, dtype=torch.float64).reshape(10, 8, 8)),
        o.here(torch.arange(10)),
        kept=(2,),
    ),
}  # fmt: skip


@cache
def answer_apart(question: str, device: str, other: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(numbers(APART[question](Given(device), Given(other))))


@on_a_gpu
@pytest.mark.parametrize("there", [("cuda", "cpu"), ("cpu", "cuda")], ids="-".join)
@pytest.mark.parametrize("question", APART)
def test_what_lies_elsewhere_is_taken_there(question, there):
    require_alike(answer_apart(question, *there), answer_apart(question, "cpu", "cpu"))


@on_a_gpu
@pytest.mark.parametrize(
    "solver", [decompose.Dense(), decompose.Lanczos()], ids=["dense", "lanczos"]
)
def test_eigenpairs_in_float32_are_as_exact_as_on_a_cpu(solver):
    given = Given("cuda")
    found = decompose.eigen(given.tensor.to(torch.float32), given.unit.float(), k=8, solver=solver)
    assert bool(found.converged.all())
    off = found.vectors @ found.vectors.mT - torch.eye(8, device="cuda")
    assert float(off.abs().max()) < 1e-5


@pytest.mark.parametrize("question", [name for name in ASKED if name not in LONG])
def test_every_question_has_an_answer_in_numbers(question):
    assert answer(question, "cpu")


@pytest.mark.parametrize("question", APART)
def test_so_has_every_question_about_two_places(question):
    assert answer_apart(question, "cpu", "cpu")
