"""Options made from the fields of a recipe, so that a new field is an option the same day."""

from collections.abc import Callable, Collection
from dataclasses import MISSING, Field, fields
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

import typer

from bilens.cli.options import completed


def recipe_options(
    recipe: type,
    *,
    flags: dict[str, str] | None = None,
    leave_out: Collection[str] = (),
    show_defaults: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of the dataclass ``recipe``.

    The command has a parameter ``changes``, which becomes a dict of the fields by name. A field
    that is not given is None there, or its default with ``show_defaults``, which the help then
    shows. ``flags``: what an option is called where it is not called like its field. An option's
    help, its range and what completes it are the field's metadata: ``help``, ``min``, ``max``,
    ``choices``.
    """
    hints = get_type_hints(recipe)
    named = flags or {}
    added = [
        _parameter(field, hints[field.name], named.get(field.name), show_defaults)
        for field in fields(recipe)
        if field.name not in leave_out
    ]

    def give(command: Callable[..., None]) -> Callable[..., None]:
        return _with_parameters(command, added)

    return give


def _parameter(field: Field, hint: type, flag: str | None, show_default: bool) -> Parameter:
    """The parameter of a command from which typer makes the option for ``field``."""
    assert field.default is not MISSING, f"{field.name} has no default"
    flag = flag or ("-k" if field.name == "k" else f"--{field.name.replace('_', '-')}")
    told = dict(field.metadata)
    choices = told.pop("choices", None)
    told |= {"autocompletion": completed(choices)} if choices else {}
    option = typer.Option(flag, **told)  # without a --no-flag for what is true or false
    if show_default:
        return Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[hint, option],
        )
    return Parameter(
        field.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint | None, option]
    )


def _with_parameters(
    command: Callable[..., None], added: Collection[Parameter]
) -> Callable[..., None]:
    """``command`` with the parameters ``added`` in the place of its ``changes``."""
    own = [each for each in signature(command).parameters.values() if each.name != "changes"]

    @wraps(command)
    def called(**given: Any) -> None:
        changes = {each.name: given.pop(each.name) for each in added}
        command(**given, changes=changes)

    parameters = [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *added]
    called.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called
