"""How a dictionary is learned: a plain loop over batches of activations, which stream by and are
never all held.

x is scaled to mean square 1 about its mean (undone in the end), b_dec starts at that mean, W_enc as
the transpose of W_dec, whose rows are of unit length throughout. The loss is the mean squared error
over the variance, and by architecture

    batchtopk, topk   nothing: k latents are kept, of each row, or on average over the first eighth
                      of a batch, whose rows are to come shuffled
    standard          sparsity · Σ a
    jumprelu          sparsity · number of active latents, whose gradient is the threshold's through
                      a kernel of width ``KERNEL`` around it (Rajamanoharan et al.,
                      arXiv:2407.14435, section 3)

Of every architecture, latents that have not been active for long learn to write what the others
miss, the 2 k largest of them a row (AuxK: Gao et al., arXiv:2406.04093, section 2.3).

A batchtopk dictionary ends as jumprelu: its threshold is the running mean of the smallest value
kept in a batch (Bussmann et al., arXiv:2412.06410).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, ConfigError, ShapeError
from bilens.base.fields import setting
from bilens.base.keys import Between, Keys, Number, OneOf, Whole, each
from bilens.base.numerics import (
    dtype_name,
    holds_several,
    near_one,
    require_finite,
    require_floating,
    scaled,
    seeded,
    standard_normal,
    working_dtype,
)
from bilens.base.progress import Progress, require_progress

LEARNED = ("batchtopk", "topk", "jumprelu", "standard")
FIRST = 16  # batches that scale and mean are taken from
DEAD = 200  # steps without being active after which a latent counts as dead
# a batch's threshold is taken from one row in so many: finding it costs as much as all products
# otherwise
SAMPLE = 8
AUX = 1 / 32  # weight of what dead latents miss
KERNEL = 0.05  # of the activations' root mean square about their mean
FIELDS = Keys(
    {
        "architecture": OneOf(LEARNED),
        **each(("expansion", "k", "steps", "batch_size"), Whole(1)),
        "seed": Between(0, 2**63 - 1),
        **each(("sparsity", "learning_rate"), Number(least=0)),
    }
)


@dataclass(frozen=True)
class DictionaryRecipe:
    """All that decides a dictionary but the activations. ``expansion``: latents for each dimension
    that is read.

    ``k``: latents kept a row, for topk and batchtopk; of all four, half as many as there are dead
    ones that learn from a row. ``sparsity``: weight of the penalty, for the other two.

    >>> bilens.features.DictionaryRecipe(k=20, steps=1000).architecture
    'batchtopk'
    """

    architecture: str = setting(LEARNED[0], "batchtopk, topk, jumprelu or standard.", LEARNED)
    expansion: int = setting(8, "Latents for each dimension of the place.")
    k: int = setting(30, "Latents active a token, for topk and batchtopk.")
    sparsity: float = setting(1e-3, "Weight of the penalty, for jumprelu and standard.")
    steps: int = setting(5000, "Optimiser steps.")
    batch_size: int = setting(2048, "Tokens per step.")
    learning_rate: float = setting(1e-3, "Peak learning rate of Adam.")
    seed: int = setting(0, "Seed of every random choice.", min=0, max=2**32 - 1)

    def __post_init__(self) -> None:
        FIELDS.check_fields(self)

    def latents(self, width: int) -> int:
        """How many latents a dictionary of a place of that width has. Errors: ConfigError where
        more than these are to be kept.

        >>> bilens.features.DictionaryRecipe(expansion=4).latents(128)
        512
        """
        size = self.expansion * width
        if self.architecture in ("topk", "batchtopk") and self.k > size:
            must = f"be at most {size}, the latents of width {width} at expansion {self.expansion}"
            raise ConfigError("k", must=must, got=self.k)
        return size


def learned(
    batches: Iterable[Float[Tensor, "n d"]],
    how: DictionaryRecipe,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The fields of a dictionary (see ``Dictionary.train``), learned with gradients whatever mode
    the caller is in.
    """
    require_progress("progress", progress)
    with torch.inference_mode(False), torch.enable_grad():
        return _learned(batches, how, progress)


def _learned(
    batches: Iterable[Float[Tensor, "n d"]],
    how: DictionaryRecipe,
    progress: Progress | None,
) -> dict[str, Any]:
    stream = _alike(batches)
    first = list(islice(stream, min(FIRST, how.steps)))
    if not first:
        raise ArgumentError("activations", must="hold at least one batch", got="none")
    learner = _Learner(torch.cat(first), how)
    optimiser = torch.optim.Adam(learner.parameters(), how.learning_rate, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, how.steps))
    for step in range(how.steps):
        x = first[step] if step < len(first) else next(stream, None)
        if x is None:
            todo = "Pass more activations, or go over them again."
            raise ArgumentError(
                "activations", must=f"last for {how.steps} steps", got=f"{step} batches", todo=todo
            )
        loss, active = learner(x)
        optimiser.zero_grad()
        loss.backward()
        learner.aim()
        optimiser.step()
        learner.unit()
        rate.step()
        if step % 50 == 49 or step + 1 == how.steps:
            require_finite("learn", loss=loss)
            if progress is not None:
                figures = {
                    "loss": float(loss.detach()),
                    "L0": float(active),
                    "dead": float(learner.dead.float().mean()),
                }
                progress(step + 1, how.steps, figures, "steps")
    return learner.fields()


class _Learner(nn.Module):
    """The parameters while they are learned, on scaled activations."""

    def __init__(self, x: Float[Tensor, "n d"], how: DictionaryRecipe) -> None:
        super().__init__()
        require_finite("learn", activations=x)
        self.how, d, mean = how, x.shape[1], x.double().mean(0)
        size = how.latents(d)
        spread, power = near_one(x - mean)  # squares of what is tiny would vanish
        self.scale = float(scaled(spread.square().mean().sqrt(), power)) or 1.0
        generator = seeded(how.seed)
        rows = standard_normal(size, d, generator=generator, dtype=torch.float32).to(x)
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.W_enc = nn.Parameter(self.W_dec.detach().mT.clone())
        self.b_enc = nn.Parameter(torch.zeros_like(self.W_dec[:, 0]))
        self.b_dec = nn.Parameter((mean / self.scale).to(x))
        self.log_threshold = nn.Parameter(
            torch.full_like(self.b_enc, 0.1).log(), how.architecture == "jumprelu"
        )
        # steps since a latent was last active
        self.asleep = torch.zeros_like(self.b_enc, dtype=torch.int64)
        self.least = 0.0  # running mean of the smallest value kept

    @property
    def dead(self) -> Tensor:
        return self.asleep >= DEAD

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and how many latents are active a row."""
        x = x / self.scale
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        a, penalty = self.sparse(pre)
        missed = x - a @ self.W_dec - self.b_dec
        loss = missed.square().mean() + penalty + AUX * self.waking(pre, missed.detach())
        active = a.detach() > 0
        self.asleep = torch.where(active.any(0), 0, self.asleep + 1)
        return loss, active.sum() / len(x)

    def sparse(self, pre: Float[Tensor, "n f"]) -> tuple[Float[Tensor, "n f"], Tensor | float]:
        match self.how.architecture:
            case "topk":
                values, at = pre.topk(self.how.k, dim=-1)
                return torch.zeros_like(pre).scatter(-1, at, values.relu()), 0.0
            case "batchtopk":
                positive = pre.relu()
                some = positive.detach()[: -(-len(pre) // SAMPLE)].flatten()  # rows come shuffled
                least = float(some.topk(some.numel() * self.how.k // pre.shape[1]).values[-1])
                self.least = least if not self.least else 0.99 * self.least + 0.01 * least
                return positive * (positive >= least), 0.0
            case "jumprelu":
                a, on = _Jump.apply(pre, self.log_threshold.exp())  # type: ignore[misc]
                return a, self.how.sparsity * on.sum(-1).mean()
        a = pre.relu()
        return a, self.how.sparsity * a.sum(-1).mean()  # rows of W_dec are of unit length

    def waking(self, pre: Float[Tensor, "n f"], missed: Float[Tensor, "n d"]) -> Tensor | float:
        """How badly dead latents write what the others miss: what gives them a gradient."""
        dead = self.dead.nonzero()[:, 0]
        if not len(dead):
            return 0.0
        values, at = pre[:, dead].topk(min(len(dead), 2 * self.how.k), dim=-1)
        a = torch.zeros(len(pre), len(dead), device="cpu").to(pre).scatter(-1, at, values.relu())
        off = (missed - a @ self.W_dec[dead]).square().sum(-1).mean()
        return off / missed.square().sum(-1).mean().clamp(min=1e-12)

    @torch.no_grad()
    def aim(self) -> None:
        """Take from the gradient of W_dec what would only change the length of its rows."""
        grad = self.W_dec.grad
        assert grad is not None
        grad -= (grad * self.W_dec).sum(-1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def unit(self) -> None:
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12)

    @torch.no_grad()
    def fields(self) -> dict[str, Any]:
        """As values for activations as they are: biases and thresholds scaled back."""
        require_finite("the dictionary", **dict(self.named_parameters()))
        kind, tensors = self.how.architecture, dict[str, Any]()
        if kind == "jumprelu":
            tensors["threshold"] = self.log_threshold.exp() * self.scale
        if kind == "batchtopk":
            kind, tensors["threshold"] = (
                "jumprelu",
                torch.full_like(self.b_enc, self.least) * self.scale,
            )
        # laid out as it will be when it is loaded, so that it rounds alike
        whole = torch.contiguous_format
        tensors |= {
            name: getattr(self, name).detach().clone(memory_format=whole)
            for name in ("W_enc", "W_dec")
        }
        tensors |= {
            "b_enc": self.b_enc.detach() * self.scale,
            "b_dec": self.b_dec.detach() * self.scale,
        }
        return tensors | {
            "architecture": kind,
            "k": self.how.k if kind == "topk" else None,
            "centred": True,
        }


class _Jump(torch.autograd.Function):
    """pre where it is above the threshold, and whether it is; gradients to the threshold through a
    box of width KERNEL.
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pre, threshold)
        on = (pre > threshold).to(pre)
        return pre.relu() * on, on

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        pre, threshold = ctx.saved_tensors
        of_a, of_on = grads
        near = ((pre - threshold).abs() < KERNEL / 2).to(pre) / KERNEL
        return of_a * (pre > threshold), -((of_a * threshold + of_on) * near).sum(0)


def _alike(batches: Iterable[Float[Tensor, "n d"]]) -> Iterator[Float[Tensor, "n d"]]:
    """``batches``, each of which must hold rows, of the first one's width and dtype; half types
    raised to float32, and off the graph that made them.
    """
    like: Tensor | None = None
    if not holds_several(batches):
        must, got = "be batches of rows", type(batches).__name__
        raise ArgumentError("activations", must=must, got=got)
    for x in batches:
        if not isinstance(x, Tensor):
            raise ShapeError("activations", must="be tensors of rows (n, d)", got=type(x).__name__)
        like = x if like is None else like
        require_floating("activations", x.dtype)
        if x.ndim != 2 or not len(x) or (x.shape[1], x.dtype) != (like.shape[1], like.dtype):
            must = "be (n ≥ 1, d), all batches of one d and dtype"
            raise ShapeError(
                "activations", must=must, got=f"{tuple(x.shape)} in {dtype_name(x.dtype)}"
            )
        yield x.detach().to(working_dtype(x.dtype))


def _rate(step: int, steps: int) -> float:
    """Of the learning rate: up over the first 2 %, flat, and down to 0 over the last third."""
    up, down = max(1, steps // 50), max(1, steps // 3)
    return min(1.0, (step + 1) / up, (steps - step) / down)
