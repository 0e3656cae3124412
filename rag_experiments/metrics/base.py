"""What the metrics have in common: a mean over examples, or a statistic of the whole corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rag_experiments.contracts import Option, Prediction

if TYPE_CHECKING:
    import numpy as np

QUESTION_ANSWERING = frozenset({"question_answering"})
YES_NO = frozenset({"yes_no"})
SUMMARIZATION = frozenset({"summarization"})


class ExampleMetric(Option):
    """A metric with a score for each example; the corpus has their mean.

    An example for which the score is not defined (None) is left out of the mean.
    """

    tasks: ClassVar[frozenset[str]]
    """Names of the tasks that the metric fits."""

    inputs: ClassVar[tuple[str, str | None]] = ("prediction", "answers")
    """Fields of a `Prediction` that the `evaluate` library's `predictions` and `references`
    stand for; None: the metric needs no references."""

    greater_is_better: ClassVar[bool] = True
    """Whether larger scores are the better ones. Only then the metric can be `task.objective`,
    which is maximized; searches and reports know both."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Name of the metric in tables and in the tracking store; it may hold its settings."""

    def score(self, prediction: Prediction) -> float | None:
        """Return the score of one example, or None where it is not defined."""
        raise NotImplementedError

    def aggregate(self, predictions: Sequence[Prediction]) -> float:
        """Return the mean over the examples with a score; not a number where there is none."""
        scores = [s for s in map(self.score, predictions) if s is not None]
        return sum(scores) / len(scores) if scores else float("nan")

    def load(self) -> Any:
        """Return the metric as an `evaluate.Metric`, which works without a network."""
        from rag_experiments.metrics.evaluate_metric import wrap

        return wrap(self)


def is_greater_better(metric: Any) -> bool:
    """Whether larger scores of a metric are the better ones, as where it does not say so."""
    return bool(getattr(metric, "greater_is_better", True))


def score_abstention(prediction: Prediction) -> float | None:
    """Return 1 where an answer says that there is none, and there is none, and 0 where only one of
    the two holds; None where a question with an answer is answered, and the texts are compared.

    As in SQuAD 2.0: Rajpurkar et al. 2018, https://arxiv.org/abs/1806.03822
    """
    if not (prediction.abstained or prediction.unanswerable):
        return None
    return float(bool(prediction.abstained) and prediction.unanswerable)


class CorpusMetric(ExampleMetric):
    """A metric of all examples together, e.g. BLEU."""

    shifts_when_resampled: ClassVar[bool] = False
    """Whether drawing examples with replacement moves the metric itself, so that its interval
    has to be centered again. Such a metric lies between 0 and 1."""

    def score(self, prediction: Prediction) -> float | None:
        """Return None: one example has no score of its own."""
        return None

    def is_defined(self, prediction: Prediction) -> bool:
        """Tell whether an example counts; others are left out."""
        return bool(prediction.answers)

    def statistic(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], float]:
        """Return the metric as a function of example indices `[n]`, for resampling.

        What can be counted once for each example is counted here, before the function is made.
        """
        raise NotImplementedError

    def aggregate(self, predictions: Sequence[Prediction]) -> float:
        """Return the metric of the corpus; not a number where no example counts."""
        import numpy as np

        kept = [p for p in predictions if self.is_defined(p)]
        return self.statistic(kept)(np.arange(len(kept))) if kept else float("nan")
