"""What kind of classifier this is, and how well it does on its test images."""

from functools import partial
from typing import Any

from bilens.models import Classifier
from bilens.report.view import Block, Query, View, is_classifier
from bilens.training import evaluate

RECIPE = (
    "steps",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "input_noise",
    "tail_penalty",
    "kept",
    "seed",
)


def _build(model: Classifier, query: Query) -> list[Block]:
    return [Block("model", "The model", partial(_facts, model, query))]


def _facts(model: Classifier, query: Query) -> dict[str, Any]:
    data, config = query.tested_on(), model.config
    figures = evaluate(model, data.test)
    write = "x + (w1 x) ⊙ (w2 x)" if config.residual else "(w1 x) ⊙ (w2 x)"
    facts = {
        "Kind": f"bilinear classifier: embed → {config.num_hidden_layers} × [ {write} ] → head",
        "Input": f"{' × '.join(map(str, config.input_shape))} pixels in [0, 1]",
        "Width": str(config.hidden_size),
        "Classes": ", ".join(config.labels),
        "Biases": "yes, kept as a constant coordinate" if config.bias else "none",
        "Parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "Data": f"{data.name}, {figures['images']:,} test images",
    }
    return {
        "headline": f"{100 * figures['accuracy']:.2f} %",
        "beside": f"test accuracy, loss {figures['loss']:.4f} nats per image",
        "facts": facts | query.recipe(RECIPE),
    }


VIEW = View("classifier_facts", is_classifier, _build)
