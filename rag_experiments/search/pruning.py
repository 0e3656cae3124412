"""A run that tells its search how it goes, and is ended by it where others do better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rag_experiments.contracts import Pruned
from rag_experiments.search import settings
from rag_experiments.sweep import outcomes

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage


class Trial:
    """The trial that the running job is, in its study's storage: the job may run in any process."""

    def __init__(
        self, storage: BaseStorage, study: str, number: int, pruner: BasePruner, objective: str
    ):
        import optuna

        self.storage = storage
        self.study = optuna.load_study(storage=storage, study_name=study, pruner=pruner)
        self.id = storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(study), number
        )
        self.pruner = pruner
        self.objective = objective

    def follow(self, curve: Sequence[Mapping[str, float]]) -> None:
        """Report the validations of a run's curve that were not reported before, each by its
        number in the run: runs with batches of other sizes compare. Raises Pruned where the
        pruner ends the run."""
        name = f"validation/{self.objective}"
        values = [point[name] for point in curve if name in point]
        reported = self.storage.get_trial(self.id).intermediate_values
        for number, value in enumerate(values, start=1):
            if number in reported:
                continue
            self.storage.set_trial_intermediate_value(self.id, number, value)
            if self.pruner.prune(self.study, self.storage.get_trial(self.id)):
                raise Pruned(f"validation {number}: {self.objective} {value:.3f}")


def current_trial(objective: str) -> Trial | None:
    """Return the trial that the running job is; None: it is of no search that prunes.

    `objective` is that of the task, which a search follows that names none.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or not settings.is_search(hydra):
        return None
    search = settings.read(hydra)
    if not search.prunes:
        return None
    return Trial(
        search.open_storage(Path(hydra.sweep.dir)),
        search.study_name or outcomes.sweep_tag(hydra),
        int(hydra.job.num),
        search.build_pruner(),
        search.names[0] if search.names else objective,
    )
