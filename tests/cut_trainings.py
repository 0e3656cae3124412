"""Trainings that are cut short, as by the death of their process, and go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rag_experiments.contracts import Training


class Killed(Exception):
    """Stands for the death of the process."""


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
