"""An option that has one value is given once: of two, the first would be lost without a word."""

import pytest

from bilens.base.errors import ArgumentError
from bilens.cli.app import COMMANDS, TRAINING, root_group

ROOT = root_group()
EACH = [(ROOT, name) for name in COMMANDS] + [(ROOT.commands["train"], name) for name in TRAINING]


def options(command):
    return [one for one in command.params if one.param_type_name == "option" and not one.is_flag]


@pytest.mark.parametrize(("group", "name"), EACH, ids=[name for _, name in EACH])
def test_each_single_option_of_each_command(group, name):
    command = group.commands[name]
    loaded = command.load()
    needed = [arg for one in loaded.params if one.required for arg in _given(one)]
    tried = 0
    for option in options(loaded):
        if option.name in ("install_completion", "show_completion"):
            continue
        rest = [] if option.required else _given(option)
        twice = [*needed, *rest, *_given(option)]
        if option.multiple:
            continue
        with pytest.raises(ArgumentError, match="must be given once; got 2 times") as caught:
            command.make_context(name, twice)
        assert str(caught.value).startswith(option.opts[0])
        tried += 1
    assert tried or not options(loaded)


def _given(param):
    return ["2"] if param.param_type_name == "argument" else [param.opts[0], "2"]


def test_several_of_what_takes_several(run):
    paths = [arg for head in ("L0H0", "L0H1") for arg in ("--path", f"W_U {head}(embed)")]
    code, out, _ = run("rules", "tinystories-2l", "-k", 1, *paths)
    assert code == 0
    assert out.count("W_U L0H") == 2


@pytest.mark.parametrize("args", [["verify", ""], ["eval", "M", ""], ["expand", "M", "--save", ""]])
def test_an_empty_name_is_no_folder(args, run):
    """As a path it would be the folder that one is in."""
    code, out, err = run(*args)
    who = "--save" if "--save" in args else "an argument"
    assert (code, out, err.strip()) == (2, "", f"bilens: {who} must not be empty; got ''.")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("expand", "M", "--prompt", "hi", "--position", "99"), "--position must be -2 … 1"),
        (("lens", "M", "--prompt", "hi", "--layer", "L0H0"), "--layer must be quadratic"),
        (("knockout", "M", "L0H1", "--prompt", "hi", "--with", "a b c"), '--with must be "zero"'),
    ],
)
def test_an_option_is_called_by_its_flag(args, said, run):
    """The library names its own arguments."""
    code, _, err = run(*("tinystories-2l" if one == "M" else one for one in args))
    assert code == 2
    assert err.startswith(f"bilens: {said}")
