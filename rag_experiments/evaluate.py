"""Evaluate a saved run on other questions: python -m rag_experiments.evaluate RUN data=..."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from rag_experiments import bundle, config
from rag_experiments.composition.composer import Composer
from rag_experiments.composition.overrides import read_key, shorten
from rag_experiments.contracts import UserError
from rag_experiments.data.passages import read_rows
from rag_experiments.runtime import disk
from rag_experiments.sweep import outcomes
from rag_experiments.sweep.command import PARENT, Command, read_command, write_command

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.contracts import PreparedData, Question

log = logging.getLogger("rag_experiments")

OPEN = ("data", "metrics", "test", "tracking", "device", "precision", "cache_dir")
"""Keys that can be given anew: the others are what the saved run is."""

KEPT = ("task", "model", "retriever", "trainer", "seed")
"""Keys that are taken from the saved run as they are."""


@dataclass(frozen=True)
class Parent:
    """A run whose saved model is evaluated."""

    folder: Path
    command: Command
    run_id: str
    """In MLflow; empty: it was not recorded there."""

    @classmethod
    def read(cls, folder: Path) -> Parent:
        """Read what a finished run left; raise UserError where that is not a run."""
        needed = (".hydra/config.yaml", ".hydra/hydra.yaml", "metrics.json", "model/pipeline.json")
        missing = [name for name in needed if not (folder / name).is_file()]
        if missing:
            raise bundle.no_run(folder, "finished run", missing)
        made = read_command(folder, "copy the whole folder of the run")
        outcome = outcomes.Outcome.read(folder)
        return cls(folder.resolve(), made, "" if outcome is None else outcome.run_id)

    def compose(self, overrides: Sequence[str]) -> list[str]:
        """Return the command line of an evaluation: the run's own, with new values in it."""
        new = [read_key(line) for line in overrides]
        kept = [
            line
            for line in self.command.overrides
            if not any(
                read_key(line) == key or read_key(line).startswith((f"{key}.", f"{key}/"))
                for key in new
            )
        ]
        place = "outputs/evaluations/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}"
        return [*kept, *overrides, "hydra.mode=RUN", f"hydra.run.dir={place}"]

    def training_questions(self) -> tuple[Question, ...]:
        """Return the questions that the run was trained on; none where it does not train."""
        from rag_experiments.contracts import Question
        from rag_experiments.experiment import TRAINING_QUESTIONS

        file = self.folder / TRAINING_QUESTIONS
        if not file.is_file():
            raise UserError(
                f"{file}: missing, so that it is not known what the run was trained on; copy the "
                "whole folder of the run"
            )
        found = []
        with disk.reading(file, "copy it again"), file.open(encoding="utf-8") as lines:
            for line in lines:
                row: dict[str, Any] = json.loads(line)
                lists = {n: tuple(row.get(n, ())) for n in ("answers", "passage_ids", "shots")}
                found.append(Question(**{**row, **lists}))
        return tuple(found)


def main() -> None:
    """Evaluate the model of a saved run on another data set or split, as a run of its own.

    OVERRIDE is as for a run: data=folder data.path=my_data, test.split=validation,
    metrics=[f1,rouge], test.samples=4. What the model is cannot be changed.
    """
    description, _, epilog = (main.__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.evaluate", description=description, epilog=epilog
    )
    parser.add_argument("run", type=Path, help="folder of a run, as it printed it")
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="what is other than there")
    arguments = parser.parse_args()
    try:
        parent = Parent.read(arguments.run)
        composer = Composer(parent.command.config_dir)
        refused = refusals(arguments.overrides)
        # What is refused would only make other parts of the run not fit.
        allowed = [line for line in arguments.overrides if line not in refused]
        problems = list(refused.values())
        try:
            plan = composer.plan(parent.compose(allowed))
        except UserError as error:
            raise UserError([*problems, *error.problems]) from error
        if problems:
            raise UserError(problems)
        for note in composer.notes:
            print(note, file=sys.stderr)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        composer.run(partial(job, parent), plan)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        GlobalHydra.instance().clear()


def refusals(overrides: Sequence[str]) -> dict[str, str]:
    """Return the overrides that would change what the saved run is, and of each a line on it."""
    said = f"a saved run stays what it is; legal here: {', '.join(OPEN)}"
    return {
        line: f"{shorten(line, [line])}: {said}"
        for line in overrides
        if read_key(line).partition(".")[0].partition("/")[0] not in (*OPEN, "hydra")
    }


def job(parent: Parent, raw: DictConfig) -> None:
    """Evaluate, as Hydra calls it; end the process where that fails."""
    current = outcomes.current_job()
    try:
        for key in KEPT:
            raw[key] = parent.command.raw[key]
        write_command(current.output_dir, raw)
        evaluate(parent, raw, current)
    except UserError as error:
        outcomes.failed(error, current.overrides).write(current.output_dir)
        log.error("%s", error)
        sys.exit(2)
    except Exception as error:
        outcomes.failed(error, current.overrides).write(current.output_dir)
        log.exception("The evaluation failed")
        sys.exit(1)


def evaluate(parent: Parent, raw: DictConfig, current: outcomes.Job) -> float:
    """Answer and score the test questions of a configuration with a saved model.

    The index is built anew for the passages of the data. Questions of the run's own training take
    the place of the train split, so that what is said of leakage is about them. Returns the
    objective.
    """
    import transformers

    from rag_experiments.evaluation.diagnosis import write_json
    from rag_experiments.evaluation.results import Results
    from rag_experiments.evaluation.summary import print_place
    from rag_experiments.experiment import check_data, load_data
    from rag_experiments.pipeline import RagPipeline
    from rag_experiments.runtime import reproducibility
    from rag_experiments.runtime.timing import Timer
    from rag_experiments.shots import Shots
    from rag_experiments.stages import Stages

    transformers.utils.logging.disable_progress_bar()
    settings = config.load(raw)
    runtime = reproducibility.resolve_runtime(
        settings.cache_dir, settings.device, settings.precision, settings.seed
    )
    timer = Timer()
    name = f"evaluation: {current.name}"
    with settings.tracking.start(
        raw, current.output_dir, name=name, sweep=None, choices=current.choices
    ) as recorder:
        recorder.log_environment({**reproducibility.versions(), **reproducibility.hardware()})
        facts = {"parent_run_id": parent.run_id, "parent_folder": str(parent.folder)}
        write_json(current.output_dir / PARENT, facts)
        for key, value in facts.items():
            recorder.tag(key, value)
        with timer.stage("data"):
            trains = settings.trainer.trains
            trained_on = parent.training_questions() if trains else ()
            data = load_data(Stages(settings, runtime))
            data = replace(data, train=_with_same_passages(trained_on, parent, data))
            shots = Shots.load(bundle.locate(parent.folder), settings.task)
            check_data(settings, data, runtime, shots, training=False)
            results = Results(settings, data, current.output_dir, recorder, timer)
            results.describe_data()
        with timer.stage("retrieval"):
            reproducibility.seed_everything(settings.seed)
            pipeline = RagPipeline.load(
                parent.folder,
                device=settings.device,
                precision=settings.precision,
                cache_dir=settings.cache_dir,
                passages=data.passages,
                shots=shots,
            )
            hits = pipeline.search(data.test)
        with timer.stage("test"):
            predictions = pipeline.predict(data.test, hits, progress="saved model, test")
            cut = pipeline.model.prompts.cut
        stage = "trained" if trains else "untrained"
        objective = results.conclude(stage, pipeline, hits, predictions, cut, current.overrides, {})
        print(
            "compare it with the run:  python -m rag_experiments.report "
            f"{shlex.quote(str(parent.folder))} {shlex.quote(str(current.output_dir))}"
        )
        print_place(recorder)
        return objective


def _with_same_passages(
    questions: Sequence[Question], parent: Parent, data: PreparedData
) -> tuple[Question, ...]:
    """Training questions with those of their gold passages that are the same in other data.

    An id alone says little: another data set may use it for another text.
    """
    from datasets import Dataset

    old = Dataset.from_parquet(str(parent.folder / "model" / "passages.parquet"))
    named = {passage_id for question in questions for passage_id in question.passage_ids}
    texts = [_texts(passages, named) for passages in (old, data.passages)]
    same = {key for key in named if key in texts[1] and texts[0].get(key) == texts[1][key]}
    return tuple(
        replace(question, passage_ids=tuple(i for i in question.passage_ids if i in same))
        for question in questions
    )


def _texts(passages: Dataset, ids: set[str]) -> dict[str, str]:
    pairs = read_rows(passages, "id", "text")
    return {passage_id: text for passage_id, text in pairs if passage_id in ids}


if __name__ == "__main__":
    main()
