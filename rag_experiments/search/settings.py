"""The settings of `hydra/sweeper=optuna`, checked before a run starts."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from rag_experiments import options
from rag_experiments.contracts import Option, UserError
from rag_experiments.metrics.base import is_greater_better
from rag_experiments.parameters import mask

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

SWEEPER = "rag_experiments.search.sweeper.OptunaSweeper"
"""`_target_` of the sweeper."""

PLACE = "hydra.sweeper"

COUNTS = ("n_trials", "n_jobs")
"""Settings that make no other search of it."""

Direction = Literal["maximize", "minimize"]


class Search(Option):
    """How a search goes."""

    sampler: dict[str, Any]
    """Class (`_target_`) and arguments of what chooses the values."""

    pruner: dict[str, Any]
    """Class (`_target_`) and arguments of what ends runs before their time."""

    objective: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Metrics of the validation questions; null: `task.objective`."""

    direction: Direction | Annotated[tuple[Direction, ...], Field(min_length=1)] | None = None
    """One for each objective; null: as each metric is meant."""

    n_trials: Annotated[int, Field(ge=1)] = 20
    """Runs in all."""

    n_jobs: Annotated[int, Field(ge=1)] = 1
    """Runs that are asked for at a time."""

    study_name: Annotated[str, Field(min_length=1)] | None = None
    """Null: the tag of the sweep."""

    storage: str | None = None
    """Address of a database; null: a file in the sweep's folder."""

    params: dict[str, Any] | None = None
    """What is searched beside the command line."""

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives that are named; none: the task's is meant."""
        return _tuple(self.objective)

    @property
    def prunes(self) -> bool:
        """Whether runs may be ended before their time."""
        return not str(self.pruner.get("_target_")).endswith(".NopPruner")

    def build_sampler(self, number: int) -> BaseSampler:
        """Return what chooses the values of a run. Each draws its own random numbers, so that a
        search that went on chooses what it would have chosen without the interruption."""
        arguments = dict(self.sampler)
        if isinstance(arguments.get("seed"), int):
            arguments["seed"] = Random(f"{arguments['seed']} {number}").getrandbits(32)
        sampler: BaseSampler = _build(arguments, f"{PLACE}.sampler", "optuna.samplers")
        return sampler

    def build_pruner(self) -> BasePruner:
        """Return what ends runs before their time."""
        pruner: BasePruner = _build(self.pruner, f"{PLACE}.pruner", "optuna.pruners")
        return pruner

    def open_storage(self, folder: Path) -> BaseStorage:
        """Return where the study of the sweep in a folder is kept.

        Raises UserError where the database cannot be opened.
        """
        from optuna import logging, storages
        from optuna.storages.journal import JournalFileBackend

        logging.set_verbosity(logging.WARNING)
        if self.storage is None:
            return storages.JournalStorage(JournalFileBackend(str(folder / "study.journal")))
        try:
            return storages.get_storage(self.storage)
        except Exception as error:  # of any database's driver
            raise UserError(
                f"{PLACE}.storage: {mask(self.storage)!r} cannot be opened: "
                f"{mask(options.first_line(error) or repr(error))}"
            ) from error


@dataclass(frozen=True)
class Objective:
    """A metric of the validation questions that is to become large, or small."""

    name: str
    direction: Direction


def is_search(hydra: Any) -> bool:
    """Return whether a composed `hydra` node has this sweeper."""
    return hydra.sweeper.get("_target_") == SWEEPER


def read(hydra: Any) -> Search:
    """Return the settings in a composed `hydra` node; raise UserError with all that is wrong."""
    values = OmegaConf.to_container(hydra.sweeper, resolve=True)
    assert isinstance(values, dict)
    own = {str(name): value for name, value in values.items() if name != "_target_"}
    return options.construct(Search, own, PLACE)


def read_objectives(search: Search, master: DictConfig) -> tuple[Objective, ...]:
    """Return what a search looks for, in the order given; raise UserError with what is wrong.

    `master` is the composed configuration of the sweep.
    """
    metrics = options.build(master.metrics, "metrics", check_paths=False)
    greater = {metric.name: is_greater_better(metric) for metric in metrics.values()}
    names = search.names or (str(master.task.objective),)
    directions: Sequence[Any] = _tuple(search.direction) or [
        "maximize" if greater.get(name, True) else "minimize" for name in names
    ]
    problems = [
        f"{PLACE}.objective: {name!r} is not among the configured metrics"
        f"{options.nearest(name, greater)} (legal here: {', '.join(greater)})"
        for name in names
        if name not in greater
    ]
    if len(set(names)) < len(names):
        problems.append(f"{PLACE}.objective: {', '.join(names)}: each metric once")
    given = ",".join(_tuple(search.direction))
    if search.objective is None and given not in ("", "maximize"):
        problems.append(
            f"{PLACE}.direction: {given} without an objective; name it with {PLACE}.objective=, or "
            f"leave direction out: task.objective ({names[0]}) is maximized"
        )
    elif len(directions) != len(names):
        problems.append(
            f"{PLACE}.direction: {given} for {', '.join(names)}; give one for each objective, or "
            "leave it out"
        )
    if search.prunes and len(names) > 1:
        problems.append(
            f"{PLACE}.pruner: runs are pruned by a single objective, not by {', '.join(names)}; "
            "choose hydra/sweeper/pruner=none"
        )
    if problems:
        raise UserError(problems)
    return tuple(map(Objective, names, directions))


def missing_packages(hydra: DictConfig) -> list[str]:
    """Return in one line which package a search lacks, and what installs it."""
    needed = {"optuna": "hydra/sweeper=optuna"}
    if str(hydra.sweeper.get("sampler", {}).get("_target_", "")).endswith(".CmaEsSampler"):
        needed["cmaes"] = "hydra/sweeper/sampler=cmaes"
    return [
        f"{choice}: its packages are not installed: pip install -e '.[optuna]'"
        for name, choice in needed.items()
        if find_spec(name) is None
    ][:1]


def _build(settings: Mapping[str, Any], key: str, package: str) -> Any:
    """Return the object of a class and its arguments; raise UserError with what is wrong."""
    target = str(settings.get("_target_", ""))
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        legal = [f"{package}.{each}" for each in importlib.import_module(package).__all__]
        raise UserError(
            f"{key}._target_: {target!r} cannot be imported{options.nearest(target, legal)}"
        ) from None
    known = inspect.signature(kind).parameters
    problems = [
        f"{key}.{each}: unknown key{options.nearest(each, known)} (legal here: {', '.join(known)})"
        for each in arguments
        if each not in known
    ]
    if problems:
        raise UserError(problems)
    try:
        return kind(**arguments)
    except Exception as error:
        raise UserError(
            f"{key}: {name} does not take this: {options.first_line(error) or repr(error)}"
        ) from error


def _tuple(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
