"""One run, its stages in order: data, retrieval, the untrained model, training, evaluation."""

from __future__ import annotations

import logging
import math
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import transformers
from omegaconf import DictConfig

from rag_experiments.config import Run
from rag_experiments.contracts import (
    Example,
    Hit,
    Prediction,
    PreparedData,
    Pruned,
    Question,
    Runtime,
    Task,
    Trainer,
    Training,
    UserError,
    ranks_alone,
)
from rag_experiments.evaluation.results import Results, write_rows
from rag_experiments.evaluation.retrieval import score_retrieval
from rag_experiments.evaluation.summary import print_place
from rag_experiments.evaluation.variation import reword_question
from rag_experiments.parameters import masked
from rag_experiments.pipeline import RagPipeline
from rag_experiments.runtime import memory, processes, reproducibility
from rag_experiments.runtime.timing import Timer
from rag_experiments.search import pruning
from rag_experiments.serving import make_servable
from rag_experiments.shots import Shots
from rag_experiments.stages import Stages
from rag_experiments.sweep import outcomes, resumption
from rag_experiments.tracking.curves import Curves
from rag_experiments.tracking.none import NoTracking
from rag_experiments.tracking.recorder import Recorder

log = logging.getLogger(__name__)

CURVES = "curves.jsonl"
"""File of a run's training curves."""

TRAINING_QUESTIONS = "training_questions.jsonl"
"""File of the questions that a run was trained on. It stays in the run's folder."""


def run(config: Run, raw: DictConfig, output_dir: Path) -> float:
    """Carry out a run and return its objective on the test questions; raise Pruned where its
    search ends it before its time.

    `raw` is the configuration that `config` was built from; everything that the run leaves is
    written to `output_dir` and to tracking. Raises UserError, before any weights are loaded,
    with all that is wrong with the data.
    """
    transformers.utils.logging.disable_progress_bar()
    job = outcomes.current_job()
    own_peak = memory.reset_peak() or job.sweep is None
    runtime = reproducibility.resolve_runtime(
        config.cache_dir, config.device, config.precision, config.seed
    )
    if processes.count() > 1 and not config.trainer.trains:
        raise UserError(
            f"trainer: {type(config.trainer).__name__} does not train, and only training is "
            f"shared among processes (WORLD_SIZE is {processes.count()}); start it without torchrun"
        )
    processes.join(runtime.device)
    if not processes.is_first():
        logging.getLogger("rag_experiments").setLevel(logging.WARNING)
    output_dir = processes.share(output_dir)
    tracking = config.tracking if processes.is_first() else NoTracking()
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
        try:
            value = _run(config, raw, output_dir, runtime, recorder, job)
        except Pruned as reason:
            outcomes.Outcome(
                config.task.objective,
                pruned=str(reason),
                overrides=job.overrides,
                run_id=recorder.run_id,
            ).write(output_dir)
            raise
        if own_peak:  # else it might be that of an earlier job in this process
            recorder.log_metrics({"memory/peak_mib": memory.peak()})
        return value


def _run(
    config: Run,
    raw: DictConfig,
    output_dir: Path,
    runtime: Runtime,
    recorder: Recorder,
    job: outcomes.Job,
) -> float:
    timer = Timer()
    stages = Stages(config, runtime)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        # A stage that is computed draws numbers, one that is read from the store does not.
        reproducibility.seed_everything(config.seed)
        with timer.stage(name):
            yield

    with stage("data"), processes.first_before_others():
        data = load_data(stages)
        shots = Shots.gather(config.task, data, config.seed)
        check_data(config, data, runtime, shots)
        results = Results(config, data, output_dir, recorder, timer)
        results.describe_data(write=processes.is_first())

    with stage("retrieval"):
        searcher = config.retriever.build(data.passages, runtime)
        reproducibility.seed_everything(config.seed)  # again: adapters begin with random numbers
        model = config.model.load(
            config.task, runtime, encode_queries=config.retriever.uses_query_vectors
        )
        pipeline = RagPipeline(
            config.task, config.retriever, model, searcher, data.passages, shots=shots
        )
        search = partial(stages.search, pipeline)
        validation_hits = search(data.validation) if data.validation else None
        test_hits = search(data.test) if processes.is_first() else []
        train_hits = None
        if validation_hits is not None:
            pipeline.fit_temperature(data.validation, validation_hits)
        elif data.train:
            if config.retriever.temperature is None:
                train_hits = search(data.train)
            pipeline.fit_temperature(data.train, train_hits, name="train")
        else:
            # Only the spread of the scores: nothing is fitted to the test's gold passages.
            blind = [replace(question, passage_ids=()) for question in data.test]
            pipeline.fit_temperature(blind, test_hits, name="test")

    fits_labels = bool(config.task.labels) and config.task.temperature is None
    if fits_labels and not data.validation:
        log.info("temperature of label scores: 1, for want of validation questions")
        fits_labels = False
    if processes.is_first():
        with stage("untrained"):
            if fits_labels and config.trainer.trains:  # else they are answered below
                assert validation_hits is not None
                answers = stages.answer(
                    pipeline, data.validation, validation_hits, "untrained model, validation"
                )
                pipeline.fit_label_temperature(answers)
            before = model.prompts.cut
            predictions = stages.answer(
                pipeline, data.test, test_hits, progress="untrained model, test"
            )
            truncated = model.prompts.cut - before
            if config.trainer.trains:  # else this is the final model, evaluated below
                results.score("untrained", predictions)

    validation: Mapping[str, float] = {}
    if config.trainer.trains:
        with stage("training"):
            if train_hits is None and not changes_retrieval(config.trainer):
                train_hits = search(data.train)
            hits = (train_hits, validation_hits)
            validation = train(stages, data, pipeline, hits, recorder, output_dir)
    if not processes.is_first():
        return processes.share(None)  # the first does the rest

    if config.trainer.trains:
        with stage("test"):
            if changes_retrieval(config.trainer):
                test_hits, validation_hits = pipeline.search(data.test), None
            if fits_labels:  # anew: what was trained is surer, or less sure
                answers = pipeline.predict(data.validation, validation_hits, "validation")
                pipeline.fit_label_temperature(answers)
            before = model.prompts.cut
            predictions = pipeline.predict(data.test, test_hits, progress="trained model, test")
            truncated = model.prompts.cut - before

    elif data.validation:
        # What training would have followed, so that settings without training, above all
        # prompts, are chosen on validation questions too.
        with stage("validation"):
            assert validation_hits is not None
            answers = stages.answer(
                pipeline, data.validation, validation_hits, progress="validation"
            )
            validation = score(config, pipeline.fit_label_temperature(answers))
            predictions = pipeline.score_labels(predictions)
            recorder.log_metrics({f"validation/{name}": v for name, v in validation.items()})

    with stage("saving"):
        saved = output_dir / "model"
        shutil.rmtree(saved, ignore_errors=True)  # of a run that was cut short
        pipeline.save(saved, masked(raw), config.cache_dir)  # it is uploaded, and given to others
        if config.task.records == "questions":
            make_servable(saved)
        recorder.log_model(saved, "model")

    # After saving: what was trained is safe, whatever becomes of the figures about it.
    final = "trained" if config.trainer.trains else "untrained"
    objective = results.conclude(
        final, pipeline, test_hits, predictions, truncated, job.overrides, validation
    )
    if config.task.records == "questions":
        run_folder, bundle = (shlex.quote(str(path)) for path in (output_dir, saved))
        print(f'ask it:  python -m rag_experiments.ask {run_folder} "your question"')
        print(f"serve it:  mlflow models serve --env-manager local -m {bundle}")
    print_place(recorder)
    log.info("time: %s", timer)
    if job.sweep is not None:
        model.release()  # for the next job
    return processes.share(objective)


def load_data(stages: Stages) -> PreparedData:
    """Read the data of a run; its test questions are those of the split that it tests on."""
    data = stages.load_data()
    return replace(data, test=getattr(data, stages.config.test.split))


def check_data(
    config: Run,
    data: PreparedData,
    runtime: Runtime,
    shots: Shots | None = None,
    *,
    training: bool = True,
) -> None:
    """Check what can only be known once the data is read; raise UserError with all of it.

    `shots` are the training questions that prompts show. Without `training`, what is asked of
    the test questions alone.
    """
    problems = training_problems(config, data) if training else []
    if not data.test:
        problems.append(f"data: the {config.test.split} split is empty; a run ends with its test")
    questions = (*data.train, *data.validation, *data.test) if training else data.test
    problems += find_foreign_records(config.task, questions) or [
        _locate(line, data) for line in config.task.data_problems(questions)
    ]
    problems += [f"retriever.{line}" for line in config.retriever.data_problems(len(data.passages))]
    problems += shots.problems() if shots is not None else []
    if not problems:
        if config.test.rewordings:  # they are longer
            questions += tuple(q for own in map(reword_question, data.test) for q in own)
        problems = config.model.question_problems(
            questions if shots is None else shots.add(questions),
            config.task,
            config.retriever.top_k,
            runtime,
            encode_queries=config.retriever.uses_query_vectors,
            passages=data.passages if config.task.records == "documents" else None,
        )
        found = config.retriever.question_problems(questions, runtime)
        problems += [f"retriever.{line}" for line in found]
    if problems:
        raise UserError(problems)


def _locate(line: str, data: PreparedData) -> str:
    """Return what a task says of answers, behind the file and line of the first of them."""
    if not line.startswith("answers: "):
        return line
    first = (place for name, place in data.places.items() if f"(first: {name!r})" in line)
    return ":".join([*islice(first, 1), line])


def find_foreign_records(task: Task, questions: Sequence[Question]) -> list[str]:
    """Say where a task of questions was given documents, or the other way round."""
    kinds = {True: "documents with summaries", False: "questions with answers"}
    wanted = task.records == "documents"
    others = [question.id for question in questions if bool(question.document) != wanted]
    if not others:
        return []
    return [
        f"task: {task.name} is for {kinds[wanted]}, but {len(others)} of {len(questions)} records "
        f"of the data (first: {others[0]!r}) are {kinds[not wanted]}; choose "
        f"{'task=question_answering' if wanted else 'task=summarization'}, or other data"
    ]


def training_problems(config: Run, data: PreparedData) -> list[str]:
    """Return what a training lacks in the data, one line each."""
    problems = []
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
    more = getattr(config.trainer, "data_problems", None)
    return problems + (more(data) if more is not None else [])


def train(
    stages: Stages,
    data: PreparedData,
    pipeline: RagPipeline,
    hits: tuple[Sequence[Sequence[Hit]] | None, Sequence[Sequence[Hit]] | None],
    recorder: Recorder,
    output_dir: Path,
) -> Mapping[str, float]:
    """Train the pipeline's model in place; return its scores on the validation questions.

    `hits` are those of the train and the validation split, where they were found before. A
    trainer of what searches or rescores searches by itself, so it is given questions alone; what
    was found with the untrained one is where the curve of validation begins.
    """
    config = stages.config
    if processes.is_first():
        rows = [asdict(question) for question in data.train]
        write_rows(output_dir / TRAINING_QUESTIONS, rows)
    train_hits, validation_hits = hits
    trainer: Any = config.trainer
    by_ranks = ranks_alone(trainer.trains)
    objective = trainer.objective if by_ranks else config.task.objective
    untrained = {}
    if by_ranks and validation_hits is not None:
        untrained = score_retrieval(data.validation, validation_hits)
    if changes_retrieval(trainer):
        questions = pipeline.add_shots(data.train)
        examples, validation_hits = [Example(question) for question in questions], None
    else:
        assert train_hits is not None
        examples = pipeline.read_hits(data.train, train_hits)

    def validate() -> dict[str, float]:
        if by_ranks:
            return score_retrieval(data.validation, pipeline.search(data.validation))
        answers = pipeline.predict(data.validation, validation_hits, progress="validation")
        return score(config, pipeline.fit_label_temperature(answers))

    curves = Curves(recorder, output_dir / CURVES)
    trial = pruning.current_trial(config.task.objective)
    if untrained and processes.is_first() and not curves.points():
        curves.log({f"validation/{name}": value for name, value in untrained.items()}, 0)

    def log_point(values: dict[str, float], step: int) -> None:
        curves.log(values, step)
        if trial is not None and any(name.startswith("validation/") for name in values):
            trial.follow([point for point in curves.points() if point["step"]])

    result = trainer.fit(
        Training(
            model=pipeline.model,
            examples=examples,
            retrieve=pipeline,
            validate=validate if data.validation else None,
            objective=objective,
            weigh=partial(stages.weigh, pipeline.model),
            log=log_point,
            folder=output_dir / resumption.CHECKPOINTS,
            runtime=stages.runtime,
        )
    )
    curves.go_on()  # the training may have ended before an interruption
    recorder.log_metrics({"train/steps": float(result.steps)})
    if result.best_score is not None and result.best_step is not None:
        log.info(
            "kept the checkpoint of step %d of %d: validation %s %.3f",
            result.best_step,
            result.steps,
            objective,
            result.best_score,
        )
        recorder.log_metrics({"train/best_step": float(result.best_step)})
        if result.best_score < untrained.get(objective, -math.inf):
            log.warning(
                "validation %s was %.3f before training, so that it has made the ranking worse; "
                "a smaller trainer.learning_rate or more training questions may do better, and "
                "trainer=frozen leaves it as it was",
                objective,
                untrained[objective],
            )
    if by_ranks:  # p(z|x) took no part, and its scores are others now
        named = "validation" if data.validation else "train"
        pipeline.fit_temperature(getattr(data, named), name=named)
    return result.scores


def changes_retrieval(trainer: Trainer) -> bool:
    """Whether questions find other passages, or other scores, after training."""
    return bool(trainer.trains - {"generator"})


def score(config: Run, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Every metric that is defined for predictions."""
    scores = {metric.name: metric.aggregate(predictions) for metric in config.metrics.values()}
    return {name: value for name, value in scores.items() if not math.isnan(value)}
