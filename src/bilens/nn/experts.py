"""A mixture of experts: many MLPs, of which a router picks a few for each token."""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.base.errors import ConfigError, NotExactError, ShapeError
from bilens.base.numerics import is_whole, working_dtype
from bilens.nn.mlp import MLP, GatedMLP


class Share(NamedTuple):
    """What is routed to one expert: which rows of what the layer reads, and each one's weight.

    >>> bilens.nn.Share(torch.tensor([0, 2]), torch.tensor([0.5, 1.0])).rows
    tensor([0, 2])
    """

    rows: Int[Tensor, " m"]
    weights: Float[Tensor, " m"]


class Experts(nn.Module):
    """m(x) = Σ_e r_e(x) m_e(x) over the ``active`` experts of the largest p = softmax(gate x).

    r_e is p_e, over their sum where ``normalised``. Each expert runs on the tokens that are routed
    to it alone. Parameters are named as in the files of Qwen3-MoE and OLMoE: gate.weight,
    experts.3.up_proj.weight; Mixtral's are the same under other names. ``bias``: one of the router
    too. Sources: Shazeer et al., arXiv:1701.06538; Fedus et al., arXiv:2101.03961.

    >>> experts = [bilens.nn.GatedMLP(8, 16) for _ in range(4)]
    >>> layer = bilens.nn.Experts(experts, active=2)
    >>> layer(torch.randn(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        experts: Sequence[GatedMLP | MLP],
        active: int,
        *,
        normalised: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if not is_whole(active) or not 1 <= active <= len(experts):
            must = f"be 1 … {len(experts)}, the number of experts"
            raise ConfigError("active", must=must, got=repr(active))
        _require_one_width(experts)
        self.active, self.normalised = active, normalised
        self.gate = nn.Linear(experts[0].readers[0].in_features, len(experts), bias=bias)
        self.experts = nn.ModuleList(experts)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        flat = x.reshape(-1, x.shape[-1])
        out = torch.zeros_like(flat)
        for (rows, weights), expert in zip(self.shares(flat), self.experts, strict=True):
            # while training also on no rows: of several processes each has every gradient then
            if len(rows) or self.training:
                written = weights[:, None] * expert(flat[rows])
                out.index_add_(0, rows, written.to(out.dtype))
        return out.view_as(x)

    def reads(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "_ d"]]:
        """What each expert reads of ``x``: the rows that are routed to it."""
        return [x[share.rows] for share in self.shares(x.to(self.gate.weight.dtype))]

    def shares(self, x: Float[Tensor, "n d"]) -> list[Share]:
        """What is routed to each expert, rows in their order."""
        probabilities, chosen = self._route(x)
        weights = probabilities.gather(-1, chosen)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)  # by expert, then by row
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        rows = (order // self.active).split(counts)
        return list(map(Share, rows, weights.flatten()[order].split(counts)))

    def balance(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, ""]:
        """E Σ_e f_e p_e: f_e of all tokens are routed to expert e, whose mean probability is p_e.

        It is ``active`` where all have their equal share, and larger where few have most. Fedus et
        al., arXiv:2101.03961, equations 4 to 6. Errors: ShapeError for no tokens.
        """
        if not x.numel():
            raise ShapeError("balance(x)", must="hold a token", got=tuple(x.shape))
        probabilities, chosen = self._route(x.reshape(-1, x.shape[-1]))
        count = chosen.flatten().bincount(minlength=len(self.experts))
        return len(self.experts) * (count / len(chosen) * probabilities.mean(0)).sum()

    @property
    def mlps(self) -> list[GatedMLP | MLP]:
        """The experts, in order."""
        return list(self.experts)  # type: ignore[arg-type]

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """What reads the residual stream: the router too."""
        return self.gate, *(reader for expert in self.mlps for reader in expert.readers)

    @property
    def writers(self) -> tuple[nn.Linear, ...]:
        """What writes to it."""
        return tuple(writer for expert in self.mlps for writer in expert.writers)

    def tensor(self) -> NoReturn:
        """Errors: NotExactError, whatever the experts are: the router weighs them by the input."""
        raise NotExactError(
            "Experts.tensor()",
            must="be asked of one expert",
            got=f"{len(self.experts)} of them, weighed by a router",
            todo="experts[0].tensor() is that of the first, where it is bilinear.",
        )

    def _route(self, x: Tensor) -> tuple[Float[Tensor, "n e"], Int[Tensor, "n k"]]:
        """The router's probabilities, in float32 or better, and the experts that it picks."""
        logits = self.gate(x)
        probabilities = logits.softmax(-1, dtype=working_dtype(logits.dtype))
        return probabilities, probabilities.topk(self.active, -1).indices


def _require_one_width(experts: Sequence[GatedMLP | MLP]) -> None:
    """Raise ConfigError unless all read and write one width."""
    width = experts[0].readers[0].in_features
    for n, expert in enumerate(experts):
        ends = {each.in_features for each in expert.readers}
        ends |= {each.out_features for each in expert.writers}
        if ends != {width}:
            got = ", ".join(map(str, sorted(ends)))
            raise ConfigError(f"experts[{n}]", must=f"read and write {width}", got=got)
