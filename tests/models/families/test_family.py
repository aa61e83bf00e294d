"""What a family can say of its weights, told by a family that there is in this file alone."""

import torch

from bilens.models.families import paired, renamed
from bilens.models.families.family import Weight

# a GPT-2-like layer (transposed, fused), a NeoX-like one (fused head by head), Gemma's norms
HEADS, SIZE, WIDTH = 3, 2, 6
WEIGHTS = (
    Weight("wte", ("embed",), change=lambda w: w * 5),
    Weight("wte", ("head",)),
    Weight("h.{layer}.c_attn", ("layers.{layer}.q", "layers.{layer}.k"), transposed=True),
    Weight("h.{layer}.qkv", ("layers.{layer}.a", "layers.{layer}.b"), blocks=HEADS),
    Weight("h.{layer}.ln", ("layers.{layer}.norm",), change=lambda w: w + 1),
    Weight("h.{layer}.heads", ("layers.{layer}.v",), shape=(HEADS, SIZE, WIDTH)),
    Weight(None, ("layers.{layer}.one",)),
    Weight("h.{layer}.gone", ("layers.{layer}.not_there",)),
)


def made():
    """The weights here, drawn at random, and those of the files that they come from, by hand."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = {}, {}

    def draw(name, *shape):
        ours[name] = torch.randint(-9, 9, shape, generator=generator).double()
        return ours[name]

    theirs["wte.weight"] = draw("head.weight", 7, WIDTH)
    ours["embed.weight"] = 5 * ours["head.weight"]
    theirs["as.it.is"] = draw("as.it.is", 2, 2)
    for n in range(2):
        q, k = (
            draw(f"layers.{n}.{part}.weight", rows, WIDTH) for part, rows in (("q", 4), ("k", 2))
        )
        theirs[f"h.{n}.c_attn.weight"] = torch.cat([q, k]).T
        q, k = (draw(f"layers.{n}.{part}.bias", rows) for part, rows in (("q", 4), ("k", 2)))
        theirs[f"h.{n}.c_attn.bias"] = torch.cat([q, k])
        a, b = (draw(f"layers.{n}.{part}.weight", HEADS * SIZE, WIDTH) for part in "ab")
        rows = [part[h * SIZE : (h + 1) * SIZE] for h in range(HEADS) for part in (a, b)]
        theirs[f"h.{n}.qkv.weight"] = torch.cat(rows)
        v = draw(f"layers.{n}.v.weight", HEADS * SIZE, WIDTH)
        theirs[f"h.{n}.heads.weight"] = v.unflatten(0, (HEADS, SIZE))
        theirs[f"h.{n}.heads.bias"] = draw(f"layers.{n}.v.bias", HEADS * SIZE)
        theirs[f"h.{n}.ln.weight"] = draw(f"layers.{n}.norm.weight", WIDTH) - 1
        ours[f"layers.{n}.one.weight"] = torch.ones(WIDTH, dtype=torch.float64)
    return ours, theirs


def test_weights_of_files_become_those_here():
    ours, theirs = made()
    pairings = paired(WEIGHTS, {name: tuple(value.shape) for name, value in ours.items()})
    shapes = {one.theirs: one.shape for one in pairings if one.theirs is not None}
    assert shapes == {name: tuple(value.shape) for name, value in theirs.items()}
    found = renamed(pairings, theirs)
    assert found.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(found[name], value), name
    assert found["as.it.is"] is theirs["as.it.is"]  # what keeps its name is not copied
