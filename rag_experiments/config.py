"""The root of a configuration, and its check before anything heavy is loaded."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field, SkipValidation, field_validator

from rag_experiments import contracts
from rag_experiments.conflicts import find_conflicts
from rag_experiments.contracts import Option, UserError
from rag_experiments.options import BROKEN, Builder, show


class Test(Option):
    """What a run does with the test questions beside answering and scoring them."""

    split: Literal["test", "validation", "train"] = "test"
    """Whose questions the test is made of: `validation` for what a setting is chosen on, `train`
    for what a model makes of the questions that it was trained on."""

    references: bool = True
    """Whether the final model also answers them without passages (`closed_book`) and from the
    gold passages alone (`gold`): two passes more, which tell errors of retrieval from errors of
    reading (`errors.json`)."""

    samples: Annotated[int, Field(ge=0)] = 0
    """Answers that the final model gives to each question beside its own, drawn at temperature 1;
    what the metrics `consistency_samples*` compare. They cost as much time as so many answers."""

    rewordings: bool = False
    """Whether the final model also answers each question in other words that mean the same, with
    passages retrieved anew: up to four, by rules for English; what the metrics
    `consistency_rewordings*` compare."""


class Sweep(Option):
    """How a sweep goes on, and what it does when a job fails."""

    resume: bool = True
    """Whether the same command goes on with its earlier sweep: finished jobs stay, the others are
    done. False: a new sweep in a folder of its own."""

    fail_fast: bool = False
    """Whether no further job starts after one has failed; those that run end."""

    retries: Annotated[int, Field(ge=0)] = 0
    """Times that a failed job is tried again, from its last checkpoint; not where its
    configuration or its data are at fault."""


class Run(Option):
    """One run: a choice from each group, and what all of them share."""

    task: SkipValidation[contracts.Task]
    """What is asked and how an answer is scored."""

    data: SkipValidation[contracts.Data]
    """Questions and passages."""

    model: SkipValidation[contracts.Model]
    """How passages and a generator become an answer."""

    retriever: SkipValidation[contracts.Retriever]
    """How passages are found."""

    trainer: SkipValidation[contracts.Trainer]
    """What is trained, and how."""

    metrics: Annotated[dict[str, SkipValidation[contracts.Metric]], Field(min_length=1)]
    """The metrics that are reported, each under a name of its own."""

    tracking: SkipValidation[contracts.Tracking]
    """Where runs are recorded."""

    test: Test = Test()
    """What is done with the test questions beside scoring them."""

    sweep: Sweep = Sweep()
    """How a sweep goes on, and what it does when a job fails."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    """Of every random choice."""

    device: str = "auto"
    """A torch device; auto: the first GPU, else the CPU."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of matrix products; auto: bfloat16 where the device is fast at it."""

    cache_dir: Path = Path("outputs/cache")
    """Folder for weights and for results that later runs use again."""

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", value):
            raise ValueError(f"{value!r} must be auto, cpu, mps, cuda, cuda:<number> or xpu")
        return value


GROUPS = ("task", "data", "model", "retriever", "trainer", "metrics", "tracking")


def load(config: DictConfig) -> Run:
    """Return the run that a configuration describes; raise UserError with all problems."""
    run, problems = _inspect(config)
    if run is None or problems:
        raise UserError(problems)
    return run


def check(config: DictConfig) -> list[str]:
    """Return every problem of a configuration, one line each; an empty list: it is sound."""
    return _inspect(config)[1]


def _inspect(config: DictConfig) -> tuple[Run | None, list[str]]:
    builder = Builder()
    try:
        groups = {str(name): builder.child(config, name, str(name)) for name in config}
    except RecursionError:
        return None, ["the configuration refers to itself without an end; look at its ${...}"]
    for name in GROUPS:
        if name in groups and groups[name] is not BROKEN:
            problems = _misplaced(name, groups[name])
            builder.problems += problems
            if problems:
                groups[name] = BROKEN
    run = builder.construct(Run, groups, "")
    rooms = {name: built for name, built in groups.items() if built is not BROKEN}
    rooms.setdefault("test", Test())
    if not isinstance(rooms["test"], Test):  # another option, which Run refuses
        del rooms["test"]
    builder.problems += find_conflicts(rooms)
    return (None if run is BROKEN else run), list(dict.fromkeys(builder.problems))


def _misplaced(group: str, built: Any) -> list[str]:
    """Return why what stands in a group is no option of it."""
    if group == "metrics":
        if not isinstance(built, dict):
            return [f"metrics: {show(built)} must be a mapping from names to metrics"]
        found = {f"metrics.{name}": part for name, part in built.items() if part is not BROKEN}
    else:
        found = {group: built}
    wanted = _members(group)
    problems = []
    for key, option in found.items():
        if not isinstance(option, Option):
            problems.append(
                f"{key}: {show(option)} is no option; choose one with {group}=... (see --help) "
                "or give it a _target_"
            )
            continue
        lacking = [name for name in wanted if not hasattr(option, name)]
        if lacking:
            kind = type(option)
            problems.append(
                f"{key}: {kind.__module__}.{kind.__qualname__} is no option of the group {group}; "
                f"it lacks {', '.join(lacking)}"
            )
    return problems


def _members(group: str) -> list[str]:
    """Return the names that the contract of a group demands."""
    contract = getattr(contracts, "Metric" if group == "metrics" else group.capitalize(), None)
    if contract is None:
        return []
    methods = [name for name in vars(contract) if not name.startswith("_")]
    return sorted({*inspect.get_annotations(contract), *methods})
