"""What a page may ask: read from JSON, every part of it held to what it can be."""

from collections.abc import Mapping, Sequence
from typing import Any

from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole
from bilens.models import Transformer
from bilens.report.answers import TERMS, Asked, Written
from bilens.wiring import Prompt

LONGEST = 20_000  # characters of a prompt
TOKENS = 512  # of one
MOST_TERMS = 5_000
MOST_CUTS = 32  # that are taken out together
NAMED = 200  # characters of a token, or of what is taken out
KEYS = ("prompt", "position", "target", "versus", "max_terms", "knockout", "effects")


def read_question(question: Any, special_tokens: bool = True) -> tuple[Prompt, Asked]:
    """The prompt and what is asked of it. Errors: ArgumentError for what is no question."""
    if not isinstance(question, Mapping):
        got = type(question).__name__
        raise ArgumentError("a question", must="be an object with a prompt", got=got)
    for key in question:
        if key not in KEYS:
            must = f"have {', '.join(KEYS)} alone"
            raise ArgumentError("a question", must=must, got=repr(key))
    asked = Asked(
        target=_token("target", question.get("target")),
        versus=_token("versus", question.get("versus")),
        position=_whole("position", question.get("position"), -1, -LONGEST, LONGEST),
        max_terms=_whole("max_terms", question.get("max_terms"), TERMS, 1, MOST_TERMS),
        effects=_flag("effects", question.get("effects")),
        without=_names(question.get("knockout")),
    )
    return Prompt(_text("prompt", question.get("prompt"), LONGEST), special_tokens), asked


def require_asked(
    model: Transformer, prompts: Sequence[Written], asked: Asked, most: int | None = None
) -> None:
    """Raise ArgumentError unless ``model`` reads each of ``prompts``, of at most ``most`` tokens
    where that is given, and each has the position and the model the tokens that are ``asked`` of.

    >>> bilens.report.require_asked(model, [prompt], bilens.report.Asked(" girl", position=3))
    """
    for prompt in prompts:
        length = model.read(prompt).shape[1]
        if most is not None and length > most:
            raise ArgumentError("prompt", must=f"have at most {most} tokens", got=length)
        if not -length <= asked.position < length:
            must = f"be {-length} … {length - 1} for a prompt of {length} tokens"
            raise ArgumentError("position", must=must, got=asked.position)
    for token in (asked.target, asked.versus):
        if token is not None:
            model.output_index(token)


def _text(who: str, given: Any, longest: int) -> str:
    if not isinstance(given, str):
        raise ArgumentError(who, must="be a text", got=type(given).__name__)
    if len(given) > longest:
        got = f"{len(given):,}"
        raise ArgumentError(who, must=f"have at most {longest:,} characters", got=got)
    return given


def _token(who: str, given: Any) -> str | int | None:
    """A token as ``output_index`` takes one, which says whether there is such a one."""
    return given if given is None or is_whole(given) else _text(who, given, NAMED)


def _whole(who: str, given: Any, otherwise: int, low: int, high: int) -> int:
    if given is None:
        return otherwise
    if not is_whole(given) or not low <= given <= high:
        raise ArgumentError(who, must=f"be a whole number {low} … {high}", got=repr(given))
    return int(given)


def _flag(who: str, given: Any) -> bool:
    if given not in (None, True, False):
        raise ArgumentError(who, must="be true or false", got=repr(given))
    return given is not False


def _names(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > MOST_CUTS:
        must = f"be a list of at most {MOST_CUTS} names"
        raise ArgumentError("knockout", must=must, got=type(given).__name__)
    return tuple(_text("knockout", name, NAMED) for name in given)
