"""Layers given as transcoders or as bilinear layers: sums are exact, and each latent, the skip, the
bias and the error are what formulas written out here say.
"""

import re
from dataclasses import replace

import pytest
import torch

import bilens
from bilens.algebra import CP
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.circuits import At, effects, expand, knockout, record, units
from bilens.features import Dictionary
from bilens.features.saelens import TENSORS
from tests.circuits.test_replaced import build, random_dictionary, relative

CODERS = [kind for kind in TENSORS if kind.endswith("transcoder")]


def transcoder(kind="transcoder", d=6, o=6, f=9, seed=0, hooked=False, dtype=torch.float64, **more):
    g = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d, f), "W_dec": (f, o), "b_dec": (o,), "W_skip": (d, o)}
    tensors = {
        name: torch.randn(shapes.get(name, (f,)), generator=g, dtype=torch.float64).to(dtype)
        for name in TENSORS[kind]
    }
    hooks = {"hook": "layers.0.mlp.input", "hook_out": "layers.0.mlp.output"} if hooked else {}
    return Dictionary(**tensors, architecture=kind, **hooks, **more)


def heard(model, n, inputs):
    """What layer n reads and writes in the model's own pass."""
    found = []
    mlp = model.blocks[n].mlp
    hook = mlp.register_forward_hook(lambda _, given, out: found.extend((given[0][0], out[0])))
    model(torch.tensor([inputs]))
    hook.remove()
    return found


@torch.no_grad()
@pytest.mark.parametrize("kind", CODERS)
@pytest.mark.parametrize("given", [{}, {"norm": "layer", "hidden_act": "silu", "mlp_bias": True}])
def test_sources_are_what_formulas_say(kind, given):
    model, inputs = build(**given), [1, 5, 2]
    D = transcoder(kind, hooked=True)
    x, y = heard(model, 0, inputs)
    q = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = At(q, "mlp0.output")
    ex = expand(
        model, inputs, target, detail="writes", cutoff=0, replacements={"mlp0": D}, max_terms=None
    )
    terms = {term.path: term.value for term in ex.terms}
    pre = x[-1] @ D.W_enc + D.b_enc
    floor = 0.0 if D.threshold is None else D.threshold.clamp(min=0)
    live = (pre > floor).nonzero()[:, 0].tolist()
    truth = {f"mlp0.f{f}": float(pre[f] * (q @ D.W_dec[f])) for f in live}
    truth["mlp0.base"] = float(q @ D.b_dec)
    if D.W_skip is not None:
        truth["mlp0.skip"] = float(q @ (x[-1] @ D.W_skip))
    truth["mlp0.error"] = float(q @ y[-1]) - sum(truth.values())
    assert 1 < len(live) < 9
    assert terms == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize(
    ("layers", "dtype", "more"),
    [
        (2, torch.float64, {"norm": "rms"}),
        (3, torch.float32, {"norm": "layer", "mlp_bias": True}),
        (2, torch.float64, {"norm": "none", "hidden_act": "silu", "num_local_experts": 2}),
    ],
)
def test_paths_go_on_through_the_encoder(layers, dtype, more):
    experts = "num_local_experts" in more
    if experts:
        more |= {"num_experts_per_tok": 1}
    model = build(layers, **more)
    D = transcoder("jumprelu_skip_transcoder", dtype=dtype)
    at = {"mlp0.expert0" if experts else "mlp0": D, "mlp1.expert1" if experts else "mlp1": D}
    ex = expand(model, [1, 2, 4], 5, replacements=at, max_terms=3000, cutoff=0)
    assert relative(ex) < 1e-10
    assert ex.forward == pytest.approx(float(model(torch.tensor([[1, 2, 4]])).logits[0, -1, 5]))
    texts = [term.path for term in ex.terms]
    assert any(".skip(embed)" in text for text in texts)
    through = [term for term in ex.terms if re.search(r"\.f\d+\(", term.path)]
    assert through
    assert all(any("latents mlp" in one for one in term.given) for term in through)


def test_a_path_through_a_latent_is_its_encoder_times_its_decoder():
    model, D = build(norm="none", num_attention_heads=0, num_key_value_heads=0), transcoder()
    ex = expand(model, [4], 5, replacements={"mlp0": D}, max_terms=None, cutoff=0)
    E = model.model.embed_tokens.weight[4]
    leaf = {"embed": E}
    stream = sum(leaf.values())
    pre, q = stream @ D.W_enc + D.b_enc, model.lm_head.weight[5]
    terms = {term.path: term.value for term in ex.terms}
    for f in (pre > 0).nonzero()[:, 0].tolist():
        says = float((E @ D.W_enc[:, f]) * (q @ D.W_dec[f]))
        assert terms[f"mlp0.f{f}(embed)"] == pytest.approx(says, rel=1e-10)
        constant = float(D.b_enc[f] * (q @ D.W_dec[f]))
        assert terms[f"mlp0.f{f}(1)"] == pytest.approx(constant, rel=1e-10)
    latex = {term.path: term.latex for term in ex.terms}
    assert all("W_{OV}" not in text for path, text in latex.items() if ".f" in path)
    path = max((path for path in terms if "(embed)" in path and ".f" in path), key=len)
    found = units(model, [4], path, 5, replacements={"mlp0": D})
    assert found.value == pytest.approx(terms[path], rel=1e-10)


@pytest.mark.parametrize("affine", [False, True])
def test_a_bilinear_layer_stands_for_another(affine):
    model, inputs = build(2, hidden_act="silu"), [1, 5]
    other = bilens.nn.BilinearMLP(6, 5, bias=affine).double()
    x, y = heard(model, 1, inputs)
    q = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for given in (other, other.tensor()):
        at, to = At(q, "mlp1.output"), {"mlp1": given}
        ex = expand(model, inputs, at, detail="pairs", replacements=to, cutoff=0)
        assert relative(ex) < 1e-10
        assert any(term.path.startswith("mlp1(embed, ") for term in ex.terms)
        error = sum(term.value for term in ex.terms if term.path == "mlp1.error")
        assert error == pytest.approx(float(q @ (y - other(x))[-1]), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "given", "kind", "text"),
    [
        ("mlp0", transcoder(d=5), ShapeError, "must be of the model's width 6; got reads 5"),
        ("mlp0", transcoder(o=5), ShapeError, "writes 5"),
        (
            "mlp1",
            transcoder(hooked=True),
            ArgumentError,
            "the replacement of mlp1 must read mlp1.input; got layers.0.mlp.input",
        ),
        (
            "mlp0",
            replace(transcoder(hooked=True), hook_out="layers.1.mlp.output"),
            ArgumentError,
            "must write mlp0.output; got layers.1.mlp.output",
        ),
        (
            "mlp0",
            replace(transcoder(), architecture="standard"),
            ArgumentError,
            'got a standard autoencoder. Give it as dictionaries={"mlp0.input": ...}.',
        ),
        (
            "mlp0",
            transcoder(normalisation="layer_norm"),
            ArgumentError,
            "a latent is active; got a transcoder with layer_norm",
        ),
        ("attn0", transcoder(), ArgumentError, "replacements must name layers (mlp0, mlp1)"),
        ("mlp0", torch.nn.Linear(6, 6), ArgumentError, "a bilinear layer or a transcoder"),
        (
            "mlp0",
            CP(torch.ones(6, 2), torch.ones(2, 5), torch.ones(2, 5)),
            ShapeError,
            "write and read the model's width 6; got a tensor (6, 5, 5)",
        ),
        (
            "mlp0",
            replace(transcoder(), b_dec=torch.full((6,), torch.nan).double()),
            NotFiniteError,
            "the transcoder of mlp0",
        ),
    ],
    ids=[
        "reads",
        "writes",
        "another-layer",
        "another-output",
        "autoencoder",
        "normalised",
        "attention",
        "linear",
        "cp",
        "nan",
    ],
)
@pytest.mark.bad_input
def test_what_cannot_stand_for_a_layer(refuses, name, given, kind, text):
    refuses(kind, lambda: expand(build(2), [1, 2], 3, replacements={name: given}), text)


def test_what_stands_for_a_layer_reads_a_dictionary():
    """Its products come apart into latents; what it misses stays one source."""
    model = build(2)
    module = model.blocks[1].mlp
    off = module.tensor().detach() * 0.9
    ex = expand(
        model, [1, 4, 2], 3, max_terms=None, cutoff=0,
        replacements={"mlp1": off}, dictionaries={"mlp1.input": random_dictionary(hook="")},
    )  # fmt: skip
    assert relative(ex) < 1e-10
    read = {term.path.split("(")[0] for term in ex.terms if term.component.startswith("mlp1")}
    assert read == {"mlp1", "mlp1.error"}
    assert any(re.match(r"mlp1\(f\d+, f\d+\)", term.path) for term in ex.terms)
    assert ex.opaque == ("mlp1.error",)


@torch.no_grad()
@pytest.mark.parametrize(
    "given",
    [
        {"norm": "rms", "norm_placement": "post"},
        {"norm": "rms_unit_offset", "norm_placement": "both", "write_scale": 0.6},
        {"norm": "none", "write_scale": 0.6, "residual_scale": 0.8},
    ],
    ids=lambda given: ", ".join(given),
)
def test_a_transcoder_stands_for_what_is_heard_behind_a_norm(given):
    """It gives what the layer's norm does, as it was trained to: each latent a_f w_f of that."""
    torch.manual_seed(0)
    model, inputs = build(**given), [1, 5, 2]
    for name, weight in model.named_parameters():
        if name.endswith("out_norm.weight"):
            weight.add_(torch.arange(6) / 5)
    D, q = transcoder("skip_transcoder", hooked=True), torch.arange(6, dtype=torch.float64) - 2
    x, y = heard(model, 0, inputs)
    norm, scale = model.blocks[0].mlp_out_norm, given.get("write_scale", 1)
    y = y if norm is None else norm(y)
    acts = (x @ D.W_enc + D.b_enc).relu()
    skip = x @ D.W_skip
    asked = {"max_terms": None, "cutoff": 0, "replacements": {"mlp0": D}}
    ex = expand(model, inputs, At(q, "mlp0.output"), detail="writes", **asked)
    terms = {term.path: term.value for term in ex.terms}
    live = acts[-1].nonzero()[:, 0].tolist()
    truth = {f"mlp0.f{f}": float(acts[-1, f] * (q @ D.W_dec[f])) for f in live}
    truth |= {"mlp0.base": float(q @ D.b_dec), "mlp0.skip": float(q @ skip[-1])}
    truth["mlp0.error"] = float(q @ (y - acts @ D.W_dec - skip - D.b_dec)[-1])
    assert terms == pytest.approx(truth, rel=1e-9)
    run = record(model, inputs, replacements={"mlp0": D})
    wrote = run.writes[run.index[f"mlp0.f{live[0]}"]]
    times = scale / given.get("residual_scale", 1) ** 2
    torch.testing.assert_close(wrote, times * acts[:, live[0], None] * D.W_dec[live[0]])
    assert expand(model, inputs, 3, **asked).error < 1e-9


OTHERS = [[7, 8, 0], [5, 5, 1]]


@torch.no_grad()
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_inputs_layer_stands_there_whole(other):
    """Whatever latents are active in either pass: what a layer writes is what it writes."""
    torch.manual_seed(0)
    model, inputs = build(layers=2, hidden_act="silu", mlp_bias=True), [1, 5, 2]
    D = transcoder()  # with a base: what is always written is of the layer too
    run = record(model, inputs, replacements={"mlp0": D})
    there = record(model, other, replacements={"mlp0": D})
    assert {one.name for one in there.sources} != {one.name for one in run.sources}
    for what in ("mlp0", ["L0H0", "mlp0"], "mlp0@1", "mlp0→mlp1", "mlp0→logits", "mlp0→L1H0.V"):
        for with_ in (other, there, "zero", "mean"):
            found = knockout(model, run, what, 3, with_=with_).removals
            plain = other if with_ is there else with_
            truth = knockout(model, inputs, what, 3, with_=plain).removals
            assert [one.after for one in found] == pytest.approx([one.after for one in truth])
            assert [one.direct for one in found] == pytest.approx([one.direct for one in truth])


@torch.no_grad()
def test_another_inputs_tensor_and_latents_by_hand():
    """A layer as a tensor and what it misses: each is exchanged for the other pass's own."""
    torch.manual_seed(0)
    model, inputs, other = build(norm="none", hidden_act="silu"), [1, 5, 2], [4, 5, 6]
    T = bilens.CP(*(torch.randn(s, dtype=torch.float64) for s in ((6, 4), (4, 6), (4, 6))))
    (x, y), (x2, y2) = (heard(model, 0, ids) for ids in (inputs, other))
    before = model(torch.tensor([inputs])).logits[0, -1]
    run = record(model, inputs, replacements={"mlp0": T})
    moved = {"mlp0": T(x2) - T(x), "mlp0.error": (y2 - T(x2)) - (y - T(x))}
    for what, less in moved.items():
        truth = before + less[-1] @ model.lm_head.weight.mT
        assert knockout(model, run, what, 3, with_=other).after == pytest.approx(float(truth[3]))
    D = transcoder()
    run = record(model, inputs, replacements={"mlp0": D})
    for name in (one.name for one in run.sources if ".f" in one.name):
        f = int(name.split(".f")[1])
        acts, acts2 = (D.encode(one[-1])[f] for one in (x, x2))
        truth = before + (acts2 - acts) * D.W_dec[f] @ model.lm_head.weight.mT
        for what in (name, f"{name}→logits"):
            found = knockout(model, run, what, 3, with_=other)
            assert found.after == pytest.approx(float(truth[3]))


@torch.no_grad()
def test_a_latent_that_is_no_more_active_carries_nothing():
    """With the embedding gone no latent is active: there is nothing of them to read either."""
    torch.manual_seed(0)
    model, inputs = build(norm="none", hidden_act="silu"), [1, 5, 2]
    D = transcoder()
    D = replace(D, b_enc=torch.full((9,), -0.01, dtype=torch.float64))
    run = record(model, inputs, replacements={"mlp0": D})
    active = [one.name for one in run.sources if ".f" in one.name]
    there = [(one, n) for one in active for n in range(3) if run.present[run.index[one], n]]
    assert there
    for name, n in there:
        whole = knockout(model, inputs, "embed", 3, n, with_="zero").after
        found = knockout(model, run, ["embed", f"{name}→logits"], 3, n, with_="zero").after
        assert found == pytest.approx(whole)


@torch.no_grad()
def test_effects_are_those_of_the_model_whatever_dictionary_takes_it_apart():
    torch.manual_seed(0)
    model, inputs = build(layers=2, norm="layer", mlp_bias=True), [1, 5, 2]
    run = record(model, inputs, dictionaries={"mlp1.input": random_dictionary()})
    found, truth = effects(model, run, 3, pairs=5), effects(model, inputs, 3, pairs=5)
    assert found.rows() == truth.rows()
    assert knockout(model, run, "mlp1(1, mlp0)", 3).rows()


class Module(torch.nn.Module):
    """A person's own dictionary."""

    def __init__(self, coder):
        super().__init__()
        names = {"enc": coder.reads, "offset": coder.offset, "dec": coder.writes}
        for name, tensor in (names | {"base": coder.base}).items():
            self.register_buffer(name, tensor)

    @property
    def writes(self):
        return self.dec

    @property
    def reads(self):
        return self.enc

    def encode(self, x):
        return (x @ self.enc.mT + self.offset).relu()


@pytest.mark.parametrize(
    ("half", "made", "dtype"),
    [
        (torch.bfloat16, Module, torch.float64),
        (torch.float16, lambda coder: coder, torch.float32),
        (torch.bfloat16, lambda coder: coder, torch.bfloat16),
        (torch.float16, Module, torch.bfloat16),
    ],
)
def test_half_types_encode_in_float32(half, made, dtype):
    """In which their weights are exact: the very answers of the same weights in float32."""
    model, inputs = build(2).to(dtype), [1, 4, 2]
    for name, place in (("dictionaries", "mlp1.input"), ("replacements", "mlp1")):
        coder = transcoder().to(half)
        coder = replace(coder, architecture="standard") if name == "dictionaries" else coder
        ex, truth = (
            expand(model, inputs, 3, cutoff=0, **{name: {place: made(one)}})
            for one in (coder, coder.to(torch.float32))
        )
        assert [(t.path, t.value) for t in ex.terms] == [(t.path, t.value) for t in truth.terms]
        assert any(".f" in t.path or "(f" in t.path for t in ex.terms)
        assert coder.W_dec.dtype is half
