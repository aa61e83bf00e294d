"""The page about parts of one's own runs, and each promise that is broken is named."""

import re
from pathlib import Path

import pytest
import torch

import bilens
from bilens.circuits import promises
from bilens.nn import RMSNorm

PAGE = Path(__file__).parents[2] / "docs" / "own-parts.md"
IDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def page():
    """What the page's code makes; every statement of it runs."""
    made = {"__name__": "page"}
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S))
    exec(compile(code, str(PAGE), "exec"), made)
    return made


def test_the_page_says_what_is_so(page):
    torch.manual_seed(1)
    model = page["Tiny"]().double()
    assert promises(model, IDS).kept
    found = bilens.expand(model, IDS, target=7)
    assert found.total == pytest.approx(float(model.outputs(torch.tensor([IDS]))[-1, 7]), abs=1e-12)
    names = {source.name for source in found.sources}
    assert names == {"embed", "attn0.h0", "attn0.h1", "mlp0"}
    out = bilens.circuits.knockout(model, IDS, "attn0.h1", target=7, with_="zero")
    model.heads.up.data[1] = 0
    assert out.after == pytest.approx(float(model.outputs(torch.tensor([IDS]))[-1, 7]), abs=1e-12)
    assert promises(bilens.load("tinystories-1l"), "Once upon").kept


def broken(page, how):
    torch.manual_seed(1)
    model = page["Tiny"]().double()
    if how == "norm":
        model.norms[1] = page["Forgets"](8).double()
        model.norms[1].weight.data += torch.rand(8)
    if how == "scale":
        model.norms[0].scale = lambda x: 2 / x.abs().amax(-1, keepdim=True)
        model.norms[0].forward = lambda x: x
    if how == "heads":
        model.heads.register_forward_hook(lambda _, given, out: out + 1)
    if how == "skipped":
        model.mlp.forward = lambda x: 0 * x
    if how == "model":
        model.forward = lambda ids: 2 * page["Tiny"].forward(model, ids)
    if how == "readout":
        model.unembed = torch.nn.Sequential(model.unembed, RMSNorm(20)).double()
        model.unembed.weight = model.unembed[0].weight
    return model


@pytest.mark.parametrize(
    ("how", "who"),
    [
        ("norm", "mlp0: reads through a norm"), ("scale", "attn0: reads through a norm"),
        ("heads", "attn0: writes what its weights say"),
        ("skipped", "mlp0: writes what its weights say"),
        ("model", "the model: gives what its parts add up to"),
        ("readout", "the model: gives what its parts add up to"),
    ],
)  # fmt: skip
def test_the_promise_that_is_broken_is_named(page, how, who):
    found = promises(broken(page, how), IDS)
    assert who in found.summary()
    row = next(row for row in found.rows() if row["what is wrong"])
    assert len(row["what is wrong"]) < 400
    assert not row["kept"]
