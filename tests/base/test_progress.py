"""Whoever takes a callback asks whether it can be called before there is any work."""

import pytest

import bilens
from bilens.base.chunks import Chunks
from bilens.base.errors import ArgumentError

train, features = bilens.training, bilens.features
MODEL = "tinystories-2l"
DOORS = {
    "Chunks": lambda it: Chunks(progress=it),
    "Texts": lambda it: features.Texts(["a"], progress=it),
    "a page": lambda it: bilens.report.Extra(progress=it),
    "diff": lambda it: bilens.diff(MODEL, MODEL, progress=it),
    "compare": lambda it: train.compare("topics", "run", train.TextRecipe(), progress=it),
    "a conversion": lambda it: train.make_bilinear(
        bilens.load(MODEL), "topics", "run", train.ConversionRecipe(), progress=it
    ),
    "a dictionary of a text": lambda it: train.train_dictionary(
        bilens.load(MODEL), "topics", "mlp0.input", "run", features.DictionaryRecipe(), progress=it
    ),
    "a dictionary": lambda it: features.Dictionary.train(
        [], features.DictionaryRecipe(), progress=it
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_what_cannot_be_called_is_refused_at_the_door(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"progress must be a function .*, or None; got int\.$"):
        DOORS[door](3)
    assert not list(tmp_path.iterdir())
