"""What people say on a run's traces in MLflow, read and written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_experiments.tracking.mlflow import Mlflow

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace

SHEET = "blind_sheet"
"""Metadata of what came from a blinded sheet, so that it is not read back as given in the UI."""

QUESTION = "question_id"
"""Tag or metadata of a trace."""


@dataclass(frozen=True, slots=True)
class Given:
    """One judgment of one person on the answer to one question."""

    question_id: str
    rater: str
    name: str
    """What is judged, e.g. `correctness`; `corrected_answer` is what should have been said."""
    value: Any
    comment: str = ""


class TracedRun:
    """A run in its store, with the traces of its answers."""

    def __init__(self, uri: str, run_id: str, experiment: str, traced: bool = True):
        self.uri = uri
        self.run_id = run_id
        self._traces = self._search(experiment) if traced else {}

    @classmethod
    def find(cls, store: Mlflow, folder: Path, traced: bool = True) -> TracedRun | None:
        """Find the run that wrote a folder; None where the store does not know it.

        Without `traced` its traces are left alone: they show other answers.
        """
        run = store.find(folder)
        if run is None:
            return None
        return cls(store.address, run.info.run_id, run.info.experiment_id, traced)

    @property
    def questions(self) -> frozenset[str]:
        """Ids of the questions that have a trace."""
        return frozenset(self._traces)

    def read(self) -> list[Given]:
        """Return what people said in the MLflow UI; of one person's judgments the last counts."""
        found: dict[tuple[str, str, str], Given] = {}
        for question, trace in self._traces.items():
            feedback = [a for a in _valid(trace) if a.feedback is not None and not _sheet(a)]
            for entry in sorted(feedback, key=lambda a: a.last_update_time_ms or 0):
                rater = entry.source.source_id or "default"  # as the UI names who has no name
                given = Given(question, rater, entry.name, _value(entry), entry.rationale or "")
                found[question, rater, entry.name] = given
        return list(found.values())

    def write(self, given: Sequence[Given], sheet: str) -> tuple[int, int]:
        """Attach judgments of a sheet to the traces; return how many, and how many lack a trace.

        What was written before is brought up to date, never doubled.
        """
        import mlflow
        from mlflow.entities import AssessmentSource, Expectation, Feedback
        from tqdm.auto import tqdm

        on_trace = [entry for entry in given if entry.question_id in self._traces]
        before = {
            (question, a.source.source_id, a.name): a
            for question, trace in self._traces.items()
            for a in _valid(trace)
            if _sheet(a) == sheet
        }
        with use_store(self.uri):
            for entry in tqdm(on_trace, desc="ratings to traces", unit=" ratings", delay=2):
                trace_id = self._traces[entry.question_id].info.trace_id
                common: dict[str, Any] = {
                    "name": entry.name,
                    "source": AssessmentSource("HUMAN", entry.rater),
                    "value": entry.value,
                    "metadata": {SHEET: sheet},
                }
                new: Assessment
                if entry.name == "corrected_answer":
                    new = Expectation(**common)
                else:
                    new = Feedback(**common, rationale=entry.comment or None)
                old = before.get((entry.question_id, entry.rater, entry.name))
                if old is None:
                    mlflow.log_assessment(trace_id, new)
                elif (_value(old), old.rationale or "") != (entry.value, entry.comment):
                    mlflow.update_assessment(trace_id, str(old.assessment_id), new)
        return len(on_trace), len(given) - len(on_trace)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record numbers of the run."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
        MlflowClient(tracking_uri=self.uri).log_batch(self.run_id, metrics=entities)

    def _search(self, experiment: str) -> dict[str, Trace]:
        found: dict[str, Trace] = {}
        for trace in search_traces(self.uri, experiment, self.run_id):
            question = trace.info.tags.get(QUESTION, trace.info.trace_metadata.get(QUESTION))
            if question is not None:
                found.setdefault(question, trace)
        return found


def search_traces(
    uri: str, experiment: str, run_id: str, include_spans: bool = False
) -> Iterator[Trace]:
    """Yield the traces of a run, the newest first; with spans, those whose spans can be read."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment],
            run_id=run_id,
            include_spans=include_spans,
            max_results=500,
            page_token=token,
        )
        yield from page
        if not (token := page.token):
            return


def _valid(trace: Trace) -> list[Assessment]:
    """What people said that was not replaced later."""
    return [
        assessment
        for assessment in trace.info.assessments
        if assessment.source.source_type == "HUMAN" and assessment.valid is not False
    ]


def _value(assessment: Assessment) -> Any:
    content = assessment.feedback or assessment.expectation
    return content.value if content is not None else None


def _sheet(assessment: Assessment) -> str:
    return (assessment.metadata or {}).get(SHEET, "")


@contextmanager
def use_store(uri: str) -> Iterator[None]:
    """Point the part of MLflow that knows no client at a store."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        # MLflow sets the variable, too, and it would decide which store is meant from now on;
        # None takes both back.
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
