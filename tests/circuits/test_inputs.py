"""What circuits explain is the pass that people run: special tokens, padding, targets; and what no
question can be.
"""

import json

import pytest
import torch

from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, BilensError
from bilens.circuits import (
    At,
    Prompt,
    attention_scores,
    expand,
    graph,
    knockout,
    pairs,
    record,
)
from tests.tokenizers_made import byte_level, llama_like

TEXT = "Once upon a girl"


def reading(tokenizer, **given):
    """A model in Llama's family, so that stock transformers runs it too."""
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=320,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        initializer_range=0.5,
        **given,
    )
    model = Transformer(config).double().eval()
    model.tokenizer = tokenizer
    return model


@pytest.fixture(scope="module", params=[byte_level, llama_like])
def model(request):
    return reading(request.param())


def stock(model, **told):
    """The logits at the last real token, by transformers' own Llama."""
    with torch.no_grad():
        logits = model.to_llama()(**told).logits[0]
    last = int(told["attention_mask"][0].nonzero()[-1])
    return logits[last]


def test_a_text_is_explained_as_people_run_it(model):
    told = model.tokenizer(TEXT, return_tensors="pt")
    truth = stock(model, **told)
    found = expand(model, TEXT, 7)
    assert found.forward == pytest.approx(float(truth[7]), rel=1e-5)
    assert found.total == pytest.approx(float(truth[7]), rel=1e-5)
    assert knockout(model, TEXT, "mlp0", 7).before == pytest.approx(float(truth[7]), rel=1e-5)
    assert found.inputs[0] == record(model, TEXT).names[0] == "<s>"
    assert attention_scores(model, TEXT, 0, 0, -1, 0).tokens[1] == "<s>"
    bare = Prompt(TEXT, special_tokens=False)
    plain = stock(model, **model.tokenizer(TEXT, return_tensors="pt", add_special_tokens=False))
    alone = expand(model, bare, 7)
    assert alone.forward == pytest.approx(float(plain[7]), rel=1e-5)
    assert knockout(model, bare, "mlp0", 7).before == pytest.approx(float(plain[7]), rel=1e-5)
    assert "<s>" not in alone.inputs
    assert abs(float(plain[7] - truth[7])) > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_source(model, side):
    model.tokenizer.padding_side = side
    told = model.tokenizer(TEXT, padding="max_length", max_length=24, return_tensors="pt")
    padded, alone = expand(model, told, 7), expand(model, TEXT, 7)
    assert padded.forward == pytest.approx(alone.forward, rel=1e-12)
    assert padded.inputs == alone.inputs
    assert [term.path for term in padded.top(9).terms] == [term.path for term in alone.top(9).terms]
    if side == "right":
        assert padded.forward == pytest.approx(float(stock(model, **told)[7]), rel=1e-5)
    one, two = (
        sum(row["value"] for row in pairs(model, given, 7).rows()) for given in (told, TEXT)
    )
    assert one == pytest.approx(two, rel=1e-12)
    scores = (attention_scores(model, given, 1, 0, -1, 0).forward for given in (told, TEXT))
    assert next(scores) == pytest.approx(next(scores), rel=1e-12)


def test_a_graph_holds_the_text_as_it_was_written(model):
    made = json.loads(json.dumps(graph(expand(model, TEXT, 7))))["metadata"]
    assert made["prompt"] == TEXT
    assert made["prompt_tokens"][0] == "<s>"
    assert "␣girl" in made["prompt_tokens"]


def test_outputs_are_named_by_their_text(model):
    index = model.output_index(" girl")
    named, numbered = (expand(model, TEXT, target, detail="writes") for target in (" girl", index))
    assert named.target == "'␣girl'"
    assert named.forward == pytest.approx(numbered.forward)
    assert expand(model, TEXT, ("␣girl", " a"), detail="writes").target == "'␣girl' − '␣a'"


@pytest.mark.parametrize("same", [(" girl", " girl"), (7, 7)])
def test_an_output_less_itself_is_nothing(model, same):
    ex = expand(model, TEXT, same)
    assert (ex.total, ex.forward) == (0, 0)
    assert all(term.value == 0 for term in ex.terms)
    assert knockout(model, TEXT, "mlp0", same).effect == 0
    index = model.output_index(same[0])
    name = model.output_names([index])[0]
    assert expand(model, TEXT, {index: 1.0, name: -1.0}).total == 0


ONES = torch.ones(320)
TARGETS = {
    "list": [1, 2],
    "set": {1},
    "scalar": torch.tensor(3),
    "NaN": ONES * torch.nan,
    "infinite": ONES / 0,
    "complex": ONES * 1j,
    "bool": ONES > 0,
    "meta": torch.ones(320, device="meta"),
    "sparse": ONES.to_sparse(),
    "rows": ONES[None],
    "array": ONES.numpy(),
    "float": 3.0,
    "true": True,
    "huge": 10**30,
    "three": (1, 2, 3),
    "half a pair": (1, None),
    "no weights": {},
    "NaN weight": {1: torch.nan},
    "weight of no number": {1: "a"},
    "half a surrogate": "\ud800",
    "many tokens": "a girl a",
    "bytes": b"a",
    "no place": At(torch.ones(8), "nope"),
    "NaN inside": At(torch.ones(8) * torch.nan, "mlp1.input"),
    "short inside": At(torch.ones(3), "mlp1.input"),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.bad_input
def test_targets_that_are_none_are_refused_in_one_line(name):
    model = reading(byte_level())
    for ask in (expand, pairs, lambda model, ids, target: knockout(model, ids, "mlp0", target)):
        with pytest.raises(ArgumentError) as caught:
            ask(model, [1, 4, 2], TARGETS[name])
        assert " must " in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "inputs", [["a", "b"], [{"role": "user"}], None, [2**70], [True], [], "\ud800", [[1], [2, 3]]]
)
@pytest.mark.bad_input
def test_inputs_that_are_none_are_refused_in_one_line(inputs):
    model = reading(byte_level())
    for ask in (
        expand,
        record,
        pairs,
        lambda model, given: knockout(model, given, "mlp0"),
        lambda model, given: attention_scores(model, given, 0, 0, -1, 0),
    ):
        with pytest.raises(BilensError) as caught:
            ask(model, inputs)
        assert " must " in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"target": lambda: At(torch.ones(8), 3)}, "place must be a name, mlp0.input say; got int"),
        ({"dictionaries": 3}, "dictionaries must map places to dictionaries, or be None; got int"),
        ({"cutoff": "a"}, "cutoff must be in [0, 1)"),
        ({"position": True}, "position must be -3 … 2; got True"),
        ({"position": torch.tensor(1)}, "position must be -3 … 2"),
    ],
)
@pytest.mark.bad_input
def test_other_arguments_are_refused_too(refuses, change, text):
    change = {name: value() if callable(value) else value for name, value in change.items()}
    model = reading(byte_level())
    refuses(ArgumentError, lambda: expand(model, [1, 4, 2], **({"target": 3} | change)), text)
