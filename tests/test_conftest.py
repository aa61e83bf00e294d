"""The suite's own checks can fail."""

import importlib
import inspect
import sys

import pytest
import torch
from jaxtyping._import_hook import _JaxtypingLoader

from bilens.algebra import homogeneous_map
from tests.shapes import says_a_shape

CHECKED = hasattr(homogeneous_map, "__wrapped__")  # only with --jaxtyping-packages


@pytest.mark.skipif(not CHECKED, reason="needs --jaxtyping-packages=bilens,beartype.beartype")
def test_shapes_are_checked():
    with pytest.raises(TypeError, match="Type-check error"):
        homogeneous_map(torch.ones(3, 4), torch.ones(2))


def layers(function):
    """The function and what it wraps, down to the one that was written."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def functions_of(module):
    """Of a module, and of its classes."""
    mine = [
        one for one in vars(module).values() if getattr(one, "__module__", 0) == module.__name__
    ]
    methods = [method for one in mine if inspect.isclass(one) for method in vars(one).values()]
    return filter(inspect.isfunction, mine + methods)


@pytest.mark.skipif(not CHECKED, reason="needs --jaxtyping-packages=bilens,beartype.beartype")
@pytest.mark.parametrize(
    "room",
    ["algebra", "circuits", "decompose", "features", "measure", "nearest", "nn", "wiring"],
)
def test_every_function_that_says_a_shape_is_checked_and_no_other(room):
    importlib.import_module(f"bilens.{room}")
    modules = [sys.modules[name] for name in sys.modules if name.startswith(f"bilens.{room}.")]
    seen = {True: 0, False: 0}
    for module in modules:
        if isinstance(module.__loader__, _JaxtypingLoader):
            for function in functions_of(module):
                *above, written = layers(function)
                checked = any("jaxtyping" in layer.__code__.co_filename for layer in above)
                assert checked == says_a_shape(written), function
                seen[checked] += 1
    assert min(seen.values()) > 0


@pytest.mark.bad_input
def test_bad_input_reaches_bilens():
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        homogeneous_map(torch.ones(3, 4), torch.ones(2))


def test_close_sees_a_difference(close):
    for other in (torch.ones(3).double() * (1 + 1e-9), torch.ones(1, 3).double()):
        with pytest.raises(AssertionError):
            close(other, torch.ones(3).double())
