"""What a model's answers to the test questions show: scored, explained, written and recorded."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag_experiments.config import Run
from rag_experiments.contracts import Hit, Metric, Prediction, PreparedData, Question
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.evaluation import coverage, diagnosis
from rag_experiments.evaluation.references import metrics_of_answers, predict_references
from rag_experiments.evaluation.summary import print_errors, print_references, print_summary
from rag_experiments.evaluation.variation import add_rewordings, add_samples
from rag_experiments.metrics.evaluation import Estimate, Evaluation, evaluate_predictions
from rag_experiments.pipeline import RagPipeline, mean_entropy
from rag_experiments.runtime.timing import Timer
from rag_experiments.sweep import outcomes
from rag_experiments.tracking.recorder import Recorder
from rag_experiments.tracking.traces import Traced

log = logging.getLogger(__name__)

GOLD_NOTES = {
    "annotated": "",
    "answer_match": "gold passages are not annotated: those that contain an accepted answer "
    "stand in, in every figure of retrieval",
    "none": "no gold passages are known: figures of retrieval are not defined",
}


Bins = dict[str, int]
"""Test questions in each bin of errors."""


class Results:
    """The results of one run, in its folder and in tracking.

    `describe_data` comes first, then `score` for what is to be compared with the final model, then
    `conclude` with that model's own answers.
    """

    def __init__(
        self, config: Run, data: PreparedData, folder: Path, recorder: Recorder, timer: Timer
    ):
        self.config = config
        self.data = data
        self.folder = folder
        self.recorder = recorder
        self.timer = timer
        self.metrics: list[Metric] = list(config.metrics.values())
        self.evaluations: dict[str, Evaluation] = {}
        self.sizes = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
        self.sizes["passages"] = len(data.passages)

    def describe_data(self, write: bool = True) -> None:
        """Record what the data is and what was done to it; without `write` no file is written."""
        log.info("data: %s", ", ".join(f"{count} {name}" for name, count in self.sizes.items()))
        name = type(self.config.data).__name__
        self.recorder.log_data(name, fingerprint(self.data), self.sizes)
        self.recorder.tag("gold_source", self.data.gold)
        lines = [note for note in (*self.data.notes, GOLD_NOTES[self.data.gold]) if note]
        notes = "".join(f"{line}\n" for line in lines)
        if write:
            (self.folder / "notes.txt").write_text(notes, encoding="utf-8")
        self.recorder.log_text(notes, "notes.txt")

    def score(
        self,
        stage: str,
        predictions: Sequence[Prediction],
        metrics: Sequence[Metric] | None = None,
    ) -> None:
        """Score the answers of a stage (by all metrics), and write them with their scores."""
        metrics = self.metrics if metrics is None else metrics
        self.evaluations[stage] = evaluate_predictions(metrics, predictions, self.config.seed)
        rows = table_rows(predictions, self.evaluations[stage], self.data.gold)
        write_rows(self.folder / f"predictions_{stage}.jsonl", rows)
        self.recorder.log_predictions(rows, f"predictions_{stage}")

    def conclude(
        self,
        stage: str,
        pipeline: RagPipeline,
        hits: Sequence[Sequence[Hit]],
        predictions: list[Prediction],
        truncated: int,
        overrides: Sequence[str],
        validation: Mapping[str, float],
    ) -> float:
        """Score and explain the answers of the final model; return the objective.

        `predictions` are its answers to the test questions, made from `hits`; `truncated` of their
        prompts had passages cut. The model is asked again for what the configuration wants
        beside: variations of the questions, and the reference conditions. `validation` are its
        scores on the validation questions.
        """
        with self.timer.stage("evaluation"):
            varied = vary(self.config, pipeline, self.data.test, hits, predictions)
            self.score(stage, varied)
        labels = self.config.task.labels
        references: dict[str, list[Prediction]] = {}
        with self.timer.stage("references"):
            located = coverage.locate_answers(self.data)
            gold = diagnosis.find_gold(self.data, located, labels)
            if self.config.test.references:
                references = predict_references(pipeline, self.data.test, predictions, gold)
            for condition, found in references.items():
                self.score(condition, found, metrics_of_answers(self.metrics))
        with self.timer.stage("diagnosis"):
            covered = coverage.measure_coverage(self.data, predictions, located, labels)
            self._write_summary("coverage", covered)
            self.recorder.log_metrics(coverage.list_shares(covered))
            bins: Bins | None = None
            explained: list[dict[str, Any]] = []
            if self.config.task.records == "questions":  # a summary is not right or wrong
                explained = diagnosis.explain(predictions, references, gold, labels)
                bins = self._write_errors(explained, diagnosis.summarize(explained, labels))
        if self.recorder.traces:
            with self.timer.stage("traces"):
                self._trace(stage, pipeline, predictions, [row["bin"] for row in explained])

        for name, evaluation in self.evaluations.items():
            # The last model's figures share one name in all runs, trained or not: they compare.
            self.recorder.log_metrics(flatten(evaluation, "test" if name == stage else name))
        seconds = {f"seconds/{name}": value for name, value in self.timer.seconds.items()}
        self.recorder.log_metrics(
            {
                "retrieval/temperature": pipeline.temperature,
                **({"label_temperature": pipeline.label_temperature} if labels else {}),
                "retrieval/prior_entropy": mean_entropy(predictions),
                "truncated_prompts": float(truncated),
                **seconds,
            }
        )
        if truncated:
            log.info("%d prompts of the final test had their passages cut to fit", truncated)
        self._write_metrics()
        self._print(stage, predictions, bool(references), bins, covered)
        objective = self.config.task.objective
        outcomes.Outcome(
            objective,
            self._outcome("untrained"),
            self._outcome("trained"),
            validation,
            overrides=tuple(overrides),
            run_id=self.recorder.run_id,
        ).write(self.folder)
        return self.evaluations[stage].estimates[objective].value

    def _write_errors(self, explained: list[dict[str, Any]], errors: dict[str, Any]) -> Bins:
        write_rows(self.folder / "errors.jsonl", explained)
        self.recorder.log_predictions(explained, "errors_by_question")
        self._write_summary("errors", errors)
        bins: Bins = errors["bins"]
        self.recorder.log_metrics({f"errors/{name}": n for name, n in bins.items()})
        return bins

    def _write_summary(self, name: str, content: dict[str, Any]) -> None:
        file = self.folder / f"{name}.json"
        diagnosis.write_json(file, content)
        self.recorder.log_text(file.read_text("utf-8"), file.name)

    def _trace(
        self,
        stage: str,
        pipeline: RagPipeline,
        predictions: Sequence[Prediction],
        bins: Sequence[str],
    ) -> None:
        """Trace as many questions as are wanted, spread evenly over the test; summaries have no
        bins."""
        count = min(self.recorder.traces, len(predictions))
        scores = self.evaluations[stage].scores
        traced = []
        for row in (i * len(predictions) // count for i in range(count)):
            prediction = predictions[row]
            prompts = pipeline.prompts(self.data.test[row], prediction.passage_ids)
            own = {name: column[prediction.id] for name, column in scores.items()}
            notes = {"stage": stage, **({"bin": bins[row]} if bins else {})}
            traced.append(asdict(Traced(prediction, prompts, own, notes)))
        self.recorder.log_traces(traced)

    def _write_metrics(self) -> None:
        """Write all estimates, their intervals, where gold comes from, the sizes of the data
        and the stages' seconds."""

        def numbers(estimate: Estimate) -> dict[str, float | None]:
            return {k: (v if v == v else None) for k, v in asdict(estimate).items()}

        content = {
            **{
                stage: {name: numbers(value) for name, value in evaluation.estimates.items()}
                for stage, evaluation in self.evaluations.items()
            },
            "gold_source": self.data.gold,
            "sizes": self.sizes,
            "seconds": self.timer.seconds,
        }
        text = json.dumps(content, indent=2) + "\n"
        (self.folder / "metrics.json").write_text(text, encoding="utf-8")

    def _print(
        self,
        stage: str,
        predictions: Sequence[Prediction],
        references: bool,
        bins: Bins | None,
        covered: dict[str, Any],
    ) -> None:
        own = {s: e for s, e in self.evaluations.items() if s in ("untrained", "trained")}
        print_summary(own, predictions, GOLD_NOTES[self.data.gold])
        if references:
            print_references(self.evaluations, stage, self.config.task.objective)
        print_errors(bins, covered)
        print(f"\nsaved in {self.folder}")

    def _outcome(self, stage: str) -> outcomes.Score | None:
        if stage not in self.evaluations:
            return None
        estimate = self.evaluations[stage].estimates[self.config.task.objective]
        return outcomes.Score(estimate.value, estimate.low, estimate.high)


def vary(
    config: Run,
    pipeline: RagPipeline,
    questions: Sequence[Question],
    hits: Sequence[Sequence[Hit]],
    predictions: list[Prediction],
) -> list[Prediction]:
    """Predictions with the answers to their questions put again, as the configuration asks."""
    if config.test.samples:
        predictions = add_samples(
            predictions, pipeline, questions, hits, config.test.samples, config.seed
        )
    if config.test.rewordings:
        predictions = add_rewordings(predictions, pipeline, questions)
    return predictions


def flatten(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    """Estimates as metrics of the tracking store: value, and the ends of its interval."""
    flat: dict[str, float] = {}
    for name, estimate in evaluation.estimates.items():
        if estimate.n:
            flat[f"{prefix}/{name}"] = estimate.value
            flat[f"{prefix}/{name}_low"] = estimate.low
            flat[f"{prefix}/{name}_high"] = estimate.high
    return flat


def table_rows(
    predictions: Sequence[Prediction], evaluation: Evaluation, gold: str
) -> list[dict[str, Any]]:
    """One row for each prediction: what was asked, retrieved and answered, and its scores.

    `gold` is where gold passages come from, as in `PreparedData`.
    """
    return [
        {
            **asdict(prediction),
            "gold_source": gold,
            **{name: scores[prediction.id] for name, scores in evaluation.scores.items()},
        }
        for prediction in predictions
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON line for each row."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
