"""The transformer among transformers: every argument, mask, cache and switch means what it means to
a stock Llama.

Stock's norms and eager softmax work in float32 even in float64 models: hence 1e-5 where they agree.
"""

import copy

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
    Trainer,
    TrainingArguments,
)

from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, ShapeError

STOCK = 1e-5
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip


def stock(seed=0, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(SMALL | changes))).double().eval()


def pair(**changes):
    theirs = stock(**changes)
    return Transformer.from_llama(theirs), theirs


@pytest.fixture(scope="module")
def both():
    return pair()


def ids(batch=2, length=7, seed=1):
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded():
    """Two texts of 4 and 7 tokens, the first behind padding, and its mask."""
    text, mask = ids(), torch.ones(2, 7, dtype=torch.long)
    text[0, :3], mask[0, :3] = 0, 0
    return text, mask


def right_padded():
    text, mask = left_padded()
    return text.flip(1), mask.flip(1)


def random_4d(dtype):
    may = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(2)) < 0.6
    may = may | torch.eye(7, dtype=torch.bool)
    return (
        may if dtype == torch.bool else torch.zeros(may.shape, dtype=dtype).masked_fill(~may, -1e9)
    )


def biased():
    return torch.randn(1, 4, 7, 7, generator=torch.Generator().manual_seed(3)).double()


CALLS = {
    "plain": lambda: {"input_ids": ids()},
    "all real": lambda: {"input_ids": ids(), "attention_mask": torch.ones(2, 7)},
    "left padding": lambda: dict(zip(("input_ids", "attention_mask"), left_padded(), strict=True)),
    "right padding": lambda: dict(zip(("input_ids", "attention_mask"), right_padded(),
    strict=True)),
    "no real token in a row": lambda: {"input_ids": ids(),
    "attention_mask": torch.tensor([[1] * 7, [0] * 7])},
    "bidirectional": lambda: {"input_ids": ids(),
    "attention_mask": torch.ones(2, 1, 7, 7, dtype=torch.bool)},
    "bidirectional, one for all": lambda: {"input_ids": ids(),
    "attention_mask": torch.ones(1, 1, 7, 7).bool()},
    "boolean 4D": lambda: {"input_ids": ids(), "attention_mask": random_4d(torch.bool)},
    "additive 4D": lambda: {"input_ids": ids(), "attention_mask": random_4d(torch.float64)},
    "additive, by head": lambda: {"input_ids": ids(), "attention_mask": biased()},
    "zeros added": lambda: {"input_ids": ids(), "attention_mask": torch.zeros(2, 1, 7, 7).double()},
    "positions": lambda: {"input_ids": ids(), "position_ids": torch.arange(20, 27)[None]},
    "packed": lambda: {"input_ids": ids(), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]]),
    "use_cache": False},
    "packed by row": lambda: {
        "input_ids": ids(),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]]),
        "use_cache": False,
    },
    "the last": lambda: {"input_ids": ids(), "logits_to_keep": 1},
    "the last three": lambda: {"input_ids": ids(), "logits_to_keep": 3},
    "these": lambda: {"input_ids": ids(), "logits_to_keep": torch.tensor([1, 4])},
    "these by row": lambda: {"input_ids": ids(), "logits_to_keep": torch.tensor([[1, 4], [0, 6]])},
    "where true": lambda: {"input_ids": ids(), "logits_to_keep": ids() % 2 == 0},
    "labels": lambda: {"input_ids": ids(), "labels": ids()},
    "some labels": lambda: {"input_ids": ids(), "labels": ids().masked_fill(ids() % 3 == 0, -100)},
    "labels of the kept": lambda: {"input_ids": ids(), "labels": ids()[:, -3:],
    "logits_to_keep": 3},
    "labels, padded": lambda: {
        "input_ids": left_padded()[0], "attention_mask": left_padded()[1],
        "labels": left_padded()[0].masked_fill(left_padded()[1] == 0, -100),
    },
    "items": lambda: {"input_ids": ids(), "labels": ids(), "num_items_in_batch": 40},
    "items, a tensor": lambda: {"input_ids": ids(), "labels": ids(),
    "num_items_in_batch": torch.tensor(40)},
    "shifted": lambda: {"input_ids": ids(), "labels": ids(), "shift_labels": ids(seed=4)},
    "embedded": lambda: {"inputs_embeds": torch.randn(2, 7, 32,
    generator=torch.Generator().manual_seed(5)).double()},
    "hidden states": lambda: {"input_ids": ids(), "output_hidden_states": True},
    "no dict": lambda: {"input_ids": ids(), "labels": ids(), "return_dict": False,
    "use_cache": False},
    "no cache": lambda: {"input_ids": ids(), "use_cache": False},
    "short ids": lambda: {"input_ids": ids().int()},
}  # fmt: skip


NOT_EAGER = [
    name for name in CALLS if "bool" in name or "bidirectional" in name or "padd" in name
] + ["no real token in a row"]


def same(got, truth):
    """Two outputs: tensors agree, and what is there is there in both."""
    if isinstance(truth, Tensor):
        torch.testing.assert_close(got.to(truth.dtype), truth, rtol=STOCK, atol=STOCK)
    elif isinstance(truth, (tuple, list)):
        assert len(got) == len(truth)
        for one, other in zip(got, truth, strict=True):
            same(one, other)
    elif hasattr(truth, "keys"):
        assert list(got.keys()) == list(truth.keys())
        same([got[key] for key in truth], list(truth.values()))
    else:
        assert type(got) is type(truth)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("attend", ["sdpa", "eager"])
def test_a_call_means_what_it_means_to_a_llama(both, call, attend):
    given = CALLS[call]()
    if attend == "eager" and call in NOT_EAGER:
        pytest.skip(
            "stock adds booleans to scores, and its rows that see nothing are NaN in float64"
        )
    for model in both:
        model.set_attn_implementation(attend)
    same(*(model(**given) for model in both))


def test_attentions_are_those_of_the_eager_path(both):
    ours, theirs = both
    theirs.set_attn_implementation("eager")
    for attend in ("sdpa", "eager"):
        ours.set_attn_implementation(attend)
        same(
            ours(ids(), output_attentions=True).attentions,
            theirs(ids(), output_attentions=True).attentions,
        )


def test_what_lm_head_reads_is_the_last_hidden_state(both):
    out = both[0](ids(), output_hidden_states=True)
    assert len(out.hidden_states) == 3
    torch.testing.assert_close(both[0].lm_head(out.hidden_states[-1]), out.logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("output_hidden_states", True), ("return_dict", False), ("use_cache", False)],
)
def test_switches_of_the_config_are_read(both, name, value):
    ours = copy.deepcopy(both[0])
    setattr(ours.config, name, value)
    same(ours(ids()), both[1](ids(), **{name: value}))


def test_the_fast_path_and_the_patterns_agree_on_every_mask(both):
    ours, _ = both
    for name, call in CALLS.items():
        ours.set_attn_implementation("sdpa")
        fast = ours(**call() | {"return_dict": True}).logits
        slow = ours(**call() | {"return_dict": True, "output_attentions": True}).logits
        torch.testing.assert_close(slow, fast, rtol=1e-10, atol=1e-10, msg=name)


# Caches.


def static(model, length=20):
    return StaticCache(config=model.config, max_cache_len=length)


CACHES = {
    "dynamic": lambda model: DynamicCache(config=model.config),
    "bare": lambda _: DynamicCache(),
    "static": static,
}


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("attend", ["sdpa", "eager"])
def test_a_text_in_pieces_is_the_text(both, kind, padded, attend):
    """4 tokens, then 2, then 1 through a cache: the logits of one pass of stock's."""
    text, mask = left_padded() if padded else (ids(), torch.ones(2, 7, dtype=torch.long))
    both[0].set_attn_implementation(attend)
    both[1].set_attn_implementation("sdpa")
    cache, found = CACHES[kind](both[0]), []
    for start, stop in ((0, 4), (4, 6), (6, 7)):
        given = {"attention_mask": mask[:, :stop]} if padded else {}
        found.append(both[0](text[:, start:stop], cache=cache, **given).logits)
    same(torch.cat(found, 1)[mask.bool()], both[1](text, attention_mask=mask).logits[mask.bool()])
    assert int(cache.get_seq_length()) == 7


def test_positions_by_cache_position(both):
    ours, theirs = both
    cache = static(ours)
    ours(ids()[:, :4], cache=cache, cache_position=torch.arange(4))
    got = ours(ids()[:, 4:], cache=cache, cache_position=torch.arange(4, 7)).logits
    same(got, theirs(ids()).logits[:, 4:])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_goes_by_both_its_names(both, name):
    """As in transformers, before its version 5.24 and since; ``generate`` and outputs have the
    name that the installed one has.
    """
    cache = DynamicCache()
    for start, stop in ((0, 4), (4, 7)):
        found = both[0](ids()[:, start:stop], **{name: cache})
    same(found.logits, both[1](ids()).logits[:, 4:])
    kept = set(both[1](ids(), use_cache=True).keys()) & {"cache", "past_key_values"}
    assert set(found.keys()) == {"logits", *kept}
    assert kept <= set(both[0].config.keys_to_ignore_at_inference)


GENERATIONS = {
    "greedy": {},
    "without a cache": {"use_cache": False},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "beams, static": {"num_beams": 3, "cache_implementation": "static"},
    "scores": {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_hidden_states": True,
    },
    "sampling": {"do_sample": True, "num_return_sequences": 2, "top_k": 10},
    "in chunks": {"prefill_chunk_size": 3},
    "by lookup": {"prompt_lookup_num_tokens": 2, "batch": 1},
}


@pytest.mark.parametrize("how", GENERATIONS)
def test_generate_is_stocks(both, how):
    given = {"do_sample": False, "max_new_tokens": 6} | GENERATIONS[how]
    rows = given.pop("batch", 2)
    text, mask = (x[-rows:] for x in left_padded())
    found = []
    for model in both:
        model.set_attn_implementation("sdpa")
        torch.manual_seed(3)
        found.append(model.generate(text, attention_mask=mask, **given))
    same(*found) if isinstance(found[0], Tensor) else same(
        *([f.sequences, f.scores] for f in found)
    )


def test_padding_in_generate_changes_nothing(both):
    ours, (text, mask) = both[0], left_padded()
    given = {"do_sample": False, "max_new_tokens": 6}
    padded = ours.generate(text, attention_mask=mask, **given)
    alone = ours.generate(text[:1, 3:], attention_mask=mask[:1, 3:], **given)
    assert torch.equal(padded[0, 7 : 7 + alone.shape[1] - 4], alone[0, 4:])


# Training.


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layers", [0, 2])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, layers, refuses):
    model = pair(num_hidden_layers=layers)[0].train()

    def gradients():
        model.zero_grad()
        model(ids(), attention_mask=left_padded()[1], labels=ids()).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain, passes = gradients(), []
    for block in model.blocks:
        block.mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    replayed = gradients()
    assert len(passes) == 2 * layers
    for name, gradient in plain.items():
        torch.testing.assert_close(replayed[name], gradient, rtol=0, atol=0)
    text = "gradient checkpointing must go without a cache"
    refuses(ArgumentError, lambda: model(ids(), use_cache=True), text)
    model.gradient_checkpointing_disable()
    model(ids(), use_cache=True)


@pytest.mark.bad_input  # checks of shapes are no graph
@pytest.mark.parametrize(
    ("masked", "cached"), [(False, False), (True, True)], ids=["bare", "masked, cached"]
)
def test_compile_has_one_graph(both, masked, cached):
    ours = both[0]
    ours.set_attn_implementation("sdpa")
    run = torch.compile(ours, fullgraph=True, backend="eager")
    text, mask = left_padded()
    given = {"attention_mask": mask} if masked else {}
    got = run(text, use_cache=cached, labels=text, **given)
    truth = ours(text, use_cache=cached, labels=text, **given)
    torch.testing.assert_close(got.logits, truth.logits)
    torch.testing.assert_close(got.loss, truth.loss)
    torch._dynamo.reset()


class Another(Transformer):
    pass


def renamed(name):
    return type(name, (Another,), {})


@pytest.mark.parametrize(
    "kind", [Transformer, Another, renamed("Classifier"), renamed("Ünbekannt")],
    ids=["itself", "subclass", "subclass of a subclass", "not ascii"],
)  # fmt: skip
def test_trainer_smooths_the_labels_of_the_next_token(kind, both, tmp_path):
    """Trainer shifts labels only for the classes transformers knows by name. By hand: (1 − ε) nll +
    ε mean over tokens.
    """
    how = TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.25, use_cpu=True, report_to="none"
    )
    ours, labels = copy.deepcopy(both[0]), ids().masked_fill(ids() % 5 == 0, -100)
    ours.__class__ = kind
    assert repr(ours) == repr(both[0]).replace("Transformer(", f"{kind.__name__}(", 1)
    got = Trainer(ours, how).compute_loss(ours, {"input_ids": ids(), "labels": labels})
    log, counted = ours(ids()).logits[:, :-1].log_softmax(-1), labels[:, 1:] >= 0
    each = 0.75 * log.gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0] + 0.25 * log.mean(-1)
    torch.testing.assert_close(got.double(), -each[counted].mean(), rtol=1e-5, atol=1e-5)


# Embeddings.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [50, 80])
def test_embeddings_are_resized_as_stocks_are(tied, size):
    ours, theirs = pair(tie_word_embeddings=tied)
    for model in (ours, theirs):
        torch.manual_seed(7)
        model.resize_token_embeddings(size, mean_resizing=False)
        assert model.config.vocab_size == size
    text = ids() % size
    same(ours(text, labels=text), theirs(text, labels=text))
    assert (ours.W_U.data_ptr() == ours.W_E.data_ptr()) == tied


def test_embeddings_have_doors(both):
    ours = copy.deepcopy(both[0])
    assert ours.get_input_embeddings() is ours.model.embed_tokens
    assert ours.get_output_embeddings() is ours.lm_head
    other = torch.nn.Embedding(64, 32).double()
    ours.set_input_embeddings(other)
    assert ours.model.embed_tokens is other
    ours.config.tie_word_embeddings = True
    ours.tie_weights()
    assert ours.lm_head.weight is other.weight


# Refusals.


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"labls": ids()}, ArgumentError,
            "Transformer.forward: labls must be an argument it knows; got an unknown one. "
         "Did you mean labels?"),
        ({"is_causal": False}, ArgumentError,
            "Transformer.forward: is_causal must be an argument it knows"),
        ({"token_type_ids": ids()}, ArgumentError, "token_type_ids must be an argument it knows"),
        ({"attention_mask": torch.ones(2, 6)}, ShapeError,
        "attention_mask must be (2, 7), or (batch, head, query, key); "
         "got (2, 6)"),
        ({"attention_mask": torch.ones(2, 8)}, ShapeError, "got (2, 8)"),
        ({"attention_mask": torch.ones(1, 7)}, ShapeError, "got (1, 7)"),
        ({"attention_mask": torch.ones(2, 7, 7)}, ShapeError, "got (2, 7, 7)"),
        ({"attention_mask": torch.ones(2, 1, 7, 6)}, ShapeError,
        "attention_mask must be (2, 4, 7, 7), or 1 there"),
        ({"attention_mask": torch.ones(2, 3, 7, 7)}, ShapeError, "got (2, 3, 7, 7)"),
        ({"attention_mask": torch.ones(2, 1, 7, 7).long()}, ShapeError,
        "be boolean (True may look) or floating"),
        ({"labels": ids()[:, :5]}, ShapeError,
        "labels must be (2, 7), as the logits are; got (2, 5)"),
        ({"labels": ids() + 60}, ArgumentError, "labels must be 0 … 63; got"),
        ({"labels": ids().double()}, ShapeError, "labels must be whole numbers; got torch.float64"),
        ({"shift_labels": ids()[:1]}, ShapeError, "shift_labels must be (2, 7)"),
        ({"position_ids": torch.arange(6)[None]}, ShapeError,
        "position_ids must be (2, 7), or (1, 7); got (1, 6)"),
        ({"cache": ((ids(), ids()),)}, ArgumentError,
        "cache must be a transformers Cache; got tuple"),
        ({"cache": DynamicCache(), "past_key_values": DynamicCache()}, ArgumentError,
        "cache must be given once; got past_key_values too"),
        ({"output_hidden_states": 1}, ArgumentError,
        "output_hidden_states must be true or false; got 1"),
        ({"inputs_embeds": torch.ones(2, 7, 31), "input_ids": None}, ShapeError,
        "inputs_embeds must be (batch, tok"),
        ({"input_ids": ids().double()}, ShapeError, "input_ids must be whole numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(both, refuses, given, kind, text):
    refuses(kind, lambda: both[0](**({"input_ids": ids()} | given)), text)


def test_a_cache_that_forgets_is_refused(both, refuses):
    cache = StaticCache(
        config=LlamaConfig(**SMALL, sliding_window=4, layer_types=["sliding_attention"] * 2),
        max_cache_len=9,
    )
    refuses(
        ArgumentError,
        lambda: both[0](ids(), cache=cache),
        "cache must keep every position",
    )


def test_without_heads_nothing_counts_positions(refuses):
    """A cache that no head fills cannot say where the next token stands; ``generate`` says it
    itself.
    """
    torch.manual_seed(0)
    config = TransformerConfig(
        **SMALL | {"num_attention_heads": 0, "num_key_value_heads": 0}, positions="learned"
    )
    model = Transformer(config).double().eval()
    cache = DynamicCache()
    model(ids()[:, :4], cache=cache, position_ids=torch.arange(4)[None])
    rest = {"cache": cache, "input_ids": ids()[:, 4:]}
    refuses(
        ArgumentError,
        lambda: model(**rest),
        "position_ids must be given where no head fills a cache; got none",
    )
    torch.testing.assert_close(
        model(**rest, position_ids=torch.arange(4, 7)[None]).logits, model(ids()).logits[:, 4:]
    )
    given = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None}
    assert torch.equal(
        model.generate(ids(), **given), model.generate(ids(), **given, use_cache=False)
    )
