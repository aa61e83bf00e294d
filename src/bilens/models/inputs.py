"""What a person passes as token ids: tensors, lists, or what a tokenizer returns, padding and
all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import as_given

READ = {"input_ids", "attention_mask", "position_ids"}
# a tokenizer's own, for other models
UNREAD = {"token_type_ids", "special_tokens_mask", "offset_mapping", "length"}
CHAT = (
    "ids = tokenizer.apply_chat_template(messages, return_dict=True, "
    'return_tensors="pt") writes them out.'
)


class Rows(NamedTuple):
    """Token ids, and which of them are text rather than padding: in each row one run.

    >>> rows = bilens.models.token_rows([[1, 2, 3]])
    >>> rows.ids, rows.real
    (tensor([[1, 2, 3]]), tensor([[True, True, True]]))
    """

    ids: Int[Tensor, "b t"]
    real: Bool[Tensor, "b t"]

    def to(self, device: torch.device) -> "Rows":
        return Rows(self.ids.to(device), self.real.to(device))

    def arguments(self) -> dict[str, Tensor]:
        """What a model is called with to read them: a mask and positions where there is padding."""
        if bool(self.real.all()):
            return {"input_ids": self.ids}
        padded = {"attention_mask": self.real.long(), "position_ids": positions(self.real)}
        return {"input_ids": self.ids} | padded


def token_rows(given: Any) -> Rows:
    """Ids (t,) or (b, t) as a tensor or list; (ids, mask); or a mapping with input_ids, as
    tokenizers return one.

    Without a mask every id is text, as it is to the model: padding then shows by its name. Errors:
    ArgumentError and ShapeError for anything else, in one line.

    >>> bilens.models.token_rows(model.tokenizer("Once upon")).ids.shape
    torch.Size([1, 2])
    """
    if isinstance(given, Mapping):
        return _named(given)
    if (
        isinstance(given, tuple)
        and len(given) == 2
        and all(isinstance(part, Tensor) for part in given)
    ):
        return _masked(*given)
    return _masked(given, None)


def positions(real: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """The position of each token in its own text: padding has none and stands at 0.

    >>> bilens.models.positions(torch.tensor([[False, True, True]]))
    tensor([[0, 0, 1]])
    """
    return (real.long().cumsum(-1) - 1).clamp(min=0)


def _named(given: Mapping[str, Any]) -> Rows:
    if "input_ids" not in given:
        keys = ", ".join(map(str, given)) or "nothing"
        raise ArgumentError("inputs", must="hold input_ids", got=keys)
    for key, value in given.items():
        if key not in READ | UNREAD and value is not None:
            raise ArgumentError(
                f"inputs[{key!r}]",
                must=f"be one of {', '.join(sorted(READ))}",
                got="a key not read here",
            )
    rows = _masked(given["input_ids"], given.get("attention_mask"))
    where = given.get("position_ids")
    if where is not None and not torch.equal(
        _numbers("position_ids", where)[rows.real], positions(rows.real)[rows.real]
    ):
        raise ArgumentError(
            "inputs['position_ids']", must="count the tokens from 0", got="other positions"
        )
    return rows


def _masked(given: Any, mask: Any) -> Rows:
    ids = _numbers("inputs", given)
    if mask is None:
        return Rows(ids, torch.ones_like(ids, dtype=torch.bool))
    seen = as_given(mask)
    seen = seen[None] if seen.ndim == 1 else seen
    if seen.shape != ids.shape or not bool(((seen == 0) | (seen == 1)).all()):
        must, got = f"be 0 and 1, {tuple(ids.shape)}", f"{seen.dtype} {tuple(seen.shape)}"
        raise ShapeError("attention_mask", must=must, got=got)
    real = seen.to(ids.device) == 1
    begins = (
        torch.diff(real.int(), dim=1, prepend=torch.zeros_like(ids[:, :1], dtype=torch.int32)) == 1
    )
    if int(begins.sum(1).max()) > 1:
        raise ArgumentError(
            "attention_mask",
            must="leave one run of tokens in each row",
            got="a hole between tokens",
        )
    return Rows(ids, real)


def _numbers(who: str, given: Any) -> Int[Tensor, "b t"]:
    """Whole numbers (t,) or (b, t), at least one, as (b, t)."""
    try:
        ids = as_given(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _no_ids(who, given, str(error)) from error
    if ids.is_meta or ids.layout != torch.strided:
        raise ShapeError(
            who, must="be a dense tensor that holds its values", got=f"{ids.layout} on {ids.device}"
        )
    if ids.numel() == 0:
        raise ArgumentError(who, must="hold at least one token", got="none")
    if (
        ids.is_floating_point()
        or ids.is_complex()
        or ids.dtype == torch.bool
        or ids.ndim not in (1, 2)
    ):
        got = f"{ids.dtype} {tuple(ids.shape)}"
        raise ShapeError(who, must="be one text, or its token ids (t,)", got=got)
    return ids.to(torch.int64).reshape(-1, ids.shape[-1])


def _no_ids(who: str, given: Any, error: str) -> ArgumentError:
    must = "be one text, or its token ids (t,)"
    first = given[0] if isinstance(given, Sequence) and len(given) else None
    if isinstance(first, str):
        return ArgumentError(
            who,
            must=must,
            got=f"a {type(given).__name__} of texts",
            todo="Ask about one at a time.",
        )
    if isinstance(first, Mapping):
        return ArgumentError(who, must=must, got="chat messages", todo=CHAT)
    return ArgumentError(who, must=must, got=f"{type(given).__name__}: {error}")
