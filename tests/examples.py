"""A small result of every kind, by name: for tests of what all results must do."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

import bilens
from bilens import checks, circuits, decompose, features
from bilens.base.results import Result
from bilens.training import Comparison, PathScores, RuleScores
from tests.circuits.transformers_made import tiny
from tests.conftest import Make

IDS = [1, 4, 2, 2, 7]
TARGET = (3, 7)
WIDTH, LATENTS = 6, 5


@cache
def model() -> bilens.Transformer:
    return tiny("linear", True)


@cache
def polynomial() -> bilens.Transformer:
    """Of heads whose scores go through no softmax."""
    torch.manual_seed(0)
    config = bilens.TransformerConfig(**model().config.to_dict() | {"attention": "bilinear"})
    made = bilens.Transformer(config).eval()
    made.tokenizer = model().tokenizer
    return made


@cache
def layer() -> bilens.CP:
    return model().blocks[1].mlp.tensor().detach()


@cache
def dictionary() -> features.Dictionary:
    make = Make(1)
    shape = (WIDTH, LATENTS)
    return features.Dictionary(
        make.randn(*shape),
        make.randn(*shape[::-1]),
        make.randn(LATENTS).abs(),
        make.randn(WIDTH),
        hook="layers.1.mlp.input",
    )


@cache
def written() -> features.Dictionary:
    """Of what the layer writes."""
    return replace(dictionary(), hook="layers.1.mlp.output")


@cache
def form() -> features.FeatureForm:
    names = ["␣a", "b⏎", "c", "d", "e"]
    found = features.interactions(layer(), outputs=written(), inputs=dictionary())
    return found.of(1).__class__(**vars(found.of(1)) | {"names": tuple(names)})


@cache
def inputs() -> torch.Tensor:
    return Make(2).randn(60, WIDTH)


@cache
def expansion() -> circuits.Expansion:
    return bilens.expand(model(), IDS, TARGET, max_terms=200)


@cache
def approximation() -> Result:
    mlp = tiny("silu", True).blocks[0].mlp
    return bilens.approximate(mlp, bilens.Gaussian.from_batches([inputs()]), data=inputs())


def truncation() -> Result:
    torch.manual_seed(0)
    config = bilens.ClassifierConfig(input_shape=[6], hidden_size=4, num_labels=3)
    classifier = bilens.Classifier(config).double()
    images = torch.rand(20, 6, dtype=torch.float64)
    return checks.truncate(classifier, images, torch.arange(20) % 3, kept=(1, 3))


def comparison() -> Result:
    losses = ((2.0, 2.1), (1.9, 2.05))
    return Comparison("data", ("GELU", "bilinear"), (0, 1), losses, losses, (100, 101), 512)


def verification() -> Result:
    names, errors = ("Σ λ (v·x)² = T(x, x)", "xᵀ Q_u x = u · T(x, x)"), (1e-16, 1e-3)
    return checks.Verification(names, ("float64",) * 2, errors, (1e-10,) * 2)


@cache
def diff() -> bilens.changes.Diff:
    return bilens.diff(model(), tiny("linear", True, seed=1), data=torch.tensor([IDS, IDS[::-1]]))


def series() -> Result:
    places = diff().places
    like, moved = torch.rand(len(places), 3), torch.rand(len(places), 2)
    steps = {"checkpoints": ("step 1", "step 2", "step 3"), "steps": (1, 2, 3), "numbered": True}
    found = {"loss": None, "places": places, "to_last": like, "moved": moved}
    return bilens.changes.Series(**steps, **found, on_data=False, whole=diff())


TEXTS = [torch.tensor(IDS), torch.tensor(IDS[:3])]


@cache
def cofiring() -> features.Cofiring:
    return features.cofiring(model(), dictionary(), TEXTS * 4)


MAKERS: dict[str, Callable[[], Result]] = {
    "Angles": lambda: decompose.angles(*(decompose.eigen(Make(n).cp(), k=3) for n in (0, 1))),
    "Approximation": approximation,
    "AttentionPatterns": lambda: circuits.attention_patterns(model(), IDS),
    "AttentionScores": lambda: circuits.attention_scores(model(), IDS, 1, 0, 4, 1),
    "Cofiring": cofiring,
    "Comparison": comparison,
    "RuleScores": lambda: RuleScores((("bigram", 8, 8, 0.001), ("skip", 20, 24, 0.3))),
    "PathScores": lambda: PathScores((("embed", 1, None), ("mlp0(embed, L0H0)", None, 9)), (8, 24)),
    "Composition": lambda: circuits.composition(model()),
    "Degrees": lambda: approximation().degrees,
    "Diff": diff,
    "Effects": lambda: circuits.effects(model(), IDS, TARGET),
    "Eigen": lambda: decompose.eigen(Make().cp(), k=3).labelled(["cat", "dog", "bird"]),
    "Examples": lambda: features.examples(model(), dictionary(), TEXTS, 3, k=2),
    "Expansion": expansion,
    "Explanation": lambda: features.interactions(
        layer(), outputs=written(), inputs=dictionary()
    ).explain([0, 2], inputs()[:3]),
    "FeatureEigen": lambda: form().eigen(3),
    "FeatureForm": form,
    "FeatureGates": lambda: form().gates(2, inputs()),
    "FeaturePairs": lambda: form().top(6),
    "Firing": lambda: features.firing(model(), dictionary(), TEXTS),
    "FiringPairs": lambda: form().top_on(cofiring(), 4),
    "Gates": lambda: Make().spectral(3.0, 2.0, -1.0, -2.0).gates(),
    "Groups": lambda: expansion().by("position"),
    "HOSVD": lambda: decompose.hosvd(Make().cp(), 2),
    "HeadScores": lambda: circuits.head_scores(model(), block=4, texts=1),
    "Items": lambda: diff().items[0],
    "Joint": lambda: decompose.joint(Make().cp(3, 6)),
    "Knockout": lambda: circuits.knockout(model(), IDS, "L1H0", TARGET),
    "Lens": lambda: circuits.lens(model(), IDS),
    "LowRank": lambda: features.low_rank(layer(), written(), inputs(), ranks=(1, 2)),
    "Mechanisms": lambda: features.mechanisms(layer(), 3, starts=1, draws=1, steps=5),
    "Pairs": lambda: circuits.pairs(model(), IDS, TARGET),
    "PathUnits": lambda: circuits.units(model(), IDS, "mlp1", TARGET),
    "Promises": lambda: circuits.promises(model(), IDS),
    "QuadraticLens": lambda: circuits.quadratic_lens(model(), IDS, "mlp1", 3, k=3),
    "Readings": lambda: form().eigen(3).readings,
    "Rounded": lambda: Make().cp(4, 4, 4, 8).round(cutoff=0.3),
    "Rules": lambda: circuits.rules(model(), k=5),
    "ScoreProduct": lambda: circuits.attention_product(polynomial(), IDS, 1, 0, 4, 1),
    "SVD": lambda: decompose.svd(Make().cp(), 2),
    "Series": series,
    "Starts": lambda: circuits.starts(expansion()),
    "Similarities": lambda: decompose.similarity(
        {"mlp0": Make(0).cp(), "mlp1": Make(1).cp()}, Make(2).randn(80, 4), samples=64
    ),
    "Tail": lambda: decompose.tail(Make().cp(), 2),
    "TopEntries": lambda: decompose.top_entries(Make().cp(), 4),
    "Transcoding": lambda: features.transcode(
        Make().cp(), bilens.Gaussian(torch.zeros(4), torch.eye(4)), 2, 1e-3, steps=3
    ),
    "Truncation": truncation,
    "Verification": verification,
    "WeightedEigen": lambda: decompose.eigen(Make().cp(), k=2, measure=Make(2).randn(80, 4)),
}
EXAMPLES = {name: cache(maker) for name, maker in MAKERS.items()}
