"""``bilens decompose``: the spectra of a model's layers, in one process or shared among several."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import (
    AsJson,
    Save,
    completed,
    require_count,
    require_folder,
    require_one_of,
    require_place,
    require_read,
)
from bilens.cli.output import Table, progress_bar, show, table

if TYPE_CHECKING:
    from bilens.base.results import Result

    Model = bilens.Classifier | bilens.Transformer

T = TypeVar("T")
WHAT = ("eigen", "hosvd", "svd", "joint")
PAIRS = 4  # where -k does not say
CHUNK = 64  # directions per file of --folder: small enough for several processes to share


def command(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A model folder or a name, as elsewhere; or a safetensors file with a tensor of "
            "your own: a saved CP, or three matrices out, left, right.",
        ),
    ],
    layer: Annotated[
        str | None,
        typer.Option(help='Which layer, or "all"; without it the whole of a one-layer model.'),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            help="Eigenpairs per direction, or directions kept of hosvd, svd, joint: kept and "
            f"printed. Default: {PAIRS}; for joint as many as hold 90 % of the layer.",
        ),
    ] = None,
    what: Annotated[
        str, typer.Option(help=f"One of {', '.join(WHAT)}.", autocompletion=completed(WHAT))
    ] = "eigen",
    directions: Annotated[
        str,
        typer.Option(
            help='"all": every output of the layer; "unembed": every row of W_U; or outputs by '
            'name: " girl, boy".'
        ),
    ] = "all",
    folder: Annotated[
        Path | None,
        typer.Option(help="Write finished chunks here, and go on with a run that was stopped."),
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Directions per chunk.")] = CHUNK,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """Spectra of one layer or all: eigenvectors for output directions, HOSVD, SVD, or one basis for
    the whole layer.

    Under torchrun each process takes its share of the chunks of directions, and the result is that
    of one process.
    """
    require_one_of("--what", what, WHAT)
    eigen = ("--what eigen",)
    read_by = {"directions": eigen, "folder": eigen, "chunk": eigen}
    require_read(context, f"--what {what}", f"with --what {what}", read_by)
    require_count("-k", k)
    require_place("--save", save)
    if folder is not None:
        require_folder("--folder", folder)
    if model.is_file():
        loaded, tensors = None, {"tensor": _alone(model, layer, directions)}
    else:
        loaded = _loaded(str(model), layer, with_readout=directions != "all")
        tensors = _layers(loaded, layer)
    several = len(tensors) > 1
    if save is not None and several:
        got, todo = f"{len(tensors)} layers", "Use --folder."
        raise ArgumentError("--save", must="be given for one layer", got=got, todo=todo)

    def tables() -> Iterator[Table]:
        for name, tensor in tensors.items():
            if what == "eigen":
                place = folder / name if folder is not None and several else folder
                result = _eigen(loaded, tensor, k or PAIRS, directions, place, chunk)
            else:
                result = _whole(tensor, what, k)
            if save is not None:
                result.save(save)
            yield _kept(result, f"{name}: " if several else "")

    show(tables(), json)


def _alone(file: Path, layer: str | None, directions: str) -> "bilens.CP":
    """The tensor in a file, of which nothing says what its outputs are called."""
    if layer is not None:
        raise ArgumentError("--layer", must="be left out for one tensor", got=repr(layer))
    if directions != "all":
        raise ArgumentError("--directions", must='be "all" for a tensor', got=repr(directions))
    return bilens.models.read_tensor(file)


def _loaded(folder: str, layer: str | None, with_readout: bool) -> Any:
    """The model; of a transformer of which one layer is asked for that layer alone, and what reads
    the stream last where it is needed. The other weights are not read.
    """
    opened = bilens.models.open_model(folder)
    model = opened.model
    if layer in (None, "all") or not isinstance(model, bilens.Transformer):
        return opened.whole()
    chosen = model.wiring().layers.get(f"mlp{layer}")
    modules = [] if chosen is None else [chosen.module]
    modules += [model.lm_head] if with_readout else []
    return opened.only(*(name for name, module in model.named_modules() if module in modules))


def _kept(result: "Result", of: str) -> Table:
    """What was asked for. The rest of a spectrum stays in the result, and is counted here."""
    every = table(result, of)
    rows = [row for row in every.rows if row.get("kept", True)]
    return replace(every, rows=rows, left_out=len(every.rows) - len(rows))


def _layers(model: "Model", layer: str | None) -> "dict[str, bilens.CP]":
    """The tensors to take apart, by name."""
    if layer is None and isinstance(model, bilens.Classifier):
        return {"model": model.tensor(None).detach()}
    every = _every_layer(model)
    if layer == "all" or (layer is None and len(every) == 1):
        chosen = every
    else:
        chosen = {f"layer{layer}": _one_of(every, layer)}
    return {name: tensor().detach() for name, tensor in chosen.items()}


def _every_layer(model: "Model") -> "dict[str, Callable[[], bilens.CP]]":
    """The layers by name, and what makes the tensor of each."""
    if isinstance(model, bilens.Classifier):
        numbers = range(model.config.num_hidden_layers)
        return {f"layer{n}": partial(model.tensor, n) for n in numbers}
    modules: dict[str, Any] = {n: part.module for n, part in model.wiring().layers.items()}
    return {f"layer{n.removeprefix('mlp')}": module.tensor for n, module in modules.items()}


def _one_of(layers: Mapping[str, T], layer: str | None) -> T:
    """The layer of that number. Errors: ArgumentError where there is none."""
    if f"layer{layer}" not in layers:
        numbers = ", ".join(name.removeprefix("layer") for name in layers)
        must = f'be one of {numbers}, or "all"'
        raise ArgumentError("--layer", must=must, got="none" if layer is None else layer)
    return layers[f"layer{layer}"]


def _eigen(
    model: Any, tensor: "bilens.CP", k: int, directions: str, folder: Path | None, chunk: int
) -> "Result":
    rows, labels = _directions(model, tensor, directions)
    shared, bar = bilens.training.shared(folder), progress_bar("directions")
    with shared as (share, meeting), bar as progress:
        chunks = bilens.decompose.Chunks(chunk, folder=meeting, share=share, progress=progress)
        return bilens.decompose.eigen(tensor, rows, k, chunks=chunks).labelled(labels)


def _directions(model: Any, tensor: "bilens.CP", directions: str) -> tuple[Any, tuple[str, ...]]:
    """Output directions of the layer, and their names: outputs of the model, or what W_U reads of
    the layer's write. None and no names where there is no model.
    """
    if model is None:
        return None, ()
    readout = model.wiring().readout.detach()
    inside = isinstance(model, bilens.Transformer)
    whole = not inside and tensor.shape[0] == len(readout)
    if directions == "all":
        return None, tuple(model.output_names(range(len(readout)))) if whole else ()
    if not inside and (not whole or directions == "unembed"):
        raise ArgumentError("--directions", must='be "all" for this layer', got=repr(directions))
    names = range(len(readout)) if directions == "unembed" else map(_number, directions.split(","))
    chosen = [model.output_index(name) for name in names]
    rows = readout[chosen] if inside else readout.new_ones(len(readout)).diag()[chosen]
    return rows.to(tensor.dtype), tuple(model.output_names(chosen))


def _number(name: str) -> str | int:
    return int(name) if name.strip().isdecimal() else name


def _whole(tensor: "bilens.CP", what: str, k: int | None) -> "Result":
    spectra = bilens.decompose
    if what == "hosvd":
        return spectra.hosvd(tensor, max_rank=k or PAIRS, symmetric=True)
    if what == "svd":
        return spectra.svd(tensor, max_rank=k or PAIRS)
    return spectra.joint(tensor, max_rank=k)
