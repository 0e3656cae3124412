"""No training: the baseline."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Option, Training, TrainingResult


class Frozen(Option):
    """Evaluate the pretrained model as it is."""

    trains: ClassVar[bool] = False
    trains_query_encoder: ClassVar[bool] = False

    def fit(self, training: Training) -> TrainingResult:
        """Change nothing."""
        return TrainingResult(steps=0)
