"""What the model saw, question by question, as traces that the MLflow UI draws."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rag_experiments.contracts import Prediction
from rag_experiments.tracking.assessments import QUESTION, search_traces, use_store

ATTEMPTS = 2
"""MLflow drops a trace or spans that it fails to write, and says so to no caller."""

SPANS = frozenset({"answer", "retrieve", "generate"})

SOURCE = "rag_experiments"
"""Who the scores on a trace come from."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One answered question, as a trace shows it."""

    prediction: Prediction
    prompts: tuple[str, ...]
    """What the generator read, one text for each prompt."""
    scores: Mapping[str, float | None]
    """By name of the metric; None where it is not defined for this question."""
    notes: Mapping[str, str]
    """Tags to search by, e.g. the error bin."""


def read(rows: Sequence[Mapping[str, Any]]) -> list[Traced]:
    """Traced answers that `dataclasses.asdict` made plain, as a journal keeps them."""
    from pydantic import TypeAdapter

    return TypeAdapter(list[Traced]).validate_python(rows)


def log_traces(uri: str, experiment: str, run_id: str, answered: Sequence[Traced]) -> None:
    """Write a trace for each answered question to a store, and link it to its run.

    A trace has the retrieved passages, the prompts and the answer as spans, the tag `question_id`,
    the accepted answers as an expectation, and the scores as feedback. They were not timed when
    they were answered, so durations mean nothing. What the store has already is not written twice.
    Raises RuntimeError where some are not stored.
    """
    # At once, not by a thread that may still write when the process ends.
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    for attempt in range(ATTEMPTS + 1):
        stored = _stored(uri, experiment, run_id)
        left = [each for each in answered if each.prediction.id not in stored]
        if not left:
            return
        if attempt < ATTEMPTS:
            with use_store(uri), _unseeded():
                for each in left:
                    _log_trace(experiment, run_id, each)
    raise RuntimeError(f"{len(left)} of {len(answered)} were not stored")


def _stored(uri: str, experiment: str, run_id: str) -> set[str]:
    """Ids of the questions whose traces a store has whole; what it has in part is deleted."""
    from mlflow import MlflowClient

    whole, broken = set(), []
    with use_store(uri):  # spans may be artifacts: of a server that is slow to say its version
        for trace in search_traces(uri, experiment, run_id, include_spans=True):
            if {span.name for span in trace.data.spans} >= SPANS:
                whole.add(trace.info.tags.get(QUESTION, ""))
            else:
                broken.append(trace.info.trace_id)
    if broken:
        MlflowClient(uri).delete_traces(experiment, trace_ids=broken)
    return whole


@contextmanager
def _unseeded() -> Iterator[None]:
    """Let `random` draw what no other run draws: OpenTelemetry takes the ids of traces from it, and
    a run with the same seed would write over the traces of an earlier one."""
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


def _log_trace(experiment: str, run_id: str, answered: Traced) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource, Document, SpanType
    from mlflow.entities.trace_location import MlflowExperimentLocation

    prediction = answered.prediction
    place = MlflowExperimentLocation(experiment)
    with mlflow.start_span(
        "answer", SpanType.CHAIN, trace_destination=place, run_id=run_id
    ) as root:
        mlflow.update_current_trace(
            tags={QUESTION: prediction.id, **answered.notes},
            # MLflow would put the address of the git repository here, with a password in it.
            metadata={"mlflow.source.git.repoURL": ""},
            request_preview=prediction.question,
            response_preview=prediction.prediction,
        )
        asked = {"question": prediction.question}
        if prediction.document:
            asked = {"title": prediction.question, "document": prediction.document}
        root.set_inputs(asked)
        with mlflow.start_span("retrieve", SpanType.RETRIEVER) as span:
            span.set_inputs({"question": prediction.question})
            span.set_outputs(
                [
                    Document(text, _passage_facts(prediction, i), id=prediction.passage_ids[i])
                    for i, text in enumerate(prediction.passages)
                ]
            )
        with mlflow.start_span("generate", SpanType.LLM) as span:
            prompts = answered.prompts
            names = [f"prompt {i}" for i in range(1, len(prompts) + 1)]
            span.set_inputs(dict(zip(names, prompts, strict=True)))
            span.set_outputs({"answer": prediction.prediction, **_labels(prediction)})
        root.set_outputs({"answer": prediction.prediction})
        source = AssessmentSource("CODE", SOURCE)
        # While the trace is open they are kept with it, and written in one go.
        for name, score in answered.scores.items():
            if score is not None:
                mlflow.log_feedback(
                    trace_id=root.trace_id, name=name, value=float(score), source=source
                )
        if prediction.answers:
            mlflow.log_expectation(
                trace_id=root.trace_id,
                name="expected_answer",
                value=" | ".join(prediction.answers),
                source=source,
            )


def _passage_facts(prediction: Prediction, rank: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "doc_uri": prediction.passage_ids[rank],  # what the UI heads a passage with
        "score": prediction.retrieval_scores[rank],
        "p(z|x)": prediction.prior[rank],
    }
    if prediction.posterior:
        facts["p(z|x,y)"] = prediction.posterior[rank]
    if prediction.gold_passage_ids:
        facts["gold"] = prediction.passage_ids[rank] in prediction.gold_passage_ids
    return facts


def _labels(prediction: Prediction) -> dict[str, Any]:
    return {"label_scores": prediction.label_scores} if prediction.label_scores else {}
