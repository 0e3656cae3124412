"""One run, its stages in order: data, retrieval, the untrained model, training, evaluation."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from omegaconf import DictConfig

from rag_experiments import coverage, diagnosis, memory, processes, reproducibility, sweep
from rag_experiments.config import Run
from rag_experiments.contracts import (
    Example,
    Hit,
    Metric,
    Prediction,
    PreparedData,
    Question,
    Runtime,
    Training,
    UserError,
)
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.metrics.evaluation import Estimate, Evaluation, evaluate_predictions
from rag_experiments.pipeline import RagPipeline, mean_entropy
from rag_experiments.references import metrics_of_answers, predict_references
from rag_experiments.summary import print_errors, print_references, print_summary
from rag_experiments.tracking import Off, Recorder, masked
from rag_experiments.variation import add_rewordings, add_samples, reword_question

log = logging.getLogger(__name__)

CURVES = "curves.jsonl"
"""File of a run's training curves: one line for each step that was logged."""

GOLD_NOTES = {
    "annotated": "",
    "answer_match": "gold passages are not annotated: those that contain an accepted answer "
    "stand in, in every figure of retrieval",
    "none": "no gold passages are known: figures of retrieval are not defined",
}


def run(config: Run, raw: DictConfig, output_dir: Path) -> float:
    """Carry out a run and return its objective on the test questions.

    `raw` is the configuration that `config` was built from; everything that the run leaves is
    written to `output_dir` and to tracking. Raises UserError, before any weights are loaded,
    with all that is wrong with the data.
    """
    transformers.utils.logging.disable_progress_bar()
    job = sweep.current_job()
    own_peak = memory.reset_peak() or job.sweep is None
    device = reproducibility.resolve_device(config.device)
    runtime = Runtime(
        cache_dir=config.cache_dir,
        device=device,
        dtype=reproducibility.resolve_dtype(config.precision, device),
        seed=config.seed,
    )
    if processes.count() > 1 and not config.trainer.trains:
        raise UserError(
            f"trainer: {type(config.trainer).__name__} does not train, and only training is "
            f"shared among processes (WORLD_SIZE is {processes.count()}); start it without torchrun"
        )
    processes.join(device)
    if not processes.is_first():
        logging.getLogger("rag_experiments").setLevel(logging.WARNING)
    output_dir = processes.share(output_dir)
    tracking = config.tracking if processes.is_first() else Off()
    with tracking.start(
        raw, output_dir, name=job.name, sweep=job.sweep, choices=job.choices
    ) as recorder:
        recorder.log_environment(
            {
                **reproducibility.versions(),
                **reproducibility.hardware(),
                "dtype": runtime.dtype,
                "git_commit": reproducibility.git_commit(),
            }
        )
        value = _run(config, raw, output_dir, runtime, recorder, job)
        if own_peak:  # else it might be that of an earlier job in this process
            recorder.log_metrics({"memory/peak_mib": memory.peak()})
        return value


def _run(
    config: Run,
    raw: DictConfig,
    output_dir: Path,
    runtime: Runtime,
    recorder: Recorder,
    job: sweep.Job,
) -> float:
    timer = Timer()
    with timer.stage("data"), processes.first_before_others():
        data = config.data.load(runtime)
        check_data(config, data, runtime)
        sizes = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
        sizes["passages"] = len(data.passages)
        log.info("data: %s", ", ".join(f"{count} {name}" for name, count in sizes.items()))
        recorder.log_data(type(config.data).__name__, fingerprint(data), sizes)
        recorder.tag("gold_source", data.gold)
        notes = "".join(f"{note}\n" for note in (*data.notes, GOLD_NOTES[data.gold]) if note)
        if processes.is_first():
            (output_dir / "notes.txt").write_text(notes, encoding="utf-8")
        recorder.log_text(notes, "notes.txt")

    with timer.stage("retrieval"):
        reproducibility.seed_everything(config.seed)
        searcher = config.retriever.build(data.passages, runtime)
        # Again: vectors that are computed draw numbers, those that are read from a cache do not.
        reproducibility.seed_everything(config.seed)
        model = config.model.load(
            config.task, runtime, encode_queries=config.retriever.uses_query_vectors
        )
        pipeline = RagPipeline(config.task, config.retriever, model, searcher, data.passages)
        validation_hits = pipeline.search(data.validation) if data.validation else None
        test_hits = pipeline.search(data.test) if processes.is_first() else []
        train_hits = None
        if validation_hits is not None:
            pipeline.fit_temperature(data.validation, validation_hits)
        elif data.train:
            if config.retriever.temperature is None:
                train_hits = pipeline.search(data.train)
            pipeline.fit_temperature(data.train, train_hits, name="train")
        else:
            # Only the spread of the scores: nothing is fitted to the test's gold passages.
            blind = [replace(question, passage_ids=()) for question in data.test]
            pipeline.fit_temperature(blind, test_hits, name="test")

    evaluations: dict[str, Evaluation] = {}
    metrics = list(config.metrics.values())

    def evaluate(
        stage: str, predictions: list[Prediction], metrics: Sequence[Metric] = metrics
    ) -> None:
        evaluations[stage] = evaluate_predictions(metrics, predictions, config.seed)
        rows = table_rows(predictions, evaluations[stage], data.gold)
        write_rows(output_dir / f"predictions_{stage}.jsonl", rows)
        recorder.log_predictions(rows, f"predictions_{stage}")

    if processes.is_first():
        with timer.stage("untrained"):
            predictions = pipeline.predict(data.test, test_hits, progress="untrained model, test")
            if config.trainer.trains:  # else this is the final model, evaluated below
                evaluate("untrained", predictions)
            truncated = model.prompts.cut

    if config.trainer.trains:
        with timer.stage("training"):
            hits = (train_hits, validation_hits)
            train(config, data, pipeline, hits, runtime, recorder, output_dir)
    if not processes.is_first():
        return processes.share(None)  # the first does the rest

    if config.trainer.trains:
        with timer.stage("test"):
            if config.trainer.trains_query_encoder:
                test_hits = pipeline.search(data.test)
            before = model.prompts.cut
            predictions = pipeline.predict(data.test, test_hits, progress="trained model, test")
            truncated = model.prompts.cut - before

    elif data.validation:
        # What training would have followed, so that settings without training, above all
        # prompts, are chosen on validation questions too.
        with timer.stage("validation"):
            scores = score(config, pipeline, data.validation, validation_hits)
            recorder.log_metrics({f"validation/{name}": v for name, v in scores.items()})

    with timer.stage("saving"):
        saved = output_dir / "model"
        pipeline.save(saved, masked(raw))  # it is uploaded, and given to others
        recorder.log_folder(saved, "model")

    # After saving: what was trained is safe, whatever becomes of the figures about it.
    final = "trained" if config.trainer.trains else "untrained"
    with timer.stage("evaluation"):
        varied = vary(config, pipeline, data.test, test_hits, predictions)
        evaluate(final, varied)

    labels = config.task.labels
    references: dict[str, list[Prediction]] = {}
    with timer.stage("references"):
        located = coverage.locate_answers(data)
        gold = diagnosis.find_gold(data, located, labels)
        if config.test.references:
            references = predict_references(pipeline, data.test, predictions, gold)
        for condition, found in references.items():
            evaluate(condition, found, metrics_of_answers(metrics))

    with timer.stage("diagnosis"):
        explained = diagnosis.explain(predictions, references, gold, labels)
        errors = diagnosis.summarize(explained, labels)
        covered = coverage.measure_coverage(data, predictions, located, labels)
        write_rows(output_dir / "errors.jsonl", explained)
        for name, content in (("errors", errors), ("coverage", covered)):
            diagnosis.write_json(output_dir / f"{name}.json", content)
            recorder.log_text((output_dir / f"{name}.json").read_text("utf-8"), f"{name}.json")
        recorder.log_predictions(explained, "errors_by_question")
        recorder.log_metrics({f"errors/{name}": n for name, n in errors["bins"].items()})
        recorder.log_metrics(coverage.list_shares(covered))

    for stage, evaluation in evaluations.items():
        # The last model's figures share one name in all runs, trained or not: they compare.
        recorder.log_metrics(flatten(evaluation, "test" if stage == final else stage))
    recorder.log_metrics(
        {
            "retrieval/temperature": pipeline.temperature,
            "retrieval/prior_entropy": mean_entropy(predictions),
            "truncated_prompts": float(truncated),
            **{f"seconds/{stage}": seconds for stage, seconds in timer.seconds.items()},
        }
    )
    if truncated:
        log.info("%d prompts of the final test had their passages cut to fit", truncated)
    write_metrics(output_dir / "metrics.json", evaluations, timer, data.gold, sizes)
    runs_own = {s: e for s, e in evaluations.items() if s in ("untrained", "trained")}
    print_summary(runs_own, predictions, GOLD_NOTES[data.gold])
    if references:
        print_references(evaluations, final, config.task.objective)
    print_errors(errors["bins"], covered)
    print(f"\nsaved in {output_dir}")
    print(f'ask it:  python -m rag_experiments.ask {output_dir} "your question"')
    if recorder.url:
        if recorder.ui_command:
            print(f"look at the run with:  {recorder.ui_command}")
        print(f"  {recorder.url}")
    log.info("time: %s", timer)

    def outcome(stage: str) -> sweep.Score | None:
        if stage not in evaluations:
            return None
        estimate = evaluations[stage].estimates[config.task.objective]
        return sweep.Score(estimate.value, estimate.low, estimate.high)

    sweep.Outcome(
        config.task.objective, outcome("untrained"), outcome("trained"), overrides=job.overrides
    ).write(output_dir)
    return processes.share(evaluations[final].estimates[config.task.objective].value)


def check_data(config: Run, data: PreparedData, runtime: Runtime) -> None:
    """Check what can only be known once the data is read; raise UserError with all of it."""
    problems: list[str] = []
    if not data.test:
        problems.append("data: the test split is empty; a run ends with its test")
    if config.trainer.trains and not data.train:
        problems.append(
            "data: the train split is empty; give training questions, or use trainer=frozen"
        )
    validates = getattr(config.trainer, "eval_strategy", "no") != "no"
    if validates and not data.validation:
        problems.append(
            "data: the validation split is empty, but the best checkpoint is chosen on it; give "
            "validation questions, or trainer.eval_strategy=no"
        )
    problems += [
        f"task.objective: {metric.name!r} is worse the larger it is, but an objective is "
        "maximized; choose another metric"
        for metric in config.metrics.values()
        if metric.name == config.task.objective and not getattr(metric, "greater_is_better", True)
    ]
    questions = (*data.train, *data.validation, *data.test)
    problems += config.task.data_problems(questions)
    problems += [f"retriever.{line}" for line in config.retriever.data_problems(len(data.passages))]
    if not problems:
        if config.test.rewordings:  # they are longer
            questions += tuple(q for own in map(reword_question, data.test) for q in own)
        problems = config.model.question_problems(
            questions,
            config.task,
            config.retriever.top_k,
            runtime,
            encode_queries=config.retriever.uses_query_vectors,
        )
        found = config.retriever.question_problems(questions, runtime)
        problems += [f"retriever.{line}" for line in found]
    if problems:
        raise UserError(problems)


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


def train(
    config: Run,
    data: PreparedData,
    pipeline: RagPipeline,
    hits: tuple[Sequence[Sequence[Hit]] | None, Sequence[Sequence[Hit]] | None],
    runtime: Runtime,
    recorder: Recorder,
    output_dir: Path,
) -> None:
    """Train the pipeline's model in place.

    `hits` are those of the train and the validation split, where they were found before. A
    trainer of the query encoder searches each batch itself, so it is given questions alone, and
    what was found with the untrained encoder is of no use.
    """
    train_hits, validation_hits = hits
    if config.trainer.trains_query_encoder:
        examples, validation_hits = [Example(question) for question in data.train], None
    else:
        if train_hits is None:
            train_hits = pipeline.search(data.train)
        examples = pipeline.read_hits(data.train, train_hits)

    result = config.trainer.fit(
        Training(
            model=pipeline.model,
            examples=examples,
            retrieve=pipeline,
            validate=partial(score, config, pipeline, data.validation, validation_hits)
            if data.validation
            else None,
            objective=config.task.objective,
            log=partial(log_curves, recorder, output_dir / CURVES),
            folder=output_dir / "checkpoints",
            runtime=runtime,
        )
    )
    recorder.log_metrics({"train/steps": float(result.steps)})
    if result.best_score is not None and result.best_step is not None:
        log.info(
            "kept the checkpoint of step %d of %d: validation %s %.3f",
            result.best_step,
            result.steps,
            config.task.objective,
            result.best_score,
        )
        recorder.log_metrics({"train/best_step": float(result.best_step)})


def log_curves(recorder: Recorder, path: Path, values: dict[str, float], step: int) -> None:
    """Record a point of the training curves, and append it to the run's own file of them."""
    recorder.log_metrics(values, step)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")


def score(
    config: Run,
    pipeline: RagPipeline,
    questions: Sequence[Question],
    hits: Sequence[Sequence[Hit]] | None = None,
) -> dict[str, float]:
    """Every metric of the model as it is, on questions whose hits may have been found before."""
    predictions = pipeline.predict(questions, hits, progress="validation")
    scores = {metric.name: metric.aggregate(predictions) for metric in config.metrics.values()}
    return {name: value for name, value in scores.items() if not math.isnan(value)}


class Timer:
    """Seconds that each stage of a run took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        memory.release()  # or the peaks of all stages would add up
        self.seconds[name] = time.perf_counter() - start

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.0f} s ({stages})"


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


def write_metrics(
    path: Path,
    evaluations: dict[str, Evaluation],
    timer: Timer,
    gold: str,
    sizes: dict[str, int],
) -> None:
    """Write all estimates, their intervals, where gold comes from, the sizes of the data and
    the stages' seconds."""

    def numbers(estimate: Estimate) -> dict[str, float | None]:
        return {k: (v if v == v else None) for k, v in asdict(estimate).items()}

    content = {
        **{
            stage: {name: numbers(value) for name, value in evaluation.estimates.items()}
            for stage, evaluation in evaluations.items()
        },
        "gold_source": gold,
        "sizes": sizes,
        "seconds": timer.seconds,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
