"""``bilens eval``: how good a model is on held-out data."""

import bilens
from bilens.cli.options import AsJson, Data, ModelFolder
from bilens.cli.output import figures, show


def command(model: ModelFolder, data: Data, json: AsJson = False) -> None:
    """Accuracy of a classifier on the test part of DATA, loss of a language model on its held-out
    part.
    """
    loaded = bilens.load(str(model))
    reads_text = isinstance(loaded, bilens.Transformer)
    training = bilens.training
    measured = (training.evaluate_text_on if reads_text else training.evaluate_on)(loaded, data)
    show([figures("Test", measured)], json)
