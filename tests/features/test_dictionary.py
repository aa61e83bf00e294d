"""Dictionaries by hand-written formulas, SAELens's folders there and back, and everything that is
refused.
"""

import dataclasses
import json
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bilens.base.errors import ArgumentError, ConfigError, FileError, NotFiniteError, ShapeError
from bilens.base.records import Record
from bilens.features import Dictionary, interactions
from bilens.features.latents import NORMS, TOPK, Pursuit
from bilens.features.saelens import TENSORS, TIED, is_transcoder

SAVED = [kind for kind in TENSORS if kind != "batchtopk"]  # that one is saved as jumprelu


def made(make, kind="standard", d=6, f=10, o=5, k=3, centred=None, **more):
    """A random dictionary of any architecture."""
    o = o if is_transcoder(kind) else d
    shapes = {"W_enc": (d, f), "W_dec": (f, o), "b_dec": (o,), "W_skip": (d, o)}
    tensors = {name: make.randn(*shapes.get(name, (f,))) for name in TENSORS[kind]}
    if kind in TIED:
        tensors["W_enc"], more = tensors["W_dec"].mT, {"pursuit": Pursuit()} | more
        if centred is False:
            tensors["b_dec"] = torch.zeros_like(tensors["b_dec"])
    return Dictionary(
        **{"b_enc": None, **tensors},
        architecture=kind,
        k=k if kind in TOPK else None,
        centred=not is_transcoder(kind) if centred is None else centred,
        hook="layers.1.mlp.input",
        hook_out="layers.1.mlp.output" if is_transcoder(kind) else "",
        **more,
    )


def by_hand(D, x):
    """Latents and output of one x, latent by latent, in plain numbers."""
    mean, deviation, length = x.mean(), x.std(), float(x.square().sum() / len(x)) ** 0.5
    norms = {"none": (0.0, 1.0, 1.0), "constant_norm_rescale": (0.0, length, length)}
    norms["layer_norm"] = (mean, deviation + 1e-5, deviation)  # on the way back without the 1e-5
    shift, over, times = norms[D.normalisation]
    seen, latents = (x - shift) / over - (D.b_dec if D.centred else 0), []
    if D.pursuit is not None:
        return pursued_by_hand(D, seen, shift, times)
    for f in range(D.n_latents):
        read = float(sum(seen[i] * D.W_enc[i, f] for i in range(D.d_in)))
        if D.architecture == "gated":
            latents.append(
                max(read * float(D.r_mag[f].exp()) + float(D.b_mag[f]), 0.0)
                * (read + float(D.b_gate[f]) > 0)
            )
            continue
        latents.append(read + float(D.b_enc[f]))
    if D.architecture in TOPK:
        size = abs if D.architecture == "abstopk" else float
        limit = sorted(map(size, latents))[-D.k]
        latents = [value if size(value) >= limit else 0.0 for value in latents]
    if D.threshold is not None:
        latents = [
            value if value > limit else 0.0
            for value, limit in zip(latents, D.threshold.tolist(), strict=True)
        ]
    if D.architecture not in ("abstopk", "signed_topk"):
        latents = [max(value, 0.0) for value in latents]
    out = D.b_dec.clone()
    for value, row in zip(latents, D.W_dec, strict=True):
        out += value * row
    for i in range(D.d_in if D.W_skip is not None else 0):
        out += x[i] * D.W_skip[i]
    if not is_transcoder(D.architecture):
        out = out * times + shift
    return torch.tensor(latents, dtype=torch.float64), out


def pursued_by_hand(D, rest, shift, times):
    """A latent at a time: the one whose row ``rest`` has most of, until one comes again."""
    latents, out, most = torch.zeros(D.n_latents, dtype=torch.float64), D.b_dec.clone(), D.pursuit
    for _ in range(most.max_iterations or D.d_in):
        much = [float(sum(rest * row)) for row in D.W_dec]
        best = max(range(D.n_latents), key=much.__getitem__)
        again = bool(latents[best] != 0) or much[best] <= 0
        latents[best] += max(much[best], 0.0)
        rest = rest - max(much[best], 0.0) * D.W_dec[best]
        out += max(much[best], 0.0) * D.W_dec[best]
        if again and most.stop_on_duplicate_support:
            break
        if 0 < most.residual_threshold > float(rest.norm()):
            break
    return latents, out * times + shift


@pytest.mark.parametrize("norm", ["none", *NORMS])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", SAVED)
def test_encodes_and_decodes_as_by_hand(kind, centred, norm, make, close):
    D = made(make, kind, centred=centred and not is_transcoder(kind), normalisation=norm)
    if kind in TIED:
        D = dataclasses.replace(D, W_enc=D.W_enc / 3, W_dec=D.W_dec / 3)  # or it diverges
    for x in make.randn(4, 6):
        latents, out = by_hand(D, x)
        close(D.encode(x), latents)
        close(D.decode(latents, x), out)
        close(D(x), out)
        assert 0 < int((latents != 0).sum()) < 10


@pytest.mark.parametrize(
    "stops",
    [Pursuit(max_iterations=2), Pursuit(3.0), Pursuit(0, 9, False), Pursuit(1e-9, 20, False)],
    ids=["two", "near", "never", "long"],
)
def test_matching_pursuit_stops_where_it_says(stops, make, close):
    D = made(make, "matching_pursuit", pursuit=stops)
    D = dataclasses.replace(D, W_enc=D.W_enc / 3, W_dec=D.W_dec / 3)
    x = make.randn(2, 3, 6)
    rows = [by_hand(D, row)[0] for row in x.reshape(6, 6)]
    close(D.encode(x), torch.stack(rows).view(2, 3, 10))
    with pytest.raises(ArgumentError, match="pre must be asked of a dictionary that reads all"):
        D.pre(x)


def test_batchtopk_keeps_k_a_row_on_average(make, close):
    D = made(make, "batchtopk")
    x = make.randn(7, 2, 6)
    pre = (x - D.b_dec) @ D.W_enc + D.b_enc
    limit = pre.flatten().sort().values[-3 * 14]
    close(D.encode(x), pre.relu() * (pre >= limit))
    assert len(set((D.encode(x) > 0).sum(-1).flatten().tolist())) > 1


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(SAVED),
    d=st.integers(1, 7),
    f=st.integers(1, 9),
    o=st.integers(1, 4),
    centred=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_read_written_and_kept(maker, close, kind, d, f, o, centred, seed):
    make = maker(seed)
    D = made(make, kind, d, f, o, k=min(2, f), centred=centred and not is_transcoder(kind))
    x = make.randn(3, d)
    if D.pursuit is None:
        close(D.pre(x), x @ D.reads.mT + D.offset, scale=10.0)
    assert (D.reads.shape, D.writes.shape, D.base.shape) == ((f, d), (f, D.d_out), (D.d_out,))
    a = D.encode(x)
    assert a.shape == (3, f)
    live = a != 0
    if kind not in ("abstopk", "signed_topk"):
        assert bool((a >= 0).all())
    if D.pursuit is None:
        assert torch.equal(a[live], D.pre(x)[live])
    skipped = 0 if D.W_skip is None else x @ D.W_skip
    close(D(x), a @ D.writes + D.base + skipped)


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_saves_and_loads(kind, dtype, maker, tmp_path):
    make = maker(0, dtype)
    meta = {
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": "tinystories-2l",
            "odd": [1, {"two": None}],
        },
        "lp_norm": 1.0,
    }
    D = made(make, kind, meta=meta)
    D.save(tmp_path / "new" / "D")
    again = Dictionary.load(str(tmp_path / "new" / "D"))
    for field in dataclasses.fields(D):
        one, other = getattr(D, field.name), getattr(again, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, (
            field.name
        )
    assert again.W_enc.dtype == dtype
    x = make.randn(3, 6)
    assert torch.equal(D(x), again(x))
    assert sorted(path.name for path in (tmp_path / "new" / "D").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]


def test_the_folder_is_saelens_own(make, tmp_path):
    D = made(make, "skip_transcoder").to(torch.float32)
    D.save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config == {
        "architecture": "skip_transcoder",
        "d_in": 6,
        "d_sae": 10,
        "d_out": 5,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "hook_name": "layers.1.mlp.input",
            "hook_name_out": "layers.1.mlp.output",
        },
    }
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "W_enc": (6, 10),
        "W_dec": (10, 5),
        "b_enc": (10,),
        "b_dec": (5,),
        "W_skip": (5, 6),
    }


def test_a_place_that_an_autoencoder_does_not_read_stays_in_its_file(make, tmp_path):
    """A file of SAELens's may name one: it changes nothing, and is written again."""
    made(make, "standard").save(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    config["metadata"]["hook_name_out"] = "layers.1.mlp.output"
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))
    read = Dictionary.load(tmp_path / "a")
    assert read.hook_out == ""
    read.save(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "cfg.json").read_text()) == config


def test_batchtopk_is_saved_as_jumprelu(make, close, tmp_path, refuses):
    D = made(make, "batchtopk")
    refuses(
        ArgumentError,
        lambda: D.save(tmp_path),
        "Dictionary.threshold must be set before a batchtopk dictionary is saved",
    )
    assert list(tmp_path.iterdir()) == []
    dataclasses.replace(D, threshold=make.randn(10).abs()).save(tmp_path)
    again = Dictionary.load(tmp_path)
    assert (again.architecture, again.k) == ("jumprelu", None)
    assert again.meta["metadata"]["training_architecture_details"] == {"k": 3}
    x = make.randn(4, 6)
    close(again.encode(x), D.pre(x).relu() * (D.pre(x) > again.threshold))


def test_moves_and_lies_in_other_records(make, tmp_path):
    D = made(make, "jumprelu")
    assert D.to(torch.float32).threshold.dtype == torch.float32
    Holder(D).save(tmp_path / "t")
    assert torch.equal(Holder.load(tmp_path / "t").held.reads, D.reads)
    assert repr(D) == "<Dictionary: 10 jumprelu latents of layers.1.mlp.input, width 6>"
    frame = D.to_frame()
    assert list(frame) == ["latent", "reads", "writes", "cosine", "bias", "threshold"]
    assert frame["writes"].tolist() == pytest.approx(D.W_dec.norm(dim=1).tolist())
    assert frame["threshold"].tolist() == D.threshold.tolist()
    assert D._repr_html_().startswith("<p><b>Dictionary</b>: <bdi>10 jumprelu latents of ")


@dataclasses.dataclass(frozen=True)
class Holder(Record):
    held: Record


def test_gradients_flow(make):
    W = make.randn(6, 10, grad=True)
    dataclasses.replace(made(make), W_enc=W)(make.randn(3, 6)).sum().backward()
    assert W.grad is not None
    assert float(W.grad.abs().max()) > 0


# What SAELens writes and bilens does not: rescaling, runs in progress, layouts before version 6


def folder(make, path, kind="standard", tensors=None, drop=(), **config):
    """A folder written by hand, with changes to cfg.json and to the tensors."""
    made(make, kind).save(path)
    lying = json.loads((path / "cfg.json").read_text()) | config
    (path / "cfg.json").write_text(
        json.dumps({name: value for name, value in lying.items() if name not in drop})
    )
    if tensors is not None:
        kept = {**load_file(path / "sae_weights.safetensors"), **tensors}
        save_file(
            {name: t for name, t in kept.items() if t is not None}, path / "sae_weights.safetensors"
        )
    return path


def test_rescaling_by_decoder_norms_is_folded(make, close, tmp_path):
    D = Dictionary.load(folder(make, tmp_path, "topk", rescale_acts_by_decoder_norm=True))
    t = load_file(tmp_path / "sae_weights.safetensors")
    x, norms = make.randn(5, 6), t["W_dec"].norm(dim=1)
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms
    kept = pre.relu() * (pre >= pre.sort(-1).values[:, -3:-2])
    close(D.encode(x), kept)
    close(D(x), (kept / norms) @ t["W_dec"] + t["b_dec"])


def test_a_batchtopk_run_becomes_jumprelu(make, close, tmp_path):
    tensors = {"topk_threshold": torch.tensor(0.7, dtype=torch.float64), "threshold": None}
    config = {
        "k": 4.5,
        "rescale_acts_by_decoder_norm": True,
        "topk_threshold_lr": 0.01,
        "architecture": "batchtopk",
    }
    D = Dictionary.load(folder(make, tmp_path, "jumprelu", tensors, **config))
    t = load_file(tmp_path / "sae_weights.safetensors")
    x, norms = make.randn(5, 6), t["W_dec"].norm(dim=1)
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms
    close(D.encode(x), pre.relu() * (pre > 0.7))
    close(D(x), (pre.relu() * (pre > 0.7) / norms) @ t["W_dec"] + t["b_dec"])
    assert D.architecture == "jumprelu"
    assert D.meta["topk_threshold_lr"] == 0.01


def test_layouts_before_version_6(make, tmp_path):
    one = {"scaling_factor": torch.ones(10)}
    old = {
        "hook_point": "blocks.1.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 2},
    }
    old |= {
        "hook_point_head_index": None,
        "model_name": "gpt2-small",
        "sae_lens_version": "3.22.1",
        "lp_norm": 1.0,
    }
    drop = (
        "architecture",
        "metadata",
        "apply_b_dec_to_input",
        "normalize_activations",
        "reshape_activations",
    )
    D = Dictionary.load(folder(make, tmp_path, "standard", one, drop, **old))
    assert (D.architecture, D.k, D.hook, D.centred) == ("topk", 2, "blocks.1.hook_resid_pre", True)
    assert D.meta == {
        "lp_norm": 1.0,
        "metadata": {"model_name": "gpt2-small", "sae_lens_version": "6.0.0"},
    }
    heads = {**old, "hook_point": "blocks.1.attn.hook_z"}
    D = Dictionary.load(folder(make, tmp_path / "z", "standard", one, drop, **heads))
    assert D.meta["reshape_activations"] == "hook_z"  # heads side by side


# What inputs went through in a run

WHITE = "covariance_whitening"


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated"])
def test_the_scaling_of_a_run_is_folded(kind, centred, make, close, tmp_path):
    """x is scaled, then whitened; what is decoded goes back."""
    plain = made(make, kind, centred=centred)
    m, A = make.randn(6), make.randn(6, 6) + 3 * torch.eye(6).double()
    scaling = {"mean": m, "matrix": A, "inverse_matrix": torch.linalg.inv(A).contiguous()}
    x = make.randn(5, 6)
    for name, white in (("expected_average_only_in", False), (WHITE, True)):
        path = tmp_path / name
        plain.save(path)
        config = json.loads((path / "cfg.json").read_text()) | {"normalize_activations": name}
        (path / "cfg.json").write_text(json.dumps(config))
        with pytest.warns(UserWarning, match="inputs that were scaled first"):
            unscaled = Dictionary.load(path)
        close(unscaled(x), plain(x))
        assert unscaled.meta["normalize_activations"] == name
        said = {"scaling_factor": 2.5, "has_whitening": white}
        (path / "activation_scaler.json").write_text(json.dumps(said))
        if white:
            save_file(scaling, path / "activation_whitening.safetensors")
        z = (2.5 * x - m) @ A if white else 2.5 * x
        back = plain(z) @ torch.linalg.inv(A) + m if white else plain(z)
        D = Dictionary.load(path)
        close(D.encode(x), plain.encode(z), tol=1e-9)
        close(D(x), back / 2.5, tol=1e-9)
        assert (D.normalisation, "normalize_activations" in D.meta) == ("none", False)


@pytest.mark.bad_input
def test_scalings_that_cannot_be_folded(make, tmp_path, refuses):
    name, kinds = "expected_average_only_in", ("standard", "transcoder", "matching_pursuit")
    for kind in kinds:
        path = folder(make, tmp_path / kind, kind, normalize_activations=name)
        (path / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    for kind in kinds[1:]:
        refuses(
            ConfigError,
            lambda kind=kind: Dictionary.load(tmp_path / kind),
            f"activation_scaler.json must lie beside no {kind}, into whose weights",
        )
    file = tmp_path / "standard" / "activation_scaler.json"
    for factor in (0, -1, True, "2", "NaN"):
        file.write_text(json.dumps({"scaling_factor": factor}))
        refuses(
            FileError,
            lambda: Dictionary.load(tmp_path / "standard"),
            "scaling_factor must be a number above 0",
        )
    for said, got in (
        ('{"scaling_factor": 2.0, "offset": 3}', "must have known keys only; got offset."),
        ('{"scaling_factor": 2.0, "has_whitening": "no"}', 'must be true or false; got "no".'),
    ):
        file.write_text(said)
        refuses(FileError, lambda: Dictionary.load(tmp_path / "standard"), got)
    file.write_text('{"scaling_factor": null, "has_whitening": true}')
    save_file({"mean": make.randn(6)}, tmp_path / "standard" / "activation_whitening.safetensors")
    refuses(FileError, lambda: Dictionary.load(tmp_path / "standard"), "must hold ")


def test_what_needs_what_was_read(make, refuses):
    D = made(make, normalisation="layer_norm")
    refuses(
        ArgumentError,
        lambda: D.decode(make.randn(2, 10)),
        "decode(x=) must be given for a standard with layer_norm",
    )
    zero = dataclasses.replace(D, normalisation="constant_norm_rescale")
    assert bool(torch.isfinite(zero(torch.zeros(2, 6).double())).all())
    pursued, T = made(make, "matching_pursuit"), make.cp(6, 6, 6, 3)
    for other, got in ((D, "layer_norm"), (pursued, "matching_pursuit")):
        call = partial(interactions, T, other, make.randn(4, 6))
        refuses(
            ArgumentError, call, "interactions(outputs) must be a dictionary that is linear", got
        )
    call = partial(interactions, T, make.randn(4, 6), D)
    refuses(ArgumentError, call, "interactions(inputs) must be", "one with layer_norm")
    assert interactions(T, make.randn(4, 6), pursued).shape == (4, 10, 10)


# Refused


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"architecture": "temporal"}, "architecture must be one of standard, topk"),
        ({"architecture": None}, "got None."),
        ({"architecture": ["standard"]}, "got ['standard']."),
        (
            {"normalize_activations": "constant_scalar_rescale"},
            'got "constant_scalar_rescale".',
        ),
        ({"normalize_activations": 0}, "normalize_activations must"),
        (
            {"reshape_activations": "heads"},
            'reshape_activations must be "none" or null or "hook_z"; got "heads".',
        ),
        ({"residual_threshold": 0.1}, "must have known keys only; got residual_threshold."),
        (
            {"metadata": {"sae_lens_version": "6.1", "hook_head_index": 3}},
            "hook_head_index must be null; got 3.",
        ),
        (
            {"metadata": {"sae_lens_version": "6.1", "hook_head_index_out": 0}},
            "hook_head_index_out must be null; got 0.",
        ),
        (
            {"metadata": {"sae_lens_version": "6.1", "hook_name": 3}},
            "hook_name must be a text; got 3.",
        ),
        (
            {"finetuning_scaling_factor": 2},
            "finetuning_scaling_factor must be false or null or true; got 2.",
        ),
        (
            {"rescale_acts_by_decoder_norm": True},
            "rescale_acts_by_decoder_norm must be false for standard; got true.",
        ),
        ({"activation_fn": "tanh-relu"}, 'activation_fn must be "relu"; got "tanh-relu".'),
        (
            {"metadata": {}, "activation_fn_kwargs": {"k": 2, "postact_fn": "identity"}},
            'activation_fn_kwargs must be null or {}; got {"postact_fn": "identity"}.',
        ),
        ({"apply_b_dec_to_input": "yes"}, 'apply_b_dec_to_input must be true or false; got "yes".'),
        ({"dtype": "int8"}, "dtype must be one of float64, float32, float16, bfloat16; got int8."),
        (
            {"n_heads": 3, "bottleneck": 1},
            "must have known keys only; got bottleneck, n_heads. Remove from the file",
        ),
    ],
)
def test_a_config_that_is_not_understood(config, text, make, tmp_path, refuses):
    refuses(
        ConfigError,
        lambda: Dictionary.load(folder(make, tmp_path, **config)),
        str(tmp_path / "cfg.json"),
        text,
    )


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "a folder"])
def test_missing_and_damaged_files(name, damage, make, tmp_path, refuses):
    path = folder(make, tmp_path) / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "text": b"\xff not one", "truncated": whole[:-9]}[damage])
    text = "got no such file. A dictionary is" if damage in ("missing", "a folder") else "must be "
    refuses(FileError, lambda: Dictionary.load(tmp_path), str(path), text)


@pytest.mark.bad_input
def test_a_missing_folder_and_odd_json(make, tmp_path, refuses):
    refuses(
        FileError,
        lambda: Dictionary.load(tmp_path / "none"),
        "cfg.json must be there; got no such file.",
    )
    folder(make, tmp_path)
    for text, got in (
        ("[1]", "must be a JSON object; got list"),
        ('{"metadata": 3}', "metadata must be an object; got int"),
    ):
        (tmp_path / "cfg.json").write_text(text)
        refuses(FileError, lambda: Dictionary.load(tmp_path), str(tmp_path / "cfg.json"), got)
    for path in (None, 3, ["tinystories-2l/mlp1.input"]):
        refuses(ArgumentError, lambda path=path: Dictionary.load(path), "path must be a folder")


@pytest.mark.parametrize(
    ("kind", "tensors", "text"),
    [
        ("standard", {"b_enc": None}, "as cfg.json says standard; got no b_enc."),
        ("standard", {"threshold": torch.ones(10)}, "got also threshold."),
        ("standard", {"b_dec": None, "b_gate": torch.ones(10)}, "got no b_dec; also b_gate."),
        ("standard", {"scaling_factor": torch.full((10,), 2.0)}, "got also scaling_factor."),
        ("jumprelu", {"threshold": None}, "got no threshold."),
        ("gated", {"r_mag": None}, "got no r_mag."),
        (
            "standard",
            {"W_enc": torch.ones(10, 6)},
            "W_enc must be (6, 10), as cfg.json says; got (10, 6).",
        ),
        ("standard", {"b_dec": torch.ones(5)}, "b_dec must be (6,), as cfg.json says; got (5,)."),
        (
            "skip_transcoder",
            {"W_skip": torch.ones(6, 5)},
            "W_skip must be (5, 6), as cfg.json says; got (6, 5).",
        ),
        (
            "jumprelu",
            {"threshold": torch.ones(())},
            "threshold must be (10,), as cfg.json says; got ().",
        ),
    ],
)
def test_tensors_that_do_not_fit(kind, tensors, text, make, tmp_path, refuses):
    path = folder(make, tmp_path, kind, tensors)
    refuses(FileError, lambda: Dictionary.load(path), str(path / "sae_weights.safetensors"), text)


@pytest.mark.bad_input
def test_sizes_that_the_config_lacks_or_gets_wrong(make, tmp_path, refuses):
    for kind, name in (("standard", "d_in"), ("standard", "d_sae"), ("transcoder", "d_out")):
        path = folder(make, tmp_path, kind, drop=(name,))
        refuses(
            ConfigError,
            lambda path=path: Dictionary.load(path),
            f"cfg.json: {name} must be a whole number; got null.",
        )
    refuses(FileError, lambda: Dictionary.load(folder(make, tmp_path, d_sae=11)), "must be (6, 11)")
    for k in (11, "3", True, 1.5):
        path = folder(make, tmp_path, "topk", k=k)
        refuses(
            FileError,
            lambda path=path: Dictionary.load(path),
            f"{path}: Dictionary.k must be a whole number from 1 to 10",
        )
    for name, value in (("max_iterations", 0), ("stop_on_duplicate_support", 3)):
        path = folder(make, tmp_path, "matching_pursuit", **{name: value})
        text = f"{path / 'cfg.json'}: Pursuit.{name} must be"
        refuses(ConfigError, lambda path=path: Dictionary.load(path), text)
    # SAELens's own k, which these ten latents do not have
    path = folder(make, tmp_path, "topk", drop=("k",))
    refuses(FileError, lambda: Dictionary.load(path), "from 1 to 10; got 100.")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad, make, tmp_path, refuses):
    W = make.randn(10, 6)
    W[3, 2] = bad
    path = folder(make, tmp_path, tensors={"W_dec": W})
    refuses(
        NotFiniteError,
        lambda: Dictionary.load(path),
        f"{tmp_path}: Dictionary.W_dec must be finite; got 1 NaN or infinite",
    )
    D = dataclasses.replace(made(make), W_dec=W)
    refuses(NotFiniteError, lambda: D.save(tmp_path / "new"), "Dictionary.W_dec must be finite")
    assert not (tmp_path / "new").exists()


def test_what_a_run_says_of_itself_changes_nothing(make, tmp_path):
    plain = Dictionary.load(folder(make, tmp_path / "plain"))
    said = {
        "lr": 1e-3,
        "wandb_project": "x",
        "mse_loss_normalization": None,
        "finetuning_scaling_factor": True,
    }
    tensors = {name: tensor.contiguous() for name, tensor in plain.tensors.items()}
    ones = {"finetuning_scaling_factor": torch.ones(10)}
    path = folder(make, tmp_path / "run", tensors=tensors | ones, **said)
    x = torch.randn(20, 6, dtype=plain.W_enc.dtype)
    assert torch.equal(Dictionary.load(path)(x), plain(x))


def test_decoder_norms_are_folded_in_what_holds_them(make, tmp_path):
    """In bfloat16 the folded encoder has other latents than the one that was trained; in float32
    the very same.
    """
    more = {"rescale_acts_by_decoder_norm": True, "dtype": "bfloat16", "k": 3}
    weights = {
        name: make.randn(*shape).bfloat16()
        for name, shape in {
            "W_enc": (6, 10),
            "W_dec": (10, 6),
            "b_enc": (10,),
            "b_dec": (6,),
        }.items()
    }
    D = Dictionary.load(folder(make, tmp_path, "topk", weights, **more))
    x = make.randn(4000, 6)
    W_enc, W_dec, b_enc, b_dec = (
        weights[name].double() for name in ("W_enc", "W_dec", "b_enc", "b_dec")
    )
    centred = x - b_dec if D.centred else x
    pre = (centred @ W_enc + b_enc) * W_dec.norm(dim=1)
    at = pre.topk(3).indices
    truth = torch.zeros_like(pre).scatter(1, at, pre.gather(1, at).relu())
    assert D.W_enc.dtype is torch.float32
    torch.testing.assert_close(D.to(torch.float64).encode(x), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "topk", "batchtopk"])
@pytest.mark.bad_input
def test_a_row_that_is_no_number_is_refused_and_empties_no_other(kind, make, refuses):
    D = Dictionary(
        make.randn(6, 10),
        make.randn(10, 6),
        make.randn(10),
        make.randn(6),
        architecture=kind,
        k=None if kind == "standard" else 2,
    )
    x = make.randn(5, 6)
    x[2, 1] = float("nan")
    refuses(NotFiniteError, lambda: D.encode(x), "x must be finite; got 1 NaN")
    refuses(ShapeError, lambda: D.encode([1.0] * 6), "must be given a tensor (..., 6); got list")


def test_a_zero_decoder_row_cannot_be_rescaled(make, tmp_path, refuses):
    path = folder(
        make, tmp_path, "topk", {"W_dec": torch.zeros(10, 6)}, rescale_acts_by_decoder_norm=True
    )
    refuses(
        FileError,
        lambda: Dictionary.load(path),
        "must have no zero row in W_dec",
        "got 10 such rows.",
    )


@pytest.mark.parametrize("failing", ["sae_weights.safetensors", "cfg.json"])
def test_a_failed_save_keeps_the_old_folder(failing, make, tmp_path, monkeypatch):
    made(make).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        "pathlib.Path.write_text" if failing == "cfg.json" else "bilens.features.saelens.save_file",
        fail,
    )
    with pytest.raises(FileError, match="No space left"):
        made(make, "jumprelu").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_where_it_cannot_be_saved(make, tmp_path, refuses):
    (tmp_path / "file").write_text("")
    refuses(
        FileError,
        lambda: made(make).save(tmp_path / "file"),
        "must be in a folder that can be written",
    )
    D = made(make, meta={"metadata": {"odd": object()}})
    refuses(
        ArgumentError, lambda: D.save(tmp_path / "new"), "Dictionary.meta must hold what JSON can"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        (
            {"architecture": "temporal"},
            ConfigError,
            "Dictionary.architecture must be one of standard, topk",
        ),
        ({"architecture": "jumprelu"}, ArgumentError, "as it is jumprelu; got no threshold."),
        ({"architecture": "gated"}, ArgumentError, "got no b_gate, no b_mag, no r_mag, b_enc too."),
        (
            {"architecture": "topk"},
            ArgumentError,
            "Dictionary.k must be given for topk, abstopk, signed_topk, batchtopk",
        ),
        ({"k": 3}, ArgumentError, "got 3 for standard."),
        (
            {"architecture": "topk", "k": 0},
            ArgumentError,
            "must be a whole number from 1 to 10; got 0.",
        ),
        (
            {"architecture": "topk", "k": 11},
            ArgumentError,
            "must be a whole number from 1 to 10; got 11.",
        ),
        (
            {"architecture": "topk", "k": 2.5},
            ArgumentError,
            "must be a whole number from 1 to 10; got 2.5.",
        ),
        (
            {"architecture": "transcoder", "centred": True},
            ArgumentError,
            "Dictionary.centred must be False for a transcoder",
        ),
        (
            {"W_enc": torch.ones(10).double()},
            ShapeError,
            "Dictionary.W_enc must be (any, any); got (10,).",
        ),
        ({"W_enc": 3}, ShapeError, "Dictionary.W_enc must be a torch tensor; got int."),
        (
            {"architecture": ["topk"]},
            ConfigError,
            "Dictionary.architecture must be one of standard",
        ),
        ({"hook": None}, ArgumentError, "Dictionary.hook must be a text; got None."),
        ({"hook_out": 3}, ArgumentError, "Dictionary.hook_out must be a text; got 3."),
        ({"centred": "yes"}, ArgumentError, "Dictionary.centred must be True or False; got 'yes'."),
        ({"normalisation": []}, ArgumentError, "Dictionary.normalisation must be a text; got []."),
        ({"pursuit": 3}, ArgumentError, "Dictionary.pursuit must be given for matching_pursuit"),
        ({"meta": None}, ArgumentError, "Dictionary.meta must be a dict; got None."),
        (
            {"meta": {"metadata": "x"}},
            ArgumentError,
            "Dictionary.meta.metadata must be a dict; got 'x'.",
        ),
        (
            {"W_enc": torch.ones(6, 0).double()},
            ShapeError,
            "Dictionary.W_enc must read one number or more, for one latent or more; got (6, 0).",
        ),
        (
            {"W_dec": torch.ones(9, 6).double()},
            ShapeError,
            "Dictionary.W_dec must be (10, any); got (9, 6).",
        ),
        ({"b_enc": torch.ones(9).double()}, ShapeError, "Dictionary.b_enc must be (10); got (9,)."),
        (
            {"b_dec": torch.ones(6)},
            ShapeError,
            "Dictionary.b_dec must be float64 on cpu like the first factor; got float32",
        ),
        (
            {"W_dec": torch.ones(10, 5).double(), "b_dec": torch.ones(5).double()},
            ShapeError,
            "Dictionary.W_dec must write the 6 that W_enc reads, as standard is an autoencoder; "
            "got (10, 5).",
        ),
    ],
)
@pytest.mark.bad_input
def test_what_is_no_dictionary(changes, kind, text, make, refuses):
    D = made(make, centred=False)
    refuses(kind, lambda: dataclasses.replace(D, **changes), text)


@pytest.mark.bad_input
def test_inputs_that_do_not_fit(make, refuses):
    D = made(make, "skip_transcoder")
    for call in (D.pre, D.encode, D):
        refuses(
            ShapeError,
            lambda call=call: call(make.randn(3, 5)),
            "Dictionary.pre must be given (..., 6); got (3, 5).",
        )
    refuses(
        ShapeError,
        lambda: D.pre(torch.ones(6)),
        "must be given float64 on cpu like its weights; got float32 on cpu.",
    )
    refuses(
        ShapeError,
        lambda: D.decode(make.randn(3, 6)),
        "Dictionary.decode must be given (..., 10); got (3, 6).",
    )
    refuses(
        ArgumentError,
        lambda: D.decode(make.randn(3, 10)),
        "decode(x=) must be given for a skip_transcoder; got None.",
    )
    refuses(
        ShapeError,
        lambda: D.decode(make.randn(3, 10), make.randn(3, 5)),
        "Dictionary.decode(x=) must be given (..., 6)",
    )


def test_fits_a_place(make, refuses):
    D, T = made(make), made(make, "transcoder")
    for place in ("layers.1.mlp.input", "mlp1.input", "model.layers.1.mlp.input", ""):
        D.require_fits("f", width=6, place=place)
    T.require_fits("f", width=6, place="mlp1.input")
    T.require_fits("f", width=5, place="mlp1.output", side="output")
    dataclasses.replace(D, hook="").require_fits("f", width=6, place="mlp0.input")
    refuses(
        ArgumentError,
        lambda: D.require_fits("interactions", width=6, place="mlp0.input"),
        "interactions must read mlp0.input of width 6; "
        "got a dictionary of layers.1.mlp.input of width 6. Where that is",
    )
    refuses(
        ShapeError,
        lambda: D.require_fits("f", width=8, place="mlp1.input"),
        "of width 8; got a dictionary of",
        "of width 6.",
    )
    refuses(ShapeError, lambda: D.require_fits("f", width=8), "f must read a place of width 8")
    for place in (3, ["mlp1.input"]):
        got = f"got {type(place).__name__}"
        refuses(ArgumentError, lambda place=place: D.require_fits("f", width=6, place=place), got)
    said = "side must be one of input, output; got 'outputs'"
    refuses(ArgumentError, lambda: D.require_fits("f", width=6, side="outputs"), said)
    refuses(ArgumentError, lambda: D.require_side("f", "outputs"), said)
    refuses(
        ArgumentError,
        lambda: T.require_fits("f", width=5, place="mlp1.input", side="output"),
        "must write mlp1.input",
    )


@pytest.mark.bad_input
def test_what_a_file_would_not_keep_is_refused(make, refuses):
    """SAELens adds b_dec to what a pursuit found only where it was taken off x."""
    W, b = make.randn(10, 6), make.randn(6)
    given = {"architecture": "matching_pursuit", "pursuit": Pursuit()}
    refuses(
        ArgumentError,
        lambda: Dictionary(W.mT, W, None, b, **given),
        "Dictionary.b_dec must be zero for a matching_pursuit that is not centred",
    )
    assert Dictionary(W.mT, W, None, b, centred=True, **given).base is b
    refuses(
        ArgumentError,
        lambda: dataclasses.replace(made(make), hook_out="layers.1.mlp.output"),
        "Dictionary.hook_out must be empty, as standard is an autoencoder",
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", SAVED)
def test_a_file_keeps_what_it_computes(kind, centred, make, tmp_path):
    """Whatever is said of a scaling that was not folded."""
    centred = centred and not is_transcoder(kind)
    meta = {"normalize_activations": "expected_average_only_in"}
    D = made(make, kind, centred=centred, normalisation="constant_norm_rescale", meta=meta)
    D.save(tmp_path / "saved")
    again, x = Dictionary.load(tmp_path / "saved"), make.randn(4, 6)
    assert torch.equal(again(x), D(x))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("expected_average_only_in", {"scaling_factor": None}),
        (WHITE, {}),
        (WHITE, {"scaling_factor": 2.0, "has_whitening": False}),
    ],
)
def test_a_run_that_says_nothing_of_its_scaling_is_told_of(name, said, make, tmp_path):
    """Whether the file that should hold it is missing or holds none."""
    path = folder(make, tmp_path, normalize_activations=name)
    (path / "activation_scaler.json").write_text(json.dumps(said))
    with pytest.warns(UserWarning, match="inputs that were scaled first"):
        D = Dictionary.load(path)
    assert D.meta["normalize_activations"] == name


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"normalize_activations": "layer_norm"}, "say no other normalisation than 'none'"),
        ({"made_by": "me"}, "read as cfg.json, must have known keys only; got made_by."),
        ({"activation_fn": "tanh"}, 'activation_fn, must be "relu"; got "tanh".'),
        ({"reshape_activations": "odd"}, "reshape_activations, must be"),
        ({"metadata": {"hook_head_index": 2}}, "hook_head_index, must be null; got 2."),
        ({"rescale_acts_by_decoder_norm": True}, "must be false for standard; got true."),
        ({"dtype": "float16", "k": 3}, "hold what no field does; got dtype, k."),
    ],
)
def test_meta_that_would_make_another_dictionary_is_not_written(
    meta, text, make, tmp_path, refuses
):
    D = made(make, meta=meta)
    refuses(ArgumentError, lambda: D.save(tmp_path), "Dictionary.meta", text)
    assert list(tmp_path.iterdir()) == []
    refuses(ArgumentError, lambda: made(make).save(None), "path must be a folder; got None.")


def test_the_layout_that_is_written_is_the_one_it_says(make, tmp_path):
    """SAELens reads a folder that says 3 by other rules than those by which it was written."""
    told = {"sae_lens_version": "3.1", "model_name": "gpt2-small", "mine": 3}
    made(make, meta={"metadata": told}).save(tmp_path)
    again = Dictionary.load(tmp_path).meta["metadata"]
    assert again == told | {"sae_lens_version": "6.0.0"}


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated", "matching_pursuit"])
def test_latents_beyond_their_dtype_are_refused(kind, make, refuses):
    """A latent of ∞ is no activation: what counts by it would never end."""
    D = made(make, kind).to(torch.float32)
    big = {"W_enc": D.W_enc * 1e38, "W_dec": D.W_dec * 1e38 if kind in TIED else D.W_dec}
    big = dataclasses.replace(D, **big)
    x = 50 * make.randn(40, 6).float()
    refuses(NotFiniteError, lambda: big.encode(x), "Dictionary.encode.latents must be finite")
    refuses(NotFiniteError, lambda: big(x), "Dictionary.encode.latents must be finite")


@pytest.mark.bad_input
def test_a_length_that_is_none_stops_no_pursuit(refuses):
    for odd in (float("nan"), float("inf"), 10**400, -1, True, "3"):
        refuses(ConfigError, lambda odd=odd: Pursuit(odd), "residual_threshold must be a length")
