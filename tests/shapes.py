"""Which functions jaxtyping checks: those whose signature says a shape. A checked call costs about
0.1 ms whatever it says, and most calls are of small helpers that say none: their plain types are
pyright's.
"""

import inspect
from dataclasses import is_dataclass
from functools import partial

import jaxtyping

CHECKED = jaxtyping.jaxtyped


def says_a_shape(function):
    """Whether a parameter or the value returned has one. What a text says is not known, and may be
    one.
    """
    signature = inspect.signature(function)
    given = [parameter.annotation for parameter in signature.parameters.values()]
    return any(
        "[" in said if isinstance(said, str) else "jaxtyping." in repr(said)
        for said in (*given, signature.return_annotation)
    )


def checked(made, *, typechecker):
    """``made`` (a function, or a class, of which a dataclass is checked as it is made) with its
    shapes checked, if it says any.
    """
    if inspect.isclass(made) and not is_dataclass(made):
        return made
    maker = made.__init__ if inspect.isclass(made) else made
    return CHECKED(made, typechecker=typechecker) if says_a_shape(maker) else made


def decorator(*given, **named):
    """``jaxtyping.jaxtyped``; bilens itself asks it for a context."""
    return CHECKED(*given, **named) if given else partial(checked, **named)


def leave_out_what_says_none():
    """For every module that jaxtyping's hook meets from here on: it decorates what it finds with
    ``jaxtyping.jaxtyped(typechecker=…)``.
    """
    jaxtyping.jaxtyped = decorator
