"""A prompt, and what makes a token after it: paths, effects, patterns, what the stream says."""

from functools import partial
from typing import Any

from bilens.circuits import Recording, record
from bilens.models import Transformer
from bilens.report.answers import Asked, Written, answered
from bilens.report.view import Block, Query, View, is_language_model, prompt_text, prompt_words

EVERY = 24  # tokens of a prompt, up to which each has an answer
CHEAP = 50_000_000  # multiplications a pass, up to which each has


NO_PROMPT = (
    "This model has no tokenizer, and no prompt was given: bilens report MODEL --prompt with the "
    'numbers of tokens ("5 3 7"), or --truth with a file of rules, whose own tokens are asked of.'
)


def _build(model: Transformer, query: Query) -> list[Block]:
    if not query.prompts:
        return [Block("missing", "Prompt", lambda: {"text": NO_PROMPT})]
    return [
        Block(
            "prompt",
            f"Prompt: {prompt_words(prompt)}",
            partial(_asked, model, query, prompt),
            partial(_unanswered, prompt) if query.live else None,
        )
        for prompt in query.prompts
    ]


def _unanswered(prompt: Written, error: str) -> dict[str, Any]:
    """What a page that can ask anew shows where there is no first answer: what was asked, and why
    there is none.
    """
    text = prompt_text(prompt)
    return {"prompt": str(text), "answers": [], "first": 0, "error": error}


def _asked(model: Transformer, query: Query, prompt: Written) -> dict[str, Any]:
    """The answer that was asked for, and of a short prompt and a small model what comes next at
    every other position too.
    """
    explained, asked = query.exact(model), query.asked
    recording = record(explained, prompt)
    first = answered(explained, recording, asked, query.name, prompt)
    others = [
        answered(explained, recording, Asked(position=t), query.name, prompt)
        for t in _other_positions(explained, recording, first["position"])
    ]
    answers = sorted([first, *others], key=lambda one: one["position"])
    return {"prompt": recording.text, "answers": answers, "first": answers.index(first)}


def _other_positions(model: Transformer, recording: Recording, asked: int) -> list[int]:
    length = recording.length
    if length > EVERY or length * model.num_parameters() > CHEAP:
        return []
    return [t for t in range(length) if t != asked]


VIEW = View("prompt", is_language_model, _build)
