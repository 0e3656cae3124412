"""The metrics as `evaluate.Metric`, for use with `evaluate.combine` and without a network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import ExampleMetric

_TEXTS = ("prediction", "question", "document")
"""Fields of a `Prediction` that are one text; the others have several, but for `words`,
`abstained` and `label_scores`."""


class _Wrapped(evaluate.Metric):
    """Hands predictions and references to a metric of this package.

    `compute` returns `{name: value}`. Label scores are given as a list of `{"label": ..., "score":
    ...}`.
    """

    def __init__(self, metric: ExampleMetric, **kwargs: Any):
        self.metric = metric
        # In memory: evaluate would else write each batch to a file in its cache.
        super().__init__(config_name=metric.name, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        predictions, references = self.metric.inputs
        features = {"predictions": _feature(predictions)}
        options = [datasets.Features(features)]
        if references is not None:
            options = [datasets.Features({**features, "references": _feature(references)})]
            if references == "answers":  # one accepted answer may be given without a list
                text = datasets.Value("string")
                options.append(datasets.Features({**features, "references": text}))
        return evaluate.MetricInfo(
            description=type(self.metric).__doc__ or "",
            citation="",
            inputs_description=f"predictions: {predictions}; references: {references}",
            features=options,
        )

    def _compute(self, predictions: list, references: list | None = None) -> dict[str, float]:
        kinds = self.metric.inputs
        columns = [predictions] if references is None else [predictions, references]
        rows = zip(*columns, strict=True)
        examples = [_example(i, kinds, row) for i, row in enumerate(rows)]
        return {self.metric.name: self.metric.aggregate(examples)}


def _feature(kind: str) -> Any:
    text = datasets.Value("string")
    if kind in ("words", "abstained"):
        return datasets.Value("int64" if kind == "words" else "bool")
    if kind == "label_scores":
        return [{"label": text, "score": datasets.Value("float64")}]
    return text if kind in _TEXTS else [text]


def _example(index: int, kinds: tuple[str, str | None], row: tuple[Any, ...]) -> Prediction:
    fields: dict[str, Any] = {"question": "", "prediction": "", "answers": ()}
    for kind, value in zip(kinds, row, strict=False):
        assert kind is not None
        if kind in _TEXTS or kind in ("words", "abstained"):
            fields[kind] = value
        elif kind == "label_scores":
            fields[kind] = {each["label"]: each["score"] for each in value}
        else:
            fields[kind] = (value,) if isinstance(value, str) else tuple(value)
    return Prediction(id=str(index), **fields)


def wrap(metric: ExampleMetric) -> evaluate.Metric:
    """Return a metric as an `evaluate.Metric` named after its class."""
    kind = type(type(metric).__name__, (_Wrapped,), {"__doc__": type(metric).__doc__})
    return kind(metric)
