"""What is wrong with a search, found before a run starts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from rag_experiments.config import Run
from rag_experiments.contracts import UserError, ranks_alone
from rag_experiments.evaluation.retrieval import METRICS
from rag_experiments.runtime import processes
from rag_experiments.search import settings, space
from rag_experiments.search.settings import PLACE, Search

RANKS = tuple(metric.name for metric in METRICS)
"""What a training of the retriever alone is validated by."""

_SUBFOLDER = "${hydra.job.num}"


def read_space(
    master: DictConfig, loader: ConfigLoader, groups: Iterable[str] = ()
) -> tuple[space.Space, list[str]]:
    """Return what the search of a composed configuration searches, and what is wrong with it."""
    written: Any = OmegaConf.to_container(master.hydra, resolve=False)
    params, task = written["sweeper"].get("params"), written["overrides"]["task"]
    return space.read(params, task, loader, groups)


def check(
    master: DictConfig, loader: ConfigLoader, groups: Iterable[str], sweeps: bool
) -> list[str]:
    """Return what is wrong with the search of a composed configuration, one line each; nothing
    where its sweeper is another one.

    `groups` are all groups of options; `sweeps` says whether the command line is a sweep.
    """
    if not settings.is_search(master.hydra):
        return []
    if not sweeps:
        return ["hydra/sweeper=optuna: a search is a sweep: add -m"]
    if missing := settings.missing_packages(master.hydra):
        return missing
    problems = []
    if processes.count() > 1:
        problems.append(
            "hydra/sweeper=optuna: several processes of one run (WORLD_SIZE is "
            f"{processes.count()}) cannot share a search; start it without torchrun"
        )
    if master.hydra.sweep._get_node("subdir")._value() != _SUBFOLDER:
        problems.append("hydra.sweep.subdir: a search numbers its runs; leave it as it is")
    searched, found = read_space(master, loader, groups)
    problems += found
    if not searched.searched and not found:
        problems.append(
            "hydra/sweeper=optuna: nothing is searched; give values or an interval, e.g. "
            "'trainer.learning_rate=tag(log, interval(1e-4, 1e-2))' retriever.top_k=1,2,3"
        )
    try:
        search = settings.read(master.hydra)
        _rehearse(search, searched, master)
    except UserError as error:
        problems += error.problems
    return problems


def _rehearse(search: Search, searched: space.Space, master: DictConfig) -> None:
    """Ask for values as the search will; raise UserError where its parts do not fit."""
    import optuna

    problems: list[str] = []
    for build in (lambda: search.build_sampler(0), search.build_pruner):
        try:
            build()
        except UserError as error:
            problems += error.problems
    try:
        objectives = settings.read_objectives(search, master)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Any] = [each.direction for each in objectives]
    study = optuna.create_study(sampler=search.build_sampler(0), directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            study.ask(searched.distributions())
        except Exception as error:  # whatever a sampler raises
            reason = " ".join(str(error).split())
            raise UserError(f"{PLACE}.sampler: cannot sample this search: {reason}") from error


def shorten(lines: Sequence[str], searched: space.Space) -> list[str]:
    """Return problems of the runs that a search may have, those of the numbers of an interval once
    for each reason."""
    found: dict[str, str] = {}
    for line in lines:
        reason = line
        for name, part in searched.searched.items():
            refused = re.fullmatch(rf"{re.escape(name)}: (\S+) (.*?)( \[.*\])?", line)
            if isinstance(part, space.Numbers) and refused and refused[1] in part.examples:
                reason, line = f"{name}: {refused[2]}", f"{name}: {refused[1]} {refused[2]}"
                if "valid integer" in line:
                    line += "; whole numbers are written int(interval(...))"
        found.setdefault(reason, line)
    return list(found.values())


def check_runs(master: DictConfig, runs: Sequence[Run]) -> list[str]:
    """Return why runs, each sound by itself, are no search."""
    search = settings.read(master.hydra)
    problems = []
    objectives = list(dict.fromkeys(run.task.objective for run in runs))
    if not search.names and len(objectives) > 1:
        problems.append(
            f"task.objective: {' and '.join(objectives)} cannot be compared; name one for all runs "
            f"with {PLACE}.objective="
        )
    ranking = {type(r.trainer).__name__ for r in runs if ranks_alone(r.trainer.trains)}
    strangers = [name for name in search.names or objectives if name not in RANKS]
    if ranking and strangers:
        origin = "" if search.names else " (task.objective)"
        names = ", ".join(sorted(ranking))
        others = ", ".join(name for name in RANKS if name != "mrr")
        problems.append(
            f"{PLACE}.objective: {', '.join(strangers)}{origin}, but trainer {names} answers no "
            "validation question and is validated by how it ranks gold passages; set "
            f"{PLACE}.objective=mrr (or {others})"
        )
    blind = [r for r in runs if r.trainer.trains and not _validates(r)]
    if blind:
        problems.append(
            "trainer.eval_strategy: 'no', but a search goes by the validation questions; set "
            "trainer.eval_strategy=epoch"
        )
    elif search.prunes and not any(map(_validates, runs)):
        problems.append(
            f"{PLACE}.pruner: nothing is validated on the way where nothing is trained; choose "
            "hydra/sweeper/pruner=none"
        )
    return problems


def _validates(run: Run) -> bool:
    """Whether a run answers the validation questions while it trains."""
    return bool(run.trainer.trains) and getattr(run.trainer, "eval_strategy", "no") != "no"
