"""Fields that say what they are for, and whether values are what the fields of a record are
declared to hold: asked of files, which may hold anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jaxtyping import jaxtyped


def setting(default: Any, help: str, choices: Sequence[str] = (), **limits: int) -> Any:
    """A field of a recipe, with a sentence for people, and where it has them its ``choices``, its
    ``min`` and its ``max``.
    """
    chosen = {"choices": tuple(choices)} if choices else {}
    return field(default=default, metadata={"help": help, **limits, **chosen})


def misfit(kind: type, values: Mapping[str, Any]) -> str | None:
    """The first of ``values`` that ``kind`` does not declare, or declares otherwise; None where all
    fit.

    Sizes that have one name must agree from field to field.
    """
    declared = _declared(kind)
    with jaxtyped("context"):
        for name, value in values.items():
            if name not in declared or not _fits(value, declared[name]):
                return name
    return None


@cache
def _declared(kind: type) -> dict[str, Any]:
    names = getattr(kind, "__dataclass_fields__", {})
    try:
        return {name: hint for name, hint in get_type_hints(kind).items() if name in names}
    except NameError:  # a class of someone else's whose annotations name what is not at hand
        return dict.fromkeys(names, Any)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint in (int, float):  # in JSON 1.0 may stand as 1; True is no number
        return isinstance(value, int | hint) and not isinstance(value, bool)
    inside = get_args(hint)
    match get_origin(hint):
        case None:
            return isinstance(value, hint)
        case origin if origin in (Union, UnionType):
            return any(_fits(value, one) for one in inside)
        case origin if origin is tuple:
            return isinstance(value, tuple) and _entries_fit(value, inside)
        case origin if origin is dict:
            return isinstance(value, dict) and all(
                _alone(item, inside[1]) for item in value.values()
            )
        case origin:
            return isinstance(value, origin)


def _entries_fit(entries: tuple, hints: tuple) -> bool:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return all(_fits(entry, hints[0]) for entry in entries)
    return len(entries) == len(hints) and all(map(_fits, entries, hints))


def _alone(value: Any, hint: Any) -> bool:
    """As ``_fits``, where sizes are the value's own: the entries of a dict differ in size."""
    with jaxtyped("context"):
        return _fits(value, hint)
