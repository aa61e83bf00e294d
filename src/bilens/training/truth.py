"""A language model held against the rules that made its data, where these are known.

A file of rules is JSON. ``ranges``: tokens by kind, [first, after the last]; ``special``: such as
``bos``, which then begins every prompt. Any of: ``bigram``, what follows a token and how often;
``skip``, [earlier, current, next], the earlier one at most ``skip_max`` tokens before;
``induction``, after a token that occurred before, ``min_distance`` tokens back or more, comes what
came then, for every kind that it does not name under ``never``. Other keys say how data are made.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bilens.base.charts import ranked
from bilens.base.errors import ArgumentError, ConfigError
from bilens.base.keys import Maybe, Number, Table, Whole, require
from bilens.base.reading import naming, read_json_object
from bilens.base.records import Record
from bilens.base.results import Result
from bilens.models import Transformer, evaluating

FILLER, SPECIAL = "filler", "special"
APART = 12  # the farthest that an earlier token is put, where no rule says how far
DISTANCES = 4  # between a token and where it came before, that are tried
PAIRS = 4096  # of tokens that induction is tried on, spread evenly over all
BATCH = 4096

Answers = Callable[[Int[Tensor, "n t"]], Float[Tensor, "n vocab"]]


@dataclass(frozen=True)
class Truth(Record):
    """The rules of a language: ``bigram`` as (token, (next, chance), …), ``skip`` as (earlier,
    current, next), and ``repeats``: the tokens after which comes what came before. ``begin`` opens
    a prompt where there is such a token, and ``fillers`` stand between.

    >>> truth = bilens.training.Truth(bigram=((0, ((1, 0.75), (2, 0.25))),), fillers=(3,))
    >>> truth.largest
    3
    """

    bigram: tuple[tuple[int, tuple[tuple[int, float], ...]], ...] = ()
    skip: tuple[tuple[int, int, int], ...] = ()
    reach: int = APART
    repeats: tuple[int, ...] = ()
    distance: int = 2
    fillers: tuple[int, ...] = ()
    begin: int | None = None

    def __post_init__(self) -> None:
        require("Truth.reach", self.reach, Whole(1))
        require("Truth.distance", self.distance, Whole(2))
        if len(set(self.repeats)) == 1:  # X Y … X is asked of two
            must = "be of two tokens that repeat at least, or of none"
            raise ConfigError("induction", must=must, got=f"token {self.repeats[0]} alone")

    @property
    def largest(self) -> int:
        """The largest token that a rule names."""
        bigram = [n for token, nexts in self.bigram for n in (token, *(m for m, _ in nexts))]
        begin = () if self.begin is None else (self.begin,)
        named = (bigram, *self.skip, self.repeats, self.fillers, begin)
        return max(itertools.chain(*named), default=0)

    @property
    def longest(self) -> int:
        """The tokens of the longest prompt that its rules are asked with."""
        lengths = [1] if self.bigram else []
        lengths += [2 + max(self.skip_gaps)] if self.skip else []
        lengths += [3 + max(self.repeat_gaps)] if len(self.repeats) > 1 else []
        return max(lengths, default=0) + (self.begin is not None)

    @property
    def skip_gaps(self) -> range:
        """The fillers between the two tokens of a skip rule that are tried."""
        return range(self.reach if self.fillers else 1)

    @property
    def repeat_gaps(self) -> tuple[int, ...]:
        """The fillers before a token that comes again that are tried."""
        ends = self.distance, max(APART, self.distance)
        apart = torch.linspace(*ends, DISTANCES, device="cpu").long().tolist()
        return tuple(distance - 2 for distance in apart) if self.fillers else (0,)

    def prompts(self, tokens: Int[Tensor, "n k"], gaps: Iterable[int]) -> Int[Tensor, "n t"]:
        """Rows of ``tokens`` with so many fillers after each but the last."""
        columns = [tokens[:, :0]]
        if self.begin is not None:
            columns = [torch.full_like(tokens[:, :1], self.begin)]
        for n, gap in enumerate((*gaps, 0)):
            columns += [tokens[:, n : n + 1], self._between(len(tokens), gap)]
        return torch.cat(columns, 1)

    def rule_of(self, read: Sequence[int], after: int) -> str:
        """Which rule says that after the tokens ``read``, in whatever order, may come ``after``:
        "bigram" of one token, "skip" of two, or "" for none.
        """
        return self._known.get((frozenset(map(int, read)), int(after)), "")

    def rule_from(self, earlier: int, current: int) -> str:
        """Whether a skip rule has these two: "skip", or ""."""
        two = (int(earlier), int(current))
        return "skip" if any(rule[:2] == two for rule in self.skip) else ""

    def examples(self) -> list[list[int]]:
        """A prompt for each kind of rule: a bigram, a skip rule, induction."""
        found = [self._row([token]) for token, _ in self.bigram[:1]]
        gap = min(2, self.reach - 1) if self.fillers else 0
        found += [self._row([one, two], (gap,)) for one, two, _ in self.skip[:1]]
        if len(self.repeats) > 1:
            first, then = self.repeats[len(self.repeats) // 2], self.repeats[-1]
            gap = self.distance - 2 if self.fillers else 0
            found.append(self._row([first, then, first], (0, gap)))
        return found

    def _row(self, tokens: list[int], gaps: Iterable[int] = ()) -> list[int]:
        return self.prompts(torch.tensor([tokens], device="cpu"), gaps)[0].tolist()

    @cached_property
    def _known(self) -> dict[tuple[frozenset[int], int], str]:
        """Rules by what they read and what comes next."""
        skips = {(frozenset((one, two)), after): "skip" for one, two, after in self.skip}
        bigrams = {
            (frozenset((token,)), after): "bigram"
            for token, nexts in self.bigram
            for after, chance in nexts
            if chance
        }
        return skips | bigrams

    def _between(self, count: int, gap: int) -> Int[Tensor, "n gap"]:
        """Fillers, another order in every row."""
        if not gap:
            return torch.zeros(count, 0, dtype=torch.int64, device="cpu")
        fillers = torch.tensor(self.fillers, device="cpu")
        where = torch.arange(count, device="cpu")[:, None] * 7 + torch.arange(gap, device="cpu") * 5
        return fillers[where % len(fillers)]


@dataclass(frozen=True, repr=False, eq=False)
class RuleScores(Result):
    """How many of a language's known rules a model's answers have.

    Columns: ``rule``: bigram, skip or induction. ``right`` of ``of``: for a bigram, tokens whose
    likeliest next ones are the rule's as a set; else prompts whose likeliest next token is the
    rule's. ``share``: the one over the other. ``nats``: what the answers lose on the rule's next
    token: for a bigram KL(rule ‖ model), else −log of its probability, meant over prompts.

    >>> bilens.training.RuleScores((("skip", 6, 8, 0.4),)).rows()[0]["share"]
    0.75
    """

    scores: tuple[tuple[str, int, int, float], ...]

    def summary(self) -> str:
        told = (f"{rule} {right:,} of {of:,}" for rule, right, of, _ in self.scores)
        return f"known rules: {', '.join(told) or 'none'}"

    def columns(self) -> tuple[str, ...]:
        return "rule", "right", "of", "share", "nats"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"rule": rule, "right": right, "of": of, "share": right / of, "nats": nats}
            for rule, right, of, nats in self.scores
        ]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        names = [f"{row['rule']}, {row['right']:,} of {row['of']:,}" for row in rows]
        hover = {"nats": [row["nats"] for row in rows]}
        shares = [row["share"] for row in rows]
        return ranked(names, shares, "share of the rules", "Known rules", hover=hover)


def read_truth(file: str | Path) -> Truth:
    """The rules in ``file``. Errors: FileError where it is no JSON object; ConfigError for what is
    no rule, by its name.
    """
    given = read_json_object(Path(file))
    with naming(Path(file)):
        return _truth(given)


def _truth(given: Mapping[str, Any]) -> Truth:
    ranges = {kind: _range(kind, two) for kind, two in _table(given, "ranges").items()}
    induction, begin = _table(given, "induction"), _table(given, "special").get("bos")
    reach, distance = given.get("skip_max", APART), induction.get("min_distance", 2)
    require("special.bos", begin, Maybe(Whole(0)))
    require("skip_max", reach, Whole(1))
    require("induction.min_distance", distance, Whole(2))
    never = induction.get("never", [])
    if not isinstance(never, list) or not {FILLER, SPECIAL, *ranges} >= set(map(str, never)):
        raise _unfit("induction.never", f"be a list of kinds, {', '.join(ranges)}", never)
    spoken = {FILLER, SPECIAL, *map(str, never)}
    repeats = [n for kind, range_ in ranges.items() if kind not in spoken for n in range_]
    found = Truth(
        bigram=tuple(_bigram(*item) for item in _table(given, "bigram").items()),
        skip=tuple(_triple(n, row) for n, row in enumerate(_list(given, "skip"))),
        reach=reach,
        repeats=tuple(repeats) if induction else (),
        distance=distance,
        fillers=tuple(ranges.get(FILLER, ())),
        begin=begin,
    )
    if not (found.bigram or found.skip or found.repeats):
        must = "have rules in one of them at least"
        raise ConfigError("bigram, skip, induction", must=must, got="none")
    return found


@torch.no_grad()
def evaluate_rules(model: Transformer, truth: Truth, without: Iterable[str] = ()) -> RuleScores:
    """How many of the rules of ``truth`` the answers of ``model`` have, on prompts of the rules'
    own tokens, with fillers between, and no data.

    A bigram: the token alone. A skip rule: earlier and current token, at every distance. Induction:
    X Y … X at four distances, for every pair of different tokens that repeat (4,096 of them at
    most), answers meant over the distances. ``without``: heads and layers, "L0H3" or "mlp1", that
    write nothing meanwhile: what they make of the rules.

    Cost: a forward pass over some thousands of short prompts. Errors: ConfigError for rules that
    name a token which the model has not, or need more positions than it has; ArgumentError for no
    part of ``model``.
    """
    require_fit(model, truth)

    def answers(ids: Int[Tensor, "n t"]) -> Float[Tensor, "n vocab"]:
        device = model.W_E.device
        rows = ids.to(device).split(BATCH)
        given = [model(input_ids=part, use_cache=False, logits_to_keep=1) for part in rows]
        return torch.cat([one.logits[:, -1] for one in given]).float().cpu()

    with evaluating(model), _silent(model, without):
        return score_rules(answers, truth)


def parts_of(model: Transformer) -> tuple[str, ...]:
    """The heads and layers of a model that ``evaluate_rules`` can do without, in their order.

    >>> bilens.training.parts_of(bilens.load("tinystories-1l"))
    ('L0H0', 'L0H1', 'L0H2', 'L0H3', 'mlp0')
    """
    return tuple(_parts(model))


def _parts(model: Transformer) -> dict[str, tuple[nn.Module, slice | None]]:
    """What writes, by name: a layer, or what mixes the heads of one with a head's place there."""
    found: dict[str, tuple[nn.Module, slice | None]] = {}
    for n, block in enumerate(model.model.blocks):
        if (heads := block.self_attn) is not None:
            for h in range(heads.n_heads):
                place = slice(h * heads.d_head, (h + 1) * heads.d_head)
                found[f"L{n}H{h}"] = heads.o_proj, place
        if block.mlp is not None:
            found[f"mlp{n}"] = block.mlp, None
    return found


@contextmanager
def _silent(model: Transformer, names: Iterable[str]) -> Iterator[None]:
    """While it lasts these parts write nothing."""
    parts, hooks = _parts(model), []
    try:
        for name in names:
            if name not in parts:
                must = f"be among {', '.join(parts)}"
                raise ArgumentError("without", must=must, got=repr(name))
            module, place = parts[name]
            hooks.append(_silenced(module, place))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _silenced(module: nn.Module, place: slice | None) -> RemovableHandle:
    """A layer that gives nothing, or one that reads nothing of a head."""
    if place is None:
        return module.register_forward_hook(_nothing)

    def less(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = given[0].clone()
        z[..., place] = 0
        return (z,)

    return module.register_forward_pre_hook(less)


def _nothing(module: nn.Module, given: Any, out: Tensor) -> Tensor:
    return torch.zeros_like(out)


def require_fit(model: Transformer, truth: Truth) -> None:
    """Raise ConfigError where ``truth`` names a token that ``model`` has not, or needs more
    positions than it has.

    >>> truth = bilens.training.Truth(skip=((5, 6, 7),))
    >>> bilens.training.require_fit(bilens.load("tinystories-1l"), truth)
    """
    size, length = model.config.vocab_size, model.config.max_position_embeddings
    if truth.largest >= size:
        must = f"fit the vocabulary, tokens 0 … {size - 1:,}"
        raise ConfigError("the known rules", must=must, got=f"token {truth.largest:,}")
    if truth.longest > length:
        must = f"reach no further than the model reads, {length:,} tokens"
        raise ConfigError("the known rules", must=must, got=f"prompts of {truth.longest:,}")


def score_rules(answers: Answers, truth: Truth) -> RuleScores:
    """As ``evaluate_rules``, of anything that answers prompts with logits of the next token."""
    kinds = (_bigrams(answers, truth), _skips(answers, truth), _induction(answers, truth))
    return RuleScores(tuple(one for one in kinds if one[2]))


def _bigrams(answers: Answers, truth: Truth) -> tuple[str, int, int, float]:
    if not truth.bigram:
        return "bigram", 0, 0, 0.0
    tokens = torch.tensor([[token] for token, _ in truth.bigram], device="cpu")
    logp = answers(truth.prompts(tokens, ())).log_softmax(-1)
    lost, right = 0.0, 0
    for (_, nexts), row in zip(truth.bigram, logp, strict=True):
        lost += sum(p * (math.log(p) - float(row[n])) for n, p in nexts if p)
        right += set(row.topk(len(nexts)).indices.tolist()) == {n for n, _ in nexts}
    return "bigram", right, len(tokens), lost / len(tokens)


def _skips(answers: Answers, truth: Truth) -> tuple[str, int, int, float]:
    if not truth.skip:
        return "skip", 0, 0, 0.0
    rules = torch.tensor(truth.skip, device="cpu")
    logits = _meant(answers, [truth.prompts(rules[:, :2], (gap,)) for gap in truth.skip_gaps])
    return "skip", *_scored(logits, rules[:, 2])


def _induction(answers: Answers, truth: Truth) -> tuple[str, int, int, float]:
    pairs = torch.tensor(list(itertools.permutations(truth.repeats, 2)), device="cpu").reshape(
        -1, 2
    )
    if not len(pairs):
        return "induction", 0, 0, 0.0
    pairs = pairs[torch.linspace(0, len(pairs) - 1, min(len(pairs), PAIRS), device="cpu").long()]
    tokens = torch.cat([pairs, pairs[:, :1]], 1)
    logits = _meant(answers, [truth.prompts(tokens, (0, gap)) for gap in truth.repeat_gaps])
    return "induction", *_scored(logits, pairs[:, 1])


def _meant(answers: Answers, prompts: list[Tensor]) -> Float[Tensor, "n vocab"]:
    """Log-probabilities, meant over kinds of prompts."""
    return torch.stack([answers(ids).log_softmax(-1) for ids in prompts]).mean(0)


def _scored(logits: Float[Tensor, "n vocab"], nexts: Int[Tensor, " n"]) -> tuple[int, int, float]:
    lost = -logits.gather(1, nexts[:, None]).mean()
    return int((logits.argmax(1) == nexts).sum()), len(nexts), float(lost)


def _unfit(key: str, must: str, got: object) -> ConfigError:
    return ConfigError(key, must=must, got=repr(got))


def _table(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key, {})
    require(key, value, Table())
    return value


def _list(given: Mapping[str, Any], key: str) -> list[Any]:
    value = given.get(key, [])
    if not isinstance(value, list):
        raise _unfit(key, "be a list", value)
    return value


def _whole(values: object, count: int) -> bool:
    """Whether these are so many tokens."""
    token = Whole(0)
    return isinstance(values, list) and len(values) == count and all(map(token.allows, values))


def _range(kind: str, bounds: Any) -> range:
    if not _whole(bounds, 2) or bounds[0] > bounds[1]:
        raise _unfit(f"ranges.{kind}", "be [first, after the last]", bounds)
    return range(*bounds)


def _triple(n: int, row: Any) -> tuple[int, int, int]:
    if not _whole(row, 3):
        raise _unfit(f"skip[{n}]", "be three tokens, [earlier, current, next]", row)
    return row[0], row[1], row[2]


def _bigram(token: str, nexts: Any) -> tuple[int, tuple[tuple[int, float], ...]]:
    key = f"bigram.{token}"
    if not isinstance(nexts, Mapping) or not all(map(_is_token, (token, *nexts))):
        raise _unfit(key, "have tokens by number with their chances", nexts)
    positive = all(map(Number(above=0).allows, nexts.values()))
    if not positive or not math.isclose(sum(nexts.values()), 1, abs_tol=1e-3):
        raise _unfit(key, "have chances that add up to 1", nexts)
    return int(token), tuple((int(n), float(p)) for n, p in nexts.items())


def _is_token(name: str) -> bool:
    return name.isascii() and name.isdecimal()
