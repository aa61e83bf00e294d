"""Signatures as a person writes them: ``Tensor[o, i]`` for jaxtyping's ``Float[Tensor, 'o i']``,
classes by their names alone.
"""

import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from docutils import nodes
from jaxtyping import AbstractArray
from sphinx import addnodes

FLOATS = ("bfloat16", "float8", "float16", "float32", "float64")
PREFIXES = {"bool": "bool", "int": "int", "uint": "int"}


def setup(app: Any) -> None:
    """Put every signature that autodoc finds into these words."""
    app.connect("autodoc-process-signature", _process)
    app.connect("doctree-read", _unlink)


def _unlink(app: Any, tree: nodes.document) -> None:
    """An axis is no name of Python: nothing to link to."""
    for link in list(tree.findall(addnodes.pending_xref)):
        is_type = link.get("refdomain") == "py" and link.get("reftype") == "class"
        if is_type and "." not in link["reftarget"]:
            link.replace_self(nodes.Text(link["reftarget"]))


def _process(
    app: Any, what: str, name: str, thing: Any, options: Any, arguments: str, returned: str
) -> tuple[str, str] | None:
    try:
        return written(thing, is_method=what == "method")
    except (TypeError, ValueError):
        return None


def written(thing: Callable[..., Any], is_method: bool = False) -> tuple[str, str]:
    """The arguments of ``thing``, and what it gives, in Python's own grammar."""
    signature = inspect.signature(thing)
    parameters = list(signature.parameters.values())
    if is_method and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    shown = signature.replace(
        parameters=[_plain(parameter) for parameter in parameters],
        return_annotation=inspect.Signature.empty,
    )
    result = signature.return_annotation
    is_class = inspect.isclass(thing) or result in (None, inspect.Signature.empty)
    return str(shown), "" if is_class else hint(result)


class _Words:
    """Shown as it is, where inspect would quote it."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    annotation, default = parameter.annotation, parameter.default
    if annotation is not inspect.Parameter.empty:
        annotation = _Words(hint(annotation))
    if default is not inspect.Parameter.empty:
        default = _Words(_default(default))
    return parameter.replace(annotation=annotation, default=default)


def _default(value: Any) -> str:
    words = value.__name__ if inspect.isclass(value) or callable(value) else repr(value)
    return words if _is_python(words) else "'…'"


def hint(annotation: Any) -> str:
    """A type as a person writes it."""
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] if "[" not in annotation else annotation
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return _tensor(annotation)
    if isinstance(annotation, list):  # the arguments of a Callable
        return f"[{', '.join(map(hint, annotation))}]"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(hint, inner)))
    if origin is typing.Annotated:
        return hint(inner[0])
    if origin is not None and inner:
        return f"{_name(origin)}[{', '.join(map(hint, inner))}]"
    return _name(annotation)


def _name(annotation: Any) -> str:
    """A class by its name; one of bilens by the whole of it, which Sphinx links and shortens."""
    name = getattr(annotation, "__name__", None) or str(annotation).rpartition(".")[2]
    room = home(annotation)
    public = room.startswith("bilens.") and name in getattr(sys.modules[room], "__all__", ())
    return f"{room}.{name}" if public else name


def home(thing: Any) -> str:
    """The room in which ``thing`` is defined."""
    return ".".join(getattr(thing, "__module__", "").split(".")[:2])


def _tensor(annotation: Any) -> str:
    """``Tensor[o, i]``: its axes; integers and booleans say so: ``Tensor[int, t]``."""
    axes = ["..." if axis == "..." else _axis(axis) for axis in annotation.dim_str.split()]
    kind = _kind(annotation)
    words = f"Tensor[{', '.join([*kind, *(axes or ['()'])])}]"
    return words if _is_python(words) else f"Tensor[{annotation.dim_str!r}]"


def _axis(axis: str) -> str:
    return axis if axis.startswith("*") else re.sub(r"^[#?_]+(?=\w)", "", axis)


def _kind(annotation: Any) -> list[str]:
    dtypes = annotation.dtypes
    if not isinstance(dtypes, list | tuple):  # any at all
        return []
    first = str(dtypes[0])
    return next(([word] for start, word in PREFIXES.items() if first.startswith(start)), [])


def _is_python(words: str) -> bool:
    try:
        ast.parse(f"_: {words}" if "[" in words else words)
    except SyntaxError:
        return False
    return True
