"""The study of a search: which runs it asks for, and what it is told of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_experiments.contracts import UserError
from rag_experiments.runtime import disk
from rag_experiments.search.settings import PLACE, Objective, Search
from rag_experiments.search.space import Space
from rag_experiments.sweep import outcomes, resumption

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

_SWEEP = "sweep"
"""Attribute of a study: the tag of its sweep."""


@dataclass(frozen=True)
class Trial:
    """A run that a study has asked for."""

    number: int
    """Of the trial in its study, and of the job in its sweep."""

    overrides: tuple[str, ...]
    folder: Path


class Study:
    """The study of the sweep in a folder, gone on with where it is there already.

    Nothing is kept but in the storage and in the folders of the runs, so that a process may die
    at any moment. Raises UserError where the study cannot be this sweep's.
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        objectives: Sequence[Objective],
        folder: Path,
        tag: str,
    ):
        import optuna

        self.search = search
        self.space = space
        self.objectives = tuple(objectives)
        self.folder = folder
        journal = folder / "study.journal"
        if search.storage is None:
            _mend(journal)
        name = search.study_name or tag
        directions: list[Any] = [objective.direction for objective in objectives]
        anew = "sweep.resume=false starts a new search"
        with disk.reading(journal, anew) if search.storage is None else nullcontext():
            self.study = optuna.create_study(
                storage=search.open_storage(folder),
                sampler=search.build_sampler(0),
                study_name=name,
                directions=directions,
                load_if_exists=True,
            )
        if self.study.user_attrs.get(_SWEEP, tag) != tag:
            raise UserError(
                f"{PLACE}.study_name: {name!r} is the study of the sweep "
                f"{self.study.user_attrs[_SWEEP]}; choose another name, or another storage"
            )
        self.study.set_user_attr(_SWEEP, tag)
        self.study.set_user_attr("objectives", [objective.name for objective in objectives])

    def next(self) -> list[Trial]:
        """Return what to run next: what was begun and did not end, else new trials, as many as
        are wanted at a time; nothing where all trials are done."""
        return self._unfinished() or [self._ask() for _ in range(self._count_wanted())]

    def _unfinished(self) -> list[Trial]:
        from optuna.trial import TrialState

        found = []
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(frozen.params) != set(self.space.searched):
                self.fail(frozen.number, "it was cut short before its values were chosen")
                continue
            trial = self._trial(frozen)
            died = outcomes.Outcome.read(trial.folder) is None
            if died and resumption.chances(trial.folder) >= outcomes.DEATHS:
                self.fail(trial.number, outcomes.SILENCE)
                continue
            found.append(trial)
        return found

    def _count_wanted(self) -> int:
        done = [t for t in self.study.get_trials(deepcopy=False) if t.params]
        return max(0, min(self.search.n_jobs, self.search.n_trials - len(done)))

    def _ask(self) -> Trial:
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = self.search.build_sampler(number)
        asked = self.study.ask(self.space.distributions())
        return self._trial(self.study.trials[asked.number])

    def _trial(self, frozen: FrozenTrial) -> Trial:
        overrides = self.space.overrides(frozen.params)
        return Trial(frozen.number, tuple(overrides), self.folder / str(frozen.number))

    def tell(self, trial: Trial) -> bool:
        """Say how a run ended, by what it left in its folder; False: it left nothing."""
        from optuna.trial import TrialState

        outcome = outcomes.Outcome.read(trial.folder)
        if outcome is None:
            return False
        if outcome.problems:
            self.fail(trial.number, "; ".join(outcome.problems))
            return True
        if outcome.pruned:
            self.study.tell(trial.number, state=TrialState.PRUNED)
            log.info("run %d: pruned: %s", trial.number, outcome.pruned)
            return True
        names = [objective.name for objective in self.objectives]
        missing = [name for name in names if name not in outcome.validation]
        if missing:
            problem = f"{', '.join(missing)}: not defined for any validation question"
            self.fail(trial.number, problem)
            return True
        self.study.tell(trial.number, [outcome.validation[name] for name in names])
        log.info("run %d: %s", trial.number, self.describe(trial.number))
        return True

    def fail(self, number: int, problem: str) -> None:
        """Note that a trial failed, and say why."""
        from optuna.trial import TrialState

        self.study.tell(number, state=TrialState.FAIL)
        log.warning("run %d failed: %s", number, problem)

    def describe(self, number: int) -> str:
        """Return what a finished trial scored."""
        values = self.study.trials[number].values
        scores = zip(self.objectives, values, strict=True)
        return "validation " + ", ".join(f"{each.name} {value:.3f}" for each, value in scores)

    def best(self) -> list[Trial]:
        """Return the best trial, or of several objectives those that no other is better than in
        one without being worse in another (the Pareto set); none where none has its scores."""
        from optuna.trial import TrialState

        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return []
        several = len(self.objectives) > 1
        found = self.study.best_trials if several else [self.study.best_trial]
        return [self._trial(each) for each in found]

    def count(self) -> dict[str, int]:
        """Return how many trials ended in which way."""
        from optuna.trial import TrialState

        names = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        names["failed"] = TrialState.FAIL
        states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
        return {name: states.count(state) for name, state in names.items()}


def _mend(journal: Path) -> None:
    """Cut off what a kill left of a line: nothing could be read after it."""
    if journal.is_file():
        whole = journal.read_bytes().rfind(b"\n") + 1
        with journal.open("r+b") as file:
            file.truncate(whole)
