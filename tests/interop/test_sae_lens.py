"""The same dictionaries in SAELens: a folder saved there is ours, and ours is theirs. Runs where it
is installed.

make interop
"""

import dataclasses
import json
import warnings
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens.base.errors import ConfigError
from bilens.features import Dictionary
from bilens.features.saelens import BATCHED, KEEPS_K, TENSORS, is_transcoder

lens = pytest.importorskip(
    "sae_lens", reason="an optional job: needs sae-lens 6", exc_type=ImportError
)
if not version("sae_lens").startswith("6."):
    pytest.skip("an optional job: needs sae-lens 6", allow_module_level=True)

from sae_lens.registry import get_sae_class, get_sae_training_class  # noqa: E402

SAVED = [kind for kind in TENSORS if kind not in ("batchtopk", "signed_topk")]
CENTRED = [
    (kind, centred)
    for kind in SAVED
    for centred in (True, False)
    if not (centred and is_transcoder(kind))
]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
                )
            )
    return module.eval()


def theirs_of(kind, **config):
    """A random dictionary of SAELens's."""
    sae, cfg = get_sae_class(kind)
    sizes = {
        "d_in": 6,
        "d_sae": 20,
        **({"d_out": 5} if is_transcoder(kind) else {}),
        **({"k": 3} if kind in KEEPS_K else {}),
    }
    return randomised(sae(cfg(**sizes, **config)))


def same(ours, theirs, x):
    """Equal latents, outputs and pre-activations, the latents neither all dead nor all alive."""
    live = theirs.encode(x) != 0
    assert 0.02 < float(live.float().mean()) < 0.9
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    if ours.pursuit is None:
        torch.testing.assert_close(ours.pre(x)[live], theirs.encode(x)[live], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "centred"), CENTRED)
@torch.no_grad()
def test_theirs_is_ours(kind, centred, tmp_path):
    metadata = lens.saes.sae.SAEMetadata(
        hook_name="layers.1.mlp.input", hook_name_out="layers.1.mlp.output", model_name="m"
    )
    theirs = theirs_of(kind, apply_b_dec_to_input=centred, metadata=metadata)
    theirs.save_model(tmp_path)
    ours = Dictionary.load(tmp_path)
    assert (ours.architecture, ours.hook, ours.centred) == (kind, "layers.1.mlp.input", centred)
    assert ours.hook_out == ("layers.1.mlp.output" if is_transcoder(kind) else "")
    same(ours, theirs, torch.randn(64, 6, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize(("kind", "centred"), CENTRED)
@torch.no_grad()
def test_their_normalisations_are_ours(kind, centred, norm, tmp_path):
    theirs = theirs_of(kind, apply_b_dec_to_input=centred, normalize_activations=norm)
    theirs.save_model(tmp_path / "one")
    ours = Dictionary.load(tmp_path / "one")
    ours.save(tmp_path / "two")
    x = 3 * torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) + 1
    for D in (ours, Dictionary.load(tmp_path / "two")):
        torch.testing.assert_close(D.encode(x), theirs.encode(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(D(x), theirs(x), rtol=1e-4, atol=1e-4)
    again = lens.SAE.load_from_disk(tmp_path / "two")
    torch.testing.assert_close(again(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "centred"), CENTRED)
@torch.no_grad()
def test_ours_is_theirs(kind, centred, tmp_path):
    theirs_of(kind, apply_b_dec_to_input=centred).save_model(tmp_path / "one")
    meta = {"metadata": {"model_name": "tinystories-2l"}}
    ours = dataclasses.replace(
        Dictionary.load(tmp_path / "one"), hook="layers.0.mlp.input", meta=meta
    )
    ours.save(tmp_path / "two")
    theirs = lens.SAE.load_from_disk(tmp_path / "two")
    assert theirs.cfg.architecture() == kind
    assert theirs.cfg.metadata.hook_name == "layers.0.mlp.input"
    assert theirs.cfg.metadata.model_name == "tinystories-2l"
    assert theirs.cfg.apply_b_dec_to_input is centred
    same(ours, theirs, torch.randn(64, 6, generator=torch.Generator().manual_seed(0)))
    theirs.save_model(tmp_path / "three")
    again = Dictionary.load(tmp_path / "three")
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in ours.tensors.items())


@torch.no_grad()
def test_a_batchtopk_dictionary_of_ours_is_a_jumprelu_of_theirs(tmp_path):
    theirs_of("standard").save_model(tmp_path / "one")
    ours = dataclasses.replace(
        Dictionary.load(tmp_path / "one"),
        architecture="batchtopk",
        k=4,
        threshold=torch.full((20,), 1.5),
    )
    ours.save(tmp_path / "two")
    theirs = lens.SAE.load_from_disk(tmp_path / "two")
    assert theirs.cfg.architecture() == "jumprelu"
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    same(Dictionary.load(tmp_path / "two"), theirs, x)
    torch.testing.assert_close(
        theirs.encode(x), ours.pre(x).relu() * (ours.pre(x) > 1.5), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_their_topk_that_rescales_by_decoder_norms(tmp_path):
    theirs = theirs_of("topk", rescale_acts_by_decoder_norm=True)
    theirs.save_model(tmp_path)
    same(
        Dictionary.load(tmp_path),
        theirs,
        torch.randn(64, 6, generator=torch.Generator().manual_seed(0)),
    )


@torch.no_grad()
def test_their_half_precision_dictionary_that_rescales(tmp_path):
    """Ours folds the norms in float32, in which their weights are exact: the latents are those of
    their own, raised.
    """
    theirs = theirs_of("topk", rescale_acts_by_decoder_norm=True, dtype="bfloat16")
    theirs.save_model(tmp_path)
    raised = lens.SAE.load_from_disk(tmp_path).to(torch.float32)
    same(
        Dictionary.load(tmp_path),
        raised,
        torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)),
    )


RUN = {
    "lr": 3e-4, "l1_coefficient": 5.0, "train_batch_size_tokens": 4096, "wandb_project": "x",
    "n_checkpoints": 0,
    "autocast": False, "act_store_device": "cpu", "training_tokens": 10**6, "streaming": True,
    "logger": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "tensors"),
    [
        ("standard", RUN, ()),
        ("standard", {"finetuning_scaling_factor": True}, ("scaling_factor",)),
        (
            "standard",
            {
                "sae_lens_version": "5.0.0",
                "finetuning_scaling_factor": True,
                "activation_fn": "relu",
            }
            | RUN,
            (),
        ),
        ("topk", {"k": None}, ()),
        ("topk", {"sae_lens_version": "5.0.0", "k": None, "activation_fn_kwargs": {"k": 3}}, ()),
    ],
    ids=["what a run says", "factors of one", "an old run", "topk without k", "an old topk"],
)
@torch.no_grad()
def test_what_they_load_we_load(kind, changes, tensors, tmp_path):
    sizes = {"d_in": 6, "d_sae": 150}
    sae, cfg = get_sae_class(kind)
    randomised(sae(cfg(**sizes, **({"k": 3} if kind == "topk" else {})))).save_model(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    if "sae_lens_version" in changes:
        config |= config.pop("metadata")
    config = {name: value for name, value in (config | changes).items() if value is not None}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file(
        weights | {name: torch.ones(150) for name in tensors}, tmp_path / "sae_weights.safetensors"
    )
    theirs, ours = lens.SAE.load_from_disk(tmp_path), Dictionary.load(tmp_path)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "gated", "topk", "jumprelu", *BATCHED])
@torch.no_grad()
def test_their_runs_in_progress(kind, tmp_path):
    """A checkpoint of a run loads here as what SAELens saves of that run for inference."""
    sae, cfg = get_sae_training_class(kind)
    more = {"k": 3} if "topk" in kind else {}
    run = randomised(
        sae(
            cfg(
                d_in=6,
                d_sae=20,
                **more,
                **({"matryoshka_widths": [10, 20]} if "matry" in kind else {}),
            )
        )
    )
    if kind in BATCHED:
        run.topk_threshold.fill_(2.0)
    run.save_model(tmp_path / "run")
    run.save_inference_model(tmp_path / "done")
    theirs = lens.SAE.load_from_disk(tmp_path / "done")
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    same(Dictionary.load(tmp_path / "run"), theirs, x)
    same(Dictionary.load(tmp_path / "done"), theirs, x)


def test_what_they_know_and_we_refuse(tmp_path):
    known = set(TENSORS) | set(BATCHED)
    for kind in lens.registry.SAE_CLASS_REGISTRY.keys() - known:
        config = {
            "architecture": kind,
            "d_in": 6,
            "d_sae": 20,
            "metadata": {"sae_lens_version": version("sae_lens")},
        }
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=f"got '{kind}'"):
            Dictionary.load(tmp_path)
    assert set(SAVED) <= lens.registry.SAE_CLASS_REGISTRY.keys()
