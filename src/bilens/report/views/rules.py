"""The strongest rules of a language model, from its weights alone, and how many it has of those
that made its data, where these are known.
"""

import itertools
import re
from functools import partial
from typing import Any

from bilens import circuits, training
from bilens.base.charts import mapped, titled
from bilens.circuits import Rules
from bilens.models import Transformer
from bilens.report.page import chart, result
from bilens.report.view import Block, Query, View, is_language_model, loaded, missing, sentence
from bilens.training import RuleScores, Truth

WORDS = 4096  # of a vocabulary, up to which rules over all pairs of tokens are searched
PARTS = 12  # that are left out one by one
HEADS = 2  # without softmax, whose skip rules are shown
KNOWN, TICK = "known rule", "✓"
WHOLE = "the model"
HEAD = re.compile(r"L\d+H\d+")
WRITES = "Which tokens write which next one"
LOOKS = "Which query looks at which key, one position back"


def _build(model: Transformer, query: Query) -> list[Block]:
    return [*_known(model, query), *_strongest(model, query)]


def _known(model: Transformer, query: Query) -> list[Block]:
    """How the model does on the rules that made its data, and which paths have them."""
    if query.truth is None:
        return []
    blocks = [Block("chart", "Known rules", partial(_scored, model, query, query.truth))]
    if model.config.is_exact and model.config.intermediate_size:
        make = partial(_paths_scored, model, query, query.truth)
        blocks.append(Block("chart", "Known rules in single paths", make))
    return blocks


def _scored(model: Transformer, query: Query, truth: Truth) -> dict[str, Any]:
    """The scores of the model, and without each of its parts."""
    parts = training.parts_of(model)
    without = parts if len(parts) <= PARTS else ()
    whole = training.evaluate_rules(model, truth)
    scores = {WHOLE: whole} | {
        f"without {part}": training.evaluate_rules(model, truth, [part]) for part in without
    }
    text = (
        "Asked of the rules' own tokens with fillers between, no data: a rule is right where its "
        f"next token is the likeliest. {sentence(whole.summary())} Each part left out in turn, "
        "which then writes nothing: the rules that are lost need it."
    )
    figure = _by_part(scores)
    rows = [{"of": name} | row for name, one in scores.items() for row in _renamed(one)]
    drawn = chart(figure, f"Known rules by part left out. {whole.summary()}", 340)
    python = _asked("evaluate_rules", query)
    table = {"columns": list(rows[0]), "rows": rows}
    return {"text": text, "chart": drawn, "python": python} | table


def _renamed(scores: RuleScores) -> list[dict[str, Any]]:
    """Rows whose counts are called as the table beside them needs it."""
    return [{"rules": row.pop("of")} | row for row in scores.rows()]


def _by_part(scores: dict[str, RuleScores]) -> dict[str, Any]:
    whole = scores[WHOLE].rows()
    across = [f"{row['rule']}, of {row['of']:,}" for row in whole]
    shares = [[row["share"] for row in one.rows()] for one in scores.values()]
    texts = [[f"{row['right']:,}" for row in one.rows()] for one in scores.values()]
    layout = titled("Known rules that the model has, and without a part", "rule", "")
    unit = "share of the rules"
    return mapped(shares, across, list(scores), unit, layout, strength=True, end=1.0, texts=texts)


def _paths_scored(model: Transformer, query: Query, truth: Truth) -> dict[str, Any]:
    found = training.evaluate_paths(model, truth)
    text = (
        "From the weights alone, one path at a time: for how many rules the path, by itself, "
        "writes most for the rule's own next tokens. A path without a head is asked of the bigram "
        "rules, its token read twice; a layer that multiplies the current token with what a head "
        f"brings is asked of the skip rules. {sentence(found.summary())}"
    )
    python = _asked("evaluate_paths", query)
    return result(found, text, "Known rules in single paths", python)


def _asked(what: str, query: Query) -> str:
    truth = "bilens.training.read_truth('rules.json')"
    return f"bilens.training.{what}({loaded(query)}, {truth})"


def _strongest(model: Transformer, query: Query) -> list[Block]:
    """The strongest rules of the first layer, and of heads what they write and where they look."""
    if model.config.vocab_size > WORDS:
        line = f"bilens.circuits.rules({loaded(query)})"
        return [missing("Strongest rules", "A search over all pairs of tokens", line)]
    return [
        Block(
            "chart",
            f"Strongest rules: {path}",
            partial(_ruled, model, path, query),
        )
        for path in _paths(model, query.truth)
    ]


def _paths(model: Transformer, truth: Truth | None) -> list[str]:
    """The first layer, and of heads what they write and where they look. Where rules are known the
    last layer too, by itself and with what the last head brings.
    """
    parts = model.wiring().parts
    layers = [part.name for part in parts if part.name in part.forms()]
    heads = [part.attention.heads for part in parts if part.attention is not None]
    found = [f"W_U {layers[0]}(embed, embed)"] if layers else []
    if truth is not None and layers:
        found.append(f"W_U {layers[-1]}(embed, embed)")
        found += [f"W_U {layers[-1]}(embed, {one[0]})" for one in heads[-1:]]
    if model.config.attention == "softmax":
        found += [f"W_U {one[0]}(embed)" for one in heads[:1]]
    else:
        found += [path for one in heads[:HEADS] for path in circuits.head_paths(model, one[0])]
    return list(dict.fromkeys(found))


def _ruled(model: Transformer, path: str, query: Query) -> dict[str, Any]:
    found = circuits.rules(model, path)
    what = LOOKS if _is_score(found) else WRITES
    text = f"{what}, from the weights alone. {sentence(found.summary())}"
    python = f"bilens.circuits.rules({loaded(query)}, {path!r})"
    drawn = result(found, text, f"Strongest entries of {found.path}", python)
    return drawn if query.truth is None else drawn | _marked(found, query.truth, drawn)


def _is_score(found: Rules) -> bool:
    return "query" in found.columns_of


def _marked(found: Rules, truth: Truth, drawn: dict[str, Any]) -> dict[str, Any]:
    """Which of the strongest entries are rules that made the data."""
    rules = [_rule(found, entry, truth) for entry in found.entries.indices.tolist()]
    rows = [row | {KNOWN: rule} for row, rule in zip(drawn["rows"], rules, strict=True)]
    what = "looks from the current token of a skip rule at its earlier one"
    what = what if _is_score(found) else "is a known rule"
    ticked = sum(map(bool, rules))
    axis = drawn["chart"]["figure"]["layout"]["yaxis"]
    axis["ticktext"] = [
        f"{text} {TICK}" if rule else text
        for text, rule in itertools.zip_longest(axis["ticktext"], rules[: len(axis["ticktext"])])
    ]
    return {
        "columns": [*drawn["columns"], KNOWN],
        "rows": rows,
        "text": f"{drawn['text']} {TICK}, {ticked} of these {len(rules)}: {what}.",
    }


def _rule(found: Rules, entry: list[int], truth: Truth) -> str:
    """Which known rule an entry is: of one token a bigram, with what a head brings a skip rule. The
    written token stands first; a score is of a query and its key.
    """
    if _is_score(found):
        current, earlier = entry[:2]
        return truth.rule_from(earlier, current)
    written, *read = entry
    rule = truth.rule_of(read, written)
    return rule if (rule == "skip") == bool(HEAD.search(found.path)) else ""


VIEW = View("rules", is_language_model, _build)
