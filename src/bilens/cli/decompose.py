"""``bilens decompose``: the spectra of a model's layers, in one process or shared among several."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bilens.cli.options import (
    AsJson,
    ModelFolder,
    Save,
    require_count,
    require_folder,
    require_one_of,
    require_place,
    require_read,
)

if TYPE_CHECKING:
    from bilens.algebra import CP
    from bilens.base.results import Result
    from bilens.cli.output import Table

WHAT = ("eigen", "hosvd", "svd", "joint")
PAIRS = 4  # where -k does not say
CHUNK = 64  # directions per file of --folder: small enough for several processes to share


def decompose(
    context: typer.Context,
    model: ModelFolder,
    layer: Annotated[
        str | None,
        typer.Option(help='Which layer, or "all"; without it the whole of a one-layer model.'),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            help=f"Eigenpairs per direction, or directions kept of hosvd, svd, joint: kept and printed. "
            f"Default: {PAIRS}; for joint as many as hold 90 % of the layer.",
        ),
    ] = None,
    what: Annotated[str, typer.Option(help=f"One of {', '.join(WHAT)}.")] = "eigen",
    directions: Annotated[
        str,
        typer.Option(
            help='"all": every output of the layer; "unembed": every row of W_U; or outputs by name: " girl, boy".'
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
    of one process."""
    from bilens import load
    from bilens.base.errors import ArgumentError
    from bilens.cli.output import quiet, show

    quiet()
    require_one_of("--what", what, WHAT)
    eigen = ("--what eigen",)
    read_by = {"directions": eigen, "folder": eigen, "chunk": eigen}
    require_read(context, f"--what {what}", f"with --what {what}", read_by)
    require_count("-k", k)
    require_place("--save", save)
    if folder is not None:
        require_folder("--folder", folder)
    loaded = load(str(model))
    tensors = _layers(loaded, layer)
    several = len(tensors) > 1
    if save is not None and several:
        todo = "Use --folder."
        raise ArgumentError(
            "--save", must="be given for one layer", got=f"{len(tensors)} layers", todo=todo
        )

    def found() -> "Iterator[Table]":
        for name, tensor in tensors.items():
            if what == "eigen":
                place = folder / name if folder is not None and several else folder
                result = _eigen(loaded, tensor, k or PAIRS, directions, place, chunk)
            else:
                result = _whole(tensor, what, k)
            if save is not None:
                result.save(save)
            yield _kept(result, f"{name}: " if several else "")

    show(found(), json)


def _kept(result: "Result", of: str) -> "Table":
    """What was asked for. The rest of a spectrum stays in the result, and is counted here."""
    from dataclasses import replace

    from bilens.cli.output import table

    every = table(result, of)
    rows = [row for row in every.rows if row.get("kept", True)]
    return replace(every, rows=rows, left_out=len(every.rows) - len(rows))


def _layers(model: Any, layer: str | None) -> "dict[str, CP]":
    """The tensors to take apart, by name."""
    from bilens import Classifier
    from bilens.base.errors import ArgumentError

    if isinstance(model, Classifier):
        every = {f"layer{n}": model.tensor(n) for n in range(model.config.num_hidden_layers)}
        if layer is None:
            return {"model": model.tensor(None).detach()}
    else:
        every = {
            f"layer{n}": block.mlp.tensor()
            for n, block in enumerate(model.blocks)
            if block.mlp is not None
        }
        if layer is None and len(every) != 1:
            raise ArgumentError(
                "--layer",
                must=f'be one of {", ".join(name[5:] for name in every)}, or "all"',
                got="none",
            )
    if layer not in ("all", None) and f"layer{layer}" not in every:
        must = f'be one of {", ".join(name[5:] for name in every)}, or "all"'
        raise ArgumentError("--layer", must=must, got=layer)
    return {
        name: tensor.detach() for name, tensor in every.items() if layer in ("all", None, name[5:])
    }


def _eigen(
    model: Any, tensor: "CP", k: int, directions: str, folder: Path | None, chunk: int
) -> "Result":
    from bilens import decompose as spectra
    from bilens.cli.output import progress_bar

    rows, labels = _directions(model, tensor, directions)
    with _share(folder) as (share, meeting), progress_bar("directions") as progress:
        return spectra.eigen(
            tensor,
            rows,
            k,
            labels=labels,
            chunk=chunk,
            folder=meeting,
            share=share,
            progress=progress,
        )


def _directions(model: Any, tensor: "CP", directions: str) -> tuple[Any, tuple[str, ...]]:
    """Output directions of the layer, and their names: outputs of the model, or what W_U reads of
    the layer's write.
    """
    import torch

    from bilens import Transformer
    from bilens.base.errors import ArgumentError

    inside, outputs = isinstance(model, Transformer), len(model.wiring().readout)
    whole = not inside and tensor.shape[0] == outputs
    if directions == "all":
        return None, tuple(model.output_names(range(outputs))) if whole else ()
    if not inside and (not whole or directions == "unembed"):
        raise ArgumentError("--directions", must='be "all" for this layer', got=repr(directions))
    names = range(outputs) if directions == "unembed" else map(_number, directions.split(","))
    wanted = [model.output_index(name) for name in names]
    rows = model.wiring().readout.detach() if inside else torch.eye(outputs)
    return rows[wanted].to(tensor.dtype), tuple(model.output_names(wanted))


def _number(name: str) -> str | int:
    return int(name) if name.strip().isdecimal() else name


@contextmanager
def _share(folder: Path | None) -> Iterator[tuple[Any, Path | None]]:
    """Which part of the work this process does, and a folder in which all meet; one that nobody
    named goes in the end.
    """
    import shutil
    import tempfile

    from bilens.decompose import Share
    from bilens.training.processes import first_does, processes

    every = processes()
    if every.num_processes == 1:
        yield None, folder
        return
    meeting = folder or Path(first_does(lambda: tempfile.mkdtemp(prefix="bilens-")))
    try:
        yield Share(every.process_index, every.num_processes, every.wait_for_everyone), meeting
        every.wait_for_everyone()  # until all have read what the others made
    finally:
        if folder is None and every.is_main_process:
            shutil.rmtree(meeting, ignore_errors=True)


def _whole(tensor: "CP", what: str, k: int | None) -> "Result":
    from bilens import decompose as spectra

    if what == "hosvd":
        return spectra.hosvd(tensor, max_rank=k or PAIRS, symmetric=True)
    if what == "svd":
        return spectra.svd(tensor, max_rank=k or PAIRS)
    return spectra.joint(tensor, max_rank=k)
