"""Options made from the fields of a recipe."""

import dataclasses
from dataclasses import dataclass
from inspect import signature

import pytest
import typer
from typer.main import get_command

from bilens import training
from bilens.base.fields import setting
from bilens.cli.app import root_group
from bilens.cli.recipes import recipe_options
from bilens.features import DictionaryRecipe


@dataclass(frozen=True)
class Recipe:
    width: int = setting(3, "How wide.", min=1)
    rate: float = setting(0.5, "How fast.")
    loud: bool = setting(False, "Whether loud.")
    k: int = setting(2, "How many.")
    kind: str = setting("one", "Which.", ("one", "two"))
    secret: str = setting("s", "Not for the command line.")


def read(arguments, **options):
    """What a command gets as its changes, and the command."""
    got = {}

    @recipe_options(Recipe, leave_out=("secret",), **options)
    def command(name: str, changes: dict, last: int = 7) -> None:
        """Say it."""
        got.update(changes, name=name, last=last)

    get_command(_app(command))(arguments.split(), standalone_mode=False)
    return got


def _app(command):
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return app


@pytest.mark.parametrize("defaults", [False, True])
def test_fields_become_options(defaults):
    rest = {"name": "n", "last": 7}
    untouched = {"width": 3, "rate": 0.5, "loud": False, "k": 2, "kind": "one"} if defaults else {}
    empty = dict.fromkeys(("width", "rate", "loud", "k", "kind")) | untouched
    assert read("n", show_defaults=defaults) == rest | empty
    given = {"width": 4, "rate": 0.25, "loud": True, "k": 1, "kind": "two"}
    line = "n --width 4 --rate 0.25 --loud -k 1 --kind two"
    assert read(line, show_defaults=defaults) == rest | given
    assert read("n --wide 4", flags={"width": "--wide"})["width"] == 4


def test_choices_complete():
    command = get_command(_app(recipe_options(Recipe)(lambda changes: None)))
    (option,) = (one for one in command.params if one.name == "kind")
    found = option.shell_complete(typer.Context(command), "t")
    assert [item.value for item in found] == ["two"]


@pytest.mark.parametrize("line", ["n --width 0", "n --width x", "n --secret x", "n --no-loud"])
def test_what_no_field_takes_is_refused(line):
    with pytest.raises(typer.exceptions.TyperException):
        read(line)


def test_every_field_of_a_recipe_is_an_option():
    """The model's own table alone stands in a file."""
    train = root_group().commands["train"].commands
    for name, recipe in (
        ("image", training.ImageRecipe),
        ("text", training.TextRecipe),
        ("dictionary", DictionaryRecipe),
    ):
        command = train[name].load()
        options = {option.name: option.help for option in command.params}
        for field in dataclasses.fields(recipe):
            if field.name != "model":
                assert options[field.name] == field.metadata["help"]
    assert "changes" not in signature(command.callback).parameters
