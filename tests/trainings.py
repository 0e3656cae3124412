"""What tests of training share: a task, words to ask about, and trainings that are cut short, as by
the death of their process, and go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from rag_experiments.contracts import Training
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering

PROMPT = Prompt(template="{context}\n{question}", closed_book="{question}")
TASK = QuestionAnswering(prompt=PROMPT, max_answer_tokens=4)

WORDS = ("yeast", "sugar", "phage", "insulin", "plasmid")
WORDS += ("ethanol", "ligase", "oxygen", "enzyme", "primer")

Result = TypeVar("Result")


class Killed(Exception):
    """Stands for the death of the process."""


def go_on(attempt: Callable[[int], Result], most: int = 20) -> tuple[Result, int]:
    """Make attempts, by their number, until one is not killed; return its result and how many were.

    Fails where `most` of them were.
    """
    for killed in range(most):
        try:
            return attempt(killed), killed
        except Killed:
            continue
    raise AssertionError(f"all of {most} attempts were killed")


def train_whole_and_cut(
    trainer: Any, make_training: Callable[..., Training], points: int = 5
) -> tuple[Training, Training]:
    """Train once without an interruption, and once with one after so many points of the curve;
    return both trainings, whose results are the same.

    `make_training` takes the folder of the checkpoints and the log of the curve.
    """
    whole = make_training(folder="whole", log=lambda *_: None)
    result = trainer.fit(whole)
    curve = []

    def die(values: dict[str, float], step: int) -> None:
        curve.append(step)
        if len(curve) > points:
            raise Killed

    with pytest.raises(Killed):
        trainer.fit(make_training(folder="cut", log=die))
    again = make_training(folder="cut", log=lambda *_: None)
    assert trainer.fit(again) == result
    return whole, again
