"""One candidate on held-out text: do its two latents make the third together, and does the model's
prediction need both?

With L the log-probability of the promoted tokens together, and L₋f, L₋g, L₋fg the same after a_f
w_f, a_g w_g or both were taken off what the MLP reads (all that the MLP adds, and the final norm,
react; the stream itself is left as it is):

    effect of f with g: L − L₋f      without g: L₋g − L₋fg      interaction: L − L₋f − L₋g + L₋fg

Inside the MLP a pair's interaction is its term, by algebra; that it moves the prediction through
the norm, for these tokens more than for others, by this pair more than by others, and that f does
little without g, are what can fail.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.case_study.study import Pair, Study, Text

# positions with both latents, and blocks they are spread over, below which nothing is said
LEAST, BLOCKS = 20, 10
TOGETHER, SHARE = 2.0, 0.1
# positions intervened on, and other output latents whose tokens are compared with
MOST, OTHERS = 300, 50
DRAWS, LEVEL = 10_000, 0.999
CHECKS = {
    "occurs": f"both latents are active at {LEAST} positions or more, in {BLOCKS} blocks or more",
    "together": f"where both are, the output latent fires at least {TOGETHER:g} times as often as "
    "with either alone",
    "share": f"where it fires, the pair's own term is at least {SHARE:.0%} of its pre-activation",
    "interaction": "the interaction on its promoted tokens is positive",
    "this pair": "it is larger than that of random other pairs, active at the same positions, "
    "on these tokens",
    "these tokens": "it is larger than the same pair's on the tokens of random other "
    "output latents",
    "needs both": "taking out either makes the tokens less likely, and by at most half as much "
    "where the other is out",
}


@dataclass(frozen=True)
class Verdict:
    """What was measured of a candidate: ``figures`` are means with their intervals, ``checks`` what
    it passed.
    """

    pair: Pair
    count: int
    rates: dict[str, float]  # of the output latent's firing: with both, with f alone, with g alone
    share: float
    term: float
    figures: dict[str, tuple[float, float, float]]
    checks: dict[str, bool]
    positions: Int[Tensor, " m"]  # intervened on
    sizes: Float[Tensor, " m"]  # interaction at each

    @property
    def passed(self) -> bool:
        return all(self.checks.values())

    @property
    def failed_first(self) -> str:
        return next((name for name, passed in self.checks.items() if not passed), "")


@torch.no_grad()
def confirm(study: Study, text: Text, pair: Pair, seed: int = 0) -> Verdict:
    f, g = text.reads[:, pair.f], text.reads[:, pair.g]
    both, fires = f & g, text.fires[:, pair.out]
    rates = {
        "both": rate(fires[both]),
        "f alone": rate(fires[f & ~g]),
        "g alone": rate(fires[g & ~f]),
    }
    at = both.nonzero()[:, 0]
    blocks = len(text.block[at].unique())
    checks = dict.fromkeys(CHECKS, False) | {"occurs": len(at) >= LEAST and blocks >= BLOCKS}
    if not checks["occurs"]:
        nothing = torch.zeros(0)
        return Verdict(pair, len(at), rates, 0.0, 0.0, {}, checks, at, nothing)
    at = at[torch.linspace(0, len(at) - 1, min(MOST, len(at))).long()]
    a = study.inputs.encode(text.x[at])
    term = pair.coefficient * a[:, pair.f] * a[:, pair.g]
    on = fires[at]
    share = (
        float(term[on].sum() / study.outputs.pre(study.tensor(text.x[at[on]]))[:, pair.out].sum())
        if on.any()
        else 0.0
    )
    draw = torch.Generator().manual_seed(seed)
    each = effects(study, text, pair, at, a, draw)
    means = intervals(each, text.block[at])
    size = means["interaction"][0]
    checks |= {
        "together": rates["both"] >= TOGETHER * max(rates["f alone"], rates["g alone"])
        and rates["both"] > 0,
        "share": share >= SHARE,
        "interaction": means["interaction"][1] > 0,
        "this pair": means["over other pairs"][1] > 0,
        "these tokens": means["over other tokens"][1] > 0,
        "needs both": all(
            means[side][1] > 0 and size >= means[side][0] / 2 for side in ("f with g", "g with f")
        ),
    }
    return Verdict(
        pair,
        int(both.sum()),
        rates,
        share,
        float(term.mean()),
        means,
        checks,
        at,
        each["interaction"],
    )


def effects(
    study: Study, text: Text, pair: Pair, at: Tensor, a: Tensor, draw: torch.Generator
) -> dict[str, Tensor]:
    """What the module's head defines, at each position ``at`` with input latents ``a``, and the
    controls.
    """
    x, mid, w = text.x[at], text.mid[at], study.inputs.writes
    tokens = study.promoted[pair.out]

    def four(one: Tensor, two: Tensor) -> list[Tensor]:
        """Log-probabilities with all, without one, without two, without both: of latents given for
        each position.
        """
        first, second = (a.gather(1, latent[:, None]) * w[latent] for latent in (one, two))
        return [
            study.logp(mid, study.tensor(z)) for z in (x, x - first, x - second, x - first - second)
        ]

    def crossed(logp: list[Tensor], tokens: Tensor) -> Tensor:
        whole, no_f, no_g, none = (each[:, tokens].logsumexp(-1) for each in logp)
        return whole - no_f - no_g + none

    mine = four(*(torch.full_like(at, latent) for latent in (pair.f, pair.g)))
    whole, no_f, no_g, none = (each[:, tokens].logsumexp(-1) for each in mine)
    own = crossed(mine, tokens)
    free = (a > 0) + 1e-9  # a latent that is off does nothing: drawn only where too few are on
    free[:, [pair.f, pair.g]] = 0
    other = torch.multinomial(free, 2, generator=draw)
    pairs = crossed(four(*other.unbind(1)), tokens)
    out = torch.randperm(len(study.promoted), generator=draw)
    out = out[out != pair.out][:OTHERS]
    elsewhere = torch.stack([crossed(mine, study.promoted[each]) for each in out.tolist()]).mean(0)
    return {
        "f with g": whole - no_f, "f without g": no_g - none,
        "g with f": whole - no_g, "g without f": no_f - none,
        "interaction": own, "other pairs": pairs, "other tokens": elsewhere,
        "over other pairs": own - pairs, "over other tokens": own - elsewhere,
    }  # fmt: skip


def rate(fires: Tensor) -> float:
    return float(fires.float().mean()) if len(fires) else 0.0


def intervals(
    values: dict[str, Float[Tensor, " n"]], block: Int[Tensor, " n"], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Means, and their bootstrap intervals over blocks: text in one block is not independent."""
    columns = torch.stack([*values.values()], 1).double()
    _, which = block.unique(return_inverse=True)
    count = torch.bincount(which).double()
    total = columns.new_zeros(len(count), columns.shape[1]).index_add_(0, which, columns)
    chosen = torch.randint(
        len(count), (DRAWS, len(count)), generator=torch.Generator().manual_seed(seed)
    )
    times = columns.new_zeros(chosen.shape).scatter_add_(
        1, chosen, columns.new_ones(()).expand(chosen.shape)
    )
    means = (times @ total) / (times @ count)[:, None]
    low, high = means.quantile(
        torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=means.dtype), dim=0
    )
    found = zip(columns.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return dict(zip(values, found, strict=True))
