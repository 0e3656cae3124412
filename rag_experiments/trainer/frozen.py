"""No training: the baseline."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Option, Part, Training, TrainingResult


class Frozen(Option):
    """Evaluate the pretrained model as it is."""

    trains: ClassVar[frozenset[Part]] = frozenset()

    def fit(self, training: Training) -> TrainingResult:
        """Change nothing."""
        return TrainingResult(steps=0)
