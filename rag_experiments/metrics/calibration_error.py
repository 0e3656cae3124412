"""Whether labels are right as often as their probabilities say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import normalize_answer
from rag_experiments.metrics.base import YES_NO, CorpusMetric

if TYPE_CHECKING:
    import numpy as np


class CalibrationError(CorpusMetric):
    """Expected calibration error: sum over bins of (questions in it / all) |accuracy - confidence|.

    Confidence is the probability of the likeliest label; bins divide (0, 1] into equal widths,
    upper ends included. Few questions a bin make it too large, so compare runs on the same
    questions only; a resample has fewer, hence the interval is centered. Guo et al. 2017,
    https://arxiv.org/abs/1706.04599
    """

    tasks: ClassVar[frozenset[str]] = YES_NO
    inputs: ClassVar[tuple[str, str | None]] = ("label_scores", "answers")
    greater_is_better: ClassVar[bool] = False
    shifts_when_resampled: ClassVar[bool] = True

    bins: Annotated[int, Field(ge=1)] = 15
    """Number of bins."""

    @property
    def name(self) -> str:
        """calibration_error; with its bins where they are not 15."""
        return "calibration_error" if self.bins == 15 else f"calibration_error_{self.bins}"

    def is_defined(self, prediction: Prediction) -> bool:
        """Tell whether there are label scores and an accepted answer."""
        return bool(prediction.answers and prediction.label_scores)

    def statistic(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], float]:
        """Return the calibration error as a function of example indices `[n]`."""
        import numpy as np

        likeliest = [max(p.label_scores, key=p.label_scores.__getitem__) for p in predictions]
        confidence = np.array(
            [p.label_scores[label] for p, label in zip(predictions, likeliest, strict=True)]
        )
        correct = np.array(
            [
                normalize_answer(label) == normalize_answer(p.answers[0])
                for p, label in zip(predictions, likeliest, strict=True)
            ]
        )
        gaps = correct - confidence
        place = np.ceil(confidence * self.bins).astype(int).clip(1, self.bins) - 1

        def calibration_error(indices: np.ndarray) -> float:
            sums = np.bincount(place[indices], weights=gaps[indices])
            return float(np.abs(sums).sum() / len(indices))

        return calibration_error
