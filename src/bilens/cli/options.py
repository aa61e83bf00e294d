"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, as training wrote it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Save = Annotated[Path | None, typer.Option("--save", help="Also write the result to this file (safetensors).")]
