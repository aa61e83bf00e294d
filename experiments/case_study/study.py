"""What is studied: an MLP between two dictionaries, candidate mechanisms from its weights alone,
and names for latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens import CP
from bilens.features import Dictionary, Interactions, interactions
from bilens.models import Transformer
from bilens.wiring import hooked

PROMOTED = 3  # tokens an output latent is told by, and that are watched
STRAIGHT = 0.3  # |cos| of two writes from which their product counts as a square of one direction
DEEP = 64  # pairs of an output latent that are looked through for one that qualifies
ANY = 16  # tokens of the vocabulary that stand for any
BATCH = 50


@dataclass(frozen=True)
class Pair:
    """A candidate: output latent ``out`` = … + coefficient · a_f a_g, and what the pair must reach
    to switch it on alone.
    """

    out: int
    f: int
    g: int
    coefficient: float
    needed: float  # a_f a_g at which the term alone is the threshold of ``out``


@dataclass(frozen=True)
class Study:
    """An MLP's tensor between two dictionaries. ``logp`` (what was there before, what the MLP adds)
    → log-probabilities of the next token; ``promoted``: the tokens that each output latent writes
    for."""

    tensor: CP
    inputs: Dictionary
    outputs: Dictionary
    logp: Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Float[Tensor, "n vocab"]]
    promoted: Int[Tensor, "f_out k"]

    @property
    def interactions(self) -> Interactions:
        return interactions(self.tensor, self.outputs, self.inputs)


@dataclass(frozen=True)
class Text:
    """At every token of some blocks: the stream before the MLP (``mid``), what the MLP reads
    (``x``), and which latents are active on either side. ``block``: which block it is in."""

    ids: Int[Tensor, "b t"]
    block: Int[Tensor, " n"]
    mid: Float[Tensor, "n d"]
    x: Float[Tensor, "n d"]
    reads: Bool[Tensor, "n f_in"]
    fires: Bool[Tensor, "n f_out"]


def mlp_of(model: Transformer, layer: int) -> Any:
    return model.blocks[layer].mlp


def study_of(
    model: Transformer,
    layer: int,
    inputs: Dictionary,
    outputs: Dictionary,
    tensor: CP | None = None,
) -> Study:
    """The last MLP of ``model``: its output meets the final norm and the unembedding alone.
    ``tensor``: what is read in place of its own.
    """

    def logp(mid: Tensor, out: Tensor) -> Tensor:
        return model.lm_head(model.model.norm(mid + out)).log_softmax(-1)

    norm: Any = model.model.norm
    scores = (outputs.writes * norm.weight) @ model.W_U
    promoted = (scores - scores.mean(1, keepdim=True)).topk(PROMOTED, dim=1).indices
    own = mlp_of(model, layer).tensor().detach() if tensor is None else tensor
    return Study(own, inputs, outputs, logp, promoted)


def read(model: Transformer, study: Study, layer: int, ids: Int[Tensor, "b t"]) -> Text:
    """``ids`` run through the model. Memory: 2 n d numbers and n (f_in + f_out) bytes."""
    heard: dict[str, list[Tensor]] = {"x": [], "end": []}
    with (
        hooked(mlp_of(model, layer), "input", lambda x: heard["x"].append(x.flatten(0, 1))),
        hooked(model.model.norm, "input", lambda end: heard["end"].append(end.flatten(0, 1))),
    ):
        for batch in ids.split(BATCH):
            model(input_ids=batch, use_cache=False, logits_to_keep=1)
    x, outs = torch.cat(heard["x"]), [study.tensor(part) for part in heard["x"]]
    reads = torch.cat([study.inputs.encode(part) > 0 for part in heard["x"]])
    fires = torch.cat([study.outputs.encode(out) > 0 for out in outs])
    block = torch.arange(len(ids)).repeat_interleave(ids.shape[1])
    return Text(ids, block, torch.cat(heard["end"]) - torch.cat(outs), x, reads, fires)


def candidates(study: Study, count: int) -> list[Pair]:
    """From weights alone: each output latent's largest positive 2 Q_fg with |cos(w_f, w_g)| <
    ``STRAIGHT``, and of those the ``count`` that need the smallest product a_f a_g to reach the
    latent's threshold by themselves."""
    whole, threshold = study.interactions, study.outputs.threshold
    assert threshold is not None
    found = []
    for out in range(whole.shape[0]):
        top = whole.of(out).top(DEEP, "cross")
        f, g = top.indices.unbind(1)
        w = study.inputs.writes
        straight = torch.cosine_similarity(w[f], w[g], dim=1).abs() >= STRAIGHT
        for n in ((top.coefficients > 0) & ~straight).nonzero()[:1, 0].tolist():
            c = float(top.coefficients[n])
            found.append(Pair(out, int(f[n]), int(g[n]), c, float(threshold[out]) / c))
    return sorted(found, key=lambda pair: pair.needed)[:count]


def random_pairs(study: Study, pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same output latents, each with two input latents drawn at random whose term is positive
    too.
    """
    draw, whole, found = torch.Generator().manual_seed(seed), study.interactions, []
    for pair in pairs:
        form, w = whole.of(pair.out).form, study.inputs.writes
        while True:
            f, g = torch.randint(len(w), (2,), generator=draw).tolist()
            c = float(form(w[f] + w[g]) - form(w[f]) - form(w[g]))  # 2 Q_fg
            if f != g and c > 0:
                break
        found.append(Pair(pair.out, f, g, c, pair.needed * pair.coefficient / c))
    return found


def names_by_weights(
    model: Transformer, study: Study, layer: int, spell: Callable[[int], str], count: int = PROMOTED
) -> list[str]:
    """Input latents by the tokens they answer most in texts of two tokens: as the last ("at"), or
    as the one before it.

    The other token is each of ``ANY``, and the pre-activation its mean over them. Of the two places
    the one that reaches higher.
    """
    vocabulary = model.config.vocab_size
    means = {}
    for place in ("at", "after"):
        total = torch.zeros(vocabulary, study.inputs.n_latents)
        for other in range(0, vocabulary, vocabulary // ANY):
            each = torch.stack([torch.full((vocabulary,), other), torch.arange(vocabulary)], 1)
            heard: list[Tensor] = []
            with hooked(
                mlp_of(model, layer), "input", lambda x, heard=heard: heard.append(x[:, 1])
            ):
                model(
                    input_ids=each if place == "at" else each.flip(1),
                    use_cache=False,
                    logits_to_keep=1,
                )
            total += study.inputs.pre(heard[0]) / ANY
        means[place] = total.topk(count, dim=0)
    found = []
    for latent in range(study.inputs.n_latents):
        place = max(means, key=lambda name: float(means[name].values[0, latent]))
        tokens = means[place].indices[:, latent].tolist()
        found.append(f"{place} {' '.join(map(spell, tokens))}")
    return found


def names_by_text(
    study: Study, text: Text, spell: Callable[[int], str], count: int = 2
) -> list[str]:
    """Input latents by the tokens that hold most of their activation: where they are active ("at"),
    or one before.

    Of these two places that in which the ``count`` first tokens hold the larger share, and that
    share.
    """
    vocabulary = len(study.logp(text.mid[:1], text.mid[:1])[0])
    before = torch.cat([torch.full_like(text.ids[:, :1], -1), text.ids[:, :-1]], 1)
    shares = {}
    for place, tokens in (("at", text.ids.flatten()), ("after", before.flatten())):
        mass = torch.zeros(vocabulary, study.inputs.n_latents)
        for part in torch.arange(len(tokens)).split(8192):
            known = part[tokens[part] >= 0]
            mass.index_add_(0, tokens[known], study.inputs.encode(text.x[known]))
        shares[place] = (mass / mass.sum(0).clamp(min=1e-30)).topk(count, dim=0)
    found = []
    for latent in range(study.inputs.n_latents):
        place = max(shares, key=lambda name: float(shares[name].values[:, latent].sum()))
        values, tokens = shares[place].values[:, latent], shares[place].indices[:, latent]
        spelt = " ".join(spell(token) for token in tokens.tolist())
        found.append(f"{place} {spelt} ({float(values.sum()):.0%})")
    return found
