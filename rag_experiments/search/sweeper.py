"""Hydra's sweeper that asks Optuna for the runs of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rag_experiments.contracts import UserError
from rag_experiments.search import best, settings, space
from rag_experiments.search.study import Study, Trial
from rag_experiments.sweep import outcomes, resumption

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Launches the trials of a study until it has as many as it is to have."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what a sweep needs, as Hydra gives it."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> str:
        """Run the search that overrides describe, or what is left of it; write what was best, and
        return it as text."""
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        search = settings.read(self.config.hydra)
        loader = self.hydra_context.config_loader
        searched, _ = space.read(search.params, arguments, loader)
        objectives = settings.read_objectives(search, self.config)
        study = Study(search, searched, objectives, folder, outcomes.sweep_tag(self.config.hydra))
        while resumption.stopped(folder) is None and (trials := study.next()):
            self._run(study, trials)
        return best.conclude(study, loader, self.config)

    def _run(self, study: Study, trials: Sequence[Trial]) -> None:
        sound = [trial for trial in trials if self._composes(trial)]
        for trial in trials:
            if trial not in sound:
                study.tell(trial)
        for _, group in groupby(enumerate(sound), lambda each: each[1].number - each[0]):
            self._launch(study, [trial for _, trial in group])

    def _composes(self, trial: Trial) -> bool:
        """Whether a run can be composed; if not, leave an outcome that says why: a launcher would
        end with it."""
        try:
            self.validate_batch_is_legal([trial.overrides])
        except (HydraException, OmegaConfBaseException) as error:
            refused = UserError(" ".join(str(error).split()))
            trial.folder.mkdir(exist_ok=True)
            outcomes.failed(refused, trial.overrides).write(trial.folder)
            return False
        return True

    def _launch(self, study: Study, trials: Sequence[Trial]) -> None:
        """Launch trials with numbers in a row, and tell how each ended.

        A launcher that fails when some have begun, as where the process of one is killed, does
        not end the search: what did not end is launched again.
        """
        before = [resumption.begun(trial.folder) for trial in trials]
        failure: Exception | None = None
        try:
            self.launcher.launch([trial.overrides for trial in trials], trials[0].number)
        except Exception as error:
            failure = error
        begun = [
            resumption.begun(trial.folder) != earlier
            for trial, earlier in zip(trials, before, strict=True)
        ]
        if failure is not None:
            if not any(begun):
                raise failure
            reason = " ".join(str(failure).split())
            log.warning("the launcher failed: %s: %s", type(failure).__name__, reason)
        waits = failure is not None or resumption.stopped(study.folder) is not None
        for trial, started in zip(trials, begun, strict=True):
            if not study.tell(trial) and not started and not waits:
                study.fail(trial.number, "it was not started; see the log")


def run(hydra: Hydra, config_name: str, task: TaskFunction, overrides: Sequence[str]) -> str:
    """Run a sweep as `hydra.multirun` does, which makes no sweeper from outside `hydra_plugins`."""
    config = hydra.compose_config(config_name, list(overrides), run_mode=RunMode.MULTIRUN)
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=config_name)
    sweeper = OptunaSweeper()
    context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
    sweeper.setup(hydra_context=context, task_function=task, config=config)
    arguments = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(arguments, list)
    found = sweeper.sweep(list(map(str, arguments)))
    callbacks.on_multirun_end(config=config, config_name=config_name)
    return found
