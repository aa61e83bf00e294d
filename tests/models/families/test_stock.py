"""transformers' own classes as the truth of every family, on random weights: logits, caches,
padding; and what circuits promise of each. (Their norms and softmax work in float32 inside
float64.)
"""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache

import bilens
from bilens.base.errors import (
    ArgumentError,
    ConfigError,
    FileError,
    NotFiniteError,
    ShapeError,
)
from bilens.circuits import At
from bilens.models import bilinear_frame, converted_layers, from_transformers
from bilens.models.families import NAMES, table
from bilens.models.keys import require_metadata
from bilens.wiring import Renormed

SMALL = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
GPT2 = {
    "vocab_size": 30, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 4,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NEO = {
    "num_layers": 2, "num_heads": 4, "window_size": 3,
    "attention_types": [[["global", "local"], 1]],
    **{key: SMALL[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings",
                                   "bos_token_id", "eos_token_id")},
}  # fmt: skip
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2}
PART = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
GEMMA = {**SMALL, "head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 7}
TWO = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0],
}  # fmt: skip
CAPPED = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8,
}  # fmt: skip
CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2 by layer": ("GPT2", {**GPT2, "n_inner": 24, "scale_attn_by_inverse_layer_idx": True}),
    "gpt2 unscaled": ("GPT2", {**GPT2, "scale_attn_weights": False, "activation_function": "relu"}),
    "gpt_neo": ("GPTNeo", NEO),
    "gpt_neox": ("GPTNeoX", {**NEOX, "rope_parameters": PART}),
    "gpt_neox in sequence": ("GPTNeoX", {**NEOX, "rotary_pct": 1.0, "use_parallel_residual": False,
                                         "attention_bias": False}),
    "gemma": ("Gemma", {**SMALL, "head_dim": 8}),
    "gemma2": ("Gemma2", {**GEMMA, **CAPPED}),
    "gemma3_text": ("Gemma3Text", {**GEMMA, "sliding_window_pattern": 2, "rope_parameters": TWO}),
    "llama yarn": ("Llama", {**SMALL, "rope_parameters": YARN}),
    "llama dynamic": ("Llama", {**SMALL, "max_position_embeddings": 8, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "mistral": ("Mistral", {**SMALL, "sliding_window": 4}),
    "qwen2": ("Qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 4,
                        "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SMALL, "head_dim": 8, "use_sliding_window": True, "sliding_window": 4,
                        "max_window_layers": 1}),
    "olmo": ("Olmo", SMALL),
    "olmo2": ("Olmo2", SMALL),
    "phi3": ("Phi3", {**SMALL, "sliding_window": 5, "rope_parameters": PART,
                      "original_max_position_embeddings": 16}),
    "phi3 long": ("Phi3", {**SMALL, "rope_parameters": LONG,
                           "original_max_position_embeddings": 8}),
    "stablelm": ("StableLm", {**SMALL, "rope_parameters": PART}),
    "stablelm parallel": ("StableLm", {**SMALL, "rope_parameters": PART, "use_qkv_bias": True,
                                       "use_parallel_residual": True}),
    "mixtral": ("Mixtral", {**SMALL, "num_local_experts": 3, "sliding_window": 5}),
    "qwen3_moe": ("Qwen3Moe", {**SMALL, **EXPERTS, "moe_intermediate_size": 12, "head_dim": 8}),
    "olmoe": ("Olmoe", {**SMALL, **EXPERTS}),
}  # fmt: skip
SINGLE = 2e-6  # what is left of float32 inside float64


def stock(name):
    kind, given = CASES[name]
    torch.manual_seed(0)
    eager = (
        {"experts_implementation": "eager"} if "moe" in kind.lower() or kind == "Mixtral" else {}
    )
    config = getattr(transformers, f"{kind}Config")(**given)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="eager", **eager)
    with torch.no_grad():  # norms of one and biases of zero would hide mistakes
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double().eval()


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """transformers' model, and ours from its files."""
    truth, folder = stock(request.param), tmp_path_factory.mktemp("stock")
    truth.save_pretrained(folder)
    return truth, bilens.load(folder)


def tokens(batch=2, length=12):
    return torch.randint(30, (batch, length), generator=torch.Generator().manual_seed(1))


def near(ours, theirs, tol=SINGLE):
    torch.testing.assert_close(ours, theirs, rtol=tol, atol=tol * float(theirs.abs().max()))


@torch.no_grad()
def test_the_logits_are_those_of_transformers(both):
    truth, model = both
    near(model(tokens()).logits, truth(tokens()).logits)


@torch.no_grad()
def test_a_cache_and_padding_change_nothing(both):
    truth, model = both
    whole, cache = model(tokens()).logits, DynamicCache()
    model(tokens()[:, :7], cache=cache)
    kinds = {rope.get("rope_type") for rope in model.config.ropes.values()}
    if not kinds & {"dynamic", "longrope"}:  # whose angles are those of the text's length
        rest = model(tokens()[:, 7:], cache=cache).logits
        near(rest, whole[:, 7:], 1e-12)
    mask = torch.ones(2, 12).long()
    mask[0, :3] = 0
    padded = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    single = (deepcopy(each).float() for each in (model, truth))
    ours, theirs = (each(tokens(), **padded).logits[mask.bool()] for each in single)
    near(ours, theirs, 2e-5)
    eager = model(tokens(), output_attentions=True)
    near(eager.logits, whole, 1e-12)
    patterns = truth(tokens(), output_attentions=True).attentions
    near(torch.stack(eager.attentions), torch.stack(patterns))


@torch.no_grad()
def test_what_circuits_promise(both):
    _, model = both
    ids = tokens(1, 7)[0]
    logits = model(ids[None]).logits[0]
    found = bilens.expand(model, ids, target=(3, 5), max_terms=400)
    size = sum(abs(term.value) for term in found.terms)
    assert found.opaque == ()
    assert abs(found.total - float(logits[-1, 3] - logits[-1, 5])) < 1e-10 * size
    inside = bilens.expand(
        model, ids, target=At(torch.randn(16).double(), "mlp0.output"), max_terms=50
    )
    assert inside.error < 1e-10 * sum(abs(term.value) for term in inside.terms)
    score = bilens.circuits.attention_scores(model, ids, layer=1, head=2, query=5, key=4)
    assert score.error < 1e-10 * float(score.values.abs().sum())
    kept = bilens.circuits.promises(model, ids)
    assert kept.kept, kept.summary()
    embed = model.leaf_weights()["embed"]
    scores = bilens.circuits.qk_circuit(model, 0, 1)
    assert scores.shape == (len(embed), len(embed))
    looked = bilens.circuits.ov_circuit(model, 1, 1)
    readout = model.model.norm.transposed(model.lm_head.weight)
    write = model.wiring().parts[-2].forms()["L1H1"]
    near(looked.a, embed @ model.blocks[1].input_layernorm.transposed(write.legs[0].weight).mT)
    near(looked.b, (readout @ write.out).mT)
    out = bilens.circuits.knockout(model, ids, "L1H1", 3, with_="zero")
    without = deepcopy(model)
    attention = without.blocks[1].self_attn
    attention.o_proj.weight[:, attention.d_head : 2 * attention.d_head] = 0
    near(torch.tensor(out.after), without(ids[None]).logits[0, -1, 3].float(), 1e-6)
    if not isinstance(model.wiring().parts[0], Renormed):  # whose norm reacts to one head less
        edges = [f"L0H1→{reader}" for reader in ("mlp0", "attn1", "mlp1", "logits")]
        edges = edges[model.wiring().parts[1].beside :]  # what is beside it does not read it
        unread = bilens.circuits.knockout(model, ids, edges, 3, with_="zero")
        whole = bilens.circuits.knockout(model, ids, "L0H1", 3, with_="zero")
        near(torch.tensor(unread.after), torch.tensor(whole.after), 1e-12)
    bilens.circuits.composition(model)


@torch.no_grad()
def test_folded_and_saved_it_is_the_same(both, tmp_path):
    _, model = both
    near(model.folded()(tokens()).logits, model(tokens()).logits, 1e-12)
    model.save_pretrained(tmp_path)
    near(bilens.load(tmp_path)(tokens()).logits, model(tokens()).logits, 1e-14)


def test_the_mlps_of_a_parallel_block_become_bilinear(tmp_path):
    """What each is to write, by hand: least squares on what it reads of the stream before it."""
    truth = stock("stablelm parallel")
    truth.save_pretrained(tmp_path)
    model = bilens.load(tmp_path)
    made = bilinear_frame(model)
    (layer, *_) = converted_layers(model, made, tokens(64, 12), tokens(8, 12))
    x, _ = model.begin(tokens(64, 12))
    read = model.blocks[0].post_attention_layernorm(x)
    with torch.no_grad():
        gap = made.blocks[0].mlp(read) - model.blocks[0].mlp(read)
    assert float(gap.square().sum() / model.blocks[0].mlp(read).square().sum()) < 0.05
    assert layer.missed < 0.2


@pytest.mark.parametrize(("name", "says"), [("gemma2", "norms over what MLPs write")])
def test_what_conversion_does_not_do_is_refused_by_name(name, says, tmp_path, refuses):
    stock(name).save_pretrained(tmp_path)
    model = bilens.load(tmp_path)
    refuses(ArgumentError, lambda: bilinear_frame(model), says)


def written(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("olmo", {"clip_qkv": 8.0}, "clip_qkv must be None; got 8.0"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm must be False; got True"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention must"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers must"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention must"),
        ("gpt_neo", {"alibi": True}, "alibi must be a key bilens understands"),
        ("gemma", {"rope_parameters": {**PART}}, "partial_rotary_factor must be 1"),
        ("stablelm", {"rope_parameters": {**PART, "partial_rotary_factor": 0.25}},
         "partial_rotary_factor must turn an even number of 4 dimensions; got 0.25"),
        ("gpt2", {"activation_function": "mish"}, "hidden_act must be one of"),
        ("gpt2", {"n_embd": 20}, "must have shape"),
        ("mixtral", {"num_local_experts": 10**6}, "num_local_experts must be at most"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(name, changes, says, tmp_path, refuses):
    stock(name).save_pretrained(tmp_path)
    written(tmp_path, **changes)
    kind = FileError if "shape" in says else ConfigError
    refuses(kind, lambda: bilens.load(tmp_path), says)


def test_names_without_their_base_are_read(tmp_path):
    """As the files of gpt2 on the hub: "h.0.…", masks among them, and no readout."""
    truth = stock("gpt2")
    truth.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in weights.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril().double()
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    near(bilens.load(tmp_path)(tokens()).logits, truth(tokens()).logits)


def test_the_page_of_families_is_made_from_them():
    page = Path(__file__).parents[3] / "docs" / "families.md"
    assert page.read_text() == table.page(), "make families"


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_as_people_published_them_are_understood(name):
    raw = PUBLISHED[name]
    require_metadata(raw)
    config = NAMES[raw["model_type"]].config(dict(raw), {})
    assert config.hidden_size == raw.get("hidden_size", raw.get("n_embd"))
    assert (
        bool(config.sliding_windows)
        == (raw.get("sliding_window") is not None and raw.get("use_sliding_window", True))
        or raw["model_type"] == "gpt_neo"
    )


@pytest.mark.parametrize("name", ["gpt_neo", "gpt_neox"])
def test_masks_in_old_files_are_passed_over(name, tmp_path):
    """Whatever their type: booleans, which no weight is; in pickles as in safetensors."""
    truth = stock(name)
    truth.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    at = "transformer.h.0.attn.attention" if name == "gpt_neo" else "gpt_neox.layers.0.attention"
    weights |= {f"{at}.bias": torch.ones(1, 1, 16, 16).bool().tril()}
    weights |= {f"{at}.masked_bias": torch.tensor(-1e9)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    near(bilens.load(tmp_path)(tokens()).logits, truth(tokens()).logits)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    near(bilens.load(tmp_path)(tokens()).logits, truth(tokens()).logits)


def test_a_family_that_is_said_stands_for_the_model_type(tmp_path, refuses):
    truth = stock("gpt2")
    truth.save_pretrained(tmp_path)
    written(tmp_path, model_type=None)
    refuses(ConfigError, lambda: bilens.load(tmp_path), "model_type must be one of")
    near(bilens.load(tmp_path, family="gpt2")(tokens()).logits, truth(tokens()).logits)
    written(tmp_path, model_type="gpt2")
    says = "model_type must be that of llama; got 'gpt2'. Leave family= out, or mend the file."
    refuses(ConfigError, lambda: bilens.load(tmp_path, family="llama"), says)


@pytest.mark.parametrize("name", ["gpt2", "olmoe"])
def test_verify_holds_a_model_against_the_class_that_its_files_are_of(name, tmp_path):
    stock(name).float().save_pretrained(tmp_path)
    model = bilens.load(tmp_path)
    found = bilens.verify(model, against=tmp_path)
    assert "the same files" in found.identities[0]
    assert found.passed, found.summary()
    model.W_U.data[0, 0] += 1  # another model than that of the files
    found = bilens.verify(model, against=tmp_path)
    assert [holds for holds in found.holds if not holds] == [False]
    assert not found.holds[0]
    model.save_pretrained(tmp_path / "own")  # bilens's own class is not held against itself
    assert "same files" not in str(bilens.verify(model, against=tmp_path / "own").identities)


@pytest.mark.parametrize("kinds", [None, ["full_attention", "sliding_attention"]])
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_windows_are_those_that_the_stock_class_has(kind, kinds, tmp_path):
    """Whatever config.json says of them: stock Llama has none, and Mistral one in every layer; but
    of a file with kinds of layers transformers makes a Ministral.
    """
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **SMALL, sliding_window=2, use_sliding_window=True, layer_types=kinds
    )
    stock = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    stock.save_pretrained(tmp_path)
    ids, held = torch.arange(9)[None], from_transformers(stock)
    read, of_file = (
        bilens.load(tmp_path),
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path),
    )
    for made, theirs in ((held, stock), (read, of_file)):
        says = theirs(ids, use_cache=False).logits
        torch.testing.assert_close(made(ids).logits, says, atol=1e-5, rtol=1e-4)
    windows = {"Llama": None, "Mistral": [2, 2]}
    if kind in windows:
        assert held.config.sliding_windows == windows[kind]
    if kind == "Mistral" and kinds:
        assert read.config.sliding_windows == [None, 2]


def test_a_cap_of_scores_that_gemma_3_does_not_hand_on():
    config = transformers.Gemma3TextConfig(**SMALL, attn_logit_softcapping=0.5)
    torch.manual_seed(0)
    stock = transformers.Gemma3ForCausalLM(config).eval()
    ids = torch.arange(9)[None]
    says = stock(ids, use_cache=False).logits
    torch.testing.assert_close(from_transformers(stock)(ids).logits, says, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_each_is_taken_from_memory_too(name):
    """The very model that ``load`` makes of its files."""
    theirs = stock(name)
    ids = torch.arange(9)[None] % 11
    says = theirs(ids, use_cache=False).logits
    made = from_transformers(theirs)(ids).logits
    torch.testing.assert_close(made.to(says.dtype), says, atol=1e-4, rtol=1e-3)


@pytest.mark.bad_input
def test_what_is_no_causal_model_in_memory_is_one_line(refuses):
    config = transformers.LlamaConfig(**SMALL)
    causal = transformers.LlamaForCausalLM(config)
    said = "must be given a model of transformers with a readout"
    for other in (causal.model, transformers.LlamaForSequenceClassification(config), 3):
        refuses(ArgumentError, lambda other=other: from_transformers(other), said)
    compiled = torch.compile(causal)
    assert torch.equal(from_transformers(compiled).W_U, from_transformers(causal).W_U)
    causal.lm_head.weight.data[0, 0] = float("nan")
    refuses(NotFiniteError, lambda: from_transformers(causal), "lm_head.weight must be finite")
    whole = transformers.LlamaForCausalLM(config)
    whole.lm_head = torch.ao.nn.quantized.dynamic.Linear(16, 30)
    refuses(ArgumentError, lambda: from_transformers(whole), "must be a tensor; got")
    refuses(ShapeError, lambda: from_transformers(causal.to("meta")), "must hold values")


def test_a_model_that_is_not_its_weights_and_configuration_is_refused(refuses):
    """Hooks that act, exchanged modules, patched passes, changed configurations; not a hook that
    looks.
    """
    says = "other logits"
    for patch in (_hooked, _exchanged, _patched, _changed):
        theirs = _llama().train()
        theirs.model.layers[0].eval()
        patch(theirs)
        refuses(ArgumentError, lambda theirs=theirs: from_transformers(theirs), says)
        assert theirs.training  # as they were
        assert not theirs.model.layers[0].mlp.training
    theirs.model.layers[0].forward = lambda *_, **__: 1 / 0
    refuses(ArgumentError, lambda: from_transformers(theirs), "must be given a model that runs")
    theirs, seen = _llama(), []
    theirs.model.norm.register_forward_hook(lambda *given: seen.append(given))
    assert from_transformers(theirs).config.hidden_size == 16
    assert len(seen) == 1


def _llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, initializer_range=0.3)
    return transformers.LlamaForCausalLM(config)


def _hooked(model):
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, out: 2 * out)


def _exchanged(model):
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()


def _patched(model):
    norm = model.model.norm
    norm.forward = lambda x: type(norm).forward(norm, x) + 1


def _changed(model):
    model.config.rms_norm_eps = 1.0
