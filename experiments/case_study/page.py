"""The page of the case study: one file that needs no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from plotly.offline import get_plotlyjs
from torch import Tensor

from bilens.base.charts import TEMPLATE
from bilens.base.files import write_text
from bilens.features import LowRank, Readings
from bilens.report import chart
from experiments.case_study.confirm import CHECKS, LEVEL, Verdict
from experiments.case_study.study import Study, Text

SHOWN = 4  # contexts of a mechanism
BEFORE, AFTER = 24, 6  # tokens of a context
MEMBERS = 3
BARS = (
    "f with g", "f without g", "g with f", "g without f", "interaction", "other pairs",
    "other tokens",
)  # fmt: skip
GLOSSES = {  # by hand, of what was confirmed: what the names and contexts look like
    (751, 739, 787): "“was/felt … and”: a second word for how someone is (“was sad and mad”).",
    (209, 210, 419): "“was so”: how someone or something is (“was so proud”).",
    (938, 560, 789): "“in/into the”: a place follows (“in the forest”).",
    (
        144,
        839,
        1000,
    ): "Inside quoted speech, at the end of a word that can end it: the quotation mark.",
    (
        985,
        725,
        742,
    ): "“to/could” and a piece “an”: a verb goes on (“to plan”). It fires seldom, on 2 % of the "
    "places.",
    (
        365,
        739,
        967,
    ): "“was a”: the thing that something was. The promoted pieces of words say little.",
}


def write(
    folder: Path,
    study: Study,
    text: Text,
    verdicts: list[Verdict],
    null: list[Verdict],
    spectra: LowRank,
    names: tuple[list[str], list[str]],
    spell: Callable[[int], str],
    model: str,
) -> Path:
    """Write ``folder``/index.html. ``names``: of input latents, by weights and by training text."""
    promotes = [" ".join(spell(token) for token in tokens) for tokens in study.promoted.tolist()]
    passed = [v for v in verdicts if v.passed]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        trim_blocks=True,
    )
    html = environment.get_template("page.html").render(
        plotly=get_plotlyjs(),
        template=TEMPLATE,
        model=model,
        passed=len(passed),
        tried=len(verdicts),
        null_passed=sum(v.passed for v in null),
        tokens=f"{text.ids.numel():,}",
        level=f"{LEVEL:.1%}",
        checks=[
            {
                "name": name,
                "says": says,
                "passed": sum(v.checks[name] for v in verdicts),
                "first": sum(v.failed_first == name for v in verdicts),
                "null": sum(v.checks[name] for v in null),
            }
            for name, says in CHECKS.items()
        ],
        cards=[card(study, text, v, promotes[v.pair.out], names, spell) for v in passed],
        overview=overview(verdicts, promotes, names[0]),
        rows=[row(v, promotes[v.pair.out], names[0]) for v in verdicts],
        spectra=shares(spectra),
    )
    write_text(folder / "index.html", html)
    return folder / "index.html"


def card(
    study: Study,
    text: Text,
    verdict: Verdict,
    promotes: str,
    names: tuple[list[str], list[str]],
    spell: Callable,
) -> dict[str, Any]:
    pair, (by_weights, by_text) = verdict.pair, names
    form = study.interactions.of(pair.out)
    gates, top = form.gates(3, members=MEMBERS), form.top(6, "cross")
    told = zip(
        gates.weight_share.tolist(), sides(gates.a, by_text), sides(gates.b, by_text), strict=True
    )
    pairs = zip(top.indices.tolist(), top.coefficients.tolist(), strict=True)

    def latent(n: int) -> dict[str, Any]:
        return {"number": n, "name": by_weights[n], "weights": by_weights[n], "text": by_text[n]}

    rates = dict(
        zip(("both", "f", "g"), (f"{value:.1%}" for value in verdict.rates.values()), strict=True)
    )
    return {
        "number": pair.out, "pair": pair, "promotes": promotes,
        "f": latent(pair.f), "g": latent(pair.g),
        "gloss": GLOSSES.get((pair.out, pair.f, pair.g), ""), "count": f"{verdict.count:,}",
        "rates": rates,
        "share": f"{verdict.share:.0%}", "chart": bars(verdict),
        "contexts": contexts(study, text, verdict, spell),
        "gates": [{"share": f"{share:.0%}", "a": a, "b": b} for share, a, b in told],
        "pairs": [{"c": f"{c:+.4f}", "f": by_text[f], "g": by_text[g]} for (f, g), c in pairs],
    }  # fmt: skip


def sides(readings: Readings, names: list[str]) -> list[str]:
    """One side of each gate by its nearest latents."""
    return [
        ", ".join(
            f"{c:+.2f} [{names[f].split(' (')[0]}]" for f, c in zip(indices, values, strict=True)
        )
        for indices, values in zip(
            readings.indices.tolist(), readings.coefficients.tolist(), strict=True
        )
    ]


def whiskers(found: list[tuple[float, float, float]]) -> dict[str, Any]:
    above, below = ([abs(each[end] - each[0]) for each in found] for end in (2, 1))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}


def bars(verdict: Verdict) -> dict[str, Any]:
    """Effects on log p of the promoted tokens, with their intervals."""
    found = [verdict.figures[name] for name in BARS]
    colours = ["#0072B2"] * 4 + ["#009E73"] + ["#999999"] * 2
    bar = {
        "type": "bar",
        "x": list(BARS),
        "y": [mean for mean, _, _ in found],
        "marker": {"color": colours},
    }
    bar["error_y"] = whiskers(found)
    layout = {"yaxis": {"title": {"text": "change of log p, nats"}}}
    spoken = "; ".join(
        f"{name} {mean:+.3f}" for name, (mean, _, _) in zip(BARS, found, strict=True)
    )
    return chart({"data": [bar], "layout": layout}, f"What taking out costs: {spoken}", 320)


def contexts(study: Study, text: Text, verdict: Verdict, spell: Callable) -> list[dict[str, str]]:
    """The positions whose interaction is largest, from different blocks, with the promoted tokens'
    probability.
    """
    pair, length, seen, found = verdict.pair, text.ids.shape[1], set(), []
    for n in verdict.sizes.argsort(descending=True).tolist():
        at = int(verdict.positions[n])
        block, where = divmod(at, length)
        if block in seen or where < 4:
            continue
        seen.add(block)
        x, mid = text.x[[at]], text.mid[[at]]
        f, g = (
            study.inputs.encode(x)[:, [latent]] * study.inputs.writes[latent]
            for latent in (pair.f, pair.g)
        )
        kept = {"p": x, "no_f": x - f, "no_g": x - g, "none": x - f - g}
        p = {
            name: probability(study.logp(mid, study.tensor(z)), study.promoted[pair.out])
            for name, z in kept.items()
        }
        words = [spell(token).replace("␣", " ") for token in text.ids[block].tolist()]
        before = "".join(words[max(0, where - BEFORE) : where])
        found.append(
            {
                "before": before,
                "token": words[where],
                "after": "".join(words[where + 1 : where + AFTER]),
            }
            | p
        )
        if len(found) == SHOWN:
            break
    return found


def probability(logp: Tensor, tokens: Tensor) -> str:
    return f"{100 * float(logp[0, tokens].exp().sum()):.2g} %"


def overview(verdicts: list[Verdict], promotes: list[str], names: list[str]) -> dict[str, Any]:
    traces = []
    for passed, name, colour in ((False, "failed", "#999999"), (True, "confirmed", "#009E73")):
        chosen = [v for v in verdicts if v.passed == passed and v.figures]
        found = [v.figures["interaction"] for v in chosen]
        traces.append({
            "type": "scatter", "mode": "markers", "name": name,
            "marker": {"color": colour, "size": 7},
            "x": [v.term for v in chosen], "y": [mean for mean, _, _ in found],
            "text": [
                f"{names[v.pair.f]} × {names[v.pair.g]} → {promotes[v.pair.out]}" for v in chosen
            ],
            "error_y": whiskers(found),
        })  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "mean of c · a_f a_g"}, "type": "log"},
        "yaxis": {"title": {"text": "interaction on log p, nats"}},
    }
    return chart(
        {"data": traces, "layout": layout},
        "Interaction against the mean of the term, by candidate",
        420,
    )


def row(verdict: Verdict, promotes: str, names: list[str]) -> dict[str, Any]:
    pair, found = verdict.pair, verdict.figures.get("interaction")
    failed = [name for name, passed in verdict.checks.items() if not passed]
    return {
        "f": f"{pair.f}: {names[pair.f]}", "g": f"{pair.g}: {names[pair.g]}",
        "promotes": f"{pair.out}: {promotes}",
        "c": f"{pair.coefficient:.4f}", "count": f"{verdict.count:,}",
        "rates": " / ".join(f"{value:.0%}" for value in verdict.rates.values()),
        "share": f"{verdict.share:.0%}",
        "interaction": f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]" if found else "–",
        "fails": ", ".join(failed) if found else "occurs",
    }  # fmt: skip


def shares(spectra: LowRank) -> dict[str, Any]:
    share = spectra.share
    bar = {
        "type": "bar",
        "x": [f"rank {one['rank']}" for one in share],
        "y": [one["share"] for one in share],
    }
    bar["error_y"] = whiskers([(one["share"], one["low"], one["high"]) for one in share])
    layout = {
        "yaxis": {"title": {"text": f"share of latents above {spectra.threshold}"}, "range": [0, 1]}
    }
    text = (
        "Output latents predicted by the first eigenvectors of their quadratic form, on held-out "
        f"tokens where they are active: {spectra.summary()}."
    )
    return {"text": text, "chart": chart({"data": [bar], "layout": layout}, spectra.summary(), 320)}
