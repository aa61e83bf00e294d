"""``bilens.diff``: what changed between checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from bilens.base.errors import ArgumentError
from bilens.base.numerics import require_count
from bilens.base.progress import Progress, require_progress
from bilens.changes.checkpoints import Checkpoints, open_checkpoints
from bilens.changes.comparison import Diff
from bilens.changes.configs import unseen
from bilens.changes.course import Series
from bilens.changes.data import Data, Passed, passed
from bilens.changes.functions import Functions, Tensors
from bilens.changes.items import items
from bilens.changes.likeness import Likeness, likeness
from bilens.changes.losses import losses_of
from bilens.changes.places import groups
from bilens.changes.reads import measures
from bilens.changes.turning import mean_angle, turned
from bilens.decompose import Angles
from bilens.features import Dictionary
from bilens.models import Classifier
from bilens.wiring import Wiring, find_place

TOKENS = 8192


def diff(
    *checkpoints: Any,
    data: Data = None,
    tokens: int = TOKENS,
    dictionaries: Mapping[str, Dictionary] | None = None,
    progress: Progress | None = None,
) -> Diff | Series:
    """What changed between two checkpoints of one shape, or over a series of them.

    ``checkpoints``: bilens models, folders, names in the box or on the hub, in order; one list of
    them; or one folder that holds checkpoint-N folders (or a run that holds such "checkpoints").
    ``data``: what the losses and the similarities "on data" are measured on. A source as training
    takes it, whose held-out part (of images the test part) is read; texts; batches of token ids, as
    ``models.activations`` takes them; or (images, classes). ``tokens``: of a source's text.
    ``dictionaries``: by place ("mlp1.input"), whose features are compared too; transcoders by how
    they fire on ``data`` alone.

    The places are embeddings, the OV and QK circuits of heads, what attention writes always (its
    bias, "attn0.bias"), layers, and the unembedding, each with the linear part of the norm through
    which it reads; of a classifier its layers, from pixels to classes. Gauges are no change: units
    permuted or rescaled, values and outputs of a head, or its queries and keys, in another basis.
    (The stream's own basis is taken to be the same: these are checkpoints of one run. The layers of
    a classifier without residual connection are compared in the bases in which they stand. What a
    norm follows, queries and keys of some families and what parts write in others, is compared with
    its size, and ``warnings`` says that this is none.) Configurations that differ (RoPE's base,
    windows, epsilons) are named there too.

    Of a product of two scores each is a place ("L0H0 QK", "L0H0 QK2").
    By weights a layer's symmetric tensor is compared; QK circuits over all offsets alike. On data
    the same as functions of what is read: of its Gaussian, pooled over the checkpoints in equal
    parts (tokens by how often they are read), at ε = 0, 0.01 and 1 with ε times the mean variance
    added in every direction. Where these part the data show only a part of what changed, and
    ``warnings`` says so. A layer that is no tensor (SwiGLU, GELU, a mixture of experts) is compared
    by what it writes for 1,024 standard normal inputs, and on data for as many of those that it
    reads, with standard errors.

    Two checkpoints give a ``Diff``, more a ``Series``, which has the curve, its phases, and
    ``whole``, the ``Diff`` of the first and the last. Cost: a pass of each checkpoint over the
    data; O(h² (o + i)) for each layer, measure and pair of checkpoints that is compared (2n of n).
    Memory: all checkpoints, mapped from their files; d² for each place. Errors: ArgumentError for
    fewer than two checkpoints, and for other shapes or vocabularies, before weights are read; those
    of ``bilens.load`` and of the data.

    >>> found = bilens.diff("run/checkpoints/checkpoint-300", "run", data="topics")
    >>> found.to_frame(), found.warnings
    """
    given = checkpoints[0] if len(checkpoints) == 1 else checkpoints
    given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    require_count("tokens", tokens, 2)
    require_progress("progress", progress)
    opened = open_checkpoints(given, data)
    _require_dictionaries(opened, dictionaries, data is None)
    found = None if data is None else passed(opened.models, data, tokens)
    places = _compared(opened, found, progress)
    whole = _whole(opened, places, found, dictionaries or {})
    return whole if len(opened.models) == 2 else _series(opened, places, found, whole)


class Compared(NamedTuple):
    """One place, and what was found of it."""

    name: str
    kind: str
    sampled: bool
    alike: Likeness
    angles: Angles | None


def _compared(
    opened: Checkpoints, found: Passed | None, progress: Progress | None
) -> Sequence[Compared]:
    """All places, one after another: their weights are held in float64 no longer than needed."""
    models, made = opened.models, []
    count, groups_of = groups(models)
    for n, group in enumerate(groups_of, 1):
        by = measures(None if found is None else found.reads[group.reads])
        for place in group.places:
            alike = likeness(place, len(models), by)
            about = (place.name, place.kind, place.sampled)
            made.append(Compared(*about, alike, _turned(place, models[-1])))
        if progress is not None:
            progress(n, count, what=group.reads)
    return made


def _require_dictionaries(
    opened: Checkpoints, given: Mapping[str, Dictionary] | None, by_weights: bool
) -> None:
    """Raise ArgumentError for a place that is not there, or given twice, and for what is no
    dictionary of it, before much is done; ShapeError for one of another width.
    """
    if given is not None and not isinstance(given, Mapping):
        must = "map places to dictionaries, or be None"
        raise ArgumentError("dictionaries", must=must, got=type(given).__name__)
    if not given:
        return
    model = opened.models[0]
    if isinstance(model, Classifier):
        must = "be left out for classifiers"
        raise ArgumentError("dictionaries", must=must, got=", ".join(given))
    wiring = model.wiring()
    found = {find_place(place, wiring.parts).name: one for place, one in given.items()}
    if len(found) < len(given):
        raise ArgumentError("dictionaries", must="be one for each place", got=", ".join(given))
    for place, one in found.items():
        _require_dictionary(place, one, wiring, by_weights)


def _require_dictionary(place: str, one: Dictionary, wiring: Wiring, by_weights: bool) -> None:
    """Raise unless ``one`` is a dictionary of the ``place``, which can be compared."""
    who = f"the dictionary at {place}"
    if not isinstance(one, Dictionary):
        raise ArgumentError(who, must="be a Dictionary", got=type(one).__name__)
    known = {f"{part.name}.{side}" for part in wiring.parts for side in ("input", "output")}
    at = place if one.place in known else ""  # others call a place by other names
    one.require_fits(who, width=wiring.readout.shape[1], place=at)
    if by_weights and "transcoder" in one.architecture:
        todo = "With data= its latents are compared by how they fire."
        got = f"a {one.architecture}"
        raise ArgumentError(who, must="write what it reads, by weights", got=got, todo=todo)


def _whole(
    opened: Checkpoints,
    places: Sequence[Compared],
    found: Passed | None,
    dictionaries: Mapping[str, Dictionary],
) -> Diff:
    """The first checkpoint against the last."""
    ends = opened.models[0], opened.models[-1]
    last = None if found is None else found._replace(losses=found.losses[[0, -1]])
    turns = [torch.nan if one.angles is None else mean_angle(one.angles) for one in places]
    alike = [one.alike for one in places]
    return Diff(
        checkpoints=(opened.names[0], opened.names[-1]),
        loss=None if last is None else losses_of(last.losses, _unit(ends[0])),
        places=tuple(one.name for one in places),
        kinds=tuple(one.kind for one in places),
        sampled=tuple(one.sampled for one in places),
        change=torch.stack([one.change for one in alike]),
        similarity=torch.stack([one.to_last[:, 0] for one in alike]),
        errors=torch.stack([one.errors[:, 0] for one in alike]),
        growth=torch.stack([one.sizes[0, -1] / one.sizes[0, 0] for one in alike]),
        turned=torch.tensor(turns, dtype=torch.float64, device="cpu"),
        angles={one.name: one.angles for one in places if one.angles is not None},
        items=items(ends, last, dictionaries),
        unseen=(*unseen(*ends), *_strangers(opened, dictionaries)),
    )


def _strangers(opened: Checkpoints, dictionaries: Mapping[str, Dictionary]) -> Iterator[str]:
    """What to say of dictionaries that were made of a model that is none of the checkpoints."""
    for place, one in dictionaries.items():
        notes = [one.stranger_to(model) for model in opened.models]
        if all(notes):
            yield f"{place}: {notes[-1]}"


def _turned(place: Functions, model: Any) -> Angles | None:
    """The angles of a layer; of the last of a classifier's, class by class."""
    if not isinstance(place, Tensors):
        return None
    outputs = place.tensors[0].shape[0]
    labels = model.config.labels if isinstance(model, Classifier) else ()
    named = labels if place.onto_outputs and len(labels) == outputs else ()
    return turned(place.tensors[0], place.tensors[-1], named)


def _unit(model: Any) -> str:
    return "image" if isinstance(model, Classifier) else "token"


def _series(
    opened: Checkpoints, places: Sequence[Compared], found: Passed | None, whole: Diff
) -> Series:
    at = 0 if found is None else 1
    return Series(
        checkpoints=opened.names,
        steps=opened.steps,
        numbered=opened.numbered,
        loss=None if found is None else losses_of(found.losses, _unit(opened.models[0])),
        places=whole.places,
        to_last=torch.stack([one.alike.to_last[at] for one in places]),
        moved=torch.stack([one.alike.steps[at] for one in places]),
        on_data=found is not None,
        whole=whole,
    )
