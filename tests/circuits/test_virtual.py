"""Paths from the weights alone: against dense products, against the terms of ``expand``, and what
does not read.
"""

import pytest
import torch

import bilens
from bilens.algebra import CP, Factored
from bilens.base.errors import ArgumentError, NotExactError
from bilens.circuits import expand, qk_circuit, record, virtual
from bilens.decompose import top_entries

V, D = 9, 6
TOKENS = [3, 1, 4]


def transformer(seed=0, **changes):
    fields = {
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": 5,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "norm": "none",
        "max_position_embeddings": 7,
    }
    model = bilens.Transformer(bilens.TransformerConfig(**fields | changes)).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return model.eval().requires_grad_(False)


def near(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


class Dense:
    """The same circuits as plain products, norms as matrices."""

    def __init__(self, model):
        self.model, self.eye = model, torch.eye(D, dtype=torch.float64)

    def norm(self, module):
        if self.model.config.norm == "none":
            return self.eye
        centre = self.eye - 1 / D if self.model.config.norm == "layer" else self.eye
        return centre * module.weight  # x ↦ x @ this

    def ov(self, layer, head):
        model = self.model
        return (
            self.norm(model.blocks[layer].input_layernorm)
            @ model.W_V[layer, head]
            @ model.W_O[layer, head]
        )

    def mlp(self, layer):
        block = self.model.blocks[layer]
        n = self.norm(block.post_attention_layernorm)
        gate, up = block.mlp.gate_proj.weight @ n.T, block.mlp.up_proj.weight @ n.T
        cube = torch.einsum("oh,hi,hj->oij", block.mlp.down_proj.weight, gate, up)
        return (cube + cube.mT) / 2

    @property
    def readout(self):
        return self.norm(self.model.model.norm) @ self.model.W_U

    def pair(self, layer, left, right):
        """2 S(left, right): rows of left and right are what leaves write."""
        return 2 * torch.einsum("oij,ai,bj->oab", self.mlp(layer), left, right)


KINDS = [
    {},
    {"norm": "rms"},
    {"norm": "layer", "attention_bias": True, "mlp_bias": True, "head_bias": True},
]


@pytest.mark.parametrize("changes", KINDS)
def test_linear_paths_are_products(changes):
    model = transformer(**changes)
    dense, e = Dense(model), model.W_E
    near(virtual(model, "W_U embed").dense(), (e @ dense.readout).T)
    near(virtual(model, "L1H0").dense(), (e @ dense.ov(1, 0)).T)
    near(virtual(model, "L1H0(x)").dense(), dense.ov(1, 0).T)
    near(
        virtual(model, "W_U · L1H1(L0H0(embed))").dense(),
        (e @ dense.ov(0, 0) @ dense.ov(1, 1) @ dense.readout).T,
    )
    near(virtual(model, "W_U x").dense(), dense.readout.T)
    near(virtual(model, "x").dense(), dense.eye)
    near(virtual(model, "L1H0(L0H1)").dense(), virtual(model, " L1H0 ( L0H1( embed ) ) ").dense())
    near(virtual(model, "L1H0[-2](L0H1[−1])").dense(), virtual(model, "L1H0(L0H1)").dense())
    assert virtual(model, "W_U L1H1(L0H0)").mdim == 4  # factored through a head


@pytest.mark.parametrize("changes", KINDS)
def test_bilinear_paths_are_contracted_cubes(changes):
    model = transformer(**changes)
    dense, e = Dense(model), model.W_E
    found = virtual(model, "W_U mlp1(embed, L1H0(L0H1))")
    assert isinstance(found, CP)
    h = e @ dense.ov(0, 1) @ dense.ov(1, 0)
    near(found.dense(), torch.einsum("oab,od->dab", dense.pair(1, e, h), dense.readout))
    near(virtual(model, "mlp0(x, x)").dense(), dense.mlp(0))
    near(virtual(model, "mlp0(x, embed)").dense(), dense.pair(0, dense.eye, e))
    near(
        virtual(model, "mlp0(L0H1, L0H1)").dense(),
        dense.pair(0, e @ dense.ov(0, 1), e @ dense.ov(0, 1)) / 2,
    )
    above = torch.einsum(
        "oab,od->dab", dense.pair(0, e, e @ dense.ov(0, 1)), dense.ov(1, 1) @ dense.readout
    )
    near(virtual(model, "W_U L1H1(mlp0(embed, L0H1))").dense(), above)


def test_the_same_path_at_other_offsets_is_another_path():
    model = transformer()
    near(
        virtual(model, "mlp0(L0H1[-1], L0H1[-2])").dense(),
        2 * virtual(model, "mlp0(L0H1, L0H1)").dense(),
    )


@pytest.mark.parametrize("changes", [{}, {"norm": "rms"}])
@pytest.mark.parametrize("silent", [0, 1])
def test_entries_are_the_terms_of_expand(changes, silent):
    """The key to reading them: a term = the entry at its tokens × patterns × a norm scale for each
    thing read.

    One layer is silent, since the paths of both together are too many to list.
    """
    model = transformer(**changes)
    model = (model.folded() if changes else model).requires_grad_(False)
    model.blocks[silent].mlp.down_proj.weight.zero_()
    terms = {
        term.path: term.value
        for term in expand(model, TOKENS, 5, max_terms=None, cutoff=1e-13).terms
    }
    found = record(model, TOKENS)
    (a0, m0, a1, m1), final = [scale[:, 0] for scale in found.scales[:4]], found.scales[4][2, 0]
    look = {(part, head): found.patterns(2 * part)[head] for part in (0, 1) for head in (0, 1)}
    t0, t1, t2 = TOKENS
    entry = {
        "W_U L0H1(embed)": ("L0H1@0→2(embed)", (5, t0), look[0, 1][2, 0] * a0[0]),
        "W_U L1H0(L0H1)": (
            "L1H0@1→2(L0H1@0→1(embed))",
            (5, t0),
            look[1, 0][2, 1] * a1[1] * look[0, 1][1, 0] * a0[0],
        ),
        "W_U mlp0(embed, embed)": ("mlp0(embed, embed)", (5, t2, t2), m0[2] ** 2),
        "W_U mlp1(embed, L0H1)": (
            "mlp1(embed, L0H1@1→2(embed))",
            (5, t2, t1),
            m1[2] ** 2 * look[0, 1][2, 1] * a0[1],
        ),
        "W_U mlp0(L0H0, L0H1)": (
            "mlp0(L0H0@0→2(embed), L0H1@1→2(embed))",
            (5, t0, t1),
            m0[2] ** 2 * look[0, 0][2, 0] * a0[0] * look[0, 1][2, 1] * a0[1],
        ),
        "W_U L1H1(mlp0(embed, L0H0))": (
            "L1H1@1→2(mlp0(embed, L0H0@0→1(embed)))",
            (5, t1, t0),
            look[1, 1][2, 1] * a1[1] * m0[1] ** 2 * look[0, 0][1, 0] * a0[0],
        ),
    }
    heard = {expr: found for expr, found in entry.items() if f"mlp{silent}" not in expr}
    assert len(heard) == (3 if silent == 0 else 5)
    for expr, (path, at, held) in heard.items():
        value = virtual(model, expr).dense()[at] * held * final
        assert float(value) == pytest.approx(terms[path], rel=1e-10), expr
    if silent == 0:
        return
    twice = virtual(model, "W_U mlp0(L0H1, L0H1)").dense()[5, t0, t1] * 2 * m0[2] ** 2 * final
    both = look[0, 1][2, 0] * a0[0] * look[0, 1][2, 1] * a0[1]
    assert float(twice * both) == pytest.approx(
        terms["mlp0(L0H1@0→2(embed), L0H1@1→2(embed))"], rel=1e-10
    )


@pytest.mark.parametrize("changes", [*KINDS, {"positions": "learned", "qk_norm": True}])
def test_scores_over_paths(changes):
    model = transformer(**changes)
    dense, e = Dense(model), model.W_E
    near(virtual(model, "L1H1[-2].QK(embed, embed)").dense(), qk_circuit(model, 1, 1, -2).dense())
    over_x = virtual(model, "L1H1[-2].QK(x, x)").dense()  # query × key over the stream
    near(e @ over_x @ e.T, qk_circuit(model, 1, 1, -2).dense())
    form = virtual(model, "L1H1[-2].QK(embed, L0H0)")
    assert isinstance(form, Factored)
    near(form.dense(), e @ over_x @ (e @ dense.ov(0, 0)).T)
    near(virtual(model, "L1H1[-2].QK(L0H0, embed)").dense(), e @ dense.ov(0, 0) @ over_x @ e.T)
    pair = dense.pair(0, e, dense.eye)
    near(
        virtual(model, "L1H1[-2].QK(mlp0(embed, x), L0H0)").dense(),
        torch.einsum("oab,ok->kab", pair, over_x @ (e @ dense.ov(0, 0)).T),
    )
    near(
        virtual(model, "L1H1[-2].QK(L0H0, mlp0(embed, x))").dense(),
        torch.einsum("oab,qo->qab", pair, e @ dense.ov(0, 0) @ over_x),
    )


def test_learned_positions_are_a_leaf():
    model = transformer(positions="learned")
    near(
        virtual(model, "L1H0.QK(pos, embed)").dense(),
        model.W_pos @ model.W_Q[1, 0] @ model.W_K[1, 0].T @ model.W_E.T / 2,
    )
    assert virtual(model, "W_U mlp0(pos, L0H1(pos))").shape == (V, 7, 7)


def test_a_squared_mlp_and_a_classifier():
    model = transformer(hidden_act="square", gated=False, mlp_bias=True)
    up, down = model.blocks[0].mlp.up_proj.weight, model.blocks[0].mlp.down_proj.weight
    near(virtual(model, "mlp0(x, x)").dense(), torch.einsum("oh,hi,hj->oij", down, up, up))
    config = bilens.ClassifierConfig(
        input_shape=[4], hidden_size=3, num_hidden_layers=1, id2label={0: "a", 1: "b"}
    )
    images = bilens.Classifier(config).double().requires_grad_(False)
    near(virtual(images, "W_U mlp0(embed, embed)").dense(), images.tensor().symmetrise().dense())


def test_rules_from_pairs_to_tokens():
    """The strongest entries with the names of tokens, as they are read off a model."""
    model = transformer()
    T = virtual(model, "W_U mlp0(embed, L0H1)")
    best = top_entries(T, 3, names=[f"<{n}>" for n in range(V)])
    o, i, j = (T.dense().abs() == T.dense().abs().max()).nonzero()[0].tolist()
    assert best.rows()[0] == {
        "out": f"<{o}>",
        "left": f"<{i}>",
        "right": f"<{j}>",
        "value": float(best.values[0]),
    }


def test_forms_carry_gradients():
    model = transformer(norm="rms").requires_grad_(True)
    virtual(model, "W_U L1H0(mlp0(embed, L0H1))").norm().backward()
    assert float(model.blocks[0].mlp.gate_proj.weight.grad.abs().sum()) > 0
    assert float(model.model.norm.weight.grad.abs().sum()) > 0


def test_no_array_of_vocabulary_squared():
    """A vocabulary of 20,000: its square would be 3 GB, its cube 64 TB."""
    model = transformer(vocab_size=20_000)
    assert virtual(model, "W_U L1H1(mlp0(embed, L0H0))").shape == (20_000,) * 3
    assert virtual(model, "L1H0[-1].QK(embed, L0H0)").shape == (20_000,) * 2


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (
            "",
            "the path '' must have a leaf, a head like L0H3 or a layer like mlp0 at character 1; "
            "got the end.",
        ),
        ("W_U", "at character 4; got the end"),
        (
            "W_U W_U embed",
            "have a leaf, a head like L0H3 or a layer like mlp0 at character 5; got 'W_U'",
        ),
        ("mlp0(embed", "must have ')' at character 11; got the end"),
        ("mlp0(embed)", "must say what is read, mlp0(path, path); got 'mlp0(embed)'"),
        ("mlp0", "must say what is read, mlp0(path, path)"),
        ("L0H1(embed) x", "must end at character 13; got 'x'"),
        ("L0H1(embed", "must have ')' at character 11; got the end"),
        (
            "mlp0(x, %)",
            "must be made of names, numbers and ( ) [ ] , . : @ → at character 9; got '%'",
        ),
        (
            "L0H1[1]",
            "must have an offset 0, -1, -2, … (key position − query position) at character 6; "
            "got '1'",
        ),
        ("L0H1[-1", "must have ']' at character 8; got the end"),
        ("L0H1.OV(x, x)", "must be made of what the model has (embed, x, L0H0, "),
        (
            "W_U L0H1.QK(x, x)",
            "have a score only by itself, not inside a path or below W_U at character 9; got '.'",
        ),
        (
            "mlp0(L0H1.QK(x, x), x)",
            "have a score only by itself, not inside a path or below W_U at character 10",
        ),
        ("L0H1.QK(x)", "must have ',' at character 10; got ')'"),
        ("nothing", "must be made of what the model has (embed, x, L0H0, "),
        ("L0H1(pos)", "L1H1, mlp1); got 'pos'"),
        (
            "W_U L5H0",
            "must be made of what the model has (embed, x, L0H0, L0H1, mlp0, L1H0, L1H1, mlp1); "
            "got 'L5H0'",
        ),
        ("L0H7", "must be made of what the model has"),
        ("mlp3(x, x)", "must be made of what the model has"),
        (
            "L0H1(mlp0(x, x))",
            "must let L0H1 read what it reads in the model; got mlp0",
        ),
        ("L1H0(L1H1)", "must let L1H0 read what it reads in the model; got attn1"),
        (
            "mlp0(x, L1H0)",
            "must let mlp0 read what it reads in the model; got attn1",
        ),
        ("W_U mlp0(L0H1@0→2(embed), embed)", "must hold no position: no input is fixed"),
        ("L0H1@0→2", "must hold no position: no input is fixed"),
        ("L1H0@0→2.QK(embed, embed)", "must hold no position: no input is fixed"),
        (
            "L0H0.QK(L0H1, x)",
            "must let L0H0 read what it reads in the model; got attn0",
        ),
    ],
)
def test_what_does_not_read_is_refused(refuses, expr, text):
    refuses(ArgumentError, lambda: virtual(transformer(), expr), text)


def test_what_is_not_exact_is_refused(refuses):
    model = transformer()
    refuses(
        NotExactError,
        lambda: virtual(model, "W_U mlp1(mlp0(x, x), x)"),
        "inside mlp1, of degree 3 or more",
    )
    refuses(
        NotExactError,
        lambda: virtual(model, "mlp1(x, L1H0(mlp0(x, x)))"),
        "must hold one bilinear layer (order three)",
    )
    refuses(
        NotExactError,
        lambda: virtual(model, "L1H0.QK(mlp0(x, x), mlp0(x, x))"),
        "at the key, of degree 4",
    )
    opaque = transformer(hidden_act="silu")
    refuses(
        NotExactError,
        lambda: virtual(opaque, "mlp0(x, x)"),
        "must go through bilinear layers; got mlp0, which weights alone do not make a tensor",
    )


@pytest.mark.bad_input
def test_other_things_than_models_and_texts_are_refused(refuses):
    refuses(
        ArgumentError, lambda: virtual(torch.nn.Linear(2, 2), "x"), "model must be a bilens model"
    )
    refuses(ArgumentError, lambda: virtual(transformer(), 3), "a path must be a text like")


def test_a_layer_of_a_chain_reads_the_one_before_it_alone(refuses):
    config = bilens.ClassifierConfig(
        input_shape=[4], hidden_size=3, num_hidden_layers=2, id2label={0: "a", 1: "b"}
    )
    chain = bilens.Classifier(config).double().requires_grad_(False)
    near(virtual(chain, "W_U mlp1(x, x)").dense(), chain.tensor(1).symmetrise().dense())
    refuses(
        ArgumentError,
        lambda: virtual(chain, "mlp1(embed, embed)"),
        "let mlp1 read",
        "the first writes",
    )
    refuses(
        ArgumentError,
        lambda: virtual(chain, "W_U mlp0(embed, embed)"),
        "let W_U read",
        "got mlp0",
    )
